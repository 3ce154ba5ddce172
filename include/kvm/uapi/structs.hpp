// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_UAPI_STRUCTS_HPP
#define KVM_HPP_UAPI_STRUCTS_HPP

#include <kvm/detail/kernel_header.hpp>
#if !KVM_HPP_REFUSED

#include <cstddef>
#include <cstdint>

#include <kvm/uapi/request.hpp>

/// @file
/// The structs that KVM's requests take, by the kernel's names in kvm::uapi.
///
/// Those that every header since Linux 5.10 lays out alike are the header's
/// own, brought in by a using-declaration. Those added, grown or changed since
/// are ours, the same with every header. Those that end in a flexible array
/// are ours too: standard C++ has none, and the 6.1 header misplaces it (R1).
/// They declare the part before the array; `array_offset` says where it
/// begins and `element` what it holds.

KVM_HPP_BEGIN
namespace uapi {

/// A struct that a flexible array follows.
template <class T>
concept FlexibleHeader = requires {
  typename T::element;
  {T::array_offset + std::size_t{0}};
};

/// Bytes of a flexible struct with `count` elements.
template <FlexibleHeader T>
constexpr std::size_t flexible_size(std::size_t count) noexcept {
  return T::array_offset + count * sizeof(typename T::element);
}

// The same in every header since 5.10.
using ::kvm_clear_dirty_log;
using ::kvm_coalesced_mmio;
using ::kvm_coalesced_mmio_zone;
using ::kvm_create_device;
using ::kvm_device_attr;
using ::kvm_dirty_log;
using ::kvm_enable_cap;
using ::kvm_enc_region;
using ::kvm_hyperv_exit;
using ::kvm_interrupt;
using ::kvm_ioeventfd;
using ::kvm_irq_level;
using ::kvm_irq_routing_hv_sint;
using ::kvm_irq_routing_irqchip;
using ::kvm_irq_routing_msi;
using ::kvm_irq_routing_s390_adapter;
using ::kvm_irqchip;
using ::kvm_irqfd;
using ::kvm_mp_state;
using ::kvm_msi;
using ::kvm_one_reg;
using ::kvm_pit_config;
using ::kvm_tpr_access_ctl;
using ::kvm_translation;
using ::kvm_userspace_memory_region;
using ::kvm_vapic_addr;

#if !KVM_HPP_ARCH_RISCV
using ::kvm_guest_debug;
#else
/// Debug control. The header's own is 12 bytes in C++ on riscv, since its
/// architecture part is an empty struct; the kernel takes 8 (R2).
struct kvm_guest_debug {
  std::uint32_t control;  ///< guestdbg flags
  std::uint32_t pad;
};
#endif

/// A memory slot that may have guest_memfd behind it (6.8).
struct kvm_userspace_memory_region2 {
  std::uint32_t slot;   ///< slot id, address space id in the upper half
  std::uint32_t flags;  ///< mem flags
  std::uint64_t guest_phys_addr;
  std::uint64_t memory_size;  ///< bytes; 0 deletes the slot
  std::uint64_t userspace_addr;
  std::uint64_t guest_memfd_offset;
  std::uint32_t guest_memfd;  ///< descriptor, with mem::guest_memfd
  std::uint32_t pad1;
  std::uint64_t pad2[14];
};

/// A range of guest memory and what it shall be (6.8).
struct kvm_memory_attributes {
  std::uint64_t address;
  std::uint64_t size;        ///< bytes
  std::uint64_t attributes;  ///< memory_attribute flags
  std::uint64_t flags;       ///< must be 0
};

/// Asks for a guest_memfd (6.8).
struct kvm_create_guest_memfd {
  std::uint64_t size;   ///< bytes
  std::uint64_t flags;  ///< guest_memfd_flag flags
  std::uint64_t reserved[6];
};

/// A range to map ahead of the guest's first touch (6.11).
struct kvm_pre_fault_memory {
  std::uint64_t gpa;    ///< moved on by the kernel past what it has mapped
  std::uint64_t size;   ///< bytes, less what has been mapped
  std::uint64_t flags;  ///< must be 0
  std::uint64_t padding[5];
};

/// One entry of a dirty ring (5.11; R62).
struct kvm_dirty_gfn {
  std::uint32_t flags;   ///< dirty_gfn flags: load acquire, store release
  std::uint32_t slot;    ///< address space id in the upper half, slot id in the lower
  std::uint64_t offset;  ///< page within the slot
};

/// The clock of a VM; since 5.16 with the host's clocks of the same instant.
struct kvm_clock_data {
  std::uint64_t clock;  ///< kvmclock, ns
  std::uint32_t flags;  ///< clock_flag flags
  std::uint32_t pad0;
  std::uint64_t realtime;  ///< host's CLOCK_REALTIME, ns, with clock_flag::realtime
  std::uint64_t host_tsc;  ///< host's TSC, with clock_flag::host_tsc
  std::uint32_t pad[4];
};

/// A Xen event channel as target of a gsi (5.12).
struct kvm_irq_routing_xen_evtchn {
  std::uint32_t port;
  std::uint32_t vcpu;
  std::uint32_t priority;
};

/// Where a gsi goes; the Xen member came with 5.12.
struct kvm_irq_routing_entry {
  /// By `type`.
  union Target {
    kvm_irq_routing_irqchip irqchip;
    kvm_irq_routing_msi msi;
    kvm_irq_routing_s390_adapter adapter;
    kvm_irq_routing_hv_sint hv_sint;
    kvm_irq_routing_xen_evtchn xen_evtchn;
    std::uint32_t pad[8];
  };
  std::uint32_t gsi;
  std::uint32_t type;   ///< irq_routing type
  std::uint32_t flags;  ///< of msi: msi_flag::valid_devid
  std::uint32_t pad;
  Target u;
};

/// The whole routing table, kvm_irq_routing_entry follow.
struct kvm_irq_routing {
  using element = kvm_irq_routing_entry;
  static constexpr std::size_t array_offset = 8;
  std::uint32_t nr;     ///< entries
  std::uint32_t flags;  ///< must be 0
};

/// A signal mask, its bytes follow.
struct kvm_signal_mask {
  using element = std::uint8_t;
  static constexpr std::size_t array_offset = 4;
  std::uint32_t len;  ///< must be 8, the size of the kernel's sigset (R36)
};

/// A list of register ids, they follow.
struct kvm_reg_list {
  using element = std::uint64_t;
  static constexpr std::size_t array_offset = 8;
  std::uint64_t n;  ///< in: room for so many; out: there are so many
};

/// The ring of coalesced writes, kvm_coalesced_mmio follow to the end of 4 KiB
/// (R74).
struct kvm_coalesced_mmio_ring {
  using element = kvm_coalesced_mmio;
  static constexpr std::size_t array_offset = 8;
  std::uint32_t first;  ///< next to take: store release
  std::uint32_t last;   ///< next to fill: load acquire
};

/// What a statistics descriptor's file begins with (5.14). Offsets are bytes
/// from its start.
struct kvm_stats_header {
  std::uint32_t flags;
  std::uint32_t name_size;  ///< bytes of each name, its ending zero included
  std::uint32_t num_desc;   ///< descriptors
  std::uint32_t id_offset;
  std::uint32_t desc_offset;
  std::uint32_t data_offset;
};

/// Describes one statistic (5.14), its name follows.
struct kvm_stats_desc {
  using element = char;
  static constexpr std::size_t array_offset = 16;
  std::uint32_t flags;        ///< stats type, unit and base
  std::int16_t exponent;      ///< the unit's, to the base in flags
  std::uint16_t size;         ///< values, of 8 bytes each
  std::uint32_t offset;       ///< bytes from the header's data_offset
  std::uint32_t bucket_size;  ///< width of a bucket of a linear histogram
};

/// The details of exit reason xen (5.12).
struct kvm_xen_exit {
  /// A hypercall to complete.
  struct Hcall {
    std::uint32_t longmode;
    std::uint32_t cpl;
    std::uint64_t input;
    std::uint64_t result;  ///< in
    std::uint64_t params[6];
  };
  /// By `type`.
  union Details {
    Hcall hcall;
  };
  std::uint32_t type;  ///< xen_exit type
  Details u;
};

/// The details of exit reason snp_req_certs (7.x).
struct kvm_exit_snp_req_certs {
  std::uint64_t gpa;     ///< where the certificates go
  std::uint64_t npages;  ///< in and out
  std::uint64_t ret;     ///< in: 0 or an errno
};

/// A storage key operation of s390 (7.x).
struct kvm_s390_keyop {
  std::uint64_t guest_addr;
  std::uint8_t key;
  std::uint8_t operation;
  std::uint8_t pad[6];
};

static_assert(sizeof(kvm_userspace_memory_region2) == 160);
static_assert(offsetof(kvm_userspace_memory_region2, guest_memfd_offset) == 32);
static_assert(offsetof(kvm_userspace_memory_region2, guest_memfd) == 40);
static_assert(sizeof(kvm_memory_attributes) == 32);
static_assert(sizeof(kvm_create_guest_memfd) == 64);
static_assert(sizeof(kvm_pre_fault_memory) == 64);
static_assert(sizeof(kvm_dirty_gfn) == 16);
static_assert(sizeof(kvm_clock_data) == 48 && offsetof(kvm_clock_data, realtime) == 16);
static_assert(sizeof(kvm_irq_routing_xen_evtchn) == 12);
static_assert(sizeof(kvm_irq_routing_entry) == 48 && offsetof(kvm_irq_routing_entry, u) == 16);
static_assert(sizeof(kvm_irq_routing) == 8);
static_assert(sizeof(kvm_signal_mask) == 4);
static_assert(sizeof(kvm_reg_list) == 8);
static_assert(sizeof(kvm_coalesced_mmio) == 24 && sizeof(kvm_coalesced_mmio_ring) == 8);
static_assert(sizeof(kvm_stats_header) == 24);
static_assert(sizeof(kvm_stats_desc) == 16 && offsetof(kvm_stats_desc, bucket_size) == 12);
static_assert(sizeof(kvm_xen_exit) == 80 && offsetof(kvm_xen_exit, u) == 8);
static_assert(sizeof(kvm_exit_snp_req_certs) == 24);
static_assert(sizeof(kvm_s390_keyop) == 16);
static_assert(sizeof(kvm_guest_debug) == per_arch<std::size_t>(72, 520, 8));

}  // namespace uapi
KVM_HPP_END

#include <kvm/uapi/arm64_structs.hpp>
#include <kvm/uapi/riscv_structs.hpp>
#include <kvm/uapi/x86_structs.hpp>

#endif  // !KVM_HPP_REFUSED
#endif
