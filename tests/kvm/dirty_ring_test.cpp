// SPDX-License-Identifier: MIT
#include <kvm/kvm.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "support/dirty_guest.hpp"
#include "support/kicking.hpp"
#include "support/require.hpp"

namespace {

namespace cap = kvm::cap;
using kvm::DirtyRing;
using kvm::Gpa;
using kvm::SlotId;
using kvm_test::logged_at;
using kvm_test::Machine;
using kvm_test::missing;
using kvm_test::page;
using kvm_test::Pages;
using kvm_test::range;
using kvm_test::Writer;

constexpr std::uint32_t entry = 16;
/// The entries of a small ring: it has at least a page.
const std::uint32_t few = std::max(256u, static_cast<std::uint32_t>(page) / entry);
const std::uint64_t pages = std::uint64_t{8} * few;

/// A VM with rings, and a slot that is logged.
struct Ringed : Machine {
  explicit Ringed(std::uint32_t entries) {
    vm.enable(cap::DirtyLogRingAcqRel{.bytes = entries * entry});
    slot =
        vm.add_memory(Gpa(logged_at), kvm::Mapping::anonymous(pages * page), {.log_dirty = true});
  }
  std::optional<kvm::MemorySlot> slot;
};

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

class DirtyRings : public testing::Test {
 protected:
  void SetUp() override {
    const Machine machine;
    KVM_REQUIRE(machine.vm, cap::DirtyLogRingAcqRel);
  }
};

/// What a harvest has of one slot, in order and without repetitions.
std::vector<std::uint64_t> harvest(DirtyRing& ring, SlotId slot) {
  std::vector<std::uint64_t> result;
  Pages seen;
  const auto count = ring.try_harvest([&](SlotId of, std::uint64_t number) {
    if (of == slot && seen.insert(number).second) {
      result.push_back(number);
    }
  });
  EXPECT_TRUE(count) << count.error().what();
  return result;
}
Pages to_set(const std::vector<std::uint64_t>& numbers) { return {numbers.begin(), numbers.end()}; }

TEST_F(DirtyRings, HaveWhatTheGuestWroteInOrder) {
  Ringed machine(1024);
  Writer writer(machine);
  DirtyRing ring(writer.vcpu);
  EXPECT_EQ(ring.capacity(), 1024u);
  EXPECT_EQ(ring.vcpu(), writer.vcpu.id());
  for (int round = 0; round < 20; ++round) {  // Around the ring more than once.
    writer.write(logged_at + 200 * page, 100);
    writer.write(logged_at + 10 * page, 5);
    const auto numbers = harvest(ring, machine.slot->id());
    ASSERT_GE(numbers.size(), 105u) << round;
    Pages wanted = range(200, 100);
    wanted.merge(range(10, 5));
    EXPECT_EQ(missing(to_set(numbers), wanted), Pages());
    for (std::uint64_t i = 0; i < 100; ++i) {
      EXPECT_EQ(numbers[i], 200 + i);
    }
    EXPECT_EQ(harvest(ring, machine.slot->id()).size(), 0u);
  }
}

TEST_F(DirtyRings, FullExitsAreServedByAHarvest) {
  Ringed machine(few);
  Writer writer(machine);
  DirtyRing ring(writer.vcpu);
  for (int round = 0; round < 3; ++round) {
    Pages seen;
    int full = 0;
    const auto take = [&] {
      for (const std::uint64_t number : harvest(ring, machine.slot->id())) {
        seen.insert(number);
      }
    };
    writer.write(logged_at, 2 * few + 90, [&] {
      ++full;
      take();
    });
    take();
    EXPECT_GE(full, 2);
    EXPECT_EQ(missing(seen, range(0, 2 * few + 90)), Pages());
  }
}

// What is read in the harvest has the write: the pages were protected again first.
TEST_F(DirtyRings, PagesAreCleanBeforeTheyAreHandedOver) {
  Ringed machine(1024);
  Writer writer(machine);
  DirtyRing ring(writer.vcpu);
  writer.write(logged_at + 3 * page, 1);
  bool wrote = false;
  ring.harvest([&](SlotId of, std::uint64_t number) {
    if (of == machine.slot->id() && number == 3 && !wrote) {
      writer.write(logged_at + 3 * page, 1);
      wrote = true;
    }
  });
  ASSERT_TRUE(wrote);
  EXPECT_EQ(missing(to_set(harvest(ring, machine.slot->id())), {3}), Pages());
}

TEST_F(DirtyRings, WhatIsDeclinedIsOfferedFirst) {
  Ringed machine(1024);
  Writer writer(machine);
  std::optional<DirtyRing> ring(writer.vcpu);
  const SlotId slot = machine.slot->id();
  harvest(*ring, slot);
  writer.write(logged_at, 50);
  std::vector<std::uint64_t> numbers;
  const auto some = [&](std::size_t limit) {
    return [&, limit](SlotId of, std::uint64_t number) {
      if (of == slot) {
        if (numbers.size() == limit) {
          return false;
        }
        numbers.push_back(number);
      }
      return true;
    };
  };
  EXPECT_GE(ring->harvest(some(10)), 10u);
  writer.write(logged_at + 100 * page, 50);
  ring->harvest(some(20));
  ASSERT_EQ(numbers.size(), 20u);
  // The next object goes on where this one ended.
  ring.reset();
  ring.emplace(writer.vcpu);
  ring->harvest(some(10'000));
  EXPECT_EQ(missing(to_set(numbers), range(0, 50)), Pages());
  EXPECT_EQ(missing(to_set(numbers), range(100, 50)), Pages());
  for (std::uint64_t i = 0; i < 50; ++i) {
    EXPECT_EQ(numbers[i], i);
  }
  EXPECT_EQ(harvest(*ring, slot).size(), 0u);
}

TEST_F(DirtyRings, DecliningKeepsTheRingFull) {
  Ringed machine(few);
  Writer writer(machine);
  DirtyRing ring(writer.vcpu);
  Pages seen;
  int full = 0;
  const auto take = [&](SlotId of, std::uint64_t number) {
    if (of == machine.slot->id()) {
      seen.insert(number);
    }
  };
  writer.write(logged_at, 4 * few - 20, [&] {
    if (++full % 3 == 0) {
      ring.harvest(take);
    } else {
      ring.harvest([](SlotId, std::uint64_t) { return false; });
    }
  });
  ring.harvest(take);
  ring.harvest(take);
  EXPECT_EQ(missing(seen, range(0, 4 * few - 20)), Pages());
}

// Its entries would name the new slot.
TEST_F(DirtyRings, ADeletedSlotsNumberWaits) {
  Ringed machine(1024);
  Writer writer(machine);
  DirtyRing ring(writer.vcpu);
  const SlotId old = machine.slot->id();
  writer.write(logged_at + 1000 * page, 20);
  static_cast<void>(machine.slot->remove());
  std::optional<kvm::MemorySlot> small(
      machine.vm.add_memory(Gpa(logged_at), kvm::Mapping::anonymous(page), {.log_dirty = true}));
  EXPECT_NE(small->id(), old);
  // Not even while they are being handed over.
  std::size_t named = 0;
  ring.harvest([&](SlotId of, std::uint64_t number) {
    if (of == old && ++named == 1) {
      EXPECT_GE(number, 1000u);
      const auto other = machine.vm.add_memory(Gpa(logged_at + 0x1000000),
                                               kvm::Mapping::anonymous(page), {.log_dirty = true});
      EXPECT_NE(other.id(), old);
    }
    return named < 5;  // Some are left.
  });
  EXPECT_EQ(named, 5u);
  {
    const auto other =
        machine.vm.add_memory(Gpa(logged_at + 0x1000000), kvm::Mapping::anonymous(page));
    EXPECT_NE(other.id(), old);
  }
  harvest(ring, old);
  const auto other =
      machine.vm.add_memory(Gpa(logged_at + 0x1000000), kvm::Mapping::anonymous(page));
  EXPECT_EQ(other.id(), old);
}

TEST_F(DirtyRings, ARingThatIsNotHarvestedKeepsNumbersWaiting) {
  Ringed machine(1024);
  Writer first(machine, 0);
  Writer second(machine, 1);
  DirtyRing ring(first.vcpu);
  const SlotId old = machine.slot->id();
  second.write(logged_at, 3);
  static_cast<void>(machine.slot->remove());
  harvest(ring, old);
  std::optional<kvm::MemorySlot> slot(
      machine.vm.add_memory(Gpa(logged_at), kvm::Mapping::anonymous(page)));
  EXPECT_NE(slot->id(), old);
  DirtyRing other(second.vcpu);
  EXPECT_EQ(missing(to_set(harvest(other, old)), {0, 1, 2}), Pages());
  const auto next =
      machine.vm.add_memory(Gpa(logged_at + 0x1000000), kvm::Mapping::anonymous(page));
  EXPECT_EQ(next.id(), old);
}

TEST_F(DirtyRings, AreIndependentOfEachOther) {
  Ringed machine(1024);
  Writer first(machine, 0);
  Writer second(machine, 1);
  DirtyRing ring(first.vcpu);
  DirtyRing other(second.vcpu);
  const SlotId slot = machine.slot->id();
  first.write(logged_at + 10 * page, 5);
  second.write(logged_at + 20 * page, 5);
  const Pages mine = to_set(harvest(ring, slot));
  EXPECT_EQ(missing(mine, range(10, 5)), Pages());
  EXPECT_FALSE(mine.contains(22));
  second.write(logged_at + 30 * page, 5);
  Pages wanted = range(20, 5);
  wanted.merge(range(30, 5));
  EXPECT_EQ(missing(to_set(harvest(other, slot)), wanted), Pages());
}

TEST_F(DirtyRings, OutliveTheirVcpu) {
  Ringed machine(1024);
  std::optional<Writer> writer(machine);
  std::optional<DirtyRing> ring(writer->vcpu);
  writer->write(logged_at + 10 * page, 5);
  writer.reset();
  EXPECT_EQ(missing(to_set(harvest(*ring, machine.slot->id())), range(10, 5)), Pages());
  EXPECT_EQ(harvest(*ring, machine.slot->id()).size(), 0u);
}

TEST_F(DirtyRings, OnlyOnePerVcpu) {
  Ringed machine(few);
  Writer writer(machine);
  DirtyRing ring(writer.vcpu);
  expect_error(DirtyRing::try_open(writer.vcpu), EBUSY, {"vcpu=0", "another DirtyRing"});
  expect_error(machine.vm.try_track_dirty(kvm::DirtyMode::ring), EBUSY, {"DirtyRing"});
  DirtyRing moved = std::move(ring);
  expect_error(DirtyRing::try_open(writer.vcpu), EBUSY, {});
  expect_error(ring.try_harvest([](SlotId, std::uint64_t) {}), EBADF, {"moved from"});
  { const DirtyRing gone = std::move(moved); }
  {
    const auto tracker = machine.vm.try_track_dirty(kvm::DirtyMode::ring);
    ASSERT_TRUE(tracker) << tracker.error().what();
    expect_error(DirtyRing::try_open(writer.vcpu), EBUSY, {"DirtyTracker"});
  }
  EXPECT_TRUE(DirtyRing::try_open(writer.vcpu));
}

TEST_F(DirtyRings, AreEnabledFirst) {
  Machine machine;
  const kvm::Vcpu vcpu = machine.vm.create_vcpu(0);
  expect_error(DirtyRing::try_open(vcpu), ENXIO, {"before the first vCPU"});
  // (On arm64 it has memory too early as well.)
  expect_error(machine.vm.try_track_dirty(kvm::DirtyMode::ring), EINVAL, {"before the first"});
}

TEST_F(DirtyRings, AreNotHarvestedWithinThemselves) {
  Ringed machine(few);
  Writer writer(machine);
  DirtyRing ring(writer.vcpu);
  writer.write(logged_at, 1);
  int calls = 0;
  ring.harvest([&](SlotId, std::uint64_t) {
    if (++calls == 1) {
      expect_error(ring.try_harvest([](SlotId, std::uint64_t) {}), EDEADLK, {"from within"});
    }
  });
  EXPECT_GE(calls, 1);
}

// A function that waits for another vCPU does not keep that one's ring from being served.
TEST_F(DirtyRings, AFullRingIsServedWhileAnotherIsHandedOver) {
  Ringed machine(few);
  Writer first(machine, 0);
  Writer second(machine, 1);
  DirtyRing ring(first.vcpu);
  DirtyRing other(second.vcpu);
  first.write(logged_at, 3);
  std::atomic<int> full{0};
  Pages seen;
  bool waited = false;
  ring.harvest([&](SlotId, std::uint64_t) {
    if (std::exchange(waited, true)) {
      return;
    }
    std::thread([&] {
      const auto take = [&] {
        for (const std::uint64_t number : harvest(other, machine.slot->id())) {
          seen.insert(number);
        }
      };
      second.write(logged_at + 100 * page, 2 * few + 90, [&] {
        ++full;
        take();
      });
      take();
    }).join();
  });
  EXPECT_TRUE(waited);
  EXPECT_GE(full, 2);
  EXPECT_EQ(missing(seen, range(100, 2 * few + 90)), Pages());
}

// Signals cut KVM_RESET_DIRTY_RINGS short.
TEST_F(DirtyRings, SignalsDoNotDisturbAHarvest) {
  Ringed machine(65536);
  Writer writer(machine);
  DirtyRing ring(writer.vcpu);
  const kvm_test::Handler handler(SIGUSR1);
  std::atomic<bool> end{false};
  const pthread_t target = pthread_self();
  std::thread signals([&] {
    while (!end) {
      pthread_kill(target, SIGUSR1);
      std::this_thread::sleep_for(std::chrono::microseconds(50));  // The guest must get on.
    }
  });
  for (int round = 0; round < 20; ++round) {
    writer.write(logged_at, pages);
    EXPECT_EQ(missing(to_set(harvest(ring, machine.slot->id())), range(0, pages)), Pages());
    EXPECT_EQ(harvest(ring, machine.slot->id()).size(), 0u);
  }
  end = true;
  signals.join();
}

TEST_F(DirtyRings, AreRefusedInAChild) {
  if (kvm_test::thread_sanitizer) {
    GTEST_SKIP() << "thread sanitizer does not go with fork";
  }
  Ringed machine(few);
  Writer writer(machine);
  DirtyRing ring(writer.vcpu);
  writer.write(logged_at, 1);
  EXPECT_EQ(kvm_test::in_child([&]() -> std::string {
              const auto count = ring.try_harvest([](SlotId, std::uint64_t) {});
              if (count || count.error().error_number() != EIO) {
                return "harvested";
              }
              const auto opened = DirtyRing::try_open(writer.vcpu);
              return opened || opened.error().error_number() != EIO ? "opened" : "";
            }),
            "");
  EXPECT_TRUE(to_set(harvest(ring, machine.slot->id())).contains(0));
}

}  // namespace
