// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_DETAIL_VM_STATE_HPP
#define KVM_HPP_DETAIL_VM_STATE_HPP

#include <kvm/detail/handle.hpp>
#include <kvm/fd.hpp>
#include <kvm/memory/mapping.hpp>
#include <kvm/types.hpp>
#include <kvm/uapi/capabilities.hpp>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

KVM_HPP_BEGIN
namespace detail {

/// What everything made from one VM shares. It owns the VM's descriptor, so
/// that no order of destruction sends an ioctl to a recycled number.
class VmState : public Handle<uapi::Scope::vm> {
 public:
  VmState(Fd fd, std::size_t vcpu_mmap_size)
      : Handle(fd.get()), fd_(std::move(fd)), vcpu_mmap_size_(vcpu_mmap_size) {}

  using Handle::call;
  using Handle::failure;
  using Handle::foreign;

  /// Bytes to map of each vCPU (KVM_GET_VCPU_MMAP_SIZE).
  std::size_t vcpu_mmap_size() const noexcept { return vcpu_mmap_size_; }

  /// Creates a memory slot under a free id.
  Result<SlotId> add_slot(std::uint16_t address_space, Gpa gpa, const Mapping& mapping,
                          std::uint32_t flags) {
    const auto fail = [&](int error_number, std::string_view cause) {
      return failure(uapi::request::set_user_memory_region.name, error_number,
                     text("gpa=", Hex{gpa.value}, ", size=", Hex{mapping.size()},
                          ", address_space=", address_space, ", flags=", Hex{flags}),
                     cause);
    };
    if (foreign()) {  // Another thread may have held the lock at the fork.
      return fail(EIO, {});
    }
    const std::lock_guard lock(mutex_);
    const std::size_t page = sys::page_size();
    if (gpa.value % page != 0) {
      return fail(EINVAL, text("the gpa is not a multiple of the page size, ", page));
    }
    if (gpa.value + mapping.size() < gpa.value) {
      return fail(EINVAL, "the range passes the end of the address space");
    }
    Slots& space = spaces_[address_space];
    const std::uint32_t id = space.free.empty() ? space.next : space.free.front();
    if (slot_limit_ == 0) {
      const int limit = call(uapi::request::check_extension, uapi::cap::nr_memslots);
      slot_limit_ = limit > 0 ? static_cast<std::uint32_t>(limit) : 0;
    }
    if (slot_limit_ != 0 && id >= slot_limit_) {
      return fail(EINVAL, text("all ", slot_limit_, " slots are in use"));
    }
    const SlotId slot(static_cast<std::uint16_t>(id), address_space);
    // Whatever may run out of memory does so before KVM is told, the room that
    // deleting needs included.
    parked_.reserve(parked_.size() + slot_count_ + 1);
    space.free.reserve(space.next + std::size_t{1});
    std::map<std::uint64_t, Range> staged;
    staged.try_emplace(gpa.value, Range{slot, mapping.size()});
    if (!set_region(slot, gpa, mapping.size(), mapping.data(), flags)) {
      const int error_number = errno;
      return fail(error_number, explain(error_number, space, gpa, mapping.size()));
    }
    space.by_gpa.merge(staged);
    if (id == space.next) {
      ++space.next;
    } else {
      std::pop_heap(space.free.begin(), space.free.end(), std::greater<>());
      space.free.pop_back();
    }
    ++slot_count_;
    return slot;
  }

  /// Deletes a memory slot. False, with errno set, if KVM refuses: then it is
  /// still there and may still be used by the guest.
  bool delete_slot(SlotId slot, Gpa gpa) noexcept {
    if (foreign()) {  // Another thread may have held the lock at the fork.
      errno = EIO;
      return false;
    }
    const std::lock_guard lock(mutex_);
    if (!set_region(slot, gpa, 0, nullptr, 0)) {
      return false;
    }
    Slots& space = spaces_[slot.address_space];
    space.by_gpa.erase(gpa.value);
    space.free.push_back(slot.id);  // add_slot reserved the room.
    std::push_heap(space.free.begin(), space.free.end(), std::greater<>());
    --slot_count_;
    return true;
  }

  /// Keeps memory that KVM may still reach, for as long as the VM lives.
  void park(Mapping mapping) noexcept {
    const std::lock_guard lock(mutex_);
    parked_.push_back(std::move(mapping));  // add_slot reserved the room.
  }
  std::size_t parked() const noexcept {
    if (foreign()) {
      return 0;
    }
    const std::lock_guard lock(mutex_);
    return parked_.size();
  }

  bool slots_exist() const noexcept {
    const std::lock_guard lock(mutex_);
    return slot_count_ != 0;
  }

  /// Whether a vCPU was ever created; never goes back.
  std::atomic<bool> vcpus_exist{false};
  /// Set by capabilities that lose dirty pages when combined.
  std::atomic<bool> dirty_ring{false};
  std::atomic<bool> initially_set{false};
  /// What cap::MaxVcpuId was enabled with; 0 if it was not.
  std::atomic<int> vcpu_id_limit{0};
  /// Serialises enabling of capabilities, for the check of the two above.
  std::mutex enabling;

 private:
  struct Range {
    SlotId slot;
    std::uint64_t size = 0;
  };
  struct Slots {
    std::map<std::uint64_t, Range> by_gpa;
    std::vector<std::uint32_t> free;  // a heap, lowest first
    std::uint32_t next = 0;
  };

  bool set_region(SlotId slot, Gpa gpa, std::uint64_t size, void* hva,
                  std::uint32_t flags) noexcept {
    const uapi::kvm_userspace_memory_region region{
        .slot = slot.raw(),
        .flags = flags,
        .guest_phys_addr = gpa.value,
        .memory_size = size,
        .userspace_addr = reinterpret_cast<std::uint64_t>(hva)};
    return call(uapi::request::set_user_memory_region, &region) == 0;
  }

  std::string explain(int error_number, const Slots& space, Gpa gpa, std::uint64_t size) const {
    if (error_number == EEXIST) {
      for (const auto& [start, range] : space.by_gpa) {
        if (range.size != 0 && start < gpa.value + size && gpa.value < start + range.size) {
          return text("it overlaps slot ", range.slot.id, " at [", Hex{start}, ", ",
                      Hex{start + range.size}, ")");
        }
      }
      return "it overlaps a slot that was made with raw ioctls, or one of KVM's own: the APIC "
             "access "
             "page, the TSS or the identity map";
    }
    if (error_number == EINVAL) {
      return "KVM refused the range, the flags or the address space: the gpa may be beyond what "
             "this host can map";
    }
    return {};
  }

  std::vector<Mapping> parked_;  // outlives the descriptor
  Fd fd_;
  std::size_t vcpu_mmap_size_;
  mutable std::mutex mutex_;
  std::map<std::uint16_t, Slots> spaces_;
  std::size_t slot_count_ = 0;
  std::uint32_t slot_limit_ = 0;
};

}  // namespace detail
KVM_HPP_END

#endif
