// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_TESTS_SUPPORT_IRQ_GUEST_HPP
#define KVM_HPP_TESTS_SUPPORT_IRQ_GUEST_HPP

#include <kvm/kvm.hpp>

#include <gtest/gtest.h>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>

#include "support/guest.hpp"

/// @file
/// What the tests of interrupts and events share.

namespace kvm_test {

using namespace std::chrono_literals;

/// Longer than anything here takes: what did not happen by then won't.
inline constexpr auto forever = 20s;

template <class T>
void expect_error(const kvm::Result<T>& result, int error_number, const std::string& words) {
  ASSERT_FALSE(result.has_value()) << "expected: " << words;
  EXPECT_EQ(result.error().error_number(), error_number) << result.error().what();
  EXPECT_NE(std::string(result.error().what()).find(words), std::string::npos)
      << result.error().what();
}

/// Whether the VM has an Irqfd of this eventfd. Takes what the eventfd counts.
inline bool is_bound(kvm::Vm& vm, const kvm::EventFd& event) {
  constexpr std::uint32_t leads_nowhere = 4000;
  event.read();
  const auto probe = vm.try_create_irqfd(leads_nowhere, event);
  EXPECT_TRUE(probe || probe.error().error_number() == EBUSY) << probe.error().what();
  return !probe;
}

/// A real-mode guest with all interrupt controllers in the kernel. It writes to
/// port `idle` for ever; vector `first_vector` + n ends in a write to port
/// `handled` + n, then one to `leaving`, with the end of the interrupt between
/// the two, as far as the PIC is concerned: after a message, the local APIC waits
/// for one yet, and takes only those of a higher class, 0x10 and more further on.
struct IrqGuest : Machine {
  static constexpr std::uint8_t idle = 0x10;
  static constexpr std::uint8_t leaving = 0x11;
  static constexpr std::uint8_t handled = 0xa8;
  static constexpr unsigned first_vector = 0x40;
  static constexpr unsigned vectors = 24;

  kvm::Vcpu vcpu = (vm.create_irqchip(), vm.create_vcpu(0));

  IrqGuest() {
    // sti; again: out %al, $idle; jmp again
    load(code_at, {0xfb, 0xe6, idle, 0xeb, 0xfc});
    for (unsigned n = 0; n < vectors; ++n) {
      const auto handler = static_cast<std::uint16_t>(0x2000 + 0x40 * n);
      set_vector(*this, first_vector + n, handler);
      const auto port = static_cast<std::uint8_t>(handled + n);
      // out %al, $port; mov $0x20, %al; out %al, $0x20 (to the PIC); out %al, $leaving; iret
      load(handler, {0xe6, port, 0xb0, 0x20, 0xe6, 0x20, 0xe6, leaving, 0xcf});
    }
    enter_real_mode(vcpu);
    auto pic = vm.get_irqchip(kvm::uapi::irqchip::pic_master);
    pic.chip.pic.irq_base = first_vector;
    pic.chip.pic.imr = 0;
    vm.set_irqchip(pic);
  }

  /// Lets the local APIC take messages.
  void enable_apic() {
    auto lapic = vcpu.get_lapic();
    lapic.regs[0xf1] = 1;  // the enable bit of the spurious vector register
    vcpu.set_lapic(lapic);
  }

  /// Runs to the next OUT and gives its port; 0 after another exit.
  unsigned step() {
    unsigned port = 0;
    const kvm::Exit exit = vcpu.run();
    exit.visit([&](kvm::exits::IoOut io) { port = io.port; },
               [&](const auto&) { ADD_FAILURE() << "unexpected exit: " << exit.describe(); });
    return port;
  }
  /// Runs until an interrupt is handled, which KVM may raise somewhat later than
  /// it was asked to: gives its vector, or 0 if none comes.
  unsigned await_interrupt() {
    const auto end = std::chrono::steady_clock::now() + forever;
    do {
      const unsigned port = step();
      if (port == 0) {
        return 0;
      }
      if (port >= handled) {
        return first_vector + port - handled;
      }
    } while (std::chrono::steady_clock::now() < end);
    ADD_FAILURE() << "no interrupt came";
    return 0;
  }
  /// Runs until no handler is active any more.
  void finish_handler() {
    while (step() == leaving) {
    }
  }
};

}  // namespace kvm_test

#endif
