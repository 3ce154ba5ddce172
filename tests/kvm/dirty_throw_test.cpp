// SPDX-License-Identifier: MIT
// needs: exceptions
// What a function throws in the middle of a harvest: what it was about to take stays.
#include <kvm/kvm.hpp>

#include <gtest/gtest.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "support/dirty_guest.hpp"
#include "support/require.hpp"

namespace {

namespace cap = kvm::cap;
using kvm::Gpa;
using kvm_test::insert;
using kvm_test::logged_at;
using kvm_test::Machine;
using kvm_test::missing;
using kvm_test::page;
using kvm_test::Pages;
using kvm_test::Writer;

struct Thrown {};

constexpr std::uint64_t pages = 131;
const Pages wanted = {1, 40, 41, 100, 130};

kvm::MemorySlot add(Machine& machine) {
  return machine.vm.add_memory(Gpa(logged_at), kvm::Mapping::anonymous(pages * page),
                               {.log_dirty = true});
}
void write(Writer& writer, const kvm::MemorySlot& slot) {
  writer.write(logged_at + 1 * page, 1);
  writer.write(logged_at + 40 * page, 2);
  writer.write(logged_at + 130 * page, 1);
  ASSERT_TRUE(slot.load(Gpa(logged_at + 100 * page), std::array<std::byte, 1>{}));
}

TEST(ThrowingHarvest, OfALog) {
  KVM_REQUIRE(Machine().vm, cap::ManualDirtyLogProtect2);
  for (const bool manual : {false, true}) {
    Machine machine;
    machine.vm.enable(cap::ManualDirtyLogProtect2{.enabled = manual});
    const kvm::MemorySlot slot = add(machine);
    Writer writer(machine);
    kvm::DirtyLog log(slot, {.clear_pages = 64});
    write(writer, slot);
    Pages seen;
    int calls = 0;
    const auto take = [&](kvm::GfnRange run) {
      if (++calls % 2 == 0) {
        throw Thrown();
      }
      insert(seen, run.first - logged_at / page, run.count);
    };
    EXPECT_THROW(log.harvest(take), Thrown);
    EXPECT_EQ(missing(seen, {1}), Pages());
    EXPECT_THROW(log.harvest(take), Thrown);
    while (missing(seen, wanted) != Pages()) {
      ASSERT_LT(calls, 20);
      EXPECT_NO_THROW(log.harvest([&](kvm::GfnRange run) {
        calls = 0;
        take(run);
      }));
    }
    EXPECT_EQ(log.harvest([](kvm::GfnRange) {}), 0u);
  }
}

TEST(ThrowingHarvest, OfARing) {
  Machine machine;
  KVM_REQUIRE(machine.vm, cap::DirtyLogRingAcqRel);
  machine.vm.enable(cap::DirtyLogRingAcqRel{});
  const kvm::MemorySlot slot = add(machine);
  Writer writer(machine);
  kvm::DirtyRing ring(writer.vcpu);
  writer.write(logged_at, 20);
  Pages seen;
  const auto take = [&](kvm::SlotId id, std::uint64_t number) {
    if (id == slot.id()) {
      if (seen.size() == 5 && !seen.contains(number)) {
        throw Thrown();
      }
      seen.insert(number);
    }
  };
  EXPECT_THROW(ring.harvest(take), Thrown);
  EXPECT_EQ(seen.size(), 5u);
  EXPECT_THROW(ring.harvest(take), Thrown);
  seen.erase(0);
  ring.harvest([&](kvm::SlotId id, std::uint64_t number) {
    if (id == slot.id()) {
      seen.insert(number);
    }
  });
  EXPECT_EQ(missing(seen, kvm_test::range(1, 19)), Pages());
}

TEST(ThrowingHarvest, OfASubscription) {
  Machine machine;
  kvm::DirtyTracker tracker = machine.vm.track_dirty();
  const kvm::MemorySlot slot = add(machine);
  Writer writer(machine);
  kvm::DirtySubscription subscription = tracker.subscribe();
  subscription.harvest([](const kvm::DirtyPages&) {});
  write(writer, slot);
  Pages seen;
  int calls = 0;
  EXPECT_THROW(subscription.harvest([&](const kvm::DirtyPages& dirty) {
    if (++calls == 2) {
      throw Thrown();
    }
    insert(seen, dirty.pages.first, dirty.pages.count);
  }),
               Thrown);
  EXPECT_EQ(calls, 2);
  subscription.harvest(
      [&](const kvm::DirtyPages& dirty) { insert(seen, dirty.pages.first, dirty.pages.count); });
  EXPECT_EQ(missing(seen, wanted), Pages());
  EXPECT_EQ(subscription.harvest([](const kvm::DirtyPages&) {}).pages, 0u);
}

TEST(ThrowingHarvest, FailuresThrow) {
  Machine machine;
  EXPECT_THROW(static_cast<void>(kvm::DirtyRing(machine.vm.create_vcpu(0))), kvm::Error);
  kvm::DirtyLog log(machine.ram);
  EXPECT_THROW(log.harvest([](kvm::GfnRange) {}), kvm::Error);
  kvm::DirtyBitmap small(1);
  EXPECT_THROW(log.get(small), kvm::Error);
  EXPECT_THROW(log.clear(small, 0, 1), kvm::Error);
  EXPECT_THROW(static_cast<void>(kvm::DirtyLog(machine.ram)), kvm::Error);
  kvm::DirtyTracker tracker = machine.vm.track_dirty();
  EXPECT_THROW(static_cast<void>(machine.vm.track_dirty()), kvm::Error);
  const kvm::DirtyTracker moved = std::move(tracker);
  EXPECT_THROW(static_cast<void>(tracker.subscribe()), kvm::Error);
  EXPECT_THROW(tracker.collect(), kvm::Error);
  EXPECT_THROW(tracker.log_all(true), kvm::Error);
}

}  // namespace
