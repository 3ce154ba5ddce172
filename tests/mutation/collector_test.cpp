// SPDX-License-Identifier: MIT
// Dirty logs and rings as a host could have them that cannot be had: KVM's answers are made up,
// rings are written by the test. And what a tracker does while slots come and go between two of its
// steps.
#include <kvm/kvm.hpp>

#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <unistd.h>

#include "fault/interpose.hpp"
#include "support/child.hpp"
#include "support/slot_access.hpp"
#include "support/zeroed_pages.hpp"

namespace kvm_test {
struct ExistsOfState {
  using Member = std::atomic<bool> kvm::detail::SlotState::*;
  friend Member reach(ExistsOfState);
};
template struct Reach<ExistsOfState, &kvm::detail::SlotState::exists_>;
struct CollectorOfTracker {
  using Member = std::shared_ptr<kvm::detail::DirtyCollector> kvm::DirtyTracker::*;
  friend Member reach(CollectorOfTracker);
};
template struct Reach<CollectorOfTracker, &kvm::DirtyTracker::collector_>;
struct MutexOfCollector {
  using Member = std::mutex kvm::detail::DirtyCollector::*;
  friend Member reach(MutexOfCollector);
};
template struct Reach<MutexOfCollector, &kvm::detail::DirtyCollector::mutex_>;
struct SeenOfCollector {
  using Member = std::uint64_t kvm::detail::DirtyCollector::*;
  friend Member reach(SeenOfCollector);
};
template struct Reach<SeenOfCollector, &kvm::detail::DirtyCollector::seen_>;
struct RingsOfVm {
  using Member = std::vector<std::shared_ptr<kvm::detail::VcpuRing>> kvm::detail::DirtyRings::*;
  friend Member reach(RingsOfVm);
};
template struct Reach<RingsOfVm, &kvm::detail::DirtyRings::rings_>;
}  // namespace kvm_test

namespace {

using fault::Call;
using fault::Function;
using kvm::Gpa;
using kvm::Mapping;
using kvm::MemorySlot;
using kvm::detail::DirtyCollector;
using kvm::detail::VcpuRing;
namespace request = kvm::uapi::request;
using namespace kvm::literals;

const std::size_t page_size = kvm::detail::sys::page_size();

template <class Result>
int error_of(const Result& result) {
  return result ? 0 : result.error().error_number();
}
bool is_get(const Call& call) { return call.is_ioctl(request::get_dirty_log.code); }
bool is_clear(const Call& call) { return call.is_ioctl(request::clear_dirty_log.code); }
bool is_reset(const Call& call) { return call.is_ioctl(request::reset_dirty_rings.code); }

std::size_t count(const std::vector<Call>& calls, bool (*wanted)(const Call&)) {
  std::size_t number = 0;
  for (const Call& call : calls) {
    number += wanted(call) ? 1u : 0u;
  }
  return number;
}
/// KVM's log of the slots has these pages, of the first 64.
fault::Rule log_has(std::uint64_t pages, int times = 100) {
  return {.matches =
              [pages](const Call& call, std::size_t) {
                if (!is_get(call)) {
                  return false;
                }
                const auto* const log = reinterpret_cast<const kvm::uapi::kvm_dirty_log*>(
                    static_cast<std::uintptr_t>(call.argument));
                *static_cast<std::uint64_t*>(log->dirty_bitmap) = pages;
                return true;
              },
          .times = times};
}
/// What a log's call is about.
std::uint32_t slot_of(const Call& call) {
  return reinterpret_cast<const kvm::uapi::kvm_dirty_log*>(
             static_cast<std::uintptr_t>(call.argument))
      ->slot;
}
/// Does something before such a call of one slot, which is then made.
fault::Rule before(bool (*wanted)(const Call&), std::uint32_t slot, std::function<void()> act) {
  return {.matches = [=](const Call& call, std::size_t) {
    if (wanted(call) && slot_of(call) == slot) {
      const fault::Unobserved ours;
      act();
    }
    return false;
  }};
}
/// Lets other threads come to where they wait.
void settle() { std::this_thread::sleep_for(std::chrono::milliseconds(60)); }

struct Vms : testing::Test {
  kvm::System system;
  kvm::Vm vm = system.create_vm();
  MemorySlot add(std::uint64_t gpa, bool logged = true, std::size_t pages = 4) {
    return vm.add_memory(Gpa{gpa}, Mapping::anonymous(pages * page_size), {.log_dirty = logged});
  }
  static kvm::detail::VmState& state(const MemorySlot& slot) {
    return *(slot.*reach(kvm_test::StateOfHandle{}));
  }
};

// --- logs ---

TEST_F(Vms, ALogIsClearedIfReadingItDoesNot) {
  const MemorySlot slot = add(0);
  kvm::detail::VmState& shared = state(slot);
  for (const bool manual : {false, true}) {
    shared.manual_protect = manual;
    for (const bool tracks : {false, true}) {
      std::uint64_t pages = 0;
      std::vector<Call> calls;
      const auto clear = fault::Rule{
          .matches = [](const Call& call, std::size_t) { return is_clear(call); }, .times = 100};
      if (tracks) {
        DirtyCollector collector(slot.*reach(kvm_test::StateOfHandle{}), false);
        const auto subscriber = collector.try_subscribe(nullptr, false).value();
        fault::arm({log_has(5), clear});
        const auto harvest = collector.try_collect_for(*subscriber);
        calls = fault::disarm();
        ASSERT_TRUE(harvest);
        const auto& pending = *harvest->pending->slots.at(0);
        pages = pending.next_run(0).count + pending.next_run(1).count;
      } else {
        kvm::DirtyLog log(slot);
        fault::arm({log_has(5), clear});
        pages = log.harvest([](kvm::GfnRange) {});
        calls = fault::disarm();
      }
      EXPECT_EQ(pages, 2u);
      EXPECT_EQ(count(calls, is_get), 1u);
      EXPECT_EQ(count(calls, is_clear), manual ? 1u : 0u);
    }
  }
  shared.manual_protect = false;
}
TEST_F(Vms, ALogBesideRingsNeedsThatKvmKeepsIt) {
  const MemorySlot slot = add(0);
  kvm::detail::VmState& shared = state(slot);
  shared.dirty_ring = true;
  EXPECT_EQ(error_of(kvm::DirtyLog::try_open(slot)), ENXIO);
  for (const bool bitmap : {false, true}) {
    shared.ring_with_bitmap = bitmap;
    EXPECT_EQ(error_of(kvm::DirtyLog::try_open(slot)), bitmap ? 0 : ENXIO);
    DirtyCollector collector(slot.*reach(kvm_test::StateOfHandle{}), true);
    fault::arm({log_has(0)});
    EXPECT_TRUE(collector.try_collect());
    EXPECT_EQ(count(fault::disarm(), is_get), bitmap ? 1u : 0u);
  }
  shared.dirty_ring = shared.ring_with_bitmap = false;
}

// --- slots that come and go meanwhile ---

struct Tracked : Vms {
  void SetUp() override {
    tracker = vm.track_dirty(kvm::DirtyMode::manual);
    slot = add(0);
    goes = add(1_MiB);
    all = tracker->subscribe();
    one = tracker->subscribe({.slot = &*slot});
    static_cast<void>(all->harvest([](const kvm::DirtyPages&) {}));
    static_cast<void>(one->harvest([](const kvm::DirtyPages&) {}));
    collector = (*tracker).*reach(kvm_test::CollectorOfTracker{});
    mutex = &((*collector).*reach(kvm_test::MutexOfCollector{}));
  }
  template <class... Rules>
  kvm::DirtyHarvest harvest(kvm::DirtySubscription& who, Rules... rules) {
    fault::arm({rules...});
    auto result = who.try_harvest([](const kvm::DirtyPages&) {});
    fault::disarm();
    return result.value();
  }
  bool locked() const {
    bool taken = false;
    std::thread([&] {
      taken = !mutex->try_lock();
      if (!taken) {
        mutex->unlock();
      }
    }).join();
    return taken;
  }
  std::optional<kvm::DirtyTracker> tracker;
  std::optional<MemorySlot> slot, goes;
  std::optional<kvm::DirtySubscription> all, one;
  std::shared_ptr<DirtyCollector> collector;
  std::mutex* mutex = nullptr;
};

TEST_F(Tracked, WhatKvmDoesNotLogIsCountedForWhoWantsIt) {
  const std::uint32_t raw = goes->id().raw();
  const fault::Rule refuse{
      .matches = [raw](const Call& call,
                       std::size_t) { return is_get(call) && slot_of(call) == raw; },
      .error_number = ENOENT,
      .times = 100};
  EXPECT_EQ(harvest(*all, refuse).untracked, 1u);
  EXPECT_EQ(harvest(*one, refuse).untracked, 0u);
  EXPECT_EQ(harvest(*all).untracked, 0u);
}
TEST_F(Tracked, WhatGoesWhileItsLogIsReadIsNotUntracked) {
  EXPECT_EQ(harvest(*all, before(is_get, goes->id().raw(), [&] { goes.reset(); })).untracked, 0u);
}
TEST_F(Tracked, WhatIsNoLongerLoggedWhenItsLogIsReadIsCountedNextTime) {
  EXPECT_EQ(
      harvest(*all, before(is_get, goes->id().raw(), [&] { goes->log_dirty(false); })).untracked,
      0u);
  EXPECT_EQ(harvest(*all).untracked, 1u);
}
TEST_F(Tracked, WhatGoesBeforeItsLogIsClearedIsNoFailure) {
  EXPECT_EQ(harvest(*all, log_has(1), before(is_clear, goes->id().raw(), [&] { goes.reset(); }))
                .untracked,
            0u);
  EXPECT_FALSE(goes);
}
TEST_F(Tracked, CollectingIsDoneUnderTheLock) {
  bool held = false;
  harvest(*all, before(is_get, slot->id().raw(), [&] { held = locked(); }));
  EXPECT_TRUE(held);
  EXPECT_FALSE(locked());
}
// The registry is asked without the lock, what it said is adopted with it, and what has gone in
// between is left out.
TEST_F(Tracked, NewSlotsAreAdoptedUnderTheLock) {
  std::optional<MemorySlot> fresh = add(2_MiB, false);
  const std::uint64_t& seen = (*collector).*reach(kvm_test::SeenOfCollector{});
  const std::uint64_t seen_before = seen;
  std::optional<std::size_t> untracked;
  std::thread other;
  {
    const std::lock_guard registry(static_cast<kvm::detail::SlotRegistry&>(state(*slot)).*
                                   reach(kvm_test::MutexOfRegistry{}));
    other = std::thread([&] { untracked = tracker->untracked().size(); });
    settle();
    if (mutex->try_lock()) {
      mutex->unlock();
    } else {
      ADD_FAILURE() << "the registry is asked with the lock";
    }
  }
  other.join();
  EXPECT_EQ(untracked, 1u);
  fresh.reset();
  fresh = add(3_MiB, false);
  const std::uint64_t seen_between = seen;
  EXPECT_NE(seen_between, seen_before);
  std::unique_lock<std::mutex> adopting;
  {
    const std::lock_guard registry(static_cast<kvm::detail::SlotRegistry&>(state(*slot)).*
                                   reach(kvm_test::MutexOfRegistry{}));
    other = std::thread([&] { untracked = tracker->untracked().size(); });
    settle();
    adopting = std::unique_lock(*mutex, std::defer_lock);
    for (int i = 0; i < 20 && !adopting.try_lock(); ++i) {
      settle();
    }
  }
  settle();
  EXPECT_TRUE(adopting.owns_lock());
  EXPECT_EQ(seen, seen_between) << "it is adopted without the lock";
  fresh.reset();
  if (adopting.owns_lock()) {
    adopting.unlock();
  }
  other.join();
  EXPECT_EQ(untracked, 0u) << "it has gone";
}
TEST_F(Tracked, LoggingIsNotTurnedOnForWhatHasGone) {
  auto& exists = (*kvm_test::state_of(*goes)).*reach(kvm_test::ExistsOfState{});
  exists = false;
  EXPECT_TRUE(tracker->try_log_all(false));
  exists = true;
  EXPECT_FALSE(slot->logs_dirty());
  EXPECT_TRUE(goes->logs_dirty());
}
TEST_F(Vms, AChildCollectsNothingFork) {
  auto tracker = vm.track_dirty(kvm::DirtyMode::log);
  DirtyCollector& collector = *(tracker.*reach(kvm_test::CollectorOfTracker{}));
  const auto subscriber = collector.try_subscribe(nullptr, true).value();
  kvm_test::expect_in_child(
      [&] { EXPECT_EQ(error_of(collector.try_collect_for(*subscriber)), EIO); });
}

// --- rings ---

struct Rings : Vms {
  kvm::Vcpu vcpu = vm.create_vcpu(0);
  MemorySlot low = add(0, false);
  MemorySlot slot = add(1_MiB);
  MemorySlot logged = add(2_MiB);
  kvm::detail::VmState& shared = state(slot);
  std::vector<std::shared_ptr<VcpuRing>>& rings = shared.rings.*reach(kvm_test::RingsOfVm{});
  kvm::uapi::kvm_dirty_gfn* entries = nullptr;

  /// A ring of a page, as if the guest had written there.
  std::shared_ptr<VcpuRing> add_ring(std::weak_ptr<const void> owner) {
    kvm::detail::VcpuPages pages = kvm_test::zeroed_pages(page_size);
    entries = reinterpret_cast<kvm::uapi::kvm_dirty_gfn*>(pages.data());
    rings.push_back(std::make_shared<VcpuRing>(std::move(pages), vcpu.id(), std::move(owner), 0));
    shared.rings.enable(static_cast<std::uint32_t>(page_size));
    return rings.back();
  }
  void write(std::uint32_t index, std::uint32_t raw, std::uint64_t page) {
    entries[index] = {.flags = kvm::uapi::dirty_gfn::dirty, .slot = raw, .offset = page};
  }
  /// KVM resets all that was taken.
  fault::Rule resets() {
    return {.matches =
                [this](const Call& call, std::size_t) {
                  if (is_reset(call)) {
                    for (std::size_t i = 0; i < page_size / sizeof *entries; ++i) {
                      entries[i].flags &= ~kvm::uapi::dirty_gfn::reset;
                    }
                  }
                  return is_reset(call);
                },
            .times = 100,
            .result = 1};
  }
};

TEST_F(Rings, EntriesAreStagedForTheSlotTheyName) {
  const auto owner = std::make_shared<int>();
  const auto ring = add_ring(owner);
  std::optional<kvm::DirtyLog> log(logged);
  static_cast<void>(kvm_test::take_marks(logged));
  DirtyCollector collector(slot.*reach(kvm_test::StateOfHandle{}), true);
  const auto subscriber = collector.try_subscribe(nullptr, false).value();
  static_cast<void>(kvm_test::take_marks(logged));
  ring->taken = {{slot.id().raw(), 3}};  // A DirtyRing's leftovers.
  write(0, slot.id().raw(), 1);
  write(1, low.id().raw(), 2);  // It logs nothing, and is no other.
  write(2, logged.id().raw(), 2);
  write(3, logged.id().raw(), 4);  // It has four.
  write(4, logged.id().raw(), 1 << 20);
  write(5, 77, 1);
  fault::arm({resets()});
  const auto harvest = collector.try_collect_for(*subscriber);
  EXPECT_EQ(count(fault::disarm(), is_reset), 1u);
  ASSERT_TRUE(harvest);
  ASSERT_EQ(harvest->pending->slots.size(), 1u);
  std::vector<std::uint64_t> pages;
  const auto& pending = *harvest->pending->slots[0];
  for (auto run = pending.next_run(0); run.count != 0; run = pending.next_run(run.first + 1)) {
    pages.push_back(run.first);
  }
  EXPECT_EQ(pages, (std::vector<std::uint64_t>{1, 3}));
  EXPECT_EQ(kvm_test::take_marks(logged), std::vector<std::uint64_t>{2});
  EXPECT_TRUE(ring->taken.empty());
}
TEST_F(Rings, OfAVcpuThatHasGoneAreKeptUntilTheyAreEmpty) {
  auto owner = std::make_shared<int>();
  const auto ring = add_ring(owner);
  write(0, slot.id().raw(), 1);
  owner.reset();
  shared.rings.settle(*shared.ids());
  EXPECT_EQ(rings.size(), 1u);
  ring->drain(1, [](const VcpuRing::Entry&) {});
  shared.rings.settle(*shared.ids());
  EXPECT_EQ(rings.size(), 0u);
}
TEST_F(Rings, OnlyThatOfAVcpuThatHasOneIsOpened) {
  shared.rings.enable(static_cast<std::uint32_t>(page_size));
  EXPECT_EQ(error_of(kvm::DirtyRing::try_open(vcpu)), ENXIO);
}
TEST_F(Rings, FailuresOfResettingSayWhy) {
  const auto owner = std::make_shared<int>();
  add_ring(owner);
  kvm::DirtyRing ring(vcpu);
  std::uint32_t next = 0;
  const auto failure = [&](fault::Rule rule) {
    write(next++, slot.id().raw(), 1);
    fault::arm({std::move(rule)});
    const auto result = ring.try_harvest([](kvm::SlotId, std::uint64_t) {});
    fault::disarm();
    return result ? std::string("none") : result.error().what();
  };
  const auto refuse = [](auto matches, int error_number) {
    return fault::Rule{.matches = [=](const Call& call, std::size_t) { return matches(call); },
                       .error_number = error_number,
                       .times = 20'000};
  };
  // Signals cannot be held back: nothing is reset.
  const std::string mask = failure(
      refuse([](const Call& call) { return call.function == Function::pthread_sigmask; }, ENOSYS));
  EXPECT_NE(mask.find(std::strerror(ENOSYS)), std::string::npos) << mask;
  EXPECT_EQ(entries[0].flags, kvm::uapi::dirty_gfn::reset);
  const std::string refused = failure(refuse(is_reset, EPERM));
  EXPECT_NE(refused.find(std::strerror(EPERM)), std::string::npos) << refused;
  EXPECT_EQ(refused.find("out of order"), std::string::npos) << refused;
  const std::string stuck = failure(refuse(is_reset, 0));
  EXPECT_NE(stuck.find("were some taken out of order, past this object?"), std::string::npos)
      << stuck;
  EXPECT_NE(stuck.find(std::strerror(EAGAIN)), std::string::npos) << stuck;
}
TEST_F(Rings, AChildTakesNoLockFork) {
  const auto owner = std::make_shared<int>();
  add_ring(owner);
  std::optional<kvm::DirtyRing> ring(vcpu);
  const std::lock_guard taken(shared.rings.mutex);
  kvm_test::expect_in_child([&] {
    alarm(10);
    ring.reset();
  });
}

}  // namespace
