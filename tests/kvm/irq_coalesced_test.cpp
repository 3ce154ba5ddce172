// SPDX-License-Identifier: MIT
// needs: x86
// Writes of a guest that wait in a ring instead of being exits.
#include <kvm/kvm.hpp>

#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "support/child.hpp"
#include "support/irq_guest.hpp"
#include "support/kicking.hpp"
#include "support/require.hpp"

namespace {

namespace cap = kvm::cap;
namespace exits = kvm::exits;
using kvm::CoalescedRange;
using kvm::CoalescedRing;
using kvm::CoalescedZone;
using kvm::Gpa;
using kvm_test::expect_error;
using kvm_test::expect_in_child;
using kvm_test::Guest;
using kvm_test::Machine;
using kvm_test::mmio_at;

constexpr std::uint8_t port = 0x20;
constexpr std::uint8_t done_port = 0xff;

std::uint64_t value_of(std::span<const std::byte> data) {
  std::uint64_t value = 0;
  std::memcpy(&value, data.data(), data.size());
  return value;
}

/// Writes the numbers 1 to `count` to mmio_at, and says that it is done.
Guest counting_guest(std::uint32_t count) {
  const auto byte = [count](unsigned n) { return static_cast<std::uint8_t>(count >> (8 * n)); };
  return Guest::long_mode({
      0xbb, 0x00,      0x00,    0x00,    0x30,     // mov $mmio_at, %ebx
      0x31, 0xc0,                                  // xor %eax, %eax
      0xff, 0xc0,                                  // again: inc %eax
      0x89, 0x03,                                  // mov %eax, (%rbx)
      0x3d, byte(0),   byte(1), byte(2), byte(3),  // cmp $count, %eax
      0x75, 0xf5,                                  // jne again
      0xe6, done_port,                             // out %al, $done_port
  });
}

/// What a guest wrote, in order: coalesced or not.
struct Log {
  std::vector<std::uint64_t> values;
  std::size_t coalesced = 0;
  std::size_t exits = 0;
  std::string ended_by;

  /// Runs until the guest is done.
  void run(kvm::Vcpu& vcpu, CoalescedRing& ring) {
    for (;;) {
      const kvm::Exit exit = ring.run(vcpu, [&](const auto& write) {
        values.push_back(value_of(write.data));
        ++coalesced;
      });
      if (!serve(exit)) {
        return;
      }
    }
  }
  bool serve(const kvm::Exit& exit) {
    return exit.visit(
        [&](exits::MmioWrite write) {
          values.push_back(value_of(write.data));
          ++exits;
          return true;
        },
        [&](exits::IoOut io) {
          if (io.port == done_port) {
            ended_by = "done";
            return false;
          }
          values.push_back(value_of(io.data));
          ++exits;
          return true;
        },
        [&](auto&&) {
          ended_by = exit.describe();
          return false;
        });
  }
  /// Whether it has 1 to `count` in this order.
  void expect_all(std::uint64_t count) const {
    EXPECT_EQ(ended_by, "done");
    ASSERT_EQ(values.size(), count);
    for (std::uint64_t i = 0; i < count; ++i) {
      ASSERT_EQ(values[i], i + 1);
    }
  }
};

const CoalescedRange four_bytes = CoalescedRange::mmio(Gpa{mmio_at}, 4);

TEST(Coalesced, WritesWaitInTheRing) {
  Guest guest = counting_guest(50);
  KVM_REQUIRE(guest.vm, cap::CoalescedMmio);
  CoalescedRing ring = guest.vm.create_coalesced_ring(guest.vcpu);
  EXPECT_EQ(ring.drain([](auto&&) {}), 0u);
  const CoalescedZone zone = ring.create_zone(four_bytes);
  EXPECT_EQ(zone.range().address, mmio_at);
  EXPECT_EQ(zone.range().size, 4u);
  EXPECT_FALSE(zone.range().port);
  Log log;
  EXPECT_FALSE(log.serve(guest.vcpu.run())) << "the first exit is the guest's last";
  std::uint32_t expected = 0;
  const std::size_t count = ring.drain(
      [&](exits::MmioWrite write) {
        EXPECT_EQ(write.gpa, Gpa{mmio_at});
        EXPECT_EQ(write.data.size(), 4u);
        EXPECT_EQ(value_of(write.data), ++expected);
      },
      [](auto&&) { ADD_FAILURE(); });
  EXPECT_EQ(count, 50u);
  EXPECT_EQ(ring.drain([](auto&&) {}), 0u);
}

TEST(Coalesced, AFullRingIsAnOrdinaryExit) {  // R74
  Guest guest = counting_guest(100'000);
  KVM_REQUIRE(guest.vm, cap::CoalescedMmio);
  CoalescedRing ring = guest.vm.create_coalesced_ring(guest.vcpu);
  const std::size_t expected_capacity = (kvm::detail::sys::page_size() - 8) / 24 - 1;
  EXPECT_EQ(ring.capacity(), expected_capacity);
  const CoalescedZone zone = ring.create_zone(four_bytes);
  Log log;
  EXPECT_TRUE(log.serve(guest.vcpu.run()));
  EXPECT_EQ(log.exits, 1u);
  std::uint64_t last = 0;
  const std::size_t count = ring.drain([&](auto&& write) { last = value_of(write.data); });
  EXPECT_EQ(count, last);
  EXPECT_EQ(log.values.front(), last + 1) << "the first that had no room";
  // Kernels before 6.12 miscount, and call an unused ring full at half of it.
  EXPECT_LE(count, ring.capacity());
  EXPECT_GE(count, ring.capacity() / 2);
}

// Far more writes than the ring has room for: it wraps, and runs full again and again.
TEST(Coalesced, TheGuestsOrderIsKept) {
  constexpr std::uint32_t count = 20'000;
  Guest guest = counting_guest(count);
  KVM_REQUIRE(guest.vm, cap::CoalescedMmio);
  CoalescedRing ring = guest.vm.create_coalesced_ring(guest.vcpu);
  const CoalescedZone zone = ring.create_zone(four_bytes);
  Log log;
  log.run(guest.vcpu, ring);
  log.expect_all(count);
  EXPECT_GT(log.exits, 0u);
  EXPECT_GT(log.coalesced, log.exits);
}

TEST(Coalesced, Ports) {
  Guest guest = Guest::long_mode({
      0xb0, 0x05,        // mov $5, %al
      0xe6, port,        // out %al, $port
      0x66, 0xe7, port,  // out %ax, $port
      0xe6, port + 4,    // out %al, $port + 4, which is beyond
      0xe6, done_port,   // out %al, $done_port
  });
  KVM_REQUIRE(guest.vm, cap::CoalescedPio);
  CoalescedRing ring = guest.vm.create_coalesced_ring(guest.vcpu);
  const CoalescedZone zone = ring.create_zone(CoalescedRange::pio(port, 4));
  EXPECT_TRUE(zone.range().port);
  std::vector<std::pair<unsigned, unsigned>> seen;
  const kvm::Exit exit = ring.run(
      guest.vcpu,
      [&](exits::IoOut out) {
        EXPECT_EQ(out.count, 1u);
        EXPECT_EQ(out.data.size(), out.size);
        seen.emplace_back(out.port, out.size);
      },
      [](exits::MmioWrite) { ADD_FAILURE(); });
  EXPECT_EQ(seen, (std::vector<std::pair<unsigned, unsigned>>{{port, 1}, {port, 2}}));
  exit.visit([](exits::IoOut io) { EXPECT_EQ(io.port, port + 4); }, [](auto&&) { ADD_FAILURE(); });
}

TEST(Coalesced, ReadsAndWritesPastTheEndAreExits) {
  Guest guest = Guest::long_mode({
      0xbb, 0x00, 0x00, 0x00, 0x30,  // mov $mmio_at, %ebx
      0x89, 0x43, 0x02,              // mov %eax, 2(%rbx)
      0x8b, 0x03,                    // mov (%rbx), %eax
      0x88, 0x43, 0x03,              // mov %al, 3(%rbx)
      0xe6, done_port,               // out %al, $done_port
  });
  KVM_REQUIRE(guest.vm, cap::CoalescedMmio);
  CoalescedRing ring = guest.vm.create_coalesced_ring(guest.vcpu);
  const CoalescedZone zone = ring.create_zone(four_bytes);
  const auto unexpected = [](auto&&) { ADD_FAILURE(); };
  ring.run(guest.vcpu, unexpected)
      .visit([](exits::MmioWrite write) { EXPECT_EQ(write.gpa, Gpa{mmio_at + 2}); }, unexpected);
  ring.run(guest.vcpu, unexpected)
      .visit([](exits::MmioRead read) { EXPECT_EQ(read.gpa, Gpa{mmio_at}); }, unexpected);
  std::size_t coalesced = 0;
  ring.run(guest.vcpu,
           [&](auto&& write) {
             EXPECT_EQ(write.data.size(), 1u);
             ++coalesced;
           })
      .visit([](exits::IoOut io) { EXPECT_EQ(io.port, done_port); }, unexpected);
  EXPECT_EQ(coalesced, 1u);
}

// --- zones ---

TEST(CoalescedZones, EndWithTheirHandle) {
  Guest guest = counting_guest(5);
  KVM_REQUIRE(guest.vm, cap::CoalescedMmio);
  CoalescedRing ring = guest.vm.create_coalesced_ring(guest.vcpu);
  { const CoalescedZone gone = ring.create_zone(four_bytes); }
  CoalescedZone ended = ring.create_zone(four_bytes);
  ASSERT_TRUE(ended.try_unregister());
  ASSERT_TRUE(ended.try_unregister());
  Log log;
  log.run(guest.vcpu, ring);
  log.expect_all(5);
  EXPECT_EQ(log.coalesced, 0u);
}

TEST(CoalescedZones, EndingOneLeavesItsNeighbours) {  // R74
  Guest guest = counting_guest(5);
  KVM_REQUIRE(guest.vm, cap::CoalescedMmio);
  CoalescedRing ring = guest.vm.create_coalesced_ring(guest.vcpu);
  std::optional<CoalescedZone> before =
      ring.create_zone(CoalescedRange::mmio(Gpa{mmio_at - 4096}, 4096));
  const CoalescedZone zone = ring.create_zone(four_bytes);
  std::optional<CoalescedZone> after = ring.create_zone(CoalescedRange::mmio(Gpa{mmio_at + 4}, 1));
  before.reset();
  after.reset();
  Log log;
  log.run(guest.vcpu, ring);
  log.expect_all(5);
  EXPECT_EQ(log.coalesced, 5u);
}

// KVM takes a range twice, and ends both with one call.
TEST(CoalescedZones, OverlapsAreRefused) {  // R74
  Guest guest = counting_guest(5);
  KVM_REQUIRE(guest.vm, cap::CoalescedPio);
  CoalescedRing ring = guest.vm.create_coalesced_ring(guest.vcpu);
  const CoalescedZone zone = ring.create_zone(CoalescedRange::mmio(Gpa{mmio_at}, 0x10));
  const std::string words = "overlaps another zone of this VM";
  for (const auto& [offset, size] : std::vector<std::pair<std::uint64_t, std::uint32_t>>{
           {0, 0x10}, {0, 1}, {15, 1}, {15, 0x1000}, {4, 4}}) {
    SCOPED_TRACE(offset);
    expect_error(ring.try_create_zone(CoalescedRange::mmio(Gpa{mmio_at + offset}, size)), EEXIST,
                 words);
  }
  expect_error(ring.try_create_zone(CoalescedRange::mmio(Gpa{mmio_at - 8}, 9)), EEXIST,
               "KVM_REGISTER_COALESCED_MMIO(gpa=0x2ffffff8, size=9): it overlaps");
  expect_error(ring.try_create_zone(CoalescedRange::mmio(Gpa{0}, 0x7fffffff)), EEXIST, words);
  EXPECT_TRUE(ring.try_create_zone(CoalescedRange::mmio(Gpa{mmio_at + 16}, 1)));
  EXPECT_TRUE(ring.try_create_zone(CoalescedRange::mmio(Gpa{mmio_at - 1}, 1)));
  EXPECT_TRUE(ring.try_create_zone(CoalescedRange::pio(0, 0x10000)));
  const CoalescedZone ports = ring.create_zone(CoalescedRange::pio(0xfff0, 0x10));
  expect_error(ring.try_create_zone(CoalescedRange::pio(0xffff, 1)), EEXIST, words);
  // What was refused ended nothing.
  Log log;
  log.run(guest.vcpu, ring);
  EXPECT_EQ(log.coalesced, 5u);
}

TEST(CoalescedZones, RangesMustBeRanges) {
  Guest guest = counting_guest(5);
  KVM_REQUIRE(guest.vm, cap::CoalescedMmio);
  CoalescedRing ring = guest.vm.create_coalesced_ring(guest.vcpu);
  const std::string words = "empty or passes the end";
  expect_error(ring.try_create_zone(CoalescedRange::mmio(Gpa{mmio_at}, 0)), EINVAL, words);
  expect_error(ring.try_create_zone(CoalescedRange::mmio(Gpa{~0ull - 3}, 8)), EINVAL, words);
  expect_error(ring.try_create_zone(CoalescedRange::mmio(Gpa{0}, 0x80000000)), EINVAL,
               "smaller than 2 GiB");
  expect_error(ring.try_create_zone(CoalescedRange::pio(0xffff, 2)), EINVAL, words);
  expect_error(ring.try_create_zone(CoalescedRange::pio(0, 0x10001)), EINVAL, words);
  expect_error(ring.try_create_zone({.address = 0x10000, .size = 1, .port = true}), EINVAL, words);
}

TEST(CoalescedZones, MoveWithTheirRange) {
  Guest guest = counting_guest(5);
  KVM_REQUIRE(guest.vm, cap::CoalescedMmio);
  CoalescedRing ring = guest.vm.create_coalesced_ring(guest.vcpu);
  CoalescedZone zone = ring.create_zone(four_bytes);
  CoalescedZone other = ring.create_zone(CoalescedRange::mmio(Gpa{mmio_at + 8}, 8));
  other = std::move(zone);
  EXPECT_TRUE(ring.try_create_zone(CoalescedRange::mmio(Gpa{mmio_at + 8}, 8)));
  Log log;
  log.run(guest.vcpu, ring);
  EXPECT_EQ(log.coalesced, 5u);
}

// --- the consumer ---

TEST(CoalescedRing, ThereIsOne) {
  Guest guest = counting_guest(5);
  KVM_REQUIRE(guest.vm, cap::CoalescedMmio);
  {
    CoalescedRing ring = guest.vm.create_coalesced_ring(guest.vcpu);
    expect_error(guest.vm.try_create_coalesced_ring(guest.vcpu), EBUSY, "has one consumer");
    const CoalescedRing moved = std::move(ring);
    expect_error(guest.vm.try_create_coalesced_ring(guest.vcpu), EBUSY, "has one consumer");
  }
  EXPECT_TRUE(guest.vm.try_create_coalesced_ring(guest.vcpu));
}

TEST(CoalescedRing, TakesItsZonesAlong) {
  Guest guest = counting_guest(5);
  KVM_REQUIRE(guest.vm, cap::CoalescedMmio);
  std::optional<CoalescedRing> ring = guest.vm.create_coalesced_ring(guest.vcpu);
  std::optional<CoalescedZone> zone = ring->create_zone(four_bytes);
  ring.reset();
  ring = guest.vm.create_coalesced_ring(guest.vcpu);
  Log log;
  log.run(guest.vcpu, *ring);
  log.expect_all(5);
  EXPECT_EQ(log.coalesced, 0u) << "nobody would have taken them";
  // The handle that is left ends no zone that came later.
  const CoalescedZone later = ring->create_zone(four_bytes);
  zone.reset();
  expect_error(ring->try_create_zone(four_bytes), EEXIST, "overlaps");
}

TEST(CoalescedRing, WhatWasNotDrainedIsTheNextOnes) {
  Guest guest = counting_guest(5);
  KVM_REQUIRE(guest.vm, cap::CoalescedMmio);
  {
    CoalescedRing ring = guest.vm.create_coalesced_ring(guest.vcpu);
    const CoalescedZone zone = ring.create_zone(four_bytes);
    Log log;
    EXPECT_FALSE(log.serve(guest.vcpu.run()));
  }
  CoalescedRing ring = guest.vm.create_coalesced_ring(guest.vcpu);
  std::uint64_t sum = 0;
  EXPECT_EQ(ring.drain([&](auto&& write) { sum += value_of(write.data); }), 5u);
  EXPECT_EQ(sum, 15u);
}

TEST(CoalescedRing, OutlivesTheHandlesOfVmAndVcpu) {
  std::optional<CoalescedRing> ring;
  std::optional<CoalescedZone> zone;
  {
    Guest guest = counting_guest(5);
    KVM_REQUIRE(guest.vm, cap::CoalescedMmio);
    ring = guest.vm.create_coalesced_ring(guest.vcpu);
    zone = ring->create_zone(four_bytes);
    Log log;
    EXPECT_FALSE(log.serve(guest.vcpu.run()));
  }
  EXPECT_EQ(ring->drain([](auto&&) {}), 5u);
  EXPECT_TRUE(zone->try_unregister());
}

TEST(CoalescedRing, IsDrainedOneAtATime) {
  Guest guest = counting_guest(5);
  KVM_REQUIRE(guest.vm, cap::CoalescedMmio);
  CoalescedRing ring = guest.vm.create_coalesced_ring(guest.vcpu);
  const CoalescedZone zone = ring.create_zone(four_bytes);
  Log log;
  EXPECT_FALSE(log.serve(guest.vcpu.run()));
  unsigned seen = 0;
  EXPECT_EQ(ring.drain([&](auto&&) {
    ++seen;
    expect_error(ring.try_drain([&](auto&&) { ++seen; }), EDEADLK, "within a handler");
    // Zones can come and go there.
    EXPECT_TRUE(ring.try_create_zone(CoalescedRange::mmio(Gpa{mmio_at + 64}, 4)));
  }),
            5u);
  EXPECT_EQ(seen, 5u);
}

TEST(CoalescedRing, MistakesAreExplained) {
  Guest guest = counting_guest(5);
  KVM_REQUIRE(guest.vm, cap::CoalescedMmio);
  Guest other = counting_guest(5);
  expect_error(guest.vm.try_create_coalesced_ring(other.vcpu), EINVAL, "the vCPU is another VM's");
  CoalescedRing ring = guest.vm.create_coalesced_ring(guest.vcpu);
  const CoalescedRing taken = std::move(ring);
  expect_error(ring.try_drain([](auto&&) {}), EBADF, "moved from");
  expect_error(ring.try_create_zone(four_bytes), EBADF, "moved from");
  EXPECT_EQ(ring.capacity(), 0u);
  const kvm::Vm gone = std::move(guest.vm);
  expect_error(guest.vm.try_create_coalesced_ring(guest.vcpu), EBADF, "moved from");
}

// Whatever the page says: the rest of it is shared with who maps a vCPU.
TEST(CoalescedRing, ACorruptPageIsAnError) {
  Guest guest = counting_guest(5);
  KVM_REQUIRE(guest.vm, cap::CoalescedMmio);
  CoalescedRing ring = guest.vm.create_coalesced_ring(guest.vcpu);
  const CoalescedZone zone = ring.create_zone(four_bytes);
  Log log;
  EXPECT_FALSE(log.serve(guest.vcpu.run()));
  const auto page = static_cast<std::size_t>(guest.vm.check<cap::CoalescedMmio>()) *
                    kvm::detail::sys::page_size();
  auto* const indices =
      reinterpret_cast<std::uint32_t*>(guest.vcpu.run_mapping().subspan(page).data());
  ASSERT_EQ(indices[1], 5u) << "this is KVM's ring";
  indices[0] = 0xffff'ffff;
  expect_error(ring.try_drain([](auto&&) { ADD_FAILURE(); }), EPROTO, "page was overwritten");
  indices[0] = 3;
  EXPECT_EQ(ring.drain([](auto&&) {}), 2u);
}

// Two vCPUs write, each in a thread: whoever leaves the guest finds all that was written before
// dealt with, and each vCPU's writes come in order.
TEST(CoalescedRingSerial, SeveralVcpus) {
  constexpr std::uint32_t count = 20'000;
  Guest guest = counting_guest(count);
  KVM_REQUIRE(guest.vm, cap::CoalescedMmio);
  kvm::Vcpu second = guest.vm.create_vcpu(1);
  enter_long_mode(guest, second, 3);
  CoalescedRing ring = guest.vm.create_coalesced_ring(guest.vcpu);
  const CoalescedZone zone = ring.create_zone(four_bytes);
  std::mutex device;
  std::vector<std::uint64_t> values;
  const auto write = [&](const auto& written) {
    const std::lock_guard lock(device);
    values.push_back(value_of(written.data));
  };
  const auto body = [&](kvm::Vcpu& vcpu) {
    for (bool going = true; going;) {
      ring.run(vcpu, write)
          .visit([&](exits::MmioWrite one) { write(one); }, [&](auto&&) { going = false; });
    }
  };
  std::thread other([&] { body(second); });
  body(guest.vcpu);
  other.join();
  EXPECT_EQ(ring.drain(write), 0u);
  // Two runs from 1 to count, merged: nothing lost, nothing twice, each in order.
  ASSERT_EQ(values.size(), 2u * count);
  std::vector<unsigned> times(count + 1);
  times[0] = 2;
  for (const std::uint64_t value : values) {
    ASSERT_GE(value, 1u);
    ASSERT_LE(value, count);
    ASSERT_LE(++times[value], times[value - 1]) << value;
  }
  EXPECT_EQ(times[count], 2u);
}

TEST(CoalescedRing, AForkedChildEndsNothing) {
  if (kvm_test::thread_sanitizer) {
    GTEST_SKIP() << "thread sanitizer does not go with fork";
  }
  Guest guest = counting_guest(5);
  KVM_REQUIRE(guest.vm, cap::CoalescedMmio);
  std::optional<CoalescedRing> ring = guest.vm.create_coalesced_ring(guest.vcpu);
  std::optional<CoalescedZone> zone = ring->create_zone(four_bytes);
  expect_in_child([&] {
    expect_error(ring->try_drain([](auto&&) {}), EIO, "after a fork");
    expect_error(ring->try_create_zone(four_bytes), EIO, "after a fork");
    expect_error(zone->try_unregister(), EIO, "after a fork");
    expect_error(guest.vm.try_create_coalesced_ring(guest.vcpu), EIO, "after a fork");
    zone.reset();
    ring.reset();
  });
  Log log;
  log.run(guest.vcpu, *ring);
  EXPECT_EQ(log.coalesced, 5u);
}

}  // namespace
