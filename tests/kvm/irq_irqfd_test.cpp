// SPDX-License-Identifier: MIT
// needs: x86
// Interrupts that a guest takes because an eventfd was signalled.
#include <kvm/kvm.hpp>

#include <gtest/gtest.h>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <optional>
#include <utility>

#include <fcntl.h>
#include <unistd.h>

#include "support/child.hpp"
#include "support/irq_guest.hpp"
#include "support/kicking.hpp"
#include "support/require.hpp"

namespace {

namespace cap = kvm::cap;
using kvm::EventFd;
using kvm::Irqfd;
using kvm_test::expect_error;
using kvm_test::expect_in_child;
using kvm_test::forever;
using kvm_test::IrqGuest;
using kvm_test::is_bound;
using kvm_test::Machine;

constexpr std::uint32_t gsi = 5;
constexpr unsigned vector = IrqGuest::first_vector + gsi;

TEST(Irqfd, RaisesTheInterrupt) {
  IrqGuest guest;
  KVM_REQUIRE(guest.vm, cap::Irqfd);
  const EventFd event;
  const Irqfd irqfd = guest.vm.create_irqfd(gsi, event);
  EXPECT_EQ(irqfd.gsi(), gsi);
  EXPECT_FALSE(irqfd.resamples());
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(guest.step(), IrqGuest::idle);
    event.signal();
    EXPECT_EQ(guest.await_interrupt(), vector);
    guest.finish_handler();
  }
}

TEST(Irqfd, WhatWasSignalledBeforeCounts) {
  IrqGuest guest;
  KVM_REQUIRE(guest.vm, cap::Irqfd);
  const EventFd event;
  event.signal();
  const Irqfd irqfd = guest.vm.create_irqfd(gsi, event);
  EXPECT_EQ(guest.await_interrupt(), vector);
}

TEST(Irqfd, ManyToOneInterrupt) {
  IrqGuest guest;
  KVM_REQUIRE(guest.vm, cap::Irqfd);
  const EventFd first;
  const EventFd second;
  const Irqfd one = guest.vm.create_irqfd(gsi, first);
  const Irqfd two = guest.vm.create_irqfd(gsi, second);
  const Irqfd other = guest.vm.create_irqfd(gsi + 1, EventFd());
  second.signal();
  EXPECT_EQ(guest.await_interrupt(), vector);
  guest.finish_handler();
  first.signal();
  EXPECT_EQ(guest.await_interrupt(), vector);
}

TEST(Irqfd, DroppingItUnbinds) {
  IrqGuest guest;
  KVM_REQUIRE(guest.vm, cap::Irqfd);
  const EventFd event;
  {
    const Irqfd irqfd = guest.vm.create_irqfd(gsi, event);
    EXPECT_TRUE(is_bound(guest.vm, event));
  }
  EXPECT_FALSE(is_bound(guest.vm, event));
  // And the eventfd can be bound again.
  const Irqfd again = guest.vm.create_irqfd(gsi + 1, event);
  EXPECT_TRUE(is_bound(guest.vm, event));
}

TEST(Irqfd, Deassign) {
  IrqGuest guest;
  KVM_REQUIRE(guest.vm, cap::Irqfd);
  const EventFd event;
  Irqfd irqfd = guest.vm.create_irqfd(gsi, event);
  ASSERT_TRUE(irqfd.try_deassign());
  EXPECT_FALSE(is_bound(guest.vm, event));
  // Once is enough: what another has bound since is not touched.
  const Irqfd other = guest.vm.create_irqfd(gsi, event);
  ASSERT_TRUE(irqfd.try_deassign());
  { const Irqfd gone = std::move(irqfd); }
  EXPECT_TRUE(is_bound(guest.vm, event));
}

// The caller's descriptor is closed and its number given to another eventfd: deassigning through it
// would leave the first one bound, and KVM would not say so (R73).
TEST(Irqfd, OutlivesTheCallersDescriptor) {
  IrqGuest guest;
  KVM_REQUIRE(guest.vm, cap::Irqfd);
  std::optional<EventFd> event(std::in_place);
  const EventFd kept = event->duplicate();
  const int number = event->fd();
  std::optional<Irqfd> irqfd = guest.vm.create_irqfd(gsi, *event);
  event.reset();
  const EventFd recycled;
  ASSERT_EQ(recycled.fd(), number);
  EXPECT_TRUE(is_bound(guest.vm, kept));
  irqfd.reset();
  EXPECT_FALSE(is_bound(guest.vm, kept));
  EXPECT_FALSE(is_bound(guest.vm, recycled));
}

// Without a descriptor of its own, closing the last of the caller's would unbind.
TEST(Irqfd, StaysBoundWithoutTheCallersDescriptor) {
  IrqGuest guest;
  KVM_REQUIRE(guest.vm, cap::Irqfd);
  const Irqfd irqfd = [&] {
    const EventFd event;
    event.signal();
    return guest.vm.create_irqfd(gsi, event);
  }();
  EXPECT_EQ(guest.await_interrupt(), vector);
}

TEST(Irqfd, MovesWithItsBinding) {
  IrqGuest guest;
  KVM_REQUIRE(guest.vm, cap::Irqfd);
  const EventFd first;
  const EventFd second;
  Irqfd irqfd = guest.vm.create_irqfd(gsi, first);
  Irqfd moved = std::move(irqfd);
  EXPECT_TRUE(is_bound(guest.vm, first));
  moved = guest.vm.create_irqfd(gsi, second);
  EXPECT_FALSE(is_bound(guest.vm, first)) << "assigning to it drops what it had";
  EXPECT_TRUE(is_bound(guest.vm, second));
  irqfd = std::move(moved);
  EXPECT_TRUE(is_bound(guest.vm, second));
  EXPECT_EQ(irqfd.gsi(), gsi);
}

TEST(Irqfd, OutlivesTheVmsHandle) {
  const EventFd event;
  std::optional<Irqfd> irqfd;
  {
    IrqGuest guest;
    KVM_REQUIRE(guest.vm, cap::Irqfd);
    irqfd = guest.vm.create_irqfd(gsi, event);
  }
  EXPECT_TRUE(irqfd->try_deassign()) << "the VM lives as long as anything of it does";
}

TEST(Irqfd, FailuresAreExplained) {
  IrqGuest guest;
  KVM_REQUIRE(guest.vm, cap::Irqfd);
  const EventFd event;
  const Irqfd irqfd = guest.vm.create_irqfd(gsi, event);
  expect_error(guest.vm.try_create_irqfd(gsi + 1, event), EBUSY, "each can be on one gsi");
  expect_error(guest.vm.try_create_irqfd(gsi, event), EBUSY, "KVM_IRQFD(gsi=5)");
  expect_error(guest.vm.try_create_irqfd(4096, EventFd()), EINVAL, "below 4096");
  EXPECT_TRUE(guest.vm.try_create_irqfd(4095, EventFd()));

  EventFd empty;
  { const EventFd taken = std::move(empty); }
  expect_error(guest.vm.try_create_irqfd(gsi, empty), EBADF, "fcntl(F_DUPFD_CLOEXEC)(gsi=5)");
  const EventFd file(kvm::Fd(::open("/dev/null", O_RDWR | O_CLOEXEC)));
  expect_error(guest.vm.try_create_irqfd(gsi, file), EINVAL, "it is no eventfd");

  Machine bare;
  expect_error(bare.vm.try_create_irqfd(gsi, event), EINVAL,
               "no interrupt controller in the kernel");
  const kvm::Vm taken = std::move(bare.vm);
  expect_error(bare.vm.try_create_irqfd(gsi, event), EBADF, "moved from");
  EXPECT_TRUE(is_bound(guest.vm, event)) << "none of these changed anything";
}

// --- resampling ---

TEST(IrqfdResample, TellsTheEndOfTheInterrupt) {
  IrqGuest guest;
  KVM_REQUIRE(guest.vm, cap::IrqfdResample);
  const EventFd event;
  const EventFd resample;
  const Irqfd irqfd = guest.vm.create_irqfd(gsi, event, resample);
  EXPECT_TRUE(irqfd.resamples());
  for (int i = 0; i < 3; ++i) {
    event.signal();
    EXPECT_EQ(guest.await_interrupt(), vector);
    EXPECT_EQ(resample.read(), std::nullopt) << "the guest has not acknowledged it yet";
    guest.finish_handler();
    EXPECT_TRUE(resample.wait(forever));
    EXPECT_EQ(resample.read(), 1u);
  }
}

// A device that still wants its interrupt signals again from within the answer, and the guest gets
// it again.
TEST(IrqfdResample, IsALevel) {
  IrqGuest guest;
  KVM_REQUIRE(guest.vm, cap::IrqfdResample);
  const EventFd event;
  const EventFd resample;
  const Irqfd irqfd = guest.vm.create_irqfd(gsi, event, resample);
  event.signal();
  EXPECT_EQ(guest.await_interrupt(), vector);
  event.signal();  // While it is raised: no second edge.
  guest.finish_handler();
  EXPECT_TRUE(resample.wait(forever));
  EXPECT_EQ(resample.read(), 1u);
}

TEST(IrqfdResample, OneEventForSeveral) {
  IrqGuest guest;
  KVM_REQUIRE(guest.vm, cap::IrqfdResample);
  const EventFd first;
  const EventFd second;
  const EventFd resample;
  const Irqfd one = guest.vm.create_irqfd(gsi, first, resample);
  const Irqfd two = guest.vm.create_irqfd(gsi + 1, second, resample);
  second.signal();
  EXPECT_EQ(guest.await_interrupt(), vector + 1);
  guest.finish_handler();
  EXPECT_TRUE(resample.wait(forever));
  resample.read();
  first.signal();
  EXPECT_EQ(guest.await_interrupt(), vector);
  guest.finish_handler();
  EXPECT_TRUE(resample.wait(forever));
}

TEST(IrqfdResample, DroppingItUnbinds) {
  IrqGuest guest;
  KVM_REQUIRE(guest.vm, cap::IrqfdResample);
  std::optional<EventFd> event(std::in_place);
  std::optional<EventFd> resample(std::in_place);
  const EventFd kept = event->duplicate();
  const EventFd told = resample->duplicate();
  std::optional<Irqfd> irqfd = guest.vm.create_irqfd(gsi, *event, *resample);
  event.reset();
  resample.reset();
  const EventFd recycled[2];
  kept.signal();
  EXPECT_EQ(guest.await_interrupt(), vector);
  irqfd.reset();
  EXPECT_FALSE(is_bound(guest.vm, kept));
  EXPECT_FALSE(is_bound(guest.vm, recycled[0]));
  guest.finish_handler();
  EXPECT_EQ(told.read(), std::nullopt);
}

TEST(IrqfdResample, FailuresAreExplained) {
  IrqGuest guest;
  KVM_REQUIRE(guest.vm, cap::IrqfdResample);
  const EventFd event;
  EventFd empty;
  { const EventFd taken = std::move(empty); }
  expect_error(guest.vm.try_create_irqfd(gsi, event, empty), EBADF, "for resampling");
  EXPECT_FALSE(is_bound(guest.vm, event));

  Machine split;
  split.vm.enable(cap::SplitIrqchip{});
  expect_error(split.vm.try_create_irqfd(gsi, event, EventFd()), EINVAL,
               "a split one does not resample");
  EXPECT_TRUE(split.vm.try_create_irqfd(gsi, event));
}

// --- fork ---

TEST(Irqfd, AForkedChildUnbindsNothing) {
  if (kvm_test::thread_sanitizer) {
    GTEST_SKIP() << "thread sanitizer does not go with fork";
  }
  IrqGuest guest;
  KVM_REQUIRE(guest.vm, cap::Irqfd);
  const EventFd event;
  std::optional<Irqfd> irqfd = guest.vm.create_irqfd(gsi, event);
  expect_in_child([&] {
    expect_error(irqfd->try_deassign(), EIO, "after a fork");
    expect_error(guest.vm.try_create_irqfd(gsi, EventFd()), EIO, "after a fork");
    irqfd.reset();
  });
  EXPECT_TRUE(is_bound(guest.vm, event));
}

}  // namespace
