// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_EXITS_HPP
#define KVM_HPP_EXITS_HPP

#include <kvm/detail/kernel_header.hpp>
#if !KVM_HPP_REFUSED

#include <kvm/types.hpp>
#include <kvm/uapi/exit_reasons.hpp>
#include <kvm/uapi/run.hpp>

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

/// @file
/// One type per way in which Vcpu::run can return. They view the vCPU's run
/// page and are valid until it runs again. Every type is declared on every
/// architecture; `arches` says where it can occur.
///
/// What a handler answers is written through reply() or the data span; the
/// guest sees it at the next run() or complete().

KVM_HPP_BEGIN
namespace detail {

/// The value's bytes, lowest first, then zeroes.
inline void fill(std::span<std::byte> out, std::uint64_t value) noexcept {
  for (std::byte& byte : out) {
    byte = static_cast<std::byte>(value & 0xff);
    value >>= 8;
  }
}

}  // namespace detail

namespace exits {

/// Exits that x86 has.
inline constexpr unsigned on_x86 = static_cast<unsigned>(Arch::x86);
/// Exits that arm64 has.
inline constexpr unsigned on_arm64 = static_cast<unsigned>(Arch::arm64);
/// Exits that riscv has.
inline constexpr unsigned on_riscv = static_cast<unsigned>(Arch::riscv);
/// Exits that all architectures have.
inline constexpr unsigned everywhere = on_x86 | on_arm64 | on_riscv;

/// The run was stopped before or while in the guest: a kick, a signal, or (on
/// x86) an application processor that was just woken. Run again when ready.
struct Interrupted {
  static constexpr unsigned arches = everywhere;
  /// Whether a Kicker asked for it. If not, a signal came.
  bool kicked;
};

/// KVM_RUN failed, or the run page held nonsense. The vCPU may be unusable.
struct Failed {
  static constexpr unsigned arches = everywhere;
  /// The errno value. ENOMEM, EFAULT (unmapped host memory), EINVAL (invalid
  /// state in the run page), ENOSPC (no memory slot), EIO (after a fork, or a dead VM), ENOEXEC
  /// (arm64: not initialised), EPERM (arm64: not finalised), EBUSY (run by another thread),
  /// EBADF (moved from), EPROTO (run page out of bounds).
  int error_number;
  /// Why, in a sentence, or an empty string.
  const char* cause;
};

/// An exit that this library does not decode on this architecture: another
/// architecture's, or one newer than the library.
struct Raw {
  static constexpr unsigned arches = everywhere;
  /// The number that KVM gave.
  uapi::ExitReason reason;
  /// The union of struct kvm_run, 256 bytes, whatever its meaning.
  std::span<std::byte, 256> payload;
};

/// KVM_EXIT_UNKNOWN: the hardware left the guest for a reason that KVM does not
/// know.
struct Unknown {
  static constexpr unsigned arches = everywhere;
  /// What the hardware gave as its reason: a number of VMX or SVM.
  std::uint64_t hardware_exit_reason;
};

/// KVM_EXIT_EXCEPTION.
struct Exception {
  static constexpr unsigned arches = on_x86;
  /// The vector, 0 to 31.
  std::uint32_t exception;
  /// What the processor pushes with it, or 0.
  std::uint32_t error_code;
};

/// KVM_EXIT_IO, IN: `count` elements of `size` bytes are to be put into `data`,
/// oldest first (`rep ins` has a count above one).
struct IoIn {
  static constexpr unsigned arches = on_x86;
  /// The port that is read.
  std::uint16_t port;
  /// Bytes per element: 1, 2 or 4.
  std::uint8_t size;
  /// Elements: 1, or more for `rep ins`.
  std::uint32_t count;
  /// size * count bytes. What is left alone is what a former exit left there.
  std::span<std::byte> data;
  /// Answers a read of one element: fills `data` with the value, little-endian,
  /// cut or extended to its size.
  template <std::integral T>
  void reply(T value) const noexcept {
    detail::fill(data, static_cast<std::uint64_t>(value));
  }
};

/// KVM_EXIT_IO, OUT: `count` elements of `size` bytes were written.
struct IoOut {
  static constexpr unsigned arches = on_x86;
  /// The port that is written.
  std::uint16_t port;
  /// Bytes per element: 1, 2 or 4.
  std::uint8_t size;
  /// Elements: 1, or more for `rep outs`.
  std::uint32_t count;
  /// size * count bytes.
  std::span<const std::byte> data;
};

/// KVM_EXIT_MMIO, a read from guest physical memory without a slot: fill `data`.
/// Wide and page-crossing accesses come as several exits.
struct MmioRead {
  static constexpr unsigned arches = everywhere;
  /// The address of the first byte.
  Gpa gpa;
  /// 1 to 8 bytes, little-endian. What is left alone is what was there before.
  std::span<std::byte> data;
  /// Fills `data` with the value, cut or extended to its size.
  template <std::integral T>
  void reply(T value) const noexcept {
    detail::fill(data, static_cast<std::uint64_t>(value));
  }
};

/// KVM_EXIT_MMIO, a write to guest physical memory without a slot or to a
/// read-only one.
struct MmioWrite {
  static constexpr unsigned arches = everywhere;
  /// The address of the first byte.
  Gpa gpa;
  /// 1 to 8 bytes, little-endian.
  std::span<const std::byte> data;
};

/// KVM_EXIT_HYPERCALL. On arm64 only number and flags are set, and the answer
/// goes into the guest's registers.
struct Hypercall {
  static constexpr unsigned arches = on_x86 | on_arm64;
  /// Which call, as the guest gave it.
  std::uint64_t number;
  /// Its arguments; on arm64 without meaning.
  std::span<const std::uint64_t, 6> args;
  /// x86: bit 0 for a guest in 64-bit mode. arm64: bit 0 for SMC, else
  /// HVC; bit 1 for a 16-bit instruction.
  std::uint64_t flags;
  /// x86: what the guest's hypercall returns.
  void reply(std::uint64_t value) const noexcept { page->ret = value; }
  /// Where the answer goes.
  uapi::kvm_run::Hypercall* page;
};

/// KVM_EXIT_DEBUG: a breakpoint or a single step, see Vcpu::set_guest_debug.
struct Debug {
  static constexpr unsigned arches = everywhere;
#if !KVM_HPP_ARCH_RISCV
  /// x86: exception, pc, dr6, dr7. arm64: hsr, hsr_high, far.
  const uapi::kvm_debug_exit_arch& arch;
#endif
};

/// KVM_EXIT_HLT: the guest halted. Only without an in-kernel local APIC.
struct Hlt {
  static constexpr unsigned arches = on_x86;
};

/// KVM_EXIT_IRQ_WINDOW_OPEN: the guest can take an interrupt now; see
/// Vcpu::request_interrupt_window.
struct IrqWindowOpen {
  static constexpr unsigned arches = on_x86;
};

/// KVM_EXIT_SHUTDOWN: a triple fault. Running again does not help: kvm_intel
/// leaves the vCPU as it was, kvm_amd has usually reset it by then.
struct Shutdown {
  static constexpr unsigned arches = on_x86;
};

/// KVM_EXIT_FAIL_ENTRY: the hardware refused to enter the guest.
struct FailEntry {
  static constexpr unsigned arches = everywhere;
  /// What the hardware gave as its reason: a number of VMX or SVM.
  std::uint64_t hardware_entry_failure_reason;
  /// The host CPU that refused (with KVM_CAP_LAST_CPU).
  std::uint32_t cpu;
};

/// KVM_EXIT_SET_TPR: the guest wrote CR8, and the local APIC is the VMM's.
struct SetTpr {
  static constexpr unsigned arches = on_x86;
  /// The priority that was written, 0 to 15.
  std::uint64_t cr8;
};

/// KVM_EXIT_TPR_ACCESS: the guest touched its task priority register, see
/// Vcpu::set_tpr_access_reporting.
struct TprAccess {
  static constexpr unsigned arches = on_x86;
  /// Where the instruction is.
  std::uint64_t rip;
  /// Whether it writes.
  bool is_write;
};

/// KVM_EXIT_INTERNAL_ERROR: KVM could not go on, most often because it could
/// not emulate an instruction.
struct InternalError {
  static constexpr unsigned arches = on_x86 | on_arm64;
  /// 1 emulation, 2 simultaneous exceptions, 3 event delivery, 4 unexpected
  /// exit reason (uapi::internal_error).
  std::uint32_t suberror;
  /// What KVM adds: not a stable interface but for emulation failures.
  std::span<const std::uint64_t> data;

  /// The instruction that KVM could not emulate: up to 15 bytes from the
  /// guest's RIP, if KVM tells, as it does from Linux 5.14 on.
  template <class = void>
  std::optional<std::span<const std::byte>> instruction_bytes() const noexcept {
    constexpr std::uint64_t bytes_are_valid = 1;
    // The overlay: data[0] flags, then one byte of size and 15 of code (R33).
    if (suberror != 1 || data.size() < 3 || (data[0] & bytes_are_valid) == 0) {
      return std::nullopt;
    }
    const auto bytes = std::as_bytes(data.subspan(1, 2));
    const auto size = std::to_integer<std::size_t>(bytes[0]);
    return bytes.subspan(1, size < 15 ? size : 15);
  }
};

/// KVM_EXIT_SYSTEM_EVENT: shutdown, reset, crash, suspend and the like.
struct SystemEvent {
  static constexpr unsigned arches = everywhere;
  /// uapi::system_event: 1 shutdown, 2 reset, 3 crash, 4 wakeup, 5 suspend,
  /// 6 SEV termination, 7 TDX fatal.
  std::uint32_t type;
  /// What belongs to the type. Empty before Linux 5.19, which only had flags.
  std::span<const std::uint64_t> data;
  /// The first word, which kernels before 5.19 have, too.
  std::uint64_t flags;
};

/// KVM_EXIT_IOAPIC_EOI: with a split irqchip, the guest ended a level-triggered
/// interrupt.
struct IoapicEoi {
  static constexpr unsigned arches = on_x86;
  /// The vector that was ended.
  std::uint8_t vector;
};

/// KVM_EXIT_HYPERV, synthetic interrupt controller: an MSR of it was written.
struct HypervSynic {
  static constexpr unsigned arches = on_x86;
  /// Which MSR.
  std::uint32_t msr;
  /// What SCONTROL holds now.
  std::uint64_t control;
  /// What SIEFP, the page of event flags, holds now.
  std::uint64_t evt_page;
  /// What SIMP, the page of messages, holds now.
  std::uint64_t msg_page;
};

/// KVM_EXIT_HYPERV, a hypercall.
struct HypervHypercall {
  static constexpr unsigned arches = on_x86;
  /// The code of the call and its flags.
  std::uint64_t input;
  /// Its two arguments.
  std::array<std::uint64_t, 2> params;
  /// What the guest's hypercall returns.
  void reply(std::uint64_t value) const noexcept { page->u.hcall.result = value; }
  /// Where the answer goes.
  uapi::kvm_hyperv_exit* page;
};

/// KVM_EXIT_HYPERV, the synthetic debugger: an MSR of it was written.
struct HypervSyndbg {
  static constexpr unsigned arches = on_x86;
  /// Which MSR.
  std::uint32_t msr;
  /// What the control MSR holds now.
  std::uint64_t control;
  /// Where the guest has what it sends.
  std::uint64_t send_page;
  /// Where it wants to receive.
  std::uint64_t recv_page;
  /// Where it looks for what is pending.
  std::uint64_t pending_page;
  /// The status that the guest is told.
  void reply(std::uint64_t value) const noexcept { page->u.syndbg.status = value; }
  /// Where the answer goes.
  uapi::kvm_hyperv_exit* page;
};

/// KVM_EXIT_ARM_NISV: an access that the hardware did not describe
/// (cap::ArmNisvToUser). The VMM emulates it and moves the PC on.
struct ArmNisv {
  static constexpr unsigned arches = on_arm64;
  /// The syndrome (ISS) of the access.
  std::uint64_t esr_iss;
  /// The address that was accessed.
  Gpa fault_ipa;
};

/// KVM_EXIT_X86_RDMSR (cap::X86UserSpaceMsr): answer with reply() or fail().
struct X86Rdmsr {
  static constexpr unsigned arches = on_x86;
  /// The MSR.
  std::uint32_t index;
  /// Why it came: a bit of cap::X86UserSpaceMsr's mask.
  std::uint32_t reason;
  /// The value that the guest reads.
  void reply(std::uint64_t value) const noexcept {
    page->data = value;
    page->error = 0;  // Also where fail() was called before.
  }
  /// Gives the guest a #GP.
  void fail() const noexcept { page->error = 1; }
  /// Where the answer goes.
  uapi::kvm_run::Msr* page;
};

/// KVM_EXIT_X86_WRMSR (cap::X86UserSpaceMsr): answer with accept() or fail().
struct X86Wrmsr {
  static constexpr unsigned arches = on_x86;
  /// The MSR.
  std::uint32_t index;
  /// Why it came: a bit of cap::X86UserSpaceMsr's mask.
  std::uint32_t reason;
  /// What the guest writes.
  std::uint64_t value;
  /// The guest goes on.
  void accept() const noexcept { page->error = 0; }
  /// Gives the guest a #GP.
  void fail() const noexcept { page->error = 1; }
  /// Where the answer goes.
  uapi::kvm_run::Msr* page;
};

/// KVM_EXIT_DIRTY_RING_FULL: harvest this vCPU's ring and reset the rings; it
/// won't run before.
struct DirtyRingFull {
  static constexpr unsigned arches = everywhere;
};

/// KVM_EXIT_AP_RESET_HOLD: an SEV-ES application processor waits to be started.
struct ApResetHold {
  static constexpr unsigned arches = on_x86;
};

/// KVM_EXIT_X86_BUS_LOCK: the guest took a bus lock (cap::X86BusLockExit).
struct X86BusLock {
  static constexpr unsigned arches = on_x86;
};

/// KVM_EXIT_XEN: a Xen hypercall for the VMM.
struct XenHypercall {
  static constexpr unsigned arches = on_x86;
  /// Whether the guest is in 64-bit mode.
  bool long_mode;
  /// Its privilege level, 0 to 3.
  std::uint32_t cpl;
  /// The number of the call.
  std::uint64_t input;
  /// Its arguments.
  std::span<const std::uint64_t, 6> params;
  /// What the guest's hypercall returns.
  void reply(std::uint64_t value) const noexcept { page->u.hcall.result = value; }
  /// Where the answer goes.
  uapi::kvm_xen_exit* page;
};

/// KVM_EXIT_RISCV_SBI: an SBI call for the VMM.
struct RiscvSbi {
  static constexpr unsigned arches = on_riscv;
  /// The SBI extension that is called.
  unsigned long extension_id;
  /// The function in it.
  unsigned long function_id;
  /// A0 to A5.
  std::span<const unsigned long, 6> args;
  /// The two values that the call returns: error and value.
  void reply(unsigned long error, unsigned long value) const noexcept {
    ret[0] = error;
    ret[1] = value;
  }
  /// Where reply() stores.
  std::span<unsigned long, 2> ret;
};

/// KVM_EXIT_RISCV_CSR: an access to a control and status register.
struct RiscvCsr {
  static constexpr unsigned arches = on_riscv;
  /// The register.
  unsigned long csr_num;
  /// The bits to write.
  unsigned long new_value;
  /// Which bits to write; 0 for a read.
  unsigned long write_mask;
  /// The value that the guest reads.
  void reply(unsigned long value) const noexcept { *ret_value = value; }
  /// Where reply() stores.
  unsigned long* ret_value;
};

/// KVM_EXIT_NOTIFY: the guest kept the CPU from interrupts for longer than
/// cap::X86NotifyVmexit allows.
struct Notify {
  static constexpr unsigned arches = on_x86;
  /// Bit 0: the vCPU's state is corrupt.
  std::uint32_t flags;
};

/// KVM_EXIT_MEMORY_FAULT: the guest touched guest_memfd memory that has no
/// page, or the wrong kind of private or shared memory.
struct MemoryFault {
  static constexpr unsigned arches = on_x86 | on_arm64;
  /// Bit 3 (uapi::memory_exit_flag): it was a private access.
  std::uint64_t flags;
  /// The first address of the range.
  Gpa gpa;
  /// Bytes.
  std::uint64_t size;
  /// EFAULT or EHWPOISON.
  int error_number;
};

/// KVM_EXIT_TDX: a TDX guest asks something of the VMM. Outputs are prefilled
/// with an answer that says "unsupported".
struct Tdx {
  static constexpr unsigned arches = on_x86;
  /// Flags of the exit; none so far.
  std::uint64_t flags;
  /// Which call: a number of the TDX guest interface.
  std::uint64_t number;
  /// Inputs and outputs, as the number says.
  uapi::kvm_run::Tdx* page;
};

/// KVM_EXIT_ARM_SEA: a synchronous external abort (cap::ArmSeaToUser).
struct ArmSea {
  static constexpr unsigned arches = on_arm64;
  /// Bit 0: gpa is valid.
  std::uint64_t flags;
  /// The syndrome.
  std::uint64_t esr;
  /// The virtual address; 0 if the syndrome says that there is none (FnV).
  std::uint64_t gva;
  /// The physical address, if bit 0 of the flags is set.
  Gpa gpa;
};

/// KVM_EXIT_ARM_LDST64B: a 64-byte load or store for the VMM, which moves the
/// PC on.
struct ArmLdst64b {
  static constexpr unsigned arches = on_arm64;
  /// The syndrome (ISS) of the access.
  std::uint64_t esr_iss;
  /// The address that was accessed.
  Gpa fault_ipa;
};

/// KVM_EXIT_SNP_REQ_CERTS: an SEV-SNP guest wants its certificates.
struct SnpReqCerts {
  static constexpr unsigned arches = on_x86;
  /// Where the guest wants them.
  Gpa gpa;
  /// How many pages it has for them.
  std::uint64_t npages;
  /// 0, or ENOSPC with the number of pages needed, EAGAIN, EIO.
  void reply(std::uint64_t result, std::uint64_t pages) const noexcept {
    page->npages = pages;
    page->ret = result;
  }
  /// Where reply() stores.
  uapi::kvm_exit_snp_req_certs* page;
};

}  // namespace exits
KVM_HPP_END

#endif  // !KVM_HPP_REFUSED
#endif
