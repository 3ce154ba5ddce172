// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_UAPI_RISCV_STRUCTS_HPP
#define KVM_HPP_UAPI_RISCV_STRUCTS_HPP

#include <kvm/detail/kernel_header.hpp>

/// @file
/// The structs of riscv only; empty elsewhere. KVM came to riscv with 5.16.
///
/// kvm_regs, kvm_sregs, kvm_fpu, kvm_debug_exit_arch, kvm_guest_debug_arch and
/// kvm_sync_regs are empty there, and an empty struct has a size in C++ (R2):
/// they are left out. All registers go through kvm_one_reg; the structs here
/// only number them: a register's index is its offset in words of the struct.

#if !KVM_HPP_REFUSED && KVM_HPP_ARCH_RISCV

#include <cstddef>
#include <cstdint>

KVM_HPP_BEGIN
namespace uapi {

// The same in every header that has riscv.
using ::user_regs_struct;

/// Configuration of the hart, register type config.
struct kvm_riscv_config {
  unsigned long isa;  ///< one bit for each single-letter extension
  unsigned long zicbom_block_size;
  unsigned long mvendorid;
  unsigned long marchid;
  unsigned long mimpid;
  unsigned long zicboz_block_size;
  unsigned long satp_mode;
  unsigned long zicbop_block_size;
};

/// General registers, register type core.
struct kvm_riscv_core {
  user_regs_struct regs;
  unsigned long mode;  ///< 1 supervisor, 0 user
};

/// Control and status registers, register type csr, subtype general.
struct kvm_riscv_csr {
  unsigned long sstatus;
  unsigned long sie;
  unsigned long stvec;
  unsigned long sscratch;
  unsigned long sepc;
  unsigned long scause;
  unsigned long stval;
  unsigned long sip;
  unsigned long satp;
  unsigned long scounteren;
  unsigned long senvcfg;
};

/// Interrupt architecture, register type csr, subtype aia.
struct kvm_riscv_aia_csr {
  unsigned long siselect;
  unsigned long iprio1;
  unsigned long iprio2;
  unsigned long sieh;
  unsigned long siph;
  unsigned long iprio1h;
  unsigned long iprio2h;
};

/// Register type csr, subtype smstateen.
struct kvm_riscv_smstateen_csr {
  unsigned long sstateen0;
};

/// Shadow stack, register type csr, subtype zicfiss.
struct kvm_riscv_zicfiss_csr {
  unsigned long ssp;
};

/// The timer, register type timer.
struct kvm_riscv_timer {
  std::uint64_t frequency;  ///< Hz
  std::uint64_t time;
  std::uint64_t compare;
  std::uint64_t state;  ///< 1 on, 0 off
};

/// Steal time, register type sbi_state, subtype sta.
struct kvm_riscv_sbi_sta {
  unsigned long shmem_lo;
  unsigned long shmem_hi;
};

/// One feature of kvm_riscv_sbi_fwft.
struct kvm_riscv_sbi_fwft_feature {
  unsigned long enable;
  unsigned long flags;
  unsigned long value;
};

/// Firmware features, register type sbi_state, subtype fwft.
struct kvm_riscv_sbi_fwft {
  kvm_riscv_sbi_fwft_feature misaligned_deleg;
  kvm_riscv_sbi_fwft_feature pointer_masking;
  kvm_riscv_sbi_fwft_feature pte_ad_hw_updating;
  kvm_riscv_sbi_fwft_feature landing_pad;
  kvm_riscv_sbi_fwft_feature shadow_stack;
};

static_assert(sizeof(kvm_riscv_config) == 64);
static_assert(sizeof(kvm_riscv_core) == 264 && offsetof(kvm_riscv_core, mode) == 256);
static_assert(sizeof(kvm_riscv_csr) == 88);
static_assert(sizeof(kvm_riscv_aia_csr) == 56);
static_assert(sizeof(kvm_riscv_smstateen_csr) == 8 && sizeof(kvm_riscv_zicfiss_csr) == 8);
static_assert(sizeof(kvm_riscv_timer) == 32);
static_assert(sizeof(kvm_riscv_sbi_sta) == 16);
static_assert(sizeof(kvm_riscv_sbi_fwft_feature) == 24 && sizeof(kvm_riscv_sbi_fwft) == 120);

}  // namespace uapi
KVM_HPP_END

#endif  // KVM_HPP_ARCH_RISCV
#endif
