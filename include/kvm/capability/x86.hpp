// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_CAPABILITY_X86_HPP
#define KVM_HPP_CAPABILITY_X86_HPP

#include <kvm/detail/config.hpp>
#if !KVM_HPP_REFUSED

#include <kvm/capability/info.hpp>

/// @file
/// The capabilities that only x86 has.

KVM_HPP_BEGIN
namespace cap {

/// Parts of Xen's interface that KVM can provide.
enum class XenFlag : std::uint64_t {
  hypercall_msr = 0x1,            ///< a page of hypercalls, placed by an MSR
  intercept_hypercalls = 0x2,     ///< hypercalls are exits
  shared_info = 0x4,              ///< the shared-info page and vCPU info
  runstate = 0x8,                 ///< the area that says how long vCPUs ran
  event_channels = 0x10,          ///< two-level event channels as interrupt routes
  event_channel_send = 0x20,      ///< event channels raised by the guest stay in KVM
  runstate_update_flag = 0x40,    ///< run-state areas are marked while they change
  clock_tsc_unstable = 0x80,      ///< the guest's clock can be called unstable
  shared_info_by_address = 0x100  ///< the shared-info page by the VMM's address
};
constexpr std::array<FlagName<XenFlag>, 9> flag_names(XenFlag) {
  using enum XenFlag;
  return {{{hypercall_msr, "hypercall_msr"},
           {intercept_hypercalls, "intercept_hypercalls"},
           {shared_info, "shared_info"},
           {runstate, "runstate"},
           {event_channels, "event_channels"},
           {event_channel_send, "event_channel_send"},
           {runstate_update_flag, "runstate_update_flag"},
           {clock_tsc_unstable, "clock_tsc_unstable"},
           {shared_info_by_address, "shared_info_by_address"}}};
}

/// What KVM_GET_CLOCK can tell and KVM_SET_CLOCK can take.
enum class ClockFlag : std::uint64_t {
  tsc_stable = 2,  ///< all vCPUs see the same clock
  realtime = 4,    ///< with the host's wall-clock time
  host_tsc = 8,    ///< with the host's time stamp counter
};
constexpr std::array<FlagName<ClockFlag>, 3> flag_names(ClockFlag) {
  using enum ClockFlag;
  return {{{tsc_stable, "tsc_stable"}, {realtime, "realtime"}, {host_tsc, "host_tsc"}}};
}

/// Register sets that can travel in the run page.
enum class SyncRegsFlag : std::uint64_t {
  regs = 1,    ///< general registers
  sregs = 2,   ///< segment and control registers
  events = 4,  ///< pending events
};
constexpr std::array<FlagName<SyncRegsFlag>, 3> flag_names(SyncRegsFlag) {
  using enum SyncRegsFlag;
  return {{{regs, "regs"}, {sregs, "sregs"}, {events, "events"}}};
}

/// Departures from the architecture that KVM keeps for old VMMs.
enum class Quirk : std::uint64_t {
  lint0_reenabled = 0x1,               ///< LINT0 is unmasked at reset
  cd_nw_cleared = 0x2,                 ///< CR0.CD and CR0.NW are clear at reset
  lapic_mmio_hole = 0x4,               ///< the local APIC's page answers in x2APIC mode
  out_7e_inc_rip = 0x8,                ///< OUT to port 0x7e leaves RIP past the instruction
  misc_enable_no_mwait = 0x10,         ///< MISC_ENABLE does not change CPUID's MONITOR bit
  fix_hypercall_insn = 0x20,           ///< the wrong vendor's hypercall is patched
  mwait_never_ud_faults = 0x40,        ///< MONITOR and MWAIT never raise #UD
  slot_zap_all = 0x80,                 ///< deleting a slot drops all shadow pages
  stuff_feature_msrs = 0x100,          ///< feature MSRs start with KVM's values
  ignore_guest_pat = 0x200,            ///< the guest's PAT does not count
  vmcs12_allow_freeze_in_smm = 0x400,  ///< a nested hypervisor may set FREEZE_IN_SMM
  nested_svm_shared_pat = 0x800,       ///< a nested guest shares its hypervisor's PAT
};
constexpr std::array<FlagName<Quirk>, 12> flag_names(Quirk) {
  using enum Quirk;
  return {{{lint0_reenabled, "lint0_reenabled"},
           {cd_nw_cleared, "cd_nw_cleared"},
           {lapic_mmio_hole, "lapic_mmio_hole"},
           {out_7e_inc_rip, "out_7e_inc_rip"},
           {misc_enable_no_mwait, "misc_enable_no_mwait"},
           {fix_hypercall_insn, "fix_hypercall_insn"},
           {mwait_never_ud_faults, "mwait_never_ud_faults"},
           {slot_zap_all, "slot_zap_all"},
           {stuff_feature_msrs, "stuff_feature_msrs"},
           {ignore_guest_pat, "ignore_guest_pat"},
           {vmcs12_allow_freeze_in_smm, "vmcs12_allow_freeze_in_smm"},
           {nested_svm_shared_pat, "nested_svm_shared_pat"}}};
}

/// How KVM treats the local APICs.
enum class X2ApicFlag : std::uint64_t {
  use_32bit_ids = 1,                   ///< interrupt routes and messages carry 32-bit ids
  disable_broadcast_quirk = 2,         ///< id 0xff is a vCPU, not all of them
  enable_suppress_eoi_broadcast = 4,   ///< the guest may suppress EOI broadcasts
  disable_suppress_eoi_broadcast = 8,  ///< the guest never sees that feature
};
constexpr std::array<FlagName<X2ApicFlag>, 4> flag_names(X2ApicFlag) {
  using enum X2ApicFlag;
  return {{{use_32bit_ids, "use_32bit_ids"},
           {disable_broadcast_quirk, "disable_broadcast_quirk"},
           {enable_suppress_eoi_broadcast, "enable_suppress_eoi_broadcast"},
           {disable_suppress_eoi_broadcast, "disable_suppress_eoi_broadcast"}}};
}

/// Instructions that a guest can execute without leaving.
enum class DisabledExit : std::uint64_t {
  mwait = 1,       ///< MWAIT and MONITOR
  hlt = 2,         ///< HLT: the guest idles on the host's CPU
  pause = 4,       ///< PAUSE in loops
  cstate = 8,      ///< reading how long the core slept
  aperfmperf = 16  ///< reading APERF and MPERF
};
constexpr std::array<FlagName<DisabledExit>, 5> flag_names(DisabledExit) {
  using enum DisabledExit;
  return {{{mwait, "mwait"},
           {hlt, "hlt"},
           {pause, "pause"},
           {cstate, "cstate"},
           {aperfmperf, "aperfmperf"}}};
}

/// Which of a guest's MSR accesses are exits.
enum class MsrExitReason : std::uint64_t {
  invalid = 1,   ///< those that KVM refuses
  unknown = 2,   ///< those to MSRs that KVM does not know
  filtered = 4,  ///< those that the MSR filter denies
};
constexpr std::array<FlagName<MsrExitReason>, 3> flag_names(MsrExitReason) {
  using enum MsrExitReason;
  return {{{invalid, "invalid"}, {unknown, "unknown"}, {filtered, "filtered"}}};
}

/// What happens when a guest locks the bus. One of them, never both.
enum class BusLockDetection : std::uint64_t {
  off = 1,   ///< nothing
  exit = 2,  ///< the vCPU leaves with an exit
};
constexpr std::array<FlagName<BusLockDetection>, 2> flag_names(BusLockDetection) {
  return {{{BusLockDetection::off, "off"}, {BusLockDetection::exit, "exit"}}};
}

/// Guest hypercalls that can be exits.
enum class Hypercall : std::uint64_t {
  map_gpa_range = 1 << 12,  ///< the guest changes memory between private and shared
};
constexpr std::array<FlagName<Hypercall>, 1> flag_names(Hypercall) {
  return {{{Hypercall::map_gpa_range, "map_gpa_range"}}};
}

/// What can be changed of a guest's performance counters.
enum class PmuFlag : std::uint64_t {
  disable = 1,  ///< the guest has none
};
constexpr std::array<FlagName<PmuFlag>, 1> flag_names(PmuFlag) {
  return {{{PmuFlag::disable, "disable"}}};
}

/// Attributes that guest memory can have.
enum class MemoryAttribute : std::uint64_t {
  private_memory = 8,  ///< only the guest can read it
};
constexpr std::array<FlagName<MemoryAttribute>, 1> flag_names(MemoryAttribute) {
  return {{{MemoryAttribute::private_memory, "private"}}};
}

/// Kinds of VM that KVM_CREATE_VM takes: bit n is type n.
enum class VmTypeBit : std::uint64_t {
  ordinary = 1 << 0,            ///< type 0
  software_protected = 1 << 1,  ///< type 1, for development
  sev = 1 << 2,                 ///< type 2
  sev_es = 1 << 3,              ///< type 3
  snp = 1 << 4,                 ///< type 4
  tdx = 1 << 5,                 ///< type 5
};
constexpr std::array<FlagName<VmTypeBit>, 6> flag_names(VmTypeBit) {
  using enum VmTypeBit;
  return {{{ordinary, "ordinary"},
           {software_protected, "software_protected"},
           {sev, "sev"},
           {sev_es, "sev_es"},
           {snp, "snp"},
           {tdx, "tdx"}}};
}

// The summary of each says what it means; `Yes` is a bool, `Count` a number.
// clang-format off
struct Hlt : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::hlt, "KVM_CAP_HLT", Arch::x86,
    "The guest's HLT is handled."}; };
struct MmuShadowCacheControl : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::mmu_shadow_cache_control, "KVM_CAP_MMU_SHADOW_CACHE_CONTROL", Arch::x86,
    "The number of shadow pages can be limited."}; };
struct SetTssAddr : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::set_tss_addr, "KVM_CAP_SET_TSS_ADDR", Arch::x86,
    "The three pages that Intel needs for real mode can be placed."}; };
struct Vapic : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::vapic, "KVM_CAP_VAPIC", Arch::x86,
    "The task priority can be shadowed in guest memory."}; };
struct ExtCpuid : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::ext_cpuid, "KVM_CAP_EXT_CPUID", Arch::x86,
    "CPUID tables with sub-leaves can be read and set."}; };
struct Clocksource : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::clocksource, "KVM_CAP_CLOCKSOURCE", Arch::x86,
    "The guest can have KVM's paravirtual clock."}; };
struct Pit : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::pit, "KVM_CAP_PIT", Arch::x86,
    "KVM can emulate the i8254 timer."}; };
struct NopIoDelay : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::nop_io_delay, "KVM_CAP_NOP_IO_DELAY", Arch::x86,
    "Guests are told to skip the delay of port 0x80."}; };
struct PvMmu : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::pv_mmu, "KVM_CAP_PV_MMU", Arch::x86,
    "Paravirtual page tables, which current kernels no longer have."}; };
struct UserNmi : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::user_nmi, "KVM_CAP_USER_NMI", Arch::x86,
    "The VMM can inject a non-maskable interrupt."}; };
struct ReinjectControl : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::reinject_control, "KVM_CAP_REINJECT_CONTROL", Arch::x86,
    "Whether the timer repeats ticks that the guest missed can be chosen."}; };
struct IrqInjectStatus : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::irq_inject_status, "KVM_CAP_IRQ_INJECT_STATUS", Arch::x86,
    "Raising an interrupt line says whether it was delivered or merged."}; };
struct Mce : detail::Count { static constexpr detail::CapInfo info{
    uapi::cap::mce, "KVM_CAP_MCE", Arch::x86,
    "Machine checks can be injected; the value is the most banks."}; };
struct Pit2 : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::pit2, "KVM_CAP_PIT2", Arch::x86,
    "The i8254 timer can be created with options."}; };
struct SetBootCpuId : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::set_boot_cpu_id, "KVM_CAP_SET_BOOT_CPU_ID", Arch::x86,
    "The vCPU that starts first can be chosen."}; };
struct PitState2 : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::pit_state2, "KVM_CAP_PIT_STATE2", Arch::x86,
    "The i8254 timer's state can be saved with its flags."}; };
struct SetIdentityMapAddr : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::set_identity_map_addr, "KVM_CAP_SET_IDENTITY_MAP_ADDR", Arch::x86,
    "The page table that Intel needs for real mode can be placed."}; };
struct XenHvm : detail::Reported<Flags<XenFlag>> { static constexpr detail::CapInfo info{
    uapi::cap::xen_hvm, "KVM_CAP_XEN_HVM", Arch::x86,
    "The parts of Xen's interface that KVM can provide."}; };
struct AdjustClock : detail::Reported<Flags<ClockFlag>> { static constexpr detail::CapInfo info{
    uapi::cap::adjust_clock, "KVM_CAP_ADJUST_CLOCK", Arch::x86,
    "The guest's paravirtual clock can be read and set, with these details."}; };
struct Hyperv : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::hyperv, "KVM_CAP_HYPERV", Arch::x86,
    "The guest can be offered Hyper-V's interface."}; };
struct HypervVapic : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::hyperv_vapic, "KVM_CAP_HYPERV_VAPIC", Arch::x86,
    "Hyper-V's registers for the local APIC."}; };
struct HypervSpin : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::hyperv_spin, "KVM_CAP_HYPERV_SPIN", Arch::x86,
    "Hyper-V's notice that a guest spins on a lock for long."}; };
struct PciSegment : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::pci_segment, "KVM_CAP_PCI_SEGMENT", Arch::x86,
    "PCI devices of segments other than 0, from the days of device assignment."}; };
struct Debugregs : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::debugregs, "KVM_CAP_DEBUGREGS", Arch::x86,
    "The guest's debug registers can be read and set."}; };
struct X86RobustSinglestep : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::x86_robust_singlestep, "KVM_CAP_X86_ROBUST_SINGLESTEP", Arch::x86,
    "Single-stepping leaves the guest's own trap flag alone."}; };
struct EnableCap : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::enable_cap, "KVM_CAP_ENABLE_CAP", Arch::x86,
    "Capabilities can be enabled on a vCPU."}; };
struct Xsave : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::xsave, "KVM_CAP_XSAVE", Arch::x86,
    "Extended processor state can be read and set."}; };
struct Xcrs : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::xcrs, "KVM_CAP_XCRS", Arch::x86,
    "Extended control registers can be read and set."}; };
struct AsyncPf : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::async_pf, "KVM_CAP_ASYNC_PF", Arch::x86,
    "A guest can do other work while the host reads its page from disk."}; };
struct TscControl : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::tsc_control, "KVM_CAP_TSC_CONTROL", Arch::x86,
    "The guest's time stamp counter can run at a frequency of its own."}; };
struct GetTscKhz : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::get_tsc_khz, "KVM_CAP_GET_TSC_KHZ", Arch::x86,
    "The frequency of a guest's time stamp counter can be read."}; };
struct TscDeadlineTimer : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::tsc_deadline_timer, "KVM_CAP_TSC_DEADLINE_TIMER", Arch::x86,
    "The local APIC's timer has the TSC-deadline mode."}; };
struct SyncRegs : detail::Reported<Flags<SyncRegsFlag>> { static constexpr detail::CapInfo info{
    uapi::cap::sync_regs, "KVM_CAP_SYNC_REGS", Arch::x86,
    "Register sets that can travel in the run page, without a system call."}; };
struct KvmclockCtrl : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::kvmclock_ctrl, "KVM_CAP_KVMCLOCK_CTRL", Arch::x86,
    "The guest can be told that it was paused, so that its watchdog stays quiet."}; };
struct ExtEmulCpuid : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::ext_emul_cpuid, "KVM_CAP_EXT_EMUL_CPUID", Arch::x86,
    "Features that KVM emulates in software can be listed."}; };
struct HypervTime : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::hyperv_time, "KVM_CAP_HYPERV_TIME", Arch::x86,
    "Hyper-V's reference counter and clock page."}; };
struct IoapicPolarityIgnored : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::ioapic_polarity_ignored, "KVM_CAP_IOAPIC_POLARITY_IGNORED", Arch::x86,
    "Interrupt lines of the IOAPIC are active high, whatever the guest sets."}; };
struct IoeventfdNoLength : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::ioeventfd_no_length, "KVM_CAP_IOEVENTFD_NO_LENGTH", Arch::x86,
    "An ioeventfd without a length is faster than one with."}; };
struct X86Smm : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::x86_smm, "KVM_CAP_X86_SMM", Arch::x86,
    "Guests can use system management mode."}; };
struct HypervVpIndex : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::hyperv_vp_index, "KVM_CAP_HYPERV_VP_INDEX", Arch::x86,
    "A vCPU's Hyper-V index can be set."}; };
struct GetMsrFeatures : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::get_msr_features, "KVM_CAP_GET_MSR_FEATURES", Arch::x86,
    "MSRs that describe features can be read before there is a VM."}; };
struct HypervEventfd : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::hyperv_eventfd, "KVM_CAP_HYPERV_EVENTFD", Arch::x86,
    "A guest's Hyper-V signal can go to an eventfd."}; };
struct HypervTlbflush : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::hyperv_tlbflush, "KVM_CAP_HYPERV_TLBFLUSH", Arch::x86,
    "Hyper-V's hypercalls that flush the TLB."}; };
struct NestedState : detail::Count { static constexpr detail::CapInfo info{
    uapi::cap::nested_state, "KVM_CAP_NESTED_STATE", Arch::x86,
    "State of nested virtualization can be saved; the value is its size in bytes."}; };
struct HypervSendIpi : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::hyperv_send_ipi, "KVM_CAP_HYPERV_SEND_IPI", Arch::x86,
    "Hyper-V's hypercalls that interrupt other vCPUs."}; };
struct HypervCpuid : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::hyperv_cpuid, "KVM_CAP_HYPERV_CPUID", Arch::x86,
    "The Hyper-V features that KVM offers can be listed."}; };
struct PmuEventFilter : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::pmu_event_filter, "KVM_CAP_PMU_EVENT_FILTER", Arch::x86,
    "The events that a guest may count can be limited."}; };
struct AsyncPfInt : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::async_pf_int, "KVM_CAP_ASYNC_PF_INT", Arch::x86,
    "The guest learns by interrupt that its page has arrived."}; };
struct LastCpu : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::last_cpu, "KVM_CAP_LAST_CPU", Arch::x86,
    "A failed entry says on which host CPU it was."}; };
struct SmallerMaxphyaddr : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::smaller_maxphyaddr, "KVM_CAP_SMALLER_MAXPHYADDR", Arch::x86,
    "A guest's physical addresses can be narrower than the host's."}; };
struct X86MsrFilter : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::x86_msr_filter, "KVM_CAP_X86_MSR_FILTER", Arch::x86,
    "The MSRs that a guest may access can be limited."}; };
struct SysHypervCpuid : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::sys_hyperv_cpuid, "KVM_CAP_SYS_HYPERV_CPUID", Arch::x86,
    "Hyper-V features can be listed before there is a vCPU."}; };
struct Sregs2 : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::sregs2, "KVM_CAP_SREGS2", Arch::x86,
    "Special registers can be read and set together with the PAE page pointers."}; };
struct Xsave2 : detail::Count { static constexpr detail::CapInfo info{
    uapi::cap::xsave2, "KVM_CAP_XSAVE2", Arch::x86,
    "Bytes that a vCPU's extended processor state takes."}; };
struct SysAttributes : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::sys_attributes, "KVM_CAP_SYS_ATTRIBUTES", Arch::x86,
    "The system descriptor has device attributes."}; };
struct VmTscControl : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::vm_tsc_control, "KVM_CAP_VM_TSC_CONTROL", Arch::x86,
    "The frequency of the time stamp counters can be set for the whole VM."}; };
struct PmuEventMaskedEvents : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::pmu_event_masked_events, "KVM_CAP_PMU_EVENT_MASKED_EVENTS", Arch::x86,
    "The filter of countable events can match by mask."}; };
struct MemoryFaultInfo : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::memory_fault_info, "KVM_CAP_MEMORY_FAULT_INFO", Arch::x86,
    "A fault that KVM can't resolve says which memory it was."}; };
struct MultiAddressSpace : detail::Count { static constexpr detail::CapInfo info{
    uapi::cap::multi_address_space, "KVM_CAP_MULTI_ADDRESS_SPACE", Arch::x86,
    "Address spaces that slots can be put in; 0 means only the one."}; };
struct MemoryAttributes : detail::Reported<Flags<MemoryAttribute>> {
  static constexpr detail::CapInfo info{
    uapi::cap::memory_attributes, "KVM_CAP_MEMORY_ATTRIBUTES", Arch::x86,
    "The attributes that ranges of guest memory can be given."}; };
struct VmTypes : detail::Reported<Flags<VmTypeBit>> { static constexpr detail::CapInfo info{
    uapi::cap::vm_types, "KVM_CAP_VM_TYPES", Arch::x86,
    "The kinds of VM that can be created."}; };
struct PreFaultMemory : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::pre_fault_memory, "KVM_CAP_PRE_FAULT_MEMORY", Arch::x86,
    "Guest memory can be mapped before the guest touches it."}; };
struct X86GuestMode : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::x86_guest_mode, "KVM_CAP_X86_GUEST_MODE", Arch::x86,
    "The run page says whether a nested guest was running."}; };
// clang-format on

/// Switches quirks off for good. KVM ignores bits that it does not know: prefer DisableQuirks2.
struct DisableQuirks {
  /// Quirks to do without.
  Flags<Quirk> quirks;

  static constexpr detail::CapInfo info{
      .number = uapi::cap::disable_quirks,
      .name = "KVM_CAP_DISABLE_QUIRKS",
      .check_arches = Arch::x86,
      .summary = "Quirks can be switched off, without a word on unknown ones.",
      .scope = detail::EnableScope::vm,
      .enable_arches = Arch::x86};
  using Value = bool;
  static constexpr Value decode(int raw) { return detail::decode_value<Value>(raw); }
  constexpr detail::CapArgs args() const { return {quirks.raw()}; }
  std::string describe() const { return detail::argument("quirks", quirks); }
};

/// The local APICs are in the kernel, the IOAPIC and the PIC in the VMM. Instead of an in-kernel
/// irqchip.
struct SplitIrqchip {
  /// Interrupt routes kept for the IOAPIC of the VMM, whose EOIs become exits; 0 to 4096.
  std::uint32_t userspace_ioapic_routes = 24;

  static constexpr detail::CapInfo info{
      .number = uapi::cap::split_irqchip,
      .name = "KVM_CAP_SPLIT_IRQCHIP",
      .check_arches = Arch::x86,
      .summary = "The local APIC can be in the kernel while the IOAPIC is in the VMM.",
      .scope = detail::EnableScope::vm,
      .enable_arches = Arch::x86,
      .order = detail::Order::before_vcpus,
      .constraint = "at most 4096 routes can be kept for the IOAPIC"};
  using Value = bool;
  static constexpr Value decode(int raw) { return detail::decode_value<Value>(raw); }
  constexpr detail::CapArgs args() const { return {userspace_ioapic_routes}; }
  std::string describe() const {
    return detail::argument("userspace_ioapic_routes", userspace_ioapic_routes);
  }
};

/// Hyper-V synthetic interrupt controller, as old Hyper-V guests of KVM had it; prefer
/// HypervSynic2.
struct HypervSynic {
  static constexpr detail::CapInfo info{
      .number = uapi::cap::hyperv_synic,
      .name = "KVM_CAP_HYPERV_SYNIC",
      .check_arches = Arch::x86,
      .summary = "Hyper-V's synthetic interrupt controller, with message pages cleared by KVM.",
      .scope = detail::EnableScope::vcpu,
      .enable_arches = Arch::x86,
      .order = detail::Order::after_irqchip,
      .constraint = "the local APIC must be in the kernel, and KVM built with Hyper-V support"};
  using Value = bool;
  static constexpr Value decode(int raw) { return detail::decode_value<Value>(raw); }
  constexpr detail::CapArgs args() const { return {}; }
  std::string describe() const { return {}; }
};

/// How interrupt ids and EOI broadcasts behave. Flags are only ever added.
struct X2ApicApi {
  /// enable_ and disable_suppress_eoi_broadcast exclude each other; the former needs a split
  /// irqchip.
  Flags<X2ApicFlag> flags;

  static constexpr detail::CapInfo info{
      .number = uapi::cap::x2apic_api,
      .name = "KVM_CAP_X2APIC_API",
      .check_arches = Arch::x86,
      .summary = "Ways in which the x2APIC can behave.",
      .scope = detail::EnableScope::vm,
      .enable_arches = Arch::x86,
      .constraint =
          "the two suppress_eoi_broadcast flags exclude each other, the enabling one needs a split "
          "irqchip first, and every flag must be among what check() on this VM gives"};
  using Value = Flags<X2ApicFlag>;
  static constexpr Value decode(int raw) { return detail::decode_value<Value>(raw); }
  constexpr detail::CapArgs args() const { return {flags.raw()}; }
  std::string describe() const { return detail::argument("flags", flags); }
};

/// Lets the guest execute some instructions without leaving, at the cost of the host not noticing
/// that it idles.
struct X86DisableExits {
  /// Exits to do without.
  Flags<DisabledExit> exits;

  static constexpr detail::CapInfo info{.number = uapi::cap::x86_disable_exits,
                                        .name = "KVM_CAP_X86_DISABLE_EXITS",
                                        .check_arches = Arch::x86,
                                        .summary = "Exits that a VM can do without.",
                                        .scope = detail::EnableScope::vm,
                                        .enable_arches = Arch::x86,
                                        .order = detail::Order::before_vcpus,
                                        .constraint = "the exits must be among what check() gives"};
  using Value = Flags<DisabledExit>;
  static constexpr Value decode(int raw) { return detail::decode_value<Value>(raw); }
  constexpr detail::CapArgs args() const { return {exits.raw()}; }
  std::string describe() const { return detail::argument("exits", exits); }
};

/// Hyper-V synthetic interrupt controller whose message pages the guest owns.
struct HypervSynic2 {
  static constexpr detail::CapInfo info{
      .number = uapi::cap::hyperv_synic2,
      .name = "KVM_CAP_HYPERV_SYNIC2",
      .check_arches = Arch::x86,
      .summary = "Hyper-V's synthetic interrupt controller.",
      .scope = detail::EnableScope::vcpu,
      .enable_arches = Arch::x86,
      .order = detail::Order::after_irqchip,
      .constraint = "the local APIC must be in the kernel, and KVM built with Hyper-V support"};
  using Value = bool;
  static constexpr Value decode(int raw) { return detail::decode_value<Value>(raw); }
  constexpr detail::CapArgs args() const { return {}; }
  std::string describe() const { return {}; }
};

/// The guest may read MSR_PLATFORM_INFO; on unless switched off.
struct MsrPlatformInfo {
  /// False switches it off.
  bool enabled = true;

  static constexpr detail::CapInfo info{
      .number = uapi::cap::msr_platform_info,
      .name = "KVM_CAP_MSR_PLATFORM_INFO",
      .check_arches = Arch::x86,
      .summary = "Whether the guest may read MSR_PLATFORM_INFO can be chosen.",
      .scope = detail::EnableScope::vm,
      .enable_arches = Arch::x86};
  using Value = bool;
  static constexpr Value decode(int raw) { return detail::decode_value<Value>(raw); }
  constexpr detail::CapArgs args() const { return {enabled ? 1u : 0u}; }
  std::string describe() const { return detail::argument("enabled", enabled); }
};

/// Hyper-V's fast form of nested virtualization on Intel. KVM writes its version through the
/// pointer.
struct HypervEnlightenedVmcs {
  /// Where KVM stores the version; not null.
  std::uint16_t* version = nullptr;

  static constexpr detail::CapInfo info{
      .number = uapi::cap::hyperv_enlightened_vmcs,
      .name = "KVM_CAP_HYPERV_ENLIGHTENED_VMCS",
      .check_arches = Arch::x86,
      .summary = "Hyper-V's fast form of nested virtualization.",
      .scope = detail::EnableScope::vcpu,
      .enable_arches = Arch::x86,
      .constraint =
          "nested virtualization on Intel must be on, and KVM built with Hyper-V support"};
  using Value = bool;
  static constexpr Value decode(int raw) { return detail::decode_value<Value>(raw); }
  detail::CapArgs args() const { return {reinterpret_cast<std::uint64_t>(version)}; }
  std::string describe() const {
    return std::string("version=") + (version != nullptr ? "(written by KVM)" : "null");
  }
};

/// A pending exception's payload (CR2, DR6) is part of a vCPU's events instead of the registers.
struct ExceptionPayload {
  /// False switches it off.
  bool enabled = true;

  static constexpr detail::CapInfo info{
      .number = uapi::cap::exception_payload,
      .name = "KVM_CAP_EXCEPTION_PAYLOAD",
      .check_arches = Arch::x86,
      .summary = "Pending exceptions can be saved with their payload.",
      .scope = detail::EnableScope::vm,
      .enable_arches = Arch::x86};
  using Value = bool;
  static constexpr Value decode(int raw) { return detail::decode_value<Value>(raw); }
  constexpr detail::CapArgs args() const { return {enabled ? 1u : 0u}; }
  std::string describe() const { return detail::argument("enabled", enabled); }
};

/// Hyper-V, running under KVM under Hyper-V, serves TLB flushes of the guest itself.
struct HypervDirectTlbflush {
  static constexpr detail::CapInfo info{
      .number = uapi::cap::hyperv_direct_tlbflush,
      .name = "KVM_CAP_HYPERV_DIRECT_TLBFLUSH",
      .check_arches = Arch::x86,
      .summary = "The outer Hyper-V can serve the TLB flushes of the guest.",
      .scope = detail::EnableScope::vcpu,
      .enable_arches = Arch::x86,
      .constraint = "this works only where KVM itself runs on Hyper-V"};
  using Value = bool;
  static constexpr Value decode(int raw) { return detail::decode_value<Value>(raw); }
  constexpr detail::CapArgs args() const { return {}; }
  std::string describe() const { return {}; }
};

/// MSR accesses that would raise #GP in the guest become exits. Overwrites; the empty set
/// switches it off.
struct X86UserSpaceMsr {
  /// Which accesses. Keep `filtered` set as long as an MSR filter is in force.
  Flags<MsrExitReason> reasons;

  static constexpr detail::CapInfo info{
      .number = uapi::cap::x86_user_space_msr,
      .name = "KVM_CAP_X86_USER_SPACE_MSR",
      .check_arches = Arch::x86,
      .summary = "MSR accesses that KVM refuses can be exits.",
      .scope = detail::EnableScope::vm,
      .enable_arches = Arch::x86,
      .constraint = "there are no other reasons than invalid, unknown and filtered"};
  using Value = bool;
  static constexpr Value decode(int raw) { return detail::decode_value<Value>(raw); }
  constexpr detail::CapArgs args() const { return {reasons.raw()}; }
  std::string describe() const { return detail::argument("reasons", reasons); }
};

/// The guest gets only those paravirtual features that its CPUID shows.
struct EnforcePvFeatureCpuid {
  /// False switches it off.
  bool enabled = true;

  static constexpr detail::CapInfo info{
      .number = uapi::cap::enforce_pv_feature_cpuid,
      .name = "KVM_CAP_ENFORCE_PV_FEATURE_CPUID",
      .check_arches = Arch::x86,
      .summary = "Paravirtual features can be limited to what CPUID shows.",
      .scope = detail::EnableScope::vcpu,
      .enable_arches = Arch::x86};
  using Value = bool;
  static constexpr Value decode(int raw) { return detail::decode_value<Value>(raw); }
  constexpr detail::CapArgs args() const { return {enabled ? 1u : 0u}; }
  std::string describe() const { return detail::argument("enabled", enabled); }
};

/// Dirty pages are reported in a ring per vCPU. Once per VM; DirtyLogRingAcqRel is the same with
/// a promise about memory order and works everywhere.
struct DirtyLogRing {
  /// Size of the ring of each vCPU in bytes, 16 per entry: a power of two, at least a page, at
  /// most what check() gives.
  std::uint32_t bytes = 65536;

  static constexpr detail::CapInfo info{
      .number = uapi::cap::dirty_log_ring,
      .name = "KVM_CAP_DIRTY_LOG_RING",
      .check_arches = Arch::x86,
      .summary =
          "Dirty pages can be reported in a ring per vCPU; the value is its largest size in bytes.",
      .scope = detail::EnableScope::vm,
      .enable_arches = Arch::x86,
      .order = detail::Order::before_vcpus,
      .constraint =
          "the size in bytes is a power of two, at least a page and large enough for the entries "
          "that KVM reserves; a VM's ring is enabled once, under one of its two names"};
  using Value = std::uint32_t;
  static constexpr Value decode(int raw) { return detail::decode_value<Value>(raw); }
  constexpr detail::CapArgs args() const { return {bytes}; }
  std::string describe() const { return detail::argument("bytes", bytes); }
};

/// What KVM does when a guest locks the bus. On hardware that can not tell, `exit` succeeds and
/// does nothing: check() first. It can not be switched off again.
struct X86BusLockExit {
  /// One of the two.
  BusLockDetection mode = BusLockDetection::exit;

  static constexpr detail::CapInfo info{
      .number = uapi::cap::x86_bus_lock_exit,
      .name = "KVM_CAP_X86_BUS_LOCK_EXIT",
      .check_arches = Arch::x86,
      .summary = "Guests that lock the bus can be noticed.",
      .scope = detail::EnableScope::vm,
      .enable_arches = Arch::x86,
      .constraint = "the mode must be one of what check() gives, never both"};
  using Value = Flags<BusLockDetection>;
  static constexpr Value decode(int raw) { return detail::decode_value<Value>(raw); }
  constexpr detail::CapArgs args() const { return {static_cast<std::uint64_t>(mode)}; }
  std::string describe() const { return detail::argument("mode", Flags<BusLockDetection>(mode)); }
};

/// The guest may use a privileged enclave attribute.
struct SgxAttribute {
  /// An open /dev/sgx_provision.
  int attribute_fd = -1;

  static constexpr detail::CapInfo info{
      .number = uapi::cap::sgx_attribute,
      .name = "KVM_CAP_SGX_ATTRIBUTE",
      .check_arches = Arch::x86,
      .summary = "Privileged enclave attributes can be granted.",
      .scope = detail::EnableScope::vm,
      .enable_arches = Arch::x86,
      .constraint =
          "the descriptor must be that of an SGX attribute, and KVM built with SGX support"};
  using Value = bool;
  static constexpr Value decode(int raw) { return detail::decode_value<Value>(raw); }
  constexpr detail::CapArgs args() const { return {static_cast<std::uint32_t>(attribute_fd)}; }
  std::string describe() const { return detail::argument("attribute_fd", attribute_fd); }
};

/// Encrypts this VM with the keys of another, for SEV. KVM reports this even where SEV is
/// missing.
struct VmCopyEncContextFrom {
  /// Descriptor of the VM to copy from; stays open and usable.
  int source_vm_fd = -1;

  static constexpr detail::CapInfo info{
      .number = uapi::cap::vm_copy_enc_context_from,
      .name = "KVM_CAP_VM_COPY_ENC_CONTEXT_FROM",
      .check_arches = Arch::x86,
      .summary = "A VM can share the encryption of another.",
      .scope = detail::EnableScope::vm,
      .enable_arches = Arch::x86,
      .constraint =
          "SEV must work here, the source must be an encrypted VM and this one not yet; check() "
          "says yes even where it can not be enabled"};
  using Value = bool;
  static constexpr Value decode(int raw) { return detail::decode_value<Value>(raw); }
  constexpr detail::CapArgs args() const { return {static_cast<std::uint32_t>(source_vm_fd)}; }
  std::string describe() const { return detail::argument("source_vm_fd", source_vm_fd); }
};

/// The guest gets only those Hyper-V features that its CPUID shows.
struct HypervEnforceCpuid {
  /// False switches it off.
  bool enabled = true;

  static constexpr detail::CapInfo info{
      .number = uapi::cap::hyperv_enforce_cpuid,
      .name = "KVM_CAP_HYPERV_ENFORCE_CPUID",
      .check_arches = Arch::x86,
      .summary = "Hyper-V features can be limited to what CPUID shows.",
      .scope = detail::EnableScope::vcpu,
      .enable_arches = Arch::x86,
      .constraint = "KVM must be built with Hyper-V support"};
  using Value = bool;
  static constexpr Value decode(int raw) { return detail::decode_value<Value>(raw); }
  constexpr detail::CapArgs args() const { return {enabled ? 1u : 0u}; }
  std::string describe() const { return detail::argument("enabled", enabled); }
};

/// Hypercalls that become exits. Overwrites; the empty set switches it off.
struct ExitHypercall {
  /// At most what check() gives.
  Flags<Hypercall> hypercalls;

  static constexpr detail::CapInfo info{
      .number = uapi::cap::exit_hypercall,
      .name = "KVM_CAP_EXIT_HYPERCALL",
      .check_arches = Arch::x86,
      .summary = "Hypercalls that can be exits.",
      .scope = detail::EnableScope::vm,
      .enable_arches = Arch::x86,
      .constraint = "the hypercalls must be among what check() gives"};
  using Value = Flags<Hypercall>;
  static constexpr Value decode(int raw) { return detail::decode_value<Value>(raw); }
  constexpr detail::CapArgs args() const { return {hypercalls.raw()}; }
  std::string describe() const { return detail::argument("hypercalls", hypercalls); }
};

/// An instruction that KVM can not emulate always ends in an InternalError exit, instead of #UD
/// in the guest.
struct ExitOnEmulationFailure {
  /// False switches it off.
  bool enabled = true;

  static constexpr detail::CapInfo info{
      .number = uapi::cap::exit_on_emulation_failure,
      .name = "KVM_CAP_EXIT_ON_EMULATION_FAILURE",
      .check_arches = Arch::x86,
      .summary = "Instructions that KVM can not emulate can be exits.",
      .scope = detail::EnableScope::vm,
      .enable_arches = Arch::x86};
  using Value = bool;
  static constexpr Value decode(int raw) { return detail::decode_value<Value>(raw); }
  constexpr detail::CapArgs args() const { return {enabled ? 1u : 0u}; }
  std::string describe() const { return detail::argument("enabled", enabled); }
};

/// Takes over the encryption of another VM, for SEV. KVM reports this even where SEV is missing.
struct VmMoveEncContextFrom {
  /// Descriptor of the VM to move from; it can not run afterwards.
  int source_vm_fd = -1;

  static constexpr detail::CapInfo info{
      .number = uapi::cap::vm_move_enc_context_from,
      .name = "KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM",
      .check_arches = Arch::x86,
      .summary = "A VM can take over the encryption of another.",
      .scope = detail::EnableScope::vm,
      .enable_arches = Arch::x86,
      .constraint =
          "SEV must work here, the source must be an encrypted VM and this one not yet; check() "
          "says yes even where it can not be enabled"};
  using Value = bool;
  static constexpr Value decode(int raw) { return detail::decode_value<Value>(raw); }
  constexpr detail::CapArgs args() const { return {static_cast<std::uint32_t>(source_vm_fd)}; }
  std::string describe() const { return detail::argument("source_vm_fd", source_vm_fd); }
};

/// Changes the performance counters of the guest. The empty set gives them back.
struct PmuCapability {
  /// At most what check() gives.
  Flags<PmuFlag> flags;

  static constexpr detail::CapInfo info{
      .number = uapi::cap::pmu_capability,
      .name = "KVM_CAP_PMU_CAPABILITY",
      .check_arches = Arch::x86,
      .summary = "What can be changed of the guest's performance counters.",
      .scope = detail::EnableScope::vm,
      .enable_arches = Arch::x86,
      .order = detail::Order::before_vcpus,
      .constraint =
          "the flags must be among what check() gives, which is none where the kvm module has "
          "enable_pmu=N"};
  using Value = Flags<PmuFlag>;
  static constexpr Value decode(int raw) { return detail::decode_value<Value>(raw); }
  constexpr detail::CapArgs args() const { return {flags.raw()}; }
  std::string describe() const { return detail::argument("flags", flags); }
};

/// Switches quirks off for good.
struct DisableQuirks2 {
  /// At most what check() gives. stuff_feature_msrs matters only to vCPUs created later.
  Flags<Quirk> quirks;

  static constexpr detail::CapInfo info{
      .number = uapi::cap::disable_quirks2,
      .name = "KVM_CAP_DISABLE_QUIRKS2",
      .check_arches = Arch::x86,
      .summary = "Quirks that can be switched off.",
      .scope = detail::EnableScope::vm,
      .enable_arches = Arch::x86,
      .constraint = "the quirks must be among what check() gives"};
  using Value = Flags<Quirk>;
  static constexpr Value decode(int raw) { return detail::decode_value<Value>(raw); }
  constexpr detail::CapArgs args() const { return {quirks.raw()}; }
  std::string describe() const { return detail::argument("quirks", quirks); }
};

/// A pending triple fault is part of a vCPU's events.
struct X86TripleFaultEvent {
  /// False switches it off.
  bool enabled = true;

  static constexpr detail::CapInfo info{
      .number = uapi::cap::x86_triple_fault_event,
      .name = "KVM_CAP_X86_TRIPLE_FAULT_EVENT",
      .check_arches = Arch::x86,
      .summary = "Pending triple faults can be saved and injected.",
      .scope = detail::EnableScope::vm,
      .enable_arches = Arch::x86};
  using Value = bool;
  static constexpr Value decode(int raw) { return detail::decode_value<Value>(raw); }
  constexpr detail::CapArgs args() const { return {enabled ? 1u : 0u}; }
  std::string describe() const { return detail::argument("enabled", enabled); }
};

/// A guest that blocks its CPU for long is made to leave, on Intel. Can not be switched off.
struct X86NotifyVmexit {
  /// How long, in units of the CPU's crystal clock, beyond what the hardware adds.
  std::uint32_t window = 0;
  /// Every such event is an exit to the VMM, not only those that lose context.
  bool exit_to_user = true;

  static constexpr detail::CapInfo info{
      .number = uapi::cap::x86_notify_vmexit,
      .name = "KVM_CAP_X86_NOTIFY_VMEXIT",
      .check_arches = Arch::x86,
      .summary = "Guests that block their CPU can be made to leave.",
      .scope = detail::EnableScope::vm,
      .enable_arches = Arch::x86,
      .order = detail::Order::before_vcpus,
      .constraint = "the CPU must have notify VM exits; check() says"};
  using Value = bool;
  static constexpr Value decode(int raw) { return detail::decode_value<Value>(raw); }
  constexpr detail::CapArgs args() const {
    return {std::uint64_t{window} << 32 | (exit_to_user ? 2u : 0u) | 1u};
  }
  std::string describe() const {
    return detail::argument("window", window) + ", " +
           detail::argument("exit_to_user", exit_to_user);
  }
};

/// Huge pages of this VM stay executable: faster, for guests that are trusted not to use the iTLB
/// multihit erratum. Needs CAP_SYS_BOOT.
struct VmDisableNxHugePages {
  static constexpr detail::CapInfo info{
      .number = uapi::cap::vm_disable_nx_huge_pages,
      .name = "KVM_CAP_VM_DISABLE_NX_HUGE_PAGES",
      .check_arches = Arch::x86,
      .summary = "The iTLB multihit mitigation can be switched off per VM.",
      .scope = detail::EnableScope::vm,
      .enable_arches = Arch::x86,
      .order = detail::Order::before_vcpus};
  using Value = bool;
  static constexpr Value decode(int raw) { return detail::decode_value<Value>(raw); }
  constexpr detail::CapArgs args() const { return {}; }
  std::string describe() const { return {}; }
};

/// The period of the clock of the APIC timers.
struct X86ApicBusCyclesNs {
  /// Nanoseconds per bus cycle, not 0; 1 is what KVM does by itself.
  std::uint64_t ns = 1;

  static constexpr detail::CapInfo info{
      .number = uapi::cap::x86_apic_bus_cycles_ns,
      .name = "KVM_CAP_X86_APIC_BUS_CYCLES_NS",
      .check_arches = Arch::x86,
      .summary = "Nanoseconds per APIC timer cycle; can be set per VM.",
      .scope = detail::EnableScope::vm,
      .enable_arches = Arch::x86,
      .order = detail::Order::after_irqchip_before_vcpus,
      .constraint = "the period is not 0, and small enough that the timer can not overflow"};
  using Value = std::uint32_t;
  static constexpr Value decode(int raw) { return detail::decode_value<Value>(raw); }
  constexpr detail::CapArgs args() const { return {ns}; }
  std::string describe() const { return detail::argument("ns", ns); }
};

}  // namespace cap
KVM_HPP_END

#endif  // !KVM_HPP_REFUSED
#endif
