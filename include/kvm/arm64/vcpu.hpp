// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_ARM64_VCPU_HPP
#define KVM_HPP_ARM64_VCPU_HPP

#include <kvm/detail/kernel_header.hpp>
#if !KVM_HPP_REFUSED && KVM_HPP_ARCH_ARM64

#include <kvm/arm64/registers.hpp>
#include <kvm/detail/vcpu_core.hpp>
#include <kvm/uapi/constants.hpp>

#include <cerrno>
#include <cstdint>

KVM_HPP_BEGIN
namespace arm64 {

/// What a vCPU has on this architecture only. Its registers are reached through
/// Vcpu::get_one_reg and set_one_reg, by the ids in arm64::reg.
template <class = void>
class VcpuCalls : public detail::VcpuCore {
 public:
  /// Gives the vCPU its kind of processor and its features, and resets it
  /// (KVM_ARM_VCPU_INIT): before anything else is done with it. Calling it again
  /// resets it; kind and features must then be the same.
  /// @param init from Vm::preferred_target(), with bits of
  ///             uapi::arm_vcpu_feature added to `features`
  Result<void> try_init(const uapi::kvm_vcpu_init& init) {
    constexpr auto request = uapi::request::arm_vcpu_init;
    if (completion_pending()) {
      return pending_failure(request.name);
    }
    if (call(request, &init) < 0) {
      const int error_number = errno;
      return failure(request.name, error_number,
                     detail::text("target=", std::uint32_t{init.target},
                                  ", features=", detail::Hex{init.features[0]}),
                     error_number == ENOENT   ? "this host lacks one of the features"
                     : error_number == EINVAL ? "the target is not this host's, the features "
                                                "exclude each other, or they differ from those "
                                                "that the VM's vCPUs have already"
                                              : "");
    }
    return {};
  }
  void init(const uapi::kvm_vcpu_init& init) { try_init(init).value(); }

  /// Ends the set-up of a feature, after which the vCPU can run
  /// (KVM_ARM_VCPU_FINALIZE): SVE, once its vector lengths are set.
  /// @param feature such as uapi::arm_vcpu_feature::sve
  Result<void> try_finalize(std::uint32_t feature) {
    constexpr auto request = uapi::request::arm_vcpu_finalize;
    const int which = static_cast<int>(feature);
    if (call(request, &which) < 0) {
      const int error_number = errno;
      return failure(request.name, error_number, detail::text("feature=", feature),
                     error_number == EPERM     ? "it is finalized already"
                     : error_number == ENOEXEC ? "the vCPU is not initialised: init() first"
                     : error_number == EINVAL
                         ? "init() did not ask for this feature, or it has no second step"
                         : "");
    }
    return {};
  }
  void finalize(std::uint32_t feature) { try_finalize(feature).value(); }

  /// A pending SError (KVM_GET_VCPU_EVENTS).
  Result<uapi::kvm_vcpu_events> try_get_vcpu_events() const {
    return try_get<uapi::kvm_vcpu_events>(uapi::request::get_vcpu_events);
  }
  uapi::kvm_vcpu_events get_vcpu_events() const { return try_get_vcpu_events().value(); }
  /// Raises an SError, or an external data abort, in the guest
  /// (KVM_SET_VCPU_EVENTS). Refused while a completion is pending (R30).
  Result<void> try_set_vcpu_events(const uapi::kvm_vcpu_events& events) {
    return try_set(uapi::request::set_vcpu_events, events);
  }
  void set_vcpu_events(const uapi::kvm_vcpu_events& events) { try_set_vcpu_events(events).value(); }

  /// The levels of the timers' and the PMU's interrupts, bits of
  /// uapi::arm_dev_irq: for a VMM with an interrupt controller of its own. As of
  /// the last exit; no system call.
  std::uint64_t device_irq_level() const noexcept {
    const auto* const run = run_page();
    return run != nullptr ? run->s.regs.device_irq_level : 0;
  }

 protected:
  using VcpuCore::VcpuCore;
};

}  // namespace arm64
KVM_HPP_END

#endif
#endif
