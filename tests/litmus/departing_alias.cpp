// SPDX-License-Identifier: MIT
// A write through a slot that is being removed, of memory that another slot
// shows as well: whichever instruction of it the removal and a harvest come
// after, the write is handed over as the other slot's in the end.
#include <kvm/kvm.hpp>

#include <cstdio>
#include <cstring>
#include <optional>
#include <vector>

#include "interleave.hpp"

using namespace kvm::literals;

int main() {
  constexpr std::size_t size = 64_KiB;
  kvm::System system;
  kvm::Vm vm = system.create_vm();
  kvm::DirtyTracker tracker = vm.track_dirty(kvm::DirtyMode::log);
  const kvm::Mapping memory = kvm::Mapping::anonymous(size);
  kvm::MemorySlot stays = vm.add_memory(kvm::Gpa{1_MiB}, memory.share(), {.log_dirty = true});
  kvm::DirtySubscription subscription = tracker.subscribe();
  kvm::GuestMemory::View view = vm.memory().view();
  std::vector<std::byte> copy(size);
  const auto harvest = [&] {
    subscription.harvest([&](const kvm::DirtyPages& run) {
      if (run.slot == stays.id()) {
        std::memcpy(copy.data() + run.backing_offset, memory.data() + run.backing_offset, run.size);
      }
    });
  };
  std::uint32_t number = 0;
  kvm_litmus::install_trap();
  for (const bool warm : {true, false}) {
    kvm_litmus::at_every_instruction("a write", [&](unsigned long after, bool& ok) {
      kvm::MemorySlot goes = vm.add_memory(kvm::Gpa{0}, memory.share(), {.log_dirty = true});
      std::optional<kvm::RemovedMemory> removed;
      harvest();
      harvest();
      if (warm) {
        (void)view.write<std::uint32_t>(kvm::Gpa{0x3000}, ++number);
      }
      ++number;
      const unsigned long had = kvm_litmus::run_interrupted(
          after, [&] { (void)view.write<std::uint32_t>(kvm::Gpa{0x3000}, number); },
          [&] {
            removed = goes.try_remove().value();
            harvest();
          });
      if (!removed) {
        removed = goes.try_remove().value();
      }
      harvest();
      ok = std::memcmp(copy.data(), memory.data(), size) == 0;
      return had;
    });
  }
  return 0;
}
