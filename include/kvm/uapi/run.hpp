// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_UAPI_RUN_HPP
#define KVM_HPP_UAPI_RUN_HPP

#include <kvm/detail/kernel_header.hpp>
#if !KVM_HPP_REFUSED

#include <cstddef>
#include <cstdint>

#include <kvm/uapi/exit_reasons.hpp>
#include <kvm/uapi/structs.hpp>

/// @file
/// The run page: what KVM and the VMM share of a vCPU.

KVM_HPP_BEGIN
namespace uapi {

/// Page 0 of a vCPU's mapping (R20, R21), as of Linux 7.3: older kernels leave
/// what they do not know untouched. Fields marked "in" are read by KVM on
/// entry, and for the exits of R27 to complete the access. Never written
/// between an exit and the re-entry: exit_reason, and the union outside its
/// "in" fields (R28). The kernel's unnamed structs have names here, since
/// standard C++ has none.
struct kvm_run {
  /// Exit reason unknown.
  struct Hw {
    std::uint64_t hardware_exit_reason;
  };
  /// Exit reason fail_entry.
  struct FailEntry {
    std::uint64_t hardware_entry_failure_reason;
    std::uint32_t cpu;  ///< host CPU
  };
  /// Exit reason exception.
  struct Ex {
    std::uint32_t exception;
    std::uint32_t error_code;
  };
  /// Exit reason io.
  struct Io {
    std::uint8_t direction;  ///< io_direction
    std::uint8_t size;       ///< bytes of an element: 1, 2, 4
    std::uint16_t port;
    std::uint32_t count;        ///< elements
    std::uint64_t data_offset;  ///< bytes from the start of this struct; check it (R22)
  };
  /// Exit reason debug. Nothing on riscv.
  struct Debug {
#if !KVM_HPP_ARCH_RISCV
    kvm_debug_exit_arch arch;
#endif
  };
  /// Exit reason mmio.
  struct Mmio {
    std::uint64_t phys_addr;
    std::uint8_t data[8];  ///< in if !is_write
    std::uint32_t len;     ///< bytes, at most 8
    std::uint8_t is_write;
  };
  /// Exit reason loongarch_iocsr.
  struct IocsrIo {
    std::uint64_t phys_addr;
    std::uint8_t data[8];  ///< in if !is_write
    std::uint32_t len;
    std::uint8_t is_write;
  };
  /// Exit reason hypercall.
  struct Hypercall {
    std::uint64_t nr;
    std::uint64_t args[6];
    std::uint64_t ret;  ///< in
    union {
      std::uint32_t longmode;
      std::uint64_t flags;  ///< hypercall_flag flags, by architecture
    };
  };
  /// Exit reason tpr_access.
  struct TprAccess {
    std::uint64_t rip;
    std::uint32_t is_write;
    std::uint32_t pad;
  };
  /// Exit reason s390_sieic.
  struct S390Sieic {
    std::uint8_t icptcode;
    std::uint16_t ipa;
    std::uint32_t ipb;
  };
  /// Exit reason s390_ucontrol.
  struct S390Ucontrol {
    std::uint64_t trans_exc_code;
    std::uint32_t pgm_code;
  };
  /// Exit reason dcr.
  struct Dcr {
    std::uint32_t dcrn;
    std::uint32_t data;  ///< in if !is_write
    std::uint8_t is_write;
  };
  /// Exit reason internal_error.
  struct Internal {
    std::uint32_t suberror;  ///< internal_error
    std::uint32_t ndata;     ///< words valid in data (R33)
    std::uint64_t data[16];
  };
  /// Exit reason internal_error with internal_error::emulation (R33).
  struct EmulationFailure {
    std::uint32_t suberror;
    std::uint32_t ndata;
    std::uint64_t flags;     ///< emulation_flag flags, if ndata is not 0
    std::uint8_t insn_size;  ///< bytes valid in insn_bytes
    std::uint8_t insn_bytes[15];
  };
  /// Exit reason osi.
  struct Osi {
    std::uint64_t gprs[32];  ///< in
  };
  /// Exit reason papr_hcall.
  struct PaprHcall {
    std::uint64_t nr;
    std::uint64_t ret;      ///< in
    std::uint64_t args[9];  ///< in
  };
  /// Exit reason s390_tsch.
  struct S390Tsch {
    std::uint16_t subchannel_id;
    std::uint16_t subchannel_nr;
    std::uint32_t io_int_parm;
    std::uint32_t io_int_word;
    std::uint32_t ipb;
    std::uint8_t dequeued;
  };
  /// Exit reason epr.
  struct Epr {
    std::uint32_t epr;  ///< in
  };
  /// Exit reason system_event.
  struct SystemEvent {
    std::uint32_t type;   ///< system_event
    std::uint32_t ndata;  ///< words valid in data (R34)
    union {
      std::uint64_t flags;  ///< the first word
      std::uint64_t data[16];
    };
  };
  /// Exit reason s390_stsi.
  struct S390Stsi {
    std::uint64_t addr;
    std::uint8_t ar;
    std::uint8_t reserved;
    std::uint8_t fc;
    std::uint8_t sel1;
    std::uint16_t sel2;
  };
  /// Exit reason ioapic_eoi.
  struct Eoi {
    std::uint8_t vector;
  };
  /// Exit reasons arm_nisv and arm_ldst64b.
  struct ArmNisv {
    std::uint64_t esr_iss;
    std::uint64_t fault_ipa;
  };
  /// Exit reasons x86_rdmsr and x86_wrmsr.
  struct Msr {
    std::uint8_t error;  ///< in: 0, or 1 for #GP
    std::uint8_t pad[7];
    std::uint32_t reason;  ///< msr_exit_reason
    std::uint32_t index;
    std::uint64_t data;  ///< in for x86_rdmsr
  };
  /// Exit reason riscv_sbi.
  struct RiscvSbi {
    unsigned long extension_id;
    unsigned long function_id;
    unsigned long args[6];
    unsigned long ret[2];  ///< in
  };
  /// Exit reason riscv_csr.
  struct RiscvCsr {
    unsigned long csr_num;
    unsigned long new_value;
    unsigned long write_mask;
    unsigned long ret_value;  ///< in
  };
  /// Exit reason notify.
  struct Notify {
    std::uint32_t flags;  ///< notify_flag flags
  };
  /// Exit reason memory_fault; KVM_RUN has failed with EFAULT or EHWPOISON
  /// (R25).
  struct MemoryFault {
    std::uint64_t flags;  ///< memory_exit_flag flags
    std::uint64_t gpa;
    std::uint64_t size;  ///< bytes
  };
  /// Exit reason tdx.
  struct Tdx {
    /// Any other call.
    struct Unknown {
      std::uint64_t ret;  ///< in
      std::uint64_t data[5];
    };
    /// GetQuote.
    struct GetQuote {
      std::uint64_t ret;  ///< in
      std::uint64_t gpa;
      std::uint64_t size;  ///< bytes
    };
    /// GetTdVmCallInfo.
    struct GetTdvmcallInfo {
      std::uint64_t ret;  ///< in
      std::uint64_t leaf;
      std::uint64_t r11, r12, r13, r14;  ///< in
    };
    /// SetupEventNotifyInterrupt.
    struct SetupEventNotify {
      std::uint64_t ret;  ///< in
      std::uint64_t vector;
    };
    std::uint64_t flags;
    std::uint64_t nr;
    union {
      Unknown unknown;
      GetQuote get_quote;
      GetTdvmcallInfo get_tdvmcall_info;
      SetupEventNotify setup_event_notify;
    };
  };
  /// Exit reason arm_sea.
  struct ArmSea {
    std::uint64_t flags;  ///< arm_sea_flag flags
    std::uint64_t esr;
    std::uint64_t gva;
    std::uint64_t gpa;  ///< with arm_sea_flag::gpa_valid
  };
  /// What sync regs share, padded by the kernel to a fixed size.
  union SyncRegs {
#if !KVM_HPP_ARCH_RISCV
    kvm_sync_regs regs;
#endif
    char padding[2048];
  };

  std::uint8_t request_interrupt_window;  ///< in
  std::uint8_t immediate_exit;            ///< in, any thread; never cleared by KVM (R24)
  std::uint8_t padding1[6];

  std::uint32_t exit_reason;                   ///< an ExitReason, valid by R25
  std::uint8_t ready_for_interrupt_injection;  ///< without in-kernel LAPIC (R35)
  std::uint8_t if_flag;                        ///< without in-kernel LAPIC (R35)
  std::uint16_t flags;                         ///< run_flag flags

  std::uint64_t cr8;        ///< in and out; in without in-kernel LAPIC (R35)
  std::uint64_t apic_base;  ///< in and out; in without in-kernel LAPIC (R35)

  /// By exit_reason.
  union {
    Hw hw;
    FailEntry fail_entry;
    Ex ex;
    Io io;
    Debug debug;
    Mmio mmio;
    IocsrIo iocsr_io;
    Hypercall hypercall;
    TprAccess tpr_access;
    S390Sieic s390_sieic;
    std::uint64_t s390_reset_flags;
    S390Ucontrol s390_ucontrol;
    Dcr dcr;
    Internal internal;
    EmulationFailure emulation_failure;
    Osi osi;
    PaprHcall papr_hcall;
    S390Tsch s390_tsch;
    Epr epr;
    SystemEvent system_event;
    S390Stsi s390_stsi;
    Eoi eoi;
    kvm_hyperv_exit hyperv;
    ArmNisv arm_nisv;
    Msr msr;
    kvm_xen_exit xen;
    RiscvSbi riscv_sbi;
    RiscvCsr riscv_csr;
    Notify notify;
    MemoryFault memory_fault;
    Tdx tdx;
    ArmSea arm_sea;
    kvm_exit_snp_req_certs snp_req_certs;
    char padding[256];
  };

  std::uint64_t kvm_valid_regs;  ///< in: what KVM shall store on exit; persists (R31)
  std::uint64_t kvm_dirty_regs;  ///< in: what it shall load on entry; cleared by KVM (R31)
  SyncRegs s;
};

static_assert(sizeof(kvm_run) == 2352);
static_assert(offsetof(kvm_run, immediate_exit) == 1);
static_assert(offsetof(kvm_run, exit_reason) == 8);
static_assert(offsetof(kvm_run, ready_for_interrupt_injection) == 12);
static_assert(offsetof(kvm_run, if_flag) == 13);
static_assert(offsetof(kvm_run, flags) == 14);
static_assert(offsetof(kvm_run, cr8) == 16);
static_assert(offsetof(kvm_run, apic_base) == 24);
static_assert(offsetof(kvm_run, padding) == 32);
static_assert(offsetof(kvm_run, kvm_valid_regs) == 288);
static_assert(offsetof(kvm_run, kvm_dirty_regs) == 296);
static_assert(offsetof(kvm_run, s) == 304);
static_assert(offsetof(kvm_run::Io, data_offset) == 8);
static_assert(offsetof(kvm_run::Mmio, len) == 16 && offsetof(kvm_run::Mmio, is_write) == 20);
static_assert(offsetof(kvm_run::Hypercall, flags) == 64);
static_assert(offsetof(kvm_run::EmulationFailure, insn_bytes) == 17);
static_assert(offsetof(kvm_run::SystemEvent, data) == 8);
static_assert(offsetof(kvm_run::Msr, index) == 12 && offsetof(kvm_run::Msr, data) == 16);
static_assert(offsetof(kvm_run::Tdx, unknown) == 16);

}  // namespace uapi
KVM_HPP_END

#endif  // !KVM_HPP_REFUSED
#endif
