// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_DETAIL_SLOT_STATE_HPP
#define KVM_HPP_DETAIL_SLOT_STATE_HPP

#include <kvm/detail/barriers.hpp>
#include <kvm/detail/dirty_words.hpp>
#include <kvm/detail/slot_ids.hpp>
#include <kvm/detail/thread_token.hpp>
#include <kvm/memory/mapping.hpp>
#include <kvm/types.hpp>
#include <kvm/uapi/constants.hpp>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

KVM_HPP_BEGIN
namespace detail {

/// A piece of memory, whichever slots show it.
struct BackingRange {
  BackingId backing;
  std::uint64_t offset = 0;
  std::uint64_t size = 0;
};

/// What everything that names one memory slot shares: its handle, the table of
/// slots, pins, dirty logs. The slot's number is not given to another slot
/// while one of them is left.
class SlotState : public std::enable_shared_from_this<SlotState> {
 public:
  SlotState(std::shared_ptr<SlotIds> ids, SlotId slot_id, Gpa gpa, Mapping memory,
            std::uint32_t flags)
      : id(slot_id),
        data(memory.data()),
        size(memory.size()),
        backing(memory.backing()),
        backing_offset(memory.backing_offset()),
        mapping(std::move(memory)),
        gpa_(gpa.value),
        flags_(flags),
        ids_(std::move(ids)) {}
  SlotState(const SlotState&) = delete;
  SlotState& operator=(const SlotState&) = delete;
  ~SlotState() {
    if (owner_ == this_process()) {  // A child may find the lock taken for ever.
      ids_->give_back(id);
    }
  }

  const SlotId id;
  std::byte* const data;
  /// In bytes.
  const std::size_t size;
  /// Which memory this is, and where the slot begins in it: aliases are told by
  /// that.
  const BackingId backing;
  const std::uint64_t backing_offset;
  BackingRange backing_range() const noexcept { return {backing, backing_offset, size}; }
  /// Empty once the memory was handed back or unmapped.
  Mapping mapping;

  /// The host's page size is 1 << page_shift.
  const unsigned page_shift = static_cast<unsigned>(std::countr_zero(sys::page_size()));

  std::size_t pages() const noexcept { return size >> page_shift; }

  /// Changes by a move, under the registry's lock.
  Gpa gpa() const noexcept { return Gpa(gpa_.load(std::memory_order_acquire)); }
  /// KVM_MEM_* flags as KVM has them.
  std::uint32_t flags() const noexcept { return flags_.load(std::memory_order_acquire); }
  bool logged() const noexcept { return (flags() & uapi::mem::log_dirty_pages) != 0; }
  bool read_only() const noexcept { return (flags() & uapi::mem::readonly) != 0; }
  /// False once KVM has deleted the slot.
  bool exists() const noexcept { return exists_.load(std::memory_order_acquire); }

  /// The marks of the VMM's own writes, while the slot is logged; null before
  /// it ever was.
  DirtyWords* marks() const noexcept { return marks_.load(std::memory_order_acquire); }

  /// Marks the pages of [offset, offset + bytes), which is inside the slot, after
  /// a write to them.
  /// @param asymmetric whether harvests issue a membarrier
  void mark(std::uint64_t offset, std::uint64_t bytes, bool asymmetric) const noexcept {
    DirtyWords* const words = marks();
    if (words == nullptr || bytes == 0) {
      return;
    }
    light_fence();  // The write comes first.
    const std::uint64_t first = offset >> page_shift;
    const std::uint64_t count = ((offset + bytes - 1) >> page_shift) - first + 1;
    if (asymmetric) {
      words->mark_range(first, count);
    } else {
      words->mark_range_always(first, count);
    }
  }

  /// The one that may read and clear this slot's log: a DirtyLog or the tracker.
  bool claim_log() noexcept { return !log_claimed_.exchange(true, std::memory_order_acq_rel); }
  bool log_in_use() const noexcept { return log_claimed_.load(std::memory_order_acquire); }
  void release_log() noexcept { log_claimed_.store(false, std::memory_order_release); }

  /// Counts one who uses the addresses outside of an access. Only from within
  /// an announced access, which keeps the slot from being taken away meanwhile.
  void pin(std::uint64_t thread) {
    const std::lock_guard lock(pins_mutex_);
    pins_.push_back(thread);
  }
  void unpin(std::uint64_t thread) noexcept {
    const std::lock_guard lock(pins_mutex_);
    for (std::uint64_t& pin : pins_) {  // One of them.
      if (pin == thread) {
        pin = pins_.back();
        pins_.pop_back();
        return;
      }
    }
  }
  bool pinned() const noexcept {
    const std::lock_guard lock(pins_mutex_);
    return !pins_.empty();
  }
  bool pinned_by(std::uint64_t thread) const noexcept {
    const std::lock_guard lock(pins_mutex_);
    for (const std::uint64_t pin : pins_) {
      if (pin == thread) {
        return true;
      }
    }
    return false;
  }

  // The address space's, under the registry's lock.

  /// Its record, how far from the first in bytes; 0 if it is in no table.
  std::uint32_t record = 0;
  /// The first generations that have the record, and the slot at all.
  std::uint64_t record_since = 0;
  std::uint64_t since = 0;

 private:
  friend class SlotRegistry;

  std::atomic<std::uint64_t> gpa_;
  std::atomic<std::uint32_t> flags_;
  std::atomic<bool> exists_{true};
  std::atomic<DirtyWords*> marks_{nullptr};
  std::unique_ptr<DirtyWords> owned_marks_;  // made when logging is first enabled
  std::atomic<bool> log_claimed_{false};
  mutable std::mutex pins_mutex_;
  std::vector<std::uint64_t> pins_;  // the threads that made them
  std::shared_ptr<SlotIds> ids_;
  ProcessToken owner_ = this_process();
};

/// The pages of `slot` that lie in that memory.
inline PageRange shared_pages(const SlotState& slot, const BackingRange& other) noexcept {
  if (slot.backing != other.backing) {
    return {};
  }
  const std::uint64_t begin = std::max(slot.backing_offset, other.offset);
  const std::uint64_t end = std::min(slot.backing_offset + slot.size, other.offset + other.size);
  if (begin >= end) {
    return {};
  }
  return {(begin - slot.backing_offset) >> slot.page_shift, (end - begin) >> slot.page_shift};
}
/// The pages of `slot` whose memory `other` has, too.
inline PageRange shared_pages(const SlotState& slot, const SlotState& other) noexcept {
  return shared_pages(slot, other.backing_range());
}

}  // namespace detail
KVM_HPP_END

#endif
