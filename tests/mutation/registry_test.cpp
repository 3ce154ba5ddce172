// SPDX-License-Identifier: MIT
// Edges of the slots' bookkeeping that no use of the library comes to by itself, or that the host
// decides: what KVM offers is answered in its place.
#include <kvm/kvm.hpp>

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <unistd.h>

#include "fault/interpose.hpp"
#include "support/child.hpp"
#include "support/slot_access.hpp"

namespace kvm_test {
struct ObserversOfRegistry {
  using Member = std::vector<kvm::MemoryObserver*> kvm::detail::SlotRegistry::*;
  friend Member reach(ObserversOfRegistry);
};
template struct Reach<ObserversOfRegistry, &kvm::detail::SlotRegistry::observers_>;
struct DepartedOfRegistry {
  using Member = std::atomic<std::size_t> kvm::detail::SlotRegistry::*;
  friend Member reach(DepartedOfRegistry);
};
template struct Reach<DepartedOfRegistry, &kvm::detail::SlotRegistry::departed_count_>;
struct PinsOfState {
  using Member = std::mutex kvm::detail::SlotState::*;
  friend Member reach(PinsOfState);
};
template struct Reach<PinsOfState, &kvm::detail::SlotState::pins_mutex_>;
struct ReadersOfSpace {
  using Member = std::mutex kvm::detail::AddressSpace::*;
  friend Member reach(ReadersOfSpace);
};
template struct Reach<ReadersOfSpace, &kvm::detail::AddressSpace::readers_mutex_>;
struct MutexOfIds {
  using Member = std::mutex kvm::detail::SlotIds::*;
  friend Member reach(MutexOfIds);
};
template struct Reach<MutexOfIds, &kvm::detail::SlotIds::mutex_>;
}  // namespace kvm_test

namespace {

using fault::Call;
using kvm::Gpa;
using kvm::Mapping;
using kvm::MemoryChange;
using kvm::MemorySlot;
using kvm_test::registry_of;
namespace request = kvm::uapi::request;
using namespace kvm::literals;

const std::size_t page = kvm::detail::sys::page_size();

template <class Tag>
auto& part(const kvm::detail::SlotRegistry& registry, Tag tag) {
  return const_cast<kvm::detail::SlotRegistry&>(registry).*reach(tag);
}

/// Answers what the host says of a capability.
void answer(std::uint32_t capability, long result, int times = 1000) {
  fault::arm({{.matches =
                   [capability](const Call& call, std::size_t) {
                     return call.is_ioctl(request::check_extension.code) &&
                            call.argument == capability;
                   },
               .times = times,
               .result = result}});
}
std::vector<fault::Rule> refuse_region(int error_number) {
  return {
      {.matches = [](const Call& call,
                     std::size_t) { return call.is_ioctl(request::set_user_memory_region.code); },
       .error_number = error_number}};
}
std::vector<fault::Rule> refuse_space() {
  return {{.matches =
               [](const Call& call, std::size_t) {
                 return call.function == fault::Function::mmap && call.detail > 65536 * 64;
               },
           .error_number = ENOMEM}};
}
template <class Result>
std::string what(const Result& result) {
  return result ? "it succeeded" : result.error().what();
}
bool has(const std::string& text, const char* piece) {
  return text.find(piece) != std::string::npos;
}

struct Registry : testing::Test {
  kvm::System system;
  kvm::Vm vm = system.create_vm();
};

TEST_F(Registry, WithoutRoomForATableThereIsNoSlot) {
  fault::arm(refuse_space());
  auto added = vm.try_add_memory(Gpa{0}, Mapping::anonymous(page));
  fault::disarm();
  EXPECT_EQ(fault::injected(), 1u);
  ASSERT_FALSE(added);
  EXPECT_EQ(added.error().error_number(), ENOMEM);
  fault::arm(refuse_space());
  auto memory = vm.try_memory();
  fault::disarm();
  ASSERT_FALSE(memory);
  EXPECT_EQ(memory.error().error_number(), ENOMEM);
}

TEST_F(Registry, TheHostsNumberOfSlotsCounts) {
  answer(kvm::uapi::cap::nr_memslots, 0);  // It does not say: 32.
  auto first = vm.try_add_memory(Gpa{0}, Mapping::anonymous(page));
  fault::disarm();
  ASSERT_TRUE(first) << what(first);

  kvm::Vm small = system.create_vm();
  answer(kvm::uapi::cap::nr_memslots, 1);
  auto one = small.try_add_memory(Gpa{0}, Mapping::anonymous(page));
  const std::string two = what(small.try_add_memory(Gpa{1_MiB}, Mapping::anonymous(page)));
  fault::disarm();
  ASSERT_TRUE(one);
  EXPECT_TRUE(has(two, "all 1 slots are in use") && !has(two, "wait")) << two;

  kvm::Vm rings = system.create_vm();
  if (!rings.try_enable(kvm::cap::DirtyLogRingAcqRel{})) {
    return;
  }
  kvm::Vcpu vcpu = rings.create_vcpu(0);
  answer(kvm::uapi::cap::nr_memslots, 1);
  { auto gone = rings.add_memory(Gpa{0}, Mapping::anonymous(page), {.log_dirty = true}); }
  const std::string waits = what(rings.try_add_memory(Gpa{1_MiB}, Mapping::anonymous(page)));
  fault::disarm();
  EXPECT_TRUE(has(waits, "wait for the dirty rings")) << waits;
}

TEST_F(Registry, AddressSpacesAreAsManyAsTheHostHas) {
  answer(kvm::uapi::cap::multi_address_space, 1);
  const std::string only = what(vm.try_memory(1));
  fault::disarm();
  EXPECT_TRUE(has(only, "one address space, 0")) << only;
  answer(kvm::uapi::cap::multi_address_space, 2);
  EXPECT_TRUE(vm.try_memory(1));
  const std::string beyond = what(vm.try_memory(2));
  fault::disarm();
  EXPECT_TRUE(has(beyond, "there is no such address space")) << beyond;
}

TEST_F(Registry, TheMemoryIsTheSlotsWhenItIsTold) {
  Mapping memory = Mapping::anonymous(page);
  std::size_t seen = page;
  const auto observation =
      vm.memory().observe([&](const MemoryChange&) noexcept { seen = memory.size(); });
  const MemorySlot slot = vm.add_memory(Gpa{0}, std::move(memory));
  EXPECT_EQ(seen, 0u);
}

TEST_F(Registry, WhatWasDeletedIsNotChanged) {
  MemorySlot slot = vm.add_memory(Gpa{0}, Mapping::anonymous(page));
  const MemorySlot other = vm.add_memory(Gpa{1_MiB}, Mapping::anonymous(page));
  auto& registry = registry_of(other);
  const auto state = kvm_test::state_of(slot);
  EXPECT_TRUE(registry.slots_exist());
  static_cast<void>(slot.remove());
  const auto moved = registry.move(*state, Gpa{2_MiB});
  ASSERT_FALSE(moved);
  EXPECT_EQ(moved.error().error_number(), ENOENT);
  const auto logged = registry.set_logging(*state, true);
  ASSERT_FALSE(logged);
  EXPECT_EQ(logged.error().error_number(), ENOENT);
  EXPECT_EQ(registry.remove(*state), 0u);
  EXPECT_EQ(errno, ENOENT);
  EXPECT_TRUE(registry.slots_exist());
}
TEST_F(Registry, KnowsWhetherThereAreSlots) {
  std::optional<MemorySlot> slot = vm.add_memory(Gpa{0}, Mapping::anonymous(page));
  const auto state = (*slot).*reach(kvm_test::StateOfHandle{});
  EXPECT_TRUE(state->slots_exist());
  slot.reset();
  EXPECT_FALSE(state->slots_exist());
}

TEST_F(Registry, LoggingThatChangesNothingDoesNothing) {
  MemorySlot slot = vm.add_memory(Gpa{0}, Mapping::anonymous(page));
  const std::uint64_t generation = vm.memory().generation();
  slot.log_dirty(false);
  EXPECT_EQ(vm.memory().generation(), generation);
  EXPECT_EQ(kvm_test::state_of(slot)->marks(), nullptr);
  fault::arm(refuse_region(EINVAL));
  const std::string refused = what(slot.try_log_dirty(true));
  fault::disarm();
  EXPECT_TRUE(has(refused, "guest_memfd slots cannot be logged")) << refused;
  fault::arm(refuse_region(ENOMEM));
  const std::string other = what(slot.try_log_dirty(true));
  fault::disarm();
  EXPECT_FALSE(has(other, "guest_memfd")) << other;
}

TEST_F(Registry, ObserversThatEndedAreForgotten) {
  const MemorySlot slot = vm.add_memory(Gpa{0}, Mapping::anonymous(page));
  auto& observers = part(registry_of(slot), kvm_test::ObserversOfRegistry{});
  {
    const auto one = vm.memory().observe([](const MemoryChange&) noexcept {});
    const auto two = vm.memory().observe([](const MemoryChange&) noexcept {});
    EXPECT_EQ(observers.size(), 2u);
  }
  EXPECT_TRUE(observers.empty());
}
TEST_F(Registry, OneThatEndsAnotherKeepsTheOthers) {
  MemorySlot slot = vm.add_memory(Gpa{0}, Mapping::anonymous(page));
  auto& observers = part(registry_of(slot), kvm_test::ObserversOfRegistry{});
  std::optional<kvm::Observation> first, last;
  std::vector<int> told;
  bool ends = false;
  first = vm.memory().observe([&](const MemoryChange&) noexcept { told.push_back(1); });
  const auto second = vm.memory().observe([&](const MemoryChange& change) noexcept {
    told.push_back(2);
    if (ends && change.kind == MemoryChange::Kind::removing) {
      first.reset();
    }
  });
  last = vm.memory().observe([&](const MemoryChange&) noexcept { told.push_back(3); });
  told.clear();
  ends = true;
  slot.move_to(Gpa{1_MiB});
  EXPECT_EQ(told, (std::vector<int>{1, 2, 3, 2, 3}));
  EXPECT_EQ(observers.size(), 2u);
}

TEST_F(Registry, WhatHasGoneIsForgotten) {
  const Mapping memory = Mapping::anonymous(page);
  const MemorySlot stays = vm.add_memory(Gpa{0}, memory.share(), {.log_dirty = true});
  { auto gone = vm.add_memory(Gpa{1_MiB}, memory.share(), {.log_dirty = true}); }
  auto& registry = registry_of(stays);
  EXPECT_EQ(part(registry, kvm_test::DepartedOfRegistry{}), 1u);
  registry.settle_departed();
  EXPECT_EQ(part(registry, kvm_test::DepartedOfRegistry{}), 0u);
}

// Why KVM refuses, as the library says it.
TEST_F(Registry, SaysWhyKvmRefuses) {
  const MemorySlot slot = vm.add_memory(Gpa{1_MiB}, Mapping::anonymous(2 * page));
  const auto said = [&](int error_number, Gpa gpa, std::uint64_t size,
                        kvm::MemoryOptions options = {}) {
    Mapping memory = Mapping::anonymous(size);
    fault::arm(refuse_region(error_number));
    auto added = vm.try_add_memory(gpa, std::move(memory), options);
    fault::disarm();
    EXPECT_FALSE(added);
    return what(added);
  };
  const auto expect = [](const std::string& text, const char* piece) {
    EXPECT_TRUE(has(text, piece)) << text;
  };
  constexpr const char* stranger = "raw ioctls";
  expect(said(EEXIST, Gpa{1_MiB}, page), "overlaps slot 0");
  expect(said(EEXIST, Gpa{1_MiB + page}, page), "overlaps slot 0");
  expect(said(EEXIST, Gpa{1_MiB - page}, 2 * page), "overlaps slot 0");
  expect(said(EEXIST, Gpa{1_MiB - page}, page), stranger);
  expect(said(EEXIST, Gpa{0}, page), stranger);
  expect(said(EEXIST, Gpa{1_MiB + 2 * page}, page), stranger);
  constexpr const char* beyond = "the gpa may be beyond what this host can map";
  expect(said(EINVAL, Gpa{0}, page), "KVM refused the range");
  EXPECT_FALSE(has(said(EINVAL, Gpa{0}, page), "address space(s)"));
  expect(said(EFAULT, Gpa{0}, page), beyond);
  for (const int other : {ENOMEM, EPERM}) {
    const std::string text = said(other, Gpa{0}, page);
    EXPECT_FALSE(has(text, "beyond") || has(text, "pages") || has(text, "address space(s)"))
        << text;
  }
  constexpr std::uint64_t most = (std::uint64_t{1} << 31) - 1;
  expect(said(EINVAL, Gpa{8_GiB}, most * page), "KVM refused the range");
  expect(said(EINVAL, Gpa{8_GiB}, (most + 1) * page), "a slot has at most");
  EXPECT_FALSE(has(said(ENOMEM, Gpa{8_GiB}, (most + 1) * page), "at most"));
}
TEST_F(Registry, SaysHowManyAddressSpacesThereAre) {
  const auto said = [&](int error_number, std::uint16_t number) {
    auto rules = refuse_region(error_number);
    rules.push_back({.matches =
                         [](const Call& call, std::size_t) {
                           return call.is_ioctl(request::check_extension.code) &&
                                  call.argument == kvm::uapi::cap::multi_address_space;
                         },
                     .times = 1000,
                     .result = 2});
    fault::arm(rules);
    auto added = vm.try_add_memory(Gpa{0}, Mapping::anonymous(page), {.address_space = number});
    fault::disarm();
    return what(added);
  };
  for (const std::uint16_t number : std::array<std::uint16_t, 3>{1, 2, 3}) {
    EXPECT_EQ(has(said(EINVAL, number), "2 address space(s)"), number >= 2) << said(EINVAL, number);
    EXPECT_FALSE(has(said(EFAULT, number), "address space(s)"));
  }
}
// A descriptor is one even if it is the first.
TEST_F(Registry, AGuestMemfdMayHaveTheNumberZero) {
  const MemorySlot slot = vm.add_memory(Gpa{1_MiB}, Mapping::anonymous(page));
  Mapping memory = Mapping::anonymous(page);
  fault::arm(
      {{.matches = [](const Call& call,
                      std::size_t) { return call.is_ioctl(request::set_user_memory_region2.code); },
        .error_number = EIO}});
  auto added = registry_of(slot).add(
      {.gpa = Gpa{0}, .flags = kvm::uapi::mem::guest_memfd, .guest_memfd = 0}, memory);
  fault::disarm();
  EXPECT_EQ(fault::injected(), 1u);
  EXPECT_TRUE(has(what(added), "KVM_SET_USER_MEMORY_REGION2")) << what(added);
}

// Whichever address space was used first: by number.
TEST_F(Registry, SlotsOfAllAddressSpacesAreInOrder) {
  for (const std::vector<std::uint16_t>& order :
       std::vector<std::vector<std::uint16_t>>{{0, 1, 2}, {2, 1, 0}, {1, 2, 0}, {2, 0, 1}}) {
    kvm::Vm own = system.create_vm();
    std::vector<MemorySlot> slots;
    fault::arm({{.matches =
                     [](const Call& call, std::size_t) {
                       return call.is_ioctl(request::check_extension.code) &&
                              call.argument == kvm::uapi::cap::multi_address_space;
                     },
                 .times = 1000,
                 .result = 3},
                {.matches =
                     [](const Call& call, std::size_t) {
                       return call.is_ioctl(request::set_user_memory_region.code);
                     },
                 .times = 1000}});
    for (const std::uint16_t number : order) {
      slots.push_back(own.add_memory(Gpa{0}, Mapping::anonymous(page), {.address_space = number}));
      slots.push_back(
          own.add_memory(Gpa{1_MiB}, Mapping::anonymous(page), {.address_space = number}));
    }
    std::uint32_t before = 0;
    std::size_t number = 0;
    for (const auto& slot : registry_of(slots[0]).all()) {
      EXPECT_TRUE(number == 0 || slot->id.raw() > before) << slot->id.raw();
      before = slot->id.raw();
      ++number;
    }
    EXPECT_EQ(number, 6u);
    slots.clear();
    fault::disarm();
  }
}

// In a forked child every lock may be taken for ever, and the memory is not there.
TEST_F(Registry, AChildTakesNoLockFork) {
  const Mapping shared = Mapping::anonymous(2 * page);
  std::optional<MemorySlot> slot = vm.add_memory(Gpa{0}, shared.share(), {.log_dirty = true});
  std::optional<MemorySlot> dropped =
      vm.add_memory(Gpa{1_MiB}, shared.share(), {.log_dirty = true});
  std::optional<MemorySlot> unlogged = vm.add_memory(Gpa{4_MiB}, Mapping::anonymous(page));
  std::optional<kvm::RemovedMemory> removed =
      vm.add_memory(Gpa{2_MiB}, Mapping::anonymous(page)).try_remove().value();
  std::optional<kvm::DirtyTracker> tracker = vm.track_dirty(kvm::DirtyMode::log);
  std::optional<kvm::DirtySubscription> subscription = tracker->subscribe();
  subscription->harvest([](const kvm::DirtyPages&) {});
  std::optional<kvm::DirtyLog> log(*unlogged);
  kvm::GuestMemory memory = vm.memory();
  std::optional<kvm::GuestMemory::View> view = memory.view();
  std::optional<kvm::GfnToHvaCache> cache;
  cache.emplace(memory, Gpa{0}, 8);
  auto pin = view->pin(Gpa{0}, 8, kvm::PinFor::writing);
  std::optional<kvm::Observation> observation = memory.observe([](const MemoryChange&) noexcept {});
  auto& registry = registry_of(*slot);
  auto& space = kvm_test::space_of(memory);
  const auto state = kvm_test::state_of(*slot);
  const auto removed_state = kvm_test::state_of(*dropped);
  const auto ids = kvm_test::ids_of(*slot);
  std::scoped_lock taken(
      part(registry, kvm_test::MutexOfRegistry{}), (*state).*reach(kvm_test::PinsOfState{}),
      (*removed_state).*reach(kvm_test::PinsOfState{}), space.*reach(kvm_test::ReadersOfSpace{}),
      (*ids).*reach(kvm_test::MutexOfIds{}));
  const std::uint64_t changes = registry.changes();
  kvm_test::expect_in_child([&] {
    alarm(10);
    EXPECT_EQ(vm.try_add_memory(Gpa{8_MiB}, Mapping::anonymous(page)).error().error_number(), EIO);
    EXPECT_EQ(vm.try_memory().error().error_number(), EIO);
    EXPECT_EQ(slot->try_move_to(Gpa{8_MiB}).error().error_number(), EIO);
    EXPECT_EQ(unlogged->try_log_dirty(true).error().error_number(), EIO);
    EXPECT_EQ(slot->try_remove().error().error_number(), EIO);
    EXPECT_THROW(static_cast<void>(slot->remove()), kvm::Error);
    EXPECT_EQ(registry.changes(), changes);
    EXPECT_EQ(vm.parked_mappings(), 0u);
    EXPECT_EQ(memory.reclaim(), 0u);
    EXPECT_TRUE(memory.slots().empty());
    EXPECT_FALSE(removed->in_use());
    EXPECT_FALSE(view->contains(Gpa{0}, 1));
    EXPECT_FALSE(cache->valid());
    EXPECT_EQ(subscription->try_harvest([](const kvm::DirtyPages&) {}).error().error_number(), EIO);
    EXPECT_EQ(tracker->try_subscribe().error().error_number(), EIO);
    EXPECT_EQ(tracker->try_collect().error().error_number(), EIO);
    EXPECT_EQ(tracker->try_log_all(true).error().error_number(), EIO);
    EXPECT_TRUE(tracker->untracked().empty());
    EXPECT_EQ(log->try_harvest([](kvm::GfnRange) {}).error().error_number(), EIO);
    { kvm::GuestMemory::View another = memory.view(); }
    {
      const auto another = memory.observe([](const MemoryChange&) noexcept {});
    }
    observation.reset();
    log.reset();
    subscription.reset();
    tracker.reset();
    pin.reset();
    cache.reset();
    view.reset();
    removed.reset();
    dropped.reset();
    slot.reset();
    unlogged.reset();
  });
}

}  // namespace
