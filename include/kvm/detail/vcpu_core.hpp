// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_DETAIL_VCPU_CORE_HPP
#define KVM_HPP_DETAIL_VCPU_CORE_HPP

#include <kvm/detail/capability_handle.hpp>
#include <kvm/detail/run_control.hpp>
#include <kvm/detail/vm_handle.hpp>
#include <kvm/exit.hpp>
#include <kvm/fd.hpp>
#include <kvm/kicker.hpp>
#include <kvm/types.hpp>

#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <utility>

KVM_HPP_BEGIN
namespace detail {

/// What a vCPU is on every architecture: running, stopping, and the rules for
/// touching its state in between.
class VcpuCore : public CapabilityHandle<uapi::Scope::vcpu> {
 public:
  /// Its number within the VM.
  VcpuId id() const noexcept { return id_; }

  /// Enters the guest and returns when it needs the VMM (KVM_RUN). Nothing is
  /// thrown and nothing allocated, whatever happens: a failure is an exit too.
  /// What the previous exit was answered takes effect first.
  ///
  /// Takes about as long as the raw ioctl. May be called from any thread, one
  /// at a time; other ioctls on this vCPU block until it returns (R14).
  [[gnu::always_inline]] Exit run() & noexcept {
    if (bound_thread_ != thread_token) [[unlikely]] {
      if (const auto problem = prepare(); problem != Exit::Problem::none) {
        return Exit(problem);
      }
    }
    RunControl& control = *control_;
    control.enter();
    const int result = sys::ioctl(fd(), uapi::request::run.code, 0);
    if ((control.leave_unsettled() | static_cast<std::uint32_t>(result)) != 0) [[unlikely]] {
      return accept_slowly(result);
    }
    return accept_exit(control);
  }

  Exit run() && = delete;  // Give the vCPU a name: the exit is in its run page, and goes with it.

  /// Finishes what the last exit left pending, without entering the guest: the
  /// answer to a port read, for instance, goes into the guest's register. Until
  /// then the vCPU's state is neither to be changed nor to be saved.
  ///
  /// Finishing one access may take another exit (the second half of one that
  /// crosses a page, R29): serve it and call again.
  ///
  ///     while (auto more = vcpu.complete()) { serve(*more); }
  ///
  /// @return nothing when nothing is pending any more; otherwise an exit to
  ///         serve, or exits::Failed, after which the loop must end. A kick is
  ///         not consumed.
  std::optional<Exit> complete() & noexcept {
    if (!completion_pending()) {
      return control_ ? std::nullopt : std::optional(Exit(Exit::Problem::empty));
    }
    if (foreign()) {  // A fork's child has no run page.
      return failed(EIO);
    }
    if (bound_thread_ != thread_token) [[unlikely]] {
      if (const auto problem = prepare(); problem != Exit::Problem::none) {
        return Exit(problem);
      }
    }
    control_->enter();
    control_->set_immediate_exit(1);
    const int result = sys::ioctl(fd(), uapi::request::run.code, 0);
    const int error_number = errno;
    control_->leave();
    control_->restore_immediate_exit();
    if (result == 0) {
      return accept_exit(*control_);
    }
    if (error_number == EINTR || error_number == EAGAIN) {
      last_exit_ = no_exit;
      return std::nullopt;
    }
    return failed(error_number);
  }
  std::optional<Exit> complete() && = delete;  // Give the vCPU a name, as for run().

  /// Whether the last exit waits for run() or complete() to take its answer
  /// (R27). Setting state is refused meanwhile.
  bool completion_pending() const noexcept { return completes_on_entry(last_exit_); }

  /// Makes a kicker that stops run() from any thread.
  ///
  /// A guest that is running is only stopped by a signal. The program installs
  /// a handler for it (an empty one does), or blocks it in the vCPU's thread
  /// and lets it in while in the guest with set_signal_mask(); run() reports
  /// exits::Failed if it is neither. Every kicker of a process may use the same.
  /// This registers the process for membarrier(PRIVATE_EXPEDITED).
  ///
  /// @param signal such as SIGUSR1. A real-time signal can be refused, if the
  ///               user's queue of them stays full (RLIMIT_SIGPENDING): such a
  ///               kick stops the next entry only.
  /// Call it from the thread that runs the vCPU, or before it runs.
  Result<Kicker> try_kicker(int signal) {
    if (!control_) {
      return failure("Vcpu::kicker", EBADF);
    }
    if (signal <= 0 || signal > SIGRTMAX || signal == SIGKILL || signal == SIGSTOP ||
        (signal >= 32 && signal < SIGRTMIN)) {  // The C library's own.
      return make_error(EINVAL, "Vcpu::kicker", text("signal=", signal),
                        "this is not a signal that a handler can be installed for");
    }
    control_->add_signal(signal);
    unbind();  // The next run() looks at the signal.
    return Kicker(control_, signal);
  }
  Kicker kicker(int signal) { return try_kicker(signal).value(); }

  /// Makes a kicker without a signal: it stops the next entry only, and leaves
  /// a guest that is running alone until its next exit.
  Result<Kicker> try_entry_kicker() {
    if (!control_) {
      return failure("Vcpu::entry_kicker", EBADF);
    }
    return Kicker(control_, 0);
  }
  Kicker entry_kicker() { return try_entry_kicker().value(); }

  /// The signals blocked while in the guest (KVM_SET_SIGNAL_MASK), instead of
  /// those of the thread. One that ends the run stays pending if the thread
  /// blocks it: the kickers' own are taken by run(), others are the caller's to
  /// take (R36).
  Result<void> try_set_signal_mask(const ::sigset_t& blocked) {
    struct {
      uapi::kvm_signal_mask header;
      std::uint8_t bits[8];  // The kernel's set, not the C library's.
    } mask{};
    static_assert(offsetof(decltype(mask), bits) == sizeof(mask.header));
    mask.header.len = sizeof mask.bits;
    std::memcpy(mask.bits, &blocked, sizeof mask.bits);
    if (call(uapi::request::set_signal_mask, &mask) < 0) {
      return failure(uapi::request::set_signal_mask.name, errno);
    }
    signal_mask_ = blocked;
    unbind();
    return {};
  }
  void set_signal_mask(const ::sigset_t& blocked) { try_set_signal_mask(blocked).value(); }

  /// Back to the thread's own mask.
  Result<void> try_clear_signal_mask() {
    auto result = try_call(uapi::request::set_signal_mask, nullptr);
    if (result) {
      signal_mask_.reset();
      unbind();
    }
    return result;
  }
  void clear_signal_mask() { try_clear_signal_mask().value(); }

  /// The run page and what follows it in the vCPU's mapping: the port data, the
  /// coalesced ring. The escape for what the library does not wrap: never write
  /// exit_reason or the exit's own fields between an exit and the next entry
  /// (R28). Empty after a move.
  std::span<std::byte> run_mapping() const noexcept {
    return control_ ? std::span(reinterpret_cast<std::byte*>(control_->run()), control_->size())
                    : std::span<std::byte>();
  }
  /// The same as a struct; null after a move.
  uapi::kvm_run* run_page() const noexcept { return control_ ? control_->run() : nullptr; }

 protected:
  VcpuCore(std::shared_ptr<VmHandle> vm, Fd fd, std::shared_ptr<RunControl> control,
           VcpuId id) noexcept
      : CapabilityHandle(fd.get()),
        vm_(std::move(vm)),
        owned_(std::move(fd)),
        control_(std::move(control)),
        id_(id) {}
  VcpuCore(VcpuCore&& other) noexcept
      : CapabilityHandle(static_cast<CapabilityHandle&&>(other)),
        vm_(std::move(other.vm_)),
        owned_(std::move(other.owned_)),
        control_(std::move(other.control_)),
        signal_mask_(other.signal_mask_),
        last_exit_(std::exchange(other.last_exit_, no_exit)),
        id_(other.id_) {
    other.unbind();  // So that running it finds it empty.
  }
  VcpuCore& operator=(VcpuCore&& other) noexcept {
    if (this != &other) {
      close();
      CapabilityHandle::operator=(static_cast<CapabilityHandle&&>(other));
      owned_ = std::move(other.owned_);  // Before the state, which may hold its memory.
      vm_ = std::move(other.vm_);
      control_ = std::move(other.control_);
      signal_mask_ = other.signal_mask_;
      unbind();
      other.unbind();
      last_exit_ = std::exchange(other.last_exit_, no_exit);
      id_ = other.id_;
    }
    return *this;
  }
  ~VcpuCore() { close(); }

  /// The VM, whose VmState it is a part of; null after a move.
  const std::shared_ptr<VmHandle>& vm() const noexcept { return vm_; }

  /// Sets a part of the vCPU's state; refused while a completion is pending,
  /// which would be lost or overwrite it (R30).
  template <class T, uapi::Scopes R>
  Result<void> try_set(uapi::Request<R> request, const T& value,
                       std::string_view cause = {}) const {
    if (completion_pending()) [[unlikely]] {
      return pending_failure(request.name);
    }
    if (call(request, &value) < 0) [[unlikely]] {
      return failure(request.name, errno, {}, cause);
    }
    return {};
  }
  template <class T, uapi::Scopes R>
  void set(uapi::Request<R> request, const T& value, std::string_view cause = {}) const {
    if (completion_pending()) [[unlikely]] {
      raise(pending_failure(request.name));
    }
    if (call(request, &value) < 0) [[unlikely]] {
      raise(failure(request.name, errno, {}, cause));
    }
  }

  /// Hands over what the run page holds for the next entry, on the architecture
  /// that has such a thing.
  Result<void> flush_synced() const { return {}; }

  Error pending_failure(const char* operation) const {
    return make_error(EBUSY, operation, {},
                      "the last exit is not completed: answer it and call complete() first, or "
                      "what the guest read is lost");
  }

 private:
  static constexpr std::uint64_t unbound = ~std::uint64_t{0};
  static constexpr std::uint32_t no_exit = ~std::uint32_t{0};

  /// What a run needs besides KVM_RUN. In the usual case, where membarrier
  /// serves the kickers, that is something in the first run in a thread only.
  [[gnu::noinline, gnu::cold]] Exit::Problem prepare() noexcept {
    if (control_ && control_->in_run() && !foreign()) {
      return Exit::Problem::busy;
    }
    if (checked_thread_ != thread_token || thread_token == 0) {
      if (const auto problem = bind(); problem != Exit::Problem::none) {
        return problem;
      }
    }
    if (control_->asymmetric()) {
      bound_thread_ = thread_token;
    } else {  // Every run comes here, to fence.
      control_->enter();
      full_fence();
    }
    return Exit::Problem::none;
  }

  /// The first run in a thread: looks whether kicks can reach it.
  Exit::Problem bind() noexcept {
    unbind();
    if (!control_) {
      return Exit::Problem::empty;
    }
    ::sigemptyset(&taken_signals_);
    takes_signals_ = false;
    if (control_->has_signals()) {
      if (const auto problem = check_signals(); problem != Exit::Problem::none) {
        return problem;
      }
    }
    checked_thread_ = this_thread();
    control_->bind_thread();
    return Exit::Problem::none;
  }
  void unbind() noexcept { bound_thread_ = checked_thread_ = unbound; }

  Exit::Problem check_signals() noexcept {
    ::sigset_t blocked;
    if (sys::get_signal_mask(&blocked) != 0) {
      return Exit::Problem::blocked;
    }
    for (int signal = 1; signal <= SIGRTMAX; ++signal) {
      if (::sigismember(&control_->signals(), signal) != 1) {
        continue;
      }
      if (signal_mask_ && ::sigismember(&*signal_mask_, signal) == 1) {
        return Exit::Problem::masked;
      }
      if (::sigismember(&blocked, signal) == 1) {
        if (!signal_mask_) {
          return Exit::Problem::blocked;
        }
        ::sigaddset(&taken_signals_, signal);  // It stays pending: run() takes it.
        takes_signals_ = true;
        continue;
      }
      struct ::sigaction action {};
      if (sys::get_signal_action(signal, &action) != 0 || action.sa_handler == SIG_DFL) {
        return Exit::Problem::unhandled;
      }
      if (action.sa_handler == SIG_IGN) {
        return Exit::Problem::ignored;
      }
    }
    return Exit::Problem::none;
  }

  Exit accept_exit(const RunControl& control) noexcept {
    uapi::kvm_run* const run = control.run();
    last_exit_ = run->exit_reason;
    return Exit(run, last_exit_, control.size());
  }

  /// After a run that failed, or with a kick about.
  [[gnu::noinline, gnu::cold]] Exit accept_slowly(int result) noexcept {
    const int error_number = errno;
    control_->settle();
    if (result == 0) {
      return accept_exit(*control_);
    }
    if (error_number == EINTR || error_number == EAGAIN) {
      return interrupted();
    }
    return failed(error_number);
  }

  Exit interrupted() noexcept {
    last_exit_ = no_exit;
    while (takes_signals_ && sys::take_signal(&taken_signals_) > 0) {
    }
    const bool kicked = control_->take_requests();
    return Exit(control_->run(), Exit::interrupted | (kicked ? 1u : 0u), control_->size());
  }

  Exit failed(int error_number) noexcept {
    if (error_number == EIO) {  // A fork's child has no run page.
      return Exit(nullptr, Exit::failed | EIO, 0);
    }
    if (error_number == EFAULT || error_number == EHWPOISON) {
      last_exit_ = no_exit;  // The guest ran, so what was pending is completed.
    }
    return Exit::decode_failure(*control_->run(), control_->size(), error_number);
  }

  /// Ends what kickers can do, then unmaps. In a forked child there are no
  /// kickers in flight, and nothing is mapped.
  void close() noexcept {
    if (control_ && !foreign()) {
      control_->close();
    }
    control_.reset();
  }

  std::shared_ptr<VmHandle> vm_;
  Fd owned_;
  std::shared_ptr<RunControl> control_;
  std::optional<::sigset_t> signal_mask_;
  ::sigset_t taken_signals_{};
  std::uint64_t bound_thread_ = unbound;    // whose runs need no preparation
  std::uint64_t checked_thread_ = unbound;  // whose runs need a fence at most
  std::uint32_t last_exit_ = no_exit;
  VcpuId id_;
  bool takes_signals_ = false;
};

}  // namespace detail
KVM_HPP_END

#endif
