// SPDX-License-Identifier: MIT
// needs: x86
// Writes of a guest that signal an eventfd instead of being exits.
#include <kvm/kvm.hpp>

#include <gtest/gtest.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

#include "support/child.hpp"
#include "support/irq_guest.hpp"
#include "support/kicking.hpp"
#include "support/require.hpp"

namespace {

namespace cap = kvm::cap;
using kvm::EventFd;
using kvm::Gpa;
using kvm::Ioeventfd;
using At = kvm::IoeventfdAddress;
using kvm_test::Devices;
using kvm_test::expect_error;
using kvm_test::expect_in_child;
using kvm_test::Guest;
using kvm_test::Machine;
using kvm_test::mmio_at;

constexpr Gpa gpa{mmio_at};
constexpr std::uint16_t port = 0x20;

/// Writes 1, 2, 4 and 8 bytes of rax, which are 0x11 each, to mmio_at.
Guest mmio_guest() {
  return Guest::long_mode({
      0x48, 0xb8, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11,  // movabs $…, %rax
      0xbb, 0x00, 0x00, 0x00, 0x30,                                // mov $mmio_at, %ebx
      0x88, 0x03,                                                  // mov %al, (%rbx)
      0x66, 0x89, 0x03,                                            // mov %ax, (%rbx)
      0x89, 0x03,                                                  // mov %eax, (%rbx)
      0x48, 0x89, 0x03,                                            // mov %rax, (%rbx)
      0xe6, 0xff,                                                  // out %al, $done_port
  });
}
/// Writes 1, 2 and 4 bytes to the port.
Guest port_guest() {
  return Guest::long_mode({
      0xe6, port,        // out %al, $port
      0x66, 0xe7, port,  // out %ax, $port
      0xe7, port,        // out %eax, $port
      0xe6, 0xff,        // out %al, $done_port
  });
}
/// Writes the two-byte values 1 to 5 to the port and to mmio_at.
Guest counting_guest() {
  return Guest::long_mode({
      0xbb, 0x00, 0x00, 0x00, 0x30,  // mov $mmio_at, %ebx
      0x31, 0xc0,                    // xor %eax, %eax
      0xff, 0xc0,                    // again: inc %eax
      0x66, 0xe7, port,              // out %ax, $port
      0x66, 0x89, 0x03,              // mov %ax, (%rbx)
      0x83, 0xf8, 0x05,              // cmp $5, %eax
      0x75, 0xf3,                    // jne again
      0xe6, 0xff,                    // out %al, $done_port
  });
}

using Sizes = std::vector<std::size_t>;

template <class T>
void expect_only_mmio_width(const Sizes& others) {
  SCOPED_TRACE(sizeof(T));
  Guest guest = mmio_guest();
  const EventFd event;
  const Ioeventfd ioeventfd = guest.vm.create_ioeventfd(At::mmio<T>(gpa), event);
  Devices devices;
  EXPECT_EQ(devices.run(guest.vcpu), "done");
  EXPECT_EQ(devices.mmio_sizes, others);
  EXPECT_EQ(event.read(), 1u);
}

TEST(Ioeventfd, TakesMmioWritesOfItsWidth) {
  Machine machine;
  KVM_REQUIRE(machine.vm, cap::Ioeventfd);
  expect_only_mmio_width<std::uint8_t>({2, 4, 8});
  expect_only_mmio_width<std::uint16_t>({1, 4, 8});
  expect_only_mmio_width<std::uint32_t>({1, 2, 8});
  expect_only_mmio_width<std::uint64_t>({1, 2, 4});
}

template <class T>
void expect_only_port_width(const std::vector<unsigned>& others) {
  SCOPED_TRACE(sizeof(T));
  Guest guest = port_guest();
  const EventFd event;
  const Ioeventfd ioeventfd = guest.vm.create_ioeventfd(At::pio<T>(port), event);
  Devices devices;
  EXPECT_EQ(devices.run(guest.vcpu), "done");
  EXPECT_EQ(devices.element_sizes, others);
  EXPECT_EQ(event.read(), 1u);
}

TEST(Ioeventfd, TakesPortWritesOfItsWidth) {
  Machine machine;
  KVM_REQUIRE(machine.vm, cap::Ioeventfd);
  expect_only_port_width<std::uint8_t>({2, 4});
  expect_only_port_width<std::uint16_t>({1, 4});
  expect_only_port_width<std::uint32_t>({1, 2});
}

TEST(Ioeventfd, TakesMmioWritesOfAnyWidth) {
  Guest guest = mmio_guest();
  KVM_REQUIRE(guest.vm, cap::IoeventfdAnyLength);
  const EventFd event;
  const Ioeventfd ioeventfd = guest.vm.create_ioeventfd(At::mmio_any(gpa), event);
  Devices devices;
  EXPECT_EQ(devices.run(guest.vcpu), "done");
  EXPECT_EQ(devices.mmio_sizes, Sizes());
  EXPECT_EQ(event.read(), 4u);
}

TEST(Ioeventfd, TakesPortWritesOfAnyWidth) {
  Guest guest = port_guest();
  KVM_REQUIRE(guest.vm, cap::IoeventfdAnyLength);
  const EventFd event;
  const Ioeventfd ioeventfd = guest.vm.create_ioeventfd(At::pio_any(port), event);
  Devices devices;
  EXPECT_EQ(devices.run(guest.vcpu), "done");
  EXPECT_EQ(devices.ios, 0u);
  EXPECT_EQ(event.read(), 3u);
}

TEST(Ioeventfd, TakesItsAddressOnly) {
  Guest guest = mmio_guest();
  KVM_REQUIRE(guest.vm, cap::Ioeventfd);
  const EventFd event;
  const Ioeventfd before = guest.vm.create_ioeventfd(At::mmio<std::uint32_t>(gpa - 4), event);
  const Ioeventfd after = guest.vm.create_ioeventfd(At::mmio<std::uint32_t>(gpa + 4), event);
  const Ioeventfd as_port =
      guest.vm.create_ioeventfd(At::pio<std::uint32_t>(static_cast<std::uint16_t>(mmio_at)), event);
  Devices devices;
  EXPECT_EQ(devices.run(guest.vcpu), "done");
  EXPECT_EQ(devices.mmio_sizes, (Sizes{1, 2, 4, 8}));
  EXPECT_EQ(event.read(), std::nullopt);
}

TEST(Ioeventfd, Datamatch) {
  Guest guest = counting_guest();
  KVM_REQUIRE(guest.vm, cap::Ioeventfd);
  const EventFd two;
  const EventFd four;
  const EventFd five;
  const Ioeventfd first =
      guest.vm.create_ioeventfd(At::pio<std::uint16_t>(port), two, std::uint16_t{2});
  const Ioeventfd second =
      guest.vm.create_ioeventfd(At::pio<std::uint16_t>(port), four, std::uint16_t{4});
  const Ioeventfd third =
      guest.vm.create_ioeventfd(At::mmio<std::uint16_t>(gpa), five, std::uint16_t{5});
  Devices devices;
  EXPECT_EQ(devices.run(guest.vcpu), "done");
  EXPECT_EQ(devices.out[port], (std::vector<std::uint8_t>{1, 0, 3, 0, 5, 0}));
  EXPECT_EQ(devices.mmio_sizes, (Sizes{2, 2, 2, 2}));
  EXPECT_EQ(devices.written_value(mmio_at, 2), 4u);
  EXPECT_EQ(two.read(), 1u);
  EXPECT_EQ(four.read(), 1u);
  EXPECT_EQ(five.read(), 1u);
}

// All 64 bits of a value count.
TEST(Ioeventfd, WideDatamatch) {
  Guest guest = mmio_guest();
  KVM_REQUIRE(guest.vm, cap::Ioeventfd);
  const EventFd wrong;
  const EventFd right;
  constexpr std::uint64_t written = 0x1111111111111111;
  const auto at = At::mmio<std::uint64_t>(gpa);
  const Ioeventfd low = guest.vm.create_ioeventfd(at, wrong, written & 0xffffffff);
  const Ioeventfd all = guest.vm.create_ioeventfd(at, right, written);
  Devices devices;
  EXPECT_EQ(devices.run(guest.vcpu), "done");
  EXPECT_EQ(devices.mmio_sizes, (Sizes{1, 2, 4}));
  EXPECT_EQ(wrong.read(), std::nullopt);
  EXPECT_EQ(right.read(), 1u);
}

TEST(Ioeventfd, OneEventForSeveralAddresses) {
  Guest guest = counting_guest();
  KVM_REQUIRE(guest.vm, cap::Ioeventfd);
  const EventFd event;
  const Ioeventfd mmio = guest.vm.create_ioeventfd(At::mmio<std::uint16_t>(gpa), event);
  std::optional<Ioeventfd> pio = guest.vm.create_ioeventfd(At::pio<std::uint16_t>(port), event);
  Devices devices;
  EXPECT_EQ(devices.run(guest.vcpu), "done");
  EXPECT_EQ(event.read(), 10u);
  // And dropping one leaves the other.
  pio.reset();
  EXPECT_FALSE(guest.vcpu.complete());
  enter_long_mode(guest, guest.vcpu, 3);
  EXPECT_EQ(devices.run(guest.vcpu), "done");
  EXPECT_EQ(event.read(), 5u);
  EXPECT_EQ(devices.ios, 5u);
}

TEST(Ioeventfd, CollisionsAreRefused) {  // R73
  Machine machine;
  KVM_REQUIRE(machine.vm, cap::IoeventfdAnyLength);
  kvm::Vm& vm = machine.vm;
  const EventFd event;
  const auto at = At::mmio<std::uint16_t>(gpa);
  const Ioeventfd one = vm.create_ioeventfd(at, event, std::uint16_t{1});
  expect_error(vm.try_create_ioeventfd(at, EventFd(), std::uint16_t{1}), EEXIST,
               "KVM_IOEVENTFD(gpa=0x30000000, width=2, datamatch=0x1)");
  expect_error(vm.try_create_ioeventfd(at, event), EEXIST, "some of the same writes");
  // Nor does KVM take one of another width beside one for all widths.
  expect_error(vm.try_create_ioeventfd(At::mmio_any(gpa), event), EEXIST, "KVM_IOEVENTFD(gpa=");
  EXPECT_TRUE(vm.try_create_ioeventfd(at, event, std::uint16_t{2}));
  EXPECT_TRUE(vm.try_create_ioeventfd(At::mmio<std::uint32_t>(gpa), event));
  EXPECT_TRUE(vm.try_create_ioeventfd(At::pio<std::uint16_t>(0), event));
  const Ioeventfd any = vm.create_ioeventfd(At::pio_any(port), event);
  expect_error(vm.try_create_ioeventfd(At::pio<std::uint8_t>(port), event), EEXIST, "port=0x20");
}

TEST(Ioeventfd, DroppingItMakesWritesExitsAgain) {
  Guest guest = mmio_guest();
  KVM_REQUIRE(guest.vm, cap::Ioeventfd);
  const EventFd event;
  { const Ioeventfd gone = guest.vm.create_ioeventfd(At::mmio<std::uint16_t>(gpa), event); }
  Ioeventfd ended = guest.vm.create_ioeventfd(At::mmio<std::uint32_t>(gpa), event, 0x11111111u);
  ended.deassign();
  ended.deassign();
  Devices devices;
  EXPECT_EQ(devices.run(guest.vcpu), "done");
  EXPECT_EQ(devices.mmio_sizes, (Sizes{1, 2, 4, 8}));
  EXPECT_EQ(event.read(), std::nullopt);
}

// The caller's descriptor is closed and its number given to another eventfd: through it KVM would
// not find the binding, and the guest's writes would be swallowed for good (R73).
TEST(Ioeventfd, OutlivesTheCallersDescriptor) {
  Guest guest = mmio_guest();
  KVM_REQUIRE(guest.vm, cap::Ioeventfd);
  std::optional<EventFd> event(std::in_place);
  const int number = event->fd();
  std::optional<Ioeventfd> ioeventfd =
      guest.vm.create_ioeventfd(At::mmio<std::uint32_t>(gpa), *event, 0x11111111u);
  event.reset();
  const EventFd recycled;
  ASSERT_EQ(recycled.fd(), number);
  ASSERT_TRUE(ioeventfd->try_deassign());
  Devices devices;
  EXPECT_EQ(devices.run(guest.vcpu), "done");
  EXPECT_EQ(devices.mmio_sizes, (Sizes{1, 2, 4, 8}));
}

TEST(Ioeventfd, MovesWithItsBinding) {
  Guest guest = mmio_guest();
  KVM_REQUIRE(guest.vm, cap::Ioeventfd);
  const EventFd event;
  Ioeventfd first = guest.vm.create_ioeventfd(At::mmio<std::uint16_t>(gpa), event);
  Ioeventfd second = guest.vm.create_ioeventfd(At::mmio<std::uint32_t>(gpa), event);
  second = std::move(first);  // Ends what it was.
  Devices devices;
  EXPECT_EQ(devices.run(guest.vcpu), "done");
  EXPECT_EQ(devices.mmio_sizes, (Sizes{1, 4, 8}));
}

TEST(Ioeventfd, OutlivesTheVmsHandle) {
  std::optional<Ioeventfd> ioeventfd;
  {
    Guest guest = mmio_guest();
    KVM_REQUIRE(guest.vm, cap::Ioeventfd);
    ioeventfd = guest.vm.create_ioeventfd(At::mmio<std::uint16_t>(gpa), EventFd());
  }
  EXPECT_TRUE(ioeventfd->try_deassign());
}

TEST(Ioeventfd, FailuresAreExplained) {
  Machine machine;
  KVM_REQUIRE(machine.vm, cap::Ioeventfd);
  const auto at = At::mmio<std::uint32_t>(gpa);
  const EventFd file(kvm::Fd(::open("/dev/null", O_RDWR | O_CLOEXEC)));
  expect_error(machine.vm.try_create_ioeventfd(at, file), EINVAL, "it is no eventfd");
  EventFd empty;
  { const EventFd taken = std::move(empty); }
  expect_error(machine.vm.try_create_ioeventfd(at, empty, 7u), EBADF,
               "fcntl(F_DUPFD_CLOEXEC)(gpa=0x30000000, width=4, datamatch=0x7): the eventfd is "
               "empty");
  expect_error(machine.vm.try_create_ioeventfd(At::mmio<std::uint32_t>(Gpa(~0ull)), EventFd()),
               EINVAL, "too near to the end");
  const kvm::Vm taken = std::move(machine.vm);
  expect_error(machine.vm.try_create_ioeventfd(at, EventFd()), EBADF, "moved from");
}

TEST(Ioeventfd, AForkedChildUnbindsNothing) {
  if (kvm_test::thread_sanitizer) {
    GTEST_SKIP() << "thread sanitizer does not go with fork";
  }
  Guest guest = mmio_guest();
  KVM_REQUIRE(guest.vm, cap::Ioeventfd);
  const EventFd event;
  std::optional<Ioeventfd> ioeventfd =
      guest.vm.create_ioeventfd(At::mmio<std::uint16_t>(gpa), event);
  expect_in_child([&] {
    expect_error(ioeventfd->try_deassign(), EIO, "after a fork");
    ioeventfd.reset();
  });
  Devices devices;
  EXPECT_EQ(devices.run(guest.vcpu), "done");
  EXPECT_EQ(devices.mmio_sizes, (Sizes{1, 4, 8}));
  EXPECT_EQ(event.read(), 1u);
}

}  // namespace
