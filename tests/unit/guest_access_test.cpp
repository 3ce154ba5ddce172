// SPDX-License-Identifier: MIT
// Access to memory that a guest shares: values, alignment, sizes, orders, and what thread sanitizer
// has to say when two sides meet.
#include <kvm/detail/guest_access.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <thread>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

namespace {

namespace detail = kvm::detail;

enum class Fixed : std::uint16_t { small = 1, large = 0xfffe };
enum Unfixed { one = 1 };
enum class Truth : bool {};
struct Packed3 {
  std::uint8_t bytes[3];
};
struct Even {
  std::uint32_t a;
  std::uint16_t b[2];
  std::uint64_t c;
};
struct Padded {
  std::uint8_t a;
  std::uint32_t b;
};
struct OptedIn {
  std::uint8_t a;
  double b;
};
struct Explicit {
  explicit Explicit(std::uint64_t v) : value(v) {}
  std::uint64_t value;
};
struct Virtual {
  virtual ~Virtual() = default;
};

}  // namespace

template <>
inline constexpr bool kvm::is_guest_layout<OptedIn> = true;

namespace {

static_assert(kvm::GuestScalar<std::uint8_t> && kvm::GuestScalar<std::int64_t> &&
              kvm::GuestScalar<char> && kvm::GuestScalar<std::byte> && kvm::GuestScalar<Fixed>);
static_assert(!kvm::GuestScalar<bool> && !kvm::GuestScalar<Truth> && !kvm::GuestScalar<Unfixed> &&
              !kvm::GuestScalar<double> && !kvm::GuestScalar<void*> &&
              !kvm::GuestScalar<__int128_t> && !kvm::GuestScalar<const int> &&
              !kvm::GuestScalar<volatile int> && !kvm::GuestScalar<int&> &&
              !kvm::GuestScalar<Even>);
static_assert(kvm::GuestValue<std::uint8_t> && kvm::GuestValue<Even> && kvm::GuestValue<Packed3> &&
              kvm::GuestValue<OptedIn> && kvm::GuestValue<Explicit> &&
              kvm::GuestValue<std::array<std::uint16_t, 5>>);
static_assert(!kvm::GuestValue<Padded> && !kvm::GuestValue<bool> && !kvm::GuestValue<double> &&
              !kvm::GuestValue<int*> && !kvm::GuestValue<Virtual> &&
              !kvm::GuestValue<std::vector<int>> && !kvm::GuestValue<const Even> &&
              !kvm::GuestValue<int[2]>);

constexpr std::byte guard{0xa5};

/// Bytes that differ from their neighbours.
std::byte pattern(std::size_t i) { return static_cast<std::byte>(i * 7 + i / 256 + 1); }

/// 64 bytes, aligned, each different.
struct alignas(64) Line {
  Line() {
    for (std::size_t i = 0; i < sizeof(bytes); ++i) {
      bytes[i] = pattern(i);
    }
  }
  std::byte bytes[64];
};

template <class T>
T read_plainly(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof(value));
  return value;
}

template <class T>
class GuestScalars : public ::testing::Test {};
using Scalars = ::testing::Types<std::uint8_t, std::int8_t, std::uint16_t, std::int32_t,
                                 std::uint32_t, std::uint64_t, std::int64_t, std::byte, Fixed>;
TYPED_TEST_SUITE(GuestScalars, Scalars);

TYPED_TEST(GuestScalars, LoadAndStoreAtMultiplesOfTheirSize) {
  const Line from;
  for (std::size_t i = 0; i < sizeof(Line); i += sizeof(TypeParam)) {
    ASSERT_TRUE(detail::is_aligned<TypeParam>(from.bytes + i));
    const auto value = detail::load<TypeParam>(from.bytes + i);
    EXPECT_EQ(value, read_plainly<TypeParam>(from.bytes + i)) << i;
    Line to;
    std::fill(std::begin(to.bytes), std::end(to.bytes), guard);
    detail::store(to.bytes + i, value);
    for (std::size_t j = 0; j < sizeof(Line); ++j) {
      const bool inside = j >= i && j < i + sizeof(TypeParam);
      EXPECT_EQ(to.bytes[j], inside ? from.bytes[j] : guard) << i << ' ' << j;
    }
  }
}

TYPED_TEST(GuestScalars, LoadAndStoreAnywhere) {
  const Line from;
  for (std::size_t i = 0; i + sizeof(TypeParam) <= sizeof(Line); ++i) {
    EXPECT_EQ(detail::is_aligned<TypeParam>(from.bytes + i), i % sizeof(TypeParam) == 0);
    const auto value = detail::load_any<TypeParam>(from.bytes + i);
    EXPECT_EQ(value, read_plainly<TypeParam>(from.bytes + i)) << i;
    Line to;
    std::fill(std::begin(to.bytes), std::end(to.bytes), guard);
    detail::store_any(to.bytes + i, value);
    for (std::size_t j = 0; j < sizeof(Line); ++j) {
      const bool inside = j >= i && j < i + sizeof(TypeParam);
      EXPECT_EQ(to.bytes[j], inside ? from.bytes[j] : guard) << i << ' ' << j;
    }
  }
}

/// Every order, and a number that is none.
constexpr std::memory_order orders[] = {
    std::memory_order_relaxed,         std::memory_order_consume, std::memory_order_acquire,
    std::memory_order_release,         std::memory_order_acq_rel, std::memory_order_seq_cst,
    static_cast<std::memory_order>(77)};

TYPED_TEST(GuestScalars, AtomicLoadStoreAndExchangeInAnyOrder) {
  for (const std::memory_order order : orders) {
    Line line;
    std::byte* const at = line.bytes + 16 + sizeof(TypeParam);
    const auto before = read_plainly<TypeParam>(at);
    const auto other = read_plainly<TypeParam>(line.bytes + 40);
    EXPECT_EQ(detail::atomic_load<TypeParam>(at, order), before);
    detail::atomic_store(at, other, order);
    EXPECT_EQ(read_plainly<TypeParam>(at), other);
    EXPECT_EQ(detail::atomic_exchange(at, before, order), other);
    EXPECT_EQ(std::memcmp(line.bytes, Line().bytes, sizeof(line)), 0);
  }
}

TYPED_TEST(GuestScalars, CompareExchangeSaysWhatItSaw) {
  for (const std::memory_order order : orders) {
    Line line;
    std::byte* const at = line.bytes + 16 + sizeof(TypeParam);
    const auto before = read_plainly<TypeParam>(at);
    const auto other = read_plainly<TypeParam>(line.bytes + 40);
    const auto failed = detail::atomic_compare_exchange(at, other, other, order);
    EXPECT_FALSE(failed.exchanged);
    EXPECT_EQ(failed.observed, before);
    EXPECT_EQ(std::memcmp(line.bytes, Line().bytes, sizeof(line)), 0);
    const auto done = detail::atomic_compare_exchange(at, before, other, order);
    EXPECT_TRUE(done.exchanged);
    EXPECT_EQ(done.observed, before);
    EXPECT_EQ(read_plainly<TypeParam>(at), other);
  }
}

template <class T>
void expect_arithmetic() {
  using Limits = std::numeric_limits<T>;
  for (const std::memory_order order : orders) {
    Line line;
    std::byte* const at = line.bytes + 16 + sizeof(T);
    const auto reset = [&](T value) { std::memcpy(at, &value, sizeof(value)); };
    reset(0x52);
    EXPECT_EQ(detail::atomic_fetch_or<T>(at, 0x29, order), 0x52);
    EXPECT_EQ(read_plainly<T>(at), 0x7b);
    EXPECT_EQ(detail::atomic_fetch_and<T>(at, 0x19, order), 0x7b);
    EXPECT_EQ(read_plainly<T>(at), 0x19);
    EXPECT_EQ(detail::atomic_fetch_add<T>(at, 0x22, order), 0x19);
    EXPECT_EQ(read_plainly<T>(at), 0x3b);
    reset(Limits::max());
    EXPECT_EQ(detail::atomic_fetch_add<T>(at, 1, order), Limits::max());
    EXPECT_EQ(read_plainly<T>(at), Limits::min());
    reset(read_plainly<T>(Line().bytes + 16 + sizeof(T)));
    EXPECT_EQ(std::memcmp(line.bytes, Line().bytes, sizeof(line)), 0) << "neighbours changed";
  }
}

TEST(GuestAtomics, OrAndAddInAnyOrder) {
  expect_arithmetic<std::uint8_t>();
  expect_arithmetic<std::int8_t>();
  expect_arithmetic<std::uint16_t>();
  expect_arithmetic<std::int16_t>();
  expect_arithmetic<std::uint32_t>();
  expect_arithmetic<std::int32_t>();
  expect_arithmetic<std::uint64_t>();
  expect_arithmetic<std::int64_t>();
}

// What CPUs without small read-modify-writes run, here wherever we are.
TEST(GuestAtomics, ChangeWithinAWordLeavesItsNeighbours) {
  for (std::size_t i = 0; i < 8; ++i) {
    Line line;
    const auto before = std::to_integer<std::uint8_t>(line.bytes[i]);
    const auto changed = detail::change_within_word<std::uint8_t, __ATOMIC_SEQ_CST>(
        line.bytes + i, [](std::uint8_t value) { return static_cast<std::uint8_t>(~value); });
    EXPECT_EQ(changed, before);
    EXPECT_EQ(line.bytes[i], ~pattern(i));
    line.bytes[i] = pattern(i);
    EXPECT_EQ(std::memcmp(line.bytes, Line().bytes, sizeof(line)), 0) << i;
  }
  for (std::size_t i = 0; i < 8; i += 2) {
    Line line;
    const auto before = read_plainly<std::uint16_t>(line.bytes + i);
    const auto changed = detail::change_within_word<std::uint16_t, __ATOMIC_RELAXED>(
        line.bytes + i, [](std::uint16_t) { return std::uint16_t{0xbeef}; });
    EXPECT_EQ(changed, before);
    EXPECT_EQ(read_plainly<std::uint16_t>(line.bytes + i), 0xbeef);
    std::memcpy(line.bytes + i, &before, sizeof(before));
    EXPECT_EQ(std::memcmp(line.bytes, Line().bytes, sizeof(line)), 0) << i;
  }
}

// What another CPU writes meanwhile is seen by the second try, and stays.
TEST(GuestAtomics, ChangeWithinAWordBeginsAgainWhereTheWordChanged) {
  Line line;
  int tries = 0;
  const auto before = detail::change_within_word<std::uint8_t, __ATOMIC_SEQ_CST>(
      line.bytes + 1, [&](std::uint8_t value) {
        if (++tries == 1) {
          line.bytes[1] = std::byte{0x40};
          line.bytes[2] = std::byte{0x77};
        }
        return static_cast<std::uint8_t>(value + 1);
      });
  EXPECT_EQ(tries, 2);
  EXPECT_EQ(before, 0x40);
  EXPECT_EQ(line.bytes[1], std::byte{0x41});
  EXPECT_EQ(line.bytes[2], std::byte{0x77});
}

TEST(GuestAtomics, NoneIsLostBetweenThreads) {
  constexpr unsigned rounds = 20'000;
  Line line;
  std::fill(std::begin(line.bytes), std::end(line.bytes), std::byte{0});
  const auto count = [&](std::size_t which) {
    for (unsigned i = 0; i < rounds; ++i) {
      detail::atomic_fetch_add<std::uint64_t>(line.bytes, 1, std::memory_order_relaxed);
      detail::atomic_fetch_add<std::uint16_t>(line.bytes + 8, 1, std::memory_order_acq_rel);
      // Two bytes of one word, each with an owner.
      detail::change_within_word<std::uint8_t, __ATOMIC_RELAXED>(
          line.bytes + 16 + which,
          [](std::uint8_t value) { return static_cast<std::uint8_t>(value + 1); });
      for (std::uint32_t seen = 0;;) {
        const auto result = detail::atomic_compare_exchange<std::uint32_t>(
            line.bytes + 12, seen, seen + 1, std::memory_order_relaxed);
        if (result.exchanged) {
          break;
        }
        seen = result.observed;
      }
    }
  };
  std::thread other([&] { count(1); });
  count(0);
  other.join();
  EXPECT_EQ(read_plainly<std::uint64_t>(line.bytes), 2 * rounds);
  EXPECT_EQ(read_plainly<std::uint16_t>(line.bytes + 8), static_cast<std::uint16_t>(2 * rounds));
  EXPECT_EQ(read_plainly<std::uint32_t>(line.bytes + 12), 2 * rounds);
  EXPECT_EQ(read_plainly<std::uint8_t>(line.bytes + 16), static_cast<std::uint8_t>(rounds));
  EXPECT_EQ(read_plainly<std::uint8_t>(line.bytes + 17), static_cast<std::uint8_t>(rounds));
}

template <std::size_t size>
struct Sized {
  std::uint8_t bytes[size];
};

template <std::size_t size>
void expect_struct_anywhere() {
  static_assert(kvm::GuestValue<Sized<size>>);
  std::vector<std::byte> from(size + 16);
  for (std::size_t i = 0; i < from.size(); ++i) {
    from[i] = pattern(i);
  }
  for (std::size_t i = 0; i < 16; ++i) {
    const auto value = detail::load_any<Sized<size>>(from.data() + i);
    EXPECT_EQ(std::memcmp(&value, from.data() + i, size), 0) << size << " at " << i;
    std::vector<std::byte> to(from.size(), guard);
    detail::store_any(to.data() + i, value);
    for (std::size_t j = 0; j < to.size(); ++j) {
      const bool inside = j >= i && j < i + size;
      ASSERT_EQ(to[j], inside ? from[j] : guard) << size << " at " << i << ": " << j;
    }
  }
}

template <std::size_t... sizes>
void expect_structs(std::index_sequence<sizes...>) {
  (expect_struct_anywhere<sizes + 1>(), ...);
}

TEST(GuestStructs, OfAnySizeAnywhere) {
  expect_structs(std::make_index_sequence<80>());
  expect_struct_anywhere<1023>();
  expect_struct_anywhere<4096>();
}

TEST(GuestStructs, KeepTheirMembers) {
  Line line;
  detail::store_any(line.bytes + 3, Even{.a = 1, .b = {2, 3}, .c = 4});
  const auto even = detail::load_any<Even>(line.bytes + 3);
  EXPECT_EQ(even.a, 1u);
  EXPECT_EQ(even.b[1], 3u);
  EXPECT_EQ(even.c, 4u);
  detail::store_any(line.bytes + 1, OptedIn{.a = 9, .b = 0.25});
  EXPECT_EQ(detail::load_any<OptedIn>(line.bytes + 1).a, 9u);
  EXPECT_EQ(detail::load_any<OptedIn>(line.bytes + 1).b, 0.25);
  detail::store_any(line.bytes, Explicit(77));
  EXPECT_EQ(detail::load_any<Explicit>(line.bytes).value, 77u);
}

/// Copies or fills in a buffer with guard bytes around, and looks at each byte.
void expect_bulk(std::size_t to_offset, std::size_t from_offset, std::size_t size) {
  constexpr std::size_t margin = 32;
  // Exactly as large as need be: address sanitizer watches the ends.
  std::vector<std::byte> from(from_offset + size);
  for (std::size_t i = 0; i < from.size(); ++i) {
    from[i] = pattern(i);
  }
  std::vector<std::byte> to(to_offset + size + margin, guard);
  detail::copy(to.data() + to_offset, from.data() + from_offset, size);
  EXPECT_TRUE(std::equal(from.begin() + static_cast<std::ptrdiff_t>(from_offset), from.end(),
                         to.begin() + static_cast<std::ptrdiff_t>(to_offset)))
      << size << " bytes from " << from_offset << " to " << to_offset;
  detail::fill(from.data() + from_offset, std::byte{0x5c}, size);
  for (std::size_t i = 0; i < to.size(); ++i) {
    const bool inside = i >= to_offset && i < to_offset + size;
    if (!inside) {
      ASSERT_EQ(to[i], guard) << size << " bytes to " << to_offset << ": " << i;
    }
  }
  for (std::size_t i = 0; i < from.size(); ++i) {
    ASSERT_EQ(from[i], i < from_offset ? pattern(i) : std::byte{0x5c})
        << size << " bytes filled at " << from_offset << ": " << i;
  }
  std::vector<std::byte> filled(to.size(), guard);
  detail::fill(filled.data() + to_offset, std::byte{0x81}, size);
  for (std::size_t i = 0; i < filled.size(); ++i) {
    const bool inside = i >= to_offset && i < to_offset + size;
    ASSERT_EQ(filled[i], inside ? std::byte{0x81} : guard) << size << " at " << to_offset;
  }
}

TEST(GuestBulk, SmallSizesAtAllMisalignments) {
  for (std::size_t size = 0; size <= 300; ++size) {
    for (std::size_t to = 0; to < 8; ++to) {
      for (std::size_t from = 0; from < 8; ++from) {
        expect_bulk(to, from, size);
      }
    }
  }
}

TEST(GuestBulk, LargerSizes) {
  for (const std::size_t size : std::initializer_list<std::size_t>{
           511, 512, 513, 1000, 1023, 1024, 1025, 4095, 4096, 4097, 65'537}) {
    for (const std::size_t to : std::initializer_list<std::size_t>{0, 1, 8, 15}) {
      for (const std::size_t from : std::initializer_list<std::size_t>{0, 3, 8}) {
        expect_bulk(to, from, size);
      }
    }
  }
}

TEST(GuestBulk, NothingNeedsNoAddress) {
  detail::copy(nullptr, nullptr, 0);
  detail::copy_to_guest(nullptr, nullptr, 0);
  detail::copy_from_guest(nullptr, nullptr, 0);
  detail::fill(nullptr, guard, 0);
}

TEST(GuestBulk, OverlapStaysInside) {
  for (const std::size_t size : std::initializer_list<std::size_t>{3, 10, 40, 100, 300, 2000}) {
    for (const std::size_t shift : std::initializer_list<std::size_t>{1, 7, 16, 33}) {
      std::vector<std::byte> buffer(size + shift + 16, std::byte{1});
      std::fill(buffer.begin(), buffer.begin() + static_cast<long>(size), std::byte{2});
      std::fill(buffer.end() - 16, buffer.end(), guard);
      detail::copy(buffer.data() + shift, buffer.data(), size);
      for (std::size_t i = 0; i < size + shift; ++i) {
        EXPECT_TRUE(buffer[i] == std::byte{1} || buffer[i] == std::byte{2});
      }
      EXPECT_EQ(std::count(buffer.end() - 16, buffer.end(), guard), 16);
    }
  }
}

// The next two are for thread sanitizer above all.

TEST(GuestThreads, CopiesToOnePlaceAreNoRace) {
  std::vector<std::byte> guest(8192);
  const auto work = [&guest](std::size_t offset) {
    std::vector<std::byte> host(4096);
    for (int round = 0; round < 200; ++round) {
      for (const std::size_t size :
           std::initializer_list<std::size_t>{1, 2, 4, 7, 8, 16, 31, 64, 100, 500, 1024, 4096}) {
        detail::copy_to_guest(guest.data() + offset, host.data(), size);
        detail::copy_from_guest(host.data(), guest.data() + 4, size);
        detail::copy(guest.data() + 2048 + offset, guest.data() + offset, size);
        detail::fill(guest.data() + offset, std::byte{7}, size);
      }
      detail::store_any(guest.data() + offset, detail::load_any<Even>(guest.data() + 3));
      detail::store_any(guest.data() + 1, detail::load_any<std::uint64_t>(guest.data() + offset));
      detail::store(guest.data() + 8, detail::load<std::uint32_t>(guest.data()));
      detail::store_any(guest.data(), detail::load_any<Sized<100>>(guest.data() + offset));
      detail::atomic_fetch_or<std::uint16_t>(guest.data() + 2, 1, std::memory_order_relaxed);
    }
  };
  std::thread other(work, 5);
  work(0);
  other.join();
}

TEST(GuestThreads, AlignedScalarsAreNeverTorn) {
  Line line;
  constexpr std::uint64_t all = ~std::uint64_t{0};
  detail::store<std::uint64_t>(line.bytes, 0);
  detail::store<std::uint32_t>(line.bytes + 8, 0);
  detail::store<std::uint16_t>(line.bytes + 16, 0);
  std::atomic<bool> end{false};
  std::thread writer([&] {
    for (std::uint64_t value = 0; !end.load(std::memory_order_relaxed); value = ~value) {
      detail::store(line.bytes, value);
      detail::store(line.bytes + 8, static_cast<std::uint32_t>(value));
      detail::store(line.bytes + 16, static_cast<std::uint16_t>(value));
      detail::store_any(line.bytes, ~value);
    }
  });
  bool torn = false;
  for (int i = 0; i < 300'000; ++i) {
    const auto a = detail::load<std::uint64_t>(line.bytes);
    const auto b = detail::load_any<std::uint64_t>(line.bytes);
    const auto c = detail::load_any<std::uint32_t>(line.bytes + 8);
    const auto d = detail::load_any<std::uint16_t>(line.bytes + 16);
    torn = torn || (a != 0 && a != all) || (b != 0 && b != all) || (c != 0 && c != ~0u) ||
           (d != 0 && d != 0xffff);
  }
  end = true;
  writer.join();
  EXPECT_FALSE(torn);
}

TEST(InBounds, ForAnyNumbers) {
  constexpr auto most = ~std::uint64_t{0};
  EXPECT_TRUE(detail::in_bounds(0, 0, 0));
  EXPECT_TRUE(detail::in_bounds(8, 0, 8));
  EXPECT_TRUE(detail::in_bounds(0, 8, 8));
  EXPECT_TRUE(detail::in_bounds(4, 4, 8));
  EXPECT_TRUE(detail::in_bounds(0, most, most));
  EXPECT_FALSE(detail::in_bounds(5, 4, 8));
  EXPECT_FALSE(detail::in_bounds(9, 0, 8));
  EXPECT_FALSE(detail::in_bounds(0, 9, 8));
  EXPECT_FALSE(detail::in_bounds(most, 1, 8));
  EXPECT_FALSE(detail::in_bounds(most, most, most));
  EXPECT_FALSE(detail::in_bounds(1, most, most));
}

}  // namespace
