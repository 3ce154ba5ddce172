// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_ARM64_VM_HPP
#define KVM_HPP_ARM64_VM_HPP

#include <kvm/detail/capability_handle.hpp>

KVM_HPP_BEGIN
namespace arm64 {

/// What a VM has on this architecture only.
class VmCalls : public detail::CapabilityHandle<uapi::Scope::vm> {
 protected:
  using CapabilityHandle::CapabilityHandle;
};

}  // namespace arm64
KVM_HPP_END

#endif
