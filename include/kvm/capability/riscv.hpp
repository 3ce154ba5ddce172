// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_CAPABILITY_RISCV_HPP
#define KVM_HPP_CAPABILITY_RISCV_HPP

#include <kvm/detail/config.hpp>
#if !KVM_HPP_REFUSED

#include <kvm/capability/info.hpp>

/// @file
/// The capabilities that only riscv has.

KVM_HPP_BEGIN
namespace cap {

/// The width of the VM's guest physical addresses.
struct VmGpaBits {
  /// Bits wanted; KVM rounds up to 41, 50 or 59.
  std::uint64_t bits = 41;

  static constexpr detail::CapInfo info{
      .number = uapi::cap::vm_gpa_bits,
      .name = "KVM_CAP_VM_GPA_BITS",
      .check_arches = Arch::riscv,
      .summary = "Bits of a guest physical address; a VM can ask for fewer.",
      .scope = detail::EnableScope::vm,
      .enable_arches = Arch::riscv,
      .order = detail::Order::before_vcpus_and_slots,
      .constraint = "the bits are at most what check() gives"};
  using Value = std::uint32_t;
  static constexpr Value decode(int raw) { return detail::decode_value<Value>(raw); }
  constexpr detail::CapArgs args() const { return {bits}; }
  std::string describe() const { return detail::argument("bits", bits); }
};

/// KVM_SET_MP_STATE with KVM_MP_STATE_INIT_RECEIVED resets the vCPU.
struct RiscvMpStateReset {
  static constexpr detail::CapInfo info{.number = uapi::cap::riscv_mp_state_reset,
                                        .name = "KVM_CAP_RISCV_MP_STATE_RESET",
                                        .check_arches = Arch::riscv,
                                        .summary = "Setting a vCPU's run state can reset it.",
                                        .scope = detail::EnableScope::vm,
                                        .enable_arches = Arch::riscv};
  using Value = bool;
  static constexpr Value decode(int raw) { return detail::decode_value<Value>(raw); }
  constexpr detail::CapArgs args() const { return {}; }
  std::string describe() const { return {}; }
};

}  // namespace cap
KVM_HPP_END

#endif  // !KVM_HPP_REFUSED
#endif
