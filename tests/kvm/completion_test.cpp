// SPDX-License-Identifier: MIT
// Finishing an access without running on (R27 to R30).
// needs: x86
#include "support/guest.hpp"
#include "support/require.hpp"

#include <kvm/kvm.hpp>

#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>
#include <pthread.h>
#include <sys/mman.h>

namespace {

namespace exits = kvm::exits;
using kvm_test::Devices;
using kvm_test::Guest;
using Bytes = std::vector<std::uint8_t>;

template <class E>
std::optional<E> as(const kvm::Exit& exit) {
  return exit.visit([](E seen) { return std::optional<E>(seen); },
                    [](auto&&) { return std::optional<E>(); });
}

/// Reads a port and writes what it read to another, in each mode.
std::vector<Guest> echo_guests() {
  std::vector<Guest> guests;
  const auto code = {std::uint8_t{0xe4}, std::uint8_t{0x10},   // in al, 0x10
                     std::uint8_t{0xe6}, std::uint8_t{0x20},   // out 0x20, al
                     std::uint8_t{0xe6}, std::uint8_t{0xff}};  // out 0xff, al
  guests.push_back(Guest::real_mode(code));
  guests.push_back(Guest::long_mode(code, 0));
  guests.push_back(Guest::long_mode(code, 3));
  return guests;
}

void answer(const kvm::Exit& exit, std::uint8_t value) {
  const auto in = as<exits::IoIn>(exit);
  ASSERT_TRUE(in);
  ASSERT_EQ(in->data.size(), 1u);
  in->data[0] = std::byte{value};
}

/// The guest goes on and writes `value`.
void expect_echo(Guest& guest, std::uint8_t value) {
  Devices devices;
  EXPECT_EQ(devices.run(guest.vcpu), "done");
  EXPECT_EQ(devices.out[0x20], (Bytes{value}));
}

TEST(Completion, PutsTheAnswerInTheRegisterAndRunsNoFurther) {
  for (Guest& guest : echo_guests()) {
    answer(guest.vcpu.run(), 0xab);
    EXPECT_TRUE(guest.vcpu.completion_pending());
    EXPECT_FALSE(guest.vcpu.complete());
    EXPECT_FALSE(guest.vcpu.completion_pending());
    const auto regs = guest.vcpu.get_regs();
    EXPECT_EQ(regs.rax & 0xff, 0xabu);
    EXPECT_EQ(regs.rip, kvm_test::code_at + 2);
    expect_echo(guest, 0xab);
  }
}

TEST(Completion, OfNothingIsNothing) {
  Guest guest = Guest::real_mode({0xf4, 0xe6, 0x20, 0xf4});
  EXPECT_FALSE(guest.vcpu.completion_pending());
  EXPECT_FALSE(guest.vcpu.complete());
  EXPECT_EQ(guest.vcpu.get_regs().rip, kvm_test::code_at);
  ASSERT_TRUE(as<exits::Hlt>(guest.vcpu.run()));
  EXPECT_FALSE(guest.vcpu.completion_pending());
  EXPECT_FALSE(guest.vcpu.complete());
  EXPECT_EQ(guest.vcpu.get_regs().rip, kvm_test::code_at + 1);
  ASSERT_TRUE(as<exits::IoOut>(guest.vcpu.run()));
  EXPECT_TRUE(guest.vcpu.completion_pending());  // A write too is finished by entering.
  EXPECT_FALSE(guest.vcpu.complete());
  EXPECT_FALSE(guest.vcpu.complete());
  EXPECT_EQ(guest.vcpu.get_regs().rip, kvm_test::code_at + 3);
}

TEST(Completion, OfAnAccessAcrossPagesTakesFurtherExits) {  // R29
  for (const unsigned ring : {0u, 3u}) {
    Guest guest = Guest::long_mode(
        {
            0xbb, 0xfc, 0x0f, 0x00, 0x30,              // mov ebx, 0x30000ffc
            0x48, 0x8b, 0x03,                          // mov rax, [rbx]
            0x48, 0x89, 0x83, 0x00, 0x20, 0x00, 0x00,  // mov [rbx + 0x2000], rax
            0xe6, 0xff,                                // out 0xff, al
        },
        ring);
    Devices devices;
    ASSERT_TRUE(devices.serve(guest.vcpu.run()));
    int more_exits = 0;
    while (const auto more = guest.vcpu.complete()) {
      ASSERT_TRUE(devices.serve(*more)) << devices.ended_by;
      EXPECT_TRUE(guest.vcpu.completion_pending());
      ++more_exits;
    }
    EXPECT_GE(more_exits, 1);
    EXPECT_FALSE(guest.vcpu.completion_pending());
    const auto regs = guest.vcpu.get_regs();
    EXPECT_EQ(regs.rax, Devices::mmio_value(0x30000ffc, 8));
    EXPECT_EQ(regs.rip, kvm_test::code_at + 8);
    EXPECT_TRUE(devices.written.empty());
    EXPECT_EQ(devices.run(guest.vcpu), "done");
    EXPECT_EQ(devices.written_value(0x30002ffc, 8), Devices::mmio_value(0x30000ffc, 8));
  }
}

TEST(Completion, OfAStringInstructionPutsAllElementsInMemory) {
  Guest guest = Guest::real_mode({
      0xbf, 0x00, 0x30,  // mov di, 0x3000
      0xb9, 0x40, 0x00,  // mov cx, 64
      0xfc,              // cld
      0xf3, 0x6c,        // rep insb
      0xe6, 0xff,        // out 0xff, al
  });
  Devices devices;
  ASSERT_TRUE(devices.serve(guest.vcpu.run()));
  while (const auto more = guest.vcpu.complete()) {
    ASSERT_TRUE(devices.serve(*more)) << devices.ended_by;
  }
  const unsigned read = devices.last_in;
  std::vector<std::byte> seen(read);
  ASSERT_TRUE(guest.ram.fetch(kvm::Gpa(0x3000), seen));
  for (unsigned i = 0; i < read; ++i) {
    EXPECT_EQ(std::to_integer<unsigned>(seen[i]), i + 1);
  }
  EXPECT_EQ(devices.run(guest.vcpu), "done");
  EXPECT_EQ(devices.last_in, 64);
}

/// That a pending completion refuses what `set` does, and says why.
void expect_refused(const kvm::Result<void>& set) {
  ASSERT_FALSE(set);
  EXPECT_EQ(set.error().error_number(), EBUSY);
  EXPECT_TRUE(std::string_view(set.error().operation()).starts_with("KVM_SET_"));
  EXPECT_NE(std::string_view(set.error().what()).find("complete()"), std::string_view::npos)
      << set.error().what();
}

TEST(Completion, StateIsReadButNotSetBefore) {  // R30
  for (Guest& guest : echo_guests()) {
    answer(guest.vcpu.run(), 0xcd);
    const auto regs = guest.vcpu.try_get_regs();
    ASSERT_TRUE(regs);
    expect_refused(guest.vcpu.try_set_regs(*regs));
    const auto sregs = guest.vcpu.try_get_sregs();
    ASSERT_TRUE(sregs);
    expect_refused(guest.vcpu.try_set_sregs(*sregs));
    const auto mp_state = guest.vcpu.try_get_mp_state();
    ASSERT_TRUE(mp_state);
    expect_refused(guest.vcpu.try_set_mp_state(*mp_state));
    expect_refused(guest.vcpu.try_set_guest_debug({}));
    // An MSR of x86 as one register.
    expect_refused(guest.vcpu.try_set_one_reg(0x2030'0002'0000'0174, std::uint64_t{0}));

    EXPECT_FALSE(guest.vcpu.complete());
    auto after = guest.vcpu.get_regs();
    EXPECT_EQ(after.rax & 0xff, 0xcdu);
    after.rbx = 0x55;
    EXPECT_TRUE(guest.vcpu.try_set_regs(after));
    EXPECT_TRUE(guest.vcpu.try_set_sregs(*sregs));
    EXPECT_EQ(guest.vcpu.get_regs().rbx, 0x55u);
    expect_echo(guest, 0xcd);
  }
}

TEST(Completion, OfAnMmioReadComesBeforeSettingRegisters) {  // R30
  for (const unsigned ring : {0u, 3u}) {
    Guest guest = Guest::long_mode(
        {
            0xbb, 0x00, 0x00, 0x00, 0x30,  // mov ebx, 0x30000000
            0x8b, 0x03,                    // mov eax, [rbx]
            0xe7, 0x20,                    // out 0x20, eax
            0xe6, 0xff,                    // out 0xff, al
        },
        ring);
    Devices devices;
    ASSERT_TRUE(devices.serve(guest.vcpu.run()));
    expect_refused(guest.vcpu.try_set_regs(guest.vcpu.get_regs()));
    while (const auto more = guest.vcpu.complete()) {
      ASSERT_TRUE(devices.serve(*more));
    }
    guest.vcpu.set_regs(guest.vcpu.get_regs());
    EXPECT_EQ(devices.run(guest.vcpu), "done");
    EXPECT_EQ(devices.out[0x20],
              (Bytes{Devices::mmio_byte(0x30000000), Devices::mmio_byte(0x30000001),
                     Devices::mmio_byte(0x30000002), Devices::mmio_byte(0x30000003)}));
  }
}

TEST(Completion, LeavesNoImmediateExitBehind) {
  Guest guest = std::move(echo_guests().front());
  answer(guest.vcpu.run(), 1);
  EXPECT_FALSE(guest.vcpu.complete());
  EXPECT_EQ(guest.vcpu.run_page()->immediate_exit, 0);
  expect_echo(guest, 1);
}

TEST(Completion, DoesNotSwallowAKick) {
  Guest guest = std::move(echo_guests().front());
  const kvm::Kicker kicker = guest.vcpu.entry_kicker();
  answer(guest.vcpu.run(), 2);
  kicker.kick();
  EXPECT_FALSE(guest.vcpu.complete());
  const auto interrupted = as<exits::Interrupted>(guest.vcpu.run());
  ASSERT_TRUE(interrupted);
  EXPECT_TRUE(interrupted->kicked);
  EXPECT_EQ(guest.vcpu.get_regs().rip, kvm_test::code_at + 2);
  expect_echo(guest, 2);
}

TEST(Completion, AnInterruptedRunCompletesToo) {
  for (Guest& guest : echo_guests()) {
    answer(guest.vcpu.run(), 3);
    guest.vcpu.run_page()->immediate_exit = 1;
    ASSERT_TRUE(as<exits::Interrupted>(guest.vcpu.run()));
    guest.vcpu.run_page()->immediate_exit = 0;
    EXPECT_FALSE(guest.vcpu.completion_pending());
    EXPECT_EQ(guest.vcpu.get_regs().rax & 0xff, 3u);
    EXPECT_TRUE(guest.vcpu.try_set_regs(guest.vcpu.get_regs()));
    expect_echo(guest, 3);
  }
}

TEST(Completion, AnInterruptionByASignalAloneCompletesToo) {
  sigset_t blocked;
  sigset_t before;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGUSR2);
  ASSERT_EQ(pthread_sigmask(SIG_BLOCK, &blocked, &before), 0);
  for (const bool by_run : {true, false}) {
    Guest guest = std::move(echo_guests().front());
    sigset_t none;
    sigemptyset(&none);
    guest.vcpu.set_signal_mask(none);  // SIGUSR2 comes in while in the guest only.
    answer(guest.vcpu.run(), 4);
    pthread_kill(pthread_self(), SIGUSR2);
    if (by_run) {
      const auto interrupted = as<exits::Interrupted>(guest.vcpu.run());
      ASSERT_TRUE(interrupted);
      EXPECT_FALSE(interrupted->kicked);
    } else {
      EXPECT_FALSE(guest.vcpu.complete());
    }
    EXPECT_FALSE(guest.vcpu.completion_pending());
    EXPECT_EQ(guest.vcpu.get_regs().rax & 0xff, 4u);
    EXPECT_EQ(guest.vcpu.get_regs().rip, kvm_test::code_at + 2);
    const timespec now{};
    EXPECT_EQ(sigtimedwait(&blocked, nullptr, &now), SIGUSR2);  // R36: it stayed pending.
    guest.vcpu.clear_signal_mask();
    expect_echo(guest, 4);
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

TEST(Completion, ARunThatFailsInTheGuestHasCompleted) {
  Guest guest = Guest::long_mode({
      0xe4, 0x10,                    // in al, 0x10
      0xbb, 0x00, 0x00, 0x00, 0x20,  // mov ebx, 0x20000000
      0x88, 0x03,                    // mov [rbx], al
      0xe6, 0x20,                    // out 0x20, al
      0xe6, 0xff,                    // out 0xff, al
  });
  using kvm_test::operator""_KiB;
  const kvm::MemorySlot slot =
      guest.vm.add_memory(kvm::Gpa(0x20000000), kvm::Mapping::anonymous(4_KiB));
  ASSERT_EQ(mprotect(slot.mapping().data(), slot.size(), PROT_NONE), 0);
  answer(guest.vcpu.run(), 5);
  const kvm::Exit failed = guest.vcpu.run();
  ASSERT_TRUE(as<exits::Failed>(failed) || as<exits::MemoryFault>(failed)) << failed.name();
  EXPECT_FALSE(guest.vcpu.completion_pending());
  EXPECT_EQ(guest.vcpu.get_regs().rax & 0xff, 5u);
  EXPECT_TRUE(guest.vcpu.try_set_regs(guest.vcpu.get_regs()));
  ASSERT_EQ(mprotect(slot.mapping().data(), slot.size(), PROT_READ | PROT_WRITE), 0);
  expect_echo(guest, 5);
}

TEST(Completion, ARunThatKvmRefusesHasNot) {  // R31: it looks at the run page first.
  Guest guest = std::move(echo_guests().front());
  answer(guest.vcpu.run(), 6);
  guest.vcpu.run_page()->kvm_valid_regs = std::uint64_t{1} << 31;
  ASSERT_TRUE(as<exits::Failed>(guest.vcpu.run()));
  EXPECT_TRUE(guest.vcpu.completion_pending());
  const auto refused = guest.vcpu.complete();
  ASSERT_TRUE(refused);
  EXPECT_TRUE(as<exits::Failed>(*refused));
  EXPECT_TRUE(guest.vcpu.completion_pending());
  guest.vcpu.run_page()->kvm_valid_regs = 0;
  EXPECT_FALSE(guest.vcpu.complete());
  EXPECT_EQ(guest.vcpu.get_regs().rax & 0xff, 6u);
  expect_echo(guest, 6);
}

}  // namespace
