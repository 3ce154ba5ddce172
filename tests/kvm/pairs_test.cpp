// SPDX-License-Identifier: MIT
// needs: x86
// The halves of pairs that other tests call the other half of.
#include <kvm/kvm.hpp>

#include <gtest/gtest.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "support/guest.hpp"
#include "support/require.hpp"

namespace {

namespace cap = kvm::cap;
namespace exits = kvm::exits;
using kvm::Gpa;
using kvm_test::Guest;
using kvm_test::Machine;
using kvm_test::mmio_at;

constexpr std::uint64_t page = 4096;

TEST(Pairs, TryDrainAndDrain) {
  // mov $mmio_at, %ebx; mov $1, %al; again: mov %al, (%rbx); inc %al; cmp $4, %al; jne again;
  // out %al, $0xff
  Guest guest = Guest::long_mode({0xbb, 0x00, 0x00, 0x00, 0x30, 0xb0, 0x01, 0x88, 0x03, 0xfe, 0xc0,
                                  0x3c, 0x04, 0x75, 0xf8, 0xe6, 0xff});
  KVM_REQUIRE(guest.vm, cap::CoalescedMmio);
  kvm::CoalescedRing ring = guest.vm.create_coalesced_ring(guest.vcpu);
  const kvm::CoalescedZone zone = ring.create_zone(kvm::CoalescedRange::mmio(Gpa{mmio_at}, 8));
  const kvm::Exit exit = guest.vcpu.run();
  exit.visit([](exits::IoOut) {}, [&](auto&&) { ADD_FAILURE() << exit.describe(); });

  std::vector<std::uint8_t> written;
  const auto take = [&](const auto& write) {
    written.push_back(std::to_integer<std::uint8_t>(write.data[0]));
  };
  const auto drained = ring.try_drain(take);
  ASSERT_TRUE(drained) << drained.error().what();
  EXPECT_EQ(*drained, 3u);
  EXPECT_EQ(written, (std::vector<std::uint8_t>{1, 2, 3}));
  EXPECT_EQ(ring.drain(take), 0u);
#if KVM_HPP_EXCEPTIONS
  kvm::CoalescedRing moved = std::move(ring);
  try {
    ring.drain(take);
    FAIL() << "it drained a ring that it has not";
  } catch (const kvm::Error& error) {
    EXPECT_EQ(error.error_number(), EBADF) << error.what();
  }
  EXPECT_EQ(moved.drain(take), 0u);
#endif
}

TEST(Pairs, MapAPartOfAGuestMemfd) {
  Machine machine;
  KVM_REQUIRE(machine.vm, cap::GuestMemfdFlags,
              cap::GuestMemfdFlag::mmap | cap::GuestMemfdFlag::init_shared);
  const kvm::GuestMemfd memory = machine.vm.create_guest_memfd(
      4 * page, cap::GuestMemfdFlag::mmap | cap::GuestMemfdFlag::init_shared);
  const kvm::Mapping whole = memory.map();
  const kvm::Mapping part = memory.map(page, 2 * page);
  ASSERT_EQ(part.size(), 2 * page);
  whole.data()[page] = std::byte{42};
  EXPECT_EQ(part.data()[0], std::byte{42});
#if KVM_HPP_EXCEPTIONS
  EXPECT_THROW(static_cast<void>(memory.map(1, page)), kvm::Error);
#endif
}

}  // namespace
