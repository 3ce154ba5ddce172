// SPDX-License-Identifier: MIT
#include <kvm/system.hpp>

#include <span>
#include <stdexcept>
#include <utility>

#include "split.hpp"

Guest make_guest() {
  static constexpr char code[] =
      "\xbe\x0c\x10"  // mov si, 0x100c: the text below
      "\xb9\x0c\x00"  // mov cx, 12: its length
      "\xba\xe9\x00"  // mov dx, 0xe9: a port
      "\xf3\x6e"      // rep outsb
      "\xf4"          // hlt
      "Hello, KVM!\n";
  kvm::System system;
  kvm::Vm vm = system.create_vm();
  kvm::MemorySlot ram = vm.add_memory(kvm::Gpa{0x1000}, kvm::Mapping::anonymous(0x1000));
  if (!ram.load(kvm::Gpa{0x1000}, std::as_bytes(std::span(code)))) {
    throw std::runtime_error("the guest does not fit");
  }
  kvm::Vcpu vcpu = vm.create_vcpu(0);
  auto sregs = vcpu.get_sregs();
  sregs.cs.base = sregs.cs.selector = 0;
  vcpu.set_sregs(sregs);
  auto regs = vcpu.get_regs();
  regs.rip = 0x1000;
  vcpu.set_regs(regs);
  return {std::move(vm), std::move(ram), std::move(vcpu)};
}

kvm::ErrorHandler exchange_handler(kvm::ErrorHandler handler) {
  return kvm::set_error_handler(handler);
}

void add_the_same_vcpu(Guest& guest) { static_cast<void>(guest.vm.create_vcpu(0)); }
