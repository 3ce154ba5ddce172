// SPDX-License-Identifier: MIT
// Views and pins: what they read, write and refuse, whatever the slots do.
#include <kvm/kvm.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <numeric>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "support/guest.hpp"
#include "support/kicking.hpp"
#include "support/require.hpp"
#include "support/slot_access.hpp"

namespace guest_memory_test {

/// With padding.
struct Padded {
  std::uint8_t kind;
  std::uint32_t value;
};
/// More than is copied in line.
struct Large {
  std::array<std::uint64_t, 40> words;
  bool operator==(const Large&) const = default;
};
struct Descriptor {
  std::uint64_t address;
  std::uint32_t length;
  std::uint16_t flags;
  std::uint16_t next;
  bool operator==(const Descriptor&) const = default;
};
enum class Command : std::uint16_t { none, reset };

}  // namespace guest_memory_test

template <>
inline constexpr bool kvm::is_guest_layout<guest_memory_test::Padded> = true;

namespace {

namespace cap = kvm::cap;
using guest_memory_test::Command;
using guest_memory_test::Descriptor;
using guest_memory_test::Large;
using guest_memory_test::Padded;
using kvm::Gpa;
using kvm::Mapping;
using kvm::MemorySlot;
using kvm::PinFor;
using kvm_test::take_marks;
using namespace kvm::literals;
using Pages = std::vector<std::uint64_t>;
using View = kvm::GuestMemory::View;

const std::size_t page = kvm::detail::sys::page_size();
constexpr Gpa high{0x4000'0000};
constexpr std::uint64_t max64 = ~std::uint64_t{0};

bool mapped(const void* address) {
  unsigned char resident;
  return ::mincore(const_cast<void*>(address), 1, &resident) == 0;
}

std::vector<std::byte> pattern(std::size_t size, unsigned seed = 1) {
  std::vector<std::byte> bytes(size);
  for (std::byte& byte : bytes) {
    seed = seed * 1103515245 + 12345;
    byte = static_cast<std::byte>(seed >> 16);
  }
  return bytes;
}

struct GuestMemoryTest : testing::Test {
  kvm::System system;
  std::optional<kvm::Vm> vm = system.create_vm();
  kvm::GuestMemory memory = vm->memory();
  View view = memory.view();

  MemorySlot add(Gpa gpa, std::size_t pages = 1, const kvm::MemoryOptions& options = {}) {
    return vm->add_memory(gpa, Mapping::anonymous(pages * page), options);
  }
};

template <class T>
T number(std::uint64_t value) {
  return static_cast<T>(value);
}

/// Writes and reads a T everywhere around the borders of slots at [high, high +
/// page), [high + page, high + 2 * page), and nothing around.
template <class T>
void expect_scalars(View& view) {
  const std::uint64_t value = 0xf1e2'd3c4'b5a6'9788;
  for (std::uint64_t offset = 0; offset <= 2 * page - sizeof(T); ++offset) {
    if (offset > 20 && offset < page - 20) {
      offset = page - 20;
    } else if (offset > page + 20 && offset < 2 * page - 20) {
      offset = 2 * page - 20;
    }
    const Gpa gpa = high + offset;
    ASSERT_TRUE(view.write<T>(gpa, number<T>(value + offset))) << offset;
    ASSERT_EQ(view.read<T>(gpa), number<T>(value + offset)) << offset;
    // The bytes are where they belong.
    T bytes;
    ASSERT_TRUE(view.read(gpa, std::as_writable_bytes(std::span(&bytes, 1))));
    ASSERT_EQ(bytes, number<T>(value + offset)) << offset;
  }
  for (std::uint64_t before = 1; before <= 16; ++before) {
    ASSERT_FALSE(view.read<T>(high - before));
    ASSERT_FALSE(view.write<T>(high - before, T{}));
    ASSERT_FALSE(view.read<T>(high + (2 * page + before - 1)));
    ASSERT_FALSE(view.write<T>(high + (2 * page + before - 1), T{}));
    if (before < sizeof(T)) {
      ASSERT_FALSE(view.read<T>(high + (2 * page - before)));
      ASSERT_FALSE(view.write<T>(high + (2 * page - before), T{}));
    }
    ASSERT_FALSE(view.read<T>(Gpa{max64 - before + 1}));
    ASSERT_FALSE(view.write<T>(Gpa{max64 - before + 1}, T{}));
    ASSERT_FALSE(view.read<T>(Gpa{before - 1}));
  }
}

TEST_F(GuestMemoryTest, ScalarsOfAllSizes) {
  const MemorySlot first = add(high);
  const MemorySlot second = add(high + page);
  expect_scalars<std::uint8_t>(view);
  expect_scalars<std::int16_t>(view);
  expect_scalars<std::uint32_t>(view);
  expect_scalars<std::int64_t>(view);
  expect_scalars<char16_t>(view);
  expect_scalars<std::byte>(view);
  expect_scalars<Command>(view);
}

TEST_F(GuestMemoryTest, NothingIsThereWithoutSlots) {
  std::byte byte{3};
  for (const std::uint64_t gpa : {std::uint64_t{0}, high.value, max64, max64 - 7}) {
    EXPECT_FALSE(view.read<std::uint64_t>(Gpa{gpa}));
    EXPECT_FALSE(view.write<std::uint8_t>(Gpa{gpa}, 1));
    EXPECT_FALSE(view.read(Gpa{gpa}, std::span(&byte, 1)));
    EXPECT_FALSE(view.contains(Gpa{gpa}, 1));
    EXPECT_FALSE(view.mark_dirty(Gpa{gpa}, 1));
    EXPECT_FALSE(view.pin(Gpa{gpa}, 1, PinFor::reading));
    EXPECT_FALSE(view.atomic_load<std::uint8_t>(Gpa{gpa}));
    // Nothing is everywhere.
    EXPECT_TRUE(view.contains(Gpa{gpa}, 0));
    EXPECT_TRUE(view.read(Gpa{gpa}, std::span(&byte, 0)));
    EXPECT_TRUE(view.write(Gpa{gpa}, std::span<const std::byte>()));
    EXPECT_TRUE(view.fill(Gpa{gpa}, 0, byte));
    EXPECT_TRUE(view.mark_dirty(Gpa{gpa}, 0));
    EXPECT_TRUE(view.pin(Gpa{gpa}, 0, PinFor::writing));
  }
  EXPECT_EQ(byte, std::byte{3});
}

TEST_F(GuestMemoryTest, StructsAreValues) {
  const MemorySlot first = add(high);
  const MemorySlot second = add(high + page);
  Large large{};
  std::iota(large.words.begin(), large.words.end(), 77);
  const Descriptor descriptor{.address = max64 - 3, .length = 7, .flags = 0xffff, .next = 9};
  for (const std::uint64_t offset : {std::size_t{0}, std::size_t{1}, page - 1, page - 9,
                                     page - sizeof(Large), page - sizeof(Large) + 1, page}) {
    const Gpa gpa = high + offset;
    ASSERT_TRUE(view.write<Large>(gpa, large));
    EXPECT_EQ(view.read<Large>(gpa), large) << offset;
    ASSERT_TRUE(view.write<Descriptor>(gpa, descriptor));
    EXPECT_EQ(view.read<Descriptor>(gpa), descriptor) << offset;
    ASSERT_TRUE(view.write<Padded>(gpa, {.kind = 5, .value = 6}));
    const auto padded = view.read<Padded>(gpa);
    ASSERT_TRUE(padded);
    EXPECT_EQ(padded->kind, 5);
    EXPECT_EQ(padded->value, 6u);
  }
  EXPECT_FALSE(view.read<Large>(high + (2 * page - sizeof(Large) + 1)));
  EXPECT_FALSE(view.write<Large>(high + (2 * page - sizeof(Large) + 1), large));
  EXPECT_FALSE(view.read<Descriptor>(high - 1));
  EXPECT_FALSE(view.read<Descriptor>(Gpa{max64 - 2}));
}

TEST_F(GuestMemoryTest, SpansAreMovedWholeOrNotAtAll) {
  const MemorySlot one = add(high, 1);
  const MemorySlot two = add(high + page, 1);
  const MemorySlot three = add(high + 2 * page, 2);
  const MemorySlot beyond = add(high + 5 * page, 1);  // With a hole before it.
  const auto bytes = pattern(4 * page);
  ASSERT_TRUE(view.write(high, bytes));
  for (const auto& [offset, size] : {std::pair<std::size_t, std::size_t>{0, 4 * page},
                                     {page - 1, page + 2},
                                     {7, 3 * page},
                                     {page, page},
                                     {4 * page - 1, 1},
                                     {2 * page - 3, 6},
                                     {page - 1, 2},
                                     {13, 0}}) {
    std::vector<std::byte> out(size + 2, std::byte{0xcc});
    ASSERT_TRUE(view.read(high + offset, std::span(out).subspan(1, size)));
    EXPECT_TRUE(std::equal(out.begin() + 1, out.end() - 1,
                           bytes.begin() + static_cast<std::ptrdiff_t>(offset)))
        << offset << ' ' << size;
    EXPECT_EQ(out.front(), std::byte{0xcc});
    EXPECT_EQ(out.back(), std::byte{0xcc});
    ASSERT_TRUE(view.contains(high + offset, size));
  }
  const std::vector<std::byte> untouched(8 * page, std::byte{0xee});
  for (const auto& [gpa, size] : {std::pair<Gpa, std::size_t>{high, 4 * page + 1},
                                  {high - 1, 2},
                                  {high + (4 * page - 1), 2},
                                  {high + 4 * page, 1},
                                  {high + (page + 1), 4 * page},
                                  {high, 6 * page},
                                  {high + (5 * page + 1), page},
                                  {Gpa{max64}, 2},
                                  {Gpa{max64 - 3}, 8},
                                  {Gpa{0} - page, 2 * page}}) {
    auto out = untouched;
    EXPECT_FALSE(view.read(gpa, std::span(out).first(size)));
    EXPECT_EQ(out, untouched);
    EXPECT_FALSE(view.write(gpa, std::span(untouched).first(size)));
    EXPECT_FALSE(view.fill(gpa, size, std::byte{0xee}));
    EXPECT_FALSE(view.contains(gpa, size));
    EXPECT_FALSE(view.mark_dirty(gpa, size));
  }
  for (const std::uint64_t size :
       {max64, max64 - high.value, max64 - page, std::uint64_t{1} << 63}) {
    EXPECT_FALSE(view.contains(high, size));
    EXPECT_FALSE(view.fill(high, size, std::byte{0xee}));
    EXPECT_FALSE(view.mark_dirty(high, size));
    EXPECT_FALSE(view.pin(high, size, PinFor::reading));
    EXPECT_EQ(view.read_from(-1, high, size).error_number, EFAULT);
    EXPECT_EQ(view.write_to(-1, high, size).error_number, EFAULT);
  }
  std::vector<std::byte> after(4 * page);
  ASSERT_TRUE(view.read(high, after));
  EXPECT_EQ(after, bytes);
}

TEST_F(GuestMemoryTest, FillsAcrossSlots) {
  const MemorySlot one = add(high, 1, {.log_dirty = true});
  const MemorySlot two = add(high + page, 2);
  (void)take_marks(one);
  ASSERT_TRUE(view.fill(high + 5, 2 * page, std::byte{0x5a}));
  std::vector<std::byte> out(3 * page);
  ASSERT_TRUE(view.read(high, out));
  for (std::size_t i = 0; i < out.size(); ++i) {
    ASSERT_EQ(out[i], i >= 5 && i < 2 * page + 5 ? std::byte{0x5a} : std::byte{0}) << i;
  }
  EXPECT_EQ(take_marks(one), Pages{0});
}

TEST_F(GuestMemoryTest, NearTheTopOfWhatTheHostCanMap) {
  // KVM says how far that is by what it refuses.
  std::optional<MemorySlot> top;
  for (unsigned bits = 63; bits > 30 && !top; --bits) {
    auto slot =
        vm->try_add_memory(Gpa{(std::uint64_t{1} << bits) - page}, Mapping::anonymous(page));
    if (slot) {
      top = std::move(*slot);
    }
  }
  ASSERT_TRUE(top);
  const MemorySlot bottom = add(Gpa{0});
  const Gpa last = top->gpa() + (page - 8);
  ASSERT_TRUE(view.write<std::uint64_t>(last, 0x1122334455667788));
  EXPECT_EQ(view.read<std::uint64_t>(last), 0x1122334455667788u);
  EXPECT_FALSE(view.read<std::uint64_t>(last + 1));
  EXPECT_FALSE(view.read<std::uint64_t>(last + 8));
  EXPECT_FALSE(view.contains(top->gpa(), page + 1));
  EXPECT_FALSE(view.contains(top->gpa(), max64 - top->gpa().value + 1));
  EXPECT_FALSE(view.contains(top->gpa(), max64 - top->gpa().value + 2));  // To address 0.
  EXPECT_FALSE(view.read<std::uint64_t>(Gpa{max64 - 3}));
  EXPECT_TRUE(view.read<std::uint64_t>(Gpa{0}));
}

TEST_F(GuestMemoryTest, AtomicsAreAlignedOrRefused) {
  const MemorySlot slot = add(high, 2);
  const auto each = [&]<class T>(T) {
    for (const Gpa gpa : {high, high + (2 * page - sizeof(T)), high + page}) {
      ASSERT_TRUE(view.atomic_store<T>(gpa, T{12}));
      EXPECT_EQ(view.atomic_load<T>(gpa), T{12});
      EXPECT_EQ(view.atomic_load<T>(gpa, std::memory_order_release), T{12});  // As seq_cst.
      EXPECT_EQ(view.atomic_exchange<T>(gpa, T{13}), T{12});
      EXPECT_EQ(view.atomic_fetch_or<T>(gpa, T{2}), T{13});
      EXPECT_EQ(view.atomic_fetch_and<T>(gpa, T{6}), T{15});
      EXPECT_EQ(view.atomic_fetch_add<T>(gpa, T{1}), T{6});
      auto swapped = view.atomic_compare_exchange<T>(gpa, T{8}, T{9});
      ASSERT_TRUE(swapped);
      EXPECT_FALSE(swapped->exchanged);
      EXPECT_EQ(swapped->observed, T{7});
      swapped = view.atomic_compare_exchange<T>(gpa, T{7}, T{9}, std::memory_order_acquire);
      ASSERT_TRUE(swapped);
      EXPECT_TRUE(swapped->exchanged);
      EXPECT_EQ(swapped->observed, T{7});
      EXPECT_EQ(view.read<T>(gpa), T{9});
    }
    for (std::uint64_t off = 1; off < sizeof(T); ++off) {
      const Gpa gpa = high + off;
      EXPECT_FALSE(view.atomic_load<T>(gpa));
      EXPECT_FALSE(view.atomic_store<T>(gpa, T{1}));
      EXPECT_FALSE(view.atomic_exchange<T>(gpa, T{1}));
      EXPECT_FALSE(view.atomic_fetch_or<T>(gpa, T{1}));
      EXPECT_FALSE(view.atomic_fetch_and<T>(gpa, T{1}));
      EXPECT_FALSE(view.atomic_fetch_add<T>(gpa, T{1}));
      EXPECT_FALSE(view.atomic_compare_exchange<T>(gpa, T{1}, T{1}));
    }
    EXPECT_EQ(view.read<T>(high), T{9});
    EXPECT_FALSE(view.atomic_load<T>(high - sizeof(T)));
    EXPECT_FALSE(view.atomic_store<T>(high + 2 * page, T{1}));
    EXPECT_FALSE(view.atomic_load<T>(Gpa{max64 - sizeof(T) + 1}));
  };
  each(std::uint8_t{});
  each(std::uint16_t{});
  each(std::uint32_t{});
  each(std::int64_t{});
}

TEST_F(GuestMemoryTest, ReadOnlySlotsAreRead) {
  const MemorySlot rom = add(high, 1, {.read_only = true});
  const MemorySlot ram = add(high + page, 1);
  const auto bytes = pattern(page);
  ASSERT_TRUE(rom.load(high, bytes));
  std::uint64_t word = 0;
  std::memcpy(&word, bytes.data() + 8, 8);
  EXPECT_EQ(view.read<std::uint64_t>(high + 8), word);
  EXPECT_EQ(view.atomic_load<std::uint64_t>(high + 8), word);
  EXPECT_TRUE(view.contains(high, 2 * page));
  EXPECT_TRUE(view.mark_dirty(high, page));
  EXPECT_TRUE(view.pin(high, 2 * page, PinFor::reading));
  EXPECT_FALSE(view.pin(high, 1, PinFor::writing));
  EXPECT_FALSE(view.pin(high + page - 1, 2, PinFor::writing));
  EXPECT_FALSE(view.write<std::uint64_t>(high + 8, 1));
  EXPECT_FALSE(view.write<std::uint64_t>(high + 9, 1));
  EXPECT_FALSE(view.write<std::uint32_t>(high + page - 2, 1));  // Half of it in the other.
  EXPECT_FALSE(view.write<Large>(high, Large{}));
  EXPECT_FALSE(view.fill(high + page - 1, 2, std::byte{1}));
  EXPECT_FALSE(view.write(high + page - 1, std::span(bytes).first(2)));
  EXPECT_FALSE(view.atomic_store<std::uint8_t>(high, 1));
  EXPECT_FALSE(view.atomic_exchange<std::uint8_t>(high, 1));
  EXPECT_FALSE(view.atomic_fetch_or<std::uint32_t>(high, 1));
  EXPECT_FALSE(view.atomic_fetch_and<std::uint32_t>(high, 1));
  EXPECT_FALSE(view.atomic_fetch_add<std::uint32_t>(high, 1));
  EXPECT_FALSE(view.atomic_compare_exchange<std::uint32_t>(high, 1, 1));
  EXPECT_EQ(view.read_from(0, high, 1).error_number, EFAULT);
  std::vector<std::byte> out(page);
  ASSERT_TRUE(view.read(high, out));
  EXPECT_EQ(out, bytes);
  EXPECT_EQ(view.read<std::uint8_t>(high + page), 0);
}

// Every way to write marks the pages that it wrote, and no others.
TEST_F(GuestMemoryTest, MarksWhatItWrites) {
  const MemorySlot slot = add(high, 200, {.log_dirty = true});
  const MemorySlot next = add(high + 200 * page, 2, {.log_dirty = true});
  const auto marks = [&] { return std::pair(take_marks(slot), take_marks(next)); };
  using Marks = std::pair<Pages, Pages>;
  (void)marks();
  const auto bytes = pattern(3 * page);

  ASSERT_TRUE(view.write<std::uint8_t>(high + 199 * page, 1));
  EXPECT_EQ(marks(), Marks({199}, {}));
  ASSERT_TRUE(view.write<std::uint64_t>(high + 64 * page, 1));
  ASSERT_TRUE(view.write<std::uint64_t>(high + (64 * page + 8), 1));
  EXPECT_EQ(marks(), Marks({64}, {}));
  ASSERT_TRUE(view.write<std::uint16_t>(high + (64 * page - 1), 1));
  EXPECT_EQ(marks(), Marks({63, 64}, {}));
  ASSERT_TRUE(view.write<std::uint32_t>(high + (200 * page - 1), 1));
  EXPECT_EQ(marks(), Marks({199}, {0}));
  ASSERT_TRUE(view.write<Large>(high + (128 * page - 1), Large{}));
  EXPECT_EQ(marks(), Marks({127, 128}, {}));
  ASSERT_TRUE(view.write(high + (198 * page + 1), bytes));
  EXPECT_EQ(marks(), Marks({198, 199}, {0, 1}));
  ASSERT_TRUE(view.fill(high + 10 * page, 2 * page, std::byte{3}));
  EXPECT_EQ(marks(), Marks({10, 11}, {}));
  ASSERT_TRUE(view.mark_dirty(high + (62 * page + 17), 2 * page));
  EXPECT_EQ(marks(), Marks({62, 63, 64}, {}));
  ASSERT_TRUE(view.mark_dirty(high, 202 * page));
  EXPECT_EQ(marks().first.size(), 200u);
  ASSERT_TRUE(view.atomic_store<std::uint32_t>(high + 4 * page, 1));
  ASSERT_TRUE(view.atomic_exchange<std::uint32_t>(high + 5 * page, 1));
  ASSERT_TRUE(view.atomic_fetch_or<std::uint32_t>(high + 6 * page, 1));
  ASSERT_TRUE(view.atomic_fetch_and<std::uint32_t>(high + 7 * page, 1));
  ASSERT_TRUE(view.atomic_fetch_add<std::uint32_t>(high + 8 * page, 1));
  ASSERT_TRUE(view.atomic_compare_exchange<std::uint32_t>(high + 9 * page, 0, 1));
  EXPECT_EQ(marks(), Marks({4, 5, 6, 7, 8, 9}, {}));

  // What reads or fails marks nothing.
  std::vector<std::byte> out(page);
  ASSERT_TRUE(view.read(high, out));
  ASSERT_TRUE(view.read<std::uint64_t>(high));
  ASSERT_TRUE(view.atomic_load<std::uint64_t>(high));
  ASSERT_FALSE(view.write(high + 200 * page, bytes));
  ASSERT_FALSE(view.write<std::uint64_t>(high + (202 * page - 4), 1));
  ASSERT_FALSE(view.mark_dirty(high + 200 * page, 3 * page));
  ASSERT_TRUE(view.mark_dirty(high, 0));
  ASSERT_TRUE(view.pin(high, page, PinFor::reading));
  EXPECT_EQ(marks(), Marks({}, {}));
}

TEST_F(GuestMemoryTest, SeesEachChangeAtOnce) {
  EXPECT_FALSE(view.read<std::uint8_t>(high));
  MemorySlot slot = add(high);
  EXPECT_TRUE(view.write<std::uint8_t>(high, 5));
  ASSERT_TRUE(slot.try_move_to(high + page));
  EXPECT_FALSE(view.read<std::uint8_t>(high));
  EXPECT_EQ(view.read<std::uint8_t>(high + page), 5);
  MemorySlot other = add(high);
  EXPECT_EQ(view.read<std::uint8_t>(high), 0);
  ASSERT_TRUE(slot.try_remove());
  EXPECT_EQ(view.read<std::uint8_t>(high), 0);
  EXPECT_FALSE(view.read<std::uint8_t>(high + page));
  EXPECT_FALSE(view.write<std::uint8_t>(high + page, 1));
}

TEST_F(GuestMemoryTest, GenerationCountsEachChange) {
  const std::uint64_t spaces =
      static_cast<std::uint64_t>(std::max(1, vm->check_raw(kvm::uapi::cap::multi_address_space)));
  std::uint64_t last = memory.generation();
  EXPECT_NE(last, 0u);
  const auto moved = [&] {
    const std::uint64_t now = memory.generation();
    const std::uint64_t by = (now - last) / spaces;
    EXPECT_EQ((now - last) % spaces, 0u);
    last = now;
    return by;
  };
  MemorySlot slot = add(high);
  EXPECT_EQ(moved(), 1u);
  slot.log_dirty(true);
  EXPECT_EQ(moved(), 1u);
  slot.log_dirty(true);
  EXPECT_EQ(moved(), 0u);
  slot.move_to(high + page);
  EXPECT_EQ(moved(), 2u);
  EXPECT_FALSE(vm->try_add_memory(high + page, Mapping::anonymous(page)));
  EXPECT_EQ(moved(), 1u) << "after a failure too";
  EXPECT_FALSE(vm->try_add_memory(high + 1, Mapping::anonymous(page)));
  EXPECT_EQ(moved(), 0u) << "KVM was not asked";
  const MemorySlot other = add(high);
  EXPECT_EQ(moved(), 1u);
  EXPECT_FALSE(slot.try_move_to(high));
  EXPECT_EQ(moved(), 2u);
  ASSERT_TRUE(slot.try_remove());
  EXPECT_EQ(moved(), 2u);
  { const MemorySlot dropped = add(high + page); }
  EXPECT_EQ(moved(), 3u);
  EXPECT_EQ(last & kvm::GuestMemory::update_in_progress, 0u);
}

TEST_F(GuestMemoryTest, ListsSlotsByGpa) {
  const MemorySlot c = add(high + 4 * page, 2, {.log_dirty = true});
  const MemorySlot a = add(high, 1);
  const MemorySlot b = add(high + 2 * page, 1, {.read_only = true});
  const auto slots = memory.slots();
  ASSERT_EQ(slots.size(), 3u);
  EXPECT_EQ(slots[0].gpa, high);
  EXPECT_EQ(slots[0].id, a.id());
  EXPECT_EQ(slots[1].gpa, high + 2 * page);
  EXPECT_TRUE(slots[1].read_only);
  EXPECT_EQ(slots[2].size, 2 * page);
  EXPECT_TRUE(slots[2].logs_dirty);
  EXPECT_FALSE(slots[2].has_guest_memfd);
}

TEST_F(GuestMemoryTest, ViewsMove) {
  const MemorySlot slot = add(high);
  ASSERT_TRUE(view.write<std::uint32_t>(high, 6));
  View moved = std::move(view);
  EXPECT_EQ(moved.read<std::uint32_t>(high), 6u);
  std::byte byte{};
  for (int i = 0; i < 2; ++i) {  // What was moved from gives nothing, again and again.
    EXPECT_FALSE(view.read<std::uint32_t>(high));
    EXPECT_FALSE(view.write<std::uint32_t>(high, 1));
    EXPECT_FALSE(view.read<Descriptor>(high));
    EXPECT_FALSE(view.write<Descriptor>(high, {}));
    EXPECT_FALSE(view.read(high, std::span(&byte, 1)));
    EXPECT_FALSE(view.write(high, std::span<const std::byte>(&byte, 1)));
    EXPECT_FALSE(view.fill(high, 1, byte));
    EXPECT_FALSE(view.contains(high, 1));
    EXPECT_FALSE(view.atomic_load<std::uint32_t>(high));
    EXPECT_FALSE(view.atomic_store<std::uint32_t>(high, 1));
    EXPECT_FALSE(view.atomic_fetch_add<std::uint32_t>(high, 1));
    EXPECT_FALSE(view.mark_dirty(high, 1));
    EXPECT_FALSE(view.pin(high, 1, PinFor::reading));
    EXPECT_EQ(view.read_from(0, high, 1).error_number, EFAULT);
    EXPECT_EQ(view.write_to(0, high, 1).error_number, EFAULT);
  }
  View third = memory.view();
  third = std::move(moved);
  EXPECT_EQ(third.read<std::uint32_t>(high), 6u);
  View& same = third;
  third = std::move(same);
  EXPECT_EQ(third.read<std::uint32_t>(high), 6u);
  view = memory.view();  // And is as good as new.
  EXPECT_EQ(view.read<std::uint32_t>(high), 6u);
}

TEST_F(GuestMemoryTest, OutlivesTheVmHandle) {
  const MemorySlot slot = add(high);
  vm.reset();
  ASSERT_TRUE(view.write<std::uint32_t>(high, 6));
  View second = memory.view();
  EXPECT_EQ(second.read<std::uint32_t>(high), 6u);
}

TEST_F(GuestMemoryTest, OfAMovedFromVm) {
  const kvm::Vm other = std::move(*vm);
  const auto none = vm->try_memory();
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().error_number(), EBADF);
}

TEST_F(GuestMemoryTest, AForkedChildHasNothing) {
  MemorySlot slot = add(high, 2, {.log_dirty = true});
  ASSERT_TRUE(view.write<std::uint32_t>(high, 6));  // It remembers.
  kvm::GfnToHvaCache cache(memory, high, 64);
  ASSERT_TRUE(cache.write<std::uint32_t>(0, 6));
  std::optional<kvm::Pin> pin = view.pin(high, page, PinFor::writing);
  ASSERT_TRUE(pin);
  const std::string problem = kvm_test::in_child([&]() -> std::string {
    std::byte byte{};
    if (view.read<std::uint32_t>(high) || view.write<std::uint32_t>(high, 1)) {
      return "a view reads or writes";
    }
    if (view.read(high, std::span(&byte, 1)) || view.fill(high, 1, byte) ||
        view.contains(high, 1) || view.mark_dirty(high, 1) ||
        view.atomic_load<std::uint8_t>(high) || view.pin(high, 1, PinFor::reading) ||
        view.read_from(0, high, 1)) {
      return "a view does more";
    }
    if (cache.read<std::uint32_t>(0) || cache.write<std::uint32_t>(0, 1) || cache.valid() ||
        cache.read(0, std::span(&byte, 1))) {
      return "a cache reads or writes";
    }
    if (memory.generation() != 0 || !memory.slots().empty() || memory.reclaim() != 0) {
      return "there are slots";
    }
    {
      View more = memory.view();
      kvm::GfnToHvaCache one_more(memory, high, 8);
      if (more.read<std::uint8_t>(high) || one_more.read<std::uint8_t>(0)) {
        return "a new view or cache reads";
      }
      const View taken = std::move(view);
      const kvm::GfnToHvaCache taken_too = std::move(cache);
    }
    const auto moved = slot.try_move_to(high + 1_MiB);
    const auto logged = slot.try_log_dirty(false);
    const auto removed = slot.try_remove();
    for (const int error_number :
         {moved ? 0 : moved.error().error_number(), logged ? 0 : logged.error().error_number(),
          removed ? 0 : removed.error().error_number()}) {
      if (error_number != EIO) {
        return "slots change: " + std::to_string(error_number);
      }
    }
    if (const auto more = vm->try_memory(); more || more.error().error_number() != EIO) {
      return "memory() works";
    }
    {
      const auto observation = memory.observe([](const kvm::MemoryChange&) noexcept { _exit(3); });
    }
    pin.reset();
    { const MemorySlot gone = std::move(slot); }
    return {};
  });
  EXPECT_EQ(problem, "");
  EXPECT_EQ(view.read<std::uint32_t>(high), 6u);
  EXPECT_EQ(cache.read<std::uint32_t>(0), 6u);
  EXPECT_TRUE(pin->data() != nullptr && mapped(pin->data()));
  pin.reset();
  EXPECT_TRUE(slot.try_remove());
}

// --- file descriptors ---

/// A temporary file with these bytes, or an empty one.
class File {
 public:
  explicit File(std::span<const std::byte> bytes = {}) {
    fd_ = ::memfd_create("guest-memory-test", MFD_CLOEXEC);
    if (fd_ < 0 || ::write(fd_, bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size()) ||
        ::lseek(fd_, 0, SEEK_SET) != 0) {
      std::abort();
    }
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File() { ::close(fd_); }
  int fd() const { return fd_; }
  std::vector<std::byte> contents() const {
    std::vector<std::byte> bytes(static_cast<std::size_t>(::lseek(fd_, 0, SEEK_END)));
    if (::pread(fd_, bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) {
      std::abort();
    }
    return bytes;
  }

 private:
  int fd_;
};

struct Pipe {
  int ends[2];
  Pipe() {
    if (::pipe2(ends, O_CLOEXEC) != 0) {
      std::abort();
    }
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;
  ~Pipe() {
    close_end(0);
    close_end(1);
  }
  void close_end(int i) {
    if (ends[i] >= 0) {
      ::close(std::exchange(ends[i], -1));
    }
  }
};

TEST_F(GuestMemoryTest, ReadsFromFiles) {
  const MemorySlot one = add(high, 1, {.log_dirty = true});
  const MemorySlot two = add(high + page, 3, {.log_dirty = true});
  (void)take_marks(one);
  (void)take_marks(two);
  const auto bytes = pattern(3 * page);
  const File file(bytes);
  auto moved = view.read_from(file.fd(), high + 7, 2 * page);
  EXPECT_TRUE(moved);
  EXPECT_EQ(moved.bytes, 2 * page);
  EXPECT_EQ(::lseek(file.fd(), 0, SEEK_CUR), static_cast<off_t>(2 * page));
  std::vector<std::byte> out(2 * page);
  ASSERT_TRUE(view.read(high + 7, out));
  EXPECT_TRUE(std::equal(out.begin(), out.end(), bytes.begin()));
  EXPECT_EQ(take_marks(one), Pages{0});
  EXPECT_EQ(take_marks(two), (Pages{0, 1}));
  // From a position; the file's own stays.
  moved = view.read_from(file.fd(), high, page, page + 5);
  EXPECT_EQ(moved.bytes, page);
  EXPECT_EQ(::lseek(file.fd(), 0, SEEK_CUR), static_cast<off_t>(2 * page));
  out.resize(page);
  ASSERT_TRUE(view.read(high, out));
  EXPECT_TRUE(
      std::equal(out.begin(), out.end(), bytes.begin() + static_cast<std::ptrdiff_t>(page + 5)));
  // The file is shorter.
  moved = view.read_from(file.fd(), high, 4 * page);
  EXPECT_TRUE(moved);
  EXPECT_EQ(moved.bytes, page);
  moved = view.read_from(file.fd(), high, page, 3 * page - 1);
  EXPECT_EQ(moved.bytes, 1u);
  moved = view.read_from(file.fd(), high, page, 100 * page);
  EXPECT_TRUE(moved);
  EXPECT_EQ(moved.bytes, 0u);
  moved = view.read_from(file.fd(), high, page, max64);
  EXPECT_EQ(moved.error_number, EINVAL);
  // Not all of it is memory: nothing is read.
  (void)take_marks(one);
  (void)take_marks(two);
  moved = view.read_from(file.fd(), high + 4 * page - 1, 2, 0);
  EXPECT_FALSE(moved);
  EXPECT_EQ(moved.error_number, EFAULT);
  EXPECT_EQ(moved.bytes, 0u);
  EXPECT_TRUE(take_marks(two).empty());
  moved = view.read_from(-1, high, 0);
  EXPECT_TRUE(moved);
}

TEST_F(GuestMemoryTest, WritesToFiles) {
  const MemorySlot one = add(high, 1, {.log_dirty = true, .read_only = true});
  const MemorySlot two = add(high + page, 1, {.log_dirty = true});
  const auto bytes = pattern(2 * page);
  ASSERT_TRUE(one.load(high, std::span(bytes).first(page)));
  ASSERT_TRUE(two.load(high + page, std::span(bytes).last(page)));
  (void)take_marks(one);
  (void)take_marks(two);
  const File file;
  auto moved = view.write_to(file.fd(), high, 2 * page);
  EXPECT_TRUE(moved);
  EXPECT_EQ(moved.bytes, 2 * page);
  EXPECT_EQ(file.contents(), bytes);
  moved = view.write_to(file.fd(), high, 3, 2 * page);
  EXPECT_EQ(moved.bytes, 3u);
  EXPECT_EQ(file.contents().size(), 2 * page + 3);
  EXPECT_EQ(view.write_to(file.fd(), high, 2 * page + 1).error_number, EFAULT);
  EXPECT_TRUE(take_marks(one).empty());
  EXPECT_TRUE(take_marks(two).empty());
}

TEST_F(GuestMemoryTest, SaysWhyTheDescriptorFailed) {
  const MemorySlot slot = add(high, 2, {.log_dirty = true});
  (void)take_marks(slot);
  auto moved = view.read_from(-1, high, 8);
  EXPECT_FALSE(moved);
  EXPECT_EQ(moved.error_number, EBADF);
  EXPECT_EQ(moved.bytes, 0u);
  EXPECT_EQ(take_marks(slot), Pages{0}) << "after an error as well";
  EXPECT_EQ(view.write_to(-1, high, 8).error_number, EBADF);
  EXPECT_TRUE(take_marks(slot).empty());
  const Pipe pipe;
  EXPECT_EQ(view.read_from(pipe.ends[1], high, 8).error_number, EBADF);
  EXPECT_EQ(view.write_to(pipe.ends[0], high, 8).error_number, EBADF);
  EXPECT_EQ(view.read_from(pipe.ends[0], high, 8, 0).error_number, ESPIPE);
  ASSERT_EQ(::fcntl(pipe.ends[0], F_SETFL, O_NONBLOCK), 0);
  EXPECT_EQ(view.read_from(pipe.ends[0], high, 8).error_number, EAGAIN);
}

TEST_F(GuestMemoryTest, MovesAsMuchAsThereIs) {
  const MemorySlot one = add(high, 1);
  const MemorySlot two = add(high + page, 64);
  const kvm_test::Handler ignore(SIGPIPE, SIG_IGN);
  {
    Pipe pipe;
    ASSERT_EQ(::fcntl(pipe.ends[1], F_SETFL, O_NONBLOCK), 0);
    ASSERT_EQ(::fcntl(pipe.ends[0], F_SETFL, O_NONBLOCK), 0);
    // More than a pipe holds: some of it, then EAGAIN.
    const auto written = view.write_to(pipe.ends[1], high, 65 * page);
    EXPECT_EQ(written.error_number, EAGAIN);
    EXPECT_GT(written.bytes, 0u);
    EXPECT_LT(written.bytes, 65 * page);
    // Then the other way round.
    const auto read = view.read_from(pipe.ends[0], high, 65 * page);
    EXPECT_EQ(read.error_number, EAGAIN);
    EXPECT_EQ(read.bytes, written.bytes);
    pipe.close_end(0);
    const auto broken = view.write_to(pipe.ends[1], high, 8);
    EXPECT_EQ(broken.error_number, EPIPE);
  }
  // In pieces that somebody else writes, to the end.
  Pipe pipe;
  const auto bytes = pattern(40 * page, 9);
  std::thread writer([&] {
    for (std::size_t done = 0; done < bytes.size();) {
      const std::size_t piece = std::min<std::size_t>(3 * page - 11, bytes.size() - done);
      if (::write(pipe.ends[1], bytes.data() + done, piece) != static_cast<ssize_t>(piece)) {
        std::abort();
      }
      done += piece;
    }
    pipe.close_end(1);
  });
  const auto read = view.read_from(pipe.ends[0], high + 3, 50 * page);
  writer.join();
  EXPECT_TRUE(read);
  EXPECT_EQ(read.bytes, bytes.size());
  std::vector<std::byte> out(bytes.size());
  ASSERT_TRUE(view.read(high + 3, out));
  EXPECT_EQ(out, bytes);
}

// More slots than one system call takes parts.
TEST_F(GuestMemoryTest, MovesThroughHundredsOfSlots) {
  std::vector<MemorySlot> slots;
  for (std::size_t i = 0; i < 150; ++i) {
    slots.push_back(add(high + i * page, 1, {.log_dirty = true}));
    (void)take_marks(slots.back());
  }
  const auto bytes = pattern(150 * page - 9, 4);
  const File file(bytes);
  const auto read = view.read_from(file.fd(), high + 5, bytes.size());
  EXPECT_EQ(read.bytes, bytes.size());
  std::vector<std::byte> out(bytes.size());
  ASSERT_TRUE(view.read(high + 5, out));
  EXPECT_EQ(out, bytes);
  for (const MemorySlot& slot : slots) {
    EXPECT_EQ(take_marks(slot), Pages{0});
  }
  const File copy;
  EXPECT_EQ(view.write_to(copy.fd(), high + 5, bytes.size()).bytes, bytes.size());
  EXPECT_EQ(copy.contents(), bytes);
}

TEST_F(GuestMemoryTest, GoesOnAfterASignal) {
  const MemorySlot slot = add(high, 1);
  const kvm_test::Handler handler(SIGUSR1);  // Without SA_RESTART.
  Pipe pipe;
  std::atomic<bool> finished{false};
  const pthread_t reader = ::pthread_self();
  const unsigned long before = kvm_test::signals_handled;
  std::thread other([&] {
    // Two signals at least while it waits, then what it waits for.
    while (kvm_test::signals_handled < before + 2) {
      ::pthread_kill(reader, SIGUSR1);
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    if (::write(pipe.ends[1], "abcd", 4) != 4) {
      std::abort();
    }
  });
  const auto moved = view.read_from(pipe.ends[0], high, 4);
  finished = true;
  other.join();
  EXPECT_TRUE(moved) << moved.error_number;
  EXPECT_EQ(moved.bytes, 4u);
  EXPECT_EQ(view.read<std::uint8_t>(high + 3), 'd');
}

// --- pins ---

TEST_F(GuestMemoryTest, PinsHaveAddresses) {
  const MemorySlot one = add(high, 1);
  const MemorySlot two = add(high + page, 2);
  auto pin = view.pin(high + 16, 100, PinFor::writing);
  ASSERT_TRUE(pin);
  EXPECT_EQ(pin->gpa(), high + 16);
  EXPECT_EQ(pin->size(), 100u);
  EXPECT_EQ(pin->data(), one.mapping().data() + 16);
  ASSERT_EQ(pin->iovecs().size(), 1u);
  EXPECT_EQ(pin->iovecs()[0].iov_len, 100u);
  auto across = view.pin(high + (page - 4), page, PinFor::reading);
  ASSERT_TRUE(across);
  EXPECT_EQ(across->data(), nullptr);
  ASSERT_EQ(across->iovecs().size(), 2u);
  EXPECT_EQ(across->iovecs()[0].iov_base, one.mapping().data() + (page - 4));
  EXPECT_EQ(across->iovecs()[0].iov_len, 4u);
  EXPECT_EQ(across->iovecs()[1].iov_base, two.mapping().data());
  EXPECT_EQ(across->iovecs()[1].iov_len, page - 4);
  const auto nothing = view.pin(high, 0, PinFor::reading);
  ASSERT_TRUE(nothing);
  EXPECT_TRUE(nothing->iovecs().empty());
  EXPECT_EQ(nothing->data(), nullptr);
  EXPECT_FALSE(view.pin(high, 3 * page + 1, PinFor::reading));
  EXPECT_FALSE(view.pin(Gpa{max64}, 2, PinFor::reading));
}

TEST_F(GuestMemoryTest, PinsForWritingMark) {
  const MemorySlot one = add(high, 2, {.log_dirty = true});
  const MemorySlot two = add(high + 2 * page, 2, {.log_dirty = true});
  const auto marks = [&] { return std::pair(take_marks(one), take_marks(two)); };
  using Marks = std::pair<Pages, Pages>;
  (void)marks();
  auto pin = view.pin(high + page, 2 * page, PinFor::writing);
  ASSERT_TRUE(pin);
  EXPECT_EQ(marks(), Marks({}, {}));
  pin->mark_dirty(page - 1, 1);
  EXPECT_EQ(marks(), Marks({1}, {}));
  pin->mark_dirty(page, 1);
  EXPECT_EQ(marks(), Marks({}, {0}));
  pin->mark_dirty(page - 1, 2);
  EXPECT_EQ(marks(), Marks({1}, {0}));
  for (const auto& [offset, size] :
       {std::pair<std::uint64_t, std::uint64_t>{2 * page, 1}, {max64, max64}, {0, 0}, {5, 0}}) {
    pin->mark_dirty(offset, size);
    EXPECT_EQ(marks(), Marks({}, {})) << offset;
  }
  pin->mark_dirty(page + 1, max64);  // As far as it is inside.
  EXPECT_EQ(marks(), Marks({}, {0}));
  pin->mark_dirty();
  EXPECT_EQ(marks(), Marks({1}, {0}));
  kvm::Pin moved = std::move(*pin);
  pin.reset();
  EXPECT_EQ(marks(), Marks({}, {}));
  {
    const kvm::Pin last = std::move(moved);
    EXPECT_TRUE(moved.iovecs().empty());
    EXPECT_EQ(moved.data(), nullptr);
    EXPECT_EQ(moved.size(), 0u);
    moved.mark_dirty();
    EXPECT_EQ(marks(), Marks({}, {}));
  }
  EXPECT_EQ(marks(), Marks({1}, {0}));
  pin = view.pin(high, page, PinFor::writing);
  pin = view.pin(high + page, page, PinFor::reading);  // Assigned over: the first one ends.
  EXPECT_EQ(marks(), Marks({0}, {}));
  pin.reset();
  EXPECT_EQ(marks(), Marks({}, {}));
}

TEST_F(GuestMemoryTest, APinHoldsUpTheEndOfItsMemory) {
  MemorySlot slot = add(high, 2);
  std::byte* const data = slot.mapping().data();
  auto pin = view.pin(high, 4, PinFor::writing);
  ASSERT_TRUE(pin);
  auto removed = slot.try_remove();
  ASSERT_TRUE(removed);
  EXPECT_TRUE(removed->in_use());
  const auto busy = removed->try_take();
  ASSERT_FALSE(busy);
  EXPECT_EQ(busy.error().error_number(), EBUSY);
  EXPECT_NE(std::string(busy.error().what()).find("pin"), std::string::npos) << busy.error().what();
  const auto never = removed->try_wait();  // This thread's own.
  ASSERT_FALSE(never);
  EXPECT_EQ(never.error().error_number(), EDEADLK);
  data[0] = std::byte{1};
  pin.reset();
  EXPECT_FALSE(removed->in_use());
  EXPECT_EQ(removed->try_wait().value().data(), data);
  EXPECT_FALSE(mapped(data));
}

TEST_F(GuestMemoryTest, DroppedMemoryIsUnmappedAfterTheLastPin) {
  std::optional<MemorySlot> slot = add(high, 2);
  std::byte* const data = slot->mapping().data();
  auto pin = view.pin(high, 4, PinFor::writing);
  auto second = view.pin(high + page, 4, PinFor::reading);
  slot.reset();
  EXPECT_FALSE(view.contains(high, 1));
  EXPECT_EQ(memory.reclaim(), 1u);
  EXPECT_TRUE(mapped(data));
  pin.reset();
  EXPECT_EQ(memory.reclaim(), 1u);
  EXPECT_TRUE(mapped(data));
  second.reset();
  EXPECT_EQ(memory.reclaim(), 0u);
  EXPECT_FALSE(mapped(data));
  // What somebody declined to take goes the same way.
  MemorySlot other = add(high);
  pin = view.pin(high, 4, PinFor::reading);
  { auto removed = other.try_remove(); }
  EXPECT_EQ(memory.reclaim(), 1u);
  pin.reset();
  EXPECT_EQ(memory.reclaim(), 0u);
}

TEST_F(GuestMemoryTest, APinOutlivesTheVm) {
  std::optional<kvm::Pin> pin;
  std::byte* data = nullptr;
  {
    kvm::Vm own = system.create_vm();
    const MemorySlot slot = own.add_memory(high, Mapping::anonymous(page), {.log_dirty = true});
    data = slot.mapping().data();
    pin = own.memory().view().pin(high, page, PinFor::writing);
    ASSERT_TRUE(pin);
  }
  ASSERT_TRUE(mapped(data));
  data[page - 1] = std::byte{1};
  pin->mark_dirty();
  pin.reset();
  EXPECT_FALSE(mapped(data));
}

TEST_F(GuestMemoryTest, APinFollowsItsSlot) {
  MemorySlot slot = add(high, 2, {.log_dirty = true});
  auto pin = view.pin(high, page, PinFor::writing);
  ASSERT_TRUE(slot.try_move_to(high + 1_MiB));
  (void)take_marks(slot);
  pin->data()[3] = std::byte{3};
  EXPECT_EQ(view.read<std::uint8_t>(high + (1_MiB + 3)), 3);
  pin.reset();
  EXPECT_EQ(take_marks(slot), Pages{0});
}

TEST_F(GuestMemoryTest, RemoveWaitsForOtherThreadsPins) {
  MemorySlot slot = add(high, 2);
  std::byte* const data = slot.mapping().data();
  std::atomic<bool> pinned{false};
  std::atomic<bool> dropping{false};
  std::thread holder([&] {
    View own = memory.view();
    auto pin = own.pin(high, page, PinFor::writing);
    pinned = true;
    while (own.contains(high, 1)) {  // Until it is being removed.
      std::this_thread::yield();
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    pin->data()[0] = std::byte{0x42};
    dropping = true;
    pin.reset();
  });
  while (!pinned) {
    std::this_thread::yield();
  }
  const Mapping memory_back = slot.remove();
  EXPECT_TRUE(dropping);
  EXPECT_EQ(memory_back.data(), data);
  EXPECT_EQ(memory_back.data()[0], std::byte{0x42});
  holder.join();
}

// A reader that has been idle announces what it knew before it looks: that is no access to what
// was removed meanwhile, and remove() must not fail of it.
TEST_F(GuestMemoryTest, NotInUseStaysSo) {
  kvm::detail::AddressSpace& space = kvm_test::space_of(memory);
  kvm::detail::Reader idle;
  space.add_reader(idle);
  MemorySlot slot = add(high);
  MemorySlot other = add(high + page);
  const std::uint64_t known = memory.generation();
  auto removed = slot.try_remove();
  ASSERT_TRUE(removed);
  EXPECT_FALSE(removed->in_use());
  kvm::RemovedMemory moved = std::move(*removed);
  auto elsewhere = other.try_remove();
  ASSERT_TRUE(elsewhere);
  idle.announced = known;
  EXPECT_TRUE(elsewhere->in_use()) << "of which nobody knows yet";
  EXPECT_FALSE(moved.in_use());
  *elsewhere = std::move(moved);
  EXPECT_FALSE(elsewhere->in_use());
  const auto taken = elsewhere->try_take();
  EXPECT_TRUE(taken) << taken.error().what();
  idle.announced = 0;
  space.remove_reader(idle);
  EXPECT_EQ(memory.reclaim(), 0u);
}

// Whoever sees that a removed slot's memory is not in use may be sure that there will be no pin of
// it: one may be made by an access that was in flight.
TEST_F(GuestMemoryTest, NoPinComesAfterNotInUse) {
  std::atomic<bool> end{false};
  std::atomic<bool> taken{false};
  std::atomic<unsigned> violations{0};
  std::atomic<unsigned> pins{0};
  // Looking at all of them takes long enough for an access to end meanwhile.
  std::vector<kvm::detail::Reader> idle(20'000);
  for (kvm::detail::Reader& reader : idle) {
    kvm_test::space_of(memory).add_reader(reader);
  }
  std::vector<std::thread> threads;
  threads.emplace_back([&] {
    View own = memory.view();
    while (!end) {
      if (auto pin = own.pin(high, 8, PinFor::reading)) {
        pins.fetch_add(1, std::memory_order_relaxed);
        // Held until it is seen, if it is one that must not be.
        for (int i = 0; i < 20'000 && !own.contains(high, 1); ++i) {
          if (taken.load()) {
            violations.fetch_add(1);
            break;
          }
        }
      }
    }
  });
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(1500);
  unsigned rounds = 0;
  while (std::chrono::steady_clock::now() < deadline) {
    MemorySlot slot = add(high);
    for (int i = 0; i < static_cast<int>(rounds % 97); ++i) {
      std::atomic_signal_fence(std::memory_order_seq_cst);
    }
    auto removed = slot.try_remove();
    while (removed->in_use()) {
    }
    taken = true;
    std::this_thread::sleep_for(std::chrono::microseconds(100));  // For the holder to see it.
    const Mapping back = removed->try_take().value();
    taken = false;
    ++rounds;
  }
  end = true;
  for (std::thread& thread : threads) {
    thread.join();
  }
  for (kvm::detail::Reader& reader : idle) {
    kvm_test::space_of(memory).remove_reader(reader);
  }
  EXPECT_EQ(violations, 0u) << "in " << rounds << " rounds with " << pins << " pins";
}

// --- against a model ---

/// Slots of odd sizes with all kinds of gaps, and what a plain array says of
/// them.
class Model {
 public:
  Model(kvm::Vm& vm, unsigned seed) : random_(seed), vm_(vm) {}

  void add_slots(std::size_t count) {
    std::uint64_t gpa = page * (random_() % 5);
    for (std::size_t i = 0; i < count; ++i) {
      const std::size_t pages = 1 + (random_() % 4 == 0 ? random_() % 40 : random_() % 3);
      const bool read_only = random_() % 8 == 0;
      const bool logged = random_() % 2 == 0;
      slots_.push_back({vm_.add_memory(Gpa{gpa}, Mapping::anonymous(pages * page),
                                       {.log_dirty = logged, .read_only = read_only}),
                        gpa, std::vector<std::byte>(pages * page), read_only, logged});
      (void)take_marks(slots_.back().slot);
      gpa += pages * page;
      switch (random_() % 6) {  // Otherwise the next one touches it.
        case 0:
          gpa += page;
          break;
        case 1:
          gpa += page * (random_() % 100);
          break;
        case 2:  // Congruent modulo much: hashes and granules collide.
          gpa = (gpa | ((std::uint64_t{1} << (20 + random_() % 12)) - 1)) + 1;
          break;
        default:
          break;
      }
    }
  }
  /// Removes some, adds others in their place or beside, moves others.
  void shuffle() {
    for (int i = 0; i < 10; ++i) {
      Slot& slot = slots_[random_() % slots_.size()];
      const std::uint64_t to = slot.gpa + page * (random_() % 7) - page * (random_() % 4);
      if (slot.slot.try_move_to(Gpa{to})) {
        slot.gpa = to;
        if (slot.logged) {
          EXPECT_EQ(take_marks(slot.slot).size(), slot.slot.pages());
        }
      } else {
        (void)take_marks(slot.slot);
      }
      std::sort(slots_.begin(), slots_.end(),
                [](const Slot& a, const Slot& b) { return a.gpa < b.gpa; });
    }
    const std::size_t victim = random_() % slots_.size();
    if (slots_.size() > 3) {
      slots_.erase(slots_.begin() + static_cast<std::ptrdiff_t>(victim));
    }
  }

  /// The byte there, or null.
  std::byte* at(std::uint64_t gpa, bool to_write, std::size_t* index = nullptr) {
    auto found = std::upper_bound(slots_.begin(), slots_.end(), gpa,
                                  [](std::uint64_t value, const Slot& s) { return value < s.gpa; });
    if (found == slots_.begin()) {
      return nullptr;
    }
    --found;
    if (gpa - found->gpa >= found->bytes.size() || (to_write && found->read_only)) {
      return nullptr;
    }
    if (index != nullptr) {
      *index = static_cast<std::size_t>(found - slots_.begin());
    }
    return &found->bytes[gpa - found->gpa];
  }
  bool covers(std::uint64_t gpa, std::uint64_t size, bool to_write) {
    if (gpa + size < gpa && gpa + size != 0) {
      return false;
    }
    for (std::uint64_t i = 0; i < size; ++i) {
      if (at(gpa + i, to_write) == nullptr) {
        return false;
      }
    }
    return true;
  }
  std::uint64_t gpa_near_something() {
    const Slot& slot = slots_[random_() % slots_.size()];
    const std::uint64_t size = slot.bytes.size();
    switch (random_() % 6) {
      case 0:
        return slot.gpa + random_() % size;
      case 1:
        return slot.gpa + (random_() % (size / 8)) * 8;
      case 2:
        return slot.gpa - 8 + random_() % 16;
      case 3:
        return slot.gpa + size - 8 + random_() % 16;
      case 4:
        return slot.gpa + page * (random_() % 200);
      default:
        return random_() % 4 == 0 ? ~(random_() % 32) : slot.gpa + (random_() << 3) % (1_GiB);
    }
  }

  template <class T>
  void check_scalar(View& view, kvm::GfnToHvaCache* cache = nullptr, std::uint64_t offset = 0) {
    const std::uint64_t gpa = cache != nullptr ? cache->gpa().value + offset : gpa_near_something();
    const bool inside =
        cache == nullptr || (offset <= cache->length() && sizeof(T) <= cache->length() - offset);
    const bool readable = inside && covers(gpa, sizeof(T), false);
    const auto read = cache != nullptr ? cache->read<T>(offset) : view.read<T>(Gpa{gpa});
    ASSERT_EQ(read.has_value(), readable) << std::hex << gpa;
    if (readable) {
      T expected;
      for (std::size_t i = 0; i < sizeof(T); ++i) {
        reinterpret_cast<std::byte*>(&expected)[i] = *at(gpa + i, false);
      }
      ASSERT_EQ(*read, expected) << std::hex << gpa;
    }
    const auto value = static_cast<T>(random_() * 0x9e3779b97f4a7c15);
    const bool writable = inside && covers(gpa, sizeof(T), true);
    ASSERT_EQ(cache != nullptr ? cache->write<T>(offset, value) : view.write<T>(Gpa{gpa}, value),
              writable)
        << std::hex << gpa;
    if (writable) {
      put(gpa, std::as_bytes(std::span(&value, 1)));
    }
  }
  void check_span(View& view) {
    const std::uint64_t gpa = gpa_near_something();
    const std::size_t size = random_() % 3 == 0 ? random_() % (6 * page) : random_() % 40;
    std::vector<std::byte> out(size, std::byte{0xa5});
    const std::vector<std::byte> before = out;
    const bool readable = covers(gpa, size, false);
    ASSERT_EQ(view.read(Gpa{gpa}, out), readable) << std::hex << gpa << '+' << size;
    for (std::size_t i = 0; i < size; ++i) {
      ASSERT_EQ(out[i], readable ? *at(gpa + i, false) : before[i]);
    }
    ASSERT_EQ(view.contains(Gpa{gpa}, size), readable);
    const bool writable = covers(gpa, size, true);
    const auto bytes = pattern(size, static_cast<unsigned>(random_()));
    ASSERT_EQ(view.write(Gpa{gpa}, bytes), writable) << std::hex << gpa << '+' << size;
    if (writable) {
      put(gpa, bytes);
    }
  }
  void check_marks() {
    for (Slot& slot : slots_) {
      std::sort(slot.marked.begin(), slot.marked.end());
      slot.marked.erase(std::unique(slot.marked.begin(), slot.marked.end()), slot.marked.end());
      ASSERT_EQ(take_marks(slot.slot), slot.marked);
      slot.marked.clear();
    }
  }
  std::uint64_t random() { return random_(); }

 private:
  struct Slot {
    MemorySlot slot;
    std::uint64_t gpa;
    std::vector<std::byte> bytes;
    bool read_only;
    bool logged;
    Pages marked{};
  };

  void put(std::uint64_t gpa, std::span<const std::byte> bytes) {
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      std::size_t index = 0;
      *at(gpa + i, true, &index) = bytes[i];
      Slot& slot = slots_[index];
      const std::uint64_t number = (gpa + i - slot.gpa) / page;
      if (slot.logged && (slot.marked.empty() || slot.marked.back() != number)) {
        slot.marked.push_back(number);
      }
    }
  }

  std::mt19937_64 random_;
  kvm::Vm& vm_;
  std::vector<Slot> slots_;  // by gpa
};

class GuestMemoryModel : public testing::TestWithParam<std::size_t> {};

TEST_P(GuestMemoryModel, AgreesWithAPlainArray) {
  const char* const given = std::getenv("KVM_HPP_SEED");
  const unsigned seed = given != nullptr ? static_cast<unsigned>(std::strtoul(given, nullptr, 0))
                                         : std::random_device()();
  SCOPED_TRACE("KVM_HPP_SEED=" + std::to_string(seed));
  kvm::System system;
  kvm::Vm vm = system.create_vm();
  kvm::GuestMemory memory = vm.memory();
  View view = memory.view();
  Model model(vm, seed);
  model.add_slots(std::min(GetParam(), static_cast<std::size_t>(vm.check<kvm::cap::NrMemslots>())));
  for (int round = 0; round < 20 && !testing::Test::HasFatalFailure(); ++round) {
    for (int i = 0; i < 150 && !testing::Test::HasFatalFailure(); ++i) {
      model.check_scalar<std::uint8_t>(view);
      model.check_scalar<std::uint16_t>(view);
      model.check_scalar<std::uint32_t>(view);
      model.check_scalar<std::uint64_t>(view);
      if (i % 4 == 0) {
        model.check_span(view);
      }
    }
    for (int caches = 0; caches < 15 && !testing::Test::HasFatalFailure(); ++caches) {
      const std::uint64_t gpa = model.gpa_near_something();
      const std::uint64_t length = model.random() % 4 == 0   ? ~(model.random() % 100)
                                   : model.random() % 3 == 0 ? model.random() % (4 * page)
                                                             : model.random() % 70;
      kvm::GfnToHvaCache cache(memory, Gpa{gpa}, length);
      for (int i = 0; i < 20 && !testing::Test::HasFatalFailure(); ++i) {
        // Beyond the last address, an offset must not come round to the first.
        std::uint64_t offset = model.random() % (length / 2 + 9);
        if (length < 4 * page) {
          offset = model.random() % (length + 9);
        } else if (i % 2 == 0) {
          offset = model.random() % (6 * page);
        }
        if (gpa + offset < gpa) {
          ASSERT_FALSE(cache.read<std::uint8_t>(offset));
          ASSERT_FALSE(cache.write<std::uint8_t>(offset, 1));
          continue;
        }
        model.check_scalar<std::uint64_t>(view, &cache, offset);
        model.check_scalar<std::uint32_t>(view, &cache, offset);
        model.check_scalar<std::uint16_t>(view, &cache, offset);
        model.check_scalar<std::uint8_t>(view, &cache, offset);
      }
    }
    if (!testing::Test::HasFatalFailure()) {
      model.check_marks();
      model.shuffle();
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Slots, GuestMemoryModel, testing::Values(1, 3, 17, 200, 700));

// --- threads ---

// One thread adds, moves, toggles and deletes a slot; the others go on with memory that this does
// not concern, without a single failure, and never read anything but what belongs there.
TEST(GuestMemoryThreads, OtherSlotsNeverFail) {
  kvm::System system;
  kvm::Vm vm = system.create_vm();
  const MemorySlot steady = vm.add_memory(high, Mapping::anonymous(4 * page), {.log_dirty = true});
  const kvm::GuestMemory memory = vm.memory();
  std::atomic<bool> end{false};
  std::atomic<unsigned> failures{0};
  std::atomic<unsigned> strange{0};
  std::atomic<std::uint64_t> accesses{0};
  constexpr Gpa other{0x8000'0000};
  constexpr std::uint64_t stamp = 0x5151'5151'5151'5151;
  const auto reader = [&](unsigned number) {
    View view = memory.view();
    kvm::GfnToHvaCache cache(memory, high + (page + 256 * number), 256);
    kvm::GfnToHvaCache unsteady(memory, other, page);
    std::uint64_t count = 0;
    std::vector<std::byte> bytes(2 * page);
    for (; !end; ++count) {
      const Gpa own = high + 64 * number;
      bool ok = view.write<std::uint64_t>(own, count);
      ok = ok && view.read<std::uint64_t>(own) == count;
      ok = ok && cache.write<std::uint64_t>(16, count);
      ok = ok && cache.read<std::uint64_t>(16) == count;
      ok = ok && view.write<std::uint16_t>(own + 9, 7);
      ok = ok && view.read(high + page, bytes);
      failures += ok ? 0 : 1;
      for (const auto& value :
           {view.read<std::uint64_t>(other), unsteady.read<std::uint64_t>(0),
            view.read<std::uint64_t>(other + page), unsteady.read<std::uint64_t>(page - 8)}) {
        strange += value && *value != stamp ? 1 : 0;
      }
      if (count % 16 == 0) {
        (void)view.pin(other, page, PinFor::reading);
        unsteady = kvm::GfnToHvaCache(memory, other, page);
      }
    }
    accesses += count;
  };
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < 3; ++i) {
    threads.emplace_back(reader, i);
  }
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(1500);
  unsigned rounds = 0;
  std::uint64_t generation = memory.generation();
  for (; std::chrono::steady_clock::now() < deadline; ++rounds) {
    Mapping backing = Mapping::anonymous(2 * page);
    for (std::size_t i = 0; i < 2 * page / 8; ++i) {
      std::memcpy(backing.data() + 8 * i, &stamp, 8);
    }
    MemorySlot slot = vm.add_memory(other, std::move(backing), {.log_dirty = rounds % 2 == 0});
    slot.log_dirty(rounds % 3 == 0);
    slot.move_to(other + page);
    slot.move_to(other);
    if (rounds % 3 == 1) {
      Mapping back = slot.remove();
      // Nobody reads it any more: what is written now is not seen.
      std::memset(back.data(), 0xee, back.size());
    } else if (rounds % 3 == 2) {
      auto removed = slot.try_remove();
      if (auto back = removed->try_take()) {
        std::memset(back->data(), 0xee, back->size());
      }
    }
    const std::uint64_t now = memory.generation();
    EXPECT_GT(now, generation);
    generation = now;
  }
  end = true;
  for (std::thread& thread : threads) {
    thread.join();
  }
  EXPECT_EQ(failures, 0u) << "of " << accesses << " rounds of accesses";
  EXPECT_EQ(strange, 0u);
  EXPECT_GT(accesses, 0u);
  EXPECT_EQ(memory.reclaim(), 0u);
}

}  // namespace
