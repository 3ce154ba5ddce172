// SPDX-License-Identifier: MIT
// Whatever call fails while dirty pages are harvested: none of them is lost.
#include "driver.hpp"

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "support/dirty_guest.hpp"
#include "support/require.hpp"

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
using kvm_test::Writer;

class DirtyFaults : public FaultTest {};

constexpr std::uint64_t pages = 64 * 3 + 3;
const Pages wanted = {2, 3, 70, 100, 194};
constexpr int errnos[] = {EIO, EFAULT, ENOMEM, EINVAL, ENOTTY};

kvm::MemorySlot add(Machine& machine, std::uint64_t gpa = logged_at) {
  return machine.vm.add_memory(Gpa(gpa), kvm::Mapping::anonymous(pages * page),
                               {.log_dirty = true});
}
/// By the guest and by the VMM.
void write(Writer& writer, const kvm::MemorySlot& slot) {
  const std::uint64_t at = slot.gpa().value;
  writer.write(at + 2 * page, 2);
  writer.write(at + 70 * page, 1);
  writer.write(at + 194 * page, 1);
  ASSERT_TRUE(slot.load(Gpa(at + 100 * page), std::array<std::byte, 1>{}));
}

bool offered(const Machine& machine, DirtyMode mode) {
  return mode == DirtyMode::ring     ? kvm_test::offers<cap::DirtyLogRingAcqRel>(machine.vm)
         : mode == DirtyMode::manual ? kvm_test::offers<cap::ManualDirtyLogProtect2>(machine.vm)
                                     : true;
}

Rule ioctl_fails(unsigned long code, int error_number, std::size_t from = 0) {
  auto seen = std::make_shared<std::size_t>(0);
  return {.matches = [=](const Call& call,
                         std::size_t) { return call.is_ioctl(code) && (*seen)++ >= from; },
          .error_number = error_number};
}
std::vector<Rule> membarrier_fails(int error_number) {
  return {{.matches =
               [](const Call& call, std::size_t) {
                 return call.function == Function::syscall && call.detail == SYS_membarrier;
               },
           .error_number = error_number,
           .times = 1000}};
}

template <class T>
void expect_failed(const kvm::Result<T>& result, int error_number, std::string_view operation) {
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().error_number(), error_number);
  EXPECT_EQ(result.error().operation(), operation);
}

TEST_F(DirtyFaults, Log) {
  KVM_REQUIRE(Machine().vm, cap::ManualDirtyLogProtect2);
  for (const bool manual : {false, true}) {
    Machine machine;
    machine.vm.enable(cap::ManualDirtyLogProtect2{.enabled = manual});
    const kvm::MemorySlot slot = add(machine);
    Writer writer(machine);
    kvm::DirtyLog log(slot, {.clear_pages = 64});
    Pages seen;
    const auto take = [&](kvm::GfnRange run) {
      insert(seen, run.first - logged_at / page, run.count);
    };
    const auto fails = [&](std::vector<Rule> rules, int error_number, const char* operation,
                           std::size_t injected = 1) {
      seen.clear();
      write(writer, slot);
      fault::arm(std::move(rules));
      const auto failed = log.try_harvest(take);
      fault::disarm();
      EXPECT_EQ(fault::injected(), injected);
      expect_failed(failed, error_number, operation);
      const auto next = log.try_harvest(take);
      ASSERT_TRUE(next);
      EXPECT_EQ(missing(seen, wanted), Pages()) << operation << ' ' << error_number;
      EXPECT_EQ(log.harvest(take), 0u);
    };
    for (const int error_number : errnos) {
      fails({ioctl_fails(request::get_dirty_log.code, error_number)}, error_number,
            "KVM_GET_DIRTY_LOG");
      for (std::size_t piece = 0; manual && piece < 3; ++piece) {
        fails({ioctl_fails(request::clear_dirty_log.code, error_number, piece)}, error_number,
              "KVM_CLEAR_DIRTY_LOG");
      }
    }
    // Interrupted, it is sent again; without membarrier, it takes longer.
    for (const int error_number : {EINTR, ENOMEM, EPERM, ENOSYS}) {
      seen.clear();
      write(writer, slot);
      auto rules = membarrier_fails(error_number);
      rules.push_back(ioctl_fails(request::get_dirty_log.code, EINTR));
      rules.push_back(ioctl_fails(request::clear_dirty_log.code, EINTR));
      fault::arm(std::move(rules));
      const auto count = log.try_harvest(take);
      fault::disarm();
      EXPECT_TRUE(count);
      EXPECT_GE(fault::injected(), 2u);
      EXPECT_EQ(missing(seen, wanted), Pages());
    }
  }
}

// A CLEAR that fails may have cleared: what it was about is handed over all the same.
TEST_F(DirtyFaults, ClearThatLies) {
  KVM_REQUIRE(Machine().vm, cap::ManualDirtyLogProtect2);
  Machine machine;
  machine.vm.enable(cap::ManualDirtyLogProtect2{});
  const kvm::MemorySlot slot = add(machine);
  Writer writer(machine);
  kvm::DirtyLog log(slot);
  write(writer, slot);
  std::optional<kvm::DirtyBitmap> all(slot);
  all->set();
  fault::arm({{.matches =
                   [&](const Call& call, std::size_t) {
                     if (!call.is_ioctl(request::clear_dirty_log.code) || !all) {
                       return false;
                     }
                     const fault::Unobserved ours;
                     auto arguments =
                         *reinterpret_cast<kvm::uapi::kvm_clear_dirty_log*>(call.argument);
                     all.reset();
                     EXPECT_EQ(machine.vm.ioctl(request::clear_dirty_log, &arguments), 0);
                     return true;
                   },
               .error_number = EIO}});
  const auto failed = log.try_harvest([](kvm::GfnRange) { FAIL(); });
  fault::disarm();
  expect_failed(failed, EIO, "KVM_CLEAR_DIRTY_LOG");
  Pages seen;
  log.harvest([&](kvm::GfnRange run) { insert(seen, run.first - logged_at / page, run.count); });
  EXPECT_EQ(missing(seen, wanted), Pages());
}

TEST_F(DirtyFaults, GetAndClear) {
  KVM_REQUIRE(Machine().vm, cap::ManualDirtyLogProtect2);
  Machine machine;
  machine.vm.enable(cap::ManualDirtyLogProtect2{});
  const kvm::MemorySlot slot = add(machine);
  kvm::DirtyLog log(slot);
  kvm::DirtyBitmap bitmap(slot);
  for (const int error_number : errnos) {
    fault::arm({ioctl_fails(request::get_dirty_log.code, error_number),
                ioctl_fails(request::clear_dirty_log.code, error_number)});
    const auto got = log.try_get(bitmap);
    const auto cleared = log.try_clear(bitmap, 0, 64);
    fault::disarm();
    expect_failed(got, error_number, "KVM_GET_DIRTY_LOG");
    expect_failed(cleared, error_number, "KVM_CLEAR_DIRTY_LOG");
    EXPECT_TRUE(log.try_get(bitmap));
  }
}

TEST_F(DirtyFaults, Ring) {
  Machine machine;
  KVM_REQUIRE(machine.vm, cap::DirtyLogRingAcqRel);
  machine.vm.enable(cap::DirtyLogRingAcqRel{});
  const kvm::MemorySlot slot = add(machine);
  Writer writer(machine);
  kvm::DirtyRing ring(writer.vcpu);
  const Pages guests = {2, 3, 70, 194};
  Pages seen;
  const auto take = [&](kvm::SlotId of, std::uint64_t number) {
    if (of == slot.id()) {
      seen.insert(number);
    }
  };
  for (const int error_number : errnos) {
    seen.clear();
    write(writer, slot);
    fault::arm({ioctl_fails(request::reset_dirty_rings.code, error_number)});
    const auto failed = ring.try_harvest([](kvm::SlotId, std::uint64_t) { FAIL(); });
    fault::disarm();
    expect_failed(failed, error_number, "KVM_RESET_DIRTY_RINGS");
    ring.harvest(take);
    EXPECT_EQ(missing(seen, guests), Pages());
    // They were reset, so that the guest's next writes are noticed.
    seen.clear();
    write(writer, slot);
    ring.harvest(take);
    EXPECT_EQ(missing(seen, guests), Pages());
  }
  // A signal can end it before it has reset anything.
  const auto idle = [](int times) -> std::vector<Rule> {
    return {{.matches = [](const Call& call,
                           std::size_t) { return call.is_ioctl(request::reset_dirty_rings.code); },
             .times = times,
             .result = 0}};
  };
  seen.clear();
  write(writer, slot);
  fault::arm(idle(5));
  const auto count = ring.try_harvest(take);
  EXPECT_EQ(fault::disarm().size(), 8u);  // Two for the signal mask, and the one that resets.
  EXPECT_TRUE(count);
  EXPECT_EQ(missing(seen, guests), Pages());
  seen.clear();
  write(writer, slot);
  ring.harvest(take);
  EXPECT_EQ(missing(seen, guests), Pages());
  // But it is not asked for ever.
  seen.clear();
  write(writer, slot);
  fault::arm(idle(1'000'000));
  const auto stuck = ring.try_harvest([](kvm::SlotId, std::uint64_t) { FAIL(); });
  fault::disarm();
  expect_failed(stuck, EAGAIN, "KVM_RESET_DIRTY_RINGS");
  ring.harvest(take);
  EXPECT_EQ(missing(seen, guests), Pages());
}

TEST_F(DirtyFaults, Tracker) {
  for (const DirtyMode mode : {DirtyMode::log, DirtyMode::manual, DirtyMode::ring}) {
    Machine machine;
    if (!offered(machine, mode)) {
      continue;
    }
    kvm::DirtyTracker tracker = machine.vm.track_dirty(mode);
    const kvm::MemorySlot slot = add(machine);
    const kvm::MemorySlot second = add(machine, logged_at + 0x1000000);
    Writer writer(machine);
    kvm::DirtySubscription subscription = tracker.subscribe();
    kvm::DirtySubscription other = tracker.subscribe();
    Pages seen;
    Pages seen_second;
    const auto take = [&](const kvm::DirtyPages& dirty) {
      insert(dirty.slot == slot.id() ? seen : seen_second, dirty.pages.first, dirty.pages.count);
    };
    subscription.harvest(take);
    other.harvest(take);
    const auto fails = [&](Rule rule, int error_number, const char* operation) {
      for (const bool harvest : {false, true}) {
        seen.clear();
        seen_second.clear();
        write(writer, slot);
        write(writer, second);
        fault::arm({rule});
        const auto failed = harvest ? fault::attempt([&] { return other.try_harvest(take); })
                                    : fault::attempt([&] { return tracker.try_collect(); });
        fault::disarm();
        EXPECT_EQ(failed.error_number, error_number);
        EXPECT_EQ(failed.operation, operation);
        EXPECT_TRUE(seen.empty());
        const auto next = subscription.try_harvest(take);
        ASSERT_TRUE(next);
        EXPECT_EQ(missing(seen, wanted), Pages()) << operation << ' ' << error_number;
        EXPECT_EQ(missing(seen_second, wanted), Pages()) << operation << ' ' << error_number;
        EXPECT_EQ(subscription.harvest(take).pages, 0u);
        seen.clear();
        seen_second.clear();
        other.harvest(take);
        EXPECT_EQ(missing(seen, wanted), Pages()) << operation << ' ' << error_number;
        EXPECT_EQ(missing(seen_second, wanted), Pages()) << operation << ' ' << error_number;
        rule = ioctl_fails(
            mode == DirtyMode::ring ? request::reset_dirty_rings.code : request::get_dirty_log.code,
            EIO);
        error_number = EIO;
        operation = mode == DirtyMode::ring ? "KVM_RESET_DIRTY_RINGS" : "KVM_GET_DIRTY_LOG";
      }
    };
    for (const int error_number : errnos) {
      if (mode == DirtyMode::ring) {
        fails(ioctl_fails(request::reset_dirty_rings.code, error_number), error_number,
              "KVM_RESET_DIRTY_RINGS");
        continue;
      }
      for (const std::size_t place : {std::size_t{0}, std::size_t{1}}) {
        fails(ioctl_fails(request::get_dirty_log.code, error_number, place), error_number,
              "KVM_GET_DIRTY_LOG");
        if (mode == DirtyMode::manual) {
          fails(ioctl_fails(request::clear_dirty_log.code, error_number, place), error_number,
                "KVM_CLEAR_DIRTY_LOG");
        }
      }
    }
    for (const int error_number : {ENOMEM, EPERM, ENOSYS}) {
      seen.clear();
      write(writer, slot);
      fault::arm(membarrier_fails(error_number));
      const auto harvested = subscription.try_harvest(take);
      fault::disarm();
      EXPECT_GE(fault::injected(), 1u);
      EXPECT_TRUE(harvested);
      EXPECT_EQ(missing(seen, wanted), Pages());
    }
  }
}

// A harvest that is handing over must not get pages from a collection that did not come to the
// point where KVM notices the next write to them.
TEST_F(DirtyFaults, NothingIsHandedOverBeforeItIsProtectedAgain) {
  for (const DirtyMode mode : {DirtyMode::log, DirtyMode::manual, DirtyMode::ring}) {
    Machine machine;
    if (!offered(machine, mode)) {
      continue;
    }
    kvm::DirtyTracker tracker = machine.vm.track_dirty(mode);
    const kvm::MemorySlot slot = add(machine);
    Writer writer(machine);
    kvm::DirtySubscription subscription = tracker.subscribe();
    subscription.harvest([](const kvm::DirtyPages&) {});
    writer.write(logged_at, 1);
    Pages late;
    bool wrote = false;
    subscription.harvest([&](const kvm::DirtyPages& dirty) {
      if (wrote) {
        insert(late, dirty.pages.first, dirty.pages.count);
        return;
      }
      wrote = true;
      writer.write(logged_at + 100 * page, 1);
      fault::arm({ioctl_fails(mode == DirtyMode::ring     ? request::reset_dirty_rings.code
                              : mode == DirtyMode::manual ? request::clear_dirty_log.code
                                                          : request::get_dirty_log.code,
                              EIO)});
      const auto collected = tracker.try_collect();
      fault::disarm();
      EXPECT_FALSE(collected);
    });
    ASSERT_TRUE(wrote);
    EXPECT_FALSE(late.contains(100));
    Pages seen;
    subscription.harvest(
        [&](const kvm::DirtyPages& dirty) { insert(seen, dirty.pages.first, dirty.pages.count); });
    EXPECT_TRUE(seen.contains(100));
  }
}

// KVM does not log it any more, says KVM: the slot is reported, the others are harvested.
TEST_F(DirtyFaults, ASlotThatKvmDoesNotLogIsUntracked) {
  Machine machine;
  kvm::DirtyTracker tracker = machine.vm.track_dirty(DirtyMode::log);
  const kvm::MemorySlot slot = add(machine);
  const kvm::MemorySlot second = add(machine, logged_at + 0x1000000);
  kvm::DirtySubscription subscription = tracker.subscribe();
  fault::arm({ioctl_fails(request::get_dirty_log.code, ENOENT)});
  const auto harvested = subscription.try_harvest([](const kvm::DirtyPages&) {});
  fault::disarm();
  ASSERT_TRUE(harvested);
  EXPECT_EQ(harvested->untracked, 2u);  // And the one with the code.
  const auto untracked = tracker.untracked();
  ASSERT_EQ(untracked.size(), 2u);
  EXPECT_EQ(untracked[1].slot, slot.id());
  EXPECT_EQ(subscription.harvest([](const kvm::DirtyPages&) {}).untracked, 1u);
}

TEST_F(DirtyFaults, LogAll) {
  Machine machine;
  kvm::DirtyTracker tracker = machine.vm.track_dirty();
  for (const int error_number : errnos) {
    fault::arm({ioctl_fails(request::set_user_memory_region.code, error_number)});
    const auto failed = tracker.try_log_all(true);
    fault::disarm();
    expect_failed(failed, error_number, "KVM_SET_USER_MEMORY_REGION");
    EXPECT_FALSE(machine.ram.logs_dirty());
  }
  EXPECT_TRUE(tracker.try_log_all(true));
}

// What could not be enabled leaves no tracker.
TEST_F(DirtyFaults, TrackDirty) {
  for (const DirtyMode mode : {DirtyMode::manual, DirtyMode::ring}) {
    Machine machine;
    if (!offered(machine, mode)) {
      continue;
    }
    for (const int error_number : errnos) {
      fault::arm({ioctl_fails(request::enable_cap.code, error_number)});
      const auto failed = machine.vm.try_track_dirty(mode);
      fault::disarm();
      expect_failed(failed, error_number, "KVM_ENABLE_CAP");
    }
    EXPECT_TRUE(machine.vm.try_track_dirty(mode));
  }
  // An old KVM.
  const auto refuse = [](unsigned number) -> Rule {
    return {.matches =
                [=](const Call& call, std::size_t) {
                  return call.is_ioctl(request::check_extension.code) && call.argument == number;
                },
            .result = 0};
  };
  Machine machine;
  fault::arm(
      {refuse(kvm::uapi::cap::dirty_log_ring_acq_rel), refuse(kvm::uapi::cap::dirty_log_ring)});
  const auto none = machine.vm.try_track_dirty(DirtyMode::ring);
  fault::disarm();
  expect_failed(none, EOPNOTSUPP, "Vm::track_dirty");
  fault::arm({refuse(kvm::uapi::cap::manual_dirty_log_protect2)});
  const auto log = machine.vm.try_track_dirty();
  fault::disarm();
  ASSERT_TRUE(log);
  EXPECT_EQ(log->mode(), DirtyMode::log);
}

TEST_F(DirtyFaults, OldRings) {
  Machine machine;
  KVM_REQUIRE(machine.vm, cap::DirtyLogRing);
  fault::arm({{.matches =
                   [](const Call& call, std::size_t) {
                     return call.is_ioctl(request::check_extension.code) &&
                            call.argument == kvm::uapi::cap::dirty_log_ring_acq_rel;
                   },
               .result = 0}});
  kvm::DirtyTracker tracker = machine.vm.track_dirty(DirtyMode::ring, {.ring_bytes = 4096 * 16});
  fault::disarm();
  const kvm::MemorySlot slot = add(machine);
  Writer writer(machine);
  kvm::DirtySubscription subscription = tracker.subscribe();
  subscription.harvest([](const kvm::DirtyPages&) {});
  write(writer, slot);
  Pages seen;
  subscription.harvest(
      [&](const kvm::DirtyPages& dirty) { insert(seen, dirty.pages.first, dirty.pages.count); });
  EXPECT_EQ(missing(seen, wanted), Pages());
}

// A vCPU whose ring cannot be mapped would lose what it writes.
TEST_F(DirtyFaults, CreateVcpuWithARing) {
  constexpr std::size_t bytes = 65536;
  Machine machine;
  KVM_REQUIRE(machine.vm, cap::DirtyLogRingAcqRel);
  machine.vm.enable(cap::DirtyLogRingAcqRel{.bytes = bytes});
  std::uint32_t id = 0;
  for (const int error_number : {ENOMEM, EAGAIN, EINVAL, EPERM}) {
    const auto before = fault::Resources::now();
    fault::arm({{.matches =
                     [](const Call& call, std::size_t) {
                       return call.function == Function::mmap && call.detail == bytes;
                     },
                 .error_number = error_number}});
    const auto failed = machine.vm.try_create_vcpu(id++);
    fault::disarm();
    EXPECT_EQ(fault::injected(), 1u);
    expect_failed(failed, error_number, "mmap of the vCPU's dirty ring");
    EXPECT_EQ(fault::Resources::now(), before);
  }
  const kvm::Vcpu vcpu = machine.vm.create_vcpu(id);
  EXPECT_TRUE(kvm::DirtyRing::try_open(vcpu));
}

}  // namespace
