// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_ARM64_VCPU_HPP
#define KVM_HPP_ARM64_VCPU_HPP

#include <kvm/detail/vcpu_core.hpp>

KVM_HPP_BEGIN
namespace arm64 {

/// What a vCPU has on this architecture only.
class VcpuCalls : public detail::VcpuCore {
 protected:
  using VcpuCore::VcpuCore;
};

}  // namespace arm64
KVM_HPP_END

#endif
