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

/// Where one slot's memory is, as a reader needs it. A reader that finds the
/// distance to `gpa` below `size` is in the slot; any other address wraps to a
/// larger distance.
struct ReadRecord {
  std::uint64_t gpa = 0;
  std::uint64_t size = 0;
  std::byte* host = nullptr;
  SlotState* slot = nullptr;
};
/// The same for a writer.
struct WriteRecord {
  std::uint64_t gpa = 0;
  std::uint64_t size = 0;  ///< 0 for a read-only slot
  std::byte* host = nullptr;
  std::uint64_t* marks = nullptr;  ///< DirtyWords; null if the slot is not logged
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
      table->reads_.reset(new (std::nothrow) ReadRecord[capacity + 1]);
      table->writes_.reset(new (std::nothrow) WriteRecord[capacity + 1]);
      if (!table->reads_ || !table->writes_) {
        return nullptr;
      }
    }
    return table;
  }

  std::size_t capacity() const noexcept { return capacity_; }
  std::size_t count() const noexcept { return count_; }
  /// The slots, by gpa.
  const ReadRecord* begin() const noexcept { return reads_.get() + 1; }
  const ReadRecord* end() const noexcept { return begin() + count_; }

  // For the readers' fast path.
  const ReadRecord* reads() const noexcept { return reads_.get(); }
  const WriteRecord* writes() const noexcept { return writes_.get(); }
  const std::uint16_t* hint() const noexcept { return hint_.data(); }
  unsigned granule_shift() const noexcept { return granule_shift_; }

  static std::uint32_t hash(std::uint64_t granule) noexcept {
    constexpr std::uint32_t golden = 0x9e3779b1;
    return static_cast<std::uint32_t>(granule) * golden >> (32 - hint_bits);
  }

  /// The first slot that ends above `gpa`; end() if there is none.
  const ReadRecord* at_or_above(std::uint64_t gpa) const noexcept {
    return std::partition_point(begin(), end(), [gpa](const ReadRecord& record) {
      return record.gpa + (record.size - 1) < gpa;  // The last byte: the end may be 2^64.
    });
  }
  /// The slot that holds `gpa`, or null.
  const ReadRecord* find(std::uint64_t gpa) const noexcept {
    const std::uint32_t hinted = hint_[hash(gpa >> granule_shift_)];
    const ReadRecord* record = reads_.get() + hinted;
    if (gpa - record->gpa < record->size) {
      return record;
    }
    record = at_or_above(gpa);
    return record != end() && gpa - record->gpa < record->size ? record : nullptr;
  }
  /// The writer's half of a record.
  const WriteRecord& write_record(const ReadRecord& record) const noexcept {
    return writes_[static_cast<std::size_t>(&record - reads_.get())];
  }

  // For the updater, before publication. `this` has the capacity.

  /// Makes this table `other` without one slot and with another; either may be
  /// null. A slot that stays but changed is both.
  void assign(const SlotTable& other, const SlotState* without, SlotState* with) noexcept {
    const std::uint64_t gpa = with != nullptr ? with->gpa().value : 0;
    std::size_t next = 1;
    bool added = with == nullptr;
    const auto add = [&] {
      reads_[next] = {gpa, with->size, with->data, with};
      DirtyWords* marks = with->logged() ? with->marks() : nullptr;
      writes_[next] = {gpa, with->read_only() ? 0 : with->size, with->data,
                       marks != nullptr ? marks->data() : nullptr};
      ++next;
      added = true;
    };
    for (std::size_t i = 1; i <= other.count_; ++i) {
      if (!added && other.reads_[i].gpa > gpa) {
        add();
      }
      if (other.reads_[i].slot != without) {
        reads_[next] = other.reads_[i];
        writes_[next] = other.writes_[i];
        ++next;
      }
    }
    if (!added) {
      add();
    }
    count_ = next - 1;
    rebuild_hints(other.granule_shift_);
  }

 private:
  SlotTable() = default;

  static constexpr std::size_t most_granules = hints / 2;

  std::size_t granules(unsigned shift) const noexcept {
    std::size_t number = 0;
    for (const ReadRecord& record : *this) {
      number += ((record.gpa + (record.size - 1)) >> shift) - (record.gpa >> shift) + 1;
    }
    return number;
  }
  void rebuild_hints(unsigned shift) noexcept {
    constexpr unsigned smallest = 12;
    constexpr unsigned largest = 58;
    // With more slots than that, a granule per slot has to do.
    const std::size_t most = std::max(most_granules, 2 * count_);
    while (shift < largest && granules(shift) > most) {
      ++shift;
    }
    while (shift > smallest && granules(shift - 1) <= most) {
      --shift;
    }
    granule_shift_ = shift;
    hint_.fill(0);
    std::size_t index = 0;
    for (const ReadRecord& record : *this) {
      ++index;
      const std::uint64_t last = (record.gpa + (record.size - 1)) >> shift;
      for (std::uint64_t granule = record.gpa >> shift; granule <= last; ++granule) {
        hint_[hash(granule)] = static_cast<std::uint16_t>(index);
      }
    }
  }

  std::size_t capacity_ = 0;
  std::size_t count_ = 0;
  std::unique_ptr<ReadRecord[]> reads_;
  std::unique_ptr<WriteRecord[]> writes_;
  std::array<std::uint16_t, hints> hint_{};
  unsigned granule_shift_ = 12;
};

}  // namespace detail
KVM_HPP_END

#endif
