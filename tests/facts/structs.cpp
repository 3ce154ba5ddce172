// SPDX-License-Identifier: MIT
// Compares every struct of ours with the one of <linux/kvm.h>, member by member, where that has it.
// A header may lack a struct (it is then declared below, but incomplete) or its newest members;
// what it has must lie where ours has it. scripts/headers compiles this against each header.
#include <linux/kvm.h>
#include <linux/version.h>

#include <cstddef>
#include <utility>

#include <kvm/uapi/run.hpp>
#include <kvm/uapi/structs.hpp>

namespace {

template <class T>
concept Complete = requires {
  sizeof(T);
};

// True with the 6.1 header: its arrays are preceded by an empty struct (R1).
constexpr bool header_misplaces_arrays = sizeof(::kvm_signal_mask) != 4;

// A header from 7.3 on has everything that is compared here: a misspelt member does not go unseen.
constexpr bool header_has_all = LINUX_VERSION_CODE >= KERNEL_VERSION(7, 3, 0);

// One member, of theirs and of ours.
#define FIELD(member)                                                                       \
  if constexpr (requires(Theirs theirs) { theirs.member; })                                 \
    static_assert(                                                                          \
        offsetof(Theirs, member) == offsetof(Ours, member) &&                               \
            sizeof(std::declval<Theirs&>().member) == sizeof(std::declval<Ours&>().member), \
        #member " has moved");                                                              \
  else                                                                                      \
    complete = false;

// The flexible array, which ours has as a constant.
#define ARRAY(member)                                                                    \
  if constexpr (!header_misplaces_arrays && requires(Theirs theirs) { theirs.member; })  \
    static_assert(offsetof(Theirs, member) == Ours::array_offset, #member " has moved"); \
  if constexpr (header_misplaces_arrays) complete = false;

#define SAME(name, fields)                                                                  \
  }                                                                                         \
  struct name;                                                                              \
  namespace {                                                                               \
  template <class Theirs, class Ours>                                                       \
  consteval bool same_##name() {                                                            \
    if constexpr (Complete<Theirs>) {                                                       \
      bool complete = true;                                                                 \
      fields return complete                                                                \
          ? sizeof(Theirs) == sizeof(Ours)                                                  \
          : !header_has_all && (header_misplaces_arrays || sizeof(Theirs) <= sizeof(Ours)); \
    }                                                                                       \
    return !header_has_all;                                                                 \
  }                                                                                         \
  static_assert(same_##name<::name, kvm::uapi::name>(), #name " has another size");

// clang-format off
SAME(kvm_userspace_memory_region2, FIELD(slot) FIELD(flags) FIELD(guest_phys_addr)
     FIELD(memory_size) FIELD(userspace_addr) FIELD(guest_memfd_offset) FIELD(guest_memfd))
SAME(kvm_memory_attributes, FIELD(address) FIELD(size) FIELD(attributes) FIELD(flags))
SAME(kvm_create_guest_memfd, FIELD(size) FIELD(flags))
SAME(kvm_pre_fault_memory, FIELD(gpa) FIELD(size) FIELD(flags))
SAME(kvm_dirty_gfn, FIELD(flags) FIELD(slot) FIELD(offset))
SAME(kvm_clock_data, FIELD(clock) FIELD(flags) FIELD(realtime) FIELD(host_tsc))
SAME(kvm_irq_routing_xen_evtchn, FIELD(port) FIELD(vcpu) FIELD(priority))
SAME(kvm_irq_routing_entry, FIELD(gsi) FIELD(type) FIELD(flags) FIELD(u) FIELD(u.irqchip)
     FIELD(u.msi) FIELD(u.adapter) FIELD(u.hv_sint) FIELD(u.xen_evtchn.priority))
SAME(kvm_irq_routing, FIELD(nr) FIELD(flags) ARRAY(entries))
SAME(kvm_signal_mask, FIELD(len) ARRAY(sigset))
SAME(kvm_reg_list, FIELD(n) ARRAY(reg))
SAME(kvm_coalesced_mmio_ring, FIELD(first) FIELD(last) ARRAY(coalesced_mmio))
SAME(kvm_stats_header, FIELD(flags) FIELD(name_size) FIELD(num_desc) FIELD(id_offset)
     FIELD(desc_offset) FIELD(data_offset))
SAME(kvm_stats_desc, FIELD(flags) FIELD(exponent) FIELD(size) FIELD(offset) FIELD(bucket_size)
     ARRAY(name))
SAME(kvm_xen_exit, FIELD(type) FIELD(u) FIELD(u.hcall.longmode) FIELD(u.hcall.cpl)
     FIELD(u.hcall.input) FIELD(u.hcall.result) FIELD(u.hcall.params))
SAME(kvm_exit_snp_req_certs, FIELD(gpa) FIELD(npages) FIELD(ret))
SAME(kvm_s390_keyop, FIELD(guest_addr) FIELD(key) FIELD(operation))
#if KVM_HPP_ARCH_X86
SAME(kvm_msrs, FIELD(nmsrs) ARRAY(entries))
SAME(kvm_msr_list, FIELD(nmsrs) ARRAY(indices))
SAME(kvm_cpuid2, FIELD(nent) ARRAY(entries))
SAME(kvm_xsave, FIELD(region) ARRAY(extra))
SAME(kvm_pmu_event_filter, FIELD(action) FIELD(nevents) FIELD(fixed_counter_bitmap) FIELD(flags)
     ARRAY(events))
SAME(kvm_sregs2, FIELD(cs) FIELD(ds) FIELD(es) FIELD(fs) FIELD(gs) FIELD(ss) FIELD(tr) FIELD(ldt)
     FIELD(gdt) FIELD(idt) FIELD(cr0) FIELD(cr2) FIELD(cr3) FIELD(cr4) FIELD(cr8) FIELD(efer)
     FIELD(apic_base) FIELD(flags) FIELD(pdptrs))
SAME(kvm_vcpu_events, FIELD(exception) FIELD(interrupt) FIELD(nmi) FIELD(sipi_vector) FIELD(flags)
     FIELD(smi) FIELD(triple_fault) FIELD(exception_has_payload) FIELD(exception_payload)
     FIELD(exception.injected) FIELD(exception.nr) FIELD(exception.has_error_code)
     FIELD(exception.pending) FIELD(exception.error_code) FIELD(interrupt.injected)
     FIELD(interrupt.nr) FIELD(interrupt.soft) FIELD(interrupt.shadow) FIELD(nmi.injected)
     FIELD(nmi.pending) FIELD(nmi.masked) FIELD(smi.smm) FIELD(smi.pending)
     FIELD(smi.smm_inside_nmi) FIELD(smi.latched_init) FIELD(triple_fault.pending))
SAME(kvm_sync_regs, FIELD(regs) FIELD(sregs) FIELD(events) FIELD(events.triple_fault)
     FIELD(events.exception_payload))
SAME(kvm_vmx_nested_state_hdr, FIELD(vmxon_pa) FIELD(vmcs12_pa) FIELD(smm) FIELD(flags)
     FIELD(preemption_timer_deadline) FIELD(smm.flags))
SAME(kvm_svm_nested_state_hdr, FIELD(vmcb_pa) FIELD(gpat))
SAME(kvm_nested_state, FIELD(flags) FIELD(format) FIELD(size) FIELD(hdr) FIELD(hdr.vmx.flags)
     FIELD(hdr.vmx.preemption_timer_deadline) FIELD(hdr.svm.vmcb_pa) FIELD(hdr.svm.gpat)
     ARRAY(data))
SAME(kvm_xen_hvm_attr, FIELD(type) FIELD(u) FIELD(u.long_mode) FIELD(u.vector)
     FIELD(u.runstate_update_flag) FIELD(u.shared_info.gfn) FIELD(u.shared_info.hva)
     FIELD(u.evtchn.send_port) FIELD(u.evtchn.type) FIELD(u.evtchn.flags)
     FIELD(u.evtchn.deliver.port.port) FIELD(u.evtchn.deliver.port.vcpu)
     FIELD(u.evtchn.deliver.port.priority) FIELD(u.evtchn.deliver.eventfd.port)
     FIELD(u.evtchn.deliver.eventfd.fd) FIELD(u.xen_version))
SAME(kvm_xen_vcpu_attr, FIELD(type) FIELD(u) FIELD(u.gpa) FIELD(u.hva) FIELD(u.runstate.state)
     FIELD(u.runstate.state_entry_time) FIELD(u.runstate.time_running)
     FIELD(u.runstate.time_runnable) FIELD(u.runstate.time_blocked) FIELD(u.runstate.time_offline)
     FIELD(u.vcpu_id) FIELD(u.timer.port) FIELD(u.timer.priority) FIELD(u.timer.expires_ns)
     FIELD(u.vector))
SAME(kvm_sev_cmd, FIELD(id) FIELD(data) FIELD(error) FIELD(sev_fd))
SAME(kvm_sev_init, FIELD(vmsa_features) FIELD(flags) FIELD(ghcb_version))
SAME(kvm_sev_launch_start, FIELD(handle) FIELD(policy) FIELD(dh_uaddr) FIELD(dh_len)
     FIELD(session_uaddr) FIELD(session_len))
SAME(kvm_sev_launch_update_data, FIELD(uaddr) FIELD(len))
SAME(kvm_sev_launch_secret, FIELD(hdr_uaddr) FIELD(hdr_len) FIELD(guest_uaddr) FIELD(guest_len)
     FIELD(trans_uaddr) FIELD(trans_len))
SAME(kvm_sev_launch_measure, FIELD(uaddr) FIELD(len))
SAME(kvm_sev_guest_status, FIELD(handle) FIELD(policy) FIELD(state))
SAME(kvm_sev_dbg, FIELD(src_uaddr) FIELD(dst_uaddr) FIELD(len))
SAME(kvm_sev_attestation_report, FIELD(mnonce) FIELD(uaddr) FIELD(len))
SAME(kvm_sev_send_start, FIELD(policy) FIELD(pdh_cert_uaddr) FIELD(pdh_cert_len)
     FIELD(plat_certs_uaddr) FIELD(plat_certs_len) FIELD(amd_certs_uaddr) FIELD(amd_certs_len)
     FIELD(session_uaddr) FIELD(session_len))
SAME(kvm_sev_send_update_data, FIELD(hdr_uaddr) FIELD(hdr_len) FIELD(guest_uaddr) FIELD(guest_len)
     FIELD(trans_uaddr) FIELD(trans_len))
SAME(kvm_sev_receive_start, FIELD(handle) FIELD(policy) FIELD(pdh_uaddr) FIELD(pdh_len)
     FIELD(session_uaddr) FIELD(session_len))
SAME(kvm_sev_receive_update_data, FIELD(hdr_uaddr) FIELD(hdr_len) FIELD(guest_uaddr)
     FIELD(guest_len) FIELD(trans_uaddr) FIELD(trans_len))
SAME(kvm_sev_snp_launch_start, FIELD(policy) FIELD(gosvw) FIELD(flags))
SAME(kvm_sev_snp_launch_update, FIELD(gfn_start) FIELD(uaddr) FIELD(len) FIELD(type) FIELD(flags))
SAME(kvm_sev_snp_launch_finish, FIELD(id_block_uaddr) FIELD(id_auth_uaddr) FIELD(id_block_en)
     FIELD(auth_key_en) FIELD(vcek_disabled) FIELD(host_data) FIELD(flags))
SAME(kvm_tdx_cmd, FIELD(id) FIELD(flags) FIELD(data) FIELD(hw_error))
SAME(kvm_tdx_capabilities, FIELD(supported_attrs) FIELD(supported_xfam)
     FIELD(kernel_tdvmcallinfo_1_r11) FIELD(user_tdvmcallinfo_1_r11)
     FIELD(kernel_tdvmcallinfo_1_r12) FIELD(user_tdvmcallinfo_1_r12) FIELD(cpuid))
SAME(kvm_tdx_init_vm, FIELD(attributes) FIELD(xfam) FIELD(mrconfigid) FIELD(mrowner)
     FIELD(mrownerconfig) FIELD(cpuid))
SAME(kvm_tdx_init_mem_region, FIELD(source_addr) FIELD(gpa) FIELD(nr_pages))
#endif
#if KVM_HPP_ARCH_ARM64
SAME(kvm_debug_exit_arch, FIELD(hsr) FIELD(hsr_high) FIELD(far))
SAME(kvm_arm_copy_mte_tags, FIELD(guest_ipa) FIELD(length) FIELD(addr) FIELD(flags))
SAME(kvm_arm_counter_offset, FIELD(counter_offset))
SAME(kvm_smccc_filter, FIELD(base) FIELD(nr_functions) FIELD(action))
SAME(reg_mask_range, FIELD(addr) FIELD(range))
#endif
#if KVM_HPP_ARCH_RISCV
SAME(kvm_riscv_config, FIELD(isa) FIELD(zicbom_block_size) FIELD(mvendorid) FIELD(marchid)
     FIELD(mimpid) FIELD(zicboz_block_size) FIELD(satp_mode) FIELD(zicbop_block_size))
SAME(kvm_riscv_core, FIELD(regs) FIELD(mode))
SAME(kvm_riscv_csr, FIELD(sstatus) FIELD(sie) FIELD(stvec) FIELD(sscratch) FIELD(sepc)
     FIELD(scause) FIELD(stval) FIELD(sip) FIELD(satp) FIELD(scounteren) FIELD(senvcfg))
SAME(kvm_riscv_aia_csr, FIELD(siselect) FIELD(iprio1) FIELD(iprio2) FIELD(sieh) FIELD(siph)
     FIELD(iprio1h) FIELD(iprio2h))
SAME(kvm_riscv_smstateen_csr, FIELD(sstateen0))
SAME(kvm_riscv_zicfiss_csr, FIELD(ssp))
SAME(kvm_riscv_timer, FIELD(frequency) FIELD(time) FIELD(compare) FIELD(state))
SAME(kvm_riscv_sbi_sta, FIELD(shmem_lo) FIELD(shmem_hi))
SAME(kvm_riscv_sbi_fwft_feature, FIELD(enable) FIELD(flags) FIELD(value))
SAME(kvm_riscv_sbi_fwft, FIELD(misaligned_deleg) FIELD(pointer_masking) FIELD(pte_ad_hw_updating)
     FIELD(landing_pad) FIELD(shadow_stack))
#endif

SAME(kvm_run, FIELD(request_interrupt_window) FIELD(immediate_exit) FIELD(exit_reason)
     FIELD(ready_for_interrupt_injection) FIELD(if_flag) FIELD(flags) FIELD(cr8) FIELD(apic_base)
     FIELD(hw.hardware_exit_reason) FIELD(fail_entry.hardware_entry_failure_reason)
     FIELD(fail_entry.cpu) FIELD(ex.exception) FIELD(ex.error_code) FIELD(io.direction)
     FIELD(io.size) FIELD(io.port) FIELD(io.count) FIELD(io.data_offset) FIELD(mmio.phys_addr)
     FIELD(mmio.data) FIELD(mmio.len) FIELD(mmio.is_write) FIELD(iocsr_io.phys_addr)
     FIELD(iocsr_io.data) FIELD(iocsr_io.len) FIELD(iocsr_io.is_write) FIELD(hypercall.nr)
     FIELD(hypercall.args) FIELD(hypercall.ret) FIELD(hypercall.longmode) FIELD(hypercall.flags)
     FIELD(tpr_access.rip) FIELD(tpr_access.is_write) FIELD(s390_sieic.icptcode)
     FIELD(s390_sieic.ipa) FIELD(s390_sieic.ipb) FIELD(s390_reset_flags)
     FIELD(s390_ucontrol.trans_exc_code) FIELD(s390_ucontrol.pgm_code) FIELD(dcr.dcrn)
     FIELD(dcr.data) FIELD(dcr.is_write) FIELD(internal.suberror) FIELD(internal.ndata)
     FIELD(internal.data) FIELD(emulation_failure.suberror) FIELD(emulation_failure.ndata)
     FIELD(emulation_failure.flags) FIELD(emulation_failure.insn_size)
     FIELD(emulation_failure.insn_bytes) FIELD(osi.gprs) FIELD(papr_hcall.nr)
     FIELD(papr_hcall.ret) FIELD(papr_hcall.args) FIELD(s390_tsch.subchannel_id)
     FIELD(s390_tsch.subchannel_nr) FIELD(s390_tsch.io_int_parm) FIELD(s390_tsch.io_int_word)
     FIELD(s390_tsch.ipb) FIELD(s390_tsch.dequeued) FIELD(epr.epr) FIELD(system_event.type)
     FIELD(system_event.flags) FIELD(system_event.ndata) FIELD(system_event.data)
     FIELD(s390_stsi.addr) FIELD(s390_stsi.ar) FIELD(s390_stsi.reserved) FIELD(s390_stsi.fc)
     FIELD(s390_stsi.sel1) FIELD(s390_stsi.sel2) FIELD(eoi.vector) FIELD(hyperv)
     FIELD(arm_nisv.esr_iss) FIELD(arm_nisv.fault_ipa) FIELD(msr.error) FIELD(msr.reason)
     FIELD(msr.index) FIELD(msr.data) FIELD(xen) FIELD(riscv_sbi.extension_id)
     FIELD(riscv_sbi.function_id) FIELD(riscv_sbi.args) FIELD(riscv_sbi.ret)
     FIELD(riscv_csr.csr_num) FIELD(riscv_csr.new_value) FIELD(riscv_csr.write_mask)
     FIELD(riscv_csr.ret_value) FIELD(notify.flags) FIELD(memory_fault.flags)
     FIELD(memory_fault.gpa) FIELD(memory_fault.size) FIELD(tdx.flags) FIELD(tdx.nr)
     FIELD(tdx.unknown.ret) FIELD(tdx.unknown.data) FIELD(tdx.get_quote.ret)
     FIELD(tdx.get_quote.gpa) FIELD(tdx.get_quote.size) FIELD(tdx.get_tdvmcall_info.ret)
     FIELD(tdx.get_tdvmcall_info.leaf) FIELD(tdx.get_tdvmcall_info.r11)
     FIELD(tdx.get_tdvmcall_info.r12) FIELD(tdx.get_tdvmcall_info.r13)
     FIELD(tdx.get_tdvmcall_info.r14) FIELD(tdx.setup_event_notify.ret)
     FIELD(tdx.setup_event_notify.vector) FIELD(arm_sea.flags) FIELD(arm_sea.esr)
     FIELD(arm_sea.gva) FIELD(arm_sea.gpa) FIELD(snp_req_certs) FIELD(kvm_valid_regs)
     FIELD(kvm_dirty_regs) FIELD(s))
// clang-format on

#if !KVM_HPP_ARCH_RISCV
static_assert(offsetof(::kvm_run, debug.arch) == offsetof(kvm::uapi::kvm_run, debug.arch));
static_assert(offsetof(::kvm_run, s.regs) == offsetof(kvm::uapi::kvm_run, s.regs));
#endif

}  // namespace
