// SPDX-License-Identifier: MIT
// A slot's life: made, moved, logged, removed.
#include <kvm/kvm.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <sys/mman.h>

#include "support/guest.hpp"
#include "support/kicking.hpp"
#include "support/require.hpp"
#include "support/rounds.hpp"
#include "support/slot_access.hpp"

namespace {

namespace cap = kvm::cap;
using kvm::Gpa;
using kvm::Mapping;
using kvm::MemorySlot;
using kvm_test::Guest;
using kvm_test::take_marks;
using namespace kvm::literals;

const std::size_t page = kvm::detail::sys::page_size();
constexpr Gpa high{0x4000'0000};
constexpr std::uint64_t max64 = ~std::uint64_t{0};
/// What KVM says to a gpa that it cannot map.
#if defined(__x86_64__)
constexpr int out_of_reach = EINVAL;
#else
constexpr int out_of_reach = EFAULT;
#endif
constexpr const char* set_region = "KVM_SET_USER_MEMORY_REGION";

template <class T>
void expect_error(const kvm::Result<T>& result, int error_number,
                  std::initializer_list<std::string> fragments) {
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().error_number(), error_number) << result.error().what();
  for (const std::string& fragment : fragments) {
    EXPECT_NE(std::string(result.error().what()).find(fragment), std::string::npos)
        << "no \"" << fragment << "\" in: " << result.error().what();
  }
}

std::string hex(std::uint64_t value) {
  std::string text;
  kvm::detail::append(text, kvm::detail::Hex{value});
  return text;
}

bool mapped(const void* address) {
  unsigned char resident;
  return ::mincore(const_cast<void*>(address), 1, &resident) == 0;
}

struct MemorySlotTest : testing::Test {
  kvm::System system;
  kvm::Vm vm = system.create_vm();
  kvm::GuestMemory memory = vm.memory();

  MemorySlot add(Gpa gpa, std::size_t pages = 1, const kvm::MemoryOptions& options = {}) {
    return vm.add_memory(gpa, Mapping::anonymous(pages * page), options);
  }
  /// What slots() says, as "id@gpa+pages" and letters.
  std::string slots() const {
    std::string text;
    for (const kvm::SlotInfo& slot : memory.slots()) {
      text += std::to_string(slot.id.id) + '@' + hex(slot.gpa.value) + '+' +
              std::to_string(slot.size / page) + (slot.logs_dirty ? "d" : "") +
              (slot.read_only ? "r" : "") + (slot.has_guest_memfd ? "g" : "") + ' ';
    }
    return text;
  }
};

TEST_F(MemorySlotTest, IsWhatWasAskedFor) {
  Mapping backing = Mapping::anonymous(3 * page);
  std::byte* const data = backing.data();
  const MemorySlot slot = vm.add_memory(high, std::move(backing), {.log_dirty = true});
  EXPECT_EQ(backing.data(), nullptr);
  EXPECT_EQ(backing.size(), 0u);
  EXPECT_EQ(slot.id(), kvm::SlotId(0));
  EXPECT_EQ(slot.gpa(), high);
  EXPECT_EQ(slot.size(), 3 * page);
  EXPECT_EQ(slot.pages(), 3u);
  EXPECT_TRUE(slot.logs_dirty());
  EXPECT_FALSE(slot.read_only());
  EXPECT_EQ(slot.mapping().data(), data);
  EXPECT_EQ(slot.mapping().size(), 3 * page);
  const MemorySlot rom = add(Gpa{0}, 1, {.read_only = true});
  EXPECT_TRUE(rom.read_only());
  EXPECT_FALSE(rom.logs_dirty());
  EXPECT_EQ(slots(), "1@0x0+1r 0@" + hex(high.value) + "+3d ");
}

/// Beyond what any guest can reach. Before Linux 5.19 slots may be there.
constexpr Gpa unreachable{std::uint64_t{1} << 62};
bool unreachable_is_refused() {
  return !kvm::System().create_vm().try_add_memory(unreachable, Mapping::anonymous(page));
}

TEST_F(MemorySlotTest, IsRefusedWithAllItsArguments) {
  const MemorySlot there = add(high, 4);
  const auto generation = memory.generation();
  struct Case {
    Gpa gpa;
    std::size_t pages;
    int error_number;
    std::string cause;
  };
  const std::string names_it =
      "overlaps slot 0 at [" + hex(high.value) + ", " + hex(high.value + 4 * page) + ")";
  const std::uint64_t last_page = max64 - page + 1;
  const bool refused = unreachable_is_refused();
  for (const Case& one : {
           Case{high + 1, 1, EINVAL, "not a multiple of the page size"},
           Case{high + page / 2, 1, EINVAL, "not a multiple of the page size"},
           Case{Gpa{last_page}, 1, EINVAL, "passes the end"},
           Case{Gpa{last_page}, 2, EINVAL, "passes the end"},
           Case{Gpa{last_page - page}, 1, out_of_reach, "beyond what this host can map"},
           Case{unreachable, 1, out_of_reach, "beyond what this host can map"},
           Case{high, 4, EEXIST, names_it},
           Case{high + page, 1, EEXIST, names_it},
           Case{high + 3 * page, 3, EEXIST, names_it},
           Case{high - page, 2, EEXIST, names_it},
           Case{high - page, 9, EEXIST, names_it},
       }) {
    if (!refused && one.cause.starts_with("beyond")) {
      continue;
    }
    Mapping backing = Mapping::anonymous(one.pages * page);
    const std::byte* const data = backing.data();
    const auto result = vm.try_add_memory(one.gpa, std::move(backing));
    expect_error(result, one.error_number,
                 {set_region, "gpa=" + hex(one.gpa.value), "size=" + hex(one.pages * page),
                  "address_space=0", "flags=0x0", one.cause});
    EXPECT_EQ(backing.data(), data) << "the mapping is no longer the caller's";
  }
  EXPECT_EQ(slots(), "0@" + hex(high.value) + "+4 ");
  EXPECT_GE(memory.generation(), generation);
  // Next to it on both sides there is room, under the numbers that come next.
  const MemorySlot below = add(high - page);
  const MemorySlot above = add(high + 4 * page);
  EXPECT_EQ(below.id().id, 1);
  EXPECT_EQ(above.id().id, 2);
  expect_error(vm.try_add_memory(high, Mapping()), EINVAL, {set_region, "empty"});
}

TEST_F(MemorySlotTest, OfAnAddressSpaceThatThereIsNot) {
  const int spaces = std::max(1, vm.check_raw(kvm::uapi::cap::multi_address_space));
  const auto number = static_cast<std::uint16_t>(spaces);
  expect_error(vm.try_add_memory(high, Mapping::anonymous(page), {.address_space = number}), EINVAL,
               {set_region, "address_space=" + std::to_string(number)});
}

TEST_F(MemorySlotTest, OfTheSecondAddressSpaceIsApart) {
  if (vm.check_raw(kvm::uapi::cap::multi_address_space) < 2) {
    GTEST_SKIP() << "KVM_CAP_MULTI_ADDRESS_SPACE is not offered by this host";
  }
  const MemorySlot usual = add(high, 2);
  const MemorySlot smm = add(high, 3, {.address_space = 1});  // The same place.
  EXPECT_EQ(usual.id(), kvm::SlotId(0, 0));
  EXPECT_EQ(smm.id(), kvm::SlotId(0, 1));
  kvm::GuestMemory other = vm.memory(1);
  EXPECT_EQ(other.address_space(), 1);
  ASSERT_EQ(memory.slots().size(), 1u);
  ASSERT_EQ(other.slots().size(), 1u);
  EXPECT_EQ(other.slots()[0].size, 3 * page);
  auto view = memory.view();
  auto smm_view = other.view();
  ASSERT_TRUE(view.write<std::uint32_t>(high, 1));
  ASSERT_TRUE(smm_view.write<std::uint32_t>(high, 2));
  EXPECT_EQ(view.read<std::uint32_t>(high), 1u);
  EXPECT_EQ(smm_view.read<std::uint32_t>(high), 2u);
  EXPECT_FALSE(view.contains(high, 3 * page));
  EXPECT_TRUE(smm_view.contains(high, 3 * page));
  // A change of the one moves only its generation, and by as many as there are address spaces.
  const auto before = memory.generation();
  const auto other_before = other.generation();
  const MemorySlot more = add(high + 16 * page, 1, {.address_space = 1});
  EXPECT_EQ(memory.generation(), before);
  EXPECT_EQ(other.generation(), other_before + 2);
  EXPECT_NE(memory.generation() % 2, other.generation() % 2);
}

TEST_F(MemorySlotTest, MovesToAFreePlace) {
  MemorySlot slot = add(high, 3);
  const std::array<std::byte, 3> bytes = {std::byte{1}, std::byte{2}, std::byte{3}};
  ASSERT_TRUE(slot.load(high + page - 1, bytes));
  const auto id = slot.id();
  const std::byte* const data = slot.mapping().data();
  const auto moved = slot.try_move_to(high + 1_MiB);
  ASSERT_TRUE(moved) << moved.error().what();
  EXPECT_EQ(slot.gpa(), high + 1_MiB);
  EXPECT_EQ(slot.id(), id);
  EXPECT_EQ(slot.mapping().data(), data);
  EXPECT_FALSE(slot.load(high, bytes));
  std::array<std::byte, 3> out{};
  EXPECT_TRUE(slot.fetch(high + (1_MiB + page - 1), out));
  EXPECT_EQ(out, bytes);
  EXPECT_EQ(slots(), "0@" + hex(high.value + 1_MiB) + "+3 ");
  // The place that it left is free.
  const MemorySlot next = add(high, 3);
  EXPECT_EQ(next.id().id, 1);
}

TEST_F(MemorySlotTest, MovesOverItself) {
  MemorySlot slot = add(high, 4);
  auto view = memory.view();
  ASSERT_TRUE(view.write<std::uint64_t>(high + 2 * page, 77));
  for (const Gpa to :
       {high + page, high + 3 * page, high, high}) {  // The last one: to where it is.
    const auto moved = slot.try_move_to(to);
    ASSERT_TRUE(moved) << moved.error().what();
    EXPECT_EQ(slot.gpa(), to);
    EXPECT_EQ(view.read<std::uint64_t>(to + 2 * page), 77u);
    EXPECT_FALSE(view.contains(to - page, page));
    EXPECT_FALSE(view.contains(to + 4 * page, page));
  }
}

TEST_F(MemorySlotTest, DoesNotMoveWhereItCannot) {
  MemorySlot slot = add(high, 2);
  const MemorySlot first = add(high + 16 * page, 4);
  const MemorySlot second = add(high + 20 * page, 4);
  const std::string names_first = "overlaps slot 1 at [" + hex(high.value + 16 * page) + ", " +
                                  hex(high.value + 20 * page) + ")";
  const std::string names_second = "overlaps slot 2 at [" + hex(high.value + 20 * page) + ", " +
                                   hex(high.value + 24 * page) + ")";
  struct Case {
    Gpa to;
    int error_number;
    std::string cause;
  };
  const bool refused = unreachable_is_refused();
  for (const Case& one : {
           Case{high + 16, EINVAL, "not a multiple of the page size"},
           Case{Gpa{max64}, EINVAL, "not a multiple of the page size"},
           Case{Gpa{max64 - page + 1}, EINVAL, "passes the end"},
           Case{Gpa{max64 - 2 * page + 1}, EINVAL, "passes the end"},
           Case{unreachable, out_of_reach, "beyond what this host can map"},
           Case{high + 16 * page, EEXIST, names_first},
           Case{high + 15 * page, EEXIST, names_first},
           Case{high + 18 * page, EEXIST, names_first},
           Case{high + 20 * page, EEXIST, names_second},
           Case{high + 23 * page, EEXIST, names_second},
       }) {
    if (!refused && one.cause.starts_with("beyond")) {
      continue;
    }
    const auto before = memory.generation();
    const auto result = slot.try_move_to(one.to);
    expect_error(result, one.error_number,
                 {set_region, "slot=0", "address_space=0",
                  "gpa=" + hex(high.value) + " to " + hex(one.to.value), "size=" + hex(2 * page),
                  one.cause});
    EXPECT_EQ(slot.gpa(), high);
    EXPECT_GE(memory.generation(), before);
    EXPECT_EQ(memory.generation() & kvm::GuestMemory::update_in_progress, 0u);
  }
  auto view = memory.view();
  EXPECT_TRUE(view.contains(high, 2 * page));
  // Over itself and onto another: the other is named.
  expect_error(slot.try_move_to(high + 15 * page), EEXIST, {"slot 1"});
  ASSERT_TRUE(slot.try_move_to(high + 14 * page));
  expect_error(slot.try_move_to(high + 15 * page), EEXIST, {names_first});
}

TEST_F(MemorySlotTest, MarksEverythingWhenItMoves) {
  MemorySlot slot = add(high, 67, {.log_dirty = true});
  (void)take_marks(slot);
  ASSERT_TRUE(slot.try_move_to(high + 1_GiB));
  EXPECT_EQ(take_marks(slot).size(), 67u);
  // Also where it goes to where it is; a move that failed marks nothing.
  ASSERT_FALSE(slot.try_move_to(high + 1));
  EXPECT_EQ(take_marks(slot).size(), 0u);
}

TEST_F(MemorySlotTest, LogsFromWhenItIsToldTo) {
  MemorySlot slot = add(high, 67);
  auto view = memory.view();
  ASSERT_TRUE(view.write<std::uint8_t>(high, 1));
  EXPECT_TRUE(take_marks(slot).empty());
  // The address spaces share the numbers.
  const auto after =
      memory.generation() + static_cast<std::uint64_t>(std::max(
                                1, vm.check_raw(kvm::cap::MultiAddressSpace::info.number)));
  ASSERT_TRUE(slot.try_log_dirty(true));
  EXPECT_TRUE(slot.logs_dirty());
  EXPECT_TRUE(memory.slots()[0].logs_dirty);
  EXPECT_EQ(take_marks(slot).size(), 67u) << "what was written before is dirty";
  EXPECT_EQ(memory.generation(), after);
  ASSERT_TRUE(view.write<std::uint8_t>(high + 66 * page, 1));
  EXPECT_EQ(take_marks(slot), std::vector<std::uint64_t>{66});
  // Told again: nothing happens.
  ASSERT_TRUE(slot.try_log_dirty(true));
  EXPECT_EQ(memory.generation(), after);
  EXPECT_TRUE(take_marks(slot).empty());
  ASSERT_TRUE(slot.try_log_dirty(false));
  EXPECT_FALSE(slot.logs_dirty());
  ASSERT_TRUE(view.write<std::uint8_t>(high, 1));
  EXPECT_TRUE(take_marks(slot).empty());
  ASSERT_TRUE(slot.try_log_dirty(true));
  EXPECT_EQ(take_marks(slot).size(), 67u);
}

TEST_F(MemorySlotTest, DirtiesItsAliasesWhenItsOwnLogGoes) {
  const Mapping backing = Mapping::memfd(8 * page);
  MemorySlot slot = vm.add_memory(high, backing.share(), {.log_dirty = true});
  const MemorySlot alias = vm.add_memory(high + 1_MiB, backing.try_part(2 * page, 3 * page).value(),
                                         {.log_dirty = true});
  const MemorySlot apart = add(high + 2_MiB, 8, {.log_dirty = true});
  const auto take = [&] {
    (void)take_marks(slot);
    (void)take_marks(alias);
    (void)take_marks(apart);
  };
  take();
  ASSERT_TRUE(slot.try_log_dirty(false));
  EXPECT_EQ(take_marks(alias), (std::vector<std::uint64_t>{0, 1, 2}));
  EXPECT_TRUE(take_marks(apart).empty());
  ASSERT_TRUE(slot.try_log_dirty(true));
  take();
  ASSERT_TRUE(slot.try_remove());
  EXPECT_EQ(take_marks(alias), (std::vector<std::uint64_t>{0, 1, 2}));
  EXPECT_TRUE(take_marks(apart).empty());
}

TEST_F(MemorySlotTest, ReadOnlyIsLoadedByTheVmmAlone) {
  const MemorySlot rom = add(high, 1, {.read_only = true});
  const std::array<std::byte, 1> byte = {std::byte{0x99}};
  EXPECT_TRUE(rom.load(high, byte));
  auto view = memory.view();
  EXPECT_EQ(view.read<std::uint8_t>(high), 0x99);
  EXPECT_FALSE(view.write<std::uint8_t>(high, 1));
  EXPECT_EQ(view.read<std::uint8_t>(high), 0x99);
}

TEST_F(MemorySlotTest, LoadsAndFetchesWithinItselfOnly) {
  const MemorySlot slot = add(high, 2, {.log_dirty = true});
  const MemorySlot neighbour = add(high + 2 * page);
  (void)take_marks(slot);
  std::vector<std::byte> bytes(2 * page + 1, std::byte{7});
  EXPECT_FALSE(slot.load(high, bytes));
  EXPECT_FALSE(slot.load(high - 1, std::span(bytes).first(1)));
  EXPECT_FALSE(slot.load(high + 2 * page, std::span(bytes).first(1)));
  EXPECT_FALSE(slot.load(high + (2 * page - 1), std::span(bytes).first(2)));
  EXPECT_FALSE(slot.load(Gpa{max64}, std::span(bytes).first(2)));
  EXPECT_FALSE(slot.fetch(Gpa{max64}, std::span(bytes).first(2)));
  EXPECT_FALSE(slot.fetch(high + page, std::span(bytes).first(page + 1)));
  EXPECT_TRUE(take_marks(slot).empty());
  EXPECT_TRUE(slot.load(high + page - 1, std::span(bytes).first(2)));
  EXPECT_EQ(take_marks(slot), (std::vector<std::uint64_t>{0, 1}));
  EXPECT_TRUE(slot.load(high, std::span(bytes).first(2 * page)));
  EXPECT_TRUE(slot.fetch(high + (2 * page - 1), std::span(bytes).first(1)));
  EXPECT_EQ(bytes[0], std::byte{7});
  EXPECT_TRUE(slot.load(high + 2 * page, std::span<const std::byte>()));  // Nothing, at the end.
}

TEST_F(MemorySlotTest, HandsItsMemoryBack) {
  MemorySlot slot = add(high, 2);
  std::byte* const data = slot.mapping().data();
  data[5] = std::byte{9};
  auto removed = slot.try_remove();
  ASSERT_TRUE(removed) << removed.error().what();
  EXPECT_EQ(slots(), "");
  EXPECT_EQ(slot.size(), 0u);
  EXPECT_EQ(slot.mapping().data(), nullptr);
  EXPECT_FALSE(removed->in_use());
  auto taken = removed->try_take();
  ASSERT_TRUE(taken) << taken.error().what();
  EXPECT_EQ(taken->data(), data);
  EXPECT_EQ(taken->data()[5], std::byte{9});
  EXPECT_FALSE(removed->in_use());
  expect_error(removed->try_take(), EBADF, {"RemovedMemory::take", "taken already"});
  expect_error(removed->try_wait(), EBADF, {"taken already"});
  // The same memory again, elsewhere.
  MemorySlot again = vm.add_memory(high + 1_MiB, std::move(*taken));
  EXPECT_EQ(again.mapping().data(), data);
  const Mapping back = again.remove();
  EXPECT_EQ(back.data(), data);
}

TEST_F(MemorySlotTest, UnmapsItsMemoryWhenDropped) {
  const void* data = nullptr;
  {
    const MemorySlot slot = add(high, 2);
    data = slot.mapping().data();
    EXPECT_TRUE(mapped(data));
  }
  EXPECT_FALSE(mapped(data));
  EXPECT_EQ(slots(), "");
  {
    auto removed = add(high, 2).try_remove();
    ASSERT_TRUE(removed);
  }
  EXPECT_EQ(memory.reclaim(), 0u);
  EXPECT_EQ(vm.parked_mappings(), 0u);
}

TEST_F(MemorySlotTest, AssignmentDeletesTheOldOne) {
  MemorySlot slot = add(high);
  const void* const data = slot.mapping().data();
  slot = add(high + page);
  EXPECT_FALSE(mapped(data));
  EXPECT_EQ(slots(), "1@" + hex(high.value + page) + "+1 ");
  auto removed = slot.try_remove();
  MemorySlot other = add(high);
  auto next = other.try_remove();
  ASSERT_TRUE(removed && next);
  const void* const first = removed->try_take().value().data();
  EXPECT_FALSE(mapped(first));
  *removed = std::move(*next);
  EXPECT_FALSE(removed->in_use());
  EXPECT_TRUE(removed->try_take());
}

TEST_F(MemorySlotTest, OutlivesTheVmHandle) {
  std::optional<kvm::Vm> own = system.create_vm();
  MemorySlot slot = own->add_memory(high, Mapping::anonymous(2 * page));
  kvm::GuestMemory its = own->memory();
  own.reset();
  ASSERT_TRUE(slot.try_move_to(high + page));
  ASSERT_TRUE(slot.try_log_dirty(true));
  EXPECT_EQ(its.slots().size(), 1u);
  EXPECT_EQ(slot.remove().size(), 2 * page);
  EXPECT_EQ(its.slots().size(), 0u);
}

TEST_F(MemorySlotTest, MovedFromGivesErrors) {
  MemorySlot slot = add(high, 2, {.log_dirty = true, .read_only = true});
  const MemorySlot other = std::move(slot);
  EXPECT_EQ(slot.id(), kvm::SlotId());
  EXPECT_EQ(slot.gpa(), Gpa());
  EXPECT_EQ(slot.size(), 0u);
  EXPECT_EQ(slot.pages(), 0u);
  EXPECT_FALSE(slot.logs_dirty());
  EXPECT_FALSE(slot.read_only());
  EXPECT_EQ(slot.mapping().data(), nullptr);
  std::byte byte{};
  EXPECT_FALSE(slot.load(high, std::span<const std::byte>(&byte, 1)));
  EXPECT_FALSE(slot.load(Gpa{0}, std::span<const std::byte>()));
  EXPECT_FALSE(slot.fetch(high, std::span(&byte, 1)));
  expect_error(slot.try_move_to(high), EBADF, {set_region, "moved from or removed"});
  expect_error(slot.try_log_dirty(true), EBADF, {set_region, "moved from or removed"});
  expect_error(slot.try_remove(), EBADF, {set_region, "moved from or removed"});
}

TEST_F(MemorySlotTest, NumbersAreTheLowestFree) {
  std::vector<MemorySlot> slots;
  for (std::uint16_t i = 0; i < 8; ++i) {
    slots.push_back(add(high + i * page));
    EXPECT_EQ(slots.back().id().id, i);
  }
  for (const std::size_t gone : {5u, 2u, 3u}) {
    ASSERT_TRUE(slots[gone].try_remove());
  }
  EXPECT_EQ((slots[2] = add(high + 2 * page)).id().id, 2);
  EXPECT_EQ((slots[3] = add(high + 3 * page)).id().id, 3);
  EXPECT_EQ((slots[5] = add(high + 5 * page)).id().id, 5);
  EXPECT_EQ(add(high + 9 * page).id().id, 8);
  // What was refused gives its number back.
  EXPECT_FALSE(vm.try_add_memory(high, Mapping::anonymous(page)));
  EXPECT_EQ(add(high + 9 * page).id().id, 8);
}

TEST_F(MemorySlotTest, NumbersWaitForWhoNamesThem) {
  MemorySlot slot = add(high);
  auto named = kvm_test::state_of(slot);  // As a dirty log does.
  ASSERT_TRUE(slot.try_remove());
  EXPECT_EQ(add(high).id().id, 1);
  named.reset();
  EXPECT_EQ(add(high).id().id, 0);
}

TEST_F(MemorySlotTest, RemovedMemoryKeepsItsNumber) {
  MemorySlot slot = add(high);
  {
    auto removed = slot.try_remove();
    ASSERT_TRUE(removed);
    EXPECT_EQ(add(high).id().id, 1);
    const Mapping taken = removed->try_take().value();
    EXPECT_EQ(add(high).id().id, 0) << "the mapping alone names no slot";
  }
  EXPECT_EQ(add(high).id().id, 0);
}

TEST_F(MemorySlotTest, ThereAreAsManyAsTheHostHas) {
  const int limit = vm.check_raw(kvm::uapi::cap::nr_memslots);
  ASSERT_GT(limit, 0);
  // Aliases of one page, each behind the other. A few hundred where each takes KVM long.
  const auto most = kvm_test::thread_sanitizer ? std::size_t{300} : kvm_test::rounds(5000);
  const Mapping backing = Mapping::anonymous(page);
  std::vector<MemorySlot> slots;
  auto view = memory.view();
  for (std::size_t i = 0; i < std::min(most, static_cast<std::size_t>(limit)); ++i) {
    auto slot = vm.try_add_memory(high + 2 * i * page, backing.share());
    ASSERT_TRUE(slot) << slot.error().what();
    ASSERT_EQ(slot->id().id, i);
    slots.push_back(std::move(*slot));
  }
  EXPECT_EQ(memory.slots().size(), slots.size());
  ASSERT_TRUE(view.write<std::uint32_t>(high, 0x1234));
  for (std::size_t i = 0; i < slots.size(); ++i) {
    ASSERT_EQ(view.read<std::uint32_t>(high + 2 * i * page), 0x1234u) << i;
    ASSERT_FALSE(view.read<std::uint32_t>(high + (2 * i + 1) * page)) << i;
  }
  while (slots.size() > 10) {
    std::swap(slots[slots.size() * 7 % 10], slots.back());
    slots.pop_back();
  }
  EXPECT_EQ(memory.slots().size(), 10u);
  EXPECT_EQ(memory.reclaim(), 0u);
}

TEST_F(MemorySlotTest, TheNumberBeyondTheLastIsRefused) {
  // Without 32764 slots: all but the last are taken from the pool.
  const auto limit = static_cast<std::uint32_t>(vm.check_raw(kvm::uapi::cap::nr_memslots));
  const MemorySlot first = add(high);
  const auto pool = kvm_test::ids_of(first);
  std::vector<kvm::SlotId> taken;
  while (const auto id = pool->take(0, limit - 1)) {
    taken.push_back(*id);
  }
  {
    const MemorySlot last = add(high + page);
    EXPECT_EQ(last.id().id, limit - 1);
    const auto generation = memory.generation();
    expect_error(vm.try_add_memory(high + 2 * page, Mapping::anonymous(page)), EINVAL,
                 {set_region, "all " + std::to_string(limit) + " slots are in use"});
    EXPECT_EQ(memory.generation(), generation);
    for (const kvm::SlotId id : taken) {
      pool->give_back(id);
    }
  }
  EXPECT_EQ(add(high + 2 * page).id().id, 1);
}

#if KVM_HPP_ARCH_X86

// again: mov al, [0x10000000]; out 0x10, al; jmp again
constexpr std::initializer_list<std::uint8_t> reading = {0x8a, 0x04, 0x25, 0x00, 0x00, 0x00,
                                                         0x10, 0xe6, 0x10, 0xeb, 0xf5};
constexpr Gpa read_at{0x1000'0000};

/// What the guest above got: "ram 5" or "mmio".
std::string next(Guest& guest) {
  for (int i = 0; i < 100; ++i) {
    std::string seen;
    guest.vcpu.run().visit(
        [&](kvm::exits::IoOut out) {
          seen = "ram " + std::to_string(std::to_integer<int>(out.data[0]));
        },
        [&](kvm::exits::MmioRead read) {
          EXPECT_EQ(read.gpa, read_at);
          read.data[0] = std::byte{0xee};
          seen = "mmio";
        },
        [](kvm::exits::Interrupted) {}, [&](kvm::exits::Failed failed) { seen = failed.cause; },
        [&](auto&&) { seen = "another exit"; });
    if (!seen.empty()) {
      return seen;
    }
  }
  return "nothing";
}

TEST(MemorySlotGuest, SeesMmioOnceItIsGone) {
  Guest guest = Guest::long_mode(reading);
  EXPECT_EQ(next(guest), "mmio");
  EXPECT_EQ(next(guest), "ram 238");  // What the MMIO read gave.
  const std::array<std::byte, 1> five = {std::byte{5}};
  std::optional<MemorySlot> slot = guest.vm.add_memory(read_at, Mapping::anonymous(2 * page));
  ASSERT_TRUE(slot->load(read_at, five));
  EXPECT_EQ(next(guest), "ram 5");
  ASSERT_TRUE(slot->try_move_to(read_at + page));
  EXPECT_EQ(next(guest), "mmio");
  EXPECT_EQ(next(guest), "ram 238");
  ASSERT_TRUE(slot->try_move_to(read_at));
  EXPECT_EQ(next(guest), "ram 5");
  slot.reset();
  EXPECT_EQ(next(guest), "mmio");
  EXPECT_EQ(next(guest), "ram 238");
  slot = guest.vm.add_memory(read_at, Mapping::anonymous(page));
  EXPECT_EQ(next(guest), "ram 0");
  const Mapping back = slot->remove();
  EXPECT_EQ(next(guest), "mmio");
}

TEST(MemorySlotGuest, WritesToReadOnlyMemoryAreMmio) {
  Guest guest = Guest::long_mode({0xc6, 0x04, 0x25, 0x00, 0x00, 0x00, 0x10, 0x55,  // movb 0x55
                                  0x8a, 0x04, 0x25, 0x00, 0x00, 0x00, 0x10,        // mov al, [..]
                                  0xe6, 0x10});                                    // out
  KVM_REQUIRE(guest.vm, cap::ReadonlyMem);
  const MemorySlot rom =
      guest.vm.add_memory(read_at, Mapping::anonymous(page), {.read_only = true});
  const std::array<std::byte, 1> value = {std::byte{0x33}};
  ASSERT_TRUE(rom.load(read_at, value));
  kvm_test::Devices devices;
  int outs = 0;
  bool wrote = false;
  for (int i = 0; i < 10 && outs == 0; ++i) {
    guest.vcpu.run().visit(
        [&](kvm::exits::MmioWrite write) {
          EXPECT_EQ(write.gpa, read_at);
          EXPECT_EQ(write.data[0], std::byte{0x55});
          wrote = true;
        },
        [&](kvm::exits::IoOut out) {
          EXPECT_EQ(out.data[0], std::byte{0x33});
          ++outs;
        },
        [](kvm::exits::Interrupted) {}, [](auto&&) { ADD_FAILURE() << "another exit"; });
  }
  EXPECT_TRUE(wrote);
  EXPECT_EQ(outs, 1);
  EXPECT_EQ(rom.mapping().data()[0], std::byte{0x33});
}

#endif

}  // namespace
