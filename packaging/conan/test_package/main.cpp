// SPDX-License-Identifier: MIT
// Uses the package: makes a VM and, on x86, runs a guest in it. A build machine need not have
// /dev/kvm; there it says so, and has at least been compiled and linked.
#include <kvm/kvm.hpp>

#include <cstdio>
#include <exception>
#include <span>
#include <stdexcept>

int main() try {
  kvm::Result<kvm::System> system = kvm::System::try_open();
  if (!system) {
    std::printf("not run: %s\n", system.error().what());
    return 0;
  }
  kvm::Vm vm = system->create_vm();
#if defined(__x86_64__)
  constexpr unsigned char code[] = {0xf4};  // hlt
  kvm::MemorySlot ram = vm.add_memory(kvm::Gpa{0x1000}, kvm::Mapping::anonymous(0x1000));
  if (!ram.load(kvm::Gpa{0x1000}, std::as_bytes(std::span(code)))) return 1;
  kvm::Vcpu vcpu = vm.create_vcpu(0);
  auto sregs = vcpu.get_sregs();
  sregs.cs.base = sregs.cs.selector = 0;
  vcpu.set_sregs(sregs);
  auto regs = vcpu.get_regs();
  regs.rip = 0x1000;
  vcpu.set_regs(regs);
  for (bool halted = false; !halted;) {
    kvm::Exit exit = vcpu.run();
    halted = exit.visit([](kvm::exits::Hlt) { return true; },
                        [](kvm::exits::Interrupted) { return false; },
                        [&](auto&&) -> bool { throw std::runtime_error(exit.describe()); });
  }
#endif
  std::puts("kvm-hpp works");
} catch (const std::exception& error) {
  std::printf("test_package: %s\n", error.what());
  return 1;
}
