// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_DETAIL_DIRTY_RINGS_HPP
#define KVM_HPP_DETAIL_DIRTY_RINGS_HPP

#include <kvm/detail/slot_registry.hpp>
#include <kvm/detail/syscalls.hpp>
#include <kvm/detail/vcpu_pages.hpp>
#include <kvm/types.hpp>
#include <kvm/uapi/constants.hpp>
#include <kvm/uapi/requests.hpp>
#include <kvm/uapi/structs.hpp>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

/// @file
/// The dirty rings of a VM's vCPUs (KVM_CAP_DIRTY_LOG_RING_ACQ_REL). One lock
/// is held from taking entries until KVM_RESET_DIRTY_RINGS has returned: the
/// ioctl resets what anybody has taken, of all rings, and flushes the TLBs only
/// after it dropped KVM's own lock. Without ours, a second thread could find its
/// entries reset by the first, whose flush is yet to come, and read pages that
/// the guest still writes unnoticed.

KVM_HPP_BEGIN
namespace detail {

/// One vCPU's ring. Everything under the lock of DirtyRings, except for the
/// entries that a DirtyRing hands over.
class VcpuRing {
 public:
  /// A page that the guest wrote, in the ring's terms.
  struct Entry {
    std::uint32_t slot;  ///< SlotId::raw()
    std::uint64_t page;
  };

  /// @param vcpu  what lives as long as the vCPU's handle
  /// @param stamp of the slot numbers that were given back until now
  VcpuRing(VcpuPages pages, VcpuId vcpu_id, std::weak_ptr<const void> vcpu, std::uint64_t stamp)
      : id(vcpu_id),
        pages_(std::move(pages)),
        mask_(static_cast<std::uint32_t>(pages_.size() / sizeof(uapi::kvm_dirty_gfn)) - 1),
        vcpu_(std::move(vcpu)),
        empty_at_(stamp) {}

  const VcpuId id;
  /// Whether a DirtyRing takes its entries.
  bool claimed = false;
  /// Entries that were taken and not handed over yet, in order, from `first`
  /// on. With room for the whole ring once it was claimed.
  std::vector<Entry> taken;
  std::size_t first = 0;

  std::size_t capacity() const noexcept { return std::size_t{mask_} + 1; }
  /// Whether no entry waits, here or in `taken`.
  bool empty() const noexcept { return taken.empty() && flags(next_) != uapi::dirty_gfn::dirty; }

  /// Takes entries in order, at most `room`: calls f(Entry) for each.
  template <class F>
  void drain(std::size_t room, F&& f) {
    for (; room != 0 && flags(next_) == uapi::dirty_gfn::dirty; --room, ++next_) {
      uapi::kvm_dirty_gfn& gfn = at(next_);
      f(Entry{.slot = __atomic_load_n(&gfn.slot, __ATOMIC_RELAXED),
              .page = __atomic_load_n(&gfn.offset, __ATOMIC_RELAXED)});
      __atomic_store_n(&gfn.flags, uapi::dirty_gfn::reset, __ATOMIC_RELEASE);
    }
  }

  /// Whether KVM has yet to reset entries that were taken. It does so in order,
  /// so the last one tells.
  bool wants_reset() const noexcept { return (flags(next_ - 1) & uapi::dirty_gfn::reset) != 0; }

 private:
  friend class DirtyRings;

  uapi::kvm_dirty_gfn& at(std::uint32_t index) const noexcept {
    return reinterpret_cast<uapi::kvm_dirty_gfn*>(pages_.data())[index & mask_];
  }
  std::uint32_t flags(std::uint32_t index) const noexcept {
    return __atomic_load_n(&at(index).flags, __ATOMIC_ACQUIRE);
  }

  VcpuPages pages_;
  std::uint32_t mask_;
  std::uint32_t next_ = 0;  // free running, as KVM's own
  std::weak_ptr<const void> vcpu_;
  std::uint64_t empty_at_;
};

/// All rings of a VM.
class DirtyRings {
 public:
  /// Says how large each vCPU's ring is, before there are any.
  void enable(std::uint32_t bytes) noexcept { bytes_.store(bytes, std::memory_order_release); }
  /// 0 without rings.
  std::uint32_t bytes() const noexcept { return bytes_.load(std::memory_order_acquire); }

  /// Maps the ring of a new vCPU.
  /// @param owner what lives as long as the vCPU's handle
  Result<void> try_add(int vcpu_fd, VcpuId id, std::weak_ptr<const void> owner,
                       const SlotIds& ids) {
    const auto offset = static_cast<off_t>(sys::page_size()) * uapi::page_offset::dirty_ring;
    auto pages = VcpuPages::try_map("mmap of the vCPU's dirty ring", vcpu_fd, bytes(), offset);
    if (!pages) {
      return pages.error();
    }
    const std::lock_guard lock(mutex);
    rings_.push_back(
        std::make_shared<VcpuRing>(std::move(pages).value(), id, std::move(owner), ids.stamp()));
    return {};
  }

  /// From taking entries until they are reset.
  std::mutex mutex;
  /// Whether the VM's DirtyTracker takes the entries of all rings.
  bool tracked = false;

  // Under the lock.

  const std::vector<std::shared_ptr<VcpuRing>>& all() const noexcept { return rings_; }
  std::shared_ptr<VcpuRing> find(VcpuId id) const noexcept {
    for (const auto& ring : rings_) {
      if (ring->id == id) {
        return ring;
      }
    }
    return nullptr;
  }

  /// Has KVM reset what was taken (KVM_RESET_DIRTY_RINGS): write-protect the
  /// pages again.
  ///
  /// No signal may come meanwhile: it would end the ioctl early, and then KVM
  /// forgets to protect up to 64 pages whose entries it has reset already (seen
  /// on 6.18). Later writes to them would be in no ring.
  /// @return 0, or the errno; then a part may be reset
  int reset(const SlotRegistry& vm) const noexcept {
    if (!wants_reset()) {
      return 0;
    }
    ::sigset_t all;
    ::sigset_t before;
    std::memset(&all, 0xff, sizeof all);
    if (const int error_number = sys::set_signal_mask(&all, &before); error_number != 0) {
      return error_number;
    }
    const int result = reset_undisturbed(vm);
    sys::set_signal_mask(&before, nullptr);
    return result;
  }

  /// Tells the slot numbers which of them no ring names any more, and forgets
  /// the rings of vCPUs that are gone.
  void settle(SlotIds& ids) noexcept {
    const std::uint64_t now = ids.stamp();  // Before the rings are looked at.
    std::uint64_t oldest = now;
    for (const auto& ring : rings_) {
      if (ring->empty()) {
        ring->empty_at_ = now;
      }
      oldest = std::min(oldest, ring->empty_at_);
    }
    remove_if(rings_, [](const auto& ring) {
      return !ring->claimed && ring->vcpu_.expired() && ring->empty();
    });
    ids.drained(oldest);
  }

 private:
  static constexpr unsigned most_idle_resets = 10'000;

  int reset_undisturbed(const SlotRegistry& vm) const noexcept {
    for (unsigned idle = 0; wants_reset();) {
      const int count = vm.call(uapi::request::reset_dirty_rings);
      if (count < 0) {
        return errno;
      }
      idle = count == 0 ? idle + 1 : 0;
      if (idle > most_idle_resets) {
        return EAGAIN;
      }
    }
    return 0;
  }

  bool wants_reset() const noexcept {
    for (const auto& ring : rings_) {
      if (ring->wants_reset()) {
        return true;
      }
    }
    return false;
  }

  std::atomic<std::uint32_t> bytes_{0};
  std::vector<std::shared_ptr<VcpuRing>> rings_;
};

}  // namespace detail
KVM_HPP_END

#endif
