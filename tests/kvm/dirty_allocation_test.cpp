// SPDX-License-Identifier: MIT
// Harvests allocate nothing.
#include <kvm/kvm.hpp>

#include <gtest/gtest.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "support/allocations.hpp"
#include "support/dirty_guest.hpp"
#include "support/require.hpp"

namespace {

namespace cap = kvm::cap;
using kvm::Gpa;
using kvm_test::allocations;
using kvm_test::logged_at;
using kvm_test::Machine;
using kvm_test::page;
using kvm_test::Writer;

constexpr std::uint64_t pages = 1000;

/// How often a harvest of what guest and VMM wrote allocates.
template <class Harvest>
std::size_t count(Machine& machine, const kvm::MemorySlot& slot, Harvest harvest) {
  Writer writer(machine);
  std::size_t result = 0;
  for (int round = 0; round < 3; ++round) {
    for (std::uint64_t number = 0; number < pages; number += 50) {
      writer.write(slot.gpa().value + number * page, 3);
      EXPECT_TRUE(slot.load(slot.gpa() + (number + 9) * page, std::array<std::byte, 1>{}));
    }
    const std::size_t before = allocations;
    harvest(writer);
    if (round != 0) {
      result += allocations - before;
    }
  }
  return result;
}

kvm::MemorySlot add(Machine& machine) {
  return machine.vm.add_memory(Gpa(logged_at), kvm::Mapping::anonymous(pages * page),
                               {.log_dirty = true});
}

TEST(HarvestAllocation, OfALog) {
  for (const bool manual : {false, true}) {
    Machine machine;
    KVM_REQUIRE(machine.vm, cap::ManualDirtyLogProtect2);
    machine.vm.enable(cap::ManualDirtyLogProtect2{.enabled = manual});
    const kvm::MemorySlot slot = add(machine);
    kvm::DirtyLog log(slot, {.clear_pages = 256});
    std::uint64_t taken = 0;
    EXPECT_EQ(count(machine, slot,
                    [&](Writer&) { taken += log.harvest([](kvm::GfnRange) { return true; }); }),
              0u);
    EXPECT_GE(taken, 3 * 80u);
  }
}

TEST(HarvestAllocation, OfARing) {
  Machine machine;
  KVM_REQUIRE(machine.vm, cap::DirtyLogRingAcqRel);
  machine.vm.enable(cap::DirtyLogRingAcqRel{});
  const kvm::MemorySlot slot = add(machine);
  std::optional<kvm::DirtyRing> ring;
  std::uint64_t taken = 0;
  EXPECT_EQ(count(machine, slot,
                  [&](Writer& writer) {
                    if (!ring) {
                      ring.emplace(writer.vcpu);
                    }
                    taken += ring->harvest([](kvm::SlotId, std::uint64_t) {});
                  }),
            0u);
  EXPECT_GE(taken, 3 * 60u);
}

TEST(HarvestAllocation, OfASubscription) {
  for (const auto mode : {kvm::DirtyMode::automatic, kvm::DirtyMode::ring}) {
    KVM_REQUIRE(kvm::System().create_vm(), cap::DirtyLogRingAcqRel);
    std::optional<kvm::DirtyTracker> tracker;
    Machine machine([&](kvm::Vm& fresh) { tracker.emplace(fresh.track_dirty(mode)); });
    const kvm::MemorySlot slot = add(machine);
    const kvm::MemorySlot alias = machine.vm.add_memory(
        Gpa(logged_at + 0x1000000), slot.mapping().share(), {.log_dirty = true});
    kvm::DirtySubscription subscription = tracker->subscribe();
    kvm::DirtySubscription other = tracker->subscribe({.slot = &alias});
    std::uint64_t taken = 0;
    EXPECT_EQ(count(machine, slot,
                    [&](Writer&) {
                      taken += subscription.harvest([](const kvm::DirtyPages&) {}).pages;
                      taken += other.harvest([](const kvm::DirtyPages&) {}).pages;
                    }),
              0u);
    EXPECT_GE(taken, 2 * 3 * 80u);
  }
}

}  // namespace
