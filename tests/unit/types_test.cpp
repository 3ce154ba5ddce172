// SPDX-License-Identifier: MIT
// Numbers that must not be mixed up, and sizes that don't overflow.
#include <kvm/detail/guest_access.hpp>
#include <kvm/types.hpp>
#include <kvm/vm.hpp>

#include <compare>
#include <concepts>
#include <cstdint>
#include <type_traits>

#include <gtest/gtest.h>

namespace {

using kvm::Gpa;
using kvm::SlotId;
using kvm::VcpuId;

template <class From, class To>
constexpr bool becomes = std::is_convertible_v<From, To>;

static_assert(!becomes<std::uint64_t, Gpa> && !becomes<int, Gpa> && !becomes<Gpa, std::uint64_t>);
static_assert(!becomes<std::uint16_t, SlotId> && !becomes<SlotId, std::uint16_t>);
static_assert(becomes<std::uint32_t, VcpuId> && !becomes<VcpuId, std::uint32_t>);
static_assert(!becomes<Gpa, VcpuId> && !becomes<Gpa, SlotId> && !becomes<VcpuId, Gpa> &&
              !becomes<VcpuId, SlotId> && !becomes<SlotId, Gpa> && !becomes<SlotId, VcpuId>);
static_assert(!std::equality_comparable_with<Gpa, std::uint64_t>);
static_assert(!std::equality_comparable_with<Gpa, SlotId>);
static_assert(std::is_trivially_copyable_v<Gpa> && sizeof(Gpa) == 8);
static_assert(std::three_way_comparable<Gpa> && std::three_way_comparable<SlotId> &&
              std::three_way_comparable<VcpuId>);

TEST(Gpa, CountsInBytes) {
  constexpr Gpa base(0x1000);
  EXPECT_EQ((base + 0x234).value, 0x1234u);
  EXPECT_EQ((base - 1).value, 0xfffu);
  EXPECT_EQ(Gpa(0x3000) - base, 0x2000u);
  EXPECT_LT(base, base + 1);
  EXPECT_EQ(Gpa(), Gpa(0));
}

TEST(Ranges, AreOrderedByWhereTheyBegin) {
  EXPECT_EQ(kvm::PageRange{}, (kvm::PageRange{0, 0}));
  EXPECT_LT((kvm::PageRange{1, 9}), (kvm::PageRange{2, 1}));
  EXPECT_LT((kvm::PageRange{1, 2}), (kvm::PageRange{1, 3}));
  EXPECT_EQ(kvm::GfnRange{}, (kvm::GfnRange{0, 0}));
  EXPECT_LT((kvm::GfnRange{1, 9}), (kvm::GfnRange{2, 1}));
  EXPECT_LT((kvm::GfnRange{1, 2}), (kvm::GfnRange{1, 3}));
}

TEST(Gpa, WrapsLikeItsAddressSpace) {
  EXPECT_EQ(Gpa(~std::uint64_t{0}) + 1, Gpa(0));
  EXPECT_EQ(Gpa(0) - 1, Gpa(~std::uint64_t{0}));
  EXPECT_EQ(Gpa(0) - Gpa(1), ~std::uint64_t{0});
}

TEST(SlotId, IsHeldAsTheKernelHoldsIt) {
  EXPECT_EQ(SlotId(7).raw(), 7u);
  EXPECT_EQ(SlotId(7, 1).raw(), 0x10007u);
  EXPECT_EQ(SlotId(0xffff, 0xffff).raw(), 0xffffffffu);
  EXPECT_LT(SlotId(1), SlotId(2));
  EXPECT_NE(SlotId(1, 0), SlotId(1, 1));
}

TEST(VcpuId, IsANumber) {
  constexpr VcpuId id = 4095;
  EXPECT_EQ(id.value, 4095u);
  EXPECT_GT(id, VcpuId(1));
  EXPECT_EQ(VcpuId(), VcpuId(0));
}

#if KVM_HPP_ARCH_X86
// KVM_X86_SW_PROTECTED_VM and those after it in <asm/kvm.h>, the bits of KVM_CAP_VM_TYPES.
TEST(VmType, HasTheKernelsNumbers) {
  using kvm::VmType;
  EXPECT_EQ(VmType().value, 0u);
  EXPECT_EQ(VmType::sw_protected().value, 1u);
  EXPECT_EQ(VmType::sev().value, 2u);
  EXPECT_EQ(VmType::sev_es().value, 3u);
  EXPECT_EQ(VmType::snp().value, 4u);
  EXPECT_EQ(VmType::tdx().value, 5u);
}
#endif

TEST(Literals, DoNotOverflow) {
  using namespace kvm::literals;
  static_assert(1_KiB == 1024 && 64_MiB == 64u * 1024 * 1024);
  static_assert(2_GiB == std::size_t{1} << 31 && 1024_GiB == std::size_t{1} << 40);
  static_assert(std::same_as<decltype(1_GiB), std::size_t>);
}

TEST(InBounds, HoldsForAnyNumbers) {
  using kvm::detail::in_bounds;
  constexpr std::uint64_t most = ~std::uint64_t{0};
  EXPECT_TRUE(in_bounds(0, 0, 0));
  EXPECT_TRUE(in_bounds(0, 8, 8));
  EXPECT_TRUE(in_bounds(8, 0, 8));
  EXPECT_TRUE(in_bounds(7, 1, 8));
  EXPECT_TRUE(in_bounds(0, most, most));
  EXPECT_TRUE(in_bounds(most, 0, most));
  EXPECT_FALSE(in_bounds(1, 8, 8));
  EXPECT_FALSE(in_bounds(8, 1, 8));
  EXPECT_FALSE(in_bounds(9, 0, 8));
  EXPECT_FALSE(in_bounds(most, 1, 8));
  EXPECT_FALSE(in_bounds(most, 2, most));
  EXPECT_FALSE(in_bounds(1, most, 8));
  EXPECT_FALSE(in_bounds(most, most, most));
}

}  // namespace
