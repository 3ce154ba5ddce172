// SPDX-License-Identifier: MIT
#include <kvm/irq/routing.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <set>
#include <utility>

namespace {

using kvm::IrqRouting;
namespace uapi = kvm::uapi;

TEST(IrqRouting, IsEmptyAtFirst) { EXPECT_TRUE(IrqRouting().entries().empty()); }

TEST(IrqRouting, BuildsEntries) {
  IrqRouting table;
  table.irqchip(5, uapi::irqchip::ioapic, 7)
      .msi(24, 0x1'fee0'0000, 0x4041)
      .msi(25, 0xfee01000, 0x42, 0x77)
      .hv_sint(26, 3, 2);
  const auto entries = table.entries();
  ASSERT_EQ(entries.size(), 4u);

  EXPECT_EQ(entries[0].gsi, 5u);
  EXPECT_EQ(entries[0].type, uapi::irq_routing::irqchip);
  EXPECT_EQ(entries[0].flags, 0u);
  EXPECT_EQ(entries[0].u.irqchip.irqchip, uapi::irqchip::ioapic);
  EXPECT_EQ(entries[0].u.irqchip.pin, 7u);

  EXPECT_EQ(entries[1].type, uapi::irq_routing::msi);
  EXPECT_EQ(entries[1].flags, 0u);
  EXPECT_EQ(entries[1].u.msi.address_lo, 0xfee00000u);
  EXPECT_EQ(entries[1].u.msi.address_hi, 1u);
  EXPECT_EQ(entries[1].u.msi.data, 0x4041u);

  EXPECT_EQ(entries[2].gsi, 25u);
  EXPECT_EQ(entries[2].flags, uapi::msi_flag::valid_devid);
  EXPECT_EQ(entries[2].u.msi.address_lo, 0xfee01000u);
  EXPECT_EQ(entries[2].u.msi.data, 0x42u);
  EXPECT_EQ(entries[2].u.msi.devid, 0x77u);

  EXPECT_EQ(entries[3].type, uapi::irq_routing::hv_sint);
  EXPECT_EQ(entries[3].u.hv_sint.vcpu, 3u);
  EXPECT_EQ(entries[3].u.hv_sint.sint, 2u);
}

// KVM reads all of an entry, whatever its type.
TEST(IrqRouting, LeavesNoByteUnset) {
  IrqRouting table;
  table.msi(24, 0, 0);
  uapi::kvm_irq_routing_entry expected;
  std::memset(&expected, 0, sizeof expected);
  expected.gsi = 24;
  expected.type = uapi::irq_routing::msi;
  EXPECT_EQ(std::memcmp(table.entries().data(), &expected, sizeof expected), 0);
}

TEST(IrqRouting, RemovesAllOfAGsi) {
  IrqRouting table = IrqRouting::x86_default();
  table.remove(3).remove(200);
  EXPECT_EQ(table.entries().size(), 38u);
  for (const auto& entry : table.entries()) {
    EXPECT_NE(entry.gsi, 3u);
  }
}

TEST(IrqRouting, TakesAnyEntry) {
  uapi::kvm_irq_routing_entry entry{};
  entry.gsi = 9;
  entry.type = uapi::irq_routing::xen_evtchn;
  IrqRouting table;
  table.raw(entry);
  EXPECT_EQ(table.entries().front().type, uapi::irq_routing::xen_evtchn);
}

TEST(IrqRouting, DefaultOfX86) {
  const IrqRouting table = IrqRouting::x86_default();
  ASSERT_EQ(table.entries().size(), 24u + 16u);
  std::set<std::pair<std::uint32_t, std::uint32_t>> pins;
  for (const auto& entry : table.entries()) {
    ASSERT_EQ(entry.type, uapi::irq_routing::irqchip);
    const auto [chip, pin] = entry.u.irqchip;
    EXPECT_TRUE(pins.emplace(chip, pin).second);
    switch (chip) {
      case uapi::irqchip::ioapic:
        EXPECT_EQ(pin, entry.gsi);
        break;
      case uapi::irqchip::pic_master:
        EXPECT_EQ(pin, entry.gsi);
        EXPECT_LT(pin, 8u);
        break;
      default:
        EXPECT_EQ(chip, uapi::irqchip::pic_slave);
        EXPECT_EQ(pin + 8, entry.gsi);
        EXPECT_LT(pin, 8u);
        break;
    }
  }
}

TEST(IrqRouting, DefaultOfArm64) {
  const IrqRouting table = IrqRouting::arm64_default(96);
  ASSERT_EQ(table.entries().size(), 96u);
  for (std::uint32_t gsi = 0; gsi < 96; ++gsi) {
    const auto& entry = table.entries()[gsi];
    EXPECT_EQ(entry.gsi, gsi);
    EXPECT_EQ(entry.type, uapi::irq_routing::irqchip);
    EXPECT_EQ(entry.u.irqchip.irqchip, 0u);
    EXPECT_EQ(entry.u.irqchip.pin, gsi);
  }
}

}  // namespace
