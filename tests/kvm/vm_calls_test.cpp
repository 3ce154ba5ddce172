// SPDX-License-Identifier: MIT
// What a VM has on x86 only: set-up in the right and the wrong order, interrupts that a guest
// takes, clock, MSR filter.
// needs: x86
#include <gtest/gtest.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include <kvm/kvm.hpp>

#include "support/guest.hpp"
#include "support/require.hpp"

namespace {

using kvm_test::Guest;
using kvm_test::Machine;
namespace uapi = kvm::uapi;

template <class T>
void expect_error(const kvm::Result<T>& result, int error_number, const std::string& words) {
  ASSERT_FALSE(result.has_value()) << "expected: " << words;
  EXPECT_EQ(result.error().error_number(), error_number) << result.error().what();
  EXPECT_NE(std::string(result.error().what()).find(words), std::string::npos)
      << result.error().what();
}

/// What newer KVMs refuse and say why, and older ones take.
template <class T>
void expect_error_if_refused(const kvm::Result<T>& result, int error_number,
                             const std::string& words) {
  if (!result.has_value()) {
    expect_error(result, error_number, words);
  }
}

/// Runs until the guest writes to a port, and gives the port.
unsigned run_to_out(kvm::Vcpu& vcpu) {
  unsigned port = 0;
  const kvm::Exit exit = vcpu.run();
  exit.visit([&](kvm::exits::IoOut io) { port = io.port; },
             [&](kvm::exits::Failed failed) {
               ADD_FAILURE() << "errno " << failed.error_number << ": " << failed.cause;
             },
             [&](const auto&) { ADD_FAILURE() << "unexpected exit " << exit.name(); });
  return port;
}

/// With interrupt controllers in the kernel and a real-mode guest that waits for interrupts:
/// vector 0x40 + n ends in an OUT to port 0x60 + n.
struct WaitingGuest : Machine {
  kvm::Vcpu vcpu = (vm.create_irqchip(), vm.create_vcpu(0));

  WaitingGuest() {
    load(kvm_test::code_at, {0xfb, 0x90, 0xeb, 0xfd});  // sti; nop; jmp to the nop
    for (std::uint8_t n = 0; n < 16; ++n) {
      load(4 * (0x40u + n), {0, static_cast<std::uint8_t>(0x20 + n), 0, 0});
      load(0x2000 + 0x100u * n, {0xe6, static_cast<std::uint8_t>(0x60 + n), 0xf4});
    }
    kvm_test::enter_real_mode(vcpu);
  }

  void unmask_pic() {
    auto pic = vm.get_irqchip(uapi::irqchip::pic_master);
    EXPECT_EQ(pic.chip_id, uapi::irqchip::pic_master);
    pic.chip.pic.irq_base = 0x40;
    pic.chip.pic.imr = 0;
    vm.set_irqchip(pic);
  }
};

TEST(VmSetUp, WrongOrderIsExplained) {  // R70
  expect_error_if_refused(Machine().vm.try_create_pit2(), ENOENT, "create_irqchip() first");
  Machine machine;
  expect_error(machine.vm.try_get_irqchip(0), ENXIO, "create_irqchip() first");
  expect_error(machine.vm.try_irq_line(5, true), ENXIO, "create_irqchip() first");
  expect_error(machine.vm.try_irq_line_status(5, true), ENXIO, "create_irqchip() first");
  expect_error(machine.vm.try_signal_msi(0xfee00000, 0x40), EINVAL, "local APICs in the kernel");
  expect_error(machine.vm.try_get_pit2(), ENXIO, "create_pit2() first");
  expect_error(machine.vm.try_set_pit_reinject(true), ENXIO, "create_pit2() first");

  auto vcpu = machine.vm.create_vcpu(0);
  expect_error(machine.vm.try_create_irqchip(), EINVAL, "before the first vCPU");
  expect_error(machine.vm.try_set_identity_map_addr(kvm::Gpa{0xfffbc000}), EINVAL,
               "before the first vCPU");
  expect_error(machine.vm.try_set_boot_cpu_id(1), EBUSY, "before the first vCPU");
  if (const auto khz = machine.vm.try_get_tsc_khz()) {  // Since Linux 5.18 a VM has one.
    expect_error_if_refused(machine.vm.try_set_tsc_khz(*khz), EINVAL, "before the first vCPU");
  }
}

TEST(VmSetUp, TwiceIsExplained) {  // R70
  Machine machine;
  machine.vm.create_irqchip();
  expect_error(machine.vm.try_create_irqchip(), EEXIST, "already");
  machine.vm.create_pit2();
  expect_error(machine.vm.try_create_pit2(), EEXIST, "already");
  expect_error(machine.vm.try_get_irqchip(3), EINVAL, "no such chip");

  Machine split;
  split.vm.enable(kvm::cap::SplitIrqchip{});
  expect_error(split.vm.try_create_irqchip(), EEXIST, "a split one");
  expect_error_if_refused(split.vm.try_create_pit2(), ENOENT, "whole interrupt controller");
}

TEST(VmSetUp, RightOrderWorks) {
  Machine machine;
  machine.vm.set_tss_addr(kvm::Gpa{0xfffbd000});
  machine.vm.set_identity_map_addr(kvm::Gpa{0xfffbc000});
  machine.vm.set_boot_cpu_id(1);
  machine.vm.create_irqchip();
  expect_error(machine.vm.try_set_tss_addr(kvm::Gpa{0xffffffff}), EINVAL, "below 4 GiB");
  auto first = machine.vm.create_vcpu(0);
  auto boot = machine.vm.create_vcpu(1);
  EXPECT_EQ(boot.get_mp_state().mp_state, uapi::mp_state::runnable);
  EXPECT_EQ(first.get_mp_state().mp_state, uapi::mp_state::uninitialized);
}

TEST(VmSetUp, TscFrequencyIsForVcpusToCome) {
  Machine machine;
  KVM_REQUIRE(machine.vm, kvm::cap::VmTscControl);
  const auto khz = machine.vm.get_tsc_khz();
  EXPECT_GT(khz, 100'000u);
  machine.vm.set_tsc_khz(khz);
  EXPECT_EQ(machine.vm.create_vcpu(0).get_tsc_khz(), khz);
}

TEST(VmSetUp, MmuPages) {
  Machine machine;
  machine.vm.set_nr_mmu_pages(64);
  expect_error(machine.vm.try_set_nr_mmu_pages(10), EINVAL, "at least 64");
}

TEST(VmInterrupts, ALineReachesTheGuestThroughThePicThatWasSet) {
  WaitingGuest guest;
  guest.unmask_pic();
  guest.vm.irq_line(5, true);
  guest.vm.irq_line(5, false);
  EXPECT_EQ(run_to_out(guest.vcpu), 0x65u);
}

TEST(VmInterrupts, ALineSaysWhatBecameOfIt) {
  WaitingGuest guest;
  guest.unmask_pic();
  EXPECT_GT(guest.vm.irq_line_status(3, true), 0);
  guest.vm.irq_line_status(3, false);
  EXPECT_EQ(guest.vm.irq_line_status(3, true), 0) << "merged with the one that is pending";
  EXPECT_EQ(run_to_out(guest.vcpu), 0x63u);
}

TEST(VmInterrupts, AMessageReachesTheGuest) {  // R72
  WaitingGuest guest;
  auto lapic = guest.vcpu.get_lapic();
  lapic.regs[0xf1] = 1;  // the enable bit of the spurious vector register
  guest.vcpu.set_lapic(lapic);
  EXPECT_TRUE(guest.vm.signal_msi(0xfee00000, 0x47));
  EXPECT_EQ(run_to_out(guest.vcpu), 0x67u);
}

TEST(VmInterrupts, IoapicKeepsWhatWasSet) {
  Machine machine;
  machine.vm.create_irqchip();
  auto chip = machine.vm.get_irqchip(uapi::irqchip::ioapic);
  chip.chip.ioapic.redirtbl[7].fields.vector = 0x77;
  machine.vm.set_irqchip(chip);
  EXPECT_EQ(machine.vm.get_irqchip(uapi::irqchip::ioapic).chip.ioapic.redirtbl[7].fields.vector,
            0x77);
}

TEST(VmInterrupts, PitKeepsWhatWasSet) {
  Machine machine;
  machine.vm.create_irqchip();
  machine.vm.create_pit2();
  auto pit = machine.vm.get_pit2();
  pit.channels[2].count = 0x1234;
  pit.channels[2].mode = 3;
  machine.vm.set_pit2(pit);
  EXPECT_EQ(machine.vm.get_pit2().channels[2].count, 0x1234u);
  machine.vm.set_pit_reinject(false);
  machine.vm.set_pit_reinject(true);
  expect_error(machine.vm.try_create_pit2({.flags = 0x80, .pad = {}}), EEXIST, "already");
}

TEST(VmClock, GoesOnFromWhatWasSet) {
  Machine machine;
  auto vcpu = machine.vm.create_vcpu(0);
  constexpr std::uint64_t hour = 3'600'000'000'000;
  uapi::kvm_clock_data clock{};
  clock.clock = 5 * hour;
  machine.vm.set_clock(clock);
  EXPECT_GE(machine.vm.get_clock().clock, 5 * hour);
  EXPECT_LT(machine.vm.get_clock().clock, 6 * hour);
  clock.flags = 0x80;
  expect_error(machine.vm.try_set_clock(clock), EINVAL, "realtime");
}

TEST(VmMsrFilter, DeniesWhatItSays) {  // R83
  // rdmsr 0x174; out; rdmsr 0x175; out
  auto guest = Guest::long_mode({0xb9, 0x74, 0x01, 0, 0, 0x0f, 0x32, 0xe7, 0x10,  //
                                 0xb9, 0x75, 0x01, 0, 0, 0x0f, 0x32, 0xe7, 0x11},
                                0);
  KVM_REQUIRE(guest.vm, kvm::cap::X86MsrFilter);
  KVM_REQUIRE(guest.vm, kvm::cap::X86UserSpaceMsr);
  guest.vm.enable(kvm::cap::X86UserSpaceMsr{.reasons = kvm::cap::MsrExitReason::filtered});
  const std::array<std::uint64_t, 1> all_but_0x175{~std::uint64_t{2}};
  const std::array<kvm::x86::MsrFilterRange, 1> ranges{
      {{.accesses = uapi::msr_filter::read, .base = 0x174, .count = 3, .allowed = all_but_0x175}}};
  guest.vm.set_msr_filter(ranges);
  guest.vcpu.set_msr(0x174, 0x18);
  EXPECT_EQ(run_to_out(guest.vcpu), 0x10u);
  std::uint32_t index = 0;
  guest.vcpu.run().visit(
      [&](kvm::exits::X86Rdmsr msr) {
        index = msr.index;
        msr.reply(0x99);
      },
      [](const auto&) { FAIL() << "not filtered"; });
  EXPECT_EQ(index, 0x175u);
  EXPECT_EQ(run_to_out(guest.vcpu), 0x11u);
  EXPECT_EQ(guest.vcpu.get_regs().rax, 0x99u);
  guest.vm.set_msr_filter({});
}

TEST(VmMsrFilter, ABitmapThatIsTooShortIsRefused) {  // R83
  Machine machine;
  const std::array<std::uint64_t, 1> bits{};
  const std::array<kvm::x86::MsrFilterRange, 1> ranges{
      {{.base = 0x174, .count = 65, .allowed = bits}}};
  expect_error(machine.vm.try_set_msr_filter(ranges), EINVAL,
               "is about 65 MSRs, its bitmap about 64");
  expect_error(machine.vm.try_set_msr_filter({}, kvm::x86::MsrFilterDefault::deny), EINVAL,
               "ranges=0, default=deny");
}

TEST(VmMovedFrom, IsAnErrorNotACrash) {
  Machine machine;
  const kvm::Vm taken = std::move(machine.vm);
  expect_error(machine.vm.try_create_irqchip(), EBADF, "moved from");
  expect_error(machine.vm.try_get_clock(), EBADF, "moved from");
  expect_error(machine.vm.try_signal_msi(0, 0), EBADF, "moved from");
  expect_error(machine.vm.try_set_msr_filter({}), EBADF, "moved from");
}

}  // namespace
