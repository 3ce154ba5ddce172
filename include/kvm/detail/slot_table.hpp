// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_DETAIL_SLOT_TABLE_HPP
#define KVM_HPP_DETAIL_SLOT_TABLE_HPP

#include <kvm/detail/slot_state.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

KVM_HPP_BEGIN
namespace detail {

/// Where one slot's memory is: a cache line, all that an access looks at. One
/// that finds the distance to `gpa` below `size` is in the slot; any other
/// address wraps to a larger distance.
///
/// Each kind of fast access has a limit of its own, so that one comparison says
/// all: that the access is inside, allowed, and what has to be marked.
struct alignas(64) SlotRecord {
  std::uint64_t gpa = 0;
  std::uint64_t size = 0;
  std::byte* host = nullptr;
  SlotState* slot = nullptr;
  /// A scalar that begins below it ends in the slot, aligned or not.
  std::uint64_t readable = 0;
  /// The same for writing without a mark; 0 for a slot that is logged or
  /// read-only.
  std::uint64_t writable = 0;
  /// The size of a slot that is logged and may be written; else 0.
  std::uint64_t logged = 0;
  std::uint64_t* marks = nullptr;  ///< DirtyWords; null if the slot is not logged
};
static_assert(sizeof(SlotRecord) == 64);
using ReadRecord = SlotRecord;

/// What a writer needs to know.
struct WriteRecord {
  std::uint64_t size = 0;          ///< 0 for a read-only slot
  std::uint64_t* marks = nullptr;  ///< as above
};

/// All slots of one address space at one moment: what readers search. Never
/// changes once published.
///
/// A search must not cost more for many slots than for one. So each address has
/// a hint: guest physical memory is cut into granules, so many that the slots
/// have about a thousand of them, and a granule's hash says which slot to try.
/// Where the hint is wrong (several slots in a granule, two granules with one
/// hash) a binary search follows.
class SlotTable {
 public:
  static constexpr unsigned hint_bits = 12;
  static constexpr std::size_t hints = std::size_t{1} << hint_bits;

  /// An empty table with room for `capacity` slots; null if there is no memory.
  static std::unique_ptr<SlotTable> try_make(std::size_t capacity) noexcept {
    std::unique_ptr<SlotTable> table(new (std::nothrow) SlotTable);
    if (table) {
      table->capacity_ = capacity;
      // One more, in front: the record that no address is in.
      table->records_.reset(new (std::nothrow) SlotRecord[capacity + 1]);
      if (!table->records_) {
        return nullptr;
      }
    }
    return table;
  }

  std::size_t capacity() const noexcept { return capacity_; }
  std::size_t count() const noexcept { return count_; }
  /// The slots, by gpa.
  const SlotRecord* begin() const noexcept { return records_.get() + 1; }
  const SlotRecord* end() const noexcept { return begin() + count_; }

  // For the readers' fast path.
  const SlotRecord* records() const noexcept { return records_.get(); }
  const std::uint32_t* hint() const noexcept { return hint_.data(); }
  unsigned granule_shift() const noexcept { return granule_shift_; }

  static std::uint32_t hash(std::uint64_t granule) noexcept {
    constexpr std::uint32_t golden = 0x9e3779b1;
    return static_cast<std::uint32_t>(granule) * golden >> (32 - hint_bits);
  }

  /// The record to try: one of records, for an address with such a hash.
  static const SlotRecord& hinted(const SlotRecord* records, std::uint32_t hint) noexcept {
    return *reinterpret_cast<const SlotRecord*>(reinterpret_cast<const std::byte*>(records) + hint);
  }

  /// The first slot that ends above `gpa`; end() if there is none.
  const SlotRecord* at_or_above(std::uint64_t gpa) const noexcept {
    return std::partition_point(begin(), end(), [gpa](const SlotRecord& record) {
      return record.gpa + (record.size - 1) < gpa;  // The last byte: the end may be 2^64.
    });
  }
  /// The slot that holds `gpa`, or null.
  const SlotRecord* find(std::uint64_t gpa) const noexcept {
    const SlotRecord* record = &hinted(records(), hint_[hash(gpa >> granule_shift_)]);
    if (gpa - record->gpa < record->size) {
      return record;
    }
    record = at_or_above(gpa);
    return record != end() && gpa - record->gpa < record->size ? record : nullptr;
  }
  static WriteRecord write_record(const SlotRecord& record) noexcept {
    return {.size = (record.writable | record.logged) != 0 ? record.size : 0,
            .marks = record.marks};
  }

  // For the updater, before publication. `this` has the capacity.

  /// Makes this table `other` without one slot and with another; either may be
  /// null. A slot that stays but changed is both. Beyond the copy that costs as
  /// much as the slots concerned have granules: the hints are made anew only
  /// once many changes, or one that is large, have spoilt them.
  void assign(const SlotTable& other, const SlotState* without, SlotState* with) noexcept {
    count_ = other.count_;
    granule_shift_ = other.granule_shift_;
    granules_ = other.granules_;
    spoilt_ = other.spoilt_;
    hint_ = other.hint_;
    const SlotRecord* const end = other.end();
    const SlotRecord* const gone = without != nullptr ? other.find_slot(*without) : end;
    const SlotRecord* place = end;
    if (with != nullptr) {
      place = std::partition_point(
          other.begin(), end,
          [gpa = with->gpa().value](const SlotRecord& record) { return record.gpa < gpa; });
    }
    // The stretches between the two places; what a place is before goes first.
    const SlotRecord* from = other.begin();
    SlotRecord* to = records_.get() + 1;
    SlotRecord* added = nullptr;
    const auto copy_until = [&](const SlotRecord* until) {
      to = std::copy(from, until, to);
      from = until;
    };
    const auto add = [&] {
      copy_until(place);
      if (with != nullptr) {
        added = to;
        *to++ = make_record(*with);
      }
    };
    const bool add_first = place <= gone;
    if (add_first) {
      add();
    }
    copy_until(gone);
    if (gone != end) {
      ++from;
    }
    if (!add_first) {
      add();
    }
    copy_until(end);

    if (gone != end) {
      forget(*gone, offset_of(other, *gone));
    }
    if (added != nullptr) {
      remember(*added, offset_of(*this, *added));
    }
    const std::uint64_t most = most_granules_for(count_);
    const bool too_large = 2 * granules_ <= most && granule_shift_ > smallest_shift;
    if (granules_ > most || too_large || spoilt_ > most_spoilt) {
      rebuild_hints();
    }
  }

 private:
  SlotTable() = default;

  static constexpr std::size_t most_granules = hints / 2;
  static constexpr unsigned smallest_shift = 12;
  static constexpr unsigned largest_shift = 58;
  static constexpr std::size_t most_spoilt = hints / 64;
  static constexpr std::int32_t record_size = sizeof(SlotRecord);

  static SlotRecord make_record(SlotState& slot) noexcept {
    const std::uint64_t size = slot.size;
    const std::uint64_t fits_below = size - (sizeof(std::uint64_t) - 1);
    const DirtyWords* marks = slot.logged() ? slot.marks() : nullptr;
    return {.gpa = slot.gpa().value,
            .size = size,
            .host = slot.data,
            .slot = &slot,
            .readable = fits_below,
            .writable = marks != nullptr || slot.read_only() ? 0 : fits_below,
            .logged = marks == nullptr || slot.read_only() ? 0 : size,
            .marks = marks != nullptr ? marks->data() : nullptr};
  }

  static std::uint32_t offset_of(const SlotTable& table, const SlotRecord& record) noexcept {
    return static_cast<std::uint32_t>(sizeof(SlotRecord)) *
           static_cast<std::uint32_t>(&record - table.records());
  }
  /// Where a slot's record is; end() if there is none. A slot that was moved is
  /// still found under its old gpa, by a search.
  const SlotRecord* find_slot(const SlotState& slot) const noexcept {
    const SlotRecord* record = find(slot.gpa().value);
    return record != nullptr && record->slot == &slot
               ? record
               : std::find_if(begin(), end(),
                              [&slot](const SlotRecord& other) { return other.slot == &slot; });
  }

  /// How many granules the slots should have at most. With more slots than
  /// half of that, a granule or two per slot has to do.
  static std::uint64_t most_granules_for(std::size_t slots) noexcept {
    return std::max(most_granules, 2 * slots);
  }
  static std::uint64_t granules_of(const SlotRecord& record, unsigned shift) noexcept {
    return ((record.gpa + (record.size - 1)) >> shift) - (record.gpa >> shift) + 1;
  }
  std::uint64_t granules(unsigned shift) const noexcept {
    std::uint64_t number = 0;
    for (const SlotRecord& record : *this) {
      number += granules_of(record, shift);
    }
    return number;
  }
  template <class F>
  void for_each_hint(const SlotRecord& record, F call) noexcept {
    const std::uint64_t last = (record.gpa + (record.size - 1)) >> granule_shift_;
    for (std::uint64_t granule = record.gpa >> granule_shift_; granule <= last; ++granule) {
      call(hint_[hash(granule)]);
    }
  }
  /// Records from `first` on are `distance` further back or, if that is
  /// negative, in front.
  void move_hints(std::uint32_t first, std::int32_t distance) noexcept {
    if (first <= count_ * sizeof(SlotRecord)) {
      for (std::uint32_t& hint : hint_) {
        hint += hint >= first ? static_cast<std::uint32_t>(distance) : 0;
      }
    }
  }
  /// Takes the hints of a record that was there, at that offset.
  void forget(const SlotRecord& record, std::uint32_t offset) noexcept {
    for_each_hint(record, [&](std::uint32_t& hint) {
      // Another slot may have had it first. It does without from now on, so
      // that nobody need look for it: hence the count.
      if (hint == offset) {
        hint = 0;
        ++spoilt_;
      }
    });
    granules_ -= granules_of(record, granule_shift_);
    move_hints(offset + record_size, -std::int32_t{record_size});
    --count_;
  }
  /// Gives hints to a new record, at that offset.
  void remember(const SlotRecord& record, std::uint32_t offset) noexcept {
    move_hints(offset, record_size);
    ++count_;
    granules_ += granules_of(record, granule_shift_);
    if (granules_ <= most_granules_for(count_)) {  // Else they are all made anew.
      for_each_hint(record, [offset](std::uint32_t& hint) { hint = offset; });
    }
  }
  void rebuild_hints() noexcept {
    const std::uint64_t most = most_granules_for(count_);
    unsigned shift = granule_shift_;
    while (shift < largest_shift && granules(shift) > most) {
      ++shift;
    }
    while (shift > smallest_shift && granules(shift - 1) <= most) {
      --shift;
    }
    granule_shift_ = shift;
    granules_ = granules(shift);
    spoilt_ = 0;
    hint_.fill(0);
    std::uint32_t offset = 0;
    for (const SlotRecord& record : *this) {
      offset += record_size;
      for_each_hint(record, [offset](std::uint32_t& hint) { hint = offset; });
    }
  }

  std::size_t capacity_ = 0;
  std::size_t count_ = 0;
  std::unique_ptr<SlotRecord[]> records_;
  /// How far from records_, in bytes, so that a reader needs not multiply.
  std::array<std::uint32_t, hints> hint_{};
  unsigned granule_shift_ = smallest_shift;
  std::uint64_t granules_ = 0;  // that the slots have, of that size
  std::size_t spoilt_ = 0;      // hints taken since all were made
};

}  // namespace detail
KVM_HPP_END

#endif
