// SPDX-License-Identifier: MIT
// needs: arm64
// Events and interrupts of arm64 guests: eventfds, routing, coalesced writes, timers, the ITS.
#include <kvm/kvm.hpp>

#include <gtest/gtest.h>

#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "support/guest.hpp"
#include "support/require.hpp"

namespace {

namespace cap = kvm::cap;
namespace exits = kvm::exits;
namespace uapi = kvm::uapi;
using kvm::EventFd;
using kvm::Gpa;
using kvm::Irqfd;
using kvm::IrqRouting;
using kvm::arm64::GicV3;
using kvm::arm64::Its;
using kvm::arm64::Timer;
using kvm_test::Guest;
using kvm_test::mmio_at;
using At = kvm::IoeventfdAddress;

constexpr kvm::arm64::GicV3Options places{
    .distributor = Gpa{0x8000000}, .redistributors = Gpa{0x80a0000}, .interrupts = 128};

template <class T>
void expect_error(const kvm::Result<T>& result, int error_number, const std::string& words) {
  ASSERT_FALSE(result.has_value()) << "expected: " << words;
  EXPECT_EQ(result.error().error_number(), error_number) << result.error().what();
  EXPECT_NE(std::string(result.error().what()).find(words), std::string::npos)
      << result.error().what();
}

/// Without a GICv3 in the kernel, what needs one is skipped.
#define KVM_REQUIRE_GIC(vm)                                                 \
  if (!(vm).has_device(kvm::DeviceType::arm_vgic_v3)) {                     \
    GTEST_SKIP() << "KVM_DEV_TYPE_ARM_VGIC_V3 is not offered by this host"; \
  }

/// Whether a shared peripheral interrupt is pending (GICD_ISPENDR).
bool pending(const GicV3& gic, std::uint32_t spi) {
  const std::uint32_t number = 32 + spi;
  std::uint32_t bits = 0;
  gic.device().get_device_attr(uapi::arm_vgic::grp_dist_regs, 0x200 + 4 * (number / 32), bits);
  return (bits >> number % 32 & 1) != 0;
}

/// KVM raises interrupts of eventfds from a thread of its own.
bool becomes_pending(const GicV3& gic, std::uint32_t spi) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!pending(gic, spi)) {
    if (std::chrono::steady_clock::now() > end) {
      return false;
    }
  }
  return true;
}

/// Makes an interrupt an edge (GICD_ICFGR), so that it stays pending.
void make_edge(const GicV3& gic, std::uint32_t spi) {
  const std::uint32_t number = 32 + spi;
  gic.device().set_device_attr(uapi::arm_vgic::grp_dist_regs, 0xc00 + 4 * (number / 16),
                               std::uint32_t{2} << 2 * (number % 16));
}

TEST(Arm64Irqfd, RaisesTheInterrupt) {
  Guest guest = Guest::running({});
  KVM_REQUIRE_GIC(guest.vm);
  KVM_REQUIRE(guest.vm, cap::Irqfd);
  GicV3 gic(guest.vm, places);
  const EventFd event;
  expect_error(guest.vm.try_create_irqfd(5, event), EAGAIN, "not initialised yet");
  gic.init();
  make_edge(gic, 5);
  std::optional<Irqfd> irqfd = guest.vm.create_irqfd(5, event);
  EXPECT_FALSE(pending(gic, 5));
  event.signal();
  EXPECT_EQ(event.read(), std::nullopt);
  EXPECT_TRUE(becomes_pending(gic, 5));
  EXPECT_FALSE(pending(gic, 6));
  irqfd.reset();
  event.signal();
  EXPECT_EQ(event.read(), 1u) << "nothing is bound any more";
}

TEST(Arm64Irqfd, FollowsTheRouting) {
  Guest guest = Guest::running({});
  KVM_REQUIRE_GIC(guest.vm);
  KVM_REQUIRE(guest.vm, cap::Irqfd);
  GicV3 gic(guest.vm, places);
  gic.init();
  make_edge(gic, 9);
  guest.vm.set_gsi_routing(IrqRouting::arm64_default(96).irqchip(200, 0, 9));
  const EventFd event;
  const Irqfd irqfd = guest.vm.create_irqfd(200, event);
  event.signal();
  EXPECT_TRUE(becomes_pending(gic, 9));
}

TEST(Arm64Timer, InterruptsAreChosen) {
  Guest guest = Guest::running({});
  KVM_REQUIRE_GIC(guest.vm);
  GicV3 gic(guest.vm, places);
  EXPECT_EQ(kvm::arm64::get_timer_interrupt(guest.vcpu, Timer::virtual_timer), 27u);
  EXPECT_EQ(kvm::arm64::get_timer_interrupt(guest.vcpu, Timer::physical_timer), 30u);
  kvm::arm64::set_timer_interrupt(guest.vcpu, Timer::virtual_timer, 20);
  EXPECT_EQ(kvm::arm64::get_timer_interrupt(guest.vcpu, Timer::virtual_timer), 20u);
  expect_error(kvm::arm64::try_set_timer_interrupt(guest.vcpu, Timer::virtual_timer, 40), EINVAL,
               "");
}

TEST(Arm64Its, IsMade) {
  Guest guest = Guest::running({});
  KVM_REQUIRE_GIC(guest.vm);
  if (!guest.vm.has_device(kvm::DeviceType::arm_vgic_its)) {
    GTEST_SKIP() << "KVM_DEV_TYPE_ARM_VGIC_ITS is not offered by this host";
  }
  GicV3 gic(guest.vm, places);
  gic.init();
  Its its(guest.vm, Gpa{0x8080000});
  its.init();
  // A message is taken where a device's id comes with it; the guest knows no such device.
  EXPECT_TRUE(guest.vm.try_set_gsi_routing(IrqRouting().msi(64, 0x8090040, 1, 7)));
  expect_error(Its::try_create(guest.vm, Gpa{0x8080001}), EINVAL, "KVM_SET_DEVICE_ATTR");
}

TEST(Arm64Ioeventfd, TakesWritesOfItsWidthAndValue) {
  Guest guest = Guest::running({
      0x52800025,  // mov w5, #1
      0x39000025,  // strb w5, [x1]
      0xb9000025,  // str w5, [x1]
      0x52800045,  // mov w5, #2
      0xb9000025,  // str w5, [x1]
      0xb9000425,  // str w5, [x1, #4]
  });
  KVM_REQUIRE(guest.vm, cap::Ioeventfd);
  const EventFd event;
  const auto ioeventfd =
      guest.vm.create_ioeventfd(At::mmio<std::uint32_t>(Gpa{mmio_at}), event, 2u);
  std::vector<std::pair<std::uint64_t, std::size_t>> seen;
  for (int i = 0; i < 3; ++i) {
    guest.vcpu.run().visit(
        [&](exits::MmioWrite write) { seen.emplace_back(write.gpa.value, write.data.size()); },
        [](auto&&) { ADD_FAILURE(); });
  }
  EXPECT_EQ(seen, (std::vector<std::pair<std::uint64_t, std::size_t>>{
                      {mmio_at, 1}, {mmio_at, 4}, {mmio_at + 4, 4}}));
  EXPECT_EQ(event.read(), 1u);
}

TEST(Arm64Ioeventfd, TakesWritesOfAnyWidth) {
  Guest guest = Guest::running({
      0x39000025,  // strb w5, [x1]
      0xf9000025,  // str x5, [x1]
      0xb9000425,  // str w5, [x1, #4]
  });
  KVM_REQUIRE(guest.vm, cap::IoeventfdAnyLength);
  const EventFd event;
  const auto ioeventfd = guest.vm.create_ioeventfd(At::mmio_any(Gpa{mmio_at}), event);
  guest.vcpu.run().visit([&](exits::MmioWrite write) { EXPECT_EQ(write.gpa, Gpa{mmio_at + 4}); },
                         [](auto&&) { ADD_FAILURE(); });
  EXPECT_EQ(event.read(), 2u);
}

// More writes than the ring has room for, in order.
TEST(Arm64Coalesced, TheGuestsOrderIsKept) {
  Guest guest = Guest::running({
      0x52800005,  // mov w5, #0
      0x110004a5,  // again: add w5, w5, #1
      0xb9000025,  // str w5, [x1]
      0x711f40bf,  // cmp w5, #2000
      0x54ffffa1,  // b.ne again
      0x39004025,  // strb w5, [x1, #16]
  });
  KVM_REQUIRE(guest.vm, cap::CoalescedMmio);
  kvm::CoalescedRing ring = guest.vm.create_coalesced_ring(guest.vcpu);
  EXPECT_EQ(ring.capacity(), (kvm::detail::sys::page_size() - 8) / 24 - 1);
  const kvm::CoalescedZone zone = ring.create_zone(kvm::CoalescedRange::mmio(Gpa{mmio_at}, 4));
  std::uint32_t last = 0;
  std::size_t coalesced = 0;
  const auto written = [&](const exits::MmioWrite& write) {
    std::uint32_t value = 0;
    std::memcpy(&value, write.data.data(), sizeof value);
    EXPECT_EQ(value, last + 1);
    last = value;
  };
  for (bool going = true; going;) {
    ring.run(guest.vcpu,
             [&](exits::MmioWrite write) {
               written(write);
               ++coalesced;
             })
        .visit(
            [&](exits::MmioWrite write) {
              going = write.gpa == Gpa{mmio_at};
              if (going) {
                written(write);
              }
            },
            [&](auto&&) {
              ADD_FAILURE();
              going = false;
            });
  }
  EXPECT_EQ(last, 2000u);
  EXPECT_GE(coalesced, 2 * ring.capacity());
}

}  // namespace
