// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_X86_SYSTEM_HPP
#define KVM_HPP_X86_SYSTEM_HPP

#include <kvm/detail/capability_handle.hpp>

KVM_HPP_BEGIN
namespace x86 {

/// What the system has on this architecture only.
class SystemCalls : public detail::CapabilityHandle<uapi::Scope::system> {
 protected:
  using CapabilityHandle::CapabilityHandle;
};

}  // namespace x86
KVM_HPP_END

#endif
