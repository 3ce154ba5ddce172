// SPDX-License-Identifier: MIT
// Announce, compare, access, leave: whichever instruction of an access a removal
// comes after, memory that was handed back is neither read nor written, and an
// access to another slot never fails.
#include <kvm/kvm.hpp>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <optional>
#include <span>

#include "interleave.hpp"

using namespace kvm::literals;

namespace {

constexpr std::uint64_t right = 0x600df00d600df00d;
constexpr std::byte poison{0xbd};
constexpr std::size_t size = 16_KiB;

struct Setup {
  kvm::System system;
  kvm::Vm vm = system.create_vm();
  kvm::MemorySlot other = vm.add_memory(kvm::Gpa{1_MiB}, kvm::Mapping::anonymous(size));
  std::optional<kvm::MemorySlot> slot;
  std::optional<kvm::RemovedMemory> removed;
  std::optional<kvm::Mapping> taken;
  kvm::GuestMemory::View view = vm.memory().view();
  kvm::GfnToHvaCache cache{vm.memory(), kvm::Gpa{0}, 64};

  std::span<std::uint64_t> words(const kvm::Mapping& mapping) {
    return {reinterpret_cast<std::uint64_t*>(mapping.data()), size / 8};
  }
  void add() {
    taken.reset();
    removed.reset();
    slot.reset();
    kvm::Mapping memory = kvm::Mapping::anonymous(size);
    std::ranges::fill(words(memory), right);
    slot = vm.add_memory(kvm::Gpa{0}, std::move(memory), {.log_dirty = true});
  }
  /// What another thread could do: takes the slot away, and has the memory as
  /// its own at once if nobody uses it.
  void remove() {
    removed = slot->try_remove().value();
    if (!removed->in_use()) {
      taken = removed->take();
      std::memset(taken->data(), static_cast<int>(poison), size);
    }
  }
  bool poisoned() {
    if (!taken) {
      return true;  // It was in use, and nobody had it.
    }
    const auto bytes = std::span(taken->data(), size);
    return std::ranges::all_of(bytes, [](std::byte byte) { return byte == poison; });
  }
};

/// @param access returns whether what it saw may be seen
template <class Access>
void holds(Setup& setup, const char* name, bool warm, Access access) {
  kvm_litmus::at_every_instruction(name, [&](unsigned long after, bool& ok) {
    setup.add();
    if (warm) {
      (void)access();  // So that the translation is there.
    }
    bool seen_right = true;
    const unsigned long had = kvm_litmus::run_interrupted(
        after, [&] { seen_right = access(); }, [&] { setup.remove(); });
    ok = seen_right && setup.poisoned();
    return had;
  });
}

}  // namespace

int main() {
  Setup setup;
  kvm_litmus::install_trap();
  std::byte buffer[48] = {};
  for (const bool warm : {true, false}) {
    const auto expect = [](std::optional<std::uint64_t> value) {
      return !value || *value == right;
    };
    holds(setup, "view read", warm,
          [&] { return expect(setup.view.read<std::uint64_t>(kvm::Gpa{8})); });
    holds(setup, "view write", warm, [&] {
      (void)setup.view.write<std::uint64_t>(kvm::Gpa{8}, right);
      return true;
    });
    holds(setup, "view atomic", warm,
          [&] { return expect(setup.view.atomic_exchange<std::uint64_t>(kvm::Gpa{8}, right)); });
    holds(setup, "view bytes", warm, [&] {
      std::memset(buffer, 0, sizeof buffer);
      const bool read = setup.view.read(kvm::Gpa{8}, buffer);
      std::uint64_t last;
      std::memcpy(&last, buffer + 40, 8);
      return !read || last == right;
    });
    holds(setup, "view write of bytes", warm, [&] {
      (void)setup.view.write(kvm::Gpa{8}, std::span<const std::byte>(buffer));
      return true;
    });
    holds(setup, "cache read", warm, [&] { return expect(setup.cache.read<std::uint64_t>(8)); });
    holds(setup, "cache write", warm, [&] {
      (void)setup.cache.write<std::uint64_t>(8, right);
      return true;
    });
    holds(setup, "view read of another slot", warm,
          [&] { return setup.view.read<std::uint64_t>(kvm::Gpa{1_MiB}).has_value(); });
  }
}
