// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_UAPI_REQUESTS_HPP
#define KVM_HPP_UAPI_REQUESTS_HPP

#include <kvm/detail/config.hpp>
#if !KVM_HPP_REFUSED

#include <kvm/uapi/request.hpp>

/// @file
/// Every live request code of KVM on the architectures that we support, as
/// literals: the macros of <linux/kvm.h> give 17 wrong codes in C++ with the
/// 6.1 header (R1), a wrong KVM_SET_GUEST_DEBUG on riscv with any (R2), and
/// come and go with its version (R3). tests/facts proves each against the
/// table and against the kernel's header where that is right.
///
/// KVM_GET_REGS is request::get_regs. A code that an architecture does not
/// have is not declared there. A request is sent with a pointer to the type
/// that its comment names; with "value", the argument itself; with "none", 0.

KVM_HPP_BEGIN
namespace uapi {
namespace request {

// System descriptor
/// Version of the API, 12. The argument must be 0 (R10). Argument: none.
inline constexpr Request<Scope::system> get_api_version{0xae00, "KVM_GET_API_VERSION"};
/// Makes a VM; the argument is its type. Gives a descriptor. Argument: value.
inline constexpr Request<Scope::system> create_vm{0xae01, "KVM_CREATE_VM"};

#if KVM_HPP_ARCH_X86
/// The MSRs that a guest has and that can be saved. Argument: kvm_msr_list.
inline constexpr Request<Scope::system> get_msr_index_list{0xc004ae02, "KVM_GET_MSR_INDEX_LIST"};
#endif

/// Value of a capability; may be a negative errno (R16). Argument: value.
inline constexpr Request<Scope::system | Scope::vm> check_extension{0xae03, "KVM_CHECK_EXTENSION"};
/// Bytes of the run page and what follows it. The argument must be 0 (R10).
/// Argument: none.
inline constexpr Request<Scope::system> get_vcpu_mmap_size{0xae04, "KVM_GET_VCPU_MMAP_SIZE"};

#if KVM_HPP_ARCH_X86
/// The CPUID table that host and KVM support. Argument: kvm_cpuid2.
inline constexpr Request<Scope::system> get_supported_cpuid{0xc008ae05, "KVM_GET_SUPPORTED_CPUID"};
/// CPUID bits that KVM emulates. Argument: kvm_cpuid2.
inline constexpr Request<Scope::system> get_emulated_cpuid{0xc008ae09, "KVM_GET_EMULATED_CPUID"};
/// MSRs that describe features, readable on the system descriptor. Argument:
/// kvm_msr_list.
inline constexpr Request<Scope::system> get_msr_feature_index_list{
    0xc004ae0a, "KVM_GET_MSR_FEATURE_INDEX_LIST"};
#endif

/// Machine check capabilities supported. Argument: __u64.
inline constexpr Request<Scope::system> x86_get_mce_cap_supported{0x8008ae9d,
                                                                  "KVM_X86_GET_MCE_CAP_SUPPORTED"};

// VM descriptor
/// Makes a vCPU; the argument is its id. Gives a descriptor. Argument: value.
inline constexpr Request<Scope::vm> create_vcpu{0xae41, "KVM_CREATE_VCPU"};
/// Reads a slot's dirty bitmap (R50). Argument: kvm_dirty_log.
inline constexpr Request<Scope::vm> get_dirty_log{0x4010ae42, "KVM_GET_DIRTY_LOG"};
/// Limits the shadow page tables. Argument: value.
inline constexpr Request<Scope::vm> set_nr_mmu_pages{0xae44, "KVM_SET_NR_MMU_PAGES"};
/// Creates, moves, reflags or deletes a memory slot (R40 to R43). Argument:
/// kvm_userspace_memory_region.
inline constexpr Request<Scope::vm> set_user_memory_region{0x4020ae46,
                                                           "KVM_SET_USER_MEMORY_REGION"};
/// Places the three pages that Intel needs for real mode. Argument: value.
inline constexpr Request<Scope::vm> set_tss_addr{0xae47, "KVM_SET_TSS_ADDR"};
/// Places the identity map page. Before the vCPUs (R70). Argument: __u64.
inline constexpr Request<Scope::vm> set_identity_map_addr{0x4008ae48, "KVM_SET_IDENTITY_MAP_ADDR"};
/// The same with guest_memfd (R44). Argument: kvm_userspace_memory_region2.
inline constexpr Request<Scope::vm> set_user_memory_region2{0x40a0ae49,
                                                            "KVM_SET_USER_MEMORY_REGION2"};
/// Makes the in-kernel interrupt controller. Before the vCPUs (R70). Argument:
/// none.
inline constexpr Request<Scope::vm> create_irqchip{0xae60, "KVM_CREATE_IRQCHIP"};
/// Sets the level of an interrupt line. Argument: kvm_irq_level.
inline constexpr Request<Scope::vm> irq_line{0x4008ae61, "KVM_IRQ_LINE"};
/// Reads the state of one interrupt controller chip. Argument: kvm_irqchip.
inline constexpr Request<Scope::vm> get_irqchip{0xc208ae62, "KVM_GET_IRQCHIP"};
/// Writes it. Encoded as a read although the kernel reads the struct. Argument:
/// kvm_irqchip.
inline constexpr Request<Scope::vm> set_irqchip{0x8208ae63, "KVM_SET_IRQCHIP"};
/// Sets a line and tells what became of it. Number shared with the next (R4).
/// Argument: kvm_irq_level.
inline constexpr Request<Scope::vm> irq_line_status{0xc008ae67, "KVM_IRQ_LINE_STATUS"};
/// Adds a zone whose writes go to the ring (R74). Argument:
/// kvm_coalesced_mmio_zone.
inline constexpr Request<Scope::vm> register_coalesced_mmio{0x4010ae67,
                                                            "KVM_REGISTER_COALESCED_MMIO"};
/// Removes every zone that the range covers (R74). Argument:
/// kvm_coalesced_mmio_zone.
inline constexpr Request<Scope::vm> unregister_coalesced_mmio{0x4010ae68,
                                                              "KVM_UNREGISTER_COALESCED_MMIO"};
/// Replaces the interrupt routing table (R72). Argument: kvm_irq_routing.
inline constexpr Request<Scope::vm> set_gsi_routing{0x4008ae6a, "KVM_SET_GSI_ROUTING"};
/// Whether the PIT reinjects lost ticks. Takes a pointer although it encodes no
/// size. Argument: kvm_reinject_control.
inline constexpr Request<Scope::vm> reinject_control{0xae71, "KVM_REINJECT_CONTROL"};
/// Ties an eventfd to an interrupt line (R73). Argument: kvm_irqfd.
inline constexpr Request<Scope::vm> irqfd{0x4020ae76, "KVM_IRQFD"};
/// Makes the timer. Needs the full irqchip (R70). Argument: kvm_pit_config.
inline constexpr Request<Scope::vm> create_pit2{0x4040ae77, "KVM_CREATE_PIT2"};
/// Names the bootstrap vCPU. Before the vCPUs (R70). Argument: value.
inline constexpr Request<Scope::vm> set_boot_cpu_id{0xae78, "KVM_SET_BOOT_CPU_ID"};
/// Ties an eventfd to a guest address (R73). Argument: kvm_ioeventfd.
inline constexpr Request<Scope::vm> ioeventfd{0x4040ae79, "KVM_IOEVENTFD"};

#if KVM_HPP_ARCH_X86
/// Sets up the Xen hypercall page. Argument: kvm_xen_hvm_config.
inline constexpr Request<Scope::vm> xen_hvm_config{0x4038ae7a, "KVM_XEN_HVM_CONFIG"};
#endif

/// Sets the VM's kvmclock. Argument: kvm_clock_data.
inline constexpr Request<Scope::vm> set_clock{0x4030ae7b, "KVM_SET_CLOCK"};
/// Reads the VM's kvmclock. Argument: kvm_clock_data.
inline constexpr Request<Scope::vm> get_clock{0x8030ae7c, "KVM_GET_CLOCK"};

#if KVM_HPP_ARCH_X86
/// Reads the timer. Argument: kvm_pit_state2.
inline constexpr Request<Scope::vm> get_pit2{0x8070ae9f, "KVM_GET_PIT2"};
/// Writes the timer. Argument: kvm_pit_state2.
inline constexpr Request<Scope::vm> set_pit2{0x4070aea0, "KVM_SET_PIT2"};
#endif

/// Enables a capability (R17). Argument: kvm_enable_cap.
inline constexpr Request<Scope::vm | Scope::vcpu> enable_cap{0x4068aea3, "KVM_ENABLE_CAP"};
/// Injects an MSI; positive if delivered, 0 if blocked. Argument: kvm_msi.
inline constexpr Request<Scope::vm> signal_msi{0x4020aea5, "KVM_SIGNAL_MSI"};

#if KVM_HPP_ARCH_ARM64
/// The vCPU target that suits the host. Argument: kvm_vcpu_init.
inline constexpr Request<Scope::vm> arm_preferred_target{0x8020aeaf, "KVM_ARM_PREFERRED_TARGET"};
#endif

#if KVM_HPP_ARCH_X86 || KVM_HPP_ARCH_ARM64
/// Limits the events that a guest can count. Argument: kvm_pmu_event_filter.
inline constexpr Request<Scope::vm> set_pmu_event_filter{
    per_arch(0x4020aeb2UL, 0x4008aeb2UL, 0x0UL), "KVM_SET_PMU_EVENT_FILTER"};
#endif

#if KVM_HPP_ARCH_ARM64
/// Copies memory tags; gives the bytes copied. Argument: kvm_arm_copy_mte_tags.
inline constexpr Request<Scope::vm> arm_mte_copy_tags{0x8030aeb4, "KVM_ARM_MTE_COPY_TAGS"};
/// Offsets both counters. Argument: kvm_arm_counter_offset.
inline constexpr Request<Scope::vm> arm_set_counter_offset{0x4010aeb5,
                                                           "KVM_ARM_SET_COUNTER_OFFSET"};
/// Which bits of the feature id registers can be written. Argument:
/// reg_mask_range.
inline constexpr Request<Scope::vm> arm_get_reg_writable_masks{0x8040aeb6,
                                                               "KVM_ARM_GET_REG_WRITABLE_MASKS"};
#endif

/// SEV and TDX commands. Encodes a long, takes a pointer. Argument: unsigned
/// long.
inline constexpr Request<Scope::vm | Scope::vcpu> memory_encrypt_op{0xc008aeba,
                                                                    "KVM_MEMORY_ENCRYPT_OP"};
/// Pins memory of an encrypted guest. Argument: kvm_enc_region.
inline constexpr Request<Scope::vm> memory_encrypt_reg_region{0x8010aebb,
                                                              "KVM_MEMORY_ENCRYPT_REG_REGION"};
/// Unpins it. Argument: kvm_enc_region.
inline constexpr Request<Scope::vm> memory_encrypt_unreg_region{0x8010aebc,
                                                                "KVM_MEMORY_ENCRYPT_UNREG_REGION"};

#if KVM_HPP_ARCH_X86
/// Ties an eventfd to a Hyper-V connection. Argument: kvm_hyperv_eventfd.
inline constexpr Request<Scope::vm> hyperv_eventfd{0x4018aebd, "KVM_HYPERV_EVENTFD"};
#endif

/// Clears bits of a slot and protects the pages again (R51). Argument:
/// kvm_clear_dirty_log.
inline constexpr Request<Scope::vm> clear_dirty_log{0xc018aec0, "KVM_CLEAR_DIRTY_LOG"};

#if KVM_HPP_ARCH_X86
/// Allows and denies MSRs (R83). Argument: kvm_msr_filter.
inline constexpr Request<Scope::vm> x86_set_msr_filter{0x4188aec6, "KVM_X86_SET_MSR_FILTER"};
#endif

/// Takes harvested entries back; gives their number (R63). Argument: none.
inline constexpr Request<Scope::vm> reset_dirty_rings{0xaec7, "KVM_RESET_DIRTY_RINGS"};

#if KVM_HPP_ARCH_X86
/// Reads one of the VM's Xen attributes. Argument: kvm_xen_hvm_attr.
inline constexpr Request<Scope::vm> xen_hvm_get_attr{0xc048aec8, "KVM_XEN_HVM_GET_ATTR"};
/// Writes one of the VM's Xen attributes. Argument: kvm_xen_hvm_attr.
inline constexpr Request<Scope::vm> xen_hvm_set_attr{0x4048aec9, "KVM_XEN_HVM_SET_ATTR"};
#endif

/// A descriptor to read statistics from (R86). Argument: none.
inline constexpr Request<Scope::vm | Scope::vcpu> get_stats_fd{0xaece, "KVM_GET_STATS_FD"};
/// Signals a Xen event channel. Number shared with s390_pv_cpu_command (R4).
/// Argument: kvm_irq_routing_xen_evtchn.
inline constexpr Request<Scope::vm> xen_hvm_evtchn_send{0x400caed0, "KVM_XEN_HVM_EVTCHN_SEND"};
/// Makes guest pages private or shared. Argument: kvm_memory_attributes.
inline constexpr Request<Scope::vm> set_memory_attributes{0x4020aed2, "KVM_SET_MEMORY_ATTRIBUTES"};
/// Makes memory of the guest. Not close-on-exec (R12). Argument:
/// kvm_create_guest_memfd.
inline constexpr Request<Scope::vm> create_guest_memfd{0xc040aed4, "KVM_CREATE_GUEST_MEMFD"};
/// Makes an in-kernel device; its descriptor is in the struct. Argument:
/// kvm_create_device.
inline constexpr Request<Scope::vm> create_device{0xc00caee0, "KVM_CREATE_DEVICE"};

// vCPU descriptor
/// Runs the vCPU. The argument must be 0 (R10, R23). Argument: none.
inline constexpr Request<Scope::vcpu> run{0xae80, "KVM_RUN"};
/// Reads the general registers. Argument: kvm_regs.
inline constexpr Request<Scope::vcpu> get_regs{per_arch(0x8090ae81UL, 0x8360ae81UL, 0x8000ae81UL),
                                               "KVM_GET_REGS"};
/// Writes the general registers. Not while a completion is pending (R30).
/// Argument: kvm_regs.
inline constexpr Request<Scope::vcpu> set_regs{per_arch(0x4090ae82UL, 0x4360ae82UL, 0x4000ae82UL),
                                               "KVM_SET_REGS"};
/// Reads the special registers. Argument: kvm_sregs.
inline constexpr Request<Scope::vcpu> get_sregs{per_arch(0x8138ae83UL, 0x8000ae83UL, 0x8000ae83UL),
                                                "KVM_GET_SREGS"};
/// Writes the special registers. Argument: kvm_sregs.
inline constexpr Request<Scope::vcpu> set_sregs{per_arch(0x4138ae84UL, 0x4000ae84UL, 0x4000ae84UL),
                                                "KVM_SET_SREGS"};
/// Walks the guest's page tables (R37). Argument: kvm_translation.
inline constexpr Request<Scope::vcpu> translate{0xc018ae85, "KVM_TRANSLATE"};
/// Injects an interrupt (R71). Argument: kvm_interrupt.
inline constexpr Request<Scope::vcpu> interrupt{0x4004ae86, "KVM_INTERRUPT"};

#if KVM_HPP_ARCH_X86
/// Reads MSRs; gives their count (R80). Argument: kvm_msrs.
inline constexpr Request<Scope::vcpu | Scope::system> get_msrs{0xc008ae88, "KVM_GET_MSRS"};
/// Writes MSRs; gives their count (R80). Argument: kvm_msrs.
inline constexpr Request<Scope::vcpu> set_msrs{0x4008ae89, "KVM_SET_MSRS"};
#endif

/// The signal mask while the guest runs (R36). Argument: kvm_signal_mask.
inline constexpr Request<Scope::vcpu> set_signal_mask{0x4004ae8b, "KVM_SET_SIGNAL_MASK"};
/// Reads the floating point state. Argument: kvm_fpu.
inline constexpr Request<Scope::vcpu> get_fpu{per_arch(0x81a0ae8cUL, 0x8000ae8cUL, 0x8000ae8cUL),
                                              "KVM_GET_FPU"};
/// Writes the floating point state. Argument: kvm_fpu.
inline constexpr Request<Scope::vcpu> set_fpu{per_arch(0x41a0ae8dUL, 0x4000ae8dUL, 0x4000ae8dUL),
                                              "KVM_SET_FPU"};

#if KVM_HPP_ARCH_X86
/// Reads the local APIC. Argument: kvm_lapic_state.
inline constexpr Request<Scope::vcpu> get_lapic{0x8400ae8e, "KVM_GET_LAPIC"};
/// Writes the local APIC. Argument: kvm_lapic_state.
inline constexpr Request<Scope::vcpu> set_lapic{0x4400ae8f, "KVM_SET_LAPIC"};
/// Sets the guest's CPUID table (R81). Argument: kvm_cpuid2.
inline constexpr Request<Scope::vcpu> set_cpuid2{0x4008ae90, "KVM_SET_CPUID2"};
/// Reads the guest's CPUID table. Argument: kvm_cpuid2.
inline constexpr Request<Scope::vcpu> get_cpuid2{0xc008ae91, "KVM_GET_CPUID2"};
#endif

/// Whether accesses of the TPR exit. Argument: kvm_tpr_access_ctl.
inline constexpr Request<Scope::vcpu> tpr_access_reporting{0xc028ae92, "KVM_TPR_ACCESS_REPORTING"};
/// Places the page that shadows the TPR. Argument: kvm_vapic_addr.
inline constexpr Request<Scope::vcpu> set_vapic_addr{0x4008ae93, "KVM_SET_VAPIC_ADDR"};
/// Reads whether the vCPU runs, halts or waits. Argument: kvm_mp_state.
inline constexpr Request<Scope::vcpu> get_mp_state{0x8004ae98, "KVM_GET_MP_STATE"};
/// Writes it. Argument: kvm_mp_state.
inline constexpr Request<Scope::vcpu> set_mp_state{0x4004ae99, "KVM_SET_MP_STATE"};
/// Queues an NMI. Argument: none.
inline constexpr Request<Scope::vcpu> nmi{0xae9a, "KVM_NMI"};
/// Breakpoints and single step (R84). On riscv no header gives this in C++
/// (R2). Argument: kvm_guest_debug.
inline constexpr Request<Scope::vcpu> set_guest_debug{
    per_arch(0x4048ae9bUL, 0x4208ae9bUL, 0x4008ae9bUL), "KVM_SET_GUEST_DEBUG"};
/// Sets up machine check banks. Argument: __u64.
inline constexpr Request<Scope::vcpu> x86_setup_mce{0x4008ae9c, "KVM_X86_SETUP_MCE"};

#if KVM_HPP_ARCH_X86
/// Injects a machine check. Argument: kvm_x86_mce.
inline constexpr Request<Scope::vcpu> x86_set_mce{0x4040ae9e, "KVM_X86_SET_MCE"};
#endif

#if KVM_HPP_ARCH_X86 || KVM_HPP_ARCH_ARM64
/// Reads pending exceptions, interrupts and NMIs. Argument: kvm_vcpu_events.
inline constexpr Request<Scope::vcpu> get_vcpu_events{0x8040ae9f, "KVM_GET_VCPU_EVENTS"};
/// Writes them. Argument: kvm_vcpu_events.
inline constexpr Request<Scope::vcpu> set_vcpu_events{0x4040aea0, "KVM_SET_VCPU_EVENTS"};
#endif

#if KVM_HPP_ARCH_X86
/// Reads the debug registers. Argument: kvm_debugregs.
inline constexpr Request<Scope::vcpu> get_debugregs{0x8080aea1, "KVM_GET_DEBUGREGS"};
#endif

/// Sets the frequency of the TSC. Number shared with set_debugregs (R4).
/// Argument: value.
inline constexpr Request<Scope::vcpu | Scope::vm> set_tsc_khz{0xaea2, "KVM_SET_TSC_KHZ"};

#if KVM_HPP_ARCH_X86
/// Writes the debug registers. Number shared with set_tsc_khz (R4). Argument:
/// kvm_debugregs.
inline constexpr Request<Scope::vcpu> set_debugregs{0x4080aea2, "KVM_SET_DEBUGREGS"};
#endif

/// Frequency of the TSC in kHz. Argument: none.
inline constexpr Request<Scope::vcpu | Scope::vm> get_tsc_khz{0xaea3, "KVM_GET_TSC_KHZ"};

#if KVM_HPP_ARCH_X86
/// Reads the extended state, its first 4096 bytes. Argument: kvm_xsave.
inline constexpr Request<Scope::vcpu> get_xsave{0x9000aea4, "KVM_GET_XSAVE"};
/// Writes the extended state, as many bytes as xsave2 gives (R82). Argument:
/// kvm_xsave.
inline constexpr Request<Scope::vcpu> set_xsave{0x5000aea5, "KVM_SET_XSAVE"};
/// Reads the extended control registers. Argument: kvm_xcrs.
inline constexpr Request<Scope::vcpu> get_xcrs{0x8188aea6, "KVM_GET_XCRS"};
/// Writes the extended control registers. Argument: kvm_xcrs.
inline constexpr Request<Scope::vcpu> set_xcrs{0x4188aea7, "KVM_SET_XCRS"};
#endif

/// Reads a register by id. Argument: kvm_one_reg.
inline constexpr Request<Scope::vcpu> get_one_reg{0x4010aeab, "KVM_GET_ONE_REG"};
/// Writes a register by id. Argument: kvm_one_reg.
inline constexpr Request<Scope::vcpu> set_one_reg{0x4010aeac, "KVM_SET_ONE_REG"};
/// Tells the guest that it was paused. Argument: none.
inline constexpr Request<Scope::vcpu> kvmclock_ctrl{0xaead, "KVM_KVMCLOCK_CTRL"};

#if KVM_HPP_ARCH_ARM64
/// Sets a vCPU up, or resets it. Argument: kvm_vcpu_init.
inline constexpr Request<Scope::vcpu> arm_vcpu_init{0x4020aeae, "KVM_ARM_VCPU_INIT"};
#endif

/// Ids of all registers (R80). Argument: kvm_reg_list.
inline constexpr Request<Scope::vcpu> get_reg_list{0xc008aeb0, "KVM_GET_REG_LIST"};
/// Queues an SMI. Argument: none.
inline constexpr Request<Scope::vcpu> smi{0xaeb7, "KVM_SMI"};

#if KVM_HPP_ARCH_X86
/// Reads the nested virtualisation state. Argument: kvm_nested_state.
inline constexpr Request<Scope::vcpu> get_nested_state{0xc080aebe, "KVM_GET_NESTED_STATE"};
/// Writes the nested virtualisation state. Argument: kvm_nested_state.
inline constexpr Request<Scope::vcpu> set_nested_state{0x4080aebf, "KVM_SET_NESTED_STATE"};
/// The Hyper-V CPUID leaves that KVM supports. Argument: kvm_cpuid2.
inline constexpr Request<Scope::vcpu | Scope::system> get_supported_hv_cpuid{
    0xc008aec1, "KVM_GET_SUPPORTED_HV_CPUID"};
#endif

/// Ends the set-up of a feature, SVE for one. Argument: int.
inline constexpr Request<Scope::vcpu> arm_vcpu_finalize{0x4004aec2, "KVM_ARM_VCPU_FINALIZE"};

#if KVM_HPP_ARCH_X86
/// Reads one of the vCPU's Xen attributes. Argument: kvm_xen_vcpu_attr.
inline constexpr Request<Scope::vcpu> xen_vcpu_get_attr{0xc048aeca, "KVM_XEN_VCPU_GET_ATTR"};
/// Writes one of the vCPU's Xen attributes. Argument: kvm_xen_vcpu_attr.
inline constexpr Request<Scope::vcpu> xen_vcpu_set_attr{0x4048aecb, "KVM_XEN_VCPU_SET_ATTR"};
/// Reads the special registers and the PDPTRs. Argument: kvm_sregs2.
inline constexpr Request<Scope::vcpu> get_sregs2{0x8140aecc, "KVM_GET_SREGS2"};
/// Writes the special registers and the PDPTRs. Argument: kvm_sregs2.
inline constexpr Request<Scope::vcpu> set_sregs2{0x4140aecd, "KVM_SET_SREGS2"};
/// Reads the whole extended state (R82). Argument: kvm_xsave.
inline constexpr Request<Scope::vcpu> get_xsave2{0x9000aecf, "KVM_GET_XSAVE2"};
#endif

/// Maps guest memory before the guest touches it. Argument:
/// kvm_pre_fault_memory.
inline constexpr Request<Scope::vcpu> pre_fault_memory{0xc040aed5, "KVM_PRE_FAULT_MEMORY"};

// Device descriptor
/// Writes an attribute (R85). Argument: kvm_device_attr.
inline constexpr Request<Scope::device | Scope::vm | Scope::vcpu> set_device_attr{
    0x4018aee1, "KVM_SET_DEVICE_ATTR"};
/// Reads an attribute (R85). Argument: kvm_device_attr.
inline constexpr Request<Scope::device | Scope::vm | Scope::vcpu | Scope::system> get_device_attr{
    0x4018aee2, "KVM_GET_DEVICE_ATTR"};
/// Asks whether an attribute exists (R85). Argument: kvm_device_attr.
inline constexpr Request<Scope::device | Scope::vm | Scope::vcpu | Scope::system> has_device_attr{
    0x4018aee3, "KVM_HAS_DEVICE_ATTR"};

// Handlers of other architectures (s390, ppc). The header defines these codes here too.
/// For s390. Argument: value.
inline constexpr Request<Scope::system> s390_enable_sie{0xae06, "KVM_S390_ENABLE_SIE"};
/// For s390. Argument: kvm_s390_keyop.
inline constexpr Request<Scope::vm> s390_keyop{0xc010ae53, "KVM_S390_KEYOP"};

#if KVM_HPP_ARCH_X86
/// For s390. Argument: kvm_s390_interrupt.
inline constexpr Request<Scope::vm | Scope::vcpu> s390_interrupt{0x4010ae94, "KVM_S390_INTERRUPT"};
/// For ppc. Argument: kvm_ppc_pvinfo.
inline constexpr Request<Scope::vm> ppc_get_pvinfo{0x4080aea1, "KVM_PPC_GET_PVINFO"};
/// For ppc. Argument: kvm_ppc_smmu_info.
inline constexpr Request<Scope::vm> ppc_get_smmu_info{0x8250aea6, "KVM_PPC_GET_SMMU_INFO"};
#endif

/// For ppc. Argument: __u32.
inline constexpr Request<Scope::vm> ppc_allocate_htab{0xc004aea7, "KVM_PPC_ALLOCATE_HTAB"};

#if KVM_HPP_ARCH_X86
/// For ppc. Argument: kvm_ppc_resize_hpt.
inline constexpr Request<Scope::vm> ppc_resize_hpt_prepare{0x8010aead,
                                                           "KVM_PPC_RESIZE_HPT_PREPARE"};
/// For ppc. Argument: kvm_ppc_resize_hpt.
inline constexpr Request<Scope::vm> ppc_resize_hpt_commit{0x8010aeae, "KVM_PPC_RESIZE_HPT_COMMIT"};
/// For s390. Argument: kvm_s390_mem_op.
inline constexpr Request<Scope::vm | Scope::vcpu> s390_mem_op{0x4040aeb1, "KVM_S390_MEM_OP"};
/// For s390. Argument: kvm_s390_skeys.
inline constexpr Request<Scope::vm> s390_get_skeys{0x4040aeb2, "KVM_S390_GET_SKEYS"};
#endif

/// For ppc. Argument: none.
inline constexpr Request<Scope::vm> ppc_svm_off{0xaeb3, "KVM_PPC_SVM_OFF"};

#if KVM_HPP_ARCH_X86
/// For s390. Argument: kvm_s390_skeys.
inline constexpr Request<Scope::vm> s390_set_skeys{0x4040aeb3, "KVM_S390_SET_SKEYS"};
#endif

/// For ppc. Argument: none.
inline constexpr Request<Scope::vm> ppc_get_compat_caps{0xaeb8, "KVM_PPC_GET_COMPAT_CAPS"};

#if KVM_HPP_ARCH_X86
/// For s390. Argument: kvm_s390_cmma_log.
inline constexpr Request<Scope::vm> s390_get_cmma_bits{0xc020aeb8, "KVM_S390_GET_CMMA_BITS"};
/// For s390. Argument: kvm_s390_cmma_log.
inline constexpr Request<Scope::vm> s390_set_cmma_bits{0x4020aeb9, "KVM_S390_SET_CMMA_BITS"};
/// For s390. Argument: kvm_pv_cmd.
inline constexpr Request<Scope::vm> s390_pv_command{0xc020aec5, "KVM_S390_PV_COMMAND"};
/// For s390. Argument: kvm_s390_zpci_op.
inline constexpr Request<Scope::vm> s390_zpci_op{0x4048aed1, "KVM_S390_ZPCI_OP"};
/// For s390. Argument: kvm_s390_ucas_mapping.
inline constexpr Request<Scope::vcpu> s390_ucas_map{0x4018ae50, "KVM_S390_UCAS_MAP"};
/// For s390. Argument: kvm_s390_ucas_mapping.
inline constexpr Request<Scope::vcpu> s390_ucas_unmap{0x4018ae51, "KVM_S390_UCAS_UNMAP"};
#endif

/// For s390. Argument: unsigned long.
inline constexpr Request<Scope::vcpu> s390_vcpu_fault{0x4008ae52, "KVM_S390_VCPU_FAULT"};
/// For s390. Argument: unsigned long.
inline constexpr Request<Scope::vcpu> s390_store_status{0x4008ae95, "KVM_S390_STORE_STATUS"};

#if KVM_HPP_ARCH_X86
/// For s390. Argument: kvm_s390_psw.
inline constexpr Request<Scope::vcpu> s390_set_initial_psw{0x4010ae96, "KVM_S390_SET_INITIAL_PSW"};
#endif

/// For s390. Argument: none.
inline constexpr Request<Scope::vcpu> s390_initial_reset{0xae97, "KVM_S390_INITIAL_RESET"};
/// For ppc. Argument: kvm_dirty_tlb.
inline constexpr Request<Scope::vcpu> dirty_tlb{0x4010aeaa, "KVM_DIRTY_TLB"};

#if KVM_HPP_ARCH_X86
/// For s390. Argument: kvm_s390_irq.
inline constexpr Request<Scope::vcpu> s390_irq{0x4048aeb4, "KVM_S390_IRQ"};
/// For s390. Argument: kvm_s390_irq_state.
inline constexpr Request<Scope::vcpu> s390_set_irq_state{0x4020aeb5, "KVM_S390_SET_IRQ_STATE"};
/// For s390. Argument: kvm_s390_irq_state.
inline constexpr Request<Scope::vcpu> s390_get_irq_state{0x4020aeb6, "KVM_S390_GET_IRQ_STATE"};
#endif

/// For s390. Argument: none.
inline constexpr Request<Scope::vcpu> s390_normal_reset{0xaec3, "KVM_S390_NORMAL_RESET"};
/// For s390. Argument: none.
inline constexpr Request<Scope::vcpu> s390_clear_reset{0xaec4, "KVM_S390_CLEAR_RESET"};

#if KVM_HPP_ARCH_X86
/// For s390. Argument: kvm_pv_cmd.
inline constexpr Request<Scope::vcpu> s390_pv_cpu_command{0xc020aed0, "KVM_S390_PV_CPU_COMMAND"};
#endif

}  // namespace request
}  // namespace uapi
KVM_HPP_END

#endif  // !KVM_HPP_REFUSED
#endif
