// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_UAPI_X86_STRUCTS_HPP
#define KVM_HPP_UAPI_X86_STRUCTS_HPP

#include <kvm/detail/kernel_header.hpp>

/// @file
/// The structs of x86 only; empty elsewhere.

#if !KVM_HPP_REFUSED && KVM_HPP_ARCH_X86

#include <cstddef>
#include <cstdint>

KVM_HPP_BEGIN
namespace uapi {

// The same in every header since 5.10.
using ::kvm_cpuid_entry2;
using ::kvm_debug_exit_arch;
using ::kvm_debugregs;
using ::kvm_dtable;
using ::kvm_fpu;
using ::kvm_guest_debug_arch;
using ::kvm_hyperv_eventfd;
using ::kvm_ioapic_state;
using ::kvm_lapic_state;
using ::kvm_msr_entry;
using ::kvm_msr_filter;
using ::kvm_msr_filter_range;
using ::kvm_pic_state;
using ::kvm_pit_channel_state;
using ::kvm_pit_state2;
using ::kvm_regs;
using ::kvm_reinject_control;
using ::kvm_segment;
using ::kvm_sregs;
using ::kvm_svm_nested_state_data;
using ::kvm_vmx_nested_state_data;
using ::kvm_x86_mce;
using ::kvm_xcr;
using ::kvm_xcrs;
using ::kvm_xen_hvm_config;

/// MSRs to read or write, kvm_msr_entry follow.
struct kvm_msrs {
  using element = kvm_msr_entry;
  static constexpr std::size_t array_offset = 8;
  std::uint32_t nmsrs;  ///< entries, at most 255 (R80)
  std::uint32_t pad;
};

/// A list of MSR indices, they follow.
struct kvm_msr_list {
  using element = std::uint32_t;
  static constexpr std::size_t array_offset = 4;
  std::uint32_t nmsrs;  ///< in: room for so many; out: there are so many
};

/// A CPUID table, kvm_cpuid_entry2 follow.
struct kvm_cpuid2 {
  using element = kvm_cpuid_entry2;
  static constexpr std::size_t array_offset = 8;
  std::uint32_t nent;  ///< entries
  std::uint32_t padding;
};

/// The extended state; what is beyond 4096 bytes follows (R82).
struct kvm_xsave {
  using element = std::uint32_t;
  static constexpr std::size_t array_offset = 4096;
  std::uint32_t region[1024];
};

/// Events that a guest may count, they follow.
struct kvm_pmu_event_filter {
  using element = std::uint64_t;
  static constexpr std::size_t array_offset = 32;
  std::uint32_t action;  ///< pmu_event action
  std::uint32_t nevents;
  std::uint32_t fixed_counter_bitmap;
  std::uint32_t flags;  ///< pmu_event flags
  std::uint32_t pad[4];
};

/// Special registers with the PDPTRs (5.14).
struct kvm_sregs2 {
  kvm_segment cs, ds, es, fs, gs, ss;
  kvm_segment tr, ldt;
  kvm_dtable gdt, idt;
  std::uint64_t cr0, cr2, cr3, cr4, cr8;
  std::uint64_t efer;
  std::uint64_t apic_base;
  std::uint64_t flags;  ///< sregs2_flag flags
  std::uint64_t pdptrs[4];
};

/// Pending events; the triple fault came with 6.0.
struct kvm_vcpu_events {
  /// The exception, pending or injected.
  struct Exception {
    std::uint8_t injected;
    std::uint8_t nr;
    std::uint8_t has_error_code;
    std::uint8_t pending;
    std::uint32_t error_code;
  };
  /// The interrupt injected, and the interrupt shadow.
  struct Interrupt {
    std::uint8_t injected;
    std::uint8_t nr;
    std::uint8_t soft;
    std::uint8_t shadow;  ///< x86_shadow flags
  };
  /// NMIs.
  struct Nmi {
    std::uint8_t injected;
    std::uint8_t pending;
    std::uint8_t masked;
    std::uint8_t pad;
  };
  /// System management mode.
  struct Smi {
    std::uint8_t smm;
    std::uint8_t pending;
    std::uint8_t smm_inside_nmi;
    std::uint8_t latched_init;
  };
  /// A triple fault not yet reported.
  struct TripleFault {
    std::uint8_t pending;
  };
  Exception exception;
  Interrupt interrupt;
  Nmi nmi;
  std::uint32_t sipi_vector;
  std::uint32_t flags;  ///< vcpuevent_valid flags
  Smi smi;
  TripleFault triple_fault;
  std::uint8_t reserved[26];
  std::uint8_t exception_has_payload;
  std::uint64_t exception_payload;
};

/// What the run page shares with KVM; grew with kvm_vcpu_events.
struct kvm_sync_regs {
  kvm_regs regs;
  kvm_sregs sregs;
  kvm_vcpu_events events;
};

/// Nested state under VMX; the padding got its name later.
struct kvm_vmx_nested_state_hdr {
  /// System management mode.
  struct Smm {
    std::uint16_t flags;  ///< nested_smm flags
  };
  std::uint64_t vmxon_pa;
  std::uint64_t vmcs12_pa;
  Smm smm;
  std::uint16_t pad;
  std::uint32_t flags;
  std::uint64_t preemption_timer_deadline;
};

/// Nested state under SVM; gpat came with 7.x.
struct kvm_svm_nested_state_hdr {
  std::uint64_t vmcb_pa;
  std::uint64_t gpat;
};

/// Nested virtualisation state, its data follows: kvm_vmx_nested_state_data or
/// kvm_svm_nested_state_data by `format`, `size` bytes with this header.
struct kvm_nested_state {
  using element = std::uint8_t;
  static constexpr std::size_t array_offset = 128;
  /// By `format`.
  union Header {
    kvm_vmx_nested_state_hdr vmx;
    kvm_svm_nested_state_hdr svm;
    std::uint8_t pad[120];
  };
  std::uint16_t flags;   ///< nested_state flags
  std::uint16_t format;  ///< nested_format
  std::uint32_t size;    ///< bytes in all
  Header hdr;
};

/// A Xen attribute of the VM (5.12, grown since).
struct kvm_xen_hvm_attr {
  /// The page shared with the guest.
  union SharedInfo {
    std::uint64_t gfn;
    std::uint64_t hva;
  };
  /// A port to send through.
  struct Port {
    std::uint32_t port;
    std::uint32_t vcpu;
    std::uint32_t priority;
  };
  /// An eventfd to signal.
  struct Eventfd {
    std::uint32_t port;  ///< 0 for an eventfd
    std::int32_t fd;
  };
  /// Where an event goes.
  union Deliver {
    Port port;
    Eventfd eventfd;
    std::uint32_t padding[4];
  };
  /// An event channel.
  struct Evtchn {
    std::uint32_t send_port;
    std::uint32_t type;
    std::uint32_t flags;  ///< xen_evtchn flags
    Deliver deliver;
  };
  /// By `type`.
  union Value {
    std::uint8_t long_mode;
    std::uint8_t vector;
    std::uint8_t runstate_update_flag;
    SharedInfo shared_info;
    Evtchn evtchn;
    std::uint32_t xen_version;
    std::uint64_t pad[8];
  };
  std::uint16_t type;  ///< xen_attr type
  std::uint16_t pad[3];
  Value u;
};

/// A Xen attribute of a vCPU (5.12, grown since).
struct kvm_xen_vcpu_attr {
  /// Times in the states a vCPU can be in, ns.
  struct Runstate {
    std::uint64_t state;
    std::uint64_t state_entry_time;
    std::uint64_t time_running;
    std::uint64_t time_runnable;
    std::uint64_t time_blocked;
    std::uint64_t time_offline;
  };
  /// The timer's event channel.
  struct Timer {
    std::uint32_t port;
    std::uint32_t priority;
    std::uint64_t expires_ns;
  };
  /// By `type`.
  union Value {
    std::uint64_t gpa;
    std::uint64_t hva;
    std::uint64_t pad[8];
    Runstate runstate;
    std::uint32_t vcpu_id;
    Timer timer;
    std::uint8_t vector;
  };
  std::uint16_t type;  ///< xen_vcpu_attr type
  std::uint16_t pad[3];
  Value u;
};

/// A command of SEV, for KVM_MEMORY_ENCRYPT_OP.
struct kvm_sev_cmd {
  std::uint32_t id;
  std::uint32_t pad0;
  std::uint64_t data;   ///< address of the command's struct
  std::uint32_t error;  ///< out: of the firmware
  std::uint32_t sev_fd;
};

/// SEV_INIT2 (6.10).
struct kvm_sev_init {
  std::uint64_t vmsa_features;
  std::uint32_t flags;
  std::uint16_t ghcb_version;
  std::uint16_t pad1;
  std::uint32_t pad2[8];
};

/// SEV_LAUNCH_START.
struct kvm_sev_launch_start {
  std::uint32_t handle;
  std::uint32_t policy;
  std::uint64_t dh_uaddr;
  std::uint32_t dh_len;
  std::uint32_t pad0;
  std::uint64_t session_uaddr;
  std::uint32_t session_len;
  std::uint32_t pad1;
};

/// SEV_LAUNCH_UPDATE_DATA.
struct kvm_sev_launch_update_data {
  std::uint64_t uaddr;
  std::uint32_t len;
  std::uint32_t pad0;
};

/// SEV_LAUNCH_SECRET.
struct kvm_sev_launch_secret {
  std::uint64_t hdr_uaddr;
  std::uint32_t hdr_len;
  std::uint32_t pad0;
  std::uint64_t guest_uaddr;
  std::uint32_t guest_len;
  std::uint32_t pad1;
  std::uint64_t trans_uaddr;
  std::uint32_t trans_len;
  std::uint32_t pad2;
};

/// SEV_LAUNCH_MEASURE.
struct kvm_sev_launch_measure {
  std::uint64_t uaddr;
  std::uint32_t len;
  std::uint32_t pad0;
};

/// SEV_GUEST_STATUS.
struct kvm_sev_guest_status {
  std::uint32_t handle;
  std::uint32_t policy;
  std::uint32_t state;
};

/// SEV_DBG_DECRYPT and SEV_DBG_ENCRYPT.
struct kvm_sev_dbg {
  std::uint64_t src_uaddr;
  std::uint64_t dst_uaddr;
  std::uint32_t len;
  std::uint32_t pad0;
};

/// SEV_GET_ATTESTATION_REPORT (5.12).
struct kvm_sev_attestation_report {
  std::uint8_t mnonce[16];
  std::uint64_t uaddr;
  std::uint32_t len;
  std::uint32_t pad0;
};

/// SEV_SEND_START (5.13).
struct kvm_sev_send_start {
  std::uint32_t policy;
  std::uint32_t pad0;
  std::uint64_t pdh_cert_uaddr;
  std::uint32_t pdh_cert_len;
  std::uint32_t pad1;
  std::uint64_t plat_certs_uaddr;
  std::uint32_t plat_certs_len;
  std::uint32_t pad2;
  std::uint64_t amd_certs_uaddr;
  std::uint32_t amd_certs_len;
  std::uint32_t pad3;
  std::uint64_t session_uaddr;
  std::uint32_t session_len;
  std::uint32_t pad4;
};

/// SEV_SEND_UPDATE_DATA (5.13).
struct kvm_sev_send_update_data {
  std::uint64_t hdr_uaddr;
  std::uint32_t hdr_len;
  std::uint32_t pad0;
  std::uint64_t guest_uaddr;
  std::uint32_t guest_len;
  std::uint32_t pad1;
  std::uint64_t trans_uaddr;
  std::uint32_t trans_len;
  std::uint32_t pad2;
};

/// SEV_RECEIVE_START (5.13).
struct kvm_sev_receive_start {
  std::uint32_t handle;
  std::uint32_t policy;
  std::uint64_t pdh_uaddr;
  std::uint32_t pdh_len;
  std::uint32_t pad0;
  std::uint64_t session_uaddr;
  std::uint32_t session_len;
  std::uint32_t pad1;
};

/// SEV_RECEIVE_UPDATE_DATA (5.13).
struct kvm_sev_receive_update_data {
  std::uint64_t hdr_uaddr;
  std::uint32_t hdr_len;
  std::uint32_t pad0;
  std::uint64_t guest_uaddr;
  std::uint32_t guest_len;
  std::uint32_t pad1;
  std::uint64_t trans_uaddr;
  std::uint32_t trans_len;
  std::uint32_t pad2;
};

/// SEV_SNP_LAUNCH_START (6.11).
struct kvm_sev_snp_launch_start {
  std::uint64_t policy;
  std::uint8_t gosvw[16];
  std::uint16_t flags;
  std::uint8_t pad0[6];
  std::uint64_t pad1[4];
};

/// SEV_SNP_LAUNCH_UPDATE (6.11).
struct kvm_sev_snp_launch_update {
  std::uint64_t gfn_start;
  std::uint64_t uaddr;
  std::uint64_t len;
  std::uint8_t type;
  std::uint8_t pad0;
  std::uint16_t flags;
  std::uint32_t pad1;
  std::uint64_t pad2[4];
};

/// SEV_SNP_LAUNCH_FINISH (6.11).
struct kvm_sev_snp_launch_finish {
  std::uint64_t id_block_uaddr;
  std::uint64_t id_auth_uaddr;
  std::uint8_t id_block_en;
  std::uint8_t auth_key_en;
  std::uint8_t vcek_disabled;
  std::uint8_t host_data[32];
  std::uint8_t pad0[3];
  std::uint16_t flags;
  std::uint64_t pad1[4];
};

/// A command of TDX, for KVM_MEMORY_ENCRYPT_OP (6.16).
struct kvm_tdx_cmd {
  std::uint32_t id;
  std::uint32_t flags;
  std::uint64_t data;      ///< by command: a number or an address
  std::uint64_t hw_error;  ///< out: of the TDX module
};

/// TDX_CAPABILITIES (6.16), kvm_cpuid_entry2 follow.
struct kvm_tdx_capabilities {
  using element = kvm_cpuid_entry2;
  static constexpr std::size_t array_offset = 2056;
  std::uint64_t supported_attrs;
  std::uint64_t supported_xfam;
  std::uint64_t kernel_tdvmcallinfo_1_r11;
  std::uint64_t user_tdvmcallinfo_1_r11;
  std::uint64_t kernel_tdvmcallinfo_1_r12;
  std::uint64_t user_tdvmcallinfo_1_r12;
  std::uint64_t reserved[250];
  kvm_cpuid2 cpuid;  ///< configurable bits
};

/// TDX_INIT_VM (6.16), kvm_cpuid_entry2 follow.
struct kvm_tdx_init_vm {
  using element = kvm_cpuid_entry2;
  static constexpr std::size_t array_offset = 264;
  std::uint64_t attributes;
  std::uint64_t xfam;
  std::uint64_t mrconfigid[6];
  std::uint64_t mrowner[6];
  std::uint64_t mrownerconfig[6];
  std::uint64_t reserved[12];
  kvm_cpuid2 cpuid;  ///< the guest's, in the place of KVM_SET_CPUID2
};

/// TDX_INIT_MEM_REGION (6.16).
struct kvm_tdx_init_mem_region {
  std::uint64_t source_addr;
  std::uint64_t gpa;
  std::uint64_t nr_pages;
};

static_assert(sizeof(kvm_msrs) == 8 && sizeof(kvm_msr_entry) == 16);
static_assert(sizeof(kvm_msr_list) == 4);
static_assert(sizeof(kvm_cpuid2) == 8 && sizeof(kvm_cpuid_entry2) == 40);
static_assert(sizeof(kvm_xsave) == 4096);
static_assert(sizeof(kvm_pmu_event_filter) == 32);
static_assert(sizeof(kvm_sregs2) == 320 && offsetof(kvm_sregs2, pdptrs) == 288);
static_assert(sizeof(kvm_vcpu_events) == 64 && offsetof(kvm_vcpu_events, triple_fault) == 28);
static_assert(offsetof(kvm_vcpu_events, exception_payload) == 56);
static_assert(sizeof(kvm_sync_regs) == 520 && offsetof(kvm_sync_regs, sregs) == 144);
static_assert(offsetof(kvm_sync_regs, events) == 456);
static_assert(sizeof(kvm_vmx_nested_state_hdr) == 32);
static_assert(sizeof(kvm_svm_nested_state_hdr) == 16);
static_assert(sizeof(kvm_nested_state) == 128);
static_assert(sizeof(kvm_xen_hvm_attr) == 72 && sizeof(kvm_xen_vcpu_attr) == 72);
static_assert(sizeof(kvm_sev_cmd) == 24 && sizeof(kvm_sev_init) == 48);
static_assert(sizeof(kvm_sev_launch_start) == 40);
static_assert(sizeof(kvm_sev_launch_update_data) == 16);
static_assert(sizeof(kvm_sev_launch_secret) == 48 && sizeof(kvm_sev_launch_measure) == 16);
static_assert(sizeof(kvm_sev_guest_status) == 12 && sizeof(kvm_sev_dbg) == 24);
static_assert(sizeof(kvm_sev_attestation_report) == 32 && sizeof(kvm_sev_send_start) == 72);
static_assert(sizeof(kvm_sev_send_update_data) == 48);
static_assert(sizeof(kvm_sev_receive_start) == 40 && sizeof(kvm_sev_receive_update_data) == 48);
static_assert(sizeof(kvm_sev_snp_launch_start) == 64 && sizeof(kvm_sev_snp_launch_update) == 64);
static_assert(sizeof(kvm_sev_snp_launch_finish) == 88);
static_assert(sizeof(kvm_tdx_cmd) == 24 && sizeof(kvm_tdx_capabilities) == 2056);
static_assert(sizeof(kvm_tdx_init_vm) == 264 && sizeof(kvm_tdx_init_mem_region) == 24);
static_assert(sizeof(kvm_regs) == 144 && sizeof(kvm_sregs) == 312 && sizeof(kvm_fpu) == 416);

}  // namespace uapi
KVM_HPP_END

#endif  // KVM_HPP_ARCH_X86
#endif
