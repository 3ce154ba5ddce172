// SPDX-License-Identifier: MIT
// What another thread could see between any two instructions of a change of slots: each reader
// finds the slots that are not concerned, and the one that is at its old or its new place; nobody
// remembers what is about to be replaced; and before a harvest can see that a slot is gone, or no
// longer logged, the others with its memory are dirty.
#include <kvm/kvm.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include <malloc.h>

#include "interleave.hpp"
#include "support/slot_access.hpp"

namespace kvm_test {
struct UpdaterOfRegistry {
  using Member = std::atomic<std::uint64_t> kvm::detail::SlotRegistry::*;
  friend Member reach(UpdaterOfRegistry);
};
template struct Reach<UpdaterOfRegistry, &kvm::detail::SlotRegistry::updater_>;
}  // namespace kvm_test

using namespace kvm::literals;
using kvm::Gpa;

namespace {

constexpr std::size_t size = 16_KiB;
constexpr Gpa old_place{0};
constexpr Gpa new_place{2_MiB};
constexpr std::uint64_t right = 0x600df00d600df00d;

struct Setup {
  kvm::System system;
  kvm::Vm vm = system.create_vm();
  kvm::Mapping memory = filled();
  kvm::MemorySlot bystander = vm.add_memory(Gpa{1_MiB}, filled());
  std::optional<kvm::MemorySlot> alias =
      vm.add_memory(Gpa{4_MiB}, memory.share(), {.log_dirty = true});
  std::optional<kvm::MemorySlot> slot;
  kvm::GuestMemory::View view = vm.memory().view();
  kvm::GfnToHvaCache there{vm.memory(), old_place, 64};
  kvm::GfnToHvaCache elsewhere{vm.memory(), new_place, 64};
  kvm::GfnToHvaCache beside{vm.memory(), Gpa{1_MiB}, 64};
  kvm::detail::AddressSpace& space = kvm_test::space_of(vm.memory());
  kvm::detail::Reader stopped;  // in the middle of an access
  kvm::detail::SlotRegistry& registry = *(bystander.*reach(kvm_test::StateOfHandle{}));
  std::mutex& mutex = registry.*reach(kvm_test::MutexOfRegistry{});
  std::atomic<std::uint64_t>& updater = registry.*reach(kvm_test::UpdaterOfRegistry{});
  bool may_be_unlogged = false;
  const char* violated = nullptr;

  Setup() { space.add_reader(stopped); }
  ~Setup() { space.remove_reader(stopped); }

  static kvm::Mapping filled() {
    kvm::Mapping mapping = kvm::Mapping::anonymous(size);
    for (std::size_t i = 0; i < size / 8; ++i) {
      reinterpret_cast<std::uint64_t*>(mapping.data())[i] = right;
    }
    return mapping;
  }
  void expect(bool holds, const char* what) {
    if (!holds && violated == nullptr) {
      violated = what;
    }
  }
  bool alias_is_marked() const {
    const auto state = kvm_test::state_of(*alias);
    return (__atomic_load_n(state->marks()->data(), __ATOMIC_RELAXED) & 15) == 15;
  }

  /// From within the change.
  void look() {
    if (mutex.try_lock()) {
      expect(updater == 0, "who has not the lock does not say so");
      mutex.unlock();
    }
    expect(view.read<std::uint64_t>(Gpa{1_MiB + 8}) == right, "a slot beside it, by a view");
    expect(beside.read<std::uint64_t>(8) == right, "a slot beside it, by a cache");
    for (const auto seen :
         {view.read<std::uint64_t>(old_place), view.read<std::uint64_t>(new_place),
          there.read<std::uint64_t>(0), elsewhere.read<std::uint64_t>(0)}) {
      expect(!seen || *seen == right, "what the slot holds");
    }
    if (slot && !may_be_unlogged) {
      const auto state = kvm_test::state_of(*slot);
      if (state && (!state->exists() || !state->logged())) {
        expect(alias_is_marked(), "the alias is dirty before the slot or its log is gone");
      }
    }
  }
  /// When the change is over.
  void expect_slot(std::optional<Gpa> place) {
    // What the readers have now outlives all tables that nobody has.
    stopped.announced = 0;
    static_cast<void>(vm.memory().reclaim());
    for (const Gpa gpa : {old_place, new_place}) {
      const bool here = place == gpa;
      expect(view.read<std::uint64_t>(gpa).has_value() == here, "a view sees where the slot is");
      auto& cache = gpa == old_place ? there : elsewhere;
      expect(cache.read<std::uint64_t>(0).has_value() == here, "a cache sees where the slot is");
    }
  }
};

Setup* current = nullptr;

/// So many tables wait for a reader that those which follow are freed, not kept.
void retire_tables(Setup& setup) {
  setup.stopped.announced = setup.vm.memory().generation();
  for (std::uint64_t i = 0; i < 6; ++i) {
    setup.bystander.move_to(Gpa{i % 2 == 0 ? 8_MiB : 1_MiB});
  }
}

/// Makes a change, and looks after each of its instructions.
template <class Change>
void observed(Setup& setup, const char* name, Change&& change, bool waits_for_readers = false) {
  current = &setup;
  static_cast<void>(kvm_test::take_marks(*setup.alias));
  if (!waits_for_readers) {
    retire_tables(setup);
  }
  struct sigaction action {};
  action.sa_handler = [](int) {
    kvm_litmus::steps = kvm_litmus::steps + 1;
    current->look();
  };
  if (sigaction(SIGTRAP, &action, nullptr) != 0) {
    std::exit(2);
  }
  setup.violated = nullptr;
  const unsigned long had = kvm_litmus::run_interrupted(~0ul, change, [] {});
  if (setup.violated != nullptr || had == 0) {
    std::printf("%s: violated: %s\n", name, setup.violated);
    std::exit(1);
  }
  std::printf("%s: held at all %lu instructions\n", name, had);
}
void expect_after(Setup& setup, const char* name, std::optional<Gpa> place) {
  setup.expect_slot(place);
  if (setup.violated != nullptr) {
    std::printf("%s: violated afterwards: %s\n", name, setup.violated);
    std::exit(1);
  }
}

}  // namespace

int main() {
  mallopt(M_PERTURB, 85);  // What is freed is no longer what it was.
  Setup setup;
  for (int round = 0; round < 4; ++round) {
    // The slot is put where `look` finds it only when it is all there.
    std::optional<kvm::MemorySlot> made;
    kvm::Mapping memory = setup.memory.share();
    observed(setup, "adding", [&] {
      made.emplace(setup.vm.add_memory(old_place, std::move(memory), {.log_dirty = true}));
    });
    setup.slot = std::move(made);
    expect_after(setup, "adding", old_place);
    observed(setup, "moving", [&] { setup.slot->move_to(new_place); });
    expect_after(setup, "moving", new_place);
    observed(setup, "moving back", [&] { setup.slot->move_to(old_place); });
    expect_after(setup, "moving back", old_place);
    if (round % 2 == 0) {
      observed(setup, "no longer logging", [&] { setup.slot->log_dirty(false); });
      expect_after(setup, "no longer logging", old_place);
      static_cast<void>(kvm_test::take_marks(*setup.alias));
      setup.may_be_unlogged = true;
      observed(
          setup, "logging again", [&] { setup.slot->log_dirty(true); }, true);
      expect_after(setup, "logging again", old_place);
      setup.may_be_unlogged = false;
    }
    std::optional<kvm::RemovedMemory> removed;
    observed(setup, "removing", [&] { removed.emplace(setup.slot->try_remove().value()); });
    expect_after(setup, "removing", std::nullopt);
    setup.slot.reset();
  }
  return 0;
}
