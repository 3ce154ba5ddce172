// SPDX-License-Identifier: MIT
// needs: x86
// What the library itself refuses, before KVM is asked, and what it says then.
#include <kvm/kvm.hpp>

#include <gtest/gtest.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "support/child.hpp"
#include "support/guest.hpp"
#include "support/irq_guest.hpp"
#include "support/kicking.hpp"
#include "support/require.hpp"
#include "support/thread_sanitizer.hpp"

namespace {

namespace cap = kvm::cap;
using kvm::Gpa;
using kvm::Mapping;
using kvm_test::expect_error;
using kvm_test::expect_in_child;
using kvm_test::Guest;
using kvm_test::Machine;

constexpr std::uint64_t page = 4096;

TEST(Refusals, OfADirtyRing) {
  Machine machine;
  kvm::Vcpu vcpu = machine.vm.create_vcpu(0);
  expect_error(kvm::DirtyRing::try_open(vcpu), ENXIO, "no dirty rings");
  const kvm::Vcpu moved = std::move(vcpu);
  expect_error(kvm::DirtyRing::try_open(vcpu), EBADF, "moved from");
}

TEST(Refusals, OfAnAddressSpace) {
  Machine machine;
  EXPECT_EQ(machine.vm.memory().address_space(), 0u);
  expect_error(machine.vm.try_memory(9), EINVAL, "address space");
}

TEST(Refusals, OfADirtyMode) {
  Machine machine;
  expect_error(machine.vm.try_track_dirty(static_cast<kvm::DirtyMode>(99)), EINVAL,
               "there is no such mode");
}

TEST(Refusals, OfASlotThatIsGone) {
  Machine machine;
  kvm::MemorySlot slot = machine.vm.add_memory(Gpa{0x800000}, Mapping::anonymous(page));
  const kvm::MemorySlot moved = std::move(slot);
  expect_error(slot.try_discard(0, page), EBADF, "");
}

#if KVM_HPP_EXCEPTIONS
TEST(Refusals, OfARemovalThatWouldWaitForItself) {
  Machine machine;
  kvm::MemorySlot slot = machine.vm.add_memory(Gpa{0x800000}, Mapping::anonymous(page));
  auto view = machine.vm.memory().view();
  std::optional<kvm::Pin> pin = view.pin(Gpa{0x800000}, page, kvm::PinFor::reading);
  ASSERT_TRUE(pin);
  try {
    static_cast<void>(slot.remove());
    FAIL() << "it removed a slot that this thread has pinned";
  } catch (const kvm::Error& error) {
    EXPECT_EQ(error.error_number(), EDEADLK);
    EXPECT_NE(std::string(error.what()).find("pin"), std::string::npos) << error.what();
  }
  pin.reset();
  EXPECT_EQ(slot.remove().size(), page);
}
#endif

TEST(Refusals, OfARegisterOfAnotherWidth) {
  Guest guest = Guest::real_mode({0xf4});
  constexpr std::uint64_t eight_bytes = 0x2030'0000'0000'0000;
  expect_error(guest.vcpu.try_get_one_reg<std::uint32_t>(eight_bytes), EINVAL,
               "the register is 8 bytes wide, the value 4");
}

#if !KVM_HPP_TESTS_TSAN  // Which has no addresses for this.
TEST(Refusals, OfASlotOfTooManyPages) {
  Machine machine;
  constexpr std::size_t pages = std::size_t{1} << 31;
  expect_error(machine.vm.try_add_memory(Gpa{0x800000}, Mapping::anonymous(pages * page)), EINVAL,
               "a slot has at most 2147483647 pages");
}
#endif

// Setting registers would undo what the answer to the port read does to them.
TEST(Refusals, OfASetterBeforeTheCompletion) {
  Guest guest = Guest::real_mode({0xe4, 0x10, 0xf4});
  const auto regs = guest.vcpu.get_regs();
  EXPECT_EQ(kvm_test::run(guest.vcpu), "in");
  expect_error(guest.vcpu.try_set_regs(regs), EBUSY, "not completed");
#if KVM_HPP_EXCEPTIONS
  try {
    guest.vcpu.set_regs(regs);
    FAIL() << "it set registers that the completion changes";
  } catch (const kvm::Error& error) {
    EXPECT_EQ(error.error_number(), EBUSY);
    EXPECT_STREQ(error.operation(), "KVM_SET_REGS");
  }
#endif
  EXPECT_FALSE(guest.vcpu.complete());
  EXPECT_TRUE(guest.vcpu.try_set_regs(regs));
}

#if !KVM_HPP_TESTS_TSAN  // Two threads on one vCPU are the very race that it reports.
TEST(Refusals, OfACompletionDuringARun) {
  const kvm_test::Handler handler(SIGUSR1);
  // in $0x10, %al; jmp .
  Guest guest = Guest::running({0xe4, 0x10, 0xeb, 0xfe});
  const auto kicker = guest.vcpu.kicker(SIGUSR1);
  ASSERT_EQ(kvm_test::run(guest.vcpu), "in");
  kvm_test::Running running(guest.vcpu);
  const auto exit = guest.vcpu.complete();
  ASSERT_TRUE(exit);
  EXPECT_EQ(exit->describe(),
            "KVM_RUN failed: Device or resource busy: another thread is running this vCPU");
  EXPECT_FALSE(running.done());
  kicker.kick();
  EXPECT_EQ(running.wait(), "kicked");
}
#endif

TEST(Refusals, OfAnIrqfdThatWouldRaiseItselfAgain) {
  Machine machine;
  machine.vm.create_irqchip();
  const kvm::EventFd event;
  expect_error(machine.vm.try_create_irqfd(5, event, event), EINVAL, "must be different ones");
}

// What was put into the run page counts as set.
TEST(Refusals, NoneOfMarkedRegisters) {
  Guest guest = Guest::real_mode({0xf4});
  KVM_REQUIRE(guest.vm, cap::SyncRegs, cap::SyncRegsFlag::regs);
  KVM_REQUIRE(guest.vm, cap::SyncRegs, cap::SyncRegsFlag::events);
  auto regs = guest.vcpu.get_regs();
  regs.rax = 0x1234;
  guest.vcpu.set_synced_regs(regs);
  const auto marked = guest.vcpu.try_get_regs();
  ASSERT_TRUE(marked);
  EXPECT_EQ(marked->rax, 0x1234u);
  auto events = guest.vcpu.get_vcpu_events();
  events.nmi.masked = 1;
  guest.vcpu.set_synced_vcpu_events(events);
  const auto marked_events = guest.vcpu.try_get_vcpu_events();
  ASSERT_TRUE(marked_events);
  EXPECT_EQ(marked_events->nmi.masked, 1u);
}

// A child of a fork has no say in the memory of its parent's VM, and holds none of it.
TEST(Refusals, InAForkedChild) {
  Machine machine;
  kvm::MemorySlot slot = machine.vm.add_memory(Gpa{0x800000}, Mapping::anonymous(page));
  std::optional<kvm::RemovedMemory> removed = slot.try_remove().value();
  kvm::DirtyTracker tracker = machine.vm.track_dirty(kvm::DirtyMode::log);
  kvm::DirtySubscription subscription = tracker.subscribe();
  expect_in_child([&] {
    EXPECT_EQ(machine.vm.parked_mappings(), 0u);
    EXPECT_FALSE(removed->in_use());
    removed.reset();
    const auto harvested = subscription.try_harvest([](const kvm::DirtyPages&) {});
    expect_error(harvested, EIO, "");
  });
}

TEST(Refusals, OfRegistersInTheRunPageOfAForkedChild) {
  Guest guest = Guest::real_mode({0xf4});
  KVM_REQUIRE(guest.vm, cap::SyncRegs, cap::SyncRegsFlag::regs);
  guest.vcpu.sync_on_exit(cap::SyncRegsFlag::regs);
  expect_in_child([&] {
    expect_error(guest.vcpu.try_sync_on_exit(cap::SyncRegsFlag::regs), EIO, "Vcpu::sync_on_exit");
  });
}

TEST(Refusals, OfADiscardInAForkedChild) {
  Machine machine;
  KVM_REQUIRE(machine.vm, cap::GuestMemfd);
  const kvm::GuestMemfd memory = machine.vm.create_guest_memfd(page);
  expect_in_child([&] { expect_error(memory.try_discard(0, page), EIO, "forked from"); });
  EXPECT_TRUE(memory.try_discard(0, page));
}

}  // namespace
