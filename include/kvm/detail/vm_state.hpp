// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_DETAIL_VM_STATE_HPP
#define KVM_HPP_DETAIL_VM_STATE_HPP

#include <kvm/detail/coalesced.hpp>
#include <kvm/detail/dirty_rings.hpp>
#include <kvm/detail/slot_registry.hpp>
#include <kvm/fd.hpp>

#include <atomic>
#include <cstddef>
#include <mutex>
#include <utility>

KVM_HPP_BEGIN
namespace detail {

/// What everything made from one VM shares. It owns the VM's descriptor, so
/// that no order of destruction sends an ioctl to a recycled number. The
/// registry of slots is its base and dies after the descriptor: memory that KVM
/// may reach is unmapped last.
class VmState : public SlotRegistry {
 public:
  VmState(Fd fd, std::size_t vcpu_mmap_size)
      : SlotRegistry(fd.get()), fd_(std::move(fd)), vcpu_mmap_size_(vcpu_mmap_size) {}

  /// Bytes to map of each vCPU (KVM_GET_VCPU_MMAP_SIZE).
  std::size_t vcpu_mmap_size() const noexcept { return vcpu_mmap_size_; }

  /// Whether a vCPU was ever created; never goes back.
  std::atomic<bool> vcpus_exist{false};
  /// Set by capabilities that lose dirty pages when combined.
  std::atomic<bool> dirty_ring{false};
  std::atomic<bool> initially_set{false};
  /// Whether reading a dirty log leaves it as it is. Can change at any time.
  std::atomic<bool> manual_protect{false};
  /// Whether beside the dirty rings there are logs of what no vCPU wrote.
  std::atomic<bool> ring_with_bitmap{false};
  /// Whether the VM has a DirtyTracker.
  std::atomic<bool> tracked{false};
  /// The vCPUs' dirty rings.
  DirtyRings rings;
  /// Which writes are coalesced, and by whom they are taken.
  CoalescedZones coalesced;
  /// What cap::MaxVcpuId was enabled with; 0 if it was not.
  std::atomic<int> vcpu_id_limit{0};
  /// Serialises enabling of capabilities, for the check of the two above.
  std::mutex enabling;

 private:
  Fd fd_;
  std::size_t vcpu_mmap_size_;
};

}  // namespace detail
KVM_HPP_END

#endif
