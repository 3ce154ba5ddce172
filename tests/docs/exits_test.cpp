// SPDX-License-Identifier: MIT
// needs: x86
// The code of docs/guides/exits.md.
#include <kvm/kvm.hpp>

#include <gtest/gtest.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <string>
#include <vector>

#include "support/guest.hpp"

namespace {

using kvm_test::Guest;

TEST(ExitsGuide, Loop) {
  // mov $0x3f8, %dx; mov $'h', %al; out %al, %dx; in %dx, %al; out %al, %dx; hlt
  Guest guest = Guest::real_mode({0xba, 0xf8, 0x03, 0xb0, 'h', 0xee, 0xec, 0xee, 0xf4});
  kvm::Vcpu& vcpu = guest.vcpu;
  std::string serial;
  std::string problem;
  //! [loop]
  const auto step = [&](const kvm::Exit& exit) -> bool {  // false: the guest is done
    return exit.visit(
        [&](kvm::exits::IoOut io) {
          for (std::byte byte : io.data) serial += static_cast<char>(byte);
          return true;
        },
        [&](kvm::exits::IoIn io) {
          io.reply('i');  // one element, which is what `in` reads
          return true;
        },
        [&](kvm::exits::MmioRead mmio) {
          mmio.reply(0u);  // nothing lives there
          return true;
        },
        [&](kvm::exits::Hlt) { return false; },
        [&](kvm::exits::Interrupted) { return true; },  // look whether to stop, run again
        [&](auto&&) {
          problem = exit.describe();
          return false;
        });
  };
  while (step(vcpu.run())) {
  }
  //! [loop]
  EXPECT_EQ(serial, "hi");
  EXPECT_EQ(problem, "");
}

TEST(ExitsGuide, Strings) {
  // mov $0x10, %dx; mov $0x3000, %di; mov $4, %cx; rep insb; hlt
  Guest guest =
      Guest::real_mode({0xba, 0x10, 0x00, 0xbf, 0x00, 0x30, 0xb9, 0x04, 0x00, 0xf3, 0x6c, 0xf4});
  auto sregs = guest.vcpu.get_sregs();
  sregs.es.base = 0;
  sregs.es.selector = 0;
  guest.vcpu.set_sregs(sregs);
  kvm::Vcpu& vcpu = guest.vcpu;
  std::uint8_t next = 1;
  bool halted = false;
  while (!halted) {
    const kvm::Exit exit = vcpu.run();
    exit.visit(
        //! [string]
        [&](kvm::exits::IoIn io) {
          // `rep insb` asks for io.count elements of io.size bytes in one exit.
          for (std::byte& byte : io.data) byte = static_cast<std::byte>(next++);
        },
        //! [string]
        [&](kvm::exits::Hlt) { halted = true; }, [](kvm::exits::Interrupted) {},
        [&](auto&&) {
          halted = true;
          ADD_FAILURE() << exit.describe();
        });
  }
  kvm::GuestMemory::View memory = guest.vm.memory().view();
  EXPECT_EQ(memory.read<std::uint32_t>(kvm::Gpa{0x3000}), 0x04030201u);
}

TEST(ExitsGuide, Completion) {
  // in $0x10, %al; hlt
  Guest guest = Guest::real_mode({0xe4, 0x10, 0xf4});
  kvm::Vcpu& vcpu = guest.vcpu;
  const auto serve = [](const kvm::Exit& exit) {
    return exit.visit(
        [](kvm::exits::IoIn io) {
          io.reply(0x5a);
          return true;
        },
        [](auto&&) { return false; });
  };
  ASSERT_TRUE(serve(vcpu.run()));
  EXPECT_TRUE(vcpu.completion_pending());
  //! [refused]
  // The answer to the port read is still in the run page, not in the guest's AL.
  kvm::Result<void> early = vcpu.try_set_regs(vcpu.get_regs());  // EBUSY: it would be lost
  //! [refused]
  ASSERT_FALSE(early);
  EXPECT_EQ(early.error().error_number(), EBUSY);
  //! [complete]
  // An access that crosses a page has a second half: serve that, too.
  bool served = true;
  while (served) {
    std::optional<kvm::Exit> more = vcpu.complete();
    if (!more) break;       // nothing is pending any more
    served = serve(*more);  // false for exits::Failed, after which the loop must end
  }
  kvm::uapi::kvm_regs regs = vcpu.get_regs();
  regs.rip += 0;
  vcpu.set_regs(regs);  // fine now
  //! [complete]
  EXPECT_TRUE(served);
  EXPECT_EQ(vcpu.get_regs().rax & 0xff, 0x5au);
}

TEST(ExitsGuide, PostMortem) {
  // mov $0x30000000, %ebx; fld (%rbx): a device's register in a way that KVM cannot emulate
  Guest guest = Guest::long_mode({0xbb, 0x00, 0x00, 0x00, 0x30, 0xd9, 0x03, 0xf4}, 0);
  kvm::Vm& vm = guest.vm;
  kvm::Vcpu& vcpu = guest.vcpu;
  const kvm::Exit exit = vcpu.run();
  //! [post-mortem]
  std::string message = exit.describe();  // now: the exit is gone once the vCPU runs again
  kvm::GuestMemory::View memory = vm.memory().view();
  const auto regs = vcpu.try_get_regs();
  const auto sregs = vcpu.try_get_sregs();
  if (regs && sregs) {
    char text[80];
    std::snprintf(text, sizeof text, "; rip=%#llx cr0=%#llx cr3=%#llx code", regs->rip, sregs->cr0,
                  sregs->cr3);
    message += text;
    for (std::uint64_t i = 0; i < 8; ++i) {
      // By the guest's page tables, and then to what is there.
      const auto gpa = vcpu.try_translate(sregs->cs.base + regs->rip + i);
      const auto byte = gpa && *gpa ? memory.read<std::uint8_t>(**gpa) : std::nullopt;
      std::snprintf(text, sizeof text, byte ? " %02x" : " ??", unsigned{byte.value_or(0)});
      message += text;
    }
  }
  //! [post-mortem]
  EXPECT_NE(message.find("KVM_EXIT_INTERNAL_ERROR: suberror 1"), std::string::npos) << message;
  EXPECT_NE(message.find("rip=0x1005 "), std::string::npos) << message;
  EXPECT_NE(message.find("code d9 03 f4"), std::string::npos) << message;
}

}  // namespace
