// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_UAPI_EXIT_REASONS_HPP
#define KVM_HPP_UAPI_EXIT_REASONS_HPP

#include <kvm/detail/config.hpp>
#if !KVM_HPP_REFUSED

#include <cstdint>

/// @file
/// Why a vCPU came back: the numbers of kvm_run.exit_reason.

KVM_HPP_BEGIN
namespace uapi {

/// kvm_run.exit_reason, valid under the conditions of R25 only. A newer kernel
/// may give a number that has no name here; such a value can be held all the
/// same. The comment names the member of kvm_run that carries the details.
enum class ExitReason : std::uint32_t {
  unknown = 0,           ///< hw; x86, arm64, riscv, s390, ppc, mips, loongarch
  exception = 1,         ///< ex; x86
  io = 2,                ///< io; x86
  hypercall = 3,         ///< hypercall; x86, arm64, loongarch
  debug = 4,             ///< debug; x86, arm64, riscv, s390, ppc, loongarch
  hlt = 5,               ///< x86
  mmio = 6,              ///< mmio; x86, arm64, riscv, ppc, mips, loongarch
  irq_window_open = 7,   ///< x86, mips
  shutdown = 8,          ///< x86
  fail_entry = 9,        ///< fail_entry; x86, arm64, riscv, ppc
  intr = 10,             ///< x86, arm64, riscv, s390, ppc, mips, loongarch
  set_tpr = 11,          ///< x86
  tpr_access = 12,       ///< tpr_access; x86
  s390_sieic = 13,       ///< s390_sieic; s390
  s390_reset = 14,       ///< s390_reset_flags; s390
  dcr = 15,              ///< dcr; no current architecture
  nmi = 16,              ///< ppc
  internal_error = 17,   ///< internal; x86, arm64, ppc, mips, loongarch
  osi = 18,              ///< osi; ppc
  papr_hcall = 19,       ///< papr_hcall; ppc
  s390_ucontrol = 20,    ///< s390_ucontrol; s390
  watchdog = 21,         ///< ppc
  s390_tsch = 22,        ///< s390_tsch; s390
  epr = 23,              ///< epr; ppc
  system_event = 24,     ///< system_event; x86, arm64, riscv
  s390_stsi = 25,        ///< s390_stsi; s390
  ioapic_eoi = 26,       ///< eoi; x86
  hyperv = 27,           ///< hyperv; x86
  arm_nisv = 28,         ///< arm_nisv; arm64
  x86_rdmsr = 29,        ///< msr; x86
  x86_wrmsr = 30,        ///< msr; x86
  dirty_ring_full = 31,  ///< x86, arm64, riscv, loongarch
  ap_reset_hold = 32,    ///< x86
  x86_bus_lock = 33,     ///< x86
  xen = 34,              ///< xen; x86
  riscv_sbi = 35,        ///< riscv_sbi; riscv
  riscv_csr = 36,        ///< riscv_csr; riscv
  notify = 37,           ///< notify; x86
  loongarch_iocsr = 38,  ///< iocsr_io; loongarch
  memory_fault = 39,     ///< memory_fault; x86, arm64
  tdx = 40,              ///< tdx; x86
  arm_sea = 41,          ///< arm_sea; arm64
  arm_ldst64b = 42,      ///< arm_nisv; arm64
  snp_req_certs = 43,    ///< snp_req_certs; x86
};

/// The kernel's name of an exit reason ("KVM_EXIT_IO"), or nullptr for a number
/// that this version of the library does not know.
constexpr const char* name(ExitReason reason) noexcept {
  switch (reason) {
    case ExitReason::unknown:
      return "KVM_EXIT_UNKNOWN";
    case ExitReason::exception:
      return "KVM_EXIT_EXCEPTION";
    case ExitReason::io:
      return "KVM_EXIT_IO";
    case ExitReason::hypercall:
      return "KVM_EXIT_HYPERCALL";
    case ExitReason::debug:
      return "KVM_EXIT_DEBUG";
    case ExitReason::hlt:
      return "KVM_EXIT_HLT";
    case ExitReason::mmio:
      return "KVM_EXIT_MMIO";
    case ExitReason::irq_window_open:
      return "KVM_EXIT_IRQ_WINDOW_OPEN";
    case ExitReason::shutdown:
      return "KVM_EXIT_SHUTDOWN";
    case ExitReason::fail_entry:
      return "KVM_EXIT_FAIL_ENTRY";
    case ExitReason::intr:
      return "KVM_EXIT_INTR";
    case ExitReason::set_tpr:
      return "KVM_EXIT_SET_TPR";
    case ExitReason::tpr_access:
      return "KVM_EXIT_TPR_ACCESS";
    case ExitReason::s390_sieic:
      return "KVM_EXIT_S390_SIEIC";
    case ExitReason::s390_reset:
      return "KVM_EXIT_S390_RESET";
    case ExitReason::dcr:
      return "KVM_EXIT_DCR";
    case ExitReason::nmi:
      return "KVM_EXIT_NMI";
    case ExitReason::internal_error:
      return "KVM_EXIT_INTERNAL_ERROR";
    case ExitReason::osi:
      return "KVM_EXIT_OSI";
    case ExitReason::papr_hcall:
      return "KVM_EXIT_PAPR_HCALL";
    case ExitReason::s390_ucontrol:
      return "KVM_EXIT_S390_UCONTROL";
    case ExitReason::watchdog:
      return "KVM_EXIT_WATCHDOG";
    case ExitReason::s390_tsch:
      return "KVM_EXIT_S390_TSCH";
    case ExitReason::epr:
      return "KVM_EXIT_EPR";
    case ExitReason::system_event:
      return "KVM_EXIT_SYSTEM_EVENT";
    case ExitReason::s390_stsi:
      return "KVM_EXIT_S390_STSI";
    case ExitReason::ioapic_eoi:
      return "KVM_EXIT_IOAPIC_EOI";
    case ExitReason::hyperv:
      return "KVM_EXIT_HYPERV";
    case ExitReason::arm_nisv:
      return "KVM_EXIT_ARM_NISV";
    case ExitReason::x86_rdmsr:
      return "KVM_EXIT_X86_RDMSR";
    case ExitReason::x86_wrmsr:
      return "KVM_EXIT_X86_WRMSR";
    case ExitReason::dirty_ring_full:
      return "KVM_EXIT_DIRTY_RING_FULL";
    case ExitReason::ap_reset_hold:
      return "KVM_EXIT_AP_RESET_HOLD";
    case ExitReason::x86_bus_lock:
      return "KVM_EXIT_X86_BUS_LOCK";
    case ExitReason::xen:
      return "KVM_EXIT_XEN";
    case ExitReason::riscv_sbi:
      return "KVM_EXIT_RISCV_SBI";
    case ExitReason::riscv_csr:
      return "KVM_EXIT_RISCV_CSR";
    case ExitReason::notify:
      return "KVM_EXIT_NOTIFY";
    case ExitReason::loongarch_iocsr:
      return "KVM_EXIT_LOONGARCH_IOCSR";
    case ExitReason::memory_fault:
      return "KVM_EXIT_MEMORY_FAULT";
    case ExitReason::tdx:
      return "KVM_EXIT_TDX";
    case ExitReason::arm_sea:
      return "KVM_EXIT_ARM_SEA";
    case ExitReason::arm_ldst64b:
      return "KVM_EXIT_ARM_LDST64B";
    case ExitReason::snp_req_certs:
      return "KVM_EXIT_SNP_REQ_CERTS";
  }
  return nullptr;
}

}  // namespace uapi
KVM_HPP_END

#endif  // !KVM_HPP_REFUSED
#endif
