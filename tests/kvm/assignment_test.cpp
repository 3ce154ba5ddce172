// SPDX-License-Identifier: MIT
// What a handle had is given back when another is assigned to it, and what the other had goes on.
#include <kvm/kvm.hpp>

#include <gtest/gtest.h>

#include <cerrno>
#include <cstdint>
#include <utility>

#include "support/dirty_guest.hpp"
#include "support/require.hpp"

namespace {

namespace cap = kvm::cap;
using kvm::Gpa;
using kvm_test::logged_at;
using kvm_test::Machine;
using kvm_test::page;
using kvm_test::Pages;
using kvm_test::range;
using kvm_test::Writer;

constexpr std::uint64_t second_at = logged_at + 0x1000000;

struct Logged : Machine {
  kvm::MemorySlot first =
      vm.add_memory(Gpa(logged_at), kvm::Mapping::anonymous(8 * page), {.log_dirty = true});
  kvm::MemorySlot second =
      vm.add_memory(Gpa(second_at), kvm::Mapping::anonymous(8 * page), {.log_dirty = true});
};

TEST(Assignment, OfADirtyLog) {
  Logged machine;
  kvm::DirtyLog log(machine.first);
  kvm::DirtyLog other(machine.second);
  EXPECT_EQ(kvm::DirtyLog::try_open(machine.first).error().error_number(), EBUSY);
  log.harvest([](kvm::GfnRange) {});
  other.harvest([](kvm::GfnRange) {});
  ASSERT_TRUE(machine.vm.memory().view().write<std::uint8_t>(Gpa(second_at + 3 * page), 1));

  log = std::move(other);
  Pages dirty;
  log.harvest([&](kvm::GfnRange gfns) { kvm_test::insert(dirty, gfns.first, gfns.count); });
  EXPECT_EQ(dirty, range(second_at / page + 3, 1));
  EXPECT_TRUE(kvm::DirtyLog::try_open(machine.first)) << "the first slot's log is free again";
  EXPECT_EQ(kvm::DirtyLog::try_open(machine.second).error().error_number(), EBUSY);
}

TEST(Assignment, OfADirtyRing) {
  Machine machine([](kvm::Vm& vm) {
    if (kvm_test::offers<cap::DirtyLogRingAcqRel>(vm)) {
      vm.enable(cap::DirtyLogRingAcqRel{.bytes = 65536});
    }
  });
  KVM_REQUIRE(machine.vm, cap::DirtyLogRingAcqRel);
  const kvm::MemorySlot slot =
      machine.vm.add_memory(Gpa(logged_at), kvm::Mapping::anonymous(8 * page), {.log_dirty = true});
  Writer writer(machine);
  const kvm::Vcpu idle = machine.vm.create_vcpu(1);
  kvm::DirtyRing ring(idle);
  kvm::DirtyRing other(writer.vcpu);
  writer.write(logged_at + 2 * page, 3);

  ring = std::move(other);
  Pages dirty;
  ring.harvest([&](kvm::SlotId id, std::uint64_t number) {
    if (id == slot.id()) {
      dirty.insert(number);
    }
  });
  EXPECT_EQ(kvm_test::missing(dirty, range(2, 3)), Pages());
  EXPECT_TRUE(kvm::DirtyRing::try_open(idle)) << "the idle vCPU's ring is free again";
  EXPECT_EQ(kvm::DirtyRing::try_open(writer.vcpu).error().error_number(), EBUSY);
}

TEST(Assignment, OfADirtySubscription) {
  Logged machine;
  kvm::DirtyTracker tracker = machine.vm.track_dirty(kvm::DirtyMode::log);
  kvm::DirtySubscription subscription = tracker.subscribe();
  kvm::DirtySubscription other = tracker.subscribe({.slot = &machine.second});
  subscription.harvest([](const kvm::DirtyPages&) {});
  other.harvest([](const kvm::DirtyPages&) {});
  auto view = machine.vm.memory().view();
  ASSERT_TRUE(view.write<std::uint8_t>(Gpa(logged_at), 1));
  ASSERT_TRUE(view.write<std::uint8_t>(Gpa(second_at + page), 1));

  subscription = std::move(other);
  Pages dirty;
  subscription.harvest([&](const kvm::DirtyPages& pages) {
    EXPECT_EQ(pages.slot, machine.second.id());
    kvm_test::insert(dirty, pages.pages.first, pages.pages.count);
  });
  EXPECT_EQ(dirty, range(1, 1));
}

TEST(Assignment, OfADirtyTracker) {
  Machine machine;
  Machine elsewhere;
  kvm::DirtyTracker tracker = machine.vm.track_dirty(kvm::DirtyMode::log);
  EXPECT_EQ(machine.vm.try_track_dirty(kvm::DirtyMode::log).error().error_number(), EBUSY);
  tracker = elsewhere.vm.track_dirty(kvm::DirtyMode::log);
  EXPECT_TRUE(machine.vm.try_track_dirty(kvm::DirtyMode::log));
  EXPECT_EQ(elsewhere.vm.try_track_dirty(kvm::DirtyMode::log).error().error_number(), EBUSY);
}

TEST(Assignment, OfADevice) {
  Machine machine;
  Machine elsewhere;
  kvm::Device device = machine.vm.create_device(kvm::DeviceType::vfio);
  // A VM has one of these at most.
  EXPECT_FALSE(machine.vm.try_create_device(kvm::DeviceType::vfio));
  device = elsewhere.vm.create_device(kvm::DeviceType::vfio);
  EXPECT_FALSE(elsewhere.vm.try_create_device(kvm::DeviceType::vfio));
  EXPECT_GE(device.fd(), 0);
}

TEST(Assignment, OfACoalescedRing) {
  Machine machine;
  Machine elsewhere;
  KVM_REQUIRE(machine.vm, cap::CoalescedMmio);
  const kvm::Vcpu vcpu = machine.vm.create_vcpu(0);
  const kvm::Vcpu other_vcpu = elsewhere.vm.create_vcpu(0);
  kvm::CoalescedRing ring = machine.vm.create_coalesced_ring(vcpu);
  kvm::CoalescedZone zone = ring.create_zone(kvm::CoalescedRange::mmio(Gpa{0x40000000}, 8));
  ring = elsewhere.vm.create_coalesced_ring(other_vcpu);
  EXPECT_TRUE(machine.vm.try_create_coalesced_ring(vcpu)) << "the first VM's ring is free again";
  EXPECT_EQ(elsewhere.vm.try_create_coalesced_ring(other_vcpu).error().error_number(), EBUSY);
  kvm::CoalescedZone second = ring.create_zone(kvm::CoalescedRange::mmio(Gpa{0x40000000}, 8));
  second.unregister();
  EXPECT_TRUE(ring.try_create_zone(kvm::CoalescedRange::mmio(Gpa{0x40000000}, 8)));
}

}  // namespace
