// SPDX-License-Identifier: MIT
// needs: x86
// The code of docs/index.md, but for examples/hello.
#include <kvm/kvm.hpp>

#include <gtest/gtest.h>

#include <array>
#include <cstdint>

#include "support/guest.hpp"

namespace {

/// Runs a guest until it writes to a port; 0 if it does something else.
std::uint32_t port_written(kvm::Vcpu& vcpu) {
  const kvm::Exit exit = vcpu.run();
  return exit.visit([](kvm::exits::IoOut io) -> std::uint32_t { return io.port; },
                    [&](auto&&) -> std::uint32_t {
                      ADD_FAILURE() << exit.describe();
                      return 0;
                    });
}

TEST(IndexGuide, RealMode) {
  kvm_test::Machine machine;
  machine.load(0x1000, {0x50, 0xe7, 0x21, 0xf4});  // push %ax; out %ax, $0x21; hlt
  kvm::Vcpu vcpu = machine.vm.create_vcpu(0);
  //! [real-mode]
  // 16-bit code at 0x1000. A reset leaves 0xf000 and 0xffff0000 in cs.
  kvm::uapi::kvm_sregs sregs = vcpu.get_sregs();
  sregs.cs.selector = 0;
  sregs.cs.base = 0;  // in real mode, the selector times 16
  vcpu.set_sregs(sregs);

  kvm::uapi::kvm_regs regs = vcpu.get_regs();
  regs.rip = 0x1000;
  regs.rsp = 0x8000;
  vcpu.set_regs(regs);
  //! [real-mode]
  EXPECT_EQ(port_written(vcpu), 0x21u);
  EXPECT_EQ(vcpu.get_regs().rsp, 0x7ffeu);
}

TEST(IndexGuide, LongMode) {
  kvm_test::Machine machine;
  // push %rax; xor %eax, %eax; cpuid; out %eax, $0x22
  machine.load(0x1000, {0x50, 0x31, 0xc0, 0x0f, 0xa2, 0xe7, 0x22});
  kvm::System& system = machine.system;
  kvm::MemorySlot& ram = machine.ram;
  kvm::Vcpu vcpu = machine.vm.create_vcpu(0);
  //! [long-mode]
  // 64-bit code at 0x1000. Three page tables map the first 2 MiB to itself.
  constexpr std::uint64_t present_and_writable = 3, large = 0x80;
  bool mapped = ram.load(kvm::Gpa{0x10000}, std::array{0x11000 | present_and_writable}) &&
                ram.load(kvm::Gpa{0x11000}, std::array{0x12000 | present_and_writable}) &&
                ram.load(kvm::Gpa{0x12000}, std::array{0x00000 | present_and_writable | large});

  vcpu.set_cpuid2(system.supported_cpuid());  // before the first run; the table is empty otherwise

  kvm::uapi::kvm_sregs sregs = vcpu.get_sregs();
  sregs.cr3 = 0x10000;
  sregs.cr4 = 1u << 5;                  // PAE; and 3 << 9 for code that uses SSE
  sregs.cr0 = 1u << 31 | 1u << 4 | 1u;  // paging, ET (always there), protected mode
  sregs.efer = 1u << 10 | 1u << 8;      // long mode is active, and enabled
  sregs.cs.selector = 8;
  sregs.cs.base = 0;
  sregs.cs.l = 1;  // 64-bit code
  vcpu.set_sregs(sregs);

  kvm::uapi::kvm_regs regs = vcpu.get_regs();
  regs.rip = 0x1000;
  regs.rsp = 0x8000;
  vcpu.set_regs(regs);
  //! [long-mode]
  EXPECT_TRUE(mapped);
  EXPECT_EQ(port_written(vcpu), 0x22u);
  EXPECT_EQ(vcpu.get_regs().rsp, 0x7ff8u);  // so it was 64-bit code
  EXPECT_GT(vcpu.get_regs().rax, 0u);       // and CPUID had something to say
}

}  // namespace
