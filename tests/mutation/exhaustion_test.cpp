// SPDX-License-Identifier: MIT
// Each allocation of an operation fails in turn: either it did all of its work or none, and it can
// be done again. What deletes and hands over needs no memory at all.
#include <kvm/kvm.hpp>

#include <gtest/gtest.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "fault/interpose.hpp"
#include "support/allocations.hpp"
#include "support/slot_access.hpp"

namespace {

using kvm::Gpa;
using kvm::Mapping;
using kvm::MemorySlot;
using kvm_test::allocations_left;
using kvm_test::fails_once;
using namespace kvm::literals;

const std::size_t page = kvm::detail::sys::page_size();

/// Runs `attempt` with each number of allocations, until it succeeds. It returns whether it did.
/// @param make what it is given, made anew each time
template <class Make, class Attempt, class Check>
void exhaust(Make make, Attempt attempt, Check check) {
  for (long left = 0;; ++left) {
    SCOPED_TRACE(left);
    ASSERT_LT(left, 500);
    auto fixture = make();
    bool done = false;
    allocations_left = left;
    try {
      done = attempt(*fixture);
    } catch (const std::bad_alloc&) {
    }
    allocations_left = -1;
    check(*fixture, done);
    if (done || testing::Test::HasFatalFailure()) {
      break;
    }
  }
}
/// Runs `body` where nothing can be allocated.
template <class Body>
void without_memory(Body body) {
  allocations_left = 0;
  body();
  allocations_left = -1;
}

struct Slots {
  kvm::System system;
  kvm::Vm vm = system.create_vm();
  kvm::GuestMemory memory = vm.memory();
  std::vector<MemorySlot> slots;
  kvm::GuestMemory::View view = memory.view();
  Mapping next = Mapping::anonymous(page);
  std::optional<MemorySlot> added;

  explicit Slots(std::size_t number) {
    for (std::size_t i = 0; i < number; ++i) {
      slots.push_back(
          vm.add_memory(Gpa{i * 1_MiB}, Mapping::anonymous(2 * page), {.log_dirty = true}));
    }
  }
  /// All that there was is as it was.
  void expect_whole() {
    EXPECT_EQ(memory.generation() & kvm::GuestMemory::update_in_progress, 0u);
    for (const MemorySlot& slot : slots) {
      EXPECT_TRUE(view.write<std::uint32_t>(slot.gpa(), 7));
      EXPECT_EQ(view.read<std::uint32_t>(slot.gpa()), 7u);
    }
    EXPECT_EQ(memory.slots().size(), slots.size() + (added ? 1 : 0));
  }
};
auto with_slots(std::size_t number) {
  return [number] { return std::make_unique<Slots>(number); };
}

TEST(Exhaustion, OfAdding) {
  for (const std::size_t number : {0u, 1u, 9u, 40u}) {
    exhaust(
        with_slots(number),
        [](Slots& f) {
          auto added = f.vm.try_add_memory(Gpa{1_GiB}, std::move(f.next), {.log_dirty = true});
          if (added) {
            f.added = std::move(*added);
          }
          return added.has_value();
        },
        [&](Slots& f, bool done) {
          f.expect_whole();
          EXPECT_EQ(f.added.has_value(), done);
          if (!done) {
            ASSERT_EQ(f.next.size(), page) << "the memory was taken";
            f.added = f.vm.add_memory(Gpa{1_GiB}, std::move(f.next), {.log_dirty = true});
          }
          EXPECT_EQ(f.added->id().id, number) << "a number is lost";
          // What ends without memory is parked at worst.
          without_memory([&] {
            f.added.reset();
            f.slots.clear();
          });
          EXPECT_EQ(f.vm.parked_mappings(), f.memory.slots().size());
          EXPECT_EQ(f.memory.reclaim(), 0u);
        });
  }
}

TEST(Exhaustion, OfChanges) {
  exhaust(
      with_slots(2), [](Slots& f) { return f.slots[0].try_move_to(Gpa{1_GiB}).has_value(); },
      [](Slots& f, bool done) {
        f.expect_whole();
        EXPECT_EQ(f.slots[0].gpa(), Gpa(done ? 1_GiB : 0));
        EXPECT_EQ(f.view.contains(Gpa{1_GiB}, 1), done);
      });
  exhaust(
      [] {
        auto f = std::make_unique<Slots>(1);
        f->added = f->vm.add_memory(Gpa{1_GiB}, Mapping::anonymous(page));
        return f;
      },
      [](Slots& f) { return f.added->try_log_dirty(true).has_value(); },
      [](Slots& f, bool done) {
        f.expect_whole();
        EXPECT_EQ(f.added->logs_dirty(), done);
        f.added->log_dirty(true);
      });
}

// A reader holds up all tables, so that each removal needs a new one: it fails, or all of it is
// done.
TEST(Exhaustion, OfRemovals) {
  for (const bool removes : {false, true}) {
    exhaust(
        [] {
          struct Held : Slots {
            kvm::detail::AddressSpace& space = kvm_test::space_of(memory);
            kvm::detail::Reader reader;
            Held() : Slots(3) {
              space.add_reader(reader);
              reader.announced = memory.generation();
              for (int i = 0; i < 12; ++i) {  // No spare is left.
                slots[1].move_to(Gpa{(10u + static_cast<unsigned>(i) % 2) * 1_MiB});
              }
            }
            ~Held() { space.remove_reader(reader); }
          };
          return std::make_unique<Held>();
        },
        [&](Slots& f) {
          return removes ? f.slots[0].try_remove().has_value()
                         : f.slots[0].try_move_to(Gpa{1_GiB}).has_value();
        },
        [&](Slots& f, bool done) {
          EXPECT_EQ(f.memory.generation() & kvm::GuestMemory::update_in_progress, 0u);
          EXPECT_EQ(f.view.contains(Gpa{0}, 1), !done);
          EXPECT_EQ(f.memory.slots().size(), done && removes ? 2u : 3u);
        });
  }
}

TEST(Exhaustion, OfPinning) {
  exhaust(
      [] {
        struct Pinned : Slots {
          // Another pin of this thread, which one that fails must not undo.
          std::optional<kvm::Pin> earlier;
          Pinned() : Slots(1) {
            added = vm.add_memory(Gpa{2 * page}, Mapping::anonymous(page));
            earlier = view.pin(Gpa{2 * page}, 8, kvm::PinFor::writing);
          }
        };
        return std::make_unique<Pinned>();
      },
      [](Slots& f) {
        auto pin = f.view.pin(Gpa{page}, 2 * page, kvm::PinFor::writing);
        allocations_left = -1;
        EXPECT_TRUE(pin && pin->iovecs().size() == 2);
        return true;
      },
      [](auto& f, bool) {
        f.expect_whole();
        EXPECT_FALSE(kvm_test::state_of(f.slots[0])->pinned());
        EXPECT_TRUE(kvm_test::state_of(*f.added)->pinned());
        f.earlier.reset();
        EXPECT_FALSE(kvm_test::state_of(*f.added)->pinned());
      });
}

TEST(Exhaustion, OfObserving) {
  exhaust(
      with_slots(2),
      [](Slots& f) {
        int told = 0;
        try {
          const auto observation =
              f.memory.observe([&told](const kvm::MemoryChange&) noexcept { ++told; });
          EXPECT_EQ(told, 2);
        } catch (...) {
          allocations_left = -1;
          EXPECT_EQ(told, 0) << "one who does not listen was told";
          throw;
        }
        return true;
      },
      [](Slots& f, bool) {
        f.expect_whole();
        f.slots[0].move_to(Gpa{1_GiB});
      });
}

TEST(Exhaustion, OfALog) {
  exhaust(
      with_slots(1), [](Slots& f) { return kvm::DirtyLog::try_open(f.slots[0]).has_value(); },
      [](Slots& f, bool) { EXPECT_TRUE(kvm::DirtyLog::try_open(f.slots[0])); });
}

TEST(Exhaustion, OfARing) {
  exhaust(
      [] {
        struct Ring {
          kvm::System system;
          kvm::Vm vm = system.create_vm();
          std::optional<kvm::Vcpu> vcpu;
        };
        auto f = std::make_unique<Ring>();
        if (f->vm.try_enable(kvm::cap::DirtyLogRingAcqRel{})) {
          f->vcpu = f->vm.create_vcpu(0);
        }
        return f;
      },
      [](auto& f) { return !f.vcpu || kvm::DirtyRing::try_open(*f.vcpu).has_value(); },
      [](auto& f, bool) { EXPECT_TRUE(!f.vcpu || kvm::DirtyRing::try_open(*f.vcpu)); });
}

TEST(Exhaustion, OfReaders) {
  exhaust(
      with_slots(1),
      [](Slots& f) {
        kvm::GuestMemory::View view = f.memory.view();
        kvm::GfnToHvaCache cache(f.memory, Gpa{0}, 8);
        allocations_left = -1;
        return view.read<std::uint32_t>(Gpa{0}).has_value() && cache.valid();
      },
      [](Slots& f, bool) {
        f.expect_whole();
        f.slots[0].log_dirty(false);
        f.slots[0].log_dirty(true);  // Looks at all readers.
      });
}

// A tracker that cannot take over new slots has changed nothing, and does so the next time.
TEST(Exhaustion, OfTracking) {
  struct Tracked : Slots {
    kvm::DirtyTracker tracker = vm.track_dirty(kvm::DirtyMode::log);
    std::vector<kvm::DirtySubscription> subscriptions;
    std::optional<kvm::DirtyLog> log;
    Tracked() : Slots(3) {
      log.emplace(slots[2]);
      slots[0].log_dirty(false);
      for (int i = 0; i < 2; ++i) {
        subscriptions.push_back(tracker.subscribe());
        subscriptions.back().harvest([](const kvm::DirtyPages&) {});
      }
      added = vm.add_memory(Gpa{1_GiB}, Mapping::anonymous(3 * page), {.log_dirty = true});
    }
    std::uint64_t harvest(std::size_t i) {
      return subscriptions[i].harvest([](const kvm::DirtyPages&) {}).pages;
    }
  };
  exhaust([] { return std::make_unique<Tracked>(); },
          [](Tracked& f) { return f.tracker.try_collect().has_value(); },
          [](Tracked& f, bool) {
            EXPECT_EQ(f.tracker.untracked().size(), 2u);
            EXPECT_EQ(f.harvest(0), 3u) << "a new slot is all pending, by whomever it was found";
            EXPECT_EQ(f.harvest(1), 3u);
            EXPECT_EQ(f.harvest(1), 0u);
          });
  exhaust([] { return std::make_unique<Tracked>(); },
          [](Tracked& f) { return f.tracker.try_subscribe().has_value(); },
          [](Tracked& f, bool) {
            auto third = f.tracker.subscribe();
            EXPECT_EQ(third.harvest([](const kvm::DirtyPages&) {}).pages, 2 + 3u);
            EXPECT_EQ(f.harvest(0), 3u);
          });
  // One that could not subscribe is not told of pages.
  exhaust(
      [] {
        auto f = std::make_unique<Tracked>();
        f->harvest(0);
        return f;
      },
      [](Tracked& f) { return f.tracker.try_subscribe().has_value(); },
      [](Tracked& f, bool) {
        EXPECT_TRUE(f.view.write<std::uint32_t>(Gpa{1_GiB}, 7));
        EXPECT_EQ(f.harvest(0), 1u);
      });
  exhaust([] { return std::make_unique<Tracked>(); },
          [](Tracked& f) { return !f.tracker.untracked().empty(); },
          [](Tracked& f, bool) { EXPECT_EQ(f.harvest(0), 3u); });
}

// What is there is enough for a change that needs no more room.
TEST(Exhaustion, OfRoomThatIsThere) {
  auto made = kvm::detail::AddressSpace::try_make(0, 1, true);
  ASSERT_TRUE(made);
  ASSERT_TRUE((*made)->reserve(0));
  without_memory([&] { EXPECT_TRUE((*made)->reserve(0)); });
  ASSERT_TRUE((*made)->reserve(8));
  std::size_t most = 8;
  without_memory([&] {
    while ((*made)->reserve(most + 1)) {
      ++most;
    }
  });
  EXPECT_EQ(most, 8u + 8 / 4 + 8) << "as many as the table has room for";
}
TEST(Exhaustion, OfRoomThatIsNotThere) {
  for (const std::size_t slots : {0u, 8u}) {
    auto whole = kvm::detail::AddressSpace::try_make(0, 1, true);
    allocations_left = 1000;
    ASSERT_TRUE((*whole)->reserve(slots));
    const long needed = 1000 - std::exchange(allocations_left, -1);
    ASSERT_GT(needed, 2);
    for (long left = 0; left < needed; ++left) {
      auto made = kvm::detail::AddressSpace::try_make(0, 1, true);
      allocations_left = left;
      const bool reserved = (*made)->reserve(slots);
      allocations_left = -1;
      EXPECT_FALSE(reserved) << left;
    }
  }
}
// One allocation of a space fails: the two tables are there, or it is not made.
TEST(Exhaustion, OfASpace) {
  const std::size_t mapped = fault::live_mappings();
  for (long left = 1; left < 5; ++left) {  // The first is fault::live_mappings'.
    fails_once = true;
    allocations_left = left;
    const auto made = kvm::detail::AddressSpace::try_make(0, 1, true);
    allocations_left = -1;
    fails_once = false;
    ASSERT_FALSE(made) << left;
    EXPECT_EQ(made.error().error_number(), ENOMEM);
    EXPECT_EQ(fault::live_mappings(), mapped);
  }
}
// Tables that readers held up are taken back without memory.
TEST(Exhaustion, OfTakingTablesBack) {
  Slots f(1);
  kvm::detail::AddressSpace& space = kvm_test::space_of(f.memory);
  kvm::detail::Reader reader;
  space.add_reader(reader);
  reader.announced = f.memory.generation();
  for (std::uint64_t i = 1; i < 7; ++i) {
    f.slots[0].move_to(Gpa{i * 1_MiB});
  }
  EXPECT_GE(space.retired_tables(), 6u);
  reader.announced = 0;
  without_memory([&] { static_cast<void>(f.memory.reclaim()); });
  EXPECT_EQ(space.retired_tables(), 0u);
  space.remove_reader(reader);
}
// A number that was not taken is not lost, and one that was given back needs no room.
TEST(Exhaustion, OfNumbers) {
  for (std::uint16_t number = 0; number < 40; ++number) {
    for (long left = 0; left < 4; ++left) {
      kvm::detail::SlotIds ids;
      for (std::uint16_t i = 0; i < number; ++i) {
        static_cast<void>(ids.take(0, 100));
      }
      allocations_left = left;
      std::optional<kvm::SlotId> taken;
      try {
        taken = ids.take(0, 100);
      } catch (const std::bad_alloc&) {
      }
      allocations_left = -1;
      if (!taken) {
        taken = ids.take(0, 100);
      }
      ASSERT_EQ(taken, kvm::SlotId(number, 0)) << left;
      ASSERT_EQ(ids.taken(), number + std::size_t{1});
      ids.give_back(*taken);
      ids.give_back(ids.take(0, 100).value());  // Makes room for one more, once.
      without_memory([&] { taken = ids.take(0, 100); });
      ASSERT_EQ(taken, kvm::SlotId(number, 0));
    }
  }
}

TEST(Exhaustion, OfParts) {
  Mapping memory = Mapping::anonymous(2 * page);
  exhaust([] { return std::make_unique<int>(); },
          [&](int&) { return memory.try_part(page, page).has_value(); }, [](int&, bool) {});
}

}  // namespace
