// SPDX-License-Identifier: MIT
#include <kvm/kvm.hpp>

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <map>
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
using kvm::DirtyMode;
using kvm::DirtyPages;
using kvm::DirtySubscription;
using kvm::DirtyTracker;
using kvm::Gpa;
using kvm::SlotId;
using kvm_test::insert;
using kvm_test::logged_at;
using kvm_test::Machine;
using kvm_test::missing;
using kvm_test::page;
using kvm_test::Pages;
using kvm_test::range;
using kvm_test::Writer;

constexpr std::uint64_t pages = 64 * 4 + 3;
constexpr std::uint64_t second_at = logged_at + 0x1000000;

/// Pages by slot.
using Dirty = std::map<SlotId, Pages>;

Dirty harvest(DirtySubscription& subscription) {
  Dirty result;
  std::uint64_t count = 0;
  const auto harvested = subscription.try_harvest([&](const DirtyPages& dirty) {
    insert(result[dirty.slot], dirty.pages.first, dirty.pages.count);
    count += dirty.pages.count;
    EXPECT_EQ(dirty.size, dirty.pages.count * page);
    EXPECT_EQ(dirty.gfns, (kvm::GfnRange{dirty.gpa.value / page, dirty.pages.count}));
  });
  EXPECT_TRUE(harvested) << harvested.error().what();
  if (harvested) {
    EXPECT_EQ(harvested->pages, count);
    EXPECT_TRUE(harvested->complete);
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

struct EarlyTracker {
  std::optional<DirtyTracker> tracker;
};
/// A VM with a tracker, from before it had memory, and a slot of an odd size that is logged.
struct Tracked : EarlyTracker, Machine {
  explicit Tracked(DirtyMode mode, const kvm::DirtyTrackerOptions& options = {})
      : Machine([&](kvm::Vm& fresh) { tracker.emplace(fresh.track_dirty(mode, options)); }),
        slot(vm.add_memory(Gpa(logged_at), kvm::Mapping::memfd(pages * page),
                           {.log_dirty = true})) {}
  std::optional<kvm::MemorySlot> slot;

  kvm::MemorySlot add(std::uint64_t gpa, std::uint64_t count) {
    return vm.add_memory(Gpa(gpa), kvm::Mapping::anonymous(count * page), {.log_dirty = true});
  }
};

class DirtyTrackers : public testing::TestWithParam<DirtyMode> {
 protected:
  void SetUp() override {
    const Machine machine;
    if (GetParam() == DirtyMode::manual) {
      KVM_REQUIRE(machine.vm, cap::ManualDirtyLogProtect2);
    } else if (GetParam() == DirtyMode::ring) {
      KVM_REQUIRE(machine.vm, cap::DirtyLogRingAcqRel);
    }
  }
};
INSTANTIATE_TEST_SUITE_P(Modes, DirtyTrackers,
                         testing::Values(DirtyMode::log, DirtyMode::manual, DirtyMode::ring));

TEST_P(DirtyTrackers, TellEachSubscriberWhatTheGuestWrote) {
  Tracked machine(GetParam());
  EXPECT_EQ(machine.tracker->mode(), GetParam());
  const kvm::MemorySlot second = machine.add(second_at, 10);
  const SlotId slot = machine.slot->id();
  Writer writer(machine);
  DirtySubscription display = machine.tracker->subscribe();
  DirtySubscription migration = machine.tracker->subscribe({.slot = nullptr, .all_pending = false});
  // Who has seen nothing is given all.
  const Dirty all = harvest(display);
  EXPECT_EQ(all.at(slot), range(0, pages));
  EXPECT_EQ(all.at(second.id()), range(0, 10));
  EXPECT_EQ(harvest(migration), Dirty());
  writer.write(logged_at + 62 * page, 5);
  writer.write(logged_at + 256 * page, 3);
  writer.write(second_at + 9 * page, 1);
  Pages wanted = range(62, 5);
  wanted.merge(range(256, 3));
  Dirty seen = harvest(display);
  EXPECT_EQ(missing(seen[slot], wanted), Pages());
  EXPECT_EQ(missing(seen[second.id()], {9}), Pages());
  EXPECT_EQ(harvest(display), Dirty());
  // The other one has missed nothing, and nothing comes twice.
  writer.write(logged_at + 100 * page, 2);
  machine.tracker->collect();
  wanted.merge(range(100, 2));
  seen = harvest(migration);
  EXPECT_EQ(missing(seen[slot], wanted), Pages());
  EXPECT_EQ(missing(seen[second.id()], {9}), Pages());
  EXPECT_EQ(harvest(migration), Dirty());
  EXPECT_EQ(missing(harvest(display)[slot], range(100, 2)), Pages());
  EXPECT_EQ(harvest(display), Dirty());
}

TEST_P(DirtyTrackers, SayWhereThePagesAre) {
  Tracked machine(GetParam());
  kvm::Mapping whole = kvm::Mapping::memfd(16 * page);
  const kvm::MemorySlot part = machine.vm.add_memory(
      Gpa(second_at), whole.try_part(4 * page, 8 * page).value(), {.log_dirty = true});
  DirtySubscription subscription = machine.tracker->subscribe({.slot = &part});
  harvest(subscription);
  ASSERT_TRUE(part.load(Gpa(second_at + 3 * page), std::vector<std::byte>(2 * page)));
  int calls = 0;
  const auto harvested = subscription.harvest([&](const DirtyPages& dirty) {
    ++calls;
    EXPECT_EQ(dirty.slot, part.id());
    EXPECT_EQ(dirty.pages, (kvm::PageRange{3, 2}));
    EXPECT_EQ(dirty.gpa, Gpa(second_at + 3 * page));
    EXPECT_EQ(dirty.backing_offset, 7 * page);
  });
  EXPECT_EQ(calls, 1);
  EXPECT_EQ(harvested.pages, 2u);
}

TEST_P(DirtyTrackers, TellWhatTheVmmWrote) {
  Tracked machine(GetParam());
  DirtySubscription subscription = machine.tracker->subscribe();
  harvest(subscription);
  auto view = machine.vm.memory().view();
  const auto at = [](std::uint64_t number) { return Gpa(logged_at + number * page); };
  for (int round = 0; round < 2; ++round) {
    ASSERT_TRUE(view.write<std::uint64_t>(at(1), 5));
    ASSERT_TRUE(view.fill(at(63), 2 * page, std::byte{3}));
    ASSERT_TRUE(view.atomic_fetch_add<std::uint32_t>(at(66), 1));
    ASSERT_TRUE(view.mark_dirty(at(70), 1));
    kvm::GfnToHvaCache cache(machine.vm.memory(), at(72), 64);
    ASSERT_TRUE(cache.write<std::uint32_t>(4, 1));
    ASSERT_TRUE(machine.slot->load(at(75), std::array<std::byte, 4>{}));
    {
      auto pin = view.pin(at(80), 3 * page, kvm::PinFor::writing);
      ASSERT_TRUE(pin);
    }
    int pipes[2];
    ASSERT_EQ(pipe(pipes), 0);
    ASSERT_EQ(::write(pipes[1], "abc", 3), 3);
    EXPECT_EQ(view.read_from(pipes[0], at(258), 3).bytes, 3u);
    ::close(pipes[0]);
    ::close(pipes[1]);
    EXPECT_EQ(missing(harvest(subscription)[machine.slot->id()],
                      {1, 63, 64, 66, 70, 72, 75, 80, 81, 82, 258}),
              Pages());
    EXPECT_EQ(harvest(subscription), Dirty());
    ASSERT_TRUE(view.write<std::uint64_t>(at(200), 5));  // And nothing of before with it.
    EXPECT_EQ(harvest(subscription), (Dirty{{machine.slot->id(), {200}}}));
  }
}

TEST_P(DirtyTrackers, OfferAgainWhatIsDeclined) {
  Tracked machine(GetParam());
  Writer writer(machine);
  const SlotId slot = machine.slot->id();
  DirtySubscription subscription = machine.tracker->subscribe();
  DirtySubscription other = machine.tracker->subscribe();
  harvest(subscription);
  harvest(other);
  writer.write(logged_at + 3 * page, 2);
  writer.write(logged_at + 50 * page, 40);
  writer.write(logged_at + 200 * page, 3);
  int calls = 0;
  Pages taken;
  const auto result = subscription.harvest([&](const DirtyPages& dirty) {
    if (++calls == 2) {
      return false;
    }
    insert(taken, dirty.pages.first, dirty.pages.count);
    return true;
  });
  EXPECT_EQ(calls, 2);
  EXPECT_FALSE(result.complete);
  EXPECT_EQ(result.pages, taken.size());
  EXPECT_EQ(missing(taken, {3, 4}), Pages());
  Pages wanted = range(50, 40);
  wanted.merge(range(200, 3));
  EXPECT_EQ(missing(harvest(subscription)[slot], wanted), Pages());
  EXPECT_EQ(harvest(subscription), Dirty());
  wanted.merge(range(3, 2));
  EXPECT_EQ(missing(harvest(other)[slot], wanted), Pages());
}

TEST_P(DirtyTrackers, WhatIsWrittenDuringAHarvestComesNext) {
  Tracked machine(GetParam());
  Writer writer(machine);
  const SlotId slot = machine.slot->id();
  DirtySubscription subscription = machine.tracker->subscribe();
  harvest(subscription);
  writer.write(logged_at + 1 * page, 1);
  bool wrote = false;
  Pages late;  // handed over after the writes
  subscription.harvest([&](const DirtyPages& dirty) {
    if (wrote) {
      insert(late, dirty.pages.first, dirty.pages.count);
    } else {
      writer.write(logged_at + 1 * page, 1);
      writer.write(logged_at + 100 * page, 1);
      EXPECT_TRUE(machine.slot->load(Gpa(logged_at + 2 * page), std::array<std::byte, 1>{}));
      machine.tracker->collect();
      wrote = true;
    }
  });
  ASSERT_TRUE(wrote);
  Pages next = harvest(subscription)[slot];
  EXPECT_TRUE(next.contains(1));
  next.merge(late);
  EXPECT_EQ(missing(next, {2, 100}), Pages());
}

TEST_P(DirtyTrackers, KnowAliasesByTheirMemory) {
  Tracked machine(GetParam());
  Writer writer(machine);
  const SlotId slot = machine.slot->id();
  // Pages 10 to 19 of the slot once more, at another mapping of the file.
  kvm::Mapping again =
      kvm::Mapping::from_fd(machine.slot->mapping().fd(), 10 * page, {.offset = 10 * page});
  const kvm::MemorySlot alias =
      machine.vm.add_memory(Gpa(second_at), std::move(again), {.log_dirty = true});
  DirtySubscription all = machine.tracker->subscribe();
  DirtySubscription one = machine.tracker->subscribe({.slot = &alias});
  DirtySubscription other = machine.tracker->subscribe({.slot = &*machine.slot});
  // Each page of memory comes once.
  std::map<std::uint64_t, int> times;
  all.harvest([&](const DirtyPages& dirty) {
    for (std::uint64_t i = 0; i < dirty.pages.count; ++i) {
      ++times[dirty.backing_offset / page + i];
    }
  });
  EXPECT_EQ(times.size(), pages);
  for (const auto& [number, count] : times) {
    EXPECT_EQ(count, 1) << number;
  }
  EXPECT_EQ(harvest(one), (Dirty{{alias.id(), range(0, 10)}}));
  EXPECT_EQ(harvest(other), (Dirty{{slot, range(0, pages)}}));
  // Written through the one, told in terms of the other.
  writer.write(second_at + 2 * page, 3);
  ASSERT_TRUE(alias.load(Gpa(second_at + 9 * page), std::array<std::byte, 1>{}));
  times.clear();
  all.harvest([&](const DirtyPages& dirty) {
    for (std::uint64_t i = 0; i < dirty.pages.count; ++i) {
      ++times[dirty.backing_offset / page + i];
    }
  });
  for (const std::uint64_t number : Pages{12, 13, 14, 19}) {
    EXPECT_EQ(times[number], 1) << number;
  }
  EXPECT_EQ(missing(harvest(other)[slot], {12, 13, 14, 19}), Pages());
  writer.write(logged_at + 8 * page, 5);
  EXPECT_EQ(missing(harvest(one)[alias.id()], {0, 1, 2, 3, 4, 9}), Pages());
  EXPECT_EQ(harvest(one), Dirty());
}

TEST_P(DirtyTrackers, AliasesOfADeletedSlotAreDirty) {
  Tracked machine(GetParam());
  Writer writer(machine);
  std::optional<kvm::MemorySlot> alias(machine.vm.add_memory(
      Gpa(second_at),
      kvm::Mapping::from_fd(machine.slot->mapping().fd(), 10 * page, {.offset = 10 * page}),
      {.log_dirty = true}));
  const SlotId gone = alias->id();
  DirtySubscription subscription = machine.tracker->subscribe();
  harvest(subscription);
  writer.write(second_at + 2 * page, 3);
  static_cast<void>(alias->remove());
  const Dirty dirty = harvest(subscription);
  EXPECT_EQ(missing(dirty.at(machine.slot->id()), {12, 13, 14}), Pages());
  EXPECT_FALSE(dirty.contains(gone));
}

TEST_P(DirtyTrackers, FollowSlotsThatComeAndGo) {
  Tracked machine(GetParam());
  Writer writer(machine);
  DirtySubscription all = machine.tracker->subscribe({.slot = nullptr, .all_pending = false});
  DirtySubscription one =
      machine.tracker->subscribe({.slot = &*machine.slot, .all_pending = false});
  harvest(all);
  std::optional<kvm::MemorySlot> second(machine.add(second_at, 10));
  const SlotId id = second->id();
  EXPECT_EQ(harvest(all), (Dirty{{id, range(0, 10)}}));
  EXPECT_EQ(harvest(one), Dirty());
  // Pages of a slot that is gone, and then of another one.
  writer.write(second_at, 10);
  static_cast<void>(second->remove());
  second = machine.add(second_at, 3);
  EXPECT_NE(second->id(), id);  // The tracker names it.
  EXPECT_EQ(harvest(all), (Dirty{{second->id(), range(0, 3)}}));
  const kvm::MemorySlot third = machine.add(second_at + 0x100000, 2);
  EXPECT_EQ(third.id(), id);
  EXPECT_EQ(harvest(all), (Dirty{{id, range(0, 2)}}));
  // Moved: dirty where it is.
  machine.slot->move_to(Gpa(logged_at + 0x400000));
  EXPECT_EQ(harvest(one), (Dirty{{machine.slot->id(), range(0, pages)}}));
  writer.write(logged_at + 0x400000 + page, 1);
  one.harvest([&](const DirtyPages& dirty) { EXPECT_GE(dirty.gpa, Gpa(logged_at + 0x400000)); });
  // Logging off and on: all dirty.
  machine.slot->log_dirty(false);
  EXPECT_EQ(harvest(one), Dirty());
  EXPECT_EQ(one.harvest([](const DirtyPages&) {}).untracked, 1u);
  machine.slot->log_dirty(true);
  EXPECT_EQ(harvest(one), (Dirty{{machine.slot->id(), range(0, pages)}}));
  EXPECT_EQ(one.harvest([](const DirtyPages&) {}).untracked, 0u);
  static_cast<void>(machine.slot->remove());
  expect_error(one.try_harvest([](const DirtyPages&) {}), ENOENT, {"slot=1", "deleted"});
}

TEST_P(DirtyTrackers, SayWhatTheyCannotTrack) {
  Tracked machine(GetParam());
  DirtySubscription subscription = machine.tracker->subscribe();
  // The slot with the guest's code is not logged.
  EXPECT_EQ(subscription.harvest([](const DirtyPages&) {}).untracked, 1u);
  auto untracked = machine.tracker->untracked();
  ASSERT_EQ(untracked.size(), 1u);
  EXPECT_EQ(untracked[0].slot, machine.ram.id());
  EXPECT_EQ(untracked[0].gpa, Gpa(0));
  EXPECT_EQ(untracked[0].size, machine.ram.size());
  EXPECT_EQ(untracked[0].reason, kvm::UntrackedReason::not_logged);
  machine.tracker->log_all(true);
  EXPECT_EQ(harvest(subscription),
            (Dirty{{machine.ram.id(), range(0, machine.ram.size() / page)}}));
  EXPECT_EQ(subscription.harvest([](const DirtyPages&) {}).untracked, 0u);
  EXPECT_TRUE(machine.tracker->untracked().empty());
  machine.tracker->log_all(false);
  EXPECT_EQ(machine.tracker->untracked().size(), 2u);
  EXPECT_FALSE(machine.slot->logs_dirty());
}

TEST_P(DirtyTrackers, AreOnePerVm) {
  Tracked machine(GetParam());
  expect_error(machine.vm.try_track_dirty(), EBUSY, {"DirtyTracker"});
  std::optional<DirtySubscription> subscription(machine.tracker->subscribe());
  harvest(*subscription);
  machine.tracker.reset();
  // Subscriptions go on without it.
  ASSERT_TRUE(machine.slot->load(Gpa(logged_at + page), std::array<std::byte, 1>{}));
  EXPECT_EQ(missing(harvest(*subscription)[machine.slot->id()], {1}), Pages());
  expect_error(machine.vm.try_track_dirty(GetParam()), EBUSY, {"subscriptions"});
  subscription.reset();
  if (GetParam() != DirtyMode::ring) {
    EXPECT_TRUE(kvm::DirtyLog::try_open(*machine.slot));  // The logs are free again.
  }
  const auto next = machine.vm.try_track_dirty(GetParam());
  EXPECT_TRUE(next) << next.error().what();
}

TEST_P(DirtyTrackers, AreNotHarvestedWithinTheirFunction) {
  Tracked machine(GetParam());
  DirtySubscription subscription = machine.tracker->subscribe();
  DirtySubscription other = machine.tracker->subscribe();
  const kvm::MemorySlot kept = machine.add(second_at, 4);
  int calls = 0;
  subscription.harvest([&](const DirtyPages& dirty) {
    ++calls;
    expect_error(subscription.try_harvest([](const DirtyPages&) {}), EDEADLK, {"from within"});
    if (dirty.slot == machine.slot->id()) {
      // All else may be done.
      EXPECT_EQ(harvest(other).size(), 2u);
      machine.tracker->collect();
      EXPECT_EQ(machine.tracker->untracked().size(), 1u);
      static_cast<void>(machine.slot->remove());
      const kvm::MemorySlot next = machine.add(logged_at, 1);
      EXPECT_NE(next.id(), dirty.slot);
    }
    return true;
  });
  EXPECT_EQ(calls, 2);
}

TEST_P(DirtyTrackers, ASlotThatIsDeletedMeanwhileIsNotHandedOver) {
  Tracked machine(GetParam());
  DirtySubscription subscription = machine.tracker->subscribe();
  std::optional<kvm::MemorySlot> second(machine.add(second_at, 4));
  const SlotId id = second->id();
  subscription.harvest([&](const DirtyPages& dirty) {
    EXPECT_NE(dirty.slot, id);
    second.reset();
  });
}

TEST_P(DirtyTrackers, SubscriptionsMayEndInTheirFunction) {
  Tracked machine(GetParam());
  std::optional<DirtySubscription> subscription(machine.tracker->subscribe());
  const kvm::MemorySlot second = machine.add(second_at, 4);
  int calls = 0;
  const auto result = subscription->harvest([&](const DirtyPages&) {
    ++calls;
    subscription.reset();
    machine.tracker.reset();
    return false;
  });
  EXPECT_EQ(calls, 1);
  EXPECT_FALSE(result.complete);
}

// The vCPU's thread collects, while a subscriber's function waits for it.
TEST_P(DirtyTrackers, AVcpuIsServedWhileAFunctionRuns) {
  // A small ring, which has at least a page, and what fills it some times.
  const auto ring_bytes = static_cast<std::uint32_t>(std::max<std::uint64_t>(256 * 16, page));
  const std::uint64_t count = ring_bytes / 16 * 4 - 24;
  Tracked machine(GetParam(), {.initially_set = false, .ring_bytes = ring_bytes});
  Writer writer(machine);
  const kvm::MemorySlot large = machine.add(second_at, count);
  DirtySubscription subscription = machine.tracker->subscribe();
  DirtySubscription other = machine.tracker->subscribe();
  harvest(other);
  std::atomic<int> full{0};
  bool waited = false;
  Pages seen;  // handed over after the writes
  subscription.harvest([&](const DirtyPages& dirty) {
    if (waited && dirty.slot == large.id()) {
      insert(seen, dirty.pages.first, dirty.pages.count);
    }
    if (!std::exchange(waited, true)) {
      std::thread([&] {
        writer.write(second_at, count, [&] {
          ++full;
          machine.tracker->collect();
        });
      }).join();
    }
  });
  EXPECT_EQ(full > 2, GetParam() == DirtyMode::ring);
  seen.merge(harvest(subscription)[large.id()]);
  EXPECT_EQ(missing(seen, range(0, count)), Pages());
  EXPECT_EQ(missing(harvest(other)[large.id()], range(0, count)), Pages());
}

// Each page that somebody wrote ends up in the copies, although all run at the
// same time.
TEST_P(DirtyTrackers, CopiesAreRightInTheEnd) {
  Tracked machine(GetParam(), {.initially_set = false, .ring_bytes = 4096 * 16});
  Writer writer(machine);
  constexpr std::uint64_t count = 200;
  struct Copy {
    explicit Copy(Tracked& of)
        : machine(of), subscription(of.tracker->subscribe()), bytes(pages * page) {}
    void update() {
      auto view = machine.vm.memory().view();
      const auto result = subscription.try_harvest([&](const DirtyPages& dirty) {
        if (dirty.slot == machine.slot->id()) {
          ASSERT_TRUE(
              view.read(dirty.gpa, std::span(bytes).subspan(dirty.pages.first * page, dirty.size)));
        }
      });
      ASSERT_TRUE(result) << result.error().what();
    }
    Tracked& machine;
    DirtySubscription subscription;
    std::vector<std::byte> bytes;
  };
  Copy first(machine);
  Copy second(machine);
  std::atomic<bool> end{false};
  std::thread guest([&] {
    for (std::uint64_t i = 0; i < 60 && !testing::Test::HasFailure(); ++i) {
      writer.write(logged_at + i % 7 * page, count - i, [&] { machine.tracker->collect(); });
    }
  });
  std::thread device([&] {
    auto view = machine.vm.memory().view();
    for (std::uint64_t i = 0; !end; ++i) {
      EXPECT_TRUE(view.write<std::uint64_t>(Gpa(logged_at + i % pages * page + 8), i));
    }
  });
  std::thread copier([&] {
    while (!end) {
      second.update();
    }
  });
  for (int i = 0; i < 50; ++i) {
    first.update();
  }
  guest.join();
  end = true;
  device.join();
  copier.join();
  first.update();
  second.update();
  std::vector<std::byte> now(pages * page);
  ASSERT_TRUE(machine.slot->fetch(Gpa(logged_at), now));
  std::size_t wrong = 0;
  for (std::uint64_t number = 0; number < pages; ++number) {
    const auto at = static_cast<std::ptrdiff_t>(number * page);
    const auto same = [&](const Copy& copy) {
      return std::equal(now.begin() + at, now.begin() + at + page, copy.bytes.begin() + at);
    };
    wrong += !same(first) + !same(second);
  }
  EXPECT_EQ(wrong, 0u);
}

TEST_P(DirtyTrackers, WorkWithTheSlotsOfBothAddressSpaces) {
  Tracked machine(GetParam());
  KVM_REQUIRE(machine.vm, cap::MultiAddressSpace);
  if (machine.vm.check_raw(cap::MultiAddressSpace::info.number) < 2) {
    GTEST_SKIP() << "KVM_CAP_MULTI_ADDRESS_SPACE: this host has one address space";
  }
  const kvm::MemorySlot smm = machine.vm.add_memory(Gpa(logged_at), machine.slot->mapping().share(),
                                                    {.log_dirty = true, .address_space = 1});
  DirtySubscription one = machine.tracker->subscribe({.slot = &smm});
  harvest(one);
  ASSERT_TRUE(machine.slot->load(Gpa(logged_at + 7 * page), std::array<std::byte, 1>{}));
  EXPECT_EQ(harvest(one), (Dirty{{smm.id(), {7}}}));
}

TEST(DirtyTrackerModes, AutomaticTakesTheBestThatNeedsNoServing) {
  Machine machine;
  const bool manual = kvm_test::offers<cap::ManualDirtyLogProtect2>(machine.vm);
  const DirtyTracker tracker = machine.vm.track_dirty();
  EXPECT_EQ(tracker.mode(), manual ? DirtyMode::manual : DirtyMode::log);
}

TEST(DirtyTrackerModes, AutomaticTakesRingsThatAreThere) {
  Machine machine;
  KVM_REQUIRE(machine.vm, cap::DirtyLogRingAcqRel);
  machine.vm.enable(cap::DirtyLogRingAcqRel{});
  for (const DirtyMode mode : {DirtyMode::log, DirtyMode::manual}) {
    expect_error(machine.vm.try_track_dirty(mode), EINVAL, {"dirty rings", "DirtyMode::ring"});
  }
  EXPECT_EQ(machine.vm.track_dirty().mode(), DirtyMode::ring);
}

TEST(DirtyTrackerModes, ManualMayStartAllDirty) {
  Machine machine;
  KVM_REQUIRE(machine.vm, cap::ManualDirtyLogProtect2, cap::ManualDirtyLogFlag::initially_set);
  DirtyTracker tracker = machine.vm.track_dirty(DirtyMode::manual, {.initially_set = true});
  const kvm::MemorySlot slot = machine.vm.add_memory(
      Gpa(logged_at), kvm::Mapping::anonymous(pages * page), {.log_dirty = true});
  Writer writer(machine);
  kvm::DirtyBitmap bitmap(slot);
  DirtySubscription subscription = tracker.subscribe();
  EXPECT_EQ(harvest(subscription), (Dirty{{slot.id(), range(0, pages)}}));
  EXPECT_EQ(harvest(subscription), Dirty());
  writer.write(logged_at + 5 * page, 1);
  EXPECT_EQ(missing(harvest(subscription)[slot.id()], {5}), Pages());
  expect_error(machine.vm.try_enable(cap::DirtyLogRingAcqRel{}), EINVAL, {"lose dirty pages"});
}

TEST(DirtyTrackerModes, LogSwitchesManualProtectOff) {
  Machine machine;
  KVM_REQUIRE(machine.vm, cap::ManualDirtyLogProtect2);
  machine.vm.enable(cap::ManualDirtyLogProtect2{});
  DirtyTracker tracker = machine.vm.track_dirty(DirtyMode::log);
  const kvm::MemorySlot slot = machine.vm.add_memory(
      Gpa(logged_at), kvm::Mapping::anonymous(pages * page), {.log_dirty = true});
  Writer writer(machine);
  DirtySubscription subscription = tracker.subscribe();
  harvest(subscription);
  writer.write(logged_at + 5 * page, 1);
  EXPECT_EQ(missing(harvest(subscription)[slot.id()], {5}), Pages());
  EXPECT_EQ(harvest(subscription), Dirty());
  // Back on by the program: each harvest looks.
  machine.vm.enable(cap::ManualDirtyLogProtect2{});
  writer.write(logged_at + 5 * page, 1);
  EXPECT_EQ(missing(harvest(subscription)[slot.id()], {5}), Pages());
  EXPECT_EQ(harvest(subscription), Dirty());
}

TEST(DirtyTrackerModes, ALogThatIsTakenIsUntracked) {
  Machine machine;
  const kvm::MemorySlot slot = machine.vm.add_memory(
      Gpa(logged_at), kvm::Mapping::anonymous(pages * page), {.log_dirty = true});
  std::optional<kvm::DirtyLog> log(slot);
  DirtyTracker tracker = machine.vm.track_dirty();
  DirtySubscription subscription = tracker.subscribe();
  EXPECT_EQ(harvest(subscription), Dirty());
  const auto untracked = tracker.untracked();
  ASSERT_EQ(untracked.size(), 2u);
  EXPECT_EQ(untracked[1].slot, slot.id());
  EXPECT_EQ(untracked[1].reason, kvm::UntrackedReason::log_in_use);
  // Once it is free, the tracker takes it.
  log.reset();
  EXPECT_EQ(harvest(subscription), (Dirty{{slot.id(), range(0, pages)}}));
  expect_error(kvm::DirtyLog::try_open(slot), EBUSY, {"DirtyTracker"});
}

TEST(DirtyTrackerModes, GuestMemfdIsUntracked) {
  Machine machine;
  KVM_REQUIRE(machine.vm, cap::GuestMemfd);
  const auto memfd = machine.vm.try_create_guest_memfd(4 * page);
  if (!memfd) {
    GTEST_SKIP() << "KVM_CAP_GUEST_MEMFD: " << memfd.error().what();
  }
  auto slot = machine.vm.try_add_memory(Gpa(second_at), kvm::Mapping::anonymous(4 * page),
                                        {.guest_memfd = &*memfd});
  if (!slot) {
    GTEST_SKIP() << "KVM_CAP_GUEST_MEMFD: " << slot.error().what();
  }
  DirtyTracker tracker = machine.vm.track_dirty();
  tracker.log_all(true);
  const auto untracked = tracker.untracked();
  ASSERT_EQ(untracked.size(), 1u);
  EXPECT_EQ(untracked[0].slot, slot->id());
  EXPECT_EQ(untracked[0].reason, kvm::UntrackedReason::guest_memfd);
}

TEST(DirtyTrackerModes, MisuseIsNamed) {
  Machine machine;
  Machine another;
  std::optional<DirtyTracker> tracker(machine.vm.track_dirty());
  expect_error(tracker->try_subscribe({.slot = &another.ram}), EINVAL, {"another VM's"});
  DirtySubscription subscription = tracker->subscribe();
  const DirtySubscription taken = std::move(subscription);
  expect_error(subscription.try_harvest([](const DirtyPages&) {}), EBADF, {"moved from"});
  const DirtyTracker moved = std::move(*tracker);
  expect_error(tracker->try_collect(), EBADF, {"moved from"});
  expect_error(tracker->try_subscribe(), EBADF, {"moved from"});
  expect_error(tracker->try_log_all(true), EBADF, {"moved from"});
  EXPECT_TRUE(tracker->untracked().empty());
  kvm::Vm vm = std::move(machine.vm);
  expect_error(machine.vm.try_track_dirty(), EBADF, {"moved from"});
}

TEST(DirtyTrackerForkSerial, IsRefusedInAChild) {
  if (kvm_test::thread_sanitizer) {
    GTEST_SKIP() << "thread sanitizer does not go with fork";
  }
  Tracked machine(DirtyMode::log);
  DirtySubscription subscription = machine.tracker->subscribe();
  EXPECT_EQ(kvm_test::in_child([&]() -> std::string {
              const auto eio = [](const auto& result) {
                return !result && result.error().error_number() == EIO;
              };
              return eio(subscription.try_harvest([](const DirtyPages&) {})) &&
                             eio(machine.tracker->try_collect()) &&
                             eio(machine.tracker->try_subscribe()) &&
                             eio(machine.tracker->try_log_all(true)) &&
                             eio(machine.vm.try_track_dirty())
                         ? ""
                         : "not refused";
            }),
            "");
  EXPECT_EQ(harvest(subscription).size(), 1u);
}

}  // namespace
