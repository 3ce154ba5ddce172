// SPDX-License-Identifier: MIT
#include <kvm/detail/slot_ids.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <random>
#include <set>
#include <thread>
#include <vector>

namespace {

using kvm::SlotId;
using kvm::detail::SlotIds;

TEST(SlotIds, AreGivenLowestFirst) {
  SlotIds ids;
  for (std::uint16_t i = 0; i < 10; ++i) {
    EXPECT_EQ(ids.take(0, 100), SlotId(i, 0));
  }
  for (const std::uint16_t i : std::initializer_list<std::uint16_t>{7, 2, 9, 0}) {
    ids.give_back(SlotId(i, 0));
  }
  for (const std::uint16_t i : std::initializer_list<std::uint16_t>{0, 2, 7, 9, 10}) {
    EXPECT_EQ(ids.take(0, 100), SlotId(i, 0));
  }
  EXPECT_EQ(ids.waiting(), 0u);
}

TEST(SlotIds, AddressSpacesHaveTheirOwn) {
  SlotIds ids;
  EXPECT_EQ(ids.take(0, 100), SlotId(0, 0));
  EXPECT_EQ(ids.take(1, 100), SlotId(0, 1));
  EXPECT_EQ(ids.take(1, 100), SlotId(1, 1));
  ids.give_back(SlotId(0, 1));
  EXPECT_EQ(ids.take(0, 100), SlotId(1, 0));
  EXPECT_EQ(ids.take(1, 100), SlotId(0, 1));
}

TEST(SlotIds, NeverReachTheLimit) {
  SlotIds ids;
  EXPECT_FALSE(ids.take(0, 0));
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(ids.take(0, 3));
  }
  EXPECT_FALSE(ids.take(0, 3));
  EXPECT_FALSE(ids.take(0, 3)) << "asking for one takes none";
  ids.give_back(SlotId(1, 0));
  EXPECT_EQ(ids.take(0, 3), SlotId(1, 0));
  EXPECT_FALSE(ids.take(0, 3));
  EXPECT_TRUE(ids.take(1, 3));
  // All that there can be at all.
  while (ids.take(2, 65536)) {
  }
  ids.give_back(SlotId(65535, 2));
  EXPECT_EQ(ids.take(2, 65536), SlotId(65535, 2));
}

TEST(SlotIds, WaitForTheRings) {
  SlotIds ids;
  for (int i = 0; i < 4; ++i) {
    (void)ids.take(0, 100);
  }
  ids.give_back(SlotId(3, 0));
  ids.hold_back();
  EXPECT_EQ(ids.take(0, 100), SlotId(3, 0)) << "given back before there were rings";
  const std::uint64_t before = ids.stamp();
  ids.give_back(SlotId(0, 0));
  EXPECT_NE(ids.stamp(), before);
  EXPECT_EQ(ids.waiting(), 1u);
  EXPECT_EQ(ids.take(0, 100), SlotId(4, 0));
  ids.drained(before);  // Seen empty before it came back: that says nothing.
  EXPECT_EQ(ids.waiting(), 1u);
  const std::uint64_t first = ids.stamp();
  ids.give_back(SlotId(2, 0));
  EXPECT_EQ(ids.waiting(), 2u);
  ids.drained(first);
  EXPECT_EQ(ids.waiting(), 1u);
  EXPECT_EQ(ids.take(0, 100), SlotId(0, 0));
  EXPECT_EQ(ids.take(0, 100), SlotId(5, 0)) << "2 waits still";
  ids.drained(ids.stamp());
  EXPECT_EQ(ids.waiting(), 0u);
  EXPECT_EQ(ids.take(0, 100), SlotId(2, 0));
}

TEST(SlotIds, HeldBackNumbersCountAsTaken) {
  SlotIds ids;
  ids.hold_back();
  (void)ids.take(0, 2);
  (void)ids.take(0, 2);
  ids.give_back(SlotId(0, 0));
  EXPECT_FALSE(ids.take(0, 2));
  ids.drained(ids.stamp());
  EXPECT_EQ(ids.take(0, 2), SlotId(0, 0));
}

TEST(SlotIds, AgreeWithASet) {
  std::mt19937 random(7);
  for (const bool rings : {false, true}) {
    SlotIds ids;
    if (rings) {
      ids.hold_back();
    }
    std::set<std::uint16_t> free, taken, waiting;
    for (std::uint16_t i = 0; i < 60; ++i) {
      free.insert(i);
    }
    for (int i = 0; i < 20'000; ++i) {
      if (random() % 2 == 0) {
        const auto id = ids.take(3, 60);
        ASSERT_EQ(id.has_value(), !free.empty());
        if (id) {
          ASSERT_EQ(*id, SlotId(*free.begin(), 3));
          free.erase(free.begin());
          ASSERT_TRUE(taken.insert(id->id).second);
        }
      } else if (!taken.empty()) {
        auto which = taken.begin();
        std::advance(which, random() % taken.size());
        ids.give_back(SlotId(*which, 3));
        (rings ? waiting : free).insert(*which);
        taken.erase(which);
      }
      if (random() % 16 == 0) {
        ids.drained(ids.stamp());
        free.merge(waiting);
      }
      ASSERT_EQ(ids.waiting(), waiting.size());
    }
  }
}

TEST(SlotIds, AreNeverGivenTwice) {
  SlotIds ids;
  std::vector<std::atomic<int>> owners(64);
  std::atomic<unsigned> problems{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 20'000; ++i) {
        if (const auto id = ids.take(0, 64)) {
          problems += owners[id->id].fetch_add(1) != 0 ? 1 : 0;
          owners[id->id].fetch_sub(1);
          ids.give_back(*id);
        }
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  EXPECT_EQ(problems, 0u);
}

}  // namespace
