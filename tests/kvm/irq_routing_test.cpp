// SPDX-License-Identifier: MIT
// needs: x86
// Where interrupts go: KVM's default, other tables, messages.
#include <kvm/kvm.hpp>

#include <gtest/gtest.h>

#include <cerrno>
#include <cstdint>
#include <string>
#include <utility>

#include "support/irq_guest.hpp"
#include "support/require.hpp"

namespace {

namespace cap = kvm::cap;
namespace uapi = kvm::uapi;
using kvm::EventFd;
using kvm::Irqfd;
using kvm::IrqRouting;
using kvm_test::expect_error;
using kvm_test::IrqGuest;
using kvm_test::Machine;

constexpr std::uint64_t to_apic_0 = 0xfee00000;
constexpr unsigned vector = IrqGuest::first_vector;

/// Whether the local APIC has the interrupt waiting.
bool requested(const kvm::Vcpu& vcpu, unsigned number) {
  const auto lapic = vcpu.get_lapic();
  const auto byte =
      static_cast<std::uint8_t>(lapic.regs[0x200 + 0x10 * (number / 32) + number % 32 / 8]);
  return (byte >> number % 8 & 1) != 0;
}

TEST(GsiRouting, TheDefaultIsWhatKvmHas) {
  // With each table, which lines lead anywhere: to the IOAPIC and the PIC, or to the IOAPIC alone.
  const auto outcomes = [](bool set) {
    IrqGuest guest;
    if (set) {
      guest.vm.set_gsi_routing(IrqRouting::x86_default());
    }
    auto ioapic = guest.vm.get_irqchip(uapi::irqchip::ioapic);
    for (auto& entry : ioapic.chip.ioapic.redirtbl) {
      entry.fields.mask = 1;  // So that what was raised is to be seen.
    }
    guest.vm.set_irqchip(ioapic);
    std::string seen;
    for (std::uint32_t gsi = 0; gsi < 30; ++gsi) {
      seen += std::to_string(guest.vm.irq_line_status(gsi, true)) + ':';
      for (const auto chip : {uapi::irqchip::pic_master, uapi::irqchip::pic_slave}) {
        seen += std::to_string(guest.vm.get_irqchip(chip).chip.pic.irr) + ',';
      }
      seen += std::to_string(guest.vm.get_irqchip(uapi::irqchip::ioapic).chip.ioapic.irr) + ' ';
    }
    return seen;
  };
  const std::string ours = outcomes(true);
  EXPECT_EQ(ours, outcomes(false));
  EXPECT_NE(ours.find("-1:"), std::string::npos) << "gsi 24 leads nowhere: " << ours;
}

TEST(GsiRouting, AnEmptyTableLeadsNowhere) {
  IrqGuest guest;
  EXPECT_GT(guest.vm.irq_line_status(5, true), 0);
  guest.vm.set_gsi_routing(IrqRouting());
  EXPECT_LT(guest.vm.irq_line_status(5, true), 0);
  guest.vm.set_gsi_routing(IrqRouting::x86_default());
  guest.vm.irq_line(6, true);
  EXPECT_EQ(guest.await_interrupt(), vector + 5) << "it was raised before";
}

TEST(GsiRouting, ALineToAnotherPin) {
  IrqGuest guest;
  KVM_REQUIRE(guest.vm, cap::Irqfd);
  auto routing = IrqRouting::x86_default();
  routing.irqchip(100, uapi::irqchip::pic_master, 3);
  guest.vm.set_gsi_routing(routing);
  const EventFd event;
  const Irqfd irqfd = guest.vm.create_irqfd(100, event);
  event.signal();
  EXPECT_EQ(guest.await_interrupt(), vector + 3);
}

TEST(GsiRouting, AnIrqfdIsAMessage) {
  IrqGuest guest;
  KVM_REQUIRE(guest.vm, cap::Irqfd);
  guest.enable_apic();
  auto routing = IrqRouting::x86_default();
  guest.vm.set_gsi_routing(routing.msi(24, to_apic_0, vector + 1));
  const EventFd event;
  Irqfd irqfd = guest.vm.create_irqfd(24, event);
  event.signal();
  EXPECT_EQ(guest.await_interrupt(), vector + 1);
  guest.finish_handler();
  // An Irqfd follows the table.
  guest.vm.set_gsi_routing(routing.remove(24).msi(24, to_apic_0, vector + 0x12));
  event.signal();
  EXPECT_EQ(guest.await_interrupt(), vector + 0x12);
  // And while its gsi leads nowhere, what it is told is lost. (KVM looks up such a gsi from a
  // thread of its own, which deassigning waits for: it might see the next table.)
  guest.vm.set_gsi_routing(routing.remove(24));
  event.signal();
  irqfd.deassign();
  guest.vm.set_gsi_routing(routing.msi(24, to_apic_0, vector + 0x13));
  EXPECT_FALSE(requested(guest.vcpu, vector + 0x13));
}

TEST(GsiRouting, WithASplitIrqchip) {
  Machine machine;
  machine.vm.enable(cap::SplitIrqchip{});
  KVM_REQUIRE(machine.vm, cap::Irqfd);
  kvm::Vcpu vcpu = machine.vm.create_vcpu(0);
  auto lapic = vcpu.get_lapic();
  lapic.regs[0xf1] = 1;
  vcpu.set_lapic(lapic);
  machine.vm.set_gsi_routing(IrqRouting().msi(0, to_apic_0, 0x61).msi(4095, to_apic_0, 0x62));
  const EventFd event;
  const Irqfd irqfd = machine.vm.create_irqfd(4095, event);
  event.signal();
  EXPECT_TRUE(requested(vcpu, 0x62));
  EXPECT_FALSE(requested(vcpu, 0x61));
  // It has no chips that pins could be of.
  expect_error(machine.vm.try_set_gsi_routing(IrqRouting::x86_default()), EINVAL, "does not have");
}

TEST(GsiRouting, HypervSints) {
  IrqGuest guest;
  KVM_REQUIRE(guest.vm, cap::HypervSynic2);
  EXPECT_TRUE(guest.vm.try_set_gsi_routing(IrqRouting().hv_sint(7, 0, 2)));
  expect_error(guest.vm.try_set_gsi_routing(IrqRouting().hv_sint(7, 0, 2).hv_sint(7, 0, 3)), EINVAL,
               "gsi 7 goes to more than one target");
}

TEST(GsiRouting, IsBounded) {  // R72
  IrqGuest guest;
  IrqRouting full;
  for (std::uint32_t gsi = 0; gsi < IrqRouting::gsi_limit; ++gsi) {
    full.msi(gsi, to_apic_0, 0x60);
  }
  EXPECT_EQ(full.entries().size(), IrqRouting::max_entries);
  EXPECT_TRUE(guest.vm.try_set_gsi_routing(full));
  expect_error(guest.vm.try_set_gsi_routing(full.irqchip(5, 0, 5)), EINVAL,
               "a table has 4096 entries at most");
  expect_error(guest.vm.try_set_gsi_routing(IrqRouting().msi(4096, to_apic_0, 0x60)), EINVAL,
               "KVM_SET_GSI_ROUTING(entries=1): gsi 4096 is too large");
}

TEST(GsiRouting, MistakesAreExplained) {  // R72
  IrqGuest guest;
  kvm::Vm& vm = guest.vm;
  const auto pin = uapi::irqchip::ioapic;
  expect_error(vm.try_set_gsi_routing(IrqRouting().irqchip(5, pin, 5).irqchip(5, pin, 6)), EINVAL,
               "gsi 5 goes to two pins of one chip");
  expect_error(vm.try_set_gsi_routing(IrqRouting().irqchip(5, pin, 5).msi(5, to_apic_0, 1)), EINVAL,
               "gsi 5 goes to more than one target");
  expect_error(vm.try_set_gsi_routing(IrqRouting().msi(5, to_apic_0, 1).irqchip(5, pin, 5)), EINVAL,
               "gsi 5 goes to more than one target");
  expect_error(vm.try_set_gsi_routing(IrqRouting().irqchip(5, 9, 0)), EINVAL,
               "an entry names a chip");
  expect_error(vm.try_set_gsi_routing(IrqRouting().irqchip(5, pin, 24)), EINVAL,
               "an entry names a chip");
  EXPECT_GT(vm.irq_line_status(5, true), 0) << "the table is as it was";

  Machine bare;
  expect_error(bare.vm.try_set_gsi_routing(IrqRouting()), EINVAL,
               "no interrupt controller in the kernel");
  const kvm::Vm taken = std::move(bare.vm);
  expect_error(bare.vm.try_set_gsi_routing(IrqRouting()), EBADF, "moved from");
}

}  // namespace
