// SPDX-License-Identifier: MIT
// More readers at once than what is kept of them one by one, and more of what they may still read
// than there is room for.
#include <kvm/detail/address_space.hpp>
#include <kvm/memory/mapping.hpp>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>

#include <gtest/gtest.h>

namespace {

using kvm::Gpa;
using kvm::Mapping;
using kvm::detail::AddressSpace;
using kvm::detail::Reader;
using kvm::detail::SlotIds;
using kvm::detail::SlotState;

TEST(AddressSpace, TheOldestOfManyReadersKeepsItsTable) {
  const std::size_t page = kvm::detail::sys::page_size();
  auto made = AddressSpace::try_make(0, 1, kvm::detail::register_membarrier());
  ASSERT_TRUE(made) << made.error().what();
  AddressSpace& space = **made;
  const auto ids = std::make_shared<SlotIds>();
  SlotState slot(ids, *ids->take(0, 16), Gpa{page}, *Mapping::try_anonymous(page), 0);
  const auto update = [&](SlotState* without, SlotState* with) {
    ASSERT_TRUE(space.reserve(1));
    space.begin_update(1);
    space.publish(without, with);
    space.end_update();
  };

  constexpr std::size_t many = 80;
  std::deque<Reader> readers(many);
  for (Reader& reader : readers) {
    space.add_reader(reader);
  }
  // All but the last have the second table, and it the first.
  space.enter(readers.back());
  update(nullptr, &slot);
  for (std::size_t i = 0; i + 1 < many; ++i) {
    space.enter(readers[i]);
  }
  update(&slot, &slot);
  space.fence_readers();
  space.reclaim();
  EXPECT_EQ(space.retired_tables(), 2u);
  AddressSpace::leave(readers.back());
  space.fence_readers();
  space.reclaim();
  EXPECT_EQ(space.retired_tables(), 1u) << "the first table has no reader any more";
  for (Reader& reader : readers) {
    AddressSpace::leave(reader);
  }
  space.fence_readers();
  space.reclaim();
  EXPECT_EQ(space.retired_tables(), 0u);
  for (Reader& reader : readers) {
    space.remove_reader(reader);
  }
}

TEST(AddressSpace, ReaderThatStaysEndsChangesWhenAllRecordsWait) {
  const std::size_t page = kvm::detail::sys::page_size();
  auto made = AddressSpace::try_make(0, 1, kvm::detail::register_membarrier());
  ASSERT_TRUE(made) << made.error().what();
  AddressSpace& space = **made;
  const auto ids = std::make_shared<SlotIds>();
  SlotState slot(ids, *ids->take(0, 16), Gpa{page}, *Mapping::try_anonymous(page), 0);
  Reader reader;
  space.add_reader(reader);
  space.enter(reader);
  // The same slot again and again: the reader may look at each of its records.
  std::uint32_t changes = 0;
  while (changes < 100'000 && space.reserve(1)) {
    space.begin_update(1);
    space.publish(changes == 0 ? nullptr : &slot, &slot);
    space.end_update();
    ++changes;
  }
  EXPECT_EQ(changes, 65535u) << "65536 without the one that no address is in";
  EXPECT_FALSE(space.reserve(1));
  AddressSpace::leave(reader);
  space.fence_readers();
  space.reclaim();
  EXPECT_TRUE(space.reserve(1));
  space.remove_reader(reader);
}

}  // namespace
