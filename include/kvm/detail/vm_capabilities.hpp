// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_DETAIL_VM_CAPABILITIES_HPP
#define KVM_HPP_DETAIL_VM_CAPABILITIES_HPP

#include <kvm/capability.hpp>
#include <kvm/detail/vm_state.hpp>
#include <kvm/uapi/capabilities.hpp>

#include <concepts>

/// @file
/// What enabling a capability on a VM means for the rest of the library.

KVM_HPP_BEGIN
namespace detail {

/// Refuses what KVM accepts and then loses dirty pages with: logs that start
/// as all set, together with dirty rings.
template <class C>
const char* data_loss(const VmState& state, const C& capability) {
  constexpr auto sentence =
      "a dirty ring and initially_set lose dirty pages together, though KVM accepts both: use one";
  if constexpr (std::same_as<C, cap::ManualDirtyLogProtect2>) {
    return capability.enabled && capability.initially_set && state.dirty_ring ? sentence : nullptr;
  } else if constexpr (std::same_as<C, cap::DirtyLogRing> ||
                       std::same_as<C, cap::DirtyLogRingAcqRel>) {
    return state.initially_set ? sentence : nullptr;
  } else {
    return nullptr;
  }
}

template <class C>
void note_enabled(VmState& state, const C& capability) {
  if constexpr (std::same_as<C, cap::ManualDirtyLogProtect2>) {
    state.initially_set = capability.enabled && capability.initially_set;
    state.manual_protect = capability.enabled;
  } else if constexpr (std::same_as<C, cap::DirtyLogRing> ||
                       std::same_as<C, cap::DirtyLogRingAcqRel>) {
    state.dirty_ring = true;
    state.rings.enable(capability.bytes);
    state.ids()->hold_back();
  } else if constexpr (C::info.number == uapi::cap::dirty_log_ring_with_bitmap) {
    state.ring_with_bitmap = true;
  } else if constexpr (std::same_as<C, cap::MaxVcpuId>) {
    state.vcpu_id_limit = static_cast<int>(capability.limit);
  }
}

}  // namespace detail
KVM_HPP_END

#endif
