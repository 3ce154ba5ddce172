// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_DETAIL_RUN_CONTROL_HPP
#define KVM_HPP_DETAIL_RUN_CONTROL_HPP

#include <kvm/detail/backoff.hpp>
#include <kvm/detail/barriers.hpp>
#include <kvm/detail/process.hpp>
#include <kvm/detail/syscalls.hpp>
#include <kvm/detail/thread_token.hpp>
#include <kvm/detail/vcpu_pages.hpp>
#include <kvm/error.hpp>
#include <kvm/uapi/run.hpp>

#include <atomic>
#include <cstdint>
#include <utility>

/// @file
/// What a vCPU shares with its kickers, and how they stop it.
///
/// The runner must pay next to nothing, so the two sides meet without a fence
/// in the runner:
///
///     runner                          kicker
///     in_run = 1                      state: add the request and one kick in
///     KVM_RUN                           flight (if not requested already)
///     in_run = 0                      immediate_exit = 1
///     state != 0: wait for kicks      membarrier
///       in flight                     in_run != 0: signal the thread
///     Interrupted: immediate_exit     state: one kick in flight less
///       = 0, take the requests
///
/// Whichever point of the runner the membarrier hits, one of these holds:
///   - in_run was set before it: the kicker sees it and signals;
///   - in_run is set after it: KVM_RUN sees immediate_exit;
///   - in_run was cleared after it: the runner sees the kick in flight and
///     waits until the signal is sent. So none is sent once run() has returned,
///     and the thread may end.
///
/// Requests and kicks in flight are one word, and requests are only taken while
/// no kick is in flight. So immediate_exit is set exactly while a request is
/// there: no kick is lost, and none is seen twice.

KVM_HPP_BEGIN
namespace detail {

class RunControl {
 public:
  explicit RunControl(VcpuPages pages) noexcept
      : pages_(std::move(pages)), size_(static_cast<std::uint32_t>(pages_.size())) {}

  uapi::kvm_run* run() const noexcept { return reinterpret_cast<uapi::kvm_run*>(pages_.data()); }
  /// Bytes mapped, a few pages.
  std::uint32_t size() const noexcept { return size_; }

  // The runner's side.

  /// Whether a thread is in KVM_RUN, as far as this one can see.
  bool in_run() const noexcept { return in_run_.load(std::memory_order_acquire) != 0; }

  void enter() noexcept {
    in_run_.store(1, std::memory_order_release);
    std::atomic_signal_fence(std::memory_order_seq_cst);
  }
  void leave() noexcept {
    if (leave_unsettled() != 0) [[unlikely]] {
      settle();
    }
  }
  /// @return not 0 if settle() must follow
  std::uint32_t leave_unsettled() noexcept {
    in_run_.store(0, std::memory_order_release);
    std::atomic_signal_fence(std::memory_order_seq_cst);
    return state_.load(std::memory_order_acquire);
  }
  /// After KVM_RUN, with a kick about: waits until its signal is sent, and has
  /// it delivered.
  [[gnu::noinline, gnu::cold]] void settle() noexcept {
    const int saved_errno = errno;  // KVM_RUN's is not read yet.
    if (idle_ != 0) {
      full_fence();
    }
    if ((await_kicks() & signal_requested) != 0) {
      // The interrupt that delivers a signal to a running thread may still be
      // on its way; returning from any system call delivers it.
      sys::getpid();
    }
    errno = saved_errno;
  }
  void bind_thread() noexcept { thread_.store(sys::gettid(), std::memory_order_relaxed); }

  /// Takes what was requested, after KVM_RUN was interrupted. Bounded: kicks
  /// do not take off while what they want is requested already.
  /// @return whether anything was
  bool take_requests() noexcept {
    for (;;) {
      std::uint32_t state = await_kicks();
      set_immediate_exit(0);
      // Fails where a kick came since: its immediate_exit may be the one that
      // was just cleared, or one that was not.
      if (state_.compare_exchange_strong(state, state & ~requests, std::memory_order_acq_rel)) {
        return (state & requests) != 0;
      }
    }
  }

  /// Undoes an immediate_exit that was set for a completion, unless a kick
  /// wants it to stay. The read-modify-write orders the two.
  void restore_immediate_exit() noexcept {
    set_immediate_exit(0);
    if ((state_.fetch_or(0, std::memory_order_acq_rel) & requests) != 0) {
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
      if (!register_membarrier()) {
        idle_ = one_kick;  // Never 0 again: leave() always settles, with a fence.
        state_.fetch_add(one_kick, std::memory_order_seq_cst);
      }
    }
    ::sigaddset(&signals_, signal);
  }

  /// Waits for kicks in flight and unmaps the run page. Kickers may go on
  /// kicking: they find it closed.
  void close() noexcept {
    state_.fetch_or(closed, std::memory_order_acq_rel);
    await_kicks();
    if (in_run()) {
      misused("a vCPU was dropped while a thread was in its run(): kick it and join first");
    }
    pages_ = VcpuPages();
  }

  // The kicker's side.

  /// @param signal 0 for none
  void kick(int signal) noexcept {
    const std::uint32_t wanted = signal == 0 ? stop_requested : stop_requested | signal_requested;
    std::uint32_t state = state_.load(std::memory_order_relaxed);
    if ((state & wanted) != wanted && this_process() != owner_) {
      return;  // The vCPU belongs to the process that we were forked from.
    }
    std::uint32_t next;
    do {
      if ((state & closed) != 0) {
        return;
      }
      // A kick that does the same may be under way; the exchange is made even
      // so: the runner who takes that request sees what we wrote before ours.
      next = (state & wanted) == wanted ? state : (state | wanted) + one_kick;
    } while (!state_.compare_exchange_weak(state, next, std::memory_order_seq_cst,
                                           std::memory_order_relaxed));
    if (next == state) {
      return;
    }
    set_immediate_exit(1);
    std::uint32_t done = one_kick;
    if (signal != 0) {
      const int saved_errno = errno;  // A kick may come from a signal handler.
      if (!send(signal)) {
        done += signal_requested;  // So that the next kick tries again.
      }
      errno = saved_errno;
    }
    state_.fetch_sub(done, std::memory_order_release);
  }

 private:
  // The bits of state_; above them is the number of kicks in flight.
  static constexpr std::uint32_t stop_requested = 1;
  static constexpr std::uint32_t signal_requested = 2;
  static constexpr std::uint32_t requests = stop_requested | signal_requested;
  static constexpr std::uint32_t closed = 4;
  static constexpr std::uint32_t one_kick = 8;

  /// @return false if the signal was refused, with the runner still in KVM_RUN
  bool send(int signal) noexcept {
    order_runner();
    // A full queue of real-time signals (EAGAIN) may drain: try again, but not
    // for ever, since it is shared by all of a user's processes.
    constexpr long half_a_second = 500'000'000;
    Backoff backoff;
    while (backoff.slept() < half_a_second && in_run_.load(std::memory_order_acquire) != 0) {
      const pid_t thread = thread_.load(std::memory_order_relaxed);
      if (sys::tgkill(process_, thread, signal) == 0 || errno != EAGAIN) {
        return true;
      }
      if (sys::gettid() == thread) {
        return true;  // We are its signal handler: it is not in the guest, and won't enter.
      }
      backoff.sleep();
    }
    return !in_run();
  }

  /// Orders the runner's stores and loads, wherever it is.
  void order_runner() noexcept {
    if (idle_ == 0) {
      heavy_fence();
    } else {  // The runner fences, too.
      full_fence();
    }
  }

  /// @return the state once no kick was in flight
  std::uint32_t await_kicks() noexcept {
    unsigned spins = 0;
    Backoff backoff;  // Rather than yields: the kicker may have a lower priority.
    for (;;) {
      const std::uint32_t state = state_.load(std::memory_order_acquire);
      if (state < idle_ + one_kick) {
        return state;
      }
      if (++spins < 200) {
        relax();
        continue;
      }
      if (this_process() != owner_) {
        return state;  // Its kicker was not forked with us.
      }
      backoff.sleep();
    }
  }

  static void relax() noexcept {
#if KVM_HPP_ARCH_X86
    asm volatile("pause" ::: "memory");
#elif KVM_HPP_ARCH_ARM64
    asm volatile("yield" ::: "memory");
#else
    asm volatile("" ::: "memory");
#endif
  }

  VcpuPages pages_;
  std::uint32_t size_;
  ProcessToken owner_ = this_process();
  pid_t process_ = sys::getpid();
  std::atomic<std::uint32_t> in_run_{0};
  std::atomic<std::uint32_t> state_{0};
  std::atomic<pid_t> thread_{0};
  std::uint32_t idle_ = 0;  // the kicks in flight that state_ shows when there are none
  bool has_signals_ = false;
  ::sigset_t signals_{};
};

}  // namespace detail
KVM_HPP_END

#endif
