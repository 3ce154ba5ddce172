// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_KICKER_HPP
#define KVM_HPP_KICKER_HPP

#include <kvm/detail/kernel_header.hpp>
#if !KVM_HPP_REFUSED

#include <kvm/detail/run_control.hpp>

#include <memory>
#include <utility>

KVM_HPP_BEGIN

namespace detail {
class VcpuCore;
}

/// Stops a vCPU from any thread: makes its run() return exits::Interrupted.
/// Made by Vcpu::kicker. Copyable; safe to use when the vCPU, its thread or
/// its VM are gone (then it does nothing), in a forked child (nothing either)
/// and in a signal handler, the running thread's own included.
///
/// Kicks coalesce: any number of them before the next Interrupted make one.
/// None is lost: a run() that is under way returns, and one that is not begun
/// yet returns at once. A run() that returns another exit, and complete(), leave
/// the kick to the next run(). A signal that a kicker sends is delivered before
/// run() returns, never later. What the kicking thread wrote before kick() is
/// visible to the runner once it sees Interrupted.
class [[nodiscard]] Kicker {
 public:
  /// Requests that run() return.
  ///
  /// With a signal (see Vcpu::kicker) this ends a guest that is running.
  /// Without one it only stops the next entry into the guest: a vCPU that is
  /// in the guest stays there until its next exit, however long that takes.
  ///
  /// Costs about 15 us where the vCPU is running on another CPU (membarrier),
  /// next to nothing where a kick is pending already.
  void kick() const noexcept {
    if (control_) {
      control_->kick(signal_);
    }
  }

  /// The signal that it sends, or 0 for a kicker that only stops the next
  /// entry.
  int signal() const noexcept { return signal_; }

 private:
  friend class detail::VcpuCore;

  Kicker(std::shared_ptr<detail::RunControl> control, int signal) noexcept
      : control_(std::move(control)), signal_(signal) {}

  std::shared_ptr<detail::RunControl> control_;
  int signal_;
};

KVM_HPP_END

#endif  // !KVM_HPP_REFUSED
#endif
