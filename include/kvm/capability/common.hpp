// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_CAPABILITY_COMMON_HPP
#define KVM_HPP_CAPABILITY_COMMON_HPP

#include <kvm/detail/config.hpp>
#if !KVM_HPP_REFUSED

#include <kvm/capability/info.hpp>

/// @file
/// The capabilities that more than one architecture has.

KVM_HPP_BEGIN
namespace cap {

/// How a vCPU can be debugged: the control bits of KVM_SET_GUEST_DEBUG.
enum class GuestDebugFlag : std::uint64_t {
  enable = 0x1,                    ///< debugging is on
  single_step = 0x2,               ///< an exit after each instruction
  software_breakpoints = 0x10000,  ///< breakpoint instructions are exits
  hardware_breakpoints = 0x20000,  ///< the debug registers belong to the VMM
  inject_db = 0x40000,             ///< x86: raise #DB in the guest
  inject_bp = 0x80000,             ///< x86: raise #BP in the guest
  block_irq = 0x100000,            ///< x86: no interrupts while single-stepping
};
constexpr std::array<FlagName<GuestDebugFlag>, 7> flag_names(GuestDebugFlag) {
  using enum GuestDebugFlag;
  return {{{enable, "enable"},
           {single_step, "single_step"},
           {software_breakpoints, "software_breakpoints"},
           {hardware_breakpoints, "hardware_breakpoints"},
           {inject_db, "inject_db"},
           {inject_bp, "inject_bp"},
           {block_irq, "block_irq"}}};
}

/// What ManualDirtyLogProtect2 can do.
enum class ManualDirtyLogFlag : std::uint64_t {
  enable = 1,         ///< getting the log no longer clears it
  initially_set = 2,  ///< a new log starts with all pages dirty
};
constexpr std::array<FlagName<ManualDirtyLogFlag>, 2> flag_names(ManualDirtyLogFlag) {
  return {{{ManualDirtyLogFlag::enable, "enable"},
           {ManualDirtyLogFlag::initially_set, "initially_set"}}};
}

/// What a guest_memfd can be created with.
enum class GuestMemfdFlag : std::uint64_t {
  mmap = 1,         ///< the VMM can map it
  init_shared = 2,  ///< its memory starts shared rather than private
};
constexpr std::array<FlagName<GuestMemfdFlag>, 2> flag_names(GuestMemfdFlag) {
  return {{{GuestMemfdFlag::mmap, "mmap"}, {GuestMemfdFlag::init_shared, "init_shared"}}};
}

// The summary of each says what it means; `Yes` is a bool, `Count` a number.
// clang-format off
struct Irqchip : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::irqchip, "KVM_CAP_IRQCHIP", all_arches,
    "KVM can emulate the interrupt controller in the kernel."}; };
struct UserMemory : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::user_memory, "KVM_CAP_USER_MEMORY", all_arches,
    "Guest memory is the VMM's own memory, given as slots."}; };
struct NrVcpus : detail::Count { static constexpr detail::CapInfo info{
    uapi::cap::nr_vcpus, "KVM_CAP_NR_VCPUS", all_arches,
    "Recommended maximum number of vCPUs in a VM."}; };
struct NrMemslots : detail::Count { static constexpr detail::CapInfo info{
    uapi::cap::nr_memslots, "KVM_CAP_NR_MEMSLOTS", all_arches,
    "Memory slots that one address space can have."}; };
struct MpState : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::mp_state, "KVM_CAP_MP_STATE", all_arches,
    "Whether a vCPU runs, halts or waits to be started can be read and set."}; };
struct CoalescedMmio : detail::Count { static constexpr detail::CapInfo info{
    uapi::cap::coalesced_mmio, "KVM_CAP_COALESCED_MMIO", all_arches,
    "MMIO writes can be batched in a ring; the value is its page within the vCPU's mapping."}; };
struct SyncMmu : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::sync_mmu, "KVM_CAP_SYNC_MMU", all_arches,
    "Changes of the VMM's mappings reach the guest at once."}; };
struct DestroyMemoryRegionWorks : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::destroy_memory_region_works, "KVM_CAP_DESTROY_MEMORY_REGION_WORKS", all_arches,
    "Memory slots can be deleted."}; };
struct SetGuestDebug : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::set_guest_debug, "KVM_CAP_SET_GUEST_DEBUG", all_arches,
    "The VMM can single-step a guest and set breakpoints."}; };
struct IrqRouting : detail::Count { static constexpr detail::CapInfo info{
    uapi::cap::irq_routing, "KVM_CAP_IRQ_ROUTING", all_arches,
    "Interrupt lines can be routed to pins and messages; the value is the most routes."}; };
struct JoinMemoryRegionsWorks : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::join_memory_regions_works, "KVM_CAP_JOIN_MEMORY_REGIONS_WORKS", all_arches,
    "A deleted slot's range can be covered by a larger slot."}; };
struct Irqfd : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::irqfd, "KVM_CAP_IRQFD", all_arches,
    "An eventfd can raise a guest's interrupt."}; };
struct Ioeventfd : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::ioeventfd, "KVM_CAP_IOEVENTFD", all_arches,
    "A guest's write can signal an eventfd instead of leaving the guest."}; };
struct InternalErrorData : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::internal_error_data, "KVM_CAP_INTERNAL_ERROR_DATA", all_arches,
    "Internal-error exits carry details."}; };
struct VcpuEvents : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::vcpu_events, "KVM_CAP_VCPU_EVENTS", Arch::x86 | Arch::arm64,
    "A vCPU's pending exceptions and interrupts can be read and set."}; };
struct MaxVcpus : detail::Count { static constexpr detail::CapInfo info{
    uapi::cap::max_vcpus, "KVM_CAP_MAX_VCPUS", all_arches,
    "The most vCPUs that a VM can have."}; };
struct OneReg : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::one_reg, "KVM_CAP_ONE_REG", all_arches,
    "Registers can be read and set one by one, by id."}; };
struct SignalMsi : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::signal_msi, "KVM_CAP_SIGNAL_MSI", all_arches,
    "A message-signalled interrupt can be injected without a route."}; };
struct ReadonlyMem : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::readonly_mem, "KVM_CAP_READONLY_MEM", all_arches,
    "A slot can be read-only to the guest, whose writes become MMIO exits."}; };
struct IrqfdResample : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::irqfd_resample, "KVM_CAP_IRQFD_RESAMPLE", Arch::x86 | Arch::arm64,
    "Level-triggered irqfds: a second eventfd says when the guest acknowledged."}; };
struct DeviceCtrl : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::device_ctrl, "KVM_CAP_DEVICE_CTRL", all_arches,
    "KVM can create in-kernel devices and set their attributes."}; };
struct EnableCapVm : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::enable_cap_vm, "KVM_CAP_ENABLE_CAP_VM", all_arches,
    "Capabilities can be enabled on a VM."}; };
struct CheckExtensionVm : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::check_extension_vm, "KVM_CAP_CHECK_EXTENSION_VM", all_arches,
    "A VM can be asked for its own capabilities."}; };
struct IoeventfdAnyLength : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::ioeventfd_any_length, "KVM_CAP_IOEVENTFD_ANY_LENGTH", all_arches,
    "An ioeventfd can match writes of any length."}; };
struct VcpuAttributes : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::vcpu_attributes, "KVM_CAP_VCPU_ATTRIBUTES", Arch::x86 | Arch::arm64,
    "vCPUs have device attributes."}; };
struct ImmediateExit : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::immediate_exit, "KVM_CAP_IMMEDIATE_EXIT", all_arches,
    "A flag in the run page makes the next entry return at once."}; };
struct CoalescedPio : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::coalesced_pio, "KVM_CAP_COALESCED_PIO", all_arches,
    "Port writes can be batched in the same ring as MMIO writes."}; };
struct StealTime : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::steal_time, "KVM_CAP_STEAL_TIME", Arch::x86 | Arch::arm64,
    "The guest can be told how long its vCPUs waited for a host CPU."}; };
struct SetGuestDebug2 : detail::Reported<Flags<GuestDebugFlag>> {
  static constexpr detail::CapInfo info{
    uapi::cap::set_guest_debug2, "KVM_CAP_SET_GUEST_DEBUG2", Arch::x86 | Arch::arm64,
    "The control bits that guest debugging takes."}; };
struct GuestDebugHwBps : detail::Count { static constexpr detail::CapInfo info{
    uapi::cap::guest_debug_hw_bps, "KVM_CAP_GUEST_DEBUG_HW_BPS", Arch::arm64,
    "Hardware breakpoints for guest debugging."}; };
struct GuestDebugHwWps : detail::Count { static constexpr detail::CapInfo info{
    uapi::cap::guest_debug_hw_wps, "KVM_CAP_GUEST_DEBUG_HW_WPS", Arch::arm64,
    "Hardware watchpoints for guest debugging."}; };
struct BinaryStatsFd : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::binary_stats_fd, "KVM_CAP_BINARY_STATS_FD", all_arches,
    "VMs and vCPUs have statistics that describe themselves, read from a descriptor."}; };
struct SystemEventData : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::system_event_data, "KVM_CAP_SYSTEM_EVENT_DATA", all_arches,
    "System-event exits carry details."}; };
struct UserMemory2 : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::user_memory2, "KVM_CAP_USER_MEMORY2", all_arches,
    "Slots can be backed by a guest_memfd beside the VMM's memory."}; };
struct GuestMemfd : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::guest_memfd, "KVM_CAP_GUEST_MEMFD", Arch::x86 | Arch::arm64,
    "Guest memory can live in a file that only KVM maps by default."}; };
struct GuestMemfdFlags : detail::Reported<Flags<GuestMemfdFlag>> {
  static constexpr detail::CapInfo info{
    uapi::cap::guest_memfd_flags, "KVM_CAP_GUEST_MEMFD_FLAGS", Arch::x86 | Arch::arm64,
    "The flags that a guest_memfd can be created with."}; };
// clang-format on

/// The most a vCPU id can be, plus one; x86 VMs can lower it to save memory.
struct MaxVcpuId {
  /// Ids, which are APIC ids, stay below this. At most what check() gives.
  std::uint32_t limit = 0;

  static constexpr detail::CapInfo info{
      .number = uapi::cap::max_vcpu_id,
      .name = "KVM_CAP_MAX_VCPU_ID",
      .check_arches = Arch::x86 | Arch::arm64,
      .summary = "vCPU ids, which are APIC ids on x86, are below this.",
      .scope = detail::EnableScope::vm,
      .enable_arches = Arch::x86,
      .order = detail::Order::before_vcpus,
      .constraint =
          "the limit is at most what check() gives, is above the boot vCPU's id, and "
          "can be set to one value only"};
  using Value = std::uint32_t;
  static constexpr Value decode(int raw) { return detail::decode_value<Value>(raw); }
  constexpr detail::CapArgs args() const { return {limit}; }
  std::string describe() const { return detail::argument("limit", limit); }
};

/// Getting the dirty log no longer clears it: the VMM clears the pages that it
/// is about to send. Can be changed at any time; initially_set acts on logs that
/// start later. Together with a dirty ring, initially_set loses data.
struct ManualDirtyLogProtect2 {
  /// False switches back to a log that is cleared as it is read.
  bool enabled = true;
  /// A log starts with every page dirty, which spares write-protecting it all at once.
  bool initially_set = false;

  static constexpr detail::CapInfo info{
      .number = uapi::cap::manual_dirty_log_protect2,
      .name = "KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2",
      .check_arches = all_arches,
      .summary = "Reading the dirty log and clearing it can be two steps; the value is the modes.",
      .scope = detail::EnableScope::vm,
      .enable_arches = all_arches,
      .constraint = "initially_set needs enabled, and both must be among what check() gives"};
  using Value = Flags<ManualDirtyLogFlag>;
  static constexpr Value decode(int raw) { return detail::decode_value<Value>(raw); }
  constexpr detail::CapArgs args() const {
    return {(enabled ? 1u : 0u) | (initially_set ? 2u : 0u)};
  }
  std::string describe() const {
    return detail::argument("enabled", enabled) + ", " +
           detail::argument("initially_set", initially_set);
  }
};

/// How long KVM spins for this VM's halted vCPUs before it sleeps, in place of the
/// module parameter halt_poll_ns. Any time, any number of times.
struct HaltPoll {
  /// Nanoseconds; 0 never spins.
  std::uint32_t max_ns = 0;

  static constexpr detail::CapInfo info{
      .number = uapi::cap::halt_poll,
      .name = "KVM_CAP_HALT_POLL",
      .check_arches = all_arches,
      .summary = "How long KVM polls for a halted vCPU before it sleeps can be set per VM.",
      .scope = detail::EnableScope::vm,
      .enable_arches = all_arches};
  using Value = bool;
  static constexpr Value decode(int raw) { return detail::decode_value<Value>(raw); }
  constexpr detail::CapArgs args() const { return {max_ns}; }
  std::string describe() const { return detail::argument("max_ns", max_ns); }
};

/// Dirty pages are reported in a ring per vCPU, which the VMM reads and writes
/// with acquire and release. Once per VM, and not beside DirtyLogRing.
struct DirtyLogRingAcqRel {
  /// Size of each vCPU's ring in bytes, 16 per entry: a power of two, at least a
  /// page, at most what check() gives.
  std::uint32_t bytes = 65536;

  static constexpr detail::CapInfo info{
      .number = uapi::cap::dirty_log_ring_acq_rel,
      .name = "KVM_CAP_DIRTY_LOG_RING_ACQ_REL",
      .check_arches = all_arches,
      .summary =
          "Dirty pages can be reported in a ring per vCPU, read with acquire and release; "
          "the value is its largest size in bytes.",
      .scope = detail::EnableScope::vm,
      .enable_arches = all_arches,
      .order = detail::Order::before_vcpus,
      .constraint =
          "the size in bytes is a power of two, at least a page and large enough for the "
          "entries that KVM reserves; a VM's ring is enabled once, under one of its two "
          "names"};
  using Value = std::uint32_t;
  static constexpr Value decode(int raw) { return detail::decode_value<Value>(raw); }
  constexpr detail::CapArgs args() const { return {bytes}; }
  std::string describe() const { return detail::argument("bytes", bytes); }
};

}  // namespace cap
KVM_HPP_END

#endif  // !KVM_HPP_REFUSED
#endif
