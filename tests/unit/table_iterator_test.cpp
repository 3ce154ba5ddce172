// SPDX-License-Identifier: MIT
// The slots of a table, as what a standard algorithm may ask of random access.
#include <kvm/detail/slot_table.hpp>

#include <compare>
#include <cstdint>

#include <gtest/gtest.h>

namespace {

using kvm::detail::SlotRecord;
using kvm::detail::SlotTable;

TEST(SlotTableIterator, GoesBothWays) {
  const SlotRecord records[4] = {};
  const std::uint32_t order[3] = {3 * sizeof(SlotRecord), 1 * sizeof(SlotRecord),
                                  2 * sizeof(SlotRecord)};
  const SlotTable::Iterator begin(records, order);
  const SlotTable::Iterator end = begin + 3;
  EXPECT_EQ(end - begin, 3);
  EXPECT_EQ(&*begin, &records[3]);
  EXPECT_EQ(&begin[2], &records[2]);

  SlotTable::Iterator at = begin;
  EXPECT_EQ(&*at++, &records[3]);
  EXPECT_EQ(&*at, &records[1]);
  EXPECT_EQ(&*++at, &records[2]);
  EXPECT_EQ(&*at--, &records[2]);
  EXPECT_EQ(&*at, &records[1]);
  EXPECT_EQ(--at, begin);
  EXPECT_EQ(&*(end - 1), &records[2]);

  EXPECT_TRUE(begin < end);
  EXPECT_TRUE(begin <=> at == 0);
  EXPECT_TRUE((end <=> begin) == std::strong_ordering::greater);
}

}  // namespace
