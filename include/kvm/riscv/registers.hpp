// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_RISCV_REGISTERS_HPP
#define KVM_HPP_RISCV_REGISTERS_HPP

#include <kvm/detail/kernel_header.hpp>
#if !KVM_HPP_REFUSED

#include <kvm/uapi/constants.hpp>
#include <kvm/uapi/structs.hpp>

#include <cstddef>
#include <cstdint>

/// @file
/// The ids of riscv registers, for Vcpu::get_one_reg and set_one_reg. Numbers
/// only: visible on every architecture. 64-bit hosts only.

KVM_HPP_BEGIN
namespace riscv {

/// Ids of riscv registers. Most are numbered by where they are in a struct of
/// the kernel, in words.
namespace reg {

/// Any register as wide as the host's: a type of uapi::reg_riscv, with a subtype
/// where there is one, and the word's number.
constexpr std::uint64_t word(std::uint64_t type, std::uint64_t index) {
  return uapi::reg::riscv | uapi::reg::size_u64 | type | index;
}

/// A general register: the word of kvm_riscv_core.
constexpr std::uint64_t core(std::uint64_t index) { return word(uapi::reg_riscv::core, index); }
/// Program counter.
inline constexpr std::uint64_t pc = core(0);
/// X1 to X31. X0 has no id.
constexpr std::uint64_t x(unsigned number) { return core(number); }
/// X1, the return address.
inline constexpr std::uint64_t ra = x(1);
/// X2, the stack pointer.
inline constexpr std::uint64_t sp = x(2);
/// X3, the global pointer.
inline constexpr std::uint64_t gp = x(3);
/// X4, the thread pointer.
inline constexpr std::uint64_t tp = x(4);
/// A0 to A7.
constexpr std::uint64_t a(unsigned number) { return x(10 + number); }
/// 1 in supervisor mode, 0 in user mode.
inline constexpr std::uint64_t mode = core(32);

/// The hart's configuration: the word of kvm_riscv_config.
constexpr std::uint64_t config(std::uint64_t index) { return word(uapi::reg_riscv::config, index); }
inline constexpr std::uint64_t isa = config(0);  ///< a bit for each single-letter extension
/// Who made the hart.
inline constexpr std::uint64_t mvendorid = config(2);
/// Which design it is.
inline constexpr std::uint64_t marchid = config(3);
/// Which version of the design.
inline constexpr std::uint64_t mimpid = config(4);
/// The paging mode that the guest can use at most, as in satp; cannot be changed.
inline constexpr std::uint64_t satp_mode = config(6);

/// A supervisor's control and status register: the word of kvm_riscv_csr.
constexpr std::uint64_t csr(std::uint64_t index) {
  return word(uapi::reg_riscv::csr | uapi::reg_riscv::csr_general, index);
}
/// Status: interrupts on or off, the previous mode, the state of FPU and vectors.
inline constexpr std::uint64_t sstatus = csr(0);
/// Interrupts that are let in.
inline constexpr std::uint64_t sie = csr(1);
/// Where traps go.
inline constexpr std::uint64_t stvec = csr(2);
/// A word for the trap handler.
inline constexpr std::uint64_t sscratch = csr(3);
/// Where the last trap came from.
inline constexpr std::uint64_t sepc = csr(4);
/// Why it came.
inline constexpr std::uint64_t scause = csr(5);
/// The address or instruction that it is about.
inline constexpr std::uint64_t stval = csr(6);
/// Interrupts that are pending.
inline constexpr std::uint64_t sip = csr(7);
/// The page table, and the paging mode.
inline constexpr std::uint64_t satp = csr(8);
/// Counters that user mode can read.
inline constexpr std::uint64_t scounteren = csr(9);
/// User mode's environment.
inline constexpr std::uint64_t senvcfg = csr(10);

/// The timer's: the word of kvm_riscv_timer.
constexpr std::uint64_t timer(std::uint64_t index) { return word(uapi::reg_riscv::timer, index); }
/// Ticks per second; cannot be changed.
inline constexpr std::uint64_t timer_frequency = timer(0);
/// The time that the guest sees, in ticks.
inline constexpr std::uint64_t timer_time = timer(1);
/// When the timer interrupts, in ticks.
inline constexpr std::uint64_t timer_compare = timer(2);
/// 1 if the timer is on, else 0.
inline constexpr std::uint64_t timer_state = timer(3);

#if KVM_HPP_ARCH_RISCV
static_assert(x(31) == core(offsetof(uapi::user_regs_struct, t6) / 8));
static_assert(a(0) == core(offsetof(uapi::user_regs_struct, a0) / 8));
static_assert(mode == core(offsetof(uapi::kvm_riscv_core, mode) / 8));
static_assert(satp_mode == config(offsetof(uapi::kvm_riscv_config, satp_mode) / 8));
static_assert(senvcfg == csr(offsetof(uapi::kvm_riscv_csr, senvcfg) / 8));
static_assert(timer_state == timer(offsetof(uapi::kvm_riscv_timer, state) / 8));
#endif

}  // namespace reg
}  // namespace riscv
KVM_HPP_END

#endif  // !KVM_HPP_REFUSED
#endif
