// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_DETAIL_VM_HANDLE_HPP
#define KVM_HPP_DETAIL_VM_HANDLE_HPP

#include <kvm/detail/handle.hpp>

KVM_HPP_BEGIN
namespace detail {

/// What vCPUs, devices and bindings know of their VM: that it lives as long as
/// they do, and how to ask it. VmState is all of it.
class VmHandle : public Handle<uapi::Scope::vm> {
 public:
  using Handle::call;
  using Handle::failure;
  using Handle::foreign;

 protected:
  using Handle::Handle;
  ~VmHandle() = default;
};

}  // namespace detail
KVM_HPP_END

#endif
