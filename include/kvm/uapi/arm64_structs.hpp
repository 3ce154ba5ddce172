// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_UAPI_ARM64_STRUCTS_HPP
#define KVM_HPP_UAPI_ARM64_STRUCTS_HPP

#include <kvm/detail/kernel_header.hpp>

/// @file
/// The structs of arm64 only; empty elsewhere.
///
/// kvm_sregs and kvm_fpu are empty there, their requests have no handler, and
/// an empty struct has a size in C++ (R2): they are left out.

#if !KVM_HPP_REFUSED && KVM_HPP_ARCH_ARM64

#include <cstddef>
#include <cstdint>

KVM_HPP_BEGIN
namespace uapi {

// The same in every header since 5.10.
using ::kvm_guest_debug_arch;
using ::kvm_pmu_event_filter;
using ::kvm_regs;
using ::kvm_sync_regs;
using ::kvm_vcpu_events;
using ::kvm_vcpu_init;
using ::user_fpsimd_state;
using ::user_pt_regs;

/// The details of exit reason debug; the upper half of ESR came with 5.19.
struct kvm_debug_exit_arch {
  std::uint32_t hsr;       ///< ESR_EL2, lower half
  std::uint32_t hsr_high;  ///< upper half, with run_flag::arm64_hsr_high_valid
  std::uint64_t far;       ///< of a watchpoint
};

/// Memory tags to copy (5.14).
struct kvm_arm_copy_mte_tags {
  std::uint64_t guest_ipa;
  std::uint64_t length;  ///< bytes of guest memory
  void* addr;            ///< one byte for each 16
  std::uint64_t flags;   ///< mte_tags direction
  std::uint64_t reserved[2];
};

/// An offset of both counters (6.4).
struct kvm_arm_counter_offset {
  std::uint64_t counter_offset;
  std::uint64_t reserved;
};

/// A range of SMCCC functions and what becomes of a call (6.4).
struct kvm_smccc_filter {
  std::uint32_t base;
  std::uint32_t nr_functions;
  std::uint8_t action;  ///< smccc_filter action
  std::uint8_t pad[15];
};

/// Asks which bits of the feature id registers can be written (6.7).
struct reg_mask_range {
  std::uint64_t addr;   ///< of the array of masks
  std::uint32_t range;  ///< which registers; 0 is all there is
  std::uint32_t reserved[13];
};

static_assert(sizeof(kvm_debug_exit_arch) == 16 && offsetof(kvm_debug_exit_arch, far) == 8);
static_assert(sizeof(kvm_arm_copy_mte_tags) == 48);
static_assert(sizeof(kvm_arm_counter_offset) == 16);
static_assert(sizeof(kvm_smccc_filter) == 24);
static_assert(sizeof(reg_mask_range) == 64);
static_assert(sizeof(kvm_regs) == 864 && sizeof(kvm_vcpu_events) == 64);
static_assert(sizeof(kvm_vcpu_init) == 32 && sizeof(kvm_pmu_event_filter) == 8);

}  // namespace uapi
KVM_HPP_END

#endif  // KVM_HPP_ARCH_ARM64
#endif
