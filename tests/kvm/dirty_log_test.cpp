// SPDX-License-Identifier: MIT
#include <kvm/kvm.hpp>

#include <gtest/gtest.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "support/dirty_guest.hpp"
#include "support/kicking.hpp"
#include "support/require.hpp"

#include <unistd.h>

namespace {

namespace cap = kvm::cap;
using kvm::DirtyBitmap;
using kvm::DirtyLog;
using kvm::Gpa;
using kvm_test::insert;
using kvm_test::logged_at;
using kvm_test::Machine;
using kvm_test::missing;
using kvm_test::page;
using kvm_test::Pages;
using kvm_test::range;
using kvm_test::Writer;

constexpr std::uint64_t pages = 64 * 2 + 3;
const std::uint64_t first_gfn = logged_at / page;

/// A VM with a slot of an odd size that is logged.
struct Logged : Machine {
  explicit Logged(std::optional<cap::ManualDirtyLogProtect2> mode, std::uint64_t size = pages) {
    if (mode) {
      vm.enable(*mode);
    }
    slot = vm.add_memory(Gpa(logged_at), kvm::Mapping::anonymous(size * page), {.log_dirty = true});
  }
  std::optional<kvm::MemorySlot> slot;
};

/// The pages of one harvest.
Pages harvest(DirtyLog& log, std::uint64_t gfn = first_gfn) {
  Pages result;
  const auto count =
      log.try_harvest([&](kvm::GfnRange run) { insert(result, run.first - gfn, run.count); });
  EXPECT_TRUE(count) << count.error().what();
  if (count) {
    EXPECT_EQ(*count, result.size());
  }
  return result;
}

template <class T>
void expect_error(const kvm::Result<T>& result, int error_number,
                  std::initializer_list<std::string_view> parts) {
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().error_number(), error_number) << result.error().what();
  for (const std::string_view part : parts) {
    EXPECT_NE(std::string_view(result.error().what()).find(part), std::string_view::npos)
        << result.error().what();
  }
}

using Mode = std::optional<cap::ManualDirtyLogProtect2>;
const std::array<Mode, 3> modes = {Mode(), Mode(cap::ManualDirtyLogProtect2{}),
                                   Mode(cap::ManualDirtyLogProtect2{.initially_set = true})};

bool offered(const Machine& machine, const Mode& mode) {
  return !mode || kvm_test::offers<cap::ManualDirtyLogProtect2>(
                      machine.vm, mode->initially_set ? cap::ManualDirtyLogFlag::enable |
                                                            cap::ManualDirtyLogFlag::initially_set
                                                      : cap::ManualDirtyLogFlag::enable);
}

/// All ways of clearing, in pieces as well.
class DirtyLogModes : public testing::TestWithParam<std::pair<std::size_t, std::uint64_t>> {
 protected:
  void SetUp() override {
    const Machine machine;
    if (!offered(machine, mode())) {
      GTEST_SKIP() << "KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 is not offered with this flag";
    }
  }
  const Mode& mode() const { return modes[GetParam().first]; }
  kvm::DirtyLogOptions options() const { return {.clear_pages = GetParam().second}; }
};
INSTANTIATE_TEST_SUITE_P(All, DirtyLogModes,
                         testing::Values(std::pair(0, 0), std::pair(1, 0), std::pair(1, 64),
                                         std::pair(2, 0), std::pair(2, 128)));

TEST_P(DirtyLogModes, HasWhatTheGuestWrote) {
  Logged machine(mode());
  Writer writer(machine);
  DirtyLog log(*machine.slot, options());
  EXPECT_EQ(log.pages(), pages);
  EXPECT_EQ(log.slot(), machine.slot->id());
  const Pages at_first = harvest(log);
  EXPECT_EQ(at_first.size(), mode() && mode()->initially_set ? pages : 0);
  for (int round = 0; round < 3; ++round) {
    Pages wanted;
    for (const auto& [first, count] :
         std::vector<std::pair<std::uint64_t, std::uint64_t>>{{0, 5}, {62, 5}, {127, 4}}) {
      writer.write(logged_at + first * page, count);
      insert(wanted, first, count);
    }
    // What is read in the harvest is what the guest wrote.
    Pages seen;
    log.harvest([&](kvm::GfnRange run) {
      insert(seen, run.first - first_gfn, run.count);
      std::byte byte;
      ASSERT_TRUE(machine.slot->fetch(Gpa(run.first * page), std::span(&byte, 1)));
      if (run.first == first_gfn + 62) {
        EXPECT_EQ(std::to_integer<std::uint8_t>(byte), Writer::value(5, 0));
      }
    });
    EXPECT_EQ(missing(seen, wanted), Pages());
    EXPECT_EQ(harvest(log), Pages());  // Nobody wrote.
  }
}

TEST_P(DirtyLogModes, HasWhatTheVmmWrote) {
  Logged machine(mode());
  DirtyLog log(*machine.slot, options());
  harvest(log);
  auto view = machine.vm.memory().view();
  const auto at = [](std::uint64_t number) { return Gpa(logged_at + number * page); };
  Pages wanted;
  for (int round = 0; round < 2; ++round) {
    ASSERT_TRUE(view.write<std::uint64_t>(at(1), 5));
    ASSERT_TRUE(view.fill(at(63), 2 * page, std::byte{3}));
    ASSERT_TRUE(view.atomic_fetch_add<std::uint32_t>(at(66), 1));
    ASSERT_TRUE(view.mark_dirty(at(70), 1));
    kvm::GfnToHvaCache cache(machine.vm.memory(), at(72), 64);
    ASSERT_TRUE(cache.write<std::uint32_t>(4, 1));
    const std::array<std::byte, 4> bytes{};
    ASSERT_TRUE(machine.slot->load(at(75), bytes));
    {
      auto pin = view.pin(at(80), 3 * page, kvm::PinFor::writing);
      ASSERT_TRUE(pin);
    }
    int pipes[2];
    ASSERT_EQ(pipe(pipes), 0);
    ASSERT_EQ(::write(pipes[1], "abc", 3), 3);
    EXPECT_EQ(view.read_from(pipes[0], at(130), 3).bytes, 3u);
    ::close(pipes[0]);
    ::close(pipes[1]);
    wanted = {1, 63, 64, 66, 70, 72, 75, 80, 81, 82, 130};
    EXPECT_EQ(missing(harvest(log), wanted), Pages());
    EXPECT_EQ(harvest(log), Pages());
  }
}

TEST_P(DirtyLogModes, WhatIsDeclinedIsOfferedAgain) {
  Logged machine(mode());
  Writer writer(machine);
  DirtyLog log(*machine.slot, options());
  harvest(log);
  writer.write(logged_at + 3 * page, 2);
  writer.write(logged_at + 50 * page, 40);
  writer.write(logged_at + 128 * page, 3);
  // Takes the first run, declines the second.
  int calls = 0;
  Pages taken;
  const auto count = log.harvest([&](kvm::GfnRange run) {
    if (++calls == 2) {
      return false;
    }
    insert(taken, run.first - first_gfn, run.count);
    return true;
  });
  EXPECT_EQ(calls, 2);
  EXPECT_EQ(count, taken.size());
  EXPECT_EQ(missing(taken, {3, 4}), Pages());
  Pages wanted = range(50, 40);
  wanted.merge(range(128, 3));
  EXPECT_EQ(missing(harvest(log), wanted), Pages());
  EXPECT_EQ(harvest(log), Pages());
}

TEST_P(DirtyLogModes, WhatIsWrittenDuringAHarvestComesNext) {
  Logged machine(mode());
  Writer writer(machine);
  DirtyLog log(*machine.slot, options());
  harvest(log);
  writer.write(logged_at + 1 * page, 1);
  writer.write(logged_at + 66 * page, 1);
  Pages late;  // handed over after the writes
  bool wrote = false;
  log.harvest([&](kvm::GfnRange run) {
    if (wrote) {
      insert(late, run.first - first_gfn, run.count);
    } else {
      // This page, one that waits to be handed over, and one that nobody wrote before.
      writer.write(logged_at + 1 * page, 1);
      writer.write(logged_at + 66 * page, 1);
      writer.write(logged_at + 100 * page, 1);
      EXPECT_TRUE(machine.slot->load(Gpa(logged_at + 2 * page), std::array<std::byte, 1>{}));
      wrote = true;
    }
  });
  Pages next = harvest(log);
  EXPECT_TRUE(next.contains(1));
  EXPECT_TRUE(next.contains(2));
  next.merge(late);
  EXPECT_EQ(missing(next, {66, 100}), Pages());
}

TEST_P(DirtyLogModes, LoggingOffAndOnIsAllDirty) {
  Logged machine(mode());
  DirtyLog log(*machine.slot, options());
  harvest(log);
  machine.slot->log_dirty(false);
  expect_error(log.try_harvest([](kvm::GfnRange) { FAIL(); }), ENOENT,
               {"slot=1", "log_dirty(true)"});
  DirtyBitmap bitmap(*machine.slot);
  expect_error(log.try_get(bitmap), ENOENT, {"KVM_GET_DIRTY_LOG", "log_dirty(true)"});
  machine.slot->log_dirty(true);
  EXPECT_EQ(harvest(log), range(0, pages));
  EXPECT_EQ(harvest(log), Pages());
}

TEST_P(DirtyLogModes, AMovedSlotIsAllDirtyWhereItIs) {
  Logged machine(mode());
  Writer writer(machine);
  DirtyLog log(*machine.slot, options());
  harvest(log);
  constexpr std::uint64_t there = logged_at + 0x1000000;
  machine.slot->move_to(Gpa(there));
  EXPECT_EQ(harvest(log, there / page), range(0, pages));
  writer.write(there + 130 * page, 1);
  EXPECT_EQ(missing(harvest(log, there / page), {130}), Pages());
}

TEST(DirtyLog, ClearsInPiecesWhatItTook) {
  KVM_REQUIRE(Machine().vm, cap::ManualDirtyLogProtect2);
  Logged machine(cap::ManualDirtyLogProtect2{});
  Writer writer(machine);
  DirtyLog log(*machine.slot, {.clear_pages = 64});
  harvest(log);
  writer.write(logged_at, pages);
  int calls = 0;
  log.harvest([&](kvm::GfnRange run) {
    EXPECT_EQ(run.first, first_gfn + (calls == 0 ? 0 : 64));
    EXPECT_EQ(run.count, 64u);
    return ++calls == 1;
  });
  ASSERT_EQ(calls, 2);
  // The third piece was not reached: KVM still has it, and nothing else.
  DirtyBitmap left(*machine.slot);
  log.get(left);
  EXPECT_EQ(left.next_run(0), (kvm::PageRange{128, 3}));
  EXPECT_EQ(left.count(), 3u);
  EXPECT_EQ(missing(harvest(log), range(64, 67)), Pages());
}

TEST(DirtyLog, ChangesWithTheModeOfTheVm) {
  Logged machine({});
  KVM_REQUIRE(machine.vm, cap::ManualDirtyLogProtect2);
  Writer writer(machine);
  DirtyLog log(*machine.slot);
  for (const bool manual : {true, false, true}) {
    machine.vm.enable(cap::ManualDirtyLogProtect2{.enabled = manual});
    writer.write(logged_at + 7 * page, 2);
    EXPECT_EQ(missing(harvest(log), {7, 8}), Pages());
    EXPECT_EQ(harvest(log), Pages());
    writer.write(logged_at + 7 * page, 2);
    EXPECT_EQ(missing(harvest(log), {7, 8}), Pages());
  }
}

TEST(DirtyLog, GetAndClearByThemselves) {
  KVM_REQUIRE(Machine().vm, cap::ManualDirtyLogProtect2);
  Logged machine(cap::ManualDirtyLogProtect2{});
  Writer writer(machine);
  DirtyLog log(*machine.slot);
  writer.write(logged_at + 2 * page, 1);
  writer.write(logged_at + 65 * page, 2);
  writer.write(logged_at + 129 * page, 1);
  DirtyBitmap dirty(*machine.slot);
  EXPECT_EQ(dirty.pages(), pages);
  for (int i = 0; i < 2; ++i) {  // Getting does not clear.
    dirty.clear();
    log.get(dirty);
    for (const std::uint64_t number : Pages{2, 65, 66, 129}) {
      EXPECT_TRUE(dirty.test(number)) << number;
    }
  }
  DirtyBitmap some(*machine.slot);
  some.set(65);
  log.clear(some, 64, 64);
  log.clear(some, 128, 3);
  log.clear(some, 128, 0);
  log.get(dirty);
  EXPECT_FALSE(dirty.test(65));
  for (const std::uint64_t number : Pages{2, 66, 129}) {
    EXPECT_TRUE(dirty.test(number)) << number;
  }

  expect_error(log.try_clear(some, 1, 64), EINVAL, {"first_page=1", "multiple of 64"});
  expect_error(log.try_clear(some, 0, 63), EINVAL, {"num_pages=63", "slot's end: 131"});
  expect_error(log.try_clear(some, 0, 192), EINVAL, {"KVM_CLEAR_DIRTY_LOG", "131 pages"});
  expect_error(log.try_clear(some, ~std::uint64_t{63}, 128), EINVAL, {"131 pages"});
  DirtyBitmap small(pages - 1);
  expect_error(log.try_clear(small, 0, 64), EINVAL, {"130 pages, the slot 131"});
  expect_error(log.try_get(small), EINVAL, {"KVM_GET_DIRTY_LOG", "130 pages, the slot 131"});
}

TEST(DirtyLog, OnlyOnePerSlot) {
  Logged machine({});
  std::optional<DirtyLog> log(*machine.slot);
  expect_error(DirtyLog::try_open(*machine.slot), EBUSY, {"slot=1", "another DirtyLog"});
  DirtyLog moved = std::move(*log);
  expect_error(DirtyLog::try_open(*machine.slot), EBUSY, {});
  log.reset();
  expect_error(DirtyLog::try_open(*machine.slot), EBUSY, {});
  // What it had and did not hand over is the next one's.
  ASSERT_TRUE(machine.slot->load(Gpa(logged_at + 9 * page), std::array<std::byte, 1>{}));
  moved.harvest([](kvm::GfnRange) { return false; });
  { const DirtyLog gone = std::move(moved); }
  expect_error(moved.try_harvest([](kvm::GfnRange) {}), EBADF, {"moved from"});
  DirtyLog next(*machine.slot);
  EXPECT_EQ(missing(harvest(next), {9}), Pages());
}

TEST(DirtyLog, RefusesWhatItCannotRead) {
  Machine machine;
  kvm::MemorySlot slot =
      machine.vm.add_memory(Gpa(logged_at), kvm::Mapping::anonymous(pages * page));
  expect_error(DirtyLog::try_open(slot, {.clear_pages = 32}), EINVAL, {"clear_pages=32", "64"});
  DirtyLog log(slot);  // Logging may begin later.
  expect_error(log.try_harvest([](kvm::GfnRange) {}), ENOENT, {"not logged"});
  slot.log_dirty(true);
  EXPECT_EQ(harvest(log), range(0, pages));
  EXPECT_TRUE(log.exists());
  const kvm::MemorySlot moved = std::move(slot);
  expect_error(DirtyLog::try_open(slot), EBADF, {"moved from"});
}

// GET into a buffer that was made for the smaller slot would write beyond it.
TEST(DirtyLog, KeepsTheNumberOfADeletedSlot) {
  Logged machine({}, 3);
  DirtyLog log(*machine.slot);
  harvest(log);
  const kvm::SlotId id = machine.slot->id();
  static_cast<void>(machine.slot->remove());
  EXPECT_FALSE(log.exists());
  EXPECT_EQ(log.slot(), id);
  const kvm::MemorySlot larger = machine.vm.add_memory(
      Gpa(logged_at), kvm::Mapping::anonymous(512 * page), {.log_dirty = true});
  EXPECT_NE(larger.id(), id);
  expect_error(log.try_harvest([](kvm::GfnRange) { FAIL(); }), ENOENT, {"the slot was deleted"});
  DirtyBitmap bitmap(3);
  expect_error(log.try_get(bitmap), ENOENT, {"the slot was deleted"});
  expect_error(log.try_clear(bitmap, 0, 3), ENOENT, {"the slot was deleted"});
  { const DirtyLog gone = std::move(log); }
  const kvm::MemorySlot next = machine.vm.add_memory(
      Gpa(logged_at + 0x2000000), kvm::Mapping::anonymous(page), {.log_dirty = true});
  EXPECT_EQ(next.id(), id);
}

TEST(DirtyLog, OutlivesTheVm) {
  std::optional<DirtyLog> log;
  {
    Logged machine({});
    log.emplace(*machine.slot);
  }
  expect_error(log->try_harvest([](kvm::GfnRange) {}), ENOENT, {"the slot was deleted"});
}

TEST(DirtyLog, IsNotHarvestedWithinItself) {
  Logged machine({});
  DirtyLog log(*machine.slot);
  ASSERT_TRUE(machine.slot->load(Gpa(logged_at), std::array<std::byte, 1>{}));
  int calls = 0;
  log.harvest([&](kvm::GfnRange) {
    ++calls;
    expect_error(log.try_harvest([](kvm::GfnRange) {}), EDEADLK, {"from within"});
  });
  EXPECT_EQ(calls, 1);
}

TEST(DirtyLog, DeletingTheSlotWithinAHarvest) {
  Logged machine({});
  DirtyLog log(*machine.slot);
  ASSERT_TRUE(machine.slot->load(Gpa(logged_at), std::array<std::byte, 1>{}));
  log.harvest([&](kvm::GfnRange) { static_cast<void>(machine.slot->remove()); });
  EXPECT_FALSE(log.exists());
}

TEST(DirtyLog, ThereIsNoneBesideRings) {
  Machine machine;
  KVM_REQUIRE(machine.vm, cap::DirtyLogRingAcqRel);
  machine.vm.enable(cap::DirtyLogRingAcqRel{});
  const kvm::MemorySlot slot = machine.vm.add_memory(
      Gpa(logged_at), kvm::Mapping::anonymous(pages * page), {.log_dirty = true});
  expect_error(DirtyLog::try_open(slot), ENXIO, {"dirty rings", "DirtyRing"});
}

TEST(DirtyLogForkSerial, IsRefusedInAChild) {
  if (kvm_test::thread_sanitizer) {
    GTEST_SKIP() << "thread sanitizer does not go with fork";
  }
  Logged machine({});
  DirtyLog log(*machine.slot);
  ASSERT_TRUE(machine.slot->load(Gpa(logged_at), std::array<std::byte, 1>{}));
  EXPECT_EQ(kvm_test::in_child([&]() -> std::string {
              const auto count = log.try_harvest([](kvm::GfnRange) {});
              return count                                 ? "harvested"
                     : count.error().error_number() == EIO ? ""
                                                           : count.error().what();
            }),
            "");
  EXPECT_TRUE(harvest(log).contains(0));
}

}  // namespace
