// SPDX-License-Identifier: MIT
// Giving numbers back happens in destructors, so the room for it is there before.
#include <kvm/detail/slot_ids.hpp>

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <new>

#include <gtest/gtest.h>

#include "support/allocations.hpp"

namespace {

using kvm::SlotId;
using kvm::detail::SlotIds;
using kvm_test::allocations;

/// How often giving back `number` numbers and draining the rings allocates.
std::size_t count(std::uint16_t number, bool rings) {
  SlotIds ids;
  if (rings) {
    ids.hold_back();
  }
  for (std::uint16_t i = 0; i < number; ++i) {
    EXPECT_EQ(ids.take(0, number), SlotId(i, 0));
  }
  const std::size_t before = allocations;
  for (std::uint16_t i = number; i-- != 0;) {
    ids.give_back(SlotId(i, 0));
  }
  ids.drained(ids.stamp());
  const std::size_t result = allocations - before;
  EXPECT_EQ(ids.take(0, number), SlotId(0, 0));
  return result;
}

TEST(SlotIdsAllocation, GivingBackNeedsNone) {
  using Numbers = std::initializer_list<std::uint16_t>;
  for (const std::uint16_t number : Numbers{1, 2, 3, 4, 5, 7, 8, 9, 100, 1000}) {
    EXPECT_EQ(count(number, false), 0u) << number;
    EXPECT_EQ(count(number, true), 0u) << number;
  }
}

TEST(SlotIdsAllocation, TheCounterCounts) {
  allocations = 0;
  ::operator delete(::operator new(1));  // As a new-expression it could be left out.
  EXPECT_EQ(allocations, 1u);
}

// Taking many numbers makes room a few times, not each time.
TEST(SlotIdsAllocation, TakingNeedsFew) {
  SlotIds ids;
  allocations = 0;
  for (int i = 0; i < 4096; ++i) {
    (void)ids.take(0, 4096);
  }
  EXPECT_LT(allocations, 64u);
}

}  // namespace
