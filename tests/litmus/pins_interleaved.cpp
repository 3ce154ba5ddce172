// SPDX-License-Identifier: MIT
// Accesses are asked for before pins: one in flight may end with a pin. Whichever
// instruction of the question that happens after, memory that is pinned now is
// not handed back as free.
#include <kvm/kvm.hpp>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <optional>
#include <thread>

#include "interleave.hpp"

using namespace kvm::literals;

namespace {

/// Set in the thread whose next allocation waits, within pin().
thread_local bool waits_at_allocation = false;
std::atomic<int> stage{0};

void await(int wanted) {
  for (int now = stage; now < wanted; now = stage) {
    std::this_thread::yield();
  }
}

}  // namespace

// Out of line, where no compiler takes malloc and operator delete for a mistaken pair.
[[gnu::noinline]] void* operator new(std::size_t size) {
  if (waits_at_allocation) {
    waits_at_allocation = false;
    stage = 1;
    await(2);
  }
  if (void* const memory = std::malloc(size)) {
    return memory;
  }
  std::abort();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

int main() {
  kvm::System system;
  kvm::Vm vm = system.create_vm();
  kvm_litmus::install_trap();
  kvm_litmus::at_every_instruction("pin", [&](unsigned long after, bool& ok) {
    kvm::MemorySlot slot = vm.add_memory(kvm::Gpa{0}, kvm::Mapping::anonymous(64_KiB));
    stage = 0;
    std::optional<kvm::Pin> pin;
    std::thread other([&] {
      kvm::GuestMemory::View view = vm.memory().view();
      waits_at_allocation = true;
      pin = view.pin(kvm::Gpa{0}, 8, kvm::PinFor::reading);
      stage = 3;
      await(4);
      pin.reset();
    });
    await(1);  // It has announced its access, and has no pin yet.
    kvm::RemovedMemory removed = slot.try_remove().value();
    bool in_use = true;
    const auto let_it_pin = [] {
      stage = 2;
      // Where it needs a lock that this thread holds, it goes on as soon as it can.
      for (int i = 0; i < 2000 && stage < 3; ++i) {
        std::this_thread::sleep_for(std::chrono::microseconds(10));
      }
    };
    const unsigned long had = kvm_litmus::run_interrupted(
        after, [&] { in_use = removed.in_use(); }, let_it_pin);
    if (stage < 2) {
      let_it_pin();
    }
    await(3);
    ok = in_use && pin.has_value();
    stage = 4;
    other.join();
    return had;
  });
  return 0;
}
