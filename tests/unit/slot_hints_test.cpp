// SPDX-License-Identifier: MIT
// The hints of a table of slots after any sequence of changes, against the rule that says what they
// are: where they are wrong or too coarse, only the time of an access shows it.
#include <kvm/detail/slot_table.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <utility>
#include <vector>

namespace {

using kvm::detail::SlotRecord;
using kvm::detail::SlotTable;

/// The rule, as plainly as it can be said.
struct Model {
  std::map<std::uint64_t, std::uint32_t> by_gpa;  // the offsets of the records
  std::vector<std::uint32_t> hints = std::vector<std::uint32_t>(SlotTable::hints);
  unsigned shift = 12;
  std::size_t spoilt = 0;
  const std::vector<SlotRecord>& records;

  explicit Model(const std::vector<SlotRecord>& pool) : records(pool) {}

  const SlotRecord& at(std::uint32_t offset) const { return records[offset / sizeof(SlotRecord)]; }
  std::uint64_t granules(const SlotRecord& record, unsigned by) const {
    return ((record.gpa + (record.size - 1)) >> by) - (record.gpa >> by) + 1;
  }
  std::uint64_t granules(unsigned by) const {
    std::uint64_t sum = 0;
    for (const auto& [gpa, offset] : by_gpa) {
      sum += granules(at(offset), by);
    }
    return sum;
  }
  std::uint64_t most() const {
    return std::max<std::uint64_t>(SlotTable::hints / 2, 2 * by_gpa.size());
  }
  template <class F>
  void each_hint(std::uint32_t offset, F f) {
    const std::uint64_t first = at(offset).gpa >> shift;
    for (std::uint64_t i = 0; i < granules(at(offset), shift); ++i) {
      f(hints[SlotTable::hash(first + i)]);
    }
  }
  void change(std::uint32_t without, std::uint32_t with) {
    if (without != 0) {
      each_hint(without, [&](std::uint32_t& hint) {
        if (hint == without) {
          hint = 0;
          ++spoilt;
        }
      });
      by_gpa.erase(at(without).gpa);
    }
    if (with != 0) {
      by_gpa.emplace(at(with).gpa, with);
      if (granules(shift) <= most()) {
        each_hint(with, [&](std::uint32_t& hint) { hint = with; });
      }
    }
    const std::uint64_t now = granules(shift);
    if (now > most() || (2 * now <= most() && shift > 12) || spoilt > SlotTable::hints / 64) {
      shift = 12;
      while (granules(shift) > most()) {
        ++shift;
      }
      spoilt = 0;
      std::fill(hints.begin(), hints.end(), 0u);
      for (const auto& entry : by_gpa) {
        each_hint(entry.second, [&](std::uint32_t& hint) { hint = entry.second; });
      }
    }
  }
};

class Changes {
 public:
  Changes() : records_(1), model_(records_) {
    records_.reserve(std::size_t{1} << 16);
    table_ = SlotTable::try_make(records_.data(), 4096);
  }
  /// Replaces a slot by another; either may be 0.
  void change(std::uint32_t without, std::uint32_t with) {
    auto next = SlotTable::try_make(records_.data(), 4096);
    next->assign(*table_, without, with);
    table_ = std::move(next);
    model_.change(without, with);
    ASSERT_EQ(table_->granule_shift(), model_.shift);
    ASSERT_EQ(table_->count(), model_.by_gpa.size());
    ASSERT_TRUE(std::equal(model_.hints.begin(), model_.hints.end(), table_->hint()));
    auto record = table_->begin();
    for (const auto& [gpa, offset] : model_.by_gpa) {
      ASSERT_EQ(record->gpa, gpa);
      ++record;
    }
  }
  std::uint32_t make(std::uint64_t gpa, std::uint64_t size) {
    records_.push_back({.gpa = gpa, .size = size});
    return static_cast<std::uint32_t>((records_.size() - 1) * sizeof(SlotRecord));
  }
  /// A new slot where there is room, or 0.
  std::uint32_t make_free(std::uint64_t gpa, std::uint64_t size) {
    for (const auto& [there, offset] : model_.by_gpa) {
      const SlotRecord& other = model_.at(offset);
      if (gpa < there + other.size && there < gpa + size) {
        return 0;
      }
    }
    return make(gpa, size);
  }
  std::uint32_t any(std::mt19937_64& random) const {
    if (model_.by_gpa.empty()) {
      return 0;
    }
    auto it = model_.by_gpa.begin();
    std::advance(it, static_cast<std::ptrdiff_t>(random() % model_.by_gpa.size()));
    return it->second;
  }
  unsigned shift() const { return model_.shift; }
  std::size_t spoilt() const { return model_.spoilt; }

 private:
  std::vector<SlotRecord> records_;
  Model model_;
  std::unique_ptr<SlotTable> table_;
};

TEST(SlotHints, FollowTheRuleThroughRandomChanges) {
  for (const unsigned seed : {1u, 2u, 3u, 4u}) {
    std::mt19937_64 random(seed);
    Changes changes;
    for (int i = 0; i < 400; ++i) {
      const std::uint64_t bits = 12 + random() % (seed < 3 ? 16 : 34);
      const std::uint64_t size = ((random() % 7 + 1) << bits) & ~std::uint64_t{4095};
      const std::uint64_t gpa = (random() >> (random() % 40)) & ~std::uint64_t{4095};
      const std::uint32_t with =
          random() % 4 != 0 && gpa + size > gpa ? changes.make_free(gpa, size) : 0;
      const std::uint32_t without = random() % 2 == 0 ? changes.any(random) : 0;
      if (with != 0 || without != 0) {
        ASSERT_NO_FATAL_FAILURE(changes.change(without, with)) << "seed " << seed << ", " << i;
      }
    }
  }
}

// Each limit is met exactly, and passed by one.
TEST(SlotHints, AreMadeAnewAtTheirLimits) {
  constexpr std::uint64_t most = SlotTable::hints / 2;
  for (const std::uint64_t pages :
       {most / 2, most / 2 + 1, most, most + 1, 2 * most, 2 * most + 1}) {
    Changes changes;
    const std::uint32_t slot = changes.make(0, pages * 4096);
    ASSERT_NO_FATAL_FAILURE(changes.change(0, slot));
    EXPECT_EQ(changes.shift(), pages <= most ? 12u : pages <= 2 * most ? 13u : 14u);
    // With a second one, and without the first: half of what there may be, and one more.
    const std::uint32_t second = changes.make(std::uint64_t{1} << 40, (most / 2) * 8192);
    ASSERT_NO_FATAL_FAILURE(changes.change(0, second));
    ASSERT_NO_FATAL_FAILURE(changes.change(slot, 0));
    const std::uint32_t third = changes.make(std::uint64_t{1} << 41, 4096);
    ASSERT_NO_FATAL_FAILURE(changes.change(0, third));
    ASSERT_NO_FATAL_FAILURE(changes.change(second, 0));
  }
}
TEST(SlotHints, AreMadeAnewWhenManyWereTaken) {
  Changes changes;
  ASSERT_NO_FATAL_FAILURE(changes.change(0, changes.make(1 << 20, 4096)));
  for (std::uint64_t i = 0; i < 3 * SlotTable::hints / 64; ++i) {
    const std::uint32_t slot = changes.make(4096 * i, 4096);
    ASSERT_NO_FATAL_FAILURE(changes.change(0, slot));
    ASSERT_NO_FATAL_FAILURE(changes.change(slot, 0));
  }
}
// Thousands of slots, of which each has a granule or two.
TEST(SlotHints, OfMoreSlotsThanGranules) {
  Changes changes;
  for (std::uint64_t i = 0; i < 1100; ++i) {
    ASSERT_NO_FATAL_FAILURE(changes.change(0, changes.make(i * 0x5000, 0x2000 + i % 3 * 0x1000)));
  }
}

// A hint that was taken away stays away while nothing else asks for new ones.
TEST(SlotHints, OfTwoSlotsWithOneHash) {
  std::uint64_t other = 1;
  while (SlotTable::hash(other) != SlotTable::hash(0)) {
    ++other;
  }
  for (const std::uint64_t filler : {0u, 8u, 2046u, 2047u}) {
    Changes changes;
    ASSERT_NO_FATAL_FAILURE(changes.change(0, changes.make(0, 4096)));
    if (filler != 0) {
      ASSERT_NO_FATAL_FAILURE(changes.change(0, changes.make((other + 1) * 4096, filler * 4096)));
    }
    const std::uint32_t second = changes.make(other * 4096, 4096);
    ASSERT_NO_FATAL_FAILURE(changes.change(0, second));
    ASSERT_NO_FATAL_FAILURE(changes.change(second, 0));
    EXPECT_EQ(changes.spoilt(), filler == 2047 ? 0u : 1u) << filler;
    ASSERT_NO_FATAL_FAILURE(changes.change(0, changes.make((other + 3000) * 4096, 4096)));
    EXPECT_EQ(changes.spoilt(), filler == 2047 ? 0u : 1u) << filler;
  }
}
// What is too large for hints of that size is not given any.
TEST(SlotHints, OfTheLargestSlot) {
  Changes changes;
  ASSERT_NO_FATAL_FAILURE(changes.change(0, changes.make(0, std::uint64_t{1} << 63)));
}

}  // namespace
