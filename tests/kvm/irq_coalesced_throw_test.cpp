// SPDX-License-Identifier: MIT
// needs: x86
// needs: exceptions
#include <kvm/kvm.hpp>

#include <gtest/gtest.h>

#include <cerrno>
#include <cstddef>
#include <stdexcept>
#include <utility>
#include <vector>

#include "support/irq_guest.hpp"
#include "support/require.hpp"

namespace {

using kvm_test::Guest;

TEST(CoalescedRing, WhatAHandlerThrewAtComesAgain) {
  Guest guest = Guest::long_mode(
      {
          0xbb,
          0x00,
          0x00,
          0x00,
          0x30,  // mov $mmio_at, %ebx
          0xb0,
          0x01,
          0x88,
          0x03,  // mov $1, %al; mov %al, (%rbx)
          0xb0,
          0x02,
          0x88,
          0x03,  // mov $2, %al; mov %al, (%rbx)
          0xb0,
          0x03,
          0x88,
          0x03,  // mov $3, %al; mov %al, (%rbx)
          0xf4,
      },
      0);
  KVM_REQUIRE(guest.vm, kvm::cap::CoalescedMmio);
  kvm::CoalescedRing ring = guest.vm.create_coalesced_ring(guest.vcpu);
  const kvm::CoalescedZone zone =
      ring.create_zone(kvm::CoalescedRange::mmio(kvm::Gpa{kvm_test::mmio_at}, 1));
  static_cast<void>(guest.vcpu.run());
  std::vector<std::byte> seen;
  const auto handler = [&](const auto& write) {
    seen.push_back(write.data[0]);
    if (seen.size() == 2) {
      throw std::runtime_error("handler");
    }
  };
  EXPECT_THROW(ring.drain(handler), std::runtime_error);
  EXPECT_EQ(ring.drain(handler), 2u);
  EXPECT_EQ(seen, (std::vector<std::byte>{std::byte{1}, std::byte{2}, std::byte{2}, std::byte{3}}));
}

// A guest whose writes could not be drained is not entered: the exit would be lost.
TEST(CoalescedRing, RunsNoGuestThatItCannotDrain) {
  const auto counting = [] {
    return Guest::long_mode({
        0xbb, 0x00, 0x00, 0x00, 0x30,  // mov $mmio_at, %ebx
        0x88, 0x03,                    // mov %al, (%rbx)
        0xe6, 0xff,                    // out %al, $0xff
        0xe6, 0xff,                    // out %al, $0xff
    });
  };
  Guest guest = counting();
  Guest other = counting();
  KVM_REQUIRE(guest.vm, kvm::cap::CoalescedMmio);
  kvm::CoalescedRing ring = guest.vm.create_coalesced_ring(guest.vcpu);
  const kvm::CoalescedZone zone =
      ring.create_zone(kvm::CoalescedRange::mmio(kvm::Gpa{kvm_test::mmio_at}, 1));
  const auto refused = [&](kvm::CoalescedRing& which, kvm::Vcpu& vcpu, int error_number) {
    const auto before = vcpu.get_regs().rip;
    try {
      static_cast<void>(which.run(vcpu, [](auto&&) {}));
      ADD_FAILURE() << "it ran";
    } catch (const kvm::Error& error) {
      EXPECT_EQ(error.error_number(), error_number) << error.what();
    }
    EXPECT_EQ(vcpu.get_regs().rip, before);
  };
  refused(ring, other.vcpu, EINVAL);
  unsigned writes = 0;
  static_cast<void>(ring.run(guest.vcpu, [&](auto&&) {
    ++writes;
    refused(ring, guest.vcpu, EDEADLK);
  }));
  EXPECT_EQ(writes, 1u);
  const kvm::CoalescedRing taken = std::move(ring);
  refused(ring, guest.vcpu, EBADF);
}

}  // namespace
