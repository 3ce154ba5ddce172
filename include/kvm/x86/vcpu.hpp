// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_X86_VCPU_HPP
#define KVM_HPP_X86_VCPU_HPP

#include <kvm/detail/vcpu_core.hpp>

KVM_HPP_BEGIN
namespace x86 {

/// What a vCPU has on this architecture only.
class VcpuCalls : public detail::VcpuCore {
 public:
  /// The general registers (KVM_GET_REGS).
  Result<uapi::kvm_regs> try_get_regs() const {
    return try_get<uapi::kvm_regs>(uapi::request::get_regs);
  }
  uapi::kvm_regs get_regs() const { return get<uapi::kvm_regs>(uapi::request::get_regs); }
  /// KVM_SET_REGS. Refused while a completion is pending (R30).
  Result<void> try_set_regs(const uapi::kvm_regs& regs) {
    return try_set(uapi::request::set_regs, regs);
  }
  void set_regs(const uapi::kvm_regs& regs) { set(uapi::request::set_regs, regs); }

  /// Segments, descriptor tables and control registers (KVM_GET_SREGS).
  Result<uapi::kvm_sregs> try_get_sregs() const {
    return try_get<uapi::kvm_sregs>(uapi::request::get_sregs);
  }
  uapi::kvm_sregs get_sregs() const { return get<uapi::kvm_sregs>(uapi::request::get_sregs); }
  /// KVM_SET_SREGS. KVM refuses combinations that the CPU cannot be in (EINVAL).
  Result<void> try_set_sregs(const uapi::kvm_sregs& sregs) {
    return try_set(uapi::request::set_sregs, sregs);
  }
  void set_sregs(const uapi::kvm_sregs& sregs) { set(uapi::request::set_sregs, sregs); }

 protected:
  using VcpuCore::VcpuCore;
};

}  // namespace x86
KVM_HPP_END

#endif
