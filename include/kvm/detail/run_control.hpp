// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_DETAIL_RUN_CONTROL_HPP
#define KVM_HPP_DETAIL_RUN_CONTROL_HPP

#include <kvm/detail/syscalls.hpp>
#include <kvm/memory/mapping.hpp>
#include <kvm/uapi/run.hpp>

#include <atomic>
#include <cstdint>
#include <utility>

/// @file
/// What a vCPU shares with its kickers, and how they stop it.
///
/// The runner must pay next to nothing, so the two sides meet without a fence
/// in the runner. It stores in_run before KVM_RUN, clears it afterwards and
/// looks at signalling; the kicker raises signalling, sets immediate_exit,
/// issues membarrier, and only then looks at in_run. Whichever point of the
/// runner the membarrier hits, one of these holds:
///   - in_run was set before it: the kicker sees it and signals;
///   - in_run is set after it: KVM_RUN sees immediate_exit;
///   - in_run was cleared after it: the runner sees signalling and waits until
///     the signal is sent. So no signal is sent once run() has returned, and
///     the thread may end.

KVM_HPP_BEGIN
namespace detail {

/// Tells living threads apart at the price of a load; 0 until first used.
/// (A thread id would cost a system call, an address is reused.)
inline constinit thread_local std::uint64_t thread_token = 0;
inline std::atomic<std::uint64_t> last_thread_token{0};

/// Orders a store before a later load by the kernel. Not atomic_thread_fence,
/// which thread sanitizer does not know.
inline void full_fence() noexcept {
#if KVM_HPP_ARCH_X86
  asm volatile("mfence" ::: "memory");
#elif KVM_HPP_ARCH_ARM64
  asm volatile("dmb ish" ::: "memory");
#else
  asm volatile("fence rw, rw" ::: "memory");
#endif
}

class RunControl {
 public:
  explicit RunControl(Mapping page) noexcept : page_(std::move(page)) {}

  static constexpr std::uint32_t stop_requested = 1;
  static constexpr std::uint32_t signal_requested = 2;

  uapi::kvm_run* run() const noexcept { return reinterpret_cast<uapi::kvm_run*>(page_.data()); }
  std::size_t size() const noexcept { return page_.size(); }

  // The runner's side.

  void enter() noexcept { in_run_.store(1, std::memory_order_release); }
  void leave() noexcept {
    in_run_.store(0, std::memory_order_release);
    std::atomic_signal_fence(std::memory_order_seq_cst);
    if (signalling_.load(std::memory_order_acquire) != 0) [[unlikely]] {
      await_signallers();
    }
  }
  void bind_thread() noexcept { thread_.store(sys::gettid(), std::memory_order_relaxed); }

  /// Takes what was requested, after KVM_RUN was interrupted. Clearing
  /// immediate_exit comes first: a kick that comes later sets it again.
  std::uint32_t take_requests() noexcept {
    set_immediate_exit(0);
    return requests_.exchange(0, std::memory_order_acq_rel);
  }

  /// Undoes an immediate_exit that was set for a completion, unless a kick
  /// wants it to stay. The read-modify-write orders the two.
  void restore_immediate_exit() noexcept {
    set_immediate_exit(0);
    if (requests_.fetch_or(0, std::memory_order_acq_rel) != 0) {
      set_immediate_exit(1);
    }
  }
  void set_immediate_exit(std::uint8_t value) noexcept {
    __atomic_store_n(&run()->immediate_exit, value, __ATOMIC_RELAXED);
  }

  /// Whether membarrier pairs with this control; if not, run() fences.
  bool asymmetric() const noexcept { return idle_ == 0; }

  /// The signals that kickers send.
  const ::sigset_t& signals() const noexcept { return signals_; }
  bool has_signals() const noexcept { return has_signals_; }

  /// Adds a signal to those that kickers send. Not while the vCPU runs.
  void add_signal(int signal) noexcept {
    if (!has_signals_) {
      ::sigemptyset(&signals_);
      has_signals_ = true;
      constexpr int register_private_expedited = 1 << 4;
      if (sys::membarrier(register_private_expedited) != 0) {
        idle_ = 1;
        signalling_.fetch_add(1);
      }
    }
    ::sigaddset(&signals_, signal);
  }

  /// Waits for kicks in flight and unmaps the run page. Kickers may go on
  /// kicking: they find it closed.
  void close() noexcept {
    alive_.store(false, std::memory_order_seq_cst);
    while (signalling_.load(std::memory_order_seq_cst) > idle_) {
      pause();
    }
    page_ = Mapping();
  }

  // The kicker's side.

  /// @param signal 0 for none
  void kick(int signal) noexcept {
    const std::uint32_t wanted = signal == 0 ? stop_requested : stop_requested | signal_requested;
    if ((requests_.fetch_or(wanted, std::memory_order_acq_rel) & wanted) == wanted) {
      return;  // A kick that does the same is under way.
    }
    if (sys::getpid() != page_owner_) {
      return;  // The vCPU belongs to the process that we were forked from.
    }
    signalling_.fetch_add(1, std::memory_order_seq_cst);
    if (alive_.load(std::memory_order_seq_cst)) {
      set_immediate_exit(1);
      if (signal != 0) {
        send(signal);
      }
    }
    signalling_.fetch_sub(1, std::memory_order_release);
  }

 private:
  void send(int signal) noexcept {
    constexpr int private_expedited = 1 << 3;
    if (idle_ != 0 || sys::membarrier(private_expedited) != 0) {
      full_fence();
    }
    // A full queue of real-time signals (EAGAIN) drains: try again.
    while (in_run_.load(std::memory_order_acquire) != 0 &&
           sys::tgkill(page_owner_, thread_.load(std::memory_order_relaxed), signal) != 0 &&
           errno == EAGAIN) {
      pause();
    }
  }

  void await_signallers() noexcept {
    if (idle_ != 0) {
      full_fence();
    }
    while (signalling_.load(std::memory_order_acquire) > idle_) {
      pause();
    }
  }

  /// Sleeps rather than yields: the other side may have a lower priority.
  static void pause() noexcept { sys::sleep_nanoseconds(1000); }

  Mapping page_;
  pid_t page_owner_ = sys::getpid();
  std::atomic<std::uint32_t> in_run_{0};
  std::atomic<std::uint32_t> signalling_{0};
  std::atomic<std::uint32_t> requests_{0};
  std::atomic<pid_t> thread_{0};
  std::atomic<bool> alive_{true};
  std::uint32_t idle_ = 0;  // what signalling is with no kick in flight
  bool has_signals_ = false;
  ::sigset_t signals_{};
};

}  // namespace detail
KVM_HPP_END

#endif
