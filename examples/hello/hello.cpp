// SPDX-License-Identifier: MIT
// The program of the README: a guest that says hello to its host.
#if !defined(__x86_64__)
#error "this example's guest is x86 machine code; kvm-info is the one that runs everywhere"
#endif

#include <kvm/kvm.hpp>

#include <cstdio>
#include <exception>
#include <span>
#include <stdexcept>

// At the reset vector: mov si, 0xf000; mov cx, 12; mov dx, 0xe9; rep outsb from cs:si; hlt
constexpr char code[] = "\xbe\x00\xf0\xb9\x0c\x00\xba\xe9\x00\x2e\xf3\x6e\xf4";
constexpr char text[] = "Hello, KVM!\n";

int main() try {
  kvm::Vm vm = kvm::System().create_vm();
  kvm::MemorySlot rom = vm.add_memory(kvm::Gpa{0xfffff000}, kvm::Mapping::anonymous(0x1000));
  if (!rom.load(kvm::Gpa{0xfffff000}, std::as_bytes(std::span(text)))) return 1;
  if (!rom.load(kvm::Gpa{0xfffffff0}, std::as_bytes(std::span(code)))) return 1;
  kvm::Vcpu vcpu = vm.create_vcpu(0);
  for (bool running = true; running;) {
    kvm::Exit exit = vcpu.run();
    exit.visit([](kvm::exits::IoOut io) { std::fwrite(io.data.data(), 1, io.data.size(), stdout); },
               [&](kvm::exits::Hlt) { running = false; },
               [](kvm::exits::Interrupted) {},  // some signal came: run again
               [&](auto&&) { throw std::runtime_error(exit.describe()); });
  }
} catch (const std::exception& error) {
  std::fprintf(stderr, "hello: %s\n", error.what());
  return 1;
}
