// SPDX-License-Identifier: MIT
// The table of slots and what is built on it, with slots that KVM never saw.
#include <kvm/detail/address_space.hpp>
#include <kvm/detail/memory_reader.hpp>
#include <kvm/detail/slot_table.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace {

using kvm::Gpa;
using kvm::Mapping;
using kvm::detail::Access;
using kvm::detail::AddressSpace;
using kvm::detail::SlotIds;
using kvm::detail::SlotRecord;
using kvm::detail::SlotState;
using kvm::detail::SlotTable;

const std::size_t page = kvm::detail::sys::page_size();
constexpr std::uint64_t max64 = ~std::uint64_t{0};

/// Makes slots that share one page of memory: for tests of addresses.
class Slots {
 public:
  SlotState* make(std::uint64_t gpa, std::uint64_t pages, std::uint32_t flags = 0) {
    // Address space that nothing is behind; it is never touched.
    auto memory = Mapping::try_anonymous(pages * page);
    if (!memory) {
      ADD_FAILURE() << memory.error().what();
      return nullptr;
    }
    slots_.push_back(std::make_shared<SlotState>(ids_, *ids_->take(0, 65536), Gpa{gpa},
                                                 std::move(*memory), flags));
    return slots_.back().get();
  }

 private:
  std::shared_ptr<SlotIds> ids_ = std::make_shared<SlotIds>();
  std::vector<std::shared_ptr<SlotState>> slots_;
};

/// The records of all tables here; none is used twice.
std::vector<SlotRecord> pool(std::size_t{1} << 16);
std::uint32_t used = sizeof(SlotRecord);

std::unique_ptr<SlotTable> make_table(std::size_t capacity) {
  return SlotTable::try_make(pool.data(), capacity);
}

/// Makes `next` a table without one slot and with another, as the address space
/// does it.
void assign(SlotTable& next, const SlotTable& table, SlotState* slot, SlotState* without) {
  const std::uint32_t gone = without != nullptr ? std::exchange(without->record, 0) : 0;
  if (slot != nullptr) {
    slot->record = used;
    used += sizeof(SlotRecord);
    pool[slot->record / sizeof(SlotRecord)] = kvm::detail::make_record(*slot);
  }
  next.assign(table, gone, slot != nullptr ? slot->record : 0);
}

std::unique_ptr<SlotTable> with(const SlotTable& table, SlotState* slot,
                                SlotState* without = nullptr) {
  auto next = make_table(table.count() + 1);
  assign(*next, table, slot, without);
  return next;
}

/// What a reader tries first.
const SlotRecord& hinted(const SlotTable& table, std::uint64_t gpa) {
  return SlotTable::hinted(table.records(),
                           table.hint()[SlotTable::hash(gpa >> table.granule_shift())]);
}

/// Asserts that the table has exactly these slots, at all their edges.
void expect_agrees(const SlotTable& table, const std::vector<SlotState*>& slots) {
  ASSERT_EQ(table.count(), slots.size());
  ASSERT_EQ(static_cast<std::size_t>(table.end() - table.begin()), slots.size());
  for (std::size_t i = 0; i < slots.size(); ++i) {
    const SlotRecord& record = table.begin()[static_cast<std::ptrdiff_t>(i)];
    ASSERT_EQ(record.slot, slots[i]);
    ASSERT_EQ(record.gpa, slots[i]->gpa().value);
    ASSERT_EQ(record.size, slots[i]->size);
    ASSERT_EQ(record.host, slots[i]->data);
    ASSERT_EQ(table.write_record(record).size, slots[i]->read_only() ? 0 : record.size);
    ASSERT_EQ(table.write_record(record).marks, nullptr);
    // The fast ways' limits: a scalar of 8 bytes that begins below them ends in the slot.
    ASSERT_EQ(record.readable, record.size - 7);
    ASSERT_EQ(record.writable, slots[i]->read_only() ? 0 : record.size - 7);
    ASSERT_EQ(record.logged, 0u);
  }
  const auto at = [&](std::uint64_t gpa) -> SlotState* {
    for (SlotState* const slot : slots) {
      if (gpa - slot->gpa().value < slot->size) {
        return slot;
      }
    }
    return nullptr;
  };
  const auto check = [&](std::uint64_t gpa) {
    SlotState* const expected = at(gpa);
    const SlotRecord* const found = table.find(gpa);
    ASSERT_EQ(found == nullptr ? nullptr : found->slot, expected) << std::hex << gpa;
    // What the hint says is the slot or one that the address is not in.
    const SlotRecord& tried = hinted(table, gpa);
    ASSERT_TRUE(gpa - tried.gpa >= tried.size || tried.slot == expected);
    const auto above = table.at_or_above(gpa);
    if (expected != nullptr) {
      ASSERT_EQ(above->slot, expected);
    } else if (above != table.end()) {
      ASSERT_GT(above->gpa, gpa);
    }
  };
  for (const SlotState* const slot : slots) {
    const std::uint64_t gpa = slot->gpa().value;
    for (const std::uint64_t edge : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{page},
                                     std::uint64_t{slot->size / 2}, std::uint64_t{slot->size}}) {
      check(gpa + edge);
      check(gpa + edge - 1);
      check(gpa - edge);
    }
  }
  check(0);
  check(max64);
}

TEST(SlotTable, EmptyHasNothing) {
  const auto table = make_table(0);
  ASSERT_TRUE(table);
  expect_agrees(*table, {});
  EXPECT_EQ(table->find(0), nullptr);
  EXPECT_EQ(table->find(max64), nullptr);
}

TEST(SlotTable, OneSlot) {
  Slots make;
  for (const std::uint64_t gpa :
       {std::uint64_t{0}, std::uint64_t{page}, max64 - page + 1, std::uint64_t{1} << 63}) {
    SlotState* const slot = make.make(gpa, 1);
    const auto empty = make_table(0);
    const auto table = with(*empty, slot);
    expect_agrees(*table, {slot});
    const auto changed = with(*table, slot, slot);
    expect_agrees(*changed, {slot});
    expect_agrees(*with(*changed, nullptr, slot), {});
  }
}

TEST(SlotTable, SlotsOfTheLargestSizes) {
  Slots make;
  // Larger than that, thread sanitizer has no room for it.
  const std::uint64_t large = (std::uint64_t{1} << 38) / page;
  SlotState* const first = make.make(page, large);
  SlotState* const second = make.make(std::uint64_t{1} << 50, 1);
  SlotState* const last = make.make(max64 - page * 2 + 1, 2);
  ASSERT_TRUE(first && second && last);
  const auto empty = make_table(0);
  const auto one = with(*empty, last);
  const auto two = with(*one, first);
  const auto three = with(*two, second);
  expect_agrees(*three, {first, second, last});
  const auto without = with(*three, nullptr, first);
  expect_agrees(*without, {second, last});
}

TEST(SlotTable, MarksOfLoggedSlotsOnly) {
  Slots make;
  SlotState* const plain = make.make(0, 1);
  SlotState* const rom = make.make(page, 1, kvm::uapi::mem::readonly);
  const auto table = with(*with(*make_table(0), plain), rom);
  EXPECT_EQ(table->write_record(*table->find(0)).marks, nullptr);
  EXPECT_EQ(table->write_record(*table->find(page)).size, 0u);
  EXPECT_EQ(table->find(page)->writable, 0u);
  EXPECT_EQ(table->find(page)->logged, 0u);
}

// Slots come and go in all kinds of places: the table says what a list says.
TEST(SlotTable, AgreesWithAList) {
  for (unsigned seed = 0; seed < 12; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    Slots make;
    std::vector<SlotState*> slots;
    auto table = make_table(0);
    // How far apart they are differs by many orders of magnitude.
    const unsigned spread = 13 + 4 * seed;
    for (int i = 0; i < 150; ++i) {
      if (slots.size() > 5 && random() % 3 == 0) {
        const auto victim = slots.begin() + static_cast<std::ptrdiff_t>(random() % slots.size());
        table = with(*table, nullptr, *victim);
        slots.erase(victim);
      } else {
        std::uint64_t gpa = random() >> (64 - std::min(spread + 6, 64u)) & ~(page - 1);
        if (!slots.empty() && random() % 3 == 0) {  // Next to another.
          const SlotState* const other = slots[random() % slots.size()];
          gpa = other->gpa().value + other->size;
        }
        const std::uint64_t pages = 1 + random() % (random() % 4 == 0 ? 5000 : 3);
        const std::uint64_t last = gpa + pages * page - 1;
        const bool free =
            last >= gpa && std::none_of(slots.begin(), slots.end(), [&](const SlotState* slot) {
              return slot->gpa().value <= last && slot->gpa().value + (slot->size - 1) >= gpa;
            });
        if (!free) {
          continue;
        }
        SlotState* const slot =
            make.make(gpa, pages, random() % 4 == 0 ? kvm::uapi::mem::readonly : 0);
        slots.push_back(slot);
        std::sort(slots.begin(), slots.end(),
                  [](const SlotState* a, const SlotState* b) { return a->gpa() < b->gpa(); });
        table = with(*table, slot);
      }
      if (i % 10 == 0 || i > 140) {
        expect_agrees(*table, slots);
      }
      if (HasFatalFailure()) {
        return;
      }
    }
  }
}

TEST(SlotTable, ThousandsOfSlots) {
  Slots make;
  std::vector<SlotState*> slots;
  auto table = make_table(3000);
  auto spare = make_table(3000);
  for (std::uint64_t i = 0; i < 3000; ++i) {
    slots.push_back(make.make(i * 0x1'0000'0000 + (i % 7) * page, 1 + i % 2));
    assign(*spare, *table, slots.back(), nullptr);
    std::swap(table, spare);
  }
  expect_agrees(*table, slots);
  // Most hints are right.
  std::size_t right = 0;
  for (const SlotState* const slot : slots) {
    const std::uint64_t gpa = slot->gpa().value;
    right += hinted(*table, gpa).slot == slot ? 1 : 0;
  }
  EXPECT_GT(right, slots.size() / 3);
}

// Slots as a VM has them: hints make the search superfluous.
TEST(SlotTable, HintsAreRightForOrdinaryLayouts) {
  Slots make;
  const std::vector<SlotState*> slots = {
      make.make(0, 0xa0000 / page), make.make(0xc0000, 0x2000'0000 / page),
      make.make(0xfd000000, 0x100'0000 / page), make.make(0x1'0000'0000, 0x1'0000'0000 / page)};
  auto table = make_table(0);
  for (SlotState* const slot : slots) {
    table = with(*table, slot);
  }
  expect_agrees(*table, slots);
  std::mt19937_64 random(3);
  int right = 0;
  for (int i = 0; i < 1000; ++i) {
    const SlotState* const slot = slots[random() % slots.size()];
    const std::uint64_t gpa = slot->gpa().value + random() % slot->size;
    right += hinted(*table, gpa).slot == slot ? 1 : 0;
  }
  EXPECT_GT(right, 600);
}

// Eight slots of 8 MiB with holes between: no granule of one shares a hint with another's.
TEST(SlotTable, HintsAreRightEverywhereForSlotsInARow) {
  Slots make;
  std::vector<SlotState*> slots;
  auto table = make_table(0);
  for (std::uint64_t i = 0; i < 8; ++i) {
    slots.push_back(make.make((i << 24) + 0x100000, 0x800000 / page));
    table = with(*table, slots.back());
  }
  for (SlotState* const slot : slots) {
    for (std::uint64_t gpa = slot->gpa().value; gpa < slot->gpa().value + slot->size; gpa += page) {
      ASSERT_EQ(hinted(*table, gpa).slot, slot) << std::hex << gpa;
    }
  }
}

// --- ranges across slots ---

TEST(MemoryReader, CoversWhatSlotsCover) {
  Slots make;
  SlotState* const a = make.make(page, 2);
  SlotState* const b = make.make(3 * page, 1, kvm::uapi::mem::readonly);
  SlotState* const c = make.make(4 * page, 1);
  SlotState* const last = make.make(max64 - page + 1, 1);
  auto table = make_table(0);
  for (SlotState* const slot : {a, b, c, last}) {
    table = with(*table, slot);
  }
  const auto covers = [&](std::uint64_t gpa, std::uint64_t size, Access access = Access::read) {
    return kvm::detail::covered(*table, gpa, size, access);
  };
  EXPECT_TRUE(covers(page, 4 * page));
  EXPECT_FALSE(covers(page, 4 * page, Access::write));
  EXPECT_TRUE(covers(page, 2 * page, Access::write));
  EXPECT_TRUE(covers(4 * page, page, Access::write));
  EXPECT_FALSE(covers(page, 4 * page + 1));
  EXPECT_FALSE(covers(page - 1, 2));
  EXPECT_TRUE(covers(5 * page - 1, 1));
  EXPECT_FALSE(covers(5 * page, 1));
  EXPECT_TRUE(covers(max64, 1));
  EXPECT_TRUE(covers(max64 - page + 1, page));
  EXPECT_FALSE(covers(max64, 2));
  EXPECT_FALSE(covers(max64 - page + 1, page + 1));
  EXPECT_FALSE(covers(page, max64));
  EXPECT_FALSE(covers(max64, max64));
  EXPECT_TRUE(covers(max64, 0));
  EXPECT_EQ(kvm::detail::find_whole(*table, 3 * page - 1, 2), nullptr);
  EXPECT_NE(kvm::detail::find_whole(*table, 3 * page - 1, 1), nullptr);
  EXPECT_NE(kvm::detail::find_whole(*table, max64 - page + 1, page), nullptr);
  EXPECT_EQ(kvm::detail::find_whole(*table, max64, max64), nullptr);
}

// --- the table as readers and the updater share it ---

std::unique_ptr<AddressSpace> make_space(std::uint16_t number = 0, std::uint16_t count = 1,
                                         bool asymmetric = kvm::detail::register_membarrier()) {
  return AddressSpace::try_make(number, count, asymmetric).value();
}

TEST(AddressSpace, CountsAsTheKernelDoes) {
  const auto one = make_space();
  EXPECT_EQ(one->generation(), 1u);
  const auto second = make_space(1, 2);
  EXPECT_EQ(second->generation(), 3u);
  second->begin_update(2);
  EXPECT_EQ(second->generation(), 3u | AddressSpace::update_in_progress);
  EXPECT_EQ(second->end_update(), 7u);
  EXPECT_EQ(second->generation(), 7u);
  second->begin_update(1);
  EXPECT_EQ(second->end_update(), 9u);
}

TEST(AddressSpace, AFlaggedGenerationIsNotToBeRemembered) {
  const auto space = make_space();
  kvm::detail::Reader reader;
  space->add_reader(reader);
  EXPECT_EQ(space->enter(reader).generation,
            space->asymmetric() ? 1u : AddressSpace::no_generation);
  EXPECT_EQ(reader.announced, 1u);
  AddressSpace::leave(reader);
  EXPECT_EQ(reader.announced, 0u);
  space->begin_update(1);
  EXPECT_EQ(space->enter(reader).generation, AddressSpace::no_generation);
  EXPECT_EQ(reader.announced, 1u);
  EXPECT_NE(space->enter(reader).table, nullptr);
  space->end_update();
  EXPECT_FALSE(space->passed(2));
  EXPECT_TRUE(space->passed(1));
  AddressSpace::leave(reader);
  EXPECT_TRUE(space->passed(2));
  space->remove_reader(reader);
}

TEST(AddressSpace, WithoutMembarrierNothingIsRemembered) {
  const auto space = make_space(0, 1, false);
  kvm::detail::Reader reader;
  space->add_reader(reader);
  const auto snapshot = space->enter(reader);
  EXPECT_EQ(snapshot.generation, AddressSpace::no_generation);
  EXPECT_EQ(snapshot.table, &space->table());
  EXPECT_EQ(reader.announced, 1u);
  AddressSpace::leave(reader);
  space->remove_reader(reader);
}

TEST(AddressSpace, TablesWaitForTheirReaders) {
  Slots make;
  const auto space = make_space();
  kvm::detail::Reader reader, idle;
  space->add_reader(idle);
  space->add_reader(reader);
  const SlotTable* const before = space->enter(reader).table;
  ASSERT_TRUE(space->reserve(1));
  SlotState* const slot = make.make(page, 1);
  space->begin_update(1);
  space->publish(nullptr, slot);
  const std::uint64_t now = space->end_update();
  space->fence_readers();
  space->reclaim();
  EXPECT_EQ(space->retired_tables(), 1u);
  EXPECT_FALSE(space->passed(now));
  EXPECT_EQ(before->count(), 0u) << "the old table is as it was";
  EXPECT_EQ(space->table().count(), 1u);
  AddressSpace::leave(reader);
  EXPECT_TRUE(space->passed(now));
  space->await(now);
  space->reclaim();
  EXPECT_EQ(space->retired_tables(), 0u);
  // A reader of the new table holds up nothing of the old.
  EXPECT_EQ(space->enter(reader).table, &space->table());
  EXPECT_TRUE(space->passed(now));
  AddressSpace::leave(reader);
  space->remove_reader(idle);
  EXPECT_EQ(reader.index, 0u) << "the last takes the place of the one that went";
  space->remove_reader(reader);
}

// A thread that is stopped within an access keeps what it may look at, not what comes and goes
// after.
TEST(AddressSpace, AStoppedReaderHoldsUpOnlyItsOwn) {
  Slots make;
  const auto space = make_space();
  kvm::detail::Reader stopped;
  space->add_reader(stopped);
  const SlotTable* const its_own = space->enter(stopped).table;
  for (std::uint64_t i = 0; i < 50; ++i) {
    SlotState* const slot = make.make(page, 1);
    ASSERT_TRUE(space->reserve(space->table().count() + 1));
    space->begin_update(1);
    space->publish(nullptr, slot);
    space->end_update();
    ASSERT_TRUE(space->reserve(1));
    space->begin_update(2);
    space->publish(slot, nullptr);
    const std::uint64_t removed = space->end_update();
    space->fence_readers();
    space->reclaim();
    EXPECT_FALSE(space->passed(removed)) << "something older is in use";
    EXPECT_TRUE(space->passed(removed, slot->since)) << "but not this slot";
    EXPECT_EQ(space->retired_tables(), 1u);
    EXPECT_EQ(its_own->count(), 0u);
  }
  AddressSpace::leave(stopped);
  space->reclaim();
  EXPECT_EQ(space->retired_tables(), 0u);
  space->remove_reader(stopped);
}

// Any number of removals, with nobody to take back what readers have left.
TEST(AddressSpace, ReservesForRemovals) {
  Slots make;
  const auto space = make_space();
  std::vector<SlotState*> slots;
  for (std::uint64_t i = 0; i < 40; ++i) {
    slots.push_back(make.make(i * page, 1));
    ASSERT_TRUE(space->reserve(space->table().count() + 1));
    space->begin_update(1);
    space->publish(nullptr, slots.back());
    space->end_update();
  }
  while (!slots.empty()) {
    const auto victim = slots.begin() + static_cast<std::ptrdiff_t>(slots.size() / 2);
    ASSERT_TRUE(space->reserve(slots.size()));
    space->begin_update(2);
    space->publish(*victim, nullptr);
    space->end_update();
    slots.erase(victim);
    expect_agrees(space->table(), slots);
  }
  space->fence_readers();
  space->reclaim();
  EXPECT_EQ(space->retired_tables(), 0u);
}

// The rule at work: whoever reads finds either the old table or the new one, and the updater writes
// into no table that is being read.
TEST(AddressSpace, ReadersNeverSeeATableChange) {
  for (const bool asymmetric : {kvm::detail::register_membarrier(), false}) {
    Slots make;
    const auto space = make_space(0, 1, asymmetric);
    SlotState* const left = make.make(16 * page, 1);
    SlotState* const right = make.make(17 * page, 1);
    ASSERT_TRUE(space->reserve(2));
    space->begin_update(1);
    space->publish(nullptr, left);
    space->end_update();
    std::atomic<bool> end{false};
    std::atomic<unsigned> strange{0};
    std::atomic<unsigned> seen{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < 2; ++t) {
      threads.emplace_back([&] {
        kvm::detail::Reader reader;
        space->add_reader(reader);
        while (!end) {
          const auto snapshot = space->enter(reader);
          const bool has_left = snapshot.table->find(16 * page) != nullptr;
          const bool has_right = snapshot.table->find(17 * page) != nullptr;
          // One of the two or, between two updates, both.
          strange += !has_left && !has_right ? 1 : 0;
          strange +=
              snapshot.table->count() != (has_left ? 1u : 0u) + (has_right ? 1u : 0u) ? 1 : 0;
          AddressSpace::leave(reader);
          seen.fetch_add(1, std::memory_order_relaxed);
        }
        space->remove_reader(reader);
      });
    }
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(300);
    for (bool odd = false; std::chrono::steady_clock::now() < deadline; odd = !odd) {
      for (const auto& [without, add] :
           {std::pair<SlotState*, SlotState*>{nullptr, odd ? left : right},
            {odd ? right : left, nullptr}}) {
        ASSERT_TRUE(space->reserve(space->table().count() + 1));
        space->begin_update(1);
        space->publish(without, add);
        space->end_update();
        space->fence_readers();
        space->reclaim();
      }
    }
    end = true;
    for (std::thread& thread : threads) {
      thread.join();
    }
    EXPECT_EQ(strange, 0u) << asymmetric;
    EXPECT_GT(seen, 0u);
  }
}

}  // namespace
