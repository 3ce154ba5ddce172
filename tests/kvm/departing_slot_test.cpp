// SPDX-License-Identifier: MIT
// Slots that go while others show the same memory, and what is written through them last.
#include <kvm/kvm.hpp>

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "support/rounds.hpp"

namespace {

using namespace kvm::literals;
using kvm::Gpa;

const std::size_t size = 16 * kvm::detail::sys::page_size();

struct Aliases {
  kvm::System system;
  kvm::Vm vm = system.create_vm();
  kvm::DirtyTracker tracker = vm.track_dirty(kvm::DirtyMode::log);
  kvm::Mapping memory = kvm::Mapping::anonymous(size);
  std::optional<kvm::MemorySlot> goes = vm.add_memory(Gpa{0}, memory.share(), {.log_dirty = true});
  kvm::MemorySlot stays = vm.add_memory(Gpa{1_MiB}, memory.share(), {.log_dirty = true});
  kvm::DirtySubscription subscription = tracker.subscribe();
  kvm::GuestMemory::View view = vm.memory().view();
  std::uint64_t page = kvm::detail::sys::page_size();

  std::set<std::uint64_t> harvest() {
    std::set<std::uint64_t> pages;
    subscription.harvest([&](const kvm::DirtyPages& run) {
      for (std::uint64_t i = 0; i < run.pages.count; ++i) {
        pages.insert(run.backing_offset / page + i);
      }
    });
    return pages;
  }
};

// The slot goes while its pages are being handed over, and the page is written through the other
// and collected before the function returns.
TEST(DepartingSlot, WhatIsCollectedMeanwhileStays) {
  Aliases aliases;
  static_cast<void>(aliases.harvest());
  ASSERT_TRUE(aliases.view.write<std::uint64_t>(Gpa{3 * aliases.page}, 1));
  bool first = true;
  bool again = false;
  aliases.subscription.harvest([&](const kvm::DirtyPages& run) {
    if (std::exchange(first, false)) {
      aliases.goes.reset();
      ASSERT_TRUE(aliases.view.write<std::uint64_t>(Gpa{1_MiB + 3 * aliases.page}, 2));
      aliases.tracker.collect();
    } else {  // By the same harvest, or by the next one.
      again = again || (run.pages.first <= 3 && run.pages.first + run.pages.count > 3);
    }
  });
  EXPECT_FALSE(first);
  EXPECT_TRUE(again || aliases.harvest().contains(3));
}

// A page that was declined is offered again as the other's when its slot has gone.
TEST(DepartingSlot, WhatWasDeclinedIsOfferedAsTheOthers) {
  Aliases aliases;
  static_cast<void>(aliases.harvest());
  ASSERT_TRUE(aliases.view.write<std::uint64_t>(Gpa{3 * aliases.page}, 1));
  aliases.subscription.harvest([&](const kvm::DirtyPages&) { return false; });
  aliases.goes.reset();
  EXPECT_TRUE(aliases.harvest().contains(3));
}

// A device that has a pin writes after the slot has gone.
TEST(DepartingSlot, APinMarksTheOthersToo) {
  Aliases aliases;
  auto pin = aliases.view.pin(Gpa{5 * aliases.page}, 8, kvm::PinFor::writing);
  ASSERT_TRUE(pin);
  aliases.goes.reset();
  static_cast<void>(aliases.harvest());
  static_cast<void>(aliases.harvest());
  *reinterpret_cast<volatile std::uint64_t*>(pin->data()) = 42;
  pin.reset();
  EXPECT_TRUE(aliases.harvest().contains(5));
  EXPECT_TRUE(aliases.harvest().empty()) << "the slot that has gone is forgotten";
}

// A slot that moves again and again leaves nothing behind.
TEST(DepartingSlot, MovesLeaveNothingBehind) {
  Aliases aliases;
  for (std::uint64_t i = 0; i < kvm_test::rounds(70'000); ++i) {
    auto moved = aliases.goes->try_move_to(Gpa{(16 + i % 2) * 1_MiB});
    ASSERT_TRUE(moved) << moved.error().what();
  }
}

// Memory that is given back reads as zero, which a migration has to tell.
TEST(DepartingSlot, DiscardIsDirty) {
  Aliases aliases;
  ASSERT_TRUE(aliases.view.write<std::uint64_t>(Gpa{2 * aliases.page}, 7));
  static_cast<void>(aliases.harvest());
  aliases.stays.discard(2 * aliases.page, aliases.page);
  EXPECT_EQ(aliases.view.read<std::uint64_t>(Gpa{2 * aliases.page}), 0u);
  EXPECT_TRUE(aliases.harvest().contains(2));
  EXPECT_EQ(aliases.stays.try_discard(1, aliases.page).error().error_number(), EINVAL);
  EXPECT_EQ(aliases.stays.try_discard(size, aliases.page).error().error_number(), EINVAL);
}

}  // namespace
