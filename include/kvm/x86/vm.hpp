// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_X86_VM_HPP
#define KVM_HPP_X86_VM_HPP

#include <kvm/detail/capability_handle.hpp>

KVM_HPP_BEGIN
namespace x86 {

/// What a VM has on this architecture only.
class VmCalls : public detail::CapabilityHandle<uapi::Scope::vm> {
 protected:
  using CapabilityHandle::CapabilityHandle;
};

}  // namespace x86
KVM_HPP_END

#endif
