// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_CAPABILITY_EXPLAIN_HPP
#define KVM_HPP_CAPABILITY_EXPLAIN_HPP

#include <kvm/detail/config.hpp>
#if !KVM_HPP_REFUSED

#include <kvm/capability/info.hpp>

#include <cerrno>

/// @file
/// Why KVM_ENABLE_CAP failed, in words.

KVM_HPP_BEGIN
namespace detail {

/// What an errno from enabling one capability means, where that is particular to it.
struct EnableCause {
  unsigned number;
  int error;
  const char* sentence;
};

inline constexpr EnableCause enable_causes[] = {
    {uapi::cap::split_irqchip, EEXIST,
     "this VM has an irqchip already; a split one comes instead of it and before any vCPU"},
    {uapi::cap::x86_apic_bus_cycles_ns, ENXIO,
     "the local APIC must be in the kernel first: create an irqchip, whole or split"},
    {uapi::cap::vm_disable_nx_huge_pages, EPERM, "the process needs CAP_SYS_BOOT"},
    {uapi::cap::dirty_log_ring, E2BIG, "the ring is larger than check() allows"},
    {uapi::cap::dirty_log_ring_acq_rel, E2BIG, "the ring is larger than check() allows"},
    {uapi::cap::hyperv_enlightened_vmcs, ENOTTY,
     "nested virtualization is off, or this CPU is not Intel's"},
    {uapi::cap::hyperv_enlightened_vmcs, EFAULT, "version does not point at writable memory"},
    {uapi::cap::hyperv_direct_tlbflush, ENOTTY, "KVM does not run on Hyper-V"},
    {uapi::cap::vm_copy_enc_context_from, EBADF, "source_vm_fd is not an open VM descriptor"},
    {uapi::cap::vm_move_enc_context_from, EBADF, "source_vm_fd is not an open VM descriptor"},
};

/// The usual cause of `error` when `info` could not be enabled on a VM that has
/// or lacks vCPUs and memory slots; null where nothing useful is known.
constexpr const char* explain_enable(const CapInfo& info, int error, bool vcpus_exist,
                                     bool slots_exist) {
  if (error == EINVAL || error == EBUSY || error == EEXIST) {
    if (vcpus_exist && wants_no_vcpus(info.order)) {
      return "must be enabled before the first vCPU is created; this VM has vCPUs already";
    }
    if (slots_exist && wants_no_slots(info.order)) {
      return "must be enabled before the first memory slot is added; this VM has slots already";
    }
  }
  for (const EnableCause& cause : enable_causes) {
    if (cause.number == info.number && cause.error == error) return cause.sentence;
  }
  if (error == EIO) {
    return "the VM belongs to another process, as it does in the child after a fork, or is dead";
  }
  if (error != EINVAL) return nullptr;
  if (info.constraint != nullptr) return info.constraint;
  return "this KVM does not know the capability, or refuses these arguments; check() says what it "
         "offers";
}

}  // namespace detail
KVM_HPP_END

#endif  // !KVM_HPP_REFUSED
#endif
