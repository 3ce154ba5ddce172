// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_UAPI_CONSTANTS_HPP
#define KVM_HPP_UAPI_CONSTANTS_HPP

#include <kvm/detail/config.hpp>
#if !KVM_HPP_REFUSED

#include <cstdint>

/// @file
/// Flags and numbers that requests, the run page and devices use: ours, so
/// that they exist with every kernel header. KVM_MEM_READONLY is
/// mem::readonly. Types are those of the fields they go into. All are visible
/// on every architecture; tests/facts proves each against the header.

KVM_HPP_BEGIN
namespace uapi {

/// The argument of create_vm on x86.
namespace vm_type {
inline constexpr std::uint64_t default_vm = 0;
inline constexpr std::uint64_t sw_protected_vm = 1;
inline constexpr std::uint64_t sev_vm = 2;
inline constexpr std::uint64_t sev_es_vm = 3;
inline constexpr std::uint64_t snp_vm = 4;
inline constexpr std::uint64_t tdx_vm = 5;
}  // namespace vm_type

/// The argument of create_vm on arm64: bits of the IPA size, or 0 for 40, and
/// flags.
namespace vm_type {
inline constexpr std::uint64_t arm_ipa_size_mask = 0xff;
inline constexpr std::uint64_t arm_protected = 0x80000000;
inline constexpr std::uint64_t arm_mask = 0x800000ff;
}  // namespace vm_type

/// Flags of a memory slot.
namespace mem {
inline constexpr std::uint32_t log_dirty_pages = 1;
inline constexpr std::uint32_t readonly = 2;
inline constexpr std::uint32_t guest_memfd = 4;
}  // namespace mem

/// Attributes of guest memory.
namespace memory_attribute {
inline constexpr std::uint64_t private_memory = 8;
}  // namespace memory_attribute

/// Flags of kvm_create_guest_memfd.
namespace guest_memfd_flag {
inline constexpr std::uint64_t mmap = 1;
inline constexpr std::uint64_t init_shared = 2;
}  // namespace guest_memfd_flag

/// The argument of the capability manual_dirty_log_protect2 (R52).
namespace dirty_log {
inline constexpr std::uint64_t manual_protect_enable = 1;
inline constexpr std::uint64_t initially_set = 2;
}  // namespace dirty_log

/// Flags of a dirty ring entry (R62).
namespace dirty_gfn {
inline constexpr std::uint32_t dirty = 1;
inline constexpr std::uint32_t reset = 2;
inline constexpr std::uint32_t mask = 3;
}  // namespace dirty_gfn

/// Pages of a vCPU's mapping (R21). The coalesced ring is page 2 on x86 and 1
/// elsewhere.
namespace page_offset {
inline constexpr std::uint32_t dirty_ring = 0x40;
}  // namespace page_offset

/// kvm_run.flags; which apply depends on the architecture.
namespace run_flag {
inline constexpr std::uint16_t x86_smm = 1;
inline constexpr std::uint16_t x86_bus_lock = 2;
inline constexpr std::uint16_t x86_guest_mode = 4;
inline constexpr std::uint16_t arm64_hsr_high_valid = 1;
}  // namespace run_flag

/// What the run page shares: bits of kvm_valid_regs and kvm_dirty_regs (R31).
namespace sync {
inline constexpr std::uint64_t x86_regs = 1;
inline constexpr std::uint64_t x86_sregs = 2;
inline constexpr std::uint64_t x86_events = 4;
}  // namespace sync

/// kvm_run::Io::direction.
namespace io_direction {
inline constexpr std::uint8_t in = 0;
inline constexpr std::uint8_t out = 1;
}  // namespace io_direction

/// kvm_run::Internal::suberror.
namespace internal_error {
inline constexpr std::uint32_t emulation = 1;
inline constexpr std::uint32_t simul_ex = 2;
inline constexpr std::uint32_t delivery_ev = 3;
inline constexpr std::uint32_t unexpected_exit_reason = 4;
}  // namespace internal_error

/// kvm_run::EmulationFailure::flags.
namespace emulation_flag {
inline constexpr std::uint64_t instruction_bytes = 1;
}  // namespace emulation_flag

/// kvm_run::SystemEvent::type.
namespace system_event {
inline constexpr std::uint32_t shutdown = 1;
inline constexpr std::uint32_t reset = 2;
inline constexpr std::uint32_t crash = 3;
inline constexpr std::uint32_t wakeup = 4;
inline constexpr std::uint32_t suspend = 5;
inline constexpr std::uint32_t sev_term = 6;
inline constexpr std::uint32_t tdx_fatal = 7;
}  // namespace system_event

/// kvm_run::SystemEvent::flags on arm64, of the type that the name begins with.
namespace system_event_flag {
inline constexpr std::uint64_t reset_psci_reset2 = 1;
inline constexpr std::uint64_t shutdown_psci_off2 = 1;
}  // namespace system_event_flag

/// kvm_hyperv_exit::type.
namespace hyperv_exit {
inline constexpr std::uint32_t synic = 1;
inline constexpr std::uint32_t hcall = 2;
inline constexpr std::uint32_t syndbg = 3;
}  // namespace hyperv_exit

/// kvm_xen_exit::type.
namespace xen_exit {
inline constexpr std::uint32_t hcall = 1;
}  // namespace xen_exit

/// kvm_run::Msr::reason, and the argument of the capability x86_user_space_msr.
namespace msr_exit_reason {
inline constexpr std::uint32_t inval = 1;
inline constexpr std::uint32_t unknown = 2;
inline constexpr std::uint32_t filter = 4;
inline constexpr std::uint32_t valid_mask = 7;
}  // namespace msr_exit_reason

/// kvm_run::Hypercall::flags.
namespace hypercall_flag {
inline constexpr std::uint64_t x86_long_mode = 1;
inline constexpr std::uint64_t arm64_smc = 1;
inline constexpr std::uint64_t arm64_16bit = 2;
}  // namespace hypercall_flag

/// kvm_run::Notify::flags.
namespace notify_flag {
inline constexpr std::uint32_t context_invalid = 1;
}  // namespace notify_flag

/// kvm_run::MemoryFault::flags.
namespace memory_exit_flag {
inline constexpr std::uint64_t private_memory = 8;
}  // namespace memory_exit_flag

/// kvm_run::ArmSea::flags.
namespace arm_sea_flag {
inline constexpr std::uint64_t gpa_valid = 1;
}  // namespace arm_sea_flag

/// kvm_run::FailEntry::hardware_entry_failure_reason where KVM itself gives it.
namespace fail_entry {
inline constexpr std::uint64_t arm64_cpu_unsupported = 1;
inline constexpr std::uint64_t riscv_no_vsfile = 1;
}  // namespace fail_entry

/// kvm_mp_state::mp_state.
namespace mp_state {
inline constexpr std::uint32_t runnable = 0;
inline constexpr std::uint32_t uninitialized = 1;
inline constexpr std::uint32_t init_received = 2;
inline constexpr std::uint32_t halted = 3;
inline constexpr std::uint32_t sipi_received = 4;
inline constexpr std::uint32_t stopped = 5;
inline constexpr std::uint32_t check_stop = 6;
inline constexpr std::uint32_t operating = 7;
inline constexpr std::uint32_t load = 8;
inline constexpr std::uint32_t ap_reset_hold = 9;
inline constexpr std::uint32_t suspended = 10;
}  // namespace mp_state

/// kvm_guest_debug::control (R84). Hardware breakpoints differ by architecture.
namespace guestdbg {
inline constexpr std::uint32_t enable = 1;
inline constexpr std::uint32_t singlestep = 2;
inline constexpr std::uint32_t use_sw_bp = 0x10000;
inline constexpr std::uint32_t x86_use_hw_bp = 0x20000;
inline constexpr std::uint32_t x86_inject_db = 0x40000;
inline constexpr std::uint32_t x86_inject_bp = 0x80000;
inline constexpr std::uint32_t x86_blockirq = 0x100000;
inline constexpr std::uint32_t arm64_use_hw = 0x20000;
}  // namespace guestdbg

/// kvm_vcpu_events::flags on x86: which fields count.
namespace vcpuevent_valid {
inline constexpr std::uint32_t nmi_pending = 1;
inline constexpr std::uint32_t sipi_vector = 2;
inline constexpr std::uint32_t shadow = 4;
inline constexpr std::uint32_t smm = 8;
inline constexpr std::uint32_t payload = 0x10;
inline constexpr std::uint32_t triple_fault = 0x20;
}  // namespace vcpuevent_valid

/// kvm_vcpu_events::Interrupt::shadow.
namespace x86_shadow {
inline constexpr std::uint8_t int_mov_ss = 1;
inline constexpr std::uint8_t int_sti = 2;
}  // namespace x86_shadow

/// kvm_sregs2::flags.
namespace sregs2_flag {
inline constexpr std::uint64_t pdptrs_valid = 1;
}  // namespace sregs2_flag

/// kvm_cpuid_entry2::flags.
namespace cpuid_flag {
inline constexpr std::uint32_t significant_index = 1;
inline constexpr std::uint32_t stateful_func = 2;
inline constexpr std::uint32_t state_read_next = 4;
}  // namespace cpuid_flag

/// kvm_msr_filter and its ranges (R83).
namespace msr_filter {
inline constexpr std::uint32_t read = 1;
inline constexpr std::uint32_t write = 2;
inline constexpr std::uint32_t range_valid_mask = 3;
inline constexpr std::uint32_t default_allow = 0;
inline constexpr std::uint32_t default_deny = 1;
inline constexpr std::uint32_t max_ranges = 0x10;
inline constexpr std::uint32_t max_bitmap_size = 0x600;
}  // namespace msr_filter

/// kvm_pmu_event_filter: action and flags.
namespace pmu_event {
inline constexpr std::uint32_t allow = 0;
inline constexpr std::uint32_t deny = 1;
inline constexpr std::uint32_t x86_masked_events = 1;
}  // namespace pmu_event

/// kvm_nested_state::format.
namespace nested_format {
inline constexpr std::uint16_t vmx = 0;
inline constexpr std::uint16_t svm = 1;
}  // namespace nested_format

/// kvm_nested_state::flags.
namespace nested_state {
inline constexpr std::uint16_t guest_mode = 1;
inline constexpr std::uint16_t run_pending = 2;
inline constexpr std::uint16_t evmcs = 4;
inline constexpr std::uint16_t mtf_pending = 8;
inline constexpr std::uint16_t gif_set = 0x100;
}  // namespace nested_state

/// kvm_vmx_nested_state_hdr::Smm::flags.
namespace nested_smm {
inline constexpr std::uint16_t guest_mode = 1;
inline constexpr std::uint16_t vmxon = 2;
}  // namespace nested_smm

/// The argument of the capabilities disable_quirks and disable_quirks2.
namespace x86_quirk {
inline constexpr std::uint64_t lint0_reenabled = 1;
inline constexpr std::uint64_t cd_nw_cleared = 2;
inline constexpr std::uint64_t lapic_mmio_hole = 4;
inline constexpr std::uint64_t out_7e_inc_rip = 8;
inline constexpr std::uint64_t misc_enable_no_mwait = 0x10;
inline constexpr std::uint64_t fix_hypercall_insn = 0x20;
inline constexpr std::uint64_t mwait_never_ud_faults = 0x40;
inline constexpr std::uint64_t slot_zap_all = 0x80;
inline constexpr std::uint64_t stuff_feature_msrs = 0x100;
inline constexpr std::uint64_t ignore_guest_pat = 0x200;
inline constexpr std::uint64_t vmcs12_allow_freeze_in_smm = 0x400;
inline constexpr std::uint64_t nested_svm_shared_pat = 0x800;
}  // namespace x86_quirk

/// The argument of the capability x2apic_api.
namespace x2apic_api {
inline constexpr std::uint64_t use_32bit_ids = 1;
inline constexpr std::uint64_t disable_broadcast_quirk = 2;
inline constexpr std::uint64_t enable_suppress_eoi_broadcast = 4;
inline constexpr std::uint64_t disable_suppress_eoi_broadcast = 8;
}  // namespace x2apic_api

/// The argument of the capability x86_disable_exits.
namespace x86_disable_exits {
inline constexpr std::uint64_t mwait = 1;
inline constexpr std::uint64_t hlt = 2;
inline constexpr std::uint64_t pause = 4;
inline constexpr std::uint64_t cstate = 8;
inline constexpr std::uint64_t aperfmperf = 0x10;
}  // namespace x86_disable_exits

/// The lower half of the argument of the capability x86_notify_vmexit.
namespace x86_notify_vmexit {
inline constexpr std::uint64_t enabled = 1;
inline constexpr std::uint64_t user = 2;
}  // namespace x86_notify_vmexit

/// The argument of the capability x86_bus_lock_exit.
namespace bus_lock_detection {
inline constexpr std::uint64_t off = 1;
inline constexpr std::uint64_t exit = 2;
}  // namespace bus_lock_detection

/// The argument of the capability pmu_capability.
namespace pmu_cap {
inline constexpr std::uint64_t disable = 1;
}  // namespace pmu_cap

/// kvm_clock_data::flags.
namespace clock_flag {
inline constexpr std::uint32_t tsc_stable = 2;
inline constexpr std::uint32_t realtime = 4;
inline constexpr std::uint32_t host_tsc = 8;
}  // namespace clock_flag

/// kvm_irqchip::chip_id and kvm_irq_routing_irqchip::irqchip on x86.
namespace irqchip {
inline constexpr std::uint32_t pic_master = 0;
inline constexpr std::uint32_t pic_slave = 1;
inline constexpr std::uint32_t ioapic = 2;
}  // namespace irqchip

/// kvm_pit_config::flags and kvm_pit_state2::flags.
namespace pit_flag {
inline constexpr std::uint32_t speaker_dummy = 1;
inline constexpr std::uint32_t hpet_legacy = 1;
inline constexpr std::uint32_t speaker_data_on = 2;
}  // namespace pit_flag

/// kvm_irq_routing_entry::type.
namespace irq_routing {
inline constexpr std::uint32_t irqchip = 1;
inline constexpr std::uint32_t msi = 2;
inline constexpr std::uint32_t s390_adapter = 3;
inline constexpr std::uint32_t hv_sint = 4;
inline constexpr std::uint32_t xen_evtchn = 5;
inline constexpr std::uint32_t xen_evtchn_prio_2level = 0xffffffff;
}  // namespace irq_routing

/// kvm_msi::flags and kvm_irq_routing_entry::flags of an MSI.
namespace msi_flag {
inline constexpr std::uint32_t valid_devid = 1;
}  // namespace msi_flag

/// kvm_irqfd::flags.
namespace irqfd_flag {
inline constexpr std::uint32_t deassign = 1;
inline constexpr std::uint32_t resample = 2;
}  // namespace irqfd_flag

/// kvm_ioeventfd::flags (R73).
namespace ioeventfd_flag {
inline constexpr std::uint32_t datamatch = 1;
inline constexpr std::uint32_t pio = 2;
inline constexpr std::uint32_t deassign = 4;
inline constexpr std::uint32_t virtio_ccw_notify = 8;
}  // namespace ioeventfd_flag

/// kvm_hyperv_eventfd.
namespace hyperv_eventfd {
inline constexpr std::uint32_t conn_id_mask = 0xffffff;
inline constexpr std::uint32_t deassign = 1;
}  // namespace hyperv_eventfd

/// kvm_create_device::type.
namespace dev_type {
inline constexpr std::uint32_t fsl_mpic_20 = 1;
inline constexpr std::uint32_t fsl_mpic_42 = 2;
inline constexpr std::uint32_t xics = 3;
inline constexpr std::uint32_t vfio = 4;
inline constexpr std::uint32_t arm_vgic_v2 = 5;
inline constexpr std::uint32_t flic = 6;
inline constexpr std::uint32_t arm_vgic_v3 = 7;
inline constexpr std::uint32_t arm_vgic_its = 8;
inline constexpr std::uint32_t xive = 9;
inline constexpr std::uint32_t arm_pv_time = 10;
inline constexpr std::uint32_t riscv_aia = 11;
inline constexpr std::uint32_t loongarch_ipi = 12;
inline constexpr std::uint32_t loongarch_eiointc = 13;
inline constexpr std::uint32_t loongarch_pchpic = 14;
inline constexpr std::uint32_t loongarch_dmsintc = 15;
inline constexpr std::uint32_t arm_vgic_v5 = 16;
}  // namespace dev_type

/// kvm_create_device::flags.
namespace create_device_flag {
inline constexpr std::uint32_t test = 1;
}  // namespace create_device_flag

/// Groups and attributes of a device of type vfio.
namespace dev_vfio {
inline constexpr std::uint64_t group = 1;
inline constexpr std::uint64_t group_add = 1;
inline constexpr std::uint64_t group_del = 2;
inline constexpr std::uint64_t group_set_spapr_tce = 3;
inline constexpr std::uint64_t file = 1;
inline constexpr std::uint64_t file_add = 1;
inline constexpr std::uint64_t file_del = 2;
}  // namespace dev_vfio

/// Groups and attributes of the x86 system and vCPU descriptors.
namespace x86_attr {
inline constexpr std::uint64_t grp_system = 0;
inline constexpr std::uint64_t xcomp_guest_supp = 0;
inline constexpr std::uint64_t grp_sev = 1;
inline constexpr std::uint64_t sev_vmsa_features = 0;
inline constexpr std::uint64_t snp_policy_bits = 1;
inline constexpr std::uint64_t sev_snp_req_certs = 2;
inline constexpr std::uint64_t vcpu_tsc_ctrl = 0;
inline constexpr std::uint64_t vcpu_tsc_offset = 0;
}  // namespace x86_attr

/// kvm_xen_hvm_config::flags and the value of the capability xen_hvm.
namespace xen_config {
inline constexpr std::uint32_t hypercall_msr = 1;
inline constexpr std::uint32_t intercept_hcall = 2;
inline constexpr std::uint32_t shared_info = 4;
inline constexpr std::uint32_t runstate = 8;
inline constexpr std::uint32_t evtchn_2level = 0x10;
inline constexpr std::uint32_t evtchn_send = 0x20;
inline constexpr std::uint32_t runstate_update_flag = 0x40;
inline constexpr std::uint32_t pvclock_tsc_unstable = 0x80;
inline constexpr std::uint32_t shared_info_hva = 0x100;
}  // namespace xen_config

/// kvm_xen_hvm_attr::type.
namespace xen_attr {
inline constexpr std::uint16_t long_mode = 0;
inline constexpr std::uint16_t shared_info = 1;
inline constexpr std::uint16_t upcall_vector = 2;
inline constexpr std::uint16_t evtchn = 3;
inline constexpr std::uint16_t xen_version = 4;
inline constexpr std::uint16_t runstate_update_flag = 5;
inline constexpr std::uint16_t shared_info_hva = 6;
}  // namespace xen_attr

/// kvm_xen_vcpu_attr::type.
namespace xen_vcpu_attr {
inline constexpr std::uint16_t vcpu_info = 0;
inline constexpr std::uint16_t vcpu_time_info = 1;
inline constexpr std::uint16_t runstate_addr = 2;
inline constexpr std::uint16_t runstate_current = 3;
inline constexpr std::uint16_t runstate_data = 4;
inline constexpr std::uint16_t runstate_adjust = 5;
inline constexpr std::uint16_t vcpu_id = 6;
inline constexpr std::uint16_t timer = 7;
inline constexpr std::uint16_t upcall_vector = 8;
inline constexpr std::uint16_t vcpu_info_hva = 9;
}  // namespace xen_vcpu_attr

/// kvm_xen_hvm_attr::Evtchn::flags.
namespace xen_evtchn {
inline constexpr std::uint32_t deassign = 1;
inline constexpr std::uint32_t update = 2;
inline constexpr std::uint32_t reset = 4;
}  // namespace xen_evtchn

/// kvm_stats_desc::flags.
namespace stats {
inline constexpr std::uint32_t type_mask = 15;
inline constexpr std::uint32_t type_cumulative = 0;
inline constexpr std::uint32_t type_instant = 1;
inline constexpr std::uint32_t type_peak = 2;
inline constexpr std::uint32_t type_linear_hist = 3;
inline constexpr std::uint32_t type_log_hist = 4;
inline constexpr std::uint32_t unit_mask = 0xf0;
inline constexpr std::uint32_t unit_none = 0;
inline constexpr std::uint32_t unit_bytes = 0x10;
inline constexpr std::uint32_t unit_seconds = 0x20;
inline constexpr std::uint32_t unit_cycles = 0x30;
inline constexpr std::uint32_t unit_boolean = 0x40;
inline constexpr std::uint32_t base_mask = 0xf00;
inline constexpr std::uint32_t base_pow10 = 0;
inline constexpr std::uint32_t base_pow2 = 0x100;
}  // namespace stats

/// The id of kvm_one_reg: architecture, size of the value, and what the
/// architecture makes of the rest.
namespace reg {
inline constexpr std::uint64_t arch_mask = 0xff00000000000000;
inline constexpr std::uint64_t x86 = 0x2000000000000000;
inline constexpr std::uint64_t arm64 = 0x6000000000000000;
inline constexpr std::uint64_t riscv = 0x8000000000000000;
inline constexpr std::uint64_t ppc = 0x1000000000000000;
inline constexpr std::uint64_t s390 = 0x5000000000000000;
inline constexpr std::uint64_t mips = 0x7000000000000000;
inline constexpr std::uint64_t loongarch = 0x9000000000000000;
inline constexpr std::uint64_t size_shift = 52;
inline constexpr std::uint64_t size_mask = 0xf0000000000000;
inline constexpr std::uint64_t size_u8 = 0;
inline constexpr std::uint64_t size_u16 = 0x10000000000000;
inline constexpr std::uint64_t size_u32 = 0x20000000000000;
inline constexpr std::uint64_t size_u64 = 0x30000000000000;
inline constexpr std::uint64_t size_u128 = 0x40000000000000;
inline constexpr std::uint64_t size_u256 = 0x50000000000000;
inline constexpr std::uint64_t size_u512 = 0x60000000000000;
inline constexpr std::uint64_t size_u1024 = 0x70000000000000;
inline constexpr std::uint64_t size_u2048 = 0x80000000000000;
}  // namespace reg

/// Registers of x86, below reg::x86.
namespace reg_x86 {
inline constexpr std::uint64_t type_msr = 2;
inline constexpr std::uint64_t type_kvm = 3;
inline constexpr std::uint64_t kvm_guest_ssp = 0;
}  // namespace reg_x86

/// Registers of arm64, below reg::arm64.
namespace reg_arm64 {
inline constexpr std::uint64_t coproc_mask = 0xfff0000;
inline constexpr std::uint64_t coproc_shift = 16;
inline constexpr std::uint64_t core = 0x100000;
inline constexpr std::uint64_t demux = 0x110000;
inline constexpr std::uint64_t sysreg = 0x130000;
inline constexpr std::uint64_t sysreg_op0_shift = 14;
inline constexpr std::uint64_t sysreg_op1_shift = 11;
inline constexpr std::uint64_t sysreg_crn_shift = 7;
inline constexpr std::uint64_t sysreg_crm_shift = 3;
inline constexpr std::uint64_t sysreg_op2_shift = 0;
inline constexpr std::uint64_t timer_ctl = 0x603000000013df19;
inline constexpr std::uint64_t timer_cval = 0x603000000013df02;
inline constexpr std::uint64_t timer_cnt = 0x603000000013df1a;
inline constexpr std::uint64_t ptimer_ctl = 0x603000000013df11;
inline constexpr std::uint64_t ptimer_cval = 0x603000000013df12;
inline constexpr std::uint64_t ptimer_cnt = 0x603000000013df01;
inline constexpr std::uint64_t fw = 0x140000;
inline constexpr std::uint64_t psci_version = 0x6030000000140000;
inline constexpr std::uint64_t sve = 0x150000;
inline constexpr std::uint64_t sve_vls = 0x606000000015ffff;
inline constexpr std::uint64_t fw_feat_bmap = 0x160000;
}  // namespace reg_arm64

/// Registers of riscv, below reg::riscv.
namespace reg_riscv {
inline constexpr std::uint64_t type_mask = 0xff000000;
inline constexpr std::uint64_t type_shift = 24;
inline constexpr std::uint64_t subtype_mask = 0xff0000;
inline constexpr std::uint64_t subtype_shift = 16;
inline constexpr std::uint64_t config = 0x1000000;
inline constexpr std::uint64_t core = 0x2000000;
inline constexpr std::uint64_t csr = 0x3000000;
inline constexpr std::uint64_t csr_general = 0;
inline constexpr std::uint64_t csr_aia = 0x10000;
inline constexpr std::uint64_t csr_smstateen = 0x20000;
inline constexpr std::uint64_t csr_zicfiss = 0x30000;
inline constexpr std::uint64_t timer = 0x4000000;
inline constexpr std::uint64_t fp_f = 0x5000000;
inline constexpr std::uint64_t fp_d = 0x6000000;
inline constexpr std::uint64_t isa_ext = 0x7000000;
inline constexpr std::uint64_t isa_single = 0;
inline constexpr std::uint64_t isa_multi_en = 0x10000;
inline constexpr std::uint64_t isa_multi_dis = 0x20000;
inline constexpr std::uint64_t sbi_ext = 0x8000000;
inline constexpr std::uint64_t sbi_single = 0;
inline constexpr std::uint64_t sbi_multi_en = 0x10000;
inline constexpr std::uint64_t sbi_multi_dis = 0x20000;
inline constexpr std::uint64_t vector = 0x9000000;
inline constexpr std::uint64_t sbi_state = 0xa000000;
inline constexpr std::uint64_t sbi_sta = 0;
inline constexpr std::uint64_t sbi_fwft = 0x10000;
}  // namespace reg_riscv

/// kvm_vcpu_init::target.
namespace arm_target {
inline constexpr std::uint32_t aem_v8 = 0;
inline constexpr std::uint32_t foundation_v8 = 1;
inline constexpr std::uint32_t cortex_a57 = 2;
inline constexpr std::uint32_t xgene_potenza = 3;
inline constexpr std::uint32_t cortex_a53 = 4;
inline constexpr std::uint32_t generic_v8 = 5;
}  // namespace arm_target

/// kvm_vcpu_init::features: numbers of bits. Those with a second step are also
/// the argument of arm_vcpu_finalize.
namespace arm_vcpu_feature {
inline constexpr std::uint32_t power_off = 0;
inline constexpr std::uint32_t el1_32bit = 1;
inline constexpr std::uint32_t psci_0_2 = 2;
inline constexpr std::uint32_t pmu_v3 = 3;
inline constexpr std::uint32_t sve = 4;
inline constexpr std::uint32_t ptrauth_address = 5;
inline constexpr std::uint32_t ptrauth_generic = 6;
inline constexpr std::uint32_t has_el2 = 7;
inline constexpr std::uint32_t has_el2_e2h0 = 8;
inline constexpr std::uint32_t pmu_v3_strict = 9;
}  // namespace arm_vcpu_feature

/// Groups and attributes of an arm64 vCPU descriptor.
namespace arm_vcpu_attr {
inline constexpr std::uint64_t pmu_v3_ctrl = 0;
inline constexpr std::uint64_t pmu_v3_irq = 0;
inline constexpr std::uint64_t pmu_v3_init = 1;
inline constexpr std::uint64_t pmu_v3_filter = 2;
inline constexpr std::uint64_t pmu_v3_set_pmu = 3;
inline constexpr std::uint64_t pmu_v3_set_nr_counters = 4;
inline constexpr std::uint64_t timer_ctrl = 1;
inline constexpr std::uint64_t timer_irq_vtimer = 0;
inline constexpr std::uint64_t timer_irq_ptimer = 1;
inline constexpr std::uint64_t timer_irq_hvtimer = 2;
inline constexpr std::uint64_t timer_irq_hptimer = 3;
inline constexpr std::uint64_t pvtime_ctrl = 2;
inline constexpr std::uint64_t pvtime_ipa = 0;
}  // namespace arm_vcpu_attr

/// Groups and attributes of an arm64 VM descriptor.
namespace arm_vm_attr {
inline constexpr std::uint64_t smccc_ctrl = 0;
inline constexpr std::uint64_t smccc_filter = 0;
}  // namespace arm_vm_attr

/// kvm_arm_copy_mte_tags::flags.
namespace mte_tags {
inline constexpr std::uint64_t to_guest = 0;
inline constexpr std::uint64_t from_guest = 1;
}  // namespace mte_tags

/// kvm_sync_regs::device_irq_level on arm64.
namespace arm_dev_irq {
inline constexpr std::uint64_t el1_vtimer = 1;
inline constexpr std::uint64_t el1_ptimer = 2;
inline constexpr std::uint64_t pmu = 4;
}  // namespace arm_dev_irq

/// kvm_irq_level::irq on arm64.
namespace arm_irq {
inline constexpr std::uint32_t vcpu2_shift = 28;
inline constexpr std::uint32_t vcpu2_mask = 0xf;
inline constexpr std::uint32_t type_shift = 24;
inline constexpr std::uint32_t type_mask = 15;
inline constexpr std::uint32_t vcpu_shift = 16;
inline constexpr std::uint32_t vcpu_mask = 0xff;
inline constexpr std::uint32_t num_shift = 0;
inline constexpr std::uint32_t num_mask = 0xffff;
inline constexpr std::uint32_t type_cpu = 0;
inline constexpr std::uint32_t type_spi = 1;
inline constexpr std::uint32_t type_ppi = 2;
inline constexpr std::uint32_t cpu_irq = 0;
inline constexpr std::uint32_t cpu_fiq = 1;
}  // namespace arm_irq

/// Groups and attributes of the arm64 interrupt controllers.
namespace arm_vgic {
inline constexpr std::uint64_t grp_addr = 0;
inline constexpr std::uint64_t grp_dist_regs = 1;
inline constexpr std::uint64_t grp_cpu_regs = 2;
inline constexpr std::uint64_t grp_nr_irqs = 3;
inline constexpr std::uint64_t grp_ctrl = 4;
inline constexpr std::uint64_t grp_redist_regs = 5;
inline constexpr std::uint64_t grp_cpu_sysregs = 6;
inline constexpr std::uint64_t grp_level_info = 7;
inline constexpr std::uint64_t grp_its_regs = 8;
inline constexpr std::uint64_t grp_maint_irq = 9;
inline constexpr std::uint64_t ctrl_init = 0;
inline constexpr std::uint64_t its_save_tables = 1;
inline constexpr std::uint64_t its_restore_tables = 2;
inline constexpr std::uint64_t save_pending_tables = 3;
inline constexpr std::uint64_t its_ctrl_reset = 4;
inline constexpr std::uint64_t userspace_ppis = 5;
inline constexpr std::uint64_t v2_addr_dist = 0;
inline constexpr std::uint64_t v2_addr_cpu = 1;
inline constexpr std::uint64_t v3_addr_dist = 2;
inline constexpr std::uint64_t v3_addr_redist = 3;
inline constexpr std::uint64_t its_addr = 4;
inline constexpr std::uint64_t v3_addr_redist_region = 5;
}  // namespace arm_vgic

/// Groups and attributes of the riscv interrupt controller.
namespace riscv_aia {
inline constexpr std::uint64_t grp_config = 0;
inline constexpr std::uint64_t config_mode = 0;
inline constexpr std::uint64_t config_ids = 1;
inline constexpr std::uint64_t config_srcs = 2;
inline constexpr std::uint64_t config_group_bits = 3;
inline constexpr std::uint64_t config_group_shift = 4;
inline constexpr std::uint64_t config_hart_bits = 5;
inline constexpr std::uint64_t config_guest_bits = 6;
inline constexpr std::uint64_t mode_emul = 0;
inline constexpr std::uint64_t mode_hwaccel = 1;
inline constexpr std::uint64_t mode_auto = 2;
inline constexpr std::uint64_t grp_addr = 1;
inline constexpr std::uint64_t addr_aplic = 0;
inline constexpr std::uint64_t grp_ctrl = 2;
inline constexpr std::uint64_t ctrl_init = 0;
inline constexpr std::uint64_t grp_aplic = 3;
inline constexpr std::uint64_t grp_imsic = 4;
}  // namespace riscv_aia

/// kvm_interrupt::irq on riscv.
namespace riscv_interrupt {
inline constexpr std::uint32_t set = 0xffffffff;
inline constexpr std::uint32_t unset = 0xfffffffe;
}  // namespace riscv_interrupt

}  // namespace uapi
KVM_HPP_END

#endif  // !KVM_HPP_REFUSED
#endif
