// SPDX-License-Identifier: MIT
// What those are told who must follow the slots: VFIO, vhost.
#include <kvm/kvm.hpp>

#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "support/guest.hpp"

namespace {

using kvm::Gpa;
using kvm::Mapping;
using kvm::MemoryChange;
using kvm::MemorySlot;
using kvm::Observation;
using namespace kvm::literals;

const std::size_t page = kvm::detail::sys::page_size();
constexpr Gpa high{0x4000'0000};
constexpr const char* set_region = "KVM_SET_USER_MEMORY_REGION";

/// "removing 0 2->5", with gpas in pages from `high`.
std::string text(const MemoryChange& change) {
  const auto place = [](const std::optional<Gpa>& gpa) {
    return gpa ? std::to_string((*gpa - high) / page) : std::string("-");
  };
  return std::string(change.kind == MemoryChange::Kind::removing ? "removing " : "added ") +
         std::to_string(change.slot.id) + ' ' + place(change.old_gpa) + "->" +
         place(change.new_gpa);
}

using Log = std::vector<std::string>;

struct MemoryObserverTest : testing::Test {
  kvm::System system;
  std::optional<kvm::Vm> vm = system.create_vm();
  kvm::GuestMemory memory = vm->memory();
  Log log;

  MemorySlot add(std::uint64_t at, std::size_t pages = 1, const kvm::MemoryOptions& options = {}) {
    return vm->add_memory(high + at * page, Mapping::anonymous(pages * page), options);
  }
  Observation record() {
    return memory.observe(
        [this](const MemoryChange& change) noexcept { log.push_back(text(change)); });
  }
  Log taken() { return std::exchange(log, {}); }
};

TEST_F(MemoryObserverTest, IsToldOfEachChange) {
  MemorySlot old = add(0);
  MemorySlot other = add(2);
  const Observation observation = record();
  EXPECT_EQ(taken(), (Log{"added 0 -->0", "added 1 -->2"}));
  {
    const MemorySlot next = add(5);
    EXPECT_EQ(taken(), Log{"added 2 -->5"});
  }
  EXPECT_EQ(taken(), Log{"removing 2 5->-"});
  old.move_to(high + 9 * page);
  EXPECT_EQ(taken(), (Log{"removing 0 0->9", "added 0 0->9"}));
  EXPECT_FALSE(old.try_move_to(high + 2 * page));
  EXPECT_EQ(taken(), (Log{"removing 0 9->2", "added 0 9->9"}));
  EXPECT_FALSE(old.try_move_to(high + 1));
  EXPECT_FALSE(vm->try_add_memory(high + 2 * page, Mapping::anonymous(page)));
  other.log_dirty(true);  // Nobody needs to map anything anew.
  EXPECT_EQ(taken(), Log{});
  ASSERT_TRUE(old.try_remove());
  EXPECT_EQ(taken(), Log{"removing 0 9->-"});
  (void)other.remove();
  EXPECT_EQ(taken(), Log{"removing 1 2->-"});
}

TEST_F(MemoryObserverTest, IsToldAllThereIsToMap) {
  const Mapping file = Mapping::memfd(8 * page);
  std::vector<MemoryChange> changes;
  const auto observation =
      memory.observe([&](const MemoryChange& change) noexcept { changes.push_back(change); });
  const MemorySlot shared = vm->add_memory(high, file.try_part(3 * page, 2 * page).value());
  const MemorySlot rom = add(7, 1, {.read_only = true});
  ASSERT_EQ(changes.size(), 2u);
  EXPECT_EQ(changes[0].kind, MemoryChange::Kind::added);
  EXPECT_EQ(changes[0].slot, shared.id());
  EXPECT_FALSE(changes[0].old_gpa);
  EXPECT_EQ(changes[0].new_gpa, high);
  EXPECT_EQ(changes[0].size, 2 * page);
  EXPECT_EQ(changes[0].address, file.data() + 3 * page);
  EXPECT_EQ(changes[0].fd, file.fd());
  EXPECT_EQ(changes[0].offset, 3 * page);
  EXPECT_FALSE(changes[0].read_only);
  EXPECT_EQ(changes[1].fd, -1);
  EXPECT_EQ(changes[1].address, rom.mapping().data());
  EXPECT_TRUE(changes[1].read_only);
}

TEST_F(MemoryObserverTest, MayReadWhatIsAboutToGo) {
  MemorySlot slot = add(0, 2);
  auto view = memory.view();
  kvm::GfnToHvaCache cache(memory, high, 64);
  ASSERT_TRUE(view.write<std::uint32_t>(high, 77));
  ASSERT_TRUE(cache.read<std::uint32_t>(0));
  struct Seen {
    bool in_progress;
    std::optional<std::uint32_t> at_old, cached;
    std::size_t slots;
  };
  std::vector<Seen> seen;
  const auto observation = memory.observe([&](const MemoryChange& change) noexcept {
    const Gpa at = change.kind == MemoryChange::Kind::removing ? *change.old_gpa : *change.new_gpa;
    seen.push_back({(memory.generation() & kvm::GuestMemory::update_in_progress) != 0,
                    view.read<std::uint32_t>(at), cache.read<std::uint32_t>(0),
                    memory.slots().size()});
    // Whatever else reads, or looks at the slots, works too.
    EXPECT_TRUE(memory.view().contains(at, 2 * page));
    EXPECT_EQ(memory.reclaim(), 0u);
    EXPECT_EQ(vm->parked_mappings(), 0u);
    EXPECT_TRUE(vm->try_memory());
  });
  ASSERT_EQ(seen.size(), 1u);
  EXPECT_EQ(seen[0].at_old, 77u);
  const std::uint64_t before = memory.generation();
  slot.move_to(high + 8 * page);
  ASSERT_EQ(seen.size(), 3u);
  EXPECT_TRUE(seen[1].in_progress);
  EXPECT_EQ(seen[1].at_old, 77u);
  EXPECT_EQ(seen[1].cached, 77u);
  EXPECT_FALSE(seen[2].in_progress);
  EXPECT_EQ(seen[2].at_old, 77u);
  EXPECT_FALSE(seen[2].cached) << "remembered from before";
  EXPECT_GT(memory.generation(), before);
  slot.move_to(high);
  seen.clear();
  const auto removed = slot.try_remove();
  ASSERT_EQ(seen.size(), 1u);
  EXPECT_TRUE(seen[0].in_progress);
  EXPECT_EQ(seen[0].at_old, 77u);
  EXPECT_EQ(seen[0].cached, 77u);
  EXPECT_EQ(seen[0].slots, 1u);
  EXPECT_FALSE(cache.read<std::uint32_t>(0));
  EXPECT_FALSE(view.read<std::uint32_t>(high));
}

template <class T>
void expect_deadlock(const kvm::Result<T>& result) {
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().error_number(), EDEADLK) << result.error().what();
  EXPECT_STREQ(result.error().operation(), set_region);
  EXPECT_NE(std::string(result.error().what()).find("observer"), std::string::npos)
      << result.error().what();
}

TEST_F(MemoryObserverTest, CannotChangeSlots) {
  MemorySlot slot = add(0);
  MemorySlot other = add(4);
  unsigned calls = 0;
  const auto observation = memory.observe([&](const MemoryChange&) noexcept {
    ++calls;
    Mapping mine = Mapping::anonymous(page);
    expect_deadlock(vm->try_add_memory(high + 8 * page, std::move(mine)));
    EXPECT_NE(mine.data(), nullptr);
    expect_deadlock(slot.try_move_to(high + 16 * page));
    expect_deadlock(other.try_log_dirty(true));
    expect_deadlock(other.try_remove());
  });
  EXPECT_EQ(calls, 2u);
  slot.move_to(high + page);
  EXPECT_EQ(calls, 4u);
  EXPECT_EQ(memory.slots().size(), 2u);
  EXPECT_FALSE(other.logs_dirty());
  ASSERT_TRUE(other.try_remove());
  EXPECT_EQ(calls, 5u);
}

// A slot that is dropped there cannot be deleted: it stays with the VM.
TEST_F(MemoryObserverTest, ASlotDroppedThereIsParked) {
  std::optional<MemorySlot> victim = add(4);
  const auto observation = memory.observe([&](const MemoryChange& change) noexcept {
    if (change.slot.id == 1) {
      victim.reset();
    }
  });
  const MemorySlot slot = add(0);
  EXPECT_FALSE(victim);
  EXPECT_EQ(vm->parked_mappings(), 1u);
  EXPECT_EQ(memory.slots().size(), 2u);
}

TEST_F(MemoryObserverTest, RemovedMemoryMayBeDroppedThere) {
  MemorySlot slot = add(4);
  auto view = memory.view();
  std::optional<kvm::Pin> pin = view.pin(high + 4 * page, 8, kvm::PinFor::reading);
  std::optional<kvm::RemovedMemory> removed = slot.try_remove().value();
  const auto observation = memory.observe([&](const MemoryChange&) noexcept {
    if (removed) {
      EXPECT_TRUE(removed->in_use());
      removed.reset();
    }
  });
  const MemorySlot next = add(0);
  EXPECT_FALSE(removed);
  EXPECT_EQ(memory.reclaim(), 1u);
  pin.reset();
  EXPECT_EQ(memory.reclaim(), 0u);
}

TEST_F(MemoryObserverTest, EndsWhenItsObservationDoes) {
  std::optional<Observation> observation = record();
  MemorySlot slot = add(0);
  EXPECT_EQ(taken(), Log{"added 0 -->0"});
  std::optional<Observation> moved = std::move(*observation);
  observation.reset();
  slot.move_to(high + page);
  EXPECT_EQ(taken().size(), 2u);
  *moved = memory.observe([](const MemoryChange&) noexcept {});
  slot.move_to(high);
  EXPECT_EQ(taken().size(), 0u);
  Observation& same = *moved;
  *moved = std::move(same);
  moved.reset();
  slot.move_to(high + page);
}

TEST_F(MemoryObserverTest, MayEndItselfOrAnother) {
  std::optional<Observation> first, second;
  Log others;
  unsigned calls = 0;
  first = memory.observe([&](const MemoryChange& change) noexcept {
    ++calls;
    if (change.kind == MemoryChange::Kind::removing) {
      second.reset();
    }
  });
  second =
      memory.observe([&](const MemoryChange& change) noexcept { others.push_back(text(change)); });
  MemorySlot slot = add(0);
  EXPECT_EQ(calls, 1u);
  EXPECT_EQ(others, Log{"added 0 -->0"});
  slot.move_to(high + page);
  EXPECT_EQ(calls, 3u);
  EXPECT_EQ(others.size(), 1u) << "ended before it was its turn";
  first.reset();

  std::optional<Observation> own;
  unsigned own_calls = 0;
  own = memory.observe([&own, &own_calls](const MemoryChange& change) noexcept {
    auto& mine = own;
    ++own_calls;
    if (change.kind == MemoryChange::Kind::removing) {
      mine.reset();  // The captures are gone now.
    }
  });
  EXPECT_EQ(own_calls, 1u);
  slot.move_to(high + 2 * page);
  EXPECT_EQ(own_calls, 2u);
  EXPECT_FALSE(own);
  slot.move_to(high);
  EXPECT_EQ(own_calls, 2u);
}

TEST_F(MemoryObserverTest, MayMakeAnother) {
  MemorySlot slot = add(0);
  std::vector<Observation> more;
  Log inner;
  const auto outer = memory.observe([&](const MemoryChange& change) noexcept {
    if (more.empty() && change.old_gpa) {
      more.push_back(
          memory.observe([&](const MemoryChange& seen) noexcept { inner.push_back(text(seen)); }));
    }
  });
  slot.move_to(high + 3 * page);  // It comes in time for the removal.
  EXPECT_EQ(inner, (Log{"added 0 -->0", "removing 0 0->3", "added 0 0->3"}));
  more.clear();
  inner.clear();
  // Each slot is added once, also to one who comes while it is being added.
  const auto late = memory.observe([&](const MemoryChange& change) noexcept {
    if (more.empty() && change.slot.id == 1) {
      more.push_back(
          memory.observe([&](const MemoryChange& seen) noexcept { inner.push_back(text(seen)); }));
    }
  });
  const MemorySlot next = add(7);
  EXPECT_EQ(inner, (Log{"added 0 -->3", "added 1 -->7"}));
}

TEST_F(MemoryObserverTest, SeesAllAddressSpaces) {
  if (vm->check_raw(kvm::uapi::cap::multi_address_space) < 2) {
    GTEST_SKIP() << "KVM_CAP_MULTI_ADDRESS_SPACE is not offered by this host";
  }
  std::vector<kvm::SlotId> seen;
  const auto observation =
      memory.observe([&](const MemoryChange& change) noexcept { seen.push_back(change.slot); });
  const MemorySlot usual = add(0);
  const MemorySlot smm = add(0, 1, {.address_space = 1});
  EXPECT_EQ(seen, (std::vector{kvm::SlotId(0, 0), kvm::SlotId(0, 1)}));
}

TEST_F(MemoryObserverTest, OutlivesTheVmHandle) {
  MemorySlot slot = add(0);
  const Observation observation = record();
  vm.reset();
  (void)taken();
  slot.move_to(high + page);
  EXPECT_EQ(taken().size(), 2u);
}

// Whoever comes while others change slots knows all slots from the beginning, each added once and
// removed at most once.
TEST_F(MemoryObserverTest, ComesAndGoesWhileSlotsDo) {
  std::atomic<bool> end{false};
  std::atomic<unsigned> problems{0};
  std::thread observer([&] {
    while (!end) {
      std::vector<bool> there(64);
      const auto observation = memory.observe([&](const MemoryChange& change) noexcept {
        const bool adds = change.kind == MemoryChange::Kind::added;
        if (there[change.slot.id] == adds) {
          ++problems;
        }
        there[change.slot.id] = adds;
      });
      std::this_thread::yield();
    }
  });
  std::vector<MemorySlot> slots;
  for (unsigned i = 0; i < 600; ++i) {
    if (slots.size() < 10) {
      slots.push_back(add(i));
    } else {
      slots.erase(slots.begin() + i % 10);
    }
  }
  end = true;
  observer.join();
  EXPECT_EQ(problems, 0u);
}

}  // namespace
