// SPDX-License-Identifier: MIT
#include <kvm/kvm.hpp>

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <sys/mman.h>

#include "support/guest.hpp"
#include "support/slot_access.hpp"

namespace {

using kvm::GfnToHvaCache;
using kvm::Gpa;
using kvm::Mapping;
using kvm::MemorySlot;
using kvm_test::take_marks;
using namespace kvm::literals;
using Pages = std::vector<std::uint64_t>;

const std::size_t page = kvm::detail::sys::page_size();
constexpr Gpa high{0x4000'0000};
constexpr std::uint64_t max64 = ~std::uint64_t{0};

struct Entry {
  std::uint64_t address;
  std::uint32_t length;
  std::uint32_t flags;
  bool operator==(const Entry&) const = default;
};

struct GfnToHvaCacheTest : testing::Test {
  kvm::System system;
  std::optional<kvm::Vm> vm = system.create_vm();
  kvm::GuestMemory memory = vm->memory();

  MemorySlot add(Gpa gpa, std::size_t pages = 1, const kvm::MemoryOptions& options = {}) {
    return vm->add_memory(gpa, Mapping::anonymous(pages * page), options);
  }
  GfnToHvaCache cache(Gpa gpa, std::uint64_t length) { return {memory, gpa, length}; }
};

TEST_F(GfnToHvaCacheTest, ReadsAndWritesItsRange) {
  const MemorySlot slot = add(high, 1);
  GfnToHvaCache range = cache(high + 32, 64);
  EXPECT_EQ(range.gpa(), high + 32);
  EXPECT_EQ(range.length(), 64u);
  EXPECT_TRUE(range.valid());
  ASSERT_TRUE(range.write<std::uint64_t>(8, 0x1122334455667788));
  EXPECT_EQ(range.read<std::uint64_t>(8), 0x1122334455667788u);
  EXPECT_EQ(range.read<std::uint8_t>(8), 0x88);
  EXPECT_EQ(range.read<std::uint16_t>(14), 0x1122);
  ASSERT_TRUE(range.write<Entry>(17, {.address = 5, .length = 6, .flags = 7}));
  EXPECT_EQ(range.read<Entry>(17), (Entry{.address = 5, .length = 6, .flags = 7}));
  std::uint64_t word = 0;
  std::memcpy(&word, slot.mapping().data() + 40, 8);
  EXPECT_EQ(word, 0x1122334455667788u);
  std::array<std::byte, 4> bytes = {std::byte{1}, std::byte{2}, std::byte{3}, std::byte{4}};
  ASSERT_TRUE(range.write(60, bytes));
  EXPECT_EQ(range.read<std::uint32_t>(60), 0x04030201u);
  std::array<std::byte, 5> out{};
  EXPECT_FALSE(range.read(60, out));
  EXPECT_EQ(out[0], std::byte{0});
  EXPECT_TRUE(range.read(60, std::span(out).first(4)));
  EXPECT_EQ(out[3], std::byte{4});
  EXPECT_TRUE(range.read(64, std::span<std::byte>()));
  EXPECT_FALSE(range.read(65, std::span<std::byte>()));
}

/// Every offset of a T in the range and around it, for lengths and alignments
/// of all kinds: inside is what ends inside.
template <class T>
void expect_bounds(const kvm::GuestMemory& memory, const MemorySlot& slot) {
  for (const std::uint64_t start : {0u, 1u, 4u, 7u, 8u, 15u}) {
    for (std::uint64_t length = 0; length <= 33; ++length) {
      GfnToHvaCache range(memory, slot.gpa() + start, length);
      for (std::uint64_t offset = 0; offset <= length + 9; ++offset) {
        const bool inside = offset + sizeof(T) <= length;
        const auto value = static_cast<T>(offset * 37 + length + 1);
        ASSERT_EQ(range.write<T>(offset, value), inside) << start << ' ' << length << ' ' << offset;
        const auto read = range.read<T>(offset);
        ASSERT_EQ(read.has_value(), inside) << start << ' ' << length << ' ' << offset;
        if (inside) {
          ASSERT_EQ(*read, value);
          T there;
          std::memcpy(&there, slot.mapping().data() + start + offset, sizeof(T));
          ASSERT_EQ(there, value);
        }
      }
    }
  }
}

TEST_F(GfnToHvaCacheTest, BoundsAreExact) {
  const MemorySlot slot = add(high, 1);
  expect_bounds<std::uint8_t>(memory, slot);
  expect_bounds<std::uint16_t>(memory, slot);
  expect_bounds<std::uint32_t>(memory, slot);
  expect_bounds<std::uint64_t>(memory, slot);
}

TEST_F(GfnToHvaCacheTest, AnyNumbersAtAll) {
  const MemorySlot bottom = add(Gpa{0}, 2);
  const MemorySlot slot = add(high, 2);
  ASSERT_TRUE(memory.view().fill(Gpa{0}, 2 * page, std::byte{0xbb}));
  const std::uint64_t edges[] = {0,
                                 1,
                                 7,
                                 8,
                                 page - 1,
                                 page,
                                 2 * page,
                                 high.value,
                                 high.value + page,
                                 std::uint64_t{1} << 63,
                                 max64 - high.value,
                                 max64 - high.value + 1,
                                 max64 - 2 * page,
                                 max64 - page + 1,
                                 max64 - 8,
                                 max64 - 7,
                                 max64 - 3,
                                 max64 - 1,
                                 max64};
  const auto covered = [&](std::uint64_t gpa, std::uint64_t size) {
    const auto in = [&](std::uint64_t begin, std::uint64_t bytes) {
      return gpa >= begin && gpa - begin <= bytes && size <= bytes - (gpa - begin);
    };
    return in(0, 2 * page) || in(high.value, 2 * page);
  };
  unsigned good = 0;
  for (const std::uint64_t gpa : edges) {
    for (const std::uint64_t length : edges) {
      GfnToHvaCache range = cache(Gpa{gpa}, length);
      EXPECT_EQ(range.length(), length);
      if (length != 0) {
        ASSERT_EQ(range.valid(), covered(gpa, length)) << std::hex << gpa << ' ' << length;
      }
      for (const std::uint64_t offset : edges) {
        const bool inside =
            length >= 8 && offset <= length - 8 && gpa + offset >= gpa && covered(gpa + offset, 8);
        good += inside ? 1 : 0;
        std::array<std::byte, 8> bytes{};
        SCOPED_TRACE(std::to_string(gpa) + ' ' + std::to_string(length) + ' ' +
                     std::to_string(offset));
        for (int i = 0; i < 2; ++i) {
          ASSERT_EQ(range.read<std::uint64_t>(offset).has_value(), inside);
          ASSERT_EQ(range.read<Entry>(offset).has_value(), length >= 16 && offset <= length - 16 &&
                                                               gpa + offset >= gpa &&
                                                               covered(gpa + offset, 16));
          ASSERT_EQ(range.read(offset, bytes), inside);
          ASSERT_EQ(range.write<std::uint64_t>(offset, 1), inside);
          ASSERT_EQ(range.write(offset, bytes), inside);
        }
      }
    }
  }
  EXPECT_GT(good, 50u);
}

// A range that passes the last address does not go on at address 0.
TEST_F(GfnToHvaCacheTest, DoesNotComeRoundToAddressZero) {
  const MemorySlot bottom = add(Gpa{0}, 1);
  GfnToHvaCache range = cache(Gpa{max64 - page + 1}, 2 * page);
  EXPECT_FALSE(range.valid());
  std::byte byte{};
  EXPECT_FALSE(range.read<std::uint32_t>(page));
  EXPECT_FALSE(range.write<std::uint32_t>(page, 1));
  EXPECT_FALSE(range.read<Entry>(page + 16));
  EXPECT_FALSE(range.read(page, std::span(&byte, 1)));
  EXPECT_FALSE(range.write(page, std::span<const std::byte>(&byte, 1)));
  EXPECT_FALSE(range.read<std::uint32_t>(page - 2));
  EXPECT_EQ(bottom.mapping().data()[0], std::byte{0});
}

TEST_F(GfnToHvaCacheTest, OfNoBytesHasNone) {
  const MemorySlot slot = add(high, 1);
  for (const Gpa gpa : {high, high + 5, high + page, Gpa{0}, Gpa{max64}}) {
    GfnToHvaCache range = cache(gpa, 0);
    EXPECT_FALSE(range.read<std::uint8_t>(0));
    EXPECT_FALSE(range.write<std::uint8_t>(0, 1));
    EXPECT_FALSE(range.read<std::uint64_t>(max64));
    EXPECT_TRUE(range.read(0, std::span<std::byte>()));
    EXPECT_FALSE(range.read(1, std::span<std::byte>()));
  }
}

// The kernel keeps only what lies in one page, and goes round the long way otherwise.
TEST_F(GfnToHvaCacheTest, AcrossPagesOfOneSlot) {
  const MemorySlot slot = add(high, 70, {.log_dirty = true});
  (void)take_marks(slot);
  GfnToHvaCache range = cache(high + (62 * page + 8), 3 * page);
  ASSERT_TRUE(range.valid());
  ASSERT_TRUE(range.write<std::uint64_t>(0, 1));
  EXPECT_EQ(take_marks(slot), Pages{62});
  ASSERT_TRUE(range.write<std::uint64_t>(page, 1));
  EXPECT_EQ(take_marks(slot), Pages{63});
  ASSERT_TRUE(range.write<std::uint64_t>(2 * page, 1));
  EXPECT_EQ(take_marks(slot), Pages{64});
  ASSERT_TRUE(range.write<std::uint64_t>(3 * page - 8, 1));
  EXPECT_EQ(take_marks(slot), Pages{65});
  ASSERT_TRUE(range.write<std::uint16_t>(page - 9, 1));  // One byte on each side.
  EXPECT_EQ(take_marks(slot), (Pages{62, 63}));
  ASSERT_TRUE(range.write<Entry>(2 * page - 16, {}));
  EXPECT_EQ(take_marks(slot), (Pages{63, 64}));
}

TEST_F(GfnToHvaCacheTest, AcrossSlots) {
  const MemorySlot one = add(high, 1, {.log_dirty = true});
  MemorySlot two = add(high + page, 1, {.log_dirty = true});
  (void)take_marks(one);
  (void)take_marks(two);
  GfnToHvaCache range = cache(high + (page - 16), 32);
  ASSERT_TRUE(range.valid());
  for (const std::uint64_t offset : {0u, 3u, 8u, 12u, 13u, 15u, 16u, 24u}) {
    ASSERT_TRUE(range.write<std::uint64_t>(offset, 0x0102030405060708 + offset));
    EXPECT_EQ(range.read<std::uint64_t>(offset), 0x0102030405060708 + offset);
    EXPECT_EQ(take_marks(one), offset < 16 ? Pages{0} : Pages{});
    EXPECT_EQ(take_marks(two), offset > 8 ? Pages{0} : Pages{});
  }
  // A part of it goes: what is left can be had still, and nothing is half written.
  ASSERT_TRUE(range.write<std::uint64_t>(8, 7));
  (void)take_marks(one);
  ASSERT_TRUE(two.try_remove());
  EXPECT_FALSE(range.valid());
  EXPECT_EQ(range.read<std::uint64_t>(8), 7u);
  EXPECT_FALSE(range.read<std::uint64_t>(16));
  EXPECT_FALSE(range.write<std::uint64_t>(12, max64));
  EXPECT_EQ(range.read<std::uint64_t>(8), 7u);
  EXPECT_TRUE(take_marks(one).empty());
}

TEST_F(GfnToHvaCacheTest, ComesBackWithItsSlot) {
  GfnToHvaCache range = cache(high + 8, 16);  // Before there is anything.
  EXPECT_FALSE(range.valid());
  EXPECT_FALSE(range.read<std::uint64_t>(0));
  EXPECT_FALSE(range.write<std::uint64_t>(0, 1));
  MemorySlot slot = add(high, 1);
  EXPECT_TRUE(range.valid());
  ASSERT_TRUE(range.write<std::uint64_t>(0, 5));
  ASSERT_TRUE(slot.try_remove());
  EXPECT_FALSE(range.read<std::uint64_t>(0));
  EXPECT_FALSE(range.write<std::uint64_t>(0, 6));
  const MemorySlot elsewhere = add(high + 16 * page, 1);  // It matters not.
  EXPECT_FALSE(range.read<std::uint64_t>(0));
  slot = add(high, 1);
  EXPECT_EQ(range.read<std::uint64_t>(0), 0u);
  ASSERT_TRUE(slot.try_move_to(high + page));
  EXPECT_FALSE(range.read<std::uint64_t>(0));
  ASSERT_TRUE(slot.try_move_to(high));
  ASSERT_TRUE(range.write<std::uint64_t>(0, 9));
  // Another takes its place.
  ASSERT_TRUE(slot.try_move_to(high + page));
  const MemorySlot other = add(high, 1);
  EXPECT_EQ(range.read<std::uint64_t>(0), 0u);
}

TEST_F(GfnToHvaCacheTest, BoundsComeBeforeTheSlots) {
  GfnToHvaCache range = cache(high, 16);
  MemorySlot slot = add(high, 1);
  EXPECT_FALSE(range.read<std::uint64_t>(9));
  ASSERT_TRUE(range.write<std::uint64_t>(8, 1));
  EXPECT_FALSE(range.read<std::uint64_t>(9));
  EXPECT_FALSE(range.write<std::uint64_t>(16, 1));
  ASSERT_TRUE(slot.try_remove());
  EXPECT_FALSE(range.read<std::uint64_t>(9));
  EXPECT_FALSE(range.read<std::uint64_t>(8));
}

TEST_F(GfnToHvaCacheTest, FollowsTheLog) {
  MemorySlot slot = add(high, 3);
  GfnToHvaCache range = cache(high + page, 64);
  ASSERT_TRUE(range.write<std::uint32_t>(0, 1));
  slot.log_dirty(true);
  (void)take_marks(slot);
  ASSERT_TRUE(range.write<std::uint32_t>(0, 1));
  EXPECT_EQ(take_marks(slot), Pages{1});
  ASSERT_TRUE(range.write<std::uint32_t>(4, 1));
  EXPECT_EQ(take_marks(slot), Pages{1}) << "marked anew after they were taken";
  ASSERT_TRUE(range.write<std::uint16_t>(5, 1));
  EXPECT_EQ(take_marks(slot), Pages{1});
  std::array<std::byte, 3> bytes{};
  ASSERT_TRUE(range.write(7, bytes));
  EXPECT_EQ(take_marks(slot), Pages{1});
  ASSERT_TRUE(range.read<std::uint32_t>(0));
  ASSERT_TRUE(range.read(7, bytes));
  ASSERT_FALSE(range.write<std::uint32_t>(61, 1));
  EXPECT_TRUE(take_marks(slot).empty());
  slot.log_dirty(false);
  ASSERT_TRUE(range.write<std::uint32_t>(0, 1));
  EXPECT_TRUE(take_marks(slot).empty());
}

// The kernel refuses them even to those who only read.
TEST_F(GfnToHvaCacheTest, ReadOnlySlotsAreRead) {
  const MemorySlot rom = add(high, 1, {.read_only = true});
  const MemorySlot ram = add(high + page, 1);
  const std::array<std::byte, 8> bytes = {std::byte{1}, std::byte{2}};
  ASSERT_TRUE(rom.load(high + 8, bytes));
  GfnToHvaCache range = cache(high + 8, 64);
  EXPECT_TRUE(range.valid());
  EXPECT_EQ(range.read<std::uint64_t>(0), 0x0201u);
  EXPECT_FALSE(range.write<std::uint64_t>(0, 9));
  EXPECT_FALSE(range.write<std::uint32_t>(1, 9));
  EXPECT_FALSE(range.write<Entry>(0, {}));
  EXPECT_FALSE(range.write(0, bytes));
  EXPECT_EQ(range.read<std::uint64_t>(0), 0x0201u);
  GfnToHvaCache across = cache(high + (page - 8), 16);
  EXPECT_FALSE(across.write<std::uint64_t>(4, 9));
  EXPECT_FALSE(across.write<std::uint64_t>(0, 9));
  EXPECT_TRUE(across.write<std::uint64_t>(8, 9));
  EXPECT_EQ(across.read<std::uint64_t>(4), std::uint64_t{9} << 32);
}

TEST_F(GfnToHvaCacheTest, Moves) {
  const MemorySlot slot = add(high, 1);
  GfnToHvaCache range = cache(high, 64);
  ASSERT_TRUE(range.write<std::uint32_t>(0, 5));
  GfnToHvaCache moved = std::move(range);
  EXPECT_EQ(moved.length(), 64u);
  EXPECT_EQ(moved.read<std::uint32_t>(0), 5u);
  std::byte byte{};
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(range.length(), 0u);
    EXPECT_FALSE(range.valid());
    EXPECT_FALSE(range.read<std::uint32_t>(0));
    EXPECT_FALSE(range.write<std::uint32_t>(0, 1));
    EXPECT_FALSE(range.read<Entry>(0));
    EXPECT_FALSE(range.read(0, std::span(&byte, 1)));
    EXPECT_FALSE(range.write(0, std::span<const std::byte>(&byte, 1)));
    EXPECT_FALSE(range.read(0, std::span<std::byte>()));
  }
  GfnToHvaCache other = cache(high + 64, 8);
  other = std::move(moved);
  EXPECT_EQ(other.gpa(), high);
  EXPECT_EQ(other.read<std::uint32_t>(0), 5u);
  GfnToHvaCache& same = other;
  other = std::move(same);
  EXPECT_EQ(other.read<std::uint32_t>(0), 5u);
}

TEST_F(GfnToHvaCacheTest, OutlivesTheVmHandle) {
  std::optional<MemorySlot> slot = add(high, 1);
  GfnToHvaCache range = cache(high, 8);
  ASSERT_TRUE(range.write<std::uint32_t>(0, 5));
  vm.reset();
  EXPECT_EQ(range.read<std::uint32_t>(0), 5u);
  slot.reset();
  EXPECT_FALSE(range.read<std::uint32_t>(0));
}

// An update that fails moves the generation on: nothing that was remembered while it was under way
// can match later.
TEST_F(GfnToHvaCacheTest, AFailedUpdateLeavesNothingBehind) {
  MemorySlot slot = add(high, 1);
  const MemorySlot wall = add(high + page, 1);
  GfnToHvaCache range = cache(high, 8);
  const auto observation = memory.observe(
      [&](const kvm::MemoryChange&) noexcept { (void)range.read<std::uint32_t>(0); });
  for (int i = 0; i < 3; ++i) {
    EXPECT_FALSE(slot.try_move_to(high + page));
    EXPECT_TRUE(range.write<std::uint32_t>(0, 1));
  }
  ASSERT_TRUE(slot.try_remove());
  EXPECT_FALSE(range.valid());
  EXPECT_FALSE(range.read<std::uint32_t>(0));
}

}  // namespace
