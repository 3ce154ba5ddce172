// SPDX-License-Identifier: MIT
// What another thread would find in the moment in which this one waits for a mutex, or has just
// given it back: wrapped_calls.txt has the two calls, and they are looked at here.
#include <kvm/kvm.hpp>

#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include <pthread.h>

#include "support/slot_access.hpp"

namespace {

/// Called before this thread locks, and after it has unlocked.
using Look = std::function<void(const void* mutex)>;
thread_local Look* look = nullptr;

void looked_at(const void* mutex) {
  if (Look* const wanted = std::exchange(look, nullptr)) {  // Not at what it locks itself.
    (*wanted)(mutex);
    look = wanted;
  }
}

}  // namespace

extern "C" int real_lock(pthread_mutex_t* mutex) noexcept asm("__real_pthread_mutex_lock");
extern "C" int real_unlock(pthread_mutex_t* mutex) noexcept asm("__real_pthread_mutex_unlock");
extern "C" int wrap_lock(pthread_mutex_t* mutex) noexcept asm("__wrap_pthread_mutex_lock");
extern "C" int wrap_unlock(pthread_mutex_t* mutex) noexcept asm("__wrap_pthread_mutex_unlock");
extern "C" int wrap_lock(pthread_mutex_t* mutex) noexcept {
  looked_at(mutex);
  return real_lock(mutex);
}
extern "C" int wrap_unlock(pthread_mutex_t* mutex) noexcept {
  const int result = real_unlock(mutex);
  looked_at(mutex);
  return result;
}

namespace kvm_test {
struct PinsMutex {
  using Member = std::mutex kvm::detail::SlotState::*;
  friend Member reach(PinsMutex);
};
template struct Reach<PinsMutex, &kvm::detail::SlotState::pins_mutex_>;
}  // namespace kvm_test

namespace {

using kvm::GfnRange;
using kvm::Gpa;
using kvm::Mapping;
using kvm::MemorySlot;
using namespace kvm::literals;

const std::size_t page = kvm::detail::sys::page_size();

/// Lets `found` look whenever `body` locks or unlocks that mutex.
/// @return how often
template <class Found, class Body>
int watch(const std::mutex& watched, Found found, Body body) {
  int times = 0;
  Look wanted = [&](const void* mutex) {
    if (mutex == &watched) {
      ++times;
      found();
    }
  };
  look = &wanted;
  body();
  look = nullptr;
  return times;
}

struct Locks : testing::Test {
  void SetUp() override {
#ifdef _LIBCPP_VERSION
    GTEST_SKIP() << "libc++ locks its mutexes where no linker sees it";
#endif
  }
  kvm::System system;
  kvm::Vm vm = system.create_vm();
  kvm::GuestMemory memory = vm.memory();
};

// Who waits for a harvest to end is not taken for the one that harvests, and neither is who has
// ended its own: the one that does would not be told that it calls itself.
TEST_F(Locks, OnlyWhoHarvestsIsTheHarvester) {
  const MemorySlot slot = vm.add_memory(Gpa{0}, Mapping::anonymous(page), {.log_dirty = true});
  kvm::DirtyTracker tracker = vm.track_dirty(kvm::DirtyMode::log);
  kvm::DirtySubscription subscription = tracker.subscribe();
  const auto subscriber = kvm_test::subscriber_of(subscription);
  int within = 0;
  EXPECT_EQ(watch(
                subscriber->harvesting, [&] { EXPECT_EQ(subscriber->harvester, 0u); },
                [&] {
                  static_cast<void>(subscription.harvest([&](const kvm::DirtyPages&) {
                    ++within;
                    EXPECT_NE(subscriber->harvester, 0u);
                    const auto nested = subscription.try_harvest([](const kvm::DirtyPages&) {});
                    EXPECT_EQ(nested.error().error_number(), EDEADLK);
                  }));
                }),
            2);
  EXPECT_EQ(within, 1) << "a tracker begins with all pages dirty";
}

// A pin that ends writes its marks for the last time, so it is looked for first.
TEST_F(Locks, WhatHasGoneIsLookedForInPinsBeforeItMarks) {
  const Mapping shared = Mapping::anonymous(4 * page);
  std::optional<MemorySlot> slot = vm.add_memory(Gpa{0}, shared.share(), {.log_dirty = true});
  const MemorySlot alias = vm.add_memory(Gpa{1_MiB}, shared.share(), {.log_dirty = true});
  const auto state = kvm_test::state_of(*slot);
  auto pin = memory.view().pin(Gpa{0}, 8, kvm::PinFor::writing);
  ASSERT_TRUE(pin);
  slot.reset();
  static_cast<void>(kvm_test::take_marks(alias));
  auto& registry = kvm_test::registry_of(alias);
  EXPECT_EQ(watch((*state).*reach(kvm_test::PinsMutex{}),
                  [&] { EXPECT_TRUE(kvm_test::take_marks(alias).empty()); },
                  [&] { registry.settle_departed(); }),
            2);
  EXPECT_EQ(kvm_test::take_marks(alias).size(), 4u);
  pin.reset();
}

// The next log of a slot has what the last did not hand over, however soon it comes.
TEST_F(Locks, ASlotIsFreeForALogWhenItHasItsPagesBack) {
  constexpr std::uint64_t pages = 1 << 17;
  const MemorySlot slot =
      vm.add_memory(Gpa{4_GiB}, Mapping::anonymous(pages * page), {.log_dirty = true});
  for (int round = 0; round < 3; ++round) {
    std::optional<kvm::DirtyLog> first(slot);
    for (std::uint64_t i = 0; i < pages; i += 2) {
      kvm_test::state_of(slot)->marks()->mark(i);
    }
    EXPECT_EQ(first->harvest([](GfnRange) { return false; }), 0u);
    std::atomic<bool> ready{false};
    std::uint64_t found = 0;
    std::thread other([&] {
      ready = true;
      for (;;) {
        if (auto next = kvm::DirtyLog::try_open(slot)) {
          found = next->harvest([](GfnRange) {});
          return;
        }
      }
    });
    while (!ready) {
      std::this_thread::yield();
    }
    first.reset();
    other.join();
    EXPECT_GE(found, pages / 2) << round;
  }
}

}  // namespace
