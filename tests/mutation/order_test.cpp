// SPDX-License-Identifier: MIT
// Steps whose order only another thread could notice. Where the kernel is called between two of
// them, the call is watched: what another thread would see at that moment is looked at there. An
// announcement that is seen with the fence and not before stands for one that was in the store
// buffer of a reader's CPU.
#include <kvm/kvm.hpp>

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include <sys/syscall.h>

#include "fault/interpose.hpp"
#include "support/slot_access.hpp"
#include "watch.hpp"

namespace kvm_test {
struct DepartedOfRegistry {
  using Member = std::atomic<std::size_t> kvm::detail::SlotRegistry::*;
  friend Member reach(DepartedOfRegistry);
};
template struct Reach<DepartedOfRegistry, &kvm::detail::SlotRegistry::departed_count_>;
}  // namespace kvm_test

namespace {

using fault::Call;
using fault::Function;
using fault::watch;
using kvm::Gpa;
using kvm::Mapping;
using kvm::MemoryChange;
using kvm::MemorySlot;
using kvm_test::registry_of;
using namespace kvm::literals;

const std::size_t page = kvm::detail::sys::page_size();

bool is_set_region(const Call& call) {
  return call.is_ioctl(kvm::uapi::request::set_user_memory_region.code);
}
bool is_fence(const Call& call) {
  return call.function == Function::syscall && call.detail == SYS_membarrier;
}

struct Order : testing::Test {
  kvm::System system;
  kvm::Vm vm = system.create_vm();
  kvm::GuestMemory memory = vm.memory();
  kvm::detail::AddressSpace& space = kvm_test::space_of(memory);
  kvm::GuestMemory::View view = memory.view();
  Mapping shared = Mapping::anonymous(4 * page);
  std::optional<MemorySlot> slot = vm.add_memory(Gpa{0}, shared.share(), {.log_dirty = true});
  MemorySlot alias = vm.add_memory(Gpa{1_MiB}, shared.share(), {.log_dirty = true});
  kvm::detail::Reader reader;

  Order() { space.add_reader(reader); }
  ~Order() override { space.remove_reader(reader); }

  bool flagged() const { return (memory.generation() & kvm::GuestMemory::update_in_progress) != 0; }
  /// What the store buffer of a reader's CPU held.
  auto announces(std::uint64_t generation) {
    return [this, generation] { reader.announced = generation; };
  }
};

// Nobody remembers a translation while KVM is told.
TEST_F(Order, TheGenerationIsFlaggedWhileKvmIsTold) {
  const auto expect = [&](auto change) {
    EXPECT_EQ(watch(
                  is_set_region, [&] { EXPECT_TRUE(flagged()); }, change),
              1);
    EXPECT_FALSE(flagged());
  };
  expect([&] { slot->move_to(Gpa{2_MiB}); });
  expect([&] { slot->log_dirty(false); });
  expect([&] { slot->log_dirty(true); });
  expect([&] { slot.reset(); });
  expect([&] { slot = vm.add_memory(Gpa{0}, shared.share()); });
  expect([&] { static_cast<void>(slot->remove()); });
}

// Who is told that a slot goes is told before KVM, and who is told of one that came, or stayed, has
// what a reader has then.
TEST_F(Order, ObserversAreToldInTime) {
  bool told = false;
  const auto observation = memory.observe([&](const MemoryChange& change) noexcept {
    const fault::Unobserved ours;
    if (change.kind == MemoryChange::Kind::removing) {
      told = true;
      EXPECT_TRUE(flagged());
    } else {
      EXPECT_FALSE(flagged());
      EXPECT_TRUE(view.contains(*change.new_gpa, change.size));
    }
  });
  EXPECT_EQ(watch(
                is_set_region, [&] { EXPECT_TRUE(std::exchange(told, false)); },
                [&] {
                  slot->move_to(Gpa{2_MiB});
                  slot.reset();
                }),
            2);
  for (const bool moves : {true, false}) {  // Where KVM refuses, it is still there.
    fault::arm({{.matches = [](const Call& call, std::size_t) { return is_set_region(call); },
                 .error_number = ENOMEM}});
    EXPECT_FALSE(moves ? alias.try_move_to(Gpa{5_MiB}).has_value()
                       : alias.try_remove().has_value());
    fault::disarm();
    EXPECT_TRUE(std::exchange(told, false));
  }
}

// A log that is harvested by who is told of a move has all pages.
TEST_F(Order, AMovedSlotIsDirtyWhenItIsTold) {
  kvm::DirtyLog log(*slot);
  static_cast<void>(log.harvest([](kvm::GfnRange) {}));
  std::uint64_t pages = 0;
  bool listens = false;
  const auto observation = memory.observe([&](const MemoryChange& change) noexcept {
    if (listens && change.kind == MemoryChange::Kind::added) {
      pages = log.harvest([](kvm::GfnRange) {});
    }
  });
  listens = true;
  slot->move_to(Gpa{2_MiB});
  EXPECT_EQ(pages, 4u);
}

// --- an access whose announcement is seen with the fence ---

TEST_F(Order, ARemovalFencesBeforeItLooksForReaders) {
  const std::uint64_t old = memory.generation();
  std::optional<kvm::RemovedMemory> removed;
  EXPECT_GE(watch(is_fence, announces(old), [&] { removed = slot->try_remove().value(); }), 1);
  EXPECT_TRUE(removed->in_use());
  reader.announced = 0;
  EXPECT_FALSE(removed->in_use());
}
TEST_F(Order, ADroppedSlotFencesBeforeItIsUnmapped) {
  Mapping own = Mapping::anonymous(page);
  const void* const data = own.data();
  std::optional<MemorySlot> dropped = vm.add_memory(Gpa{3_MiB}, std::move(own));
  const std::uint64_t old = memory.generation();
  EXPECT_GE(watch(is_fence, announces(old), [&] { dropped.reset(); }), 1);
  EXPECT_TRUE(fault::is_mapped(data));
  reader.announced = 0;
  // And so it is when what was dropped is looked for again.
  EXPECT_EQ(watch(is_fence, announces(old), [&] { EXPECT_EQ(memory.reclaim(), 1u); }), 1);
  EXPECT_TRUE(fault::is_mapped(data));
  reader.announced = 0;
  EXPECT_EQ(memory.reclaim(), 0u);
  EXPECT_FALSE(fault::is_mapped(data));
}
TEST_F(Order, LoggingFencesBeforeItWaitsForReaders) {
  slot->log_dirty(false);
  const std::uint64_t old = memory.generation();
  std::atomic<bool> over{false};
  std::thread other;
  watch(
      is_fence,
      [&] {
        if (!other.joinable()) {
          reader.announced = old;
          other = std::thread([&] {
            std::this_thread::sleep_for(std::chrono::milliseconds(20));
            over = true;
            reader.announced = 0;
          });
        }
      },
      [&] {
        slot->log_dirty(true);
        EXPECT_TRUE(over) << "a write that began before does not mark";
      });
  ASSERT_TRUE(other.joinable());
  other.join();
}
TEST_F(Order, TablesAreTakenBackAfterAFence) {
  const std::uint64_t old = memory.generation();
  reader.announced = old;  // Keeps what is retired.
  std::size_t before = 0;
  for (std::uint64_t i = 0; space.retired_tables() <= 8; ++i) {
    slot->move_to(Gpa{(8 + i % 2) * 1_MiB});
    ASSERT_LT(i, 100u);
  }
  before = space.retired_tables();
  reader.announced = 0;
  EXPECT_GE(watch(is_fence, announces(memory.generation() - 2), [&] { slot->move_to(Gpa{0}); }), 1);
  EXPECT_GE(space.retired_tables(), 2u) << "one that a reader may have, and the last";
  EXPECT_LT(space.retired_tables(), before);
}
// What costs a call into the kernel is not done for nothing.
TEST_F(Order, ARemovalFencesOnce) {
  std::optional<kvm::RemovedMemory> removed;
  EXPECT_EQ(watch(
                is_fence, [] {}, [&] { removed = slot->try_remove().value(); }),
            1);
}
// What a slot that has gone still tells the others, as long as an access to it is in flight.
TEST_F(Order, WhatHasGoneFencesBeforeItIsForgotten) {
  auto& registry = registry_of(alias);
  const std::uint64_t old = memory.generation();
  const MemorySlot kept = vm.add_memory(Gpa{3_MiB}, Mapping::anonymous(page));
  slot.reset();
  static_cast<void>(kvm_test::take_marks(alias));
  EXPECT_GE(watch(is_fence, announces(old + 1), [&] { registry.settle_departed(); }), 1);
  EXPECT_EQ(kvm_test::take_marks(alias).size(), 4u);
  registry.settle_departed();
  EXPECT_EQ(kvm_test::take_marks(alias).size(), 4u) << "the access may have marked since";
  reader.announced = 0;
  registry.settle_departed();
  EXPECT_EQ(kvm_test::take_marks(alias).size(), 4u) << "for the last time";
  EXPECT_EQ(watch(
                is_fence, [] {}, [&] { registry.settle_departed(); }),
            0)
      << "it is forgotten";
  EXPECT_TRUE(kvm_test::take_marks(alias).empty());
  EXPECT_EQ(registry.*reach(kvm_test::DepartedOfRegistry{}), 0u) << "nobody need look again";
}
// Who was announced before a slot came has the table without it.
TEST_F(Order, ATableWithoutTheNewSlotIsKeptForItsReaders) {
  static_cast<void>(memory.reclaim());
  ASSERT_EQ(space.retired_tables(), 0u);
  reader.announced = memory.generation();
  const kvm::detail::SlotTable& before = space.table();
  const std::size_t slots = before.count();
  const MemorySlot added = vm.add_memory(Gpa{3_MiB}, Mapping::anonymous(page));
  static_cast<void>(memory.reclaim());
  EXPECT_EQ(space.retired_tables(), 1u);
  EXPECT_EQ(before.count(), slots);
  reader.announced = 0;
  static_cast<void>(memory.reclaim());
  EXPECT_EQ(space.retired_tables(), 0u);
}

}  // namespace
