// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_RISCV_VCPU_HPP
#define KVM_HPP_RISCV_VCPU_HPP

#include <kvm/detail/vcpu_core.hpp>

KVM_HPP_BEGIN
namespace riscv {

/// What a vCPU has on this architecture only.
class VcpuCalls : public detail::VcpuCore {
 protected:
  using VcpuCore::VcpuCore;
};

}  // namespace riscv
KVM_HPP_END

#endif
