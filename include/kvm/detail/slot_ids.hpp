// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_DETAIL_SLOT_IDS_HPP
#define KVM_HPP_DETAIL_SLOT_IDS_HPP

#include <kvm/types.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <vector>

KVM_HPP_BEGIN
namespace detail {

/// Reserves at least `size`, and not anew for each element that is added.
template <class T>
void make_room(std::vector<T>& vector, std::size_t size) {
  if (vector.capacity() < size) {
    vector.reserve(std::max(size, 2 * vector.capacity()));
  }
}

/// The numbers of a VM's slots: given out lowest first, and again only when
/// nothing can take a new slot for the old one any more. Outlives the VM's
/// state in the hands of whatever still names a number. Any thread.
///
/// With dirty rings, a ring may still hold entries that name a deleted slot. Its
/// number waits until every ring was seen empty after the deletion: returned
/// numbers are stamped, and whoever drains a ring says up to which stamp.
class SlotIds {
 public:
  /// @param limit numbers are below it
  std::optional<SlotId> take(std::uint16_t address_space, std::uint32_t limit) {
    const std::lock_guard lock(mutex_);
    Space& space = spaces_[address_space];
    const std::uint32_t id = space.free.empty() ? space.next : space.free.front();
    if (id >= limit) {
      return std::nullopt;
    }
    // So that giving back cannot fail.
    make_room(space.free, space.next + std::size_t{1});
    make_room(waiting_, waiting_.size() + taken_ + 1);
    if (id == space.next) {
      ++space.next;
    } else {
      std::pop_heap(space.free.begin(), space.free.end(), std::greater<>());
      space.free.pop_back();
    }
    ++taken_;
    return SlotId(static_cast<std::uint16_t>(id), address_space);
  }

  void give_back(SlotId slot) noexcept {
    const std::lock_guard lock(mutex_);
    --taken_;
    if (held_back_) {
      waiting_.push_back({slot, ++stamp_});
    } else {
      add_free(slot);
    }
  }

  /// From now on numbers wait for rings to be drained.
  void hold_back() noexcept {
    const std::lock_guard lock(mutex_);
    held_back_ = true;
  }
  /// The stamp of the last number that was given back. Read it before draining
  /// a ring.
  std::uint64_t stamp() const noexcept {
    const std::lock_guard lock(mutex_);
    return stamp_;
  }
  /// Every ring was seen empty after stamp() gave `stamp`.
  void drained(std::uint64_t stamp) noexcept {
    const std::lock_guard lock(mutex_);
    // Stamps rise along the list.
    auto end = waiting_.begin();
    while (end != waiting_.end() && end->stamp <= stamp) {
      add_free(end->slot);
      ++end;
    }
    waiting_.erase(waiting_.begin(), end);
  }
  /// How many numbers something still names: slots, and what is left of them.
  std::size_t taken() const noexcept {
    const std::lock_guard lock(mutex_);
    return taken_;
  }
  /// How many numbers wait for rings to be drained.
  std::size_t waiting() const noexcept {
    const std::lock_guard lock(mutex_);
    return waiting_.size();
  }

 private:
  struct Space {
    std::vector<std::uint16_t> free;  // a heap, lowest first
    std::uint32_t next = 0;
  };
  struct Waiting {
    SlotId slot;
    std::uint64_t stamp;
  };

  void add_free(SlotId slot) noexcept {
    Space& space = spaces_.find(slot.address_space)->second;
    space.free.push_back(slot.id);  // take() reserved the room.
    std::push_heap(space.free.begin(), space.free.end(), std::greater<>());
  }

  mutable std::mutex mutex_;
  std::map<std::uint16_t, Space> spaces_;
  std::vector<Waiting> waiting_;
  std::size_t taken_ = 0;
  std::uint64_t stamp_ = 0;
  bool held_back_ = false;
};

}  // namespace detail
KVM_HPP_END

#endif
