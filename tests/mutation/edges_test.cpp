// SPDX-License-Identifier: MIT
// Edges of accesses, of handles that were moved from, and of dirty tracking, each with what a wrong
// or missing check would do there.
#include <kvm/kvm.hpp>

#include <gtest/gtest.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fault/interpose.hpp"
#include "support/child.hpp"
#include "support/slot_access.hpp"
#include "support/zeroed_pages.hpp"
#include "watch.hpp"

namespace kvm_test {
struct ReadersOf {
  using Member = std::vector<kvm::detail::Reader*> kvm::detail::AddressSpace::*;
  friend Member reach(ReadersOf);
};
template struct Reach<ReadersOf, &kvm::detail::AddressSpace::readers_>;
struct NextRecord {
  using Member = std::uint32_t kvm::detail::AddressSpace::*;
  friend Member reach(NextRecord);
};
template struct Reach<NextRecord, &kvm::detail::AddressSpace::next_record_>;
struct LineOfCache {
  using Member = kvm::detail::CacheLine* kvm::GfnToHvaCache::*;
  friend Member reach(LineOfCache);
};
template struct Reach<LineOfCache, &kvm::GfnToHvaCache::line_>;
}  // namespace kvm_test

namespace {

using fault::Call;
using kvm::Gpa;
using kvm::Mapping;
using kvm::MemorySlot;
namespace request = kvm::uapi::request;
using namespace kvm::literals;

const std::size_t page_size = kvm::detail::sys::page_size();

template <class Result>
int error_of(const Result& result) {
  return result ? 0 : result.error().error_number();
}
std::vector<fault::Rule> refuse(unsigned long code, int error_number, int times = 1) {
  return {{.matches = [code](const Call& call, std::size_t) { return call.is_ioctl(code); },
           .error_number = error_number,
           .times = times}};
}
/// Calls `look` before each such ioctl that `body` makes.
/// @return how often
template <class Look, class Body>
int watch(unsigned long code, Look look, Body body) {
  return fault::watch([code](const Call& call) { return call.is_ioctl(code); }, look, body);
}

struct Edges : testing::Test {
  kvm::System system;
  kvm::Vm vm = system.create_vm();
  kvm::GuestMemory memory = vm.memory();
  kvm::detail::AddressSpace& space = kvm_test::space_of(memory);
  kvm::GuestMemory::View view = memory.view();
};

TEST_F(Edges, AccessesEndWithTheSlot) {
  const MemorySlot slot = vm.add_memory(Gpa{1_MiB}, Mapping::anonymous(page_size));
  const Gpa end{1_MiB + page_size};
  ASSERT_TRUE(view.read<std::uint64_t>(Gpa{1_MiB}));  // It is remembered.
  for (std::uint64_t back = 1; back < 8; ++back) {
    EXPECT_FALSE(view.read<std::uint64_t>(end - back)) << back;
    EXPECT_FALSE(view.write<std::uint64_t>(end - back, 1)) << back;
    EXPECT_EQ(view.read<std::uint32_t>(end - back).has_value(), back >= 4) << back;
    EXPECT_EQ(view.write<std::uint32_t>(end - back, 1), back >= 4) << back;
    EXPECT_EQ(view.write<std::uint16_t>(end - back, 1), back >= 2) << back;
  }
  EXPECT_TRUE(view.read<std::uint64_t>(end - 8));
  EXPECT_TRUE(view.write<std::uint64_t>(end - 8, 1));
}
TEST_F(Edges, ACacheHasItsRangeWhereverTheMemoryIs) {
  Mapping whole = Mapping::anonymous(4 * page_size);
  kvm::GfnToHvaCache cache(memory, Gpa{0}, 64);
  {
    const MemorySlot high = vm.add_memory(Gpa{0}, whole.part(2 * page_size, page_size));
    ASSERT_TRUE(cache.read<std::uint64_t>(0));
  }
  const MemorySlot low = vm.add_memory(Gpa{0}, whole.part(0, page_size));
  ASSERT_TRUE(cache.read<std::uint64_t>(0));
  EXPECT_FALSE(cache.read<std::uint64_t>(64));
  EXPECT_FALSE(cache.write<std::uint64_t>(64, 1));
  EXPECT_FALSE(cache.read<std::uint64_t>(2 * page_size));
  EXPECT_EQ((cache.*reach(kvm_test::LineOfCache{}))->readable, 64u) << "the fast way is as long";
}
TEST_F(Edges, NothingIsMarkedByWritingNothing) {
  const MemorySlot slot =
      vm.add_memory(Gpa{0}, Mapping::anonymous(4 * page_size), {.log_dirty = true});
  for (const std::uint64_t at : {std::uint64_t{0}, std::uint64_t{100}, std::uint64_t{page_size}}) {
    EXPECT_TRUE(slot.load(Gpa{at}, std::span<const std::byte>()));
    EXPECT_TRUE(view.write(Gpa{at}, std::span<const std::byte>()));
  }
  EXPECT_TRUE(kvm_test::take_marks(slot).empty());
}
TEST_F(Edges, ReadersThatEndedAreForgotten) {
  const auto& readers = space.*reach(kvm_test::ReadersOf{});
  const std::size_t before = readers.size();
  {
    kvm::GuestMemory::View one = memory.view();
    kvm::GuestMemory::View two = memory.view();
    kvm::GfnToHvaCache three(memory, Gpa{0}, 8);
    EXPECT_EQ(readers.size(), before + 3);
    one = std::move(two);
    EXPECT_EQ(readers.size(), before + 2);
  }
  EXPECT_EQ(readers.size(), before);
}

// --- the tables, with readers in the middle of an access ---

TEST_F(Edges, AnAccessFromBeforeAMoveHoldsUpTheRemoval) {
  MemorySlot slot = vm.add_memory(Gpa{0}, Mapping::anonymous(page_size));
  kvm::detail::Reader reader;
  space.add_reader(reader);
  reader.announced = memory.generation();
  slot.move_to(Gpa{1_MiB});
  auto removed = slot.try_remove().value();
  EXPECT_TRUE(removed.in_use());
  reader.announced = 0;
  EXPECT_FALSE(removed.in_use());
  // One from before it came does not.
  reader.announced = memory.generation();
  MemorySlot later = vm.add_memory(Gpa{0}, Mapping::anonymous(page_size));
  EXPECT_FALSE(later.try_remove().value().in_use());
  // Unless it is about to look for the table that there is.
  MemorySlot third = vm.add_memory(Gpa{0}, Mapping::anonymous(page_size));
  reader.announced = reader.announced | kvm::detail::AddressSpace::or_later;
  auto held = third.try_remove().value();
  EXPECT_TRUE(held.in_use());
  reader.announced = 0;
  space.remove_reader(reader);
}
TEST_F(Edges, ARecordIsUsedAgainWhenNobodyReadsIt) {
  kvm::detail::Reader reader;
  space.add_reader(reader);
  std::optional<MemorySlot> slot = vm.add_memory(Gpa{0}, Mapping::anonymous(page_size));
  const std::uint32_t record = kvm_test::state_of(*slot)->record;
  reader.announced = memory.generation();
  const MemorySlot other = vm.add_memory(Gpa{1_MiB}, Mapping::anonymous(page_size));
  slot.reset();
  static_cast<void>(memory.reclaim());
  slot = vm.add_memory(Gpa{0}, Mapping::anonymous(page_size));
  EXPECT_NE(kvm_test::state_of(*slot)->record, record) << "it is being read";
  reader.announced = 0;
  static_cast<void>(memory.reclaim());
  EXPECT_EQ(space.retired_tables(), 0u);
  const MemorySlot third = vm.add_memory(Gpa{2_MiB}, Mapping::anonymous(page_size));
  const MemorySlot fourth = vm.add_memory(Gpa{3_MiB}, Mapping::anonymous(page_size));
  EXPECT_TRUE(kvm_test::state_of(third)->record == record ||
              kvm_test::state_of(fourth)->record == record)
      << "it is lost";
  space.remove_reader(reader);
}
TEST_F(Edges, RecordsAreAsManyAsThereIsRoomFor) {
  constexpr std::uint32_t end = 65536 * 64;
  const MemorySlot first = vm.add_memory(Gpa{0}, Mapping::anonymous(page_size));
  space.*reach(kvm_test::NextRecord{}) = end - 64;
  const MemorySlot last = vm.add_memory(Gpa{1_MiB}, Mapping::anonymous(page_size));
  EXPECT_EQ(kvm_test::state_of(last)->record, end - 64);
  const auto refused = vm.try_add_memory(Gpa{2_MiB}, Mapping::anonymous(page_size));
  EXPECT_EQ(error_of(refused), ENOMEM);
}
TEST_F(Edges, ManyReaders) {
  std::vector<kvm::detail::Reader> readers(40);
  for (auto& reader : readers) {
    space.add_reader(reader);
  }
  MemorySlot slot = vm.add_memory(Gpa{0}, Mapping::anonymous(page_size));
  static_cast<void>(memory.reclaim());
  EXPECT_EQ(space.retired_tables(), 0u) << "readers that do nothing hold up nothing";
  const std::uint64_t old = memory.generation();
  for (auto& reader : readers) {
    reader.announced = old + 100;
  }
  readers.back().announced = old;  // Beyond those that are known one by one.
  slot.move_to(Gpa{1_MiB});
  const std::uint64_t now = memory.generation();
  static_cast<void>(memory.reclaim());
  EXPECT_EQ(space.retired_tables(), 1u);
  readers.back().announced = now;
  static_cast<void>(memory.reclaim());
  EXPECT_EQ(space.retired_tables(), 0u);
  for (auto& reader : readers) {
    space.remove_reader(reader);
  }
}

// --- handles that were moved from, and to themselves ---

TEST_F(Edges, MovedFromAndToThemselves) {
  MemorySlot slot = vm.add_memory(Gpa{0}, Mapping::anonymous(4 * page_size), {.log_dirty = true});
  {
    kvm::DirtyLog log(slot);
    auto& same = log;
    log = std::move(same);
    EXPECT_TRUE(log.try_harvest([](kvm::GfnRange) {}));
    kvm::DirtyBitmap pages(slot);
    kvm::DirtyLog other = std::move(log);
    EXPECT_FALSE(log.exists());
    EXPECT_EQ(error_of(log.try_get(pages)), EBADF);
    EXPECT_EQ(error_of(log.try_clear(pages, 0, 0)), EBADF);
    ASSERT_TRUE(slot.load(Gpa{0}, std::array<std::byte, 1>{}));
    int calls = 0;
    other.harvest([&](kvm::GfnRange) {
      ++calls;
      EXPECT_EQ(error_of(other.try_get(pages)), EDEADLK);
      EXPECT_EQ(error_of(other.try_clear(pages, 0, 0)), EDEADLK);
    });
    EXPECT_GT(calls, 0);
    log = std::move(other);
    EXPECT_TRUE(log.exists());
    EXPECT_TRUE(log.try_harvest([](kvm::GfnRange) {}));
    EXPECT_FALSE(other.exists());
  }
  kvm::DirtyTracker tracker = vm.track_dirty(kvm::DirtyMode::log);
  std::weak_ptr<kvm::detail::DirtySubscriber> subscriber;
  {
    kvm::DirtySubscription subscription = tracker.subscribe();
    auto& same = subscription;
    subscription = std::move(same);
    EXPECT_TRUE(subscription.try_harvest([](const kvm::DirtyPages&) {}));
    subscriber = kvm_test::subscriber_of(subscription);
    kvm::DirtySubscription second = tracker.subscribe();
    second = std::move(subscription);
    EXPECT_TRUE(second.try_harvest([](const kvm::DirtyPages&) {}));
    EXPECT_EQ(error_of(subscription.try_harvest([](const kvm::DirtyPages&) {})), EBADF);
  }
  EXPECT_TRUE(subscriber.expired()) << "one that is gone is forgotten";
  MemorySlot other = vm.add_memory(Gpa{1_MiB}, Mapping::anonymous(page_size));
  MemorySlot taken = std::move(other);
  EXPECT_EQ(error_of(tracker.try_subscribe({.slot = &other})), EINVAL);
  EXPECT_EQ(error_of(other.try_discard(0, page_size)), EBADF);
  EXPECT_THROW(static_cast<void>(other.remove()), kvm::Error);
  auto pin = view.pin(Gpa{1_MiB}, 8, kvm::PinFor::reading);
  EXPECT_THROW(static_cast<void>(taken.remove()), kvm::Error);
  EXPECT_TRUE(view.contains(Gpa{1_MiB}, 8)) << "it is still there";
  pin.reset();
  auto removed = taken.try_remove().value();
  const auto elsewhere = std::move(removed);
  EXPECT_FALSE(removed.in_use());
}
TEST_F(Edges, RingsMovedFromAndToThemselves) {
  if (!vm.try_enable(kvm::cap::DirtyLogRingAcqRel{})) {
    GTEST_SKIP() << "no cap::DirtyLogRingAcqRel";
  }
  kvm::Vcpu vcpu = vm.create_vcpu(0);
  {
    kvm::DirtyRing ring(vcpu);
    auto& same = ring;
    ring = std::move(same);
    EXPECT_TRUE(ring.try_harvest([](kvm::SlotId, std::uint64_t) {}));
    kvm::DirtyRing second = std::move(ring);
    ring = std::move(second);
    EXPECT_TRUE(ring.try_harvest([](kvm::SlotId, std::uint64_t) {}));
    EXPECT_EQ(second.capacity(), 0u);
  }
  const kvm::Vcpu moved = std::move(vcpu);
  EXPECT_EQ(error_of(kvm::DirtyRing::try_open(vcpu)), EBADF);
}

// --- dirty words and rings, by themselves ---

TEST(DirtyEdges, ARangeIsMarkedBeyondItsFirstWord) {
  for (const std::uint64_t first : {0u, 1u, 63u}) {
    for (const std::uint64_t count : {64u, 65u, 66u, 130u, 63u}) {
      const kvm::detail::DirtyWords words(256);
      words.mark_range(0, 64);
      words.mark_range(first, count);
      for (std::uint64_t page = first; page < first + count; ++page) {
        EXPECT_TRUE(words.data()[page / 64] >> page % 64 & 1) << first << '+' << count;
      }
    }
  }
}
TEST(DirtyEdges, ARingIsDrainedAsFarAsThereIsRoom) {
  kvm::detail::VcpuPages pages = kvm_test::zeroed_pages(page_size);
  auto* const entries = reinterpret_cast<kvm::uapi::kvm_dirty_gfn*>(pages.data());
  for (std::uint32_t i = 0; i < 5; ++i) {
    entries[i].flags = kvm::uapi::dirty_gfn::dirty;
    entries[i].slot = i;
  }
  kvm::detail::VcpuRing ring(std::move(pages), kvm::VcpuId(0), {}, 0);
  std::vector<std::uint32_t> slots;
  ring.drain(2, [&](const kvm::detail::VcpuRing::Entry& entry) {
    EXPECT_EQ(entries[entry.slot].flags, kvm::uapi::dirty_gfn::dirty)
        << "KVM may use the entry again before it was read";
    slots.push_back(entry.slot);
  });
  EXPECT_EQ(slots, (std::vector<std::uint32_t>{0, 1}));
  ring.drain(100, [&](const kvm::detail::VcpuRing::Entry& entry) { slots.push_back(entry.slot); });
  EXPECT_EQ(slots.size(), 5u);
}

// --- what a tracker does when something fails or goes meanwhile ---

struct TrackedEdges : Edges {
  void SetUp() override {
    tracker = vm.track_dirty(kvm::DirtyMode::manual);
    slot = vm.add_memory(Gpa{0}, Mapping::anonymous(4 * page_size), {.log_dirty = true});
    goes = vm.add_memory(Gpa{1_MiB}, Mapping::anonymous(4 * page_size), {.log_dirty = true});
    subscription = tracker->subscribe();
    harvest();
  }
  std::uint64_t harvest() {
    return subscription->harvest([](const kvm::DirtyPages&) {}).pages;
  }
  std::optional<kvm::DirtyTracker> tracker;
  std::optional<MemorySlot> slot, goes;
  std::optional<kvm::DirtySubscription> subscription;
};

TEST_F(TrackedEdges, WhatAFailedCollectionLeftGoesBackToTheSlot) {
  ASSERT_TRUE(view.write<std::uint8_t>(Gpa{2 * page_size}, 1));
  fault::arm(refuse(request::get_dirty_log.code, ENOMEM));
  EXPECT_EQ(error_of(subscription->try_harvest([](const kvm::DirtyPages&) {})), ENOMEM);
  fault::disarm();
  subscription.reset();
  tracker.reset();
  EXPECT_EQ(kvm_test::take_marks(*slot), std::vector<std::uint64_t>{2});
}
TEST_F(TrackedEdges, WhoWantsNoPastIsToldNone) {
  ASSERT_TRUE(view.write<std::uint8_t>(Gpa{2 * page_size}, 1));
  auto fresh = tracker->subscribe({.all_pending = false});
  EXPECT_EQ(fresh.harvest([](const kvm::DirtyPages&) {}).pages, 0u);
  EXPECT_EQ(harvest(), 1u);
  fault::arm(refuse(request::get_dirty_log.code, ENOMEM));
  EXPECT_EQ(error_of(tracker->try_subscribe({.all_pending = false})), ENOMEM);
  fault::disarm();
}
TEST_F(TrackedEdges, ASlotMayGoWhileItsLogIsRead) {
  EXPECT_GE(watch(
                request::get_dirty_log.code, [&] { goes.reset(); },
                [&] { EXPECT_TRUE(tracker->try_collect()); }),
            1);
  EXPECT_TRUE(tracker->untracked().empty());
}
TEST_F(TrackedEdges, LoggingMayEndWhileTheLogIsRead) {
  watch(
      request::get_dirty_log.code, [&] { goes->log_dirty(false); },
      [&] { EXPECT_TRUE(tracker->try_collect()); });
  EXPECT_EQ(tracker->untracked().size(), 1u);
}
TEST(DirtyEdges, ALogThatIsClearedByReadingIsNotClearedAgain) {
  kvm::System system;
  kvm::Vm vm = system.create_vm();
  const MemorySlot slot =
      vm.add_memory(Gpa{0}, Mapping::anonymous(4 * page_size), {.log_dirty = true});
  kvm::DirtyLog log(slot);
  EXPECT_EQ(watch(
                request::clear_dirty_log.code, [] {},
                [&] {
                  ASSERT_TRUE(slot.load(Gpa{0}, std::array<std::byte, 1>{}));
                  log.harvest([](kvm::GfnRange) {});
                }),
            0);
  kvm::Vm other = system.create_vm();
  kvm::DirtyTracker tracker = other.track_dirty(kvm::DirtyMode::log);
  const MemorySlot tracked =
      other.add_memory(Gpa{0}, Mapping::anonymous(4 * page_size), {.log_dirty = true});
  EXPECT_EQ(watch(
                request::clear_dirty_log.code, [] {}, [&] { tracker.collect(); }),
            0);
}
TEST(DirtyEdges, ManyAliasesOfManyMemories) {
  kvm::System system;
  kvm::Vm vm = system.create_vm();
  kvm::DirtyTracker tracker = vm.track_dirty(kvm::DirtyMode::log);
  const Mapping memories[] = {Mapping::anonymous(4 * page_size), Mapping::anonymous(4 * page_size)};
  std::vector<MemorySlot> slots;
  for (std::uint64_t i = 0; i < 40; ++i) {
    slots.push_back(vm.add_memory(Gpa{i * 1_MiB},
                                  memories[i % 2].part(i % 4 / 2 * page_size, 2 * page_size),
                                  {.log_dirty = true}));
  }
  kvm::DirtySubscription all = tracker.subscribe();
  all.harvest([](const kvm::DirtyPages&) {});
  std::vector<kvm::DirtySubscription> each;
  for (const MemorySlot& slot : slots) {
    each.push_back(tracker.subscribe({.slot = &slot, .all_pending = false}));
  }
  ASSERT_TRUE(slots[0].load(Gpa{page_size}, std::array<std::byte, 1>{}));  // Page 1 of the first.
  for (std::uint64_t i = 0; i < slots.size(); ++i) {
    EXPECT_EQ(each[i].harvest([](const kvm::DirtyPages&) {}).pages, i % 2 == 0 ? 1u : 0u) << i;
  }
}

// Of those that begin later, some may have nothing in common with each other.
TEST(DirtyEdges, AliasesWithinALargerOne) {
  kvm::System system;
  kvm::Vm vm = system.create_vm();
  kvm::DirtyTracker tracker = vm.track_dirty(kvm::DirtyMode::log);
  const Mapping memory = Mapping::anonymous(8 * page_size);
  const MemorySlot large = vm.add_memory(Gpa{0}, memory.share(), {.log_dirty = true});
  std::vector<MemorySlot> small;
  std::vector<kvm::DirtySubscription> each;
  for (std::uint64_t i = 0; i < 8; ++i) {
    small.push_back(vm.add_memory(Gpa{(i + 1) * 1_MiB}, memory.part(i * page_size, page_size),
                                  {.log_dirty = true}));
  }
  for (const MemorySlot& slot : small) {
    each.push_back(tracker.subscribe({.slot = &slot, .all_pending = false}));
  }
  for (std::uint64_t i = 0; i < 8; ++i) {
    ASSERT_TRUE(large.load(Gpa{i * page_size}, std::array<std::byte, 1>{}));
    for (std::uint64_t k = 0; k < 8; ++k) {
      EXPECT_EQ(each[k].harvest([](const kvm::DirtyPages&) {}).pages, i == k ? 1u : 0u);
    }
  }
}

// --- descriptors ---

TEST(DescriptorEdges, TheFirstDescriptorIsOne) {
  kvm_test::expect_in_child([] {
    ::close(0);
    const auto memory = Mapping::try_memfd(page_size);
    ASSERT_TRUE(memory);
    EXPECT_EQ(memory->fd(), 0);
  });
}
TEST(DescriptorEdges, WithoutSealsThereIsNoFailureToLook) {
  const int fd = ::memfd_create("unsealed", MFD_ALLOW_SEALING);
  ASSERT_EQ(::ftruncate(fd, static_cast<off_t>(page_size)), 0);
  const auto refused = Mapping::try_from_fd(fd, page_size);
  EXPECT_EQ(error_of(refused), EPERM);
  ::close(fd);
}

}  // namespace
