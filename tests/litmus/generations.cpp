// SPDX-License-Identifier: MIT
// A generation is never reused, and one that is flagged is never remembered:
// what a reader translated once is not taken for valid after other memory came
// to its address, or after an update that failed.
#include <kvm/kvm.hpp>

#include <cstdio>
#include <optional>
#include <vector>

using namespace kvm::literals;

namespace {

int violations = 0;

void expect(const char* what, std::optional<std::uint64_t> seen,
            std::optional<std::uint64_t> right) {
  if (seen != right) {
    std::printf("%s: violated\n", what);
    ++violations;
  }
}

kvm::Mapping memory_of(std::uint64_t value) {
  kvm::Mapping memory = kvm::Mapping::anonymous(64_KiB);
  *reinterpret_cast<std::uint64_t*>(memory.data()) = value;
  return memory;
}

}  // namespace

int main() {
  kvm::System system;
  kvm::Vm vm = system.create_vm();
  std::vector<kvm::Mapping> kept;  // So that a stale translation reads, rather than crashes.
  kvm::GuestMemory::View view = vm.memory().view();
  kvm::GfnToHvaCache cache(vm.memory(), kvm::Gpa{0}, 8);
  std::uint64_t before = vm.memory().generation();
  for (std::uint64_t i = 1; i < 40; ++i) {
    // Readers that look at some of the generations only: a generation that comes
    // back after any number of changes finds one that remembers it.
    kvm::GuestMemory::View other_view = vm.memory().view();
    kvm::GfnToHvaCache other_cache(vm.memory(), kvm::Gpa{0}, 8);
    kvm::MemorySlot slot = vm.add_memory(kvm::Gpa{0}, memory_of(i));
    expect("a view after an addition", view.read<std::uint64_t>(kvm::Gpa{0}), i);
    expect("a cache after an addition", cache.read<std::uint64_t>(0), i);
    (void)other_view.read<std::uint64_t>(kvm::Gpa{0});
    (void)other_cache.read<std::uint64_t>(0);
    {
      // In the window of the update, flagged, the slot is still there to read.
      auto observation = vm.memory().observe([&](const kvm::MemoryChange& change) noexcept {
        if (change.kind == kvm::MemoryChange::Kind::removing) {
          expect("a view in the window", view.read<std::uint64_t>(kvm::Gpa{0}), i);
          expect("a cache in the window", cache.read<std::uint64_t>(0), i);
          if ((vm.memory().generation() & kvm::GuestMemory::update_in_progress) == 0) {
            std::puts("the generation of an update in progress is not flagged");
            ++violations;
          }
        }
      });
      kept.push_back(slot.remove());
    }
    expect("a view after a removal", view.read<std::uint64_t>(kvm::Gpa{0}), std::nullopt);
    expect("a cache after a removal", cache.read<std::uint64_t>(0), std::nullopt);
    kvm::MemorySlot next = vm.add_memory(kvm::Gpa{0}, memory_of(1000 + i));
    expect("another view after other memory came", other_view.read<std::uint64_t>(kvm::Gpa{0}),
           1000 + i);
    expect("another cache after other memory came", other_cache.read<std::uint64_t>(0), 1000 + i);
    kept.push_back(next.remove());
    const std::uint64_t now = vm.memory().generation();
    if (now <= before) {
      std::puts("the generation went back");
      ++violations;
    }
    before = now;
  }
  std::printf("%d violations\n", violations);
  return violations == 0 ? 0 : 1;
}
