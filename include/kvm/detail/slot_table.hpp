// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_DETAIL_SLOT_TABLE_HPP
#define KVM_HPP_DETAIL_SLOT_TABLE_HPP

#include <kvm/detail/slot_state.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <iterator>
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
/// What readers know of a slot as it is now.
inline SlotRecord make_record(SlotState& slot) noexcept {
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

/// What a writer needs to know.
struct WriteRecord {
  std::uint64_t size = 0;          ///< 0 for a read-only slot
  std::uint64_t* marks = nullptr;  ///< as above
};

/// All slots of one address space at one moment: what readers search. Never
/// changes once published. The records stay where they are from table to table,
/// in an array that all tables share; a table has their order.
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
  /// @param records the array; its first record is one that no address is in
  static std::unique_ptr<SlotTable> try_make(const SlotRecord* records,
                                             std::size_t capacity) noexcept {
    std::unique_ptr<SlotTable> table(new (std::nothrow) SlotTable(records));
    if (table) {
      table->capacity_ = capacity;
      table->order_.reset(new (std::nothrow) std::uint32_t[capacity + 1]);
      if (!table->order_) {
        return nullptr;
      }
    }
    return table;
  }

  /// The first generation that has this table.
  std::uint64_t since = 0;

  std::size_t capacity() const noexcept { return capacity_; }
  std::size_t count() const noexcept { return count_; }

  /// Goes through the slots by gpa.
  class Iterator {
   public:
    using iterator_category = std::random_access_iterator_tag;
    using value_type = SlotRecord;
    using difference_type = std::ptrdiff_t;
    using pointer = const SlotRecord*;
    using reference = const SlotRecord&;

    Iterator() noexcept = default;
    Iterator(const SlotRecord* records, const std::uint32_t* at) noexcept
        : records_(records), at_(at) {}
    reference operator*() const noexcept { return hinted(records_, *at_); }
    pointer operator->() const noexcept { return &**this; }
    reference operator[](difference_type n) const noexcept { return *(*this + n); }
    Iterator& operator++() noexcept { return *this += 1; }
    Iterator& operator--() noexcept { return *this += -1; }
    Iterator operator++(int) noexcept { return std::exchange(*this, *this + 1); }
    Iterator operator--(int) noexcept { return std::exchange(*this, *this + -1); }
    Iterator& operator+=(difference_type n) noexcept {
      at_ += n;
      return *this;
    }
    friend Iterator operator+(Iterator it, difference_type n) noexcept { return it += n; }
    friend Iterator operator-(Iterator it, difference_type n) noexcept { return it += -n; }
    friend difference_type operator-(Iterator a, Iterator b) noexcept { return a.at_ - b.at_; }
    friend bool operator==(Iterator a, Iterator b) noexcept { return a.at_ == b.at_; }
    friend auto operator<=>(Iterator a, Iterator b) noexcept { return a.at_ <=> b.at_; }

   private:
    const SlotRecord* records_ = nullptr;
    const std::uint32_t* at_ = nullptr;
  };
  Iterator begin() const noexcept { return {records_, order_.get()}; }
  Iterator end() const noexcept { return {records_, order_.get() + count_}; }

  // For the readers' fast path.
  const SlotRecord* records() const noexcept { return records_; }
  const std::uint32_t* hint() const noexcept { return hint_.data(); }
  unsigned granule_shift() const noexcept { return granule_shift_; }

  /// Little more than the low bits: the granules of a slot stay in a row, so that
  /// slots which lie as memory usually does never share a hint. The rest of the
  /// factor keeps those apart that lie at multiples of large powers of two
  /// (chosen for the fewest shared hints over many such layouts, 1 in 90).
  static std::uint32_t hash(std::uint64_t granule) noexcept {
    constexpr std::uint32_t factor = 0x105c1f;
    static_assert(factor >> (32 - hint_bits) == 1);
    return static_cast<std::uint32_t>(granule) * factor >> (32 - hint_bits);
  }

  /// The record to try: one of records, for an address with such a hash.
  static const SlotRecord& hinted(const SlotRecord* records, std::uint32_t hint) noexcept {
    return *reinterpret_cast<const SlotRecord*>(reinterpret_cast<const std::byte*>(records) + hint);
  }

  /// The first slot that ends above `gpa`; end() if there is none.
  Iterator at_or_above(std::uint64_t gpa) const noexcept {
    return std::partition_point(begin(), end(), [gpa](const SlotRecord& record) {
      return record.gpa + (record.size - 1) < gpa;  // The last byte: the end may be 2^64.
    });
  }
  /// The slot that holds `gpa`, or null.
  const SlotRecord* find(std::uint64_t gpa) const noexcept {
    const SlotRecord* record = &hinted(records_, hint_[hash(gpa >> granule_shift_)]);
    if (gpa - record->gpa < record->size) {
      return record;
    }
    const Iterator found = at_or_above(gpa);
    return found != end() && gpa - found->gpa < found->size ? &*found : nullptr;
  }
  static WriteRecord write_record(const SlotRecord& record) noexcept {
    return {.size = (record.writable | record.logged) != 0 ? record.size : 0,
            .marks = record.marks};
  }

  // For the updater, before publication. `this` has the capacity.

  /// Makes this table `other` without one record and with another; either may be
  /// 0. Beyond the copy that costs as much as the slots concerned have granules:
  /// the hints are made anew only once many changes, or one that is large, have
  /// spoilt them.
  /// @param without, with how far the records are from records(), in bytes
  void assign(const SlotTable& other, std::uint32_t without, std::uint32_t with) noexcept {
    count_ = other.count_;
    granule_shift_ = other.granule_shift_;
    granules_ = other.granules_;
    spoilt_ = other.spoilt_;
    hint_ = other.hint_;
    const std::uint32_t* from = other.order_.get();
    const std::uint32_t* const end = from + other.count_;
    const auto place_of = [&](std::uint32_t record) {
      const std::uint64_t gpa = hinted(records_, record).gpa;
      return std::partition_point(from, end, [this, gpa](std::uint32_t offset) {
        return hinted(records_, offset).gpa < gpa;
      });
    };
    const std::uint32_t* const gone = without != 0 ? place_of(without) : end;
    const std::uint32_t* const place = with != 0 ? place_of(with) : end;
    // The stretches between the two places; what a place is before goes first.
    std::uint32_t* to = order_.get();
    const auto copy_until = [&](const std::uint32_t* until) {
      to = std::copy(from, until, to);
      from = until;
    };
    const auto add = [&] {
      copy_until(place);
      if (with != 0) {
        *to++ = with;
      }
    };
    const bool add_first = place <= gone;
    if (add_first) {
      add();
    }
    copy_until(gone);
    if (without != 0) {
      ++from;
    }
    if (!add_first) {
      add();
    }
    copy_until(end);

    if (without != 0) {
      forget(without);
    }
    if (with != 0) {
      remember(with);
    }
    const std::uint64_t most = most_granules_for(count_);
    const bool too_large = 2 * granules_ <= most && granule_shift_ > smallest_shift;
    if (granules_ > most || too_large || spoilt_ > most_spoilt) {
      rebuild_hints();
    }
  }

 private:
  explicit SlotTable(const SlotRecord* records) noexcept : records_(records) {}

  static constexpr std::size_t most_granules = hints / 2;
  static constexpr unsigned smallest_shift = 12;
  static constexpr unsigned largest_shift = 58;
  static constexpr std::size_t most_spoilt = hints / 64;

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
  /// Takes the hints of a record that was there.
  void forget(std::uint32_t offset) noexcept {
    const SlotRecord& record = hinted(records_, offset);
    for_each_hint(record, [&](std::uint32_t& hint) {
      // Another slot may have had it first. It does without from now on, so
      // that nobody need look for it: hence the count.
      if (hint == offset) {
        hint = 0;
        ++spoilt_;
      }
    });
    granules_ -= granules_of(record, granule_shift_);
    --count_;
  }
  /// Gives hints to a new record.
  void remember(std::uint32_t offset) noexcept {
    const SlotRecord& record = hinted(records_, offset);
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
    for (std::size_t i = 0; i < count_; ++i) {
      const std::uint32_t offset = order_[i];
      for_each_hint(hinted(records_, offset), [offset](std::uint32_t& hint) { hint = offset; });
    }
  }

  const SlotRecord* records_;
  std::size_t capacity_ = 0;
  std::size_t count_ = 0;
  /// How far from records_ each is, in bytes, so that a reader needs not
  /// multiply. By gpa.
  std::unique_ptr<std::uint32_t[]> order_;
  std::array<std::uint32_t, hints> hint_{};
  unsigned granule_shift_ = smallest_shift;
  std::uint64_t granules_ = 0;  // that the slots have, of that size
  std::size_t spoilt_ = 0;      // hints taken since all were made
};

}  // namespace detail
KVM_HPP_END

#endif
