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

constexpr char guest[] =
    "\xbe\x0c\x10"  // mov si, 0x100c: the text below
    "\xb9\x0c\x00"  // mov cx, 12: its length
    "\xba\xe9\x00"  // mov dx, 0xe9: a port
    "\xf3\x6e"      // rep outsb
    "\xf4"          // hlt
    "Hello, KVM!\n";

int main() try {
  kvm::System system;
  kvm::Vm vm = system.create_vm();
  kvm::MemorySlot ram = vm.add_memory(kvm::Gpa{0x1000}, kvm::Mapping::anonymous(0x1000));
  if (!ram.load(kvm::Gpa{0x1000}, std::as_bytes(std::span(guest)))) return 1;

  kvm::Vcpu vcpu = vm.create_vcpu(0);
  auto sregs = vcpu.get_sregs();
  sregs.cs.base = sregs.cs.selector = 0;
  vcpu.set_sregs(sregs);
  auto regs = vcpu.get_regs();
  regs.rip = 0x1000;
  vcpu.set_regs(regs);

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
