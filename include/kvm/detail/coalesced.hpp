// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_DETAIL_COALESCED_HPP
#define KVM_HPP_DETAIL_COALESCED_HPP

#include <kvm/detail/slot_registry.hpp>
#include <kvm/uapi/constants.hpp>
#include <kvm/uapi/requests.hpp>
#include <kvm/uapi/structs.hpp>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <utility>
#include <vector>

/// @file
/// The ring of coalesced writes (KVM_CAP_COALESCED_MMIO): its page, and which
/// ranges of a VM end there.

KVM_HPP_BEGIN
namespace detail {

/// The page that KVM fills and one consumer empties. KVM moves `last`, we move
/// `first`; one entry always stays free. Whatever the page says, nothing beyond
/// it is touched.
class CoalescedPage {
 public:
  using Entry = uapi::kvm_coalesced_mmio;

  CoalescedPage() noexcept = default;
  /// @param size bytes, at least 64
  CoalescedPage(std::byte* page, std::size_t size) noexcept
      : page_(page), capacity_(static_cast<std::uint32_t>((size - entries_at) / sizeof(Entry))) {}

  /// How many entries it has room for, the free one included.
  std::uint32_t capacity() const noexcept { return capacity_; }

  /// Whether no entry waits. An entry that drain() hands over waits until that
  /// is done; what was done is visible to whoever sees that nothing waits.
  bool empty() const noexcept { return load(first_at) == load(last_at); }

  /// Calls f(const Entry&) for each entry that is there now, and gives it back
  /// to KVM when that has returned. One consumer at a time.
  /// @param[out] count entries that were handed over
  /// @return 0, or EPROTO at what KVM would not write
  template <class F>
  int drain(std::size_t& count, F&& f) const {
    const std::uint32_t last = load(last_at);  // What comes later waits for the next time.
    std::uint32_t first = load(first_at);
    if (first >= capacity_ || last >= capacity_) {
      return EPROTO;
    }
    for (; first != last; ++count) {
      Entry entry;
      std::memcpy(&entry, page_ + entries_at + first * sizeof entry, sizeof entry);
      if (entry.len > sizeof entry.data) {
        return EPROTO;
      }
      f(std::as_const(entry));
      first = first + 1 == capacity_ ? 0 : first + 1;
      __atomic_store_n(word(first_at), first, __ATOMIC_RELEASE);
    }
    return 0;
  }

 private:
  static constexpr std::size_t first_at = offsetof(uapi::kvm_coalesced_mmio_ring, first);
  static constexpr std::size_t last_at = offsetof(uapi::kvm_coalesced_mmio_ring, last);
  static constexpr std::size_t entries_at = uapi::kvm_coalesced_mmio_ring::array_offset;
  static_assert(sizeof(Entry) == 24);

  std::uint32_t* word(std::size_t offset) const noexcept {
    return reinterpret_cast<std::uint32_t*>(page_ + offset);
  }
  std::uint32_t load(std::size_t offset) const noexcept {
    return __atomic_load_n(word(offset), __ATOMIC_ACQUIRE);
  }

  std::byte* page_ = nullptr;
  std::uint32_t capacity_ = 0;
};

/// What of a VM is coalesced, and who takes it.
class CoalescedZones {
 public:
  struct Zone {
    std::uint64_t address;
    std::uint32_t size;
    bool port;
    std::uint64_t id;  ///< never used again
  };

  /// While entries are handed over.
  std::mutex consuming;
  /// The thread that holds it, by its token.
  std::atomic<std::uint64_t> consumer{0};

  /// Makes the caller the one who has the ring, unless there is one.
  bool claim() noexcept {
    const std::lock_guard lock(mutex_);
    if (claimed_) {
      return false;
    }
    claimed_ = true;
    return true;
  }
  /// Ends that, and all zones: nobody is there to take what they catch.
  void unclaim(const SlotRegistry& vm) noexcept {
    const std::lock_guard lock(mutex_);
    remove_if(zones_, [&](const Zone& zone) { return unregister(vm, zone) == 0; });
    claimed_ = false;
  }

  /// Registers a zone, unless it overlaps another: KVM would take both, and with
  /// either one remove both (R74).
  /// @param[out] zone its id
  /// @return 0, or an errno; EEXIST if it overlaps
  int add(const SlotRegistry& vm, Zone& zone) {
    const std::lock_guard lock(mutex_);
    for (const Zone& other : zones_) {
      if (other.port == zone.port && other.address - zone.address < zone.size) {
        return EEXIST;
      }
      if (other.port == zone.port && zone.address - other.address < other.size) {
        return EEXIST;
      }
    }
    zones_.reserve(zones_.size() + 1);
    const auto argument = to_uapi(zone);
    if (vm.call(uapi::request::register_coalesced_mmio, &argument) < 0) {
      return errno;
    }
    zone.id = ++last_id_;
    zones_.push_back(zone);
    return 0;
  }
  /// Ends a zone. One that KVM refuses to end stays known, so that none is made
  /// over it. Nothing happens if it has ended already.
  /// @return 0, or an errno
  int remove(const SlotRegistry& vm, std::uint64_t id) noexcept {
    const std::lock_guard lock(mutex_);
    int error_number = 0;
    remove_if(zones_, [&](const Zone& zone) {
      if (zone.id != id) {
        return false;
      }
      error_number = unregister(vm, zone);
      return error_number == 0;
    });
    return error_number;
  }

 private:
  static uapi::kvm_coalesced_mmio_zone to_uapi(const Zone& zone) noexcept {
    uapi::kvm_coalesced_mmio_zone out{};
    out.addr = zone.address;
    out.size = zone.size;
    out.pio = zone.port ? 1 : 0;
    return out;
  }
  static int unregister(const SlotRegistry& vm, const Zone& zone) noexcept {
    const auto argument = to_uapi(zone);
    return vm.call(uapi::request::unregister_coalesced_mmio, &argument) < 0 ? errno : 0;
  }

  std::mutex mutex_;
  bool claimed_ = false;
  std::uint64_t last_id_ = 0;
  std::vector<Zone> zones_;
};

}  // namespace detail
KVM_HPP_END

#endif
