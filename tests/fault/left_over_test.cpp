// SPDX-License-Identifier: MIT
// Dirty pages that wait somewhere when what took them fails, ends, or has another after it.
#include "driver.hpp"

#include <support/dirty_guest.hpp>
#include <support/require.hpp>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <sys/syscall.h>

namespace {

namespace cap = kvm::cap;
namespace request = kvm::uapi::request;
using fault::Call;
using fault::FaultTest;
using fault::Function;
using fault::Rule;
using kvm::DirtyMode;
using kvm::Gpa;
using kvm_test::insert;
using kvm_test::logged_at;
using kvm_test::Machine;
using kvm_test::missing;
using kvm_test::page;
using kvm_test::Pages;
using kvm_test::range;
using kvm_test::Writer;

class LeftOver : public FaultTest {};

Rule ioctl_fails(unsigned long code, int error_number) {
  return {.matches = [=](const Call& call, std::size_t) { return call.is_ioctl(code); },
          .error_number = error_number};
}
Rule ioctl_succeeds(unsigned long code) {
  return {.matches = [=](const Call& call, std::size_t) { return call.is_ioctl(code); },
          .times = 1000};
}
bool is_membarrier(const Call& call, std::size_t = 0) {
  return call.function == Function::syscall && call.detail == SYS_membarrier;
}

kvm::MemorySlot add(Machine& machine) {
  return machine.vm.add_memory(Gpa(logged_at), kvm::Mapping::anonymous(8 * page),
                               {.log_dirty = true});
}
void write(Machine& machine, std::uint64_t number) {
  ASSERT_TRUE(machine.vm.memory().view().write<std::uint8_t>(Gpa(logged_at + number * page), 1));
}
void enable_rings(kvm::Vm& vm) {
  if (kvm_test::offers<cap::DirtyLogRingAcqRel>(vm)) {
    vm.enable(cap::DirtyLogRingAcqRel{.bytes = 65536});
  }
}

/// Page numbers in the slot.
Pages harvest(kvm::DirtyLog& log) {
  Pages pages;
  log.harvest([&](kvm::GfnRange run) { insert(pages, run.first - logged_at / page, run.count); });
  return pages;
}
Pages harvest(kvm::DirtySubscription& subscription) {
  Pages pages;
  subscription.harvest(
      [&](const kvm::DirtyPages& run) { insert(pages, run.pages.first, run.pages.count); });
  return pages;
}
Pages harvest(kvm::DirtyRing& ring, kvm::SlotId slot) {
  Pages pages;
  ring.harvest([&](kvm::SlotId id, std::uint64_t number) {
    if (id == slot) {
      pages.insert(number);
    }
  });
  return pages;
}

TEST_F(LeftOver, BySubscribersThatCameToNothing) {
  Machine machine;
  const kvm::MemorySlot slot = add(machine);
  kvm::DirtyTracker tracker = machine.vm.track_dirty(DirtyMode::log);
  kvm::DirtySubscription first = tracker.subscribe();
  EXPECT_EQ(harvest(first), range(0, 8));
  write(machine, 3);
  fault::arm({ioctl_fails(request::get_dirty_log.code, ENOMEM)});
  const auto refused = tracker.try_subscribe({.all_pending = false});
  fault::disarm();
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().error_number(), ENOMEM);
  EXPECT_STREQ(refused.error().operation(), "KVM_GET_DIRTY_LOG");
  auto second = tracker.try_subscribe({.all_pending = false});
  ASSERT_TRUE(second) << second.error().what();
  EXPECT_EQ(harvest(*second), Pages());
  EXPECT_EQ(harvest(first), range(3, 1));
}

TEST_F(LeftOver, ByATrackerThatEndsAfterAFailure) {
  Machine machine;
  const kvm::MemorySlot slot = add(machine);
  {
    kvm::DirtyTracker tracker = machine.vm.track_dirty(DirtyMode::log);
    kvm::DirtySubscription subscription = tracker.subscribe();
    EXPECT_EQ(harvest(subscription), range(0, 8));
    write(machine, 3);
    fault::arm({ioctl_fails(request::get_dirty_log.code, EIO)});
    const auto failed = subscription.try_harvest([](const kvm::DirtyPages&) {});
    fault::disarm();
    ASSERT_FALSE(failed);
  }
  kvm::DirtyLog log(slot);
  EXPECT_EQ(harvest(log), range(3, 1));
}

// Who marks orders that itself there, so a harvest asks no more for it.
TEST_F(LeftOver, WithoutMembarrier) {
  fault::arm({{.matches = is_membarrier, .error_number = ENOSYS, .times = 1000}});
  Machine machine;
  fault::disarm();
  ASSERT_GE(fault::injected(), 1u);
  const kvm::MemorySlot slot = add(machine);
  const auto is_asked = [](const std::vector<Call>& calls) {
    return std::any_of(calls.begin(), calls.end(),
                       [](const Call& call) { return is_membarrier(call); });
  };
  {
    kvm::DirtyLog log(slot);
    EXPECT_EQ(harvest(log), Pages());
    write(machine, 2);
    fault::arm();
    EXPECT_EQ(harvest(log), range(2, 1));
    EXPECT_FALSE(is_asked(fault::disarm()));
  }
  kvm::DirtyTracker tracker = machine.vm.track_dirty(DirtyMode::log);
  kvm::DirtySubscription subscription = tracker.subscribe({.all_pending = false});
  write(machine, 5);
  fault::arm();
  EXPECT_EQ(harvest(subscription), range(5, 1));
  EXPECT_FALSE(is_asked(fault::disarm()));
}

TEST_F(LeftOver, OfARingGoesToTheTracker) {
  Machine machine(enable_rings);
  KVM_REQUIRE(machine.vm, cap::DirtyLogRingAcqRel);
  const kvm::MemorySlot slot = add(machine);
  Writer writer(machine);
  writer.write(logged_at + 2 * page, 3);
  {
    kvm::DirtyRing ring(writer.vcpu);
    EXPECT_EQ(ring.harvest([](kvm::SlotId, std::uint64_t) { return false; }), 0u);
  }
  {
    kvm::DirtyTracker tracker = machine.vm.track_dirty(DirtyMode::ring);
    kvm::DirtySubscription subscription = tracker.subscribe({.all_pending = false});
    EXPECT_EQ(harvest(subscription), Pages()) << "that was before it subscribed";
    writer.write(logged_at + 6 * page, 1);
    EXPECT_EQ(missing(harvest(subscription), range(6, 1)), Pages());
  }
  kvm::DirtyRing ring(writer.vcpu);
  EXPECT_EQ(harvest(ring, slot.id()), Pages()) << "the tracker took them";
}

// A tracker takes all rings' entries, those for slots that are not its own too.
TEST_F(LeftOver, OfASlotThatADirtyLogHas) {
  Machine machine;
  KVM_REQUIRE(machine.vm, cap::DirtyLogRingAcqRel);
  const kvm::MemorySlot slot = add(machine);
  kvm::DirtyLog log(slot);
  enable_rings(machine.vm);
  Writer writer(machine);
  // KVM has no log beside the rings here; on arm64 hosts it has, and there it is empty as well.
  const auto harvest_log = [&] {
    fault::arm({ioctl_succeeds(request::get_dirty_log.code)});
    const Pages pages = harvest(log);
    fault::disarm();
    return pages;
  };
  EXPECT_EQ(harvest_log(), Pages());
  kvm::DirtyTracker tracker = machine.vm.track_dirty(DirtyMode::ring);
  kvm::DirtySubscription subscription = tracker.subscribe();
  writer.write(logged_at + 2 * page, 3);
  Pages taken;
  const auto harvested = subscription.try_harvest([&](const kvm::DirtyPages& run) {
    if (run.slot == slot.id()) {
      insert(taken, run.pages.first, run.pages.count);
    }
  });
  ASSERT_TRUE(harvested) << harvested.error().what();
  EXPECT_GE(harvested->untracked, 1u);
  EXPECT_EQ(taken, Pages());
  EXPECT_EQ(harvest_log(), range(2, 3));
}

// Signals are held back while KVM resets the rings; where that is refused, it does not begin.
TEST_F(LeftOver, OfARingWhoseResetIsRefused) {
  Machine machine(enable_rings);
  KVM_REQUIRE(machine.vm, cap::DirtyLogRingAcqRel);
  const kvm::MemorySlot slot = add(machine);
  Writer writer(machine);
  kvm::DirtyRing ring(writer.vcpu);
  writer.write(logged_at + 2 * page, 3);
  fault::arm({{.matches = [](const Call& call,
                             std::size_t) { return call.function == Function::pthread_sigmask; },
               .error_number = EINVAL}});
  const auto failed = ring.try_harvest([](kvm::SlotId, std::uint64_t) {});
  const std::vector<Call> calls = fault::disarm();
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().error_number(), EINVAL);
  EXPECT_TRUE(std::none_of(calls.begin(), calls.end(), [](const Call& call) {
    return call.is_ioctl(request::reset_dirty_rings.code);
  }));
  EXPECT_EQ(missing(harvest(ring, slot.id()), range(2, 3)), Pages());
}

// KVM refuses rings once there are vCPUs. One that did not would have some without.
TEST_F(LeftOver, NothingByAVcpuWithoutARing) {
  Machine machine;
  const kvm::Vcpu vcpu = machine.vm.create_vcpu(0);
  fault::arm({ioctl_succeeds(request::enable_cap.code)});
  const auto enabled = machine.vm.try_enable(cap::DirtyLogRingAcqRel{.bytes = 65536});
  fault::disarm();
  ASSERT_TRUE(enabled) << enabled.error().what();
  const auto ring = kvm::DirtyRing::try_open(vcpu);
  ASSERT_FALSE(ring);
  EXPECT_EQ(ring.error().error_number(), ENXIO);
  EXPECT_NE(std::string(ring.error().what()).find("was not mapped"), std::string::npos)
      << ring.error().what();
}

}  // namespace
