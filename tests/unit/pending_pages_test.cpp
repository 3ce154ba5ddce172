// SPDX-License-Identifier: MIT
// What a subscriber has pending of a slot, whose last word may be full or not.
#include <kvm/detail/dirty_collector.hpp>

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <memory>

namespace {

using kvm::detail::PendingPages;

TEST(PendingPages, AreFoundUpToTheLast) {
  const std::size_t page = kvm::detail::sys::page_size();
  for (const std::uint64_t pages : {1u, 63u, 64u, 65u, 128u, 130u, 192u}) {
    const auto ids = std::make_shared<kvm::detail::SlotIds>();
    const auto slot = std::make_shared<kvm::detail::SlotState>(
        ids, ids->take(0, 1).value(), kvm::Gpa{0}, kvm::Mapping::anonymous(pages * page), 0u);
    const PendingPages none(slot, false);
    EXPECT_EQ(none.next_run(0).count, 0u) << pages;
    EXPECT_EQ(none.next_run(pages - 1).count, 0u) << pages;
    EXPECT_EQ(none.next_run(pages).count, 0u) << pages;
    const PendingPages all(slot, true);
    EXPECT_EQ(all.next_run(0).count, pages);
    EXPECT_EQ(all.next_run(pages - 1).count, 1u) << pages;
    EXPECT_EQ(all.next_run(pages).count, 0u) << pages;
    all.take({0, pages});
    EXPECT_EQ(all.next_run(0).count, 0u) << pages;
    all.give_back({pages - 1, 1});
    EXPECT_EQ(all.next_run(0).first, pages - 1);
    EXPECT_EQ(all.next_run(0).count, 1u) << pages;
  }
}

}  // namespace
