// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_ARM64_REGISTERS_HPP
#define KVM_HPP_ARM64_REGISTERS_HPP

#include <kvm/detail/kernel_header.hpp>
#if !KVM_HPP_REFUSED

#include <kvm/uapi/constants.hpp>
#include <kvm/uapi/structs.hpp>

#include <cstddef>
#include <cstdint>

/// @file
/// The ids of arm64 registers, for Vcpu::get_one_reg and set_one_reg. Numbers
/// only: visible on every architecture.

KVM_HPP_BEGIN
namespace arm64 {

/// Ids of arm64 registers. A core register is numbered by where it is in the
/// kernel's kvm_regs, in units of 4 bytes.
namespace reg {

/// A core register.
/// @param offset bytes from the start of kvm_regs
/// @param size   uapi::reg::size_u32, size_u64 or size_u128, whichever it has
constexpr std::uint64_t core(std::size_t offset, std::uint64_t size = uapi::reg::size_u64) {
  return uapi::reg::arm64 | size | uapi::reg_arm64::core | offset / 4;
}

/// X0 to X30, 64 bits.
constexpr std::uint64_t x(unsigned number) { return core(8 * std::size_t{number}); }
inline constexpr std::uint64_t sp = core(248);      ///< SP_EL0
inline constexpr std::uint64_t pc = core(256);      ///< program counter
inline constexpr std::uint64_t pstate = core(264);  ///< flags, mode, masks
/// Stack pointer of EL1.
inline constexpr std::uint64_t sp_el1 = core(272);
/// Where EL1 returns to from an exception.
inline constexpr std::uint64_t elr_el1 = core(280);
/// The state that EL1 returns to; of AArch32 SPSR_svc.
inline constexpr std::uint64_t spsr_el1 = core(288);
inline constexpr std::uint64_t spsr_abt = core(296);  ///< of AArch32
inline constexpr std::uint64_t spsr_und = core(304);  ///< of AArch32
inline constexpr std::uint64_t spsr_irq = core(312);  ///< of AArch32
inline constexpr std::uint64_t spsr_fiq = core(320);  ///< of AArch32

/// V0 to V31, 128 bits. Not on a vCPU with SVE: there they are part of Z0 to
/// Z31.
constexpr std::uint64_t v(unsigned number) {
  return core(336 + 16 * std::size_t{number}, uapi::reg::size_u128);
}
/// Floating-point status, 32 bits.
inline constexpr std::uint64_t fpsr = core(848, uapi::reg::size_u32);
/// Floating-point control, 32 bits.
inline constexpr std::uint64_t fpcr = core(852, uapi::reg::size_u32);

/// A system register, 64 bits, by the numbers that MRS and MSR encode it with.
constexpr std::uint64_t sysreg(unsigned op0, unsigned op1, unsigned crn, unsigned crm,
                               unsigned op2) {
  using namespace uapi::reg_arm64;
  return uapi::reg::arm64 | uapi::reg::size_u64 | uapi::reg_arm64::sysreg |
         std::uint64_t{op0} << sysreg_op0_shift | std::uint64_t{op1} << sysreg_op1_shift |
         std::uint64_t{crn} << sysreg_crn_shift | std::uint64_t{crm} << sysreg_crm_shift |
         std::uint64_t{op2} << sysreg_op2_shift;
}

#if KVM_HPP_ARCH_ARM64
static_assert(x(30) ==
              core(offsetof(uapi::kvm_regs, regs) + offsetof(uapi::user_pt_regs, regs) + 30 * 8));
static_assert(sp == core(offsetof(uapi::user_pt_regs, sp)));
static_assert(pc == core(offsetof(uapi::user_pt_regs, pc)));
static_assert(pstate == core(offsetof(uapi::user_pt_regs, pstate)));
static_assert(sp_el1 == core(offsetof(uapi::kvm_regs, sp_el1)));
static_assert(elr_el1 == core(offsetof(uapi::kvm_regs, elr_el1)));
static_assert(spsr_fiq == core(offsetof(uapi::kvm_regs, spsr) + 4 * 8));
static_assert(v(0) == core(offsetof(uapi::kvm_regs, fp_regs), uapi::reg::size_u128));
static_assert(fpcr ==
              core(offsetof(uapi::kvm_regs, fp_regs) + offsetof(uapi::user_fpsimd_state, fpcr),
                   uapi::reg::size_u32));
#endif

}  // namespace reg
}  // namespace arm64
KVM_HPP_END

#endif  // !KVM_HPP_REFUSED
#endif
