// SPDX-License-Identifier: MIT
// Each allocation fails in turn: the error is ENOMEM or std::bad_alloc, what had begun is undone,
// and a second try succeeds.
#include "driver.hpp"
#include "support/allocations.hpp"

#include <kvm/detail/address_space.hpp>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <limits>
#include <new>
#include <optional>
#include <string>
#include <utility>

namespace {

using fault::FaultTest;
using fault::Guest;
using kvm::Gpa;
using kvm::Mapping;
using kvm_test::allocations_left;

constexpr std::uint64_t page = 4096;
constexpr Gpa slot_at{0x800000};

/// Lets the allocation after `successes` others fail, and no other.
void fail_after(std::size_t successes) {
  kvm_test::fails_once = true;
  allocations_left = static_cast<long>(successes);
}
/// @return whether it failed
bool stop_failing() { return std::exchange(allocations_left, -1) < 0; }

/// A guest, and a slot beside its memory.
struct WithSlot {
  Guest guest = fault::make_guest();
  std::optional<kvm::MemorySlot> slot;

  explicit WithSlot(bool logged = false)
      : slot(guest.vm.add_memory(slot_at, Mapping::anonymous(8 * page), {.log_dirty = logged})) {}
};

/// Runs `operation` on what `make` returns, with the first allocation failing, the second, and so
/// on.
/// @param operation returns a Result
template <class Make, class F>
void expect_withstands(Make make, F operation) {
  std::size_t refused = 0;
  for (std::size_t n = 0;; ++n) {
    ASSERT_LT(n, 1000u) << "an operation that allocates so often is not tried here";
    SCOPED_TRACE("allocation " + std::to_string(n));
    const auto outside = fault::Resources::now();
    bool failed = false;
    bool injected = false;
    {
      auto subject = make();
      try {
        fail_after(n);
        auto result = operation(subject);
        injected = stop_failing();
        failed = !result;
        if (failed) {
          EXPECT_EQ(result.error().error_number(), ENOMEM) << result.error().what();
        }
      } catch (const std::bad_alloc&) {
        injected = stop_failing();
        failed = true;
      }
      EXPECT_TRUE(injected || !failed);
      refused += failed;
      if (failed) {
        auto again = operation(subject);
        EXPECT_TRUE(again) << again.error().what();
      }
    }
    EXPECT_EQ(fault::Resources::now(), outside) << "with all handles gone";
    if (!injected) {
      EXPECT_GT(refused, 0u) << "no allocation failed: is operator new replaced?";
      return;
    }
  }
}

class AllocationFaults : public FaultTest {};

// Not its first slot and not the mapping: our own mmap, which counts, allocates too.
TEST_F(AllocationFaults, AddMemory) {
  expect_withstands([] { return WithSlot(); },
                    [](WithSlot& subject) {
                      const long left = std::exchange(allocations_left, -1);
                      Mapping memory = Mapping::anonymous(8 * page);
                      allocations_left = left;
                      return subject.guest.vm.try_add_memory(slot_at + 16 * page, std::move(memory),
                                                             {});
                    });
}

// After its mapping, for the same reason.
TEST_F(AllocationFaults, TheFirstTable) {
  const auto fails_with = [](std::size_t successes) {
    kvm::Vm vm = kvm::System().create_vm();
    const std::size_t mappings = fault::live_mappings();
    fault::arm({{.matches = [successes](const fault::Call& call, std::size_t) {
      if (call.function == fault::Function::madvise) {
        fail_after(successes);
      }
      return false;
    }}});
    const auto memory = vm.try_memory();
    allocations_left = -1;
    fault::disarm();
    ASSERT_FALSE(memory);
    EXPECT_EQ(memory.error().error_number(), ENOMEM) << memory.error().what();
    EXPECT_NE(std::string(memory.error().what()).find("for the table of memory slots"),
              std::string::npos)
        << memory.error().what();
    EXPECT_EQ(fault::live_mappings(), mappings);
    EXPECT_TRUE(vm.try_memory());
  };
  fails_with(0);
  fails_with(1);
}

// The mapping itself.
TEST_F(AllocationFaults, TheFirstTablesMemory) {
  kvm::Vm vm = kvm::System().create_vm();
  fault::arm({{.matches = [](const fault::Call& call,
                             std::size_t) { return call.function == fault::Function::mmap; },
               .error_number = ENOMEM}});
  const auto memory = vm.try_memory();
  fault::disarm();
  ASSERT_FALSE(memory);
  EXPECT_EQ(memory.error().error_number(), ENOMEM);
  EXPECT_STREQ(memory.error().operation(), "mmap");
  EXPECT_TRUE(vm.try_memory());
}

// A VM's first slot, without the VM.
TEST_F(AllocationFaults, RoomForTheFirstSlot) {
  for (std::size_t n = 0;; ++n) {
    ASSERT_LT(n, 100u);
    auto made = kvm::detail::AddressSpace::try_make(0, 1, false);
    ASSERT_TRUE(made);
    fail_after(n);
    const bool reserved = (*made)->reserve(1);
    const bool injected = stop_failing();
    EXPECT_EQ(reserved, !injected) << "allocation " << n;
    EXPECT_TRUE((*made)->reserve(1));
    if (!injected) {
      EXPECT_GE(n, 4u) << "a table, and room in three lists";
      return;
    }
  }
}

TEST_F(AllocationFaults, MoveASlot) {
  expect_withstands(
      [] { return WithSlot(); },
      [](WithSlot& subject) { return subject.slot->try_move_to(slot_at + 32 * page); });
}

TEST_F(AllocationFaults, LogASlot) {
  expect_withstands([] { return WithSlot(); },
                    [](WithSlot& subject) { return subject.slot->try_log_dirty(true); });
}

TEST_F(AllocationFaults, RemoveASlot) {
  expect_withstands([] { return WithSlot(true); },
                    [](WithSlot& subject) { return subject.slot->try_remove(); });
}

TEST_F(AllocationFaults, Track) {
  expect_withstands([] { return WithSlot(true); },
                    [](WithSlot& subject) -> kvm::Result<kvm::DirtyHarvest> {
                      auto tracker = subject.guest.vm.try_track_dirty(kvm::DirtyMode::log);
                      if (!tracker) return tracker.error();
                      auto subscription = tracker->try_subscribe();
                      if (!subscription) return subscription.error();
                      return subscription->try_harvest([](const kvm::DirtyPages&) {});
                    });
}

}  // namespace
