// SPDX-License-Identifier: MIT
// needs: x86
// The code of docs/guides/interrupts.md.
#include <kvm/kvm.hpp>

#include <gtest/gtest.h>

#include <cstdint>
#include <optional>
#include <string>

#include "support/guest.hpp"
#include "support/irq_guest.hpp"
#include "support/require.hpp"

namespace {

using kvm_test::IrqGuest;

TEST(InterruptsGuide, Irqfd) {
  IrqGuest guest;
  kvm::Vm& vm = guest.vm;
  KVM_REQUIRE(vm, kvm::cap::Irqfd);
  EXPECT_EQ(guest.step(), IrqGuest::idle);
  //! [irqfd]
  kvm::EventFd done;
  kvm::Irqfd irq = vm.create_irqfd(/*gsi=*/5, done);
  done.signal();  // raises it, from any thread, without a call to KVM
  //! [irqfd]
  EXPECT_EQ(guest.await_interrupt(), IrqGuest::first_vector + 5);
  guest.finish_handler();

  //! [line]
  vm.irq_line(/*gsi=*/6, true);  // a level, which the device holds until it was served
  vm.irq_line(/*gsi=*/6, false);
  //! [line]
  EXPECT_EQ(guest.await_interrupt(), IrqGuest::first_vector + 6);
}

TEST(InterruptsGuide, Routing) {
  IrqGuest guest;
  kvm::Vm& vm = guest.vm;
  KVM_REQUIRE(vm, kvm::cap::IrqRouting);
  guest.enable_apic();
  EXPECT_EQ(guest.step(), IrqGuest::idle);
  //! [routing]
  // The whole table at once: what is left out goes nowhere.
  kvm::IrqRouting table = kvm::IrqRouting::x86_default();
  table.msi(/*gsi=*/24, /*address=*/0xfee00000, /*data=*/0x4041);
  vm.set_gsi_routing(table);
  kvm::EventFd event;
  kvm::Irqfd message = vm.create_irqfd(24, event);  // goes where the table says
  //! [routing]
  event.signal();
  EXPECT_EQ(guest.await_interrupt(), 0x41u);
}

TEST(InterruptsGuide, Notifications) {
  kvm_test::Guest guest = kvm_test::Guest::real_mode(
      // mov $7, %ax; out %ax, $0x50; out %al, $0x60; mov $8, %al; out %al, $0x60; hlt
      {0xb8, 0x07, 0x00, 0xe7, 0x50, 0xe6, 0x60, 0xb0, 0x08, 0xe6, 0x60, 0xf4});
  kvm::Vm& vm = guest.vm;
  kvm::Vcpu& vcpu = guest.vcpu;
  KVM_REQUIRE(vm, kvm::cap::Ioeventfd);
  KVM_REQUIRE(vm, kvm::cap::CoalescedPio);
  //! [ioeventfd]
  kvm::EventFd rung;
  // 16-bit writes of 7 to port 0x50 signal the eventfd; others are exits.
  kvm::Ioeventfd doorbell =
      vm.create_ioeventfd(kvm::IoeventfdAddress::pio<std::uint16_t>(0x50), rung, std::uint16_t{7});
  //! [ioeventfd]

  std::string late;
  //! [coalesced]
  kvm::CoalescedRing ring = vm.create_coalesced_ring(vcpu);
  kvm::CoalescedZone zone = ring.create_zone(kvm::CoalescedRange::pio(0x60, 1));
  // Runs, and hands over what was written before the exit.
  kvm::Exit exit = ring.run(
      vcpu, [&](kvm::exits::IoOut io) { late += std::to_string(static_cast<int>(io.data[0])); },
      [](kvm::exits::MmioWrite) {});
  //! [coalesced]
  EXPECT_EQ(exit.describe(), "KVM_EXIT_HLT");
  //! [rung]
  rung.wait();  // in the device's thread; rung.fd() is for epoll
  std::optional<std::uint64_t> times = rung.read();  // how often since the last read()
  //! [rung]
  EXPECT_EQ(times, 1u);
  EXPECT_EQ(late, "78");
}

}  // namespace
