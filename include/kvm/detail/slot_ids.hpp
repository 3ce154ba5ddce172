// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_DETAIL_SLOT_IDS_HPP
#define KVM_HPP_DETAIL_SLOT_IDS_HPP

#include <kvm/detail/vectors.hpp>
#include <kvm/types.hpp>

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

KVM_HPP_BEGIN
namespace detail {

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
    Space& space = find_or_make_space(address_space);
    const std::uint32_t id = space.free.empty() ? space.next : space.free.back();
    if (id >= limit) {
      return std::nullopt;
    }
    // So that giving back cannot fail.
    make_room(space.free, space.next + std::size_t{1});
    make_room(waiting_, waiting_.size() + taken_ + 1);
    if (id == space.next) {
      ++space.next;
    } else {
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
    remove_if(waiting_, [&](const Waiting& number) {
      if (number.stamp > stamp) {
        return false;
      }
      add_free(number.slot);
      return true;
    });
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
    std::uint16_t number = 0;
    std::uint32_t next = 0;
    std::vector<std::uint16_t> free = {};  // highest first
  };
  struct Waiting {
    SlotId slot;
    std::uint64_t stamp;
  };

  Space* find_space(std::uint16_t number) noexcept {
    for (Space& space : spaces_) {
      if (space.number == number) {
        return &space;
      }
    }
    return nullptr;
  }
  Space& find_or_make_space(std::uint16_t number) {
    if (Space* const space = find_space(number)) {
      return *space;
    }
    spaces_.push_back({.number = number});
    return spaces_.back();
  }
  void add_free(SlotId slot) noexcept {
    std::vector<std::uint16_t>& free = find_space(slot.address_space)->free;
    free.push_back(slot.id);  // take() reserved the room.
    for (std::size_t i = free.size() - 1; i > 0 && free[i - 1] < free[i]; --i) {
      std::swap(free[i - 1], free[i]);
    }
  }

  mutable std::mutex mutex_;
  std::vector<Space> spaces_;  // few
  std::vector<Waiting> waiting_;
  std::size_t taken_ = 0;
  std::uint64_t stamp_ = 0;
  bool held_back_ = false;
};

}  // namespace detail
KVM_HPP_END

#endif
