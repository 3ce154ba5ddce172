// SPDX-License-Identifier: MIT
// Eventfds and what is bound to them, with KVM and the kernel refusing: after each refusal nothing
// is bound that was not, nothing is lost that was, and nothing leaks.
#include "driver.hpp"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <sys/syscall.h>

#include <support/irq_guest.hpp>

namespace {

using fault::Call;
using fault::FaultTest;
using fault::Function;
using fault::Guest;
using fault::Outcome;
using fault::Rule;
using kvm::CoalescedRange;
using kvm::CoalescedRing;
using kvm::CoalescedZone;
using kvm::EventFd;
using kvm::Gpa;
using kvm::Ioeventfd;
using kvm::Irqfd;
using At = kvm::IoeventfdAddress;
namespace request = kvm::uapi::request;
using namespace std::chrono_literals;

constexpr std::uint32_t gsi = 5;
constexpr int any_errno[] = {EIO, EBADF, ENOTTY, EPERM, EINVAL, EFAULT, ENOMEM, EAGAIN, ENOENT};

/// As make_guest(), with interrupt controllers.
Guest make_irq_guest() {
  kvm_test::Machine machine;
  machine.vm.create_irqchip();
  kvm::Vcpu vcpu = machine.vm.create_vcpu(0);
  machine.load(kvm_test::code_at, {0xba, 0x10, 0x00, 0xee, 0xeb, 0xfd});
  kvm_test::enter_real_mode(vcpu);
  return Guest{std::move(machine), std::move(vcpu)};
}

bool is_bound(Guest& guest, const EventFd& event) {
  const fault::Unobserved ours;
  return kvm_test::is_bound(guest.vm, event);
}

template <class R>
Rule refuse(R request, int error_number, int times = 1) {
  return {
      .matches = [request](const Call& call, std::size_t) { return call.is_ioctl(request.code); },
      .error_number = error_number,
      .times = times};
}

class IrqFaults : public FaultTest {};

// --- EventFd ---

TEST_F(IrqFaults, CreateEventFd) {
  fault::expect_pair_withstands(
      {.name = "create"}, [](Guest&) { return EventFd::try_create(3); },
      [](Guest&) { return EventFd(); });
}

bool is_syscall(const Call& call, long number) {
  return call.function == Function::syscall && call.detail == static_cast<unsigned long>(number);
}

TEST_F(IrqFaults, UseOfAnEventFd) {
  const EventFd event;
  fault::expect_pair_withstands(
      {.name = "signal",
       .survives =
           [](const Call&, int error_number) {  // Full, or sent again.
             return error_number == EAGAIN || error_number == EINTR;
           }},
      [&](Guest&) { return event.try_signal(); },
      [&](Guest&) {
        event.signal();
        return 0;
      });
  fault::expect_pair_withstands(
      {.name = "read",
       .survives =
           [](const Call&, int error_number) {
             return error_number == EAGAIN || error_number == EINTR;
           }},
      [&](Guest&) { return event.try_read(); }, [&](Guest&) { return event.read(); });
  const auto interrupted = [](const Call&, int error_number) { return error_number == EINTR; };
  event.signal();
  fault::expect_pair_withstands(
      {.name = "wait", .survives = interrupted}, [&](Guest&) { return event.try_wait(); },
      [&](Guest&) {
        event.wait();
        return 0;
      });
  fault::expect_pair_withstands(
      {.name = "wait(timeout)", .survives = interrupted},
      [&](Guest&) { return event.try_wait(1ms); }, [&](Guest&) { return event.wait(1ms); });
  fault::expect_pair_withstands(
      {.name = "duplicate"}, [&](Guest&) { return event.try_duplicate(); },
      [&](Guest&) { return event.duplicate(); });
}

TEST_F(IrqFaults, AnInterruptedSignalIsSentOnce) {
  const EventFd event;
  fault::arm({{.matches = [](const Call& call, std::size_t) { return is_syscall(call, SYS_write); },
               .error_number = EINTR,
               .times = 5}});
  event.signal(2);
  fault::disarm();
  EXPECT_EQ(event.read(), 2u);
}

// --- Irqfd and Ioeventfd ---

/// Makes one with each call refused in turn. What is made is dropped unobserved.
template <class Make>
void expect_binding(const std::string& name, Make make, bool interrupt) {
  SCOPED_TRACE(name);
  const EventFd event;
  fault::expect_withstands(
      {.name = name,
       .run =
           [&](Guest& guest) {
             std::optional<std::invoke_result_t<Make, Guest&, const EventFd&>> made;
             const Outcome outcome = fault::attempt([&] {
               made.emplace(make(guest, event));
               return 0;
             });
             const Outcome real = made && !*made ? Outcome::of(made->error()) : outcome;
             const fault::Unobserved ours;
             if (interrupt) {
               EXPECT_EQ(is_bound(guest, event), real.succeeded);
             }
             made.reset();
             EXPECT_FALSE(is_bound(guest, event));
             return real;
           },
       .make = make_irq_guest});
}

TEST_F(IrqFaults, CreateIrqfd) {
  const EventFd resample;
  expect_binding(
      "try_create_irqfd",
      [](Guest& guest, const EventFd& event) { return guest.vm.try_create_irqfd(gsi, event); },
      true);
  expect_binding(
      "create_irqfd",
      [](Guest& guest, const EventFd& event) {
        return kvm::Result<Irqfd>(guest.vm.create_irqfd(gsi, event));
      },
      true);
  expect_binding(
      "try_create_irqfd with resample",
      [&](Guest& guest, const EventFd& event) {
        return guest.vm.try_create_irqfd(gsi, event, resample);
      },
      true);
}

TEST_F(IrqFaults, CreateIoeventfd) {
  constexpr auto at = At::pio<std::uint16_t>(0x700);
  const auto expect_free = [&](Guest& guest) {
    const fault::Unobserved ours;
    EXPECT_TRUE(guest.vm.try_create_ioeventfd(at, EventFd()));
  };
  expect_binding(
      "try_create_ioeventfd",
      [&](Guest& guest, const EventFd& event) {
        auto made = guest.vm.try_create_ioeventfd(at, event);
        if (!made) {
          expect_free(guest);
        }
        return made;
      },
      false);
  expect_binding(
      "create_ioeventfd with datamatch",
      [&](Guest& guest, const EventFd& event) {
        return kvm::Result<Ioeventfd>(guest.vm.create_ioeventfd(at, event, std::uint16_t{1}));
      },
      false);
}

TEST_F(IrqFaults, WhatKvmDoesNotDeassignStays) {
  Guest guest = make_irq_guest();
  const EventFd event;
  Irqfd irqfd = guest.vm.create_irqfd(gsi, event);
  Ioeventfd ioeventfd = guest.vm.create_ioeventfd(At::pio<std::uint8_t>(0x700), event);
  for (const int error_number : any_errno) {
    SCOPED_TRACE(error_number);
    const auto refused = [&](auto request, auto& binding) {
      fault::arm({refuse(request, error_number)});
      const auto result = binding.try_deassign();
      fault::disarm();
      ASSERT_FALSE(result);
      EXPECT_EQ(result.error().error_number(), error_number);
      EXPECT_STREQ(result.error().operation(), request.name);
    };
    refused(request::irqfd, irqfd);
    EXPECT_TRUE(is_bound(guest, event));
    refused(request::ioeventfd, ioeventfd);
    EXPECT_FALSE(guest.vm.try_create_ioeventfd(At::pio<std::uint8_t>(0x700), event));
  }
  ASSERT_TRUE(irqfd.try_deassign());
  EXPECT_FALSE(is_bound(guest, event));
  ASSERT_TRUE(ioeventfd.try_deassign());
  EXPECT_TRUE(guest.vm.try_create_ioeventfd(At::pio<std::uint8_t>(0x700), event));
}

// Nobody is left to tell: the descriptor is closed all the same, and with the caller's own KVM
// unbinds an interrupt by itself.
TEST_F(IrqFaults, ADropThatKvmRefusesLeaksNothing) {
  for (const int error_number : any_errno) {
    SCOPED_TRACE(error_number);
    Guest guest = make_irq_guest();
    const fault::Resources before = fault::Resources::now();
    {
      const EventFd event;
      std::optional<Irqfd> irqfd = guest.vm.create_irqfd(gsi, event);
      std::optional<Ioeventfd> ioeventfd =
          guest.vm.create_ioeventfd(At::pio<std::uint8_t>(0x700), event);
      fault::arm({refuse(request::irqfd, error_number), refuse(request::ioeventfd, error_number)});
      irqfd.reset();
      ioeventfd.reset();
      fault::disarm();
      EXPECT_EQ(fault::injected(), 2u);
    }
    EXPECT_EQ(fault::Resources::now(), before);
    EXPECT_TRUE(guest.vm.try_create_irqfd(gsi, EventFd()));
  }
}

// The request comes before the descriptor is closed, and through the one that was duplicated.
TEST_F(IrqFaults, DeassignsThroughItsOwnDescriptor) {
  Guest guest = make_irq_guest();
  const EventFd event;
  std::optional<Irqfd> irqfd = guest.vm.create_irqfd(gsi, event);
  fault::arm();
  irqfd.reset();
  const auto calls = fault::disarm();
  ASSERT_EQ(calls.size(), 2u);
  EXPECT_TRUE(calls[0].is_ioctl(request::irqfd.code));
  EXPECT_EQ(calls[1].function, Function::close);
  EXPECT_NE(calls[1].detail, static_cast<unsigned long>(event.fd()));
}

TEST_F(IrqFaults, AnInterruptedRequestIsSentAgain) {
  Guest guest = make_irq_guest();
  const EventFd event;
  fault::arm({refuse(request::irqfd, EINTR, 3)});
  auto irqfd = guest.vm.try_create_irqfd(gsi, event);
  fault::disarm();
  ASSERT_TRUE(irqfd);
  EXPECT_TRUE(is_bound(guest, event));
  fault::arm({refuse(request::irqfd, EINTR, 3)});
  EXPECT_TRUE(irqfd->try_deassign());
  fault::disarm();
  EXPECT_FALSE(is_bound(guest, event));
}

// --- routing ---

TEST_F(IrqFaults, SetGsiRouting) {
  const auto routing = kvm::IrqRouting::x86_default();
  const fault::Operation operation{.name = "set_gsi_routing", .make = make_irq_guest};
  fault::expect_pair_withstands(
      operation, [&](Guest& guest) { return guest.vm.try_set_gsi_routing(routing); },
      [&](Guest& guest) {
        guest.vm.set_gsi_routing(routing);
        return 0;
      });
}

// --- coalesced writes ---

const CoalescedRange range = CoalescedRange::mmio(Gpa{kvm_test::mmio_at}, 4);

TEST_F(IrqFaults, CreateCoalescedRing) {
  fault::expect_pair_withstands(
      {.name = "create_coalesced_ring"},
      [](Guest& guest) { return guest.vm.try_create_coalesced_ring(guest.vcpu); },
      [](Guest& guest) { return guest.vm.create_coalesced_ring(guest.vcpu); });
}

TEST_F(IrqFaults, CreateCoalescedZone) {
  fault::expect_withstands({.name = "try_create_zone", .run = [](Guest& guest) {
                              std::optional<CoalescedRing> ring;
                              {
                                const fault::Unobserved ours;
                                ring = guest.vm.create_coalesced_ring(guest.vcpu);
                              }
                              std::optional<kvm::Result<CoalescedZone>> made;
                              made.emplace(ring->try_create_zone(range));
                              const fault::Unobserved ours;
                              const bool there = made->has_value();
                              const Outcome outcome =
                                  there ? Outcome() : Outcome::of(made->error());
                              EXPECT_EQ(ring->try_create_zone(range).has_value(), !there);
                              made.reset();
                              EXPECT_TRUE(ring->try_create_zone(range));
                              ring.reset();
                              return outcome;
                            }});
}

TEST_F(IrqFaults, AZoneThatKvmDoesNotEndStays) {
  for (const int error_number : any_errno) {
    SCOPED_TRACE(error_number);
    Guest guest = fault::make_guest();
    std::optional<CoalescedRing> ring = guest.vm.create_coalesced_ring(guest.vcpu);
    std::optional<CoalescedZone> zone = ring->create_zone(range);
    fault::arm({refuse(request::unregister_coalesced_mmio, error_number, 3)});
    const auto ended = zone->try_unregister();
    EXPECT_FALSE(ended);
    EXPECT_EQ(ended.error().error_number(), error_number);
    EXPECT_STREQ(ended.error().operation(), request::unregister_coalesced_mmio.name);
    zone.reset();
    // KVM has it yet: a second one over it would be ended with it.
    const auto over = ring->try_create_zone(range);
    EXPECT_FALSE(over);
    EXPECT_EQ(over.error().error_number(), EEXIST);
    ring.reset();  // Tries as well.
    fault::disarm();
    EXPECT_EQ(fault::injected(), 3u);
    // And the next consumer's end does it.
    ring = guest.vm.create_coalesced_ring(guest.vcpu);
    EXPECT_FALSE(ring->try_create_zone(range));
    ring.reset();
    ring = guest.vm.create_coalesced_ring(guest.vcpu);
    EXPECT_TRUE(ring->try_create_zone(range));
  }
}

TEST_F(IrqFaults, DrainingMakesNoCall) {
  Guest guest = fault::make_guest();
  CoalescedRing ring = guest.vm.create_coalesced_ring(guest.vcpu);
  fault::arm();
  ring.drain([](auto&&) {});
  EXPECT_TRUE(fault::disarm().empty());
}

}  // namespace
