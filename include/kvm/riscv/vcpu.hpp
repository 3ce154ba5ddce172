// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_RISCV_VCPU_HPP
#define KVM_HPP_RISCV_VCPU_HPP

#include <kvm/detail/kernel_header.hpp>
#if !KVM_HPP_REFUSED && KVM_HPP_ARCH_RISCV

#include <kvm/detail/vcpu_core.hpp>
#include <kvm/riscv/registers.hpp>
#include <kvm/uapi/constants.hpp>

#include <cerrno>

KVM_HPP_BEGIN
namespace riscv {

/// What a vCPU has on this architecture only. Its registers are reached through
/// Vcpu::get_one_reg and set_one_reg, by the ids in riscv::reg.
template <class = void>
class VcpuCalls : public detail::VcpuCore {
 public:
  /// Sets or takes back the external interrupt of the supervisor
  /// (KVM_INTERRUPT). The one ioctl that does not wait for the vCPU to leave the
  /// guest (R14): any thread may call it, as long as this handle is not moved.
  Result<void> try_interrupt(bool level) {
    constexpr auto request = uapi::request::interrupt;
    const uapi::kvm_interrupt interrupt{.irq = level ? uapi::riscv_interrupt::set
                                                     : uapi::riscv_interrupt::unset};
    if (call(request, &interrupt) < 0) {
      return failure(request.name, errno);
    }
    return {};
  }
  void interrupt(bool level) { try_interrupt(level).value(); }

 protected:
  using VcpuCore::VcpuCore;
};

}  // namespace riscv
KVM_HPP_END

#endif
#endif
