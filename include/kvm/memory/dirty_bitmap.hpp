// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_MEMORY_DIRTY_BITMAP_HPP
#define KVM_HPP_MEMORY_DIRTY_BITMAP_HPP

#include <kvm/detail/config.hpp>
#if !KVM_HPP_REFUSED

#include <kvm/error.hpp>
#include <kvm/types.hpp>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <optional>
#include <type_traits>
#include <utility>

KVM_HPP_BEGIN

class MemorySlot;

namespace detail {

/// Loops over the words of bitmaps. Vectors of 16 bytes are in every target's
/// baseline; AVX2 makes long scans, counting and combining faster, and is looked
/// for at run time. Vectors are passed by reference:
/// by value, those of 32 bytes have no ABI without AVX.
namespace bitmap {

using Vector16 [[gnu::vector_size(16)]] = std::uint64_t;
using Vector32 [[gnu::vector_size(32)]] = std::uint64_t;

inline constexpr std::uint64_t all_ones = ~std::uint64_t{0};

template <class Vector>
[[gnu::always_inline]] inline void load(Vector& out, const std::uint64_t* words) noexcept {
  std::memcpy(&out, words, sizeof out);
}

/// Adds to `differing` what differs from `skip` in the words.
template <std::uint64_t skip, class Vector>
[[gnu::always_inline]] inline void compare(Vector& differing, const std::uint64_t* words) noexcept {
  Vector v;
  load(v, words);
  differing |= v ^ skip;
}

/// Goes on from `from` in blocks of eight vectors, up to `end` or to the first
/// with a word that is not `skip`; returns where that block begins.
template <std::uint64_t skip, class Vector>
[[gnu::always_inline]] inline std::uint64_t skip_blocks(const std::uint64_t* words,
                                                        std::uint64_t from,
                                                        std::uint64_t end) noexcept {
  constexpr std::uint64_t lanes = sizeof(Vector) / sizeof(std::uint64_t);
  for (; from + 8 * lanes <= end; from += 8 * lanes) {
    const std::uint64_t* const w = words + from;
    Vector a{};
    Vector b{};
    compare<skip>(a, w);
    compare<skip>(b, w + lanes);
    compare<skip>(a, w + 2 * lanes);
    compare<skip>(b, w + 3 * lanes);
    compare<skip>(a, w + 4 * lanes);
    compare<skip>(b, w + 5 * lanes);
    compare<skip>(a, w + 6 * lanes);
    compare<skip>(b, w + 7 * lanes);
    a |= b;
    std::uint64_t any = a[0] | a[1];  // As a loop, this halves the speed with Clang 14.
    if constexpr (lanes == 4) {
      any |= a[2] | a[3];
    }
    if (any != 0) {
      break;
    }
  }
  return from;
}

#if KVM_HPP_ARCH_X86
template <std::uint64_t skip>
[[gnu::target("avx2")]] std::uint64_t skip_blocks_avx2(const std::uint64_t* words,
                                                       std::uint64_t from,
                                                       std::uint64_t end) noexcept {
  return skip_blocks<skip, Vector32>(words, from, end);
}
#endif

/// The first of the words [from, end) that is not `skip`, or `end`.
template <std::uint64_t skip>
std::uint64_t find_word(const std::uint64_t* words, std::uint64_t from,
                        std::uint64_t end) noexcept {
  // Most runs are close to each other: wide vectors pay on long ways only.
  const std::uint64_t near_end = from + std::min<std::uint64_t>(end - from, 64);
  from = skip_blocks<skip, Vector16>(words, from, near_end);
  if (from == near_end) {
#if KVM_HPP_ARCH_X86
    if (__builtin_cpu_supports("avx2")) {
      from = skip_blocks_avx2<skip>(words, from, end);
    }
#endif
    from = skip_blocks<skip, Vector16>(words, from, end);
  }
  while (from < end && words[from] == skip) {
    ++from;
  }
  return from;
}

/// The first of the pages [from, pages) whose bit is not that of `skip`, which
/// is 0 or all ones; or `pages`.
template <std::uint64_t skip>
std::uint64_t find_page(const std::uint64_t* words, std::uint64_t from,
                        std::uint64_t pages) noexcept {
  if (from >= pages) {
    return pages;
  }
  std::uint64_t i = from / 64;
  std::uint64_t differing = (words[i] ^ skip) & all_ones << from % 64;
  if (differing == 0) {
    const std::uint64_t end = (pages - 1) / 64 + 1;
    i = find_word<skip>(words, i + 1, end);
    if (i == end) {
      return pages;
    }
    differing = words[i] ^ skip;
  }
  return std::min(i * 64 + static_cast<std::uint64_t>(std::countr_zero(differing)), pages);
}

/// Adds three bits in each place: the sum's low bits go to `low`, which is one
/// of them, the carries to `high`.
template <class Vector>
[[gnu::always_inline]] inline void add_bits(Vector& high, Vector& low, const Vector& b,
                                            const Vector& c) noexcept {
  const Vector either = low ^ b;
  high = (low & b) | (either & c);
  low = either ^ c;
}
template <class Vector>
[[gnu::always_inline]] inline void add_bits(Vector& high, Vector& low,
                                            const std::uint64_t* words) noexcept {
  Vector b;
  Vector c;
  load(b, words);
  load(c, words + sizeof(Vector) / sizeof(std::uint64_t));
  add_bits(high, low, b, c);
}

/// Replaces each word by the number of its bits.
template <class Vector>
[[gnu::always_inline]] inline void count_bits(Vector& v) noexcept {
  v = v - (v >> 1 & 0x5555555555555555);
  v = (v & 0x3333333333333333) + (v >> 2 & 0x3333333333333333);
  v = (v + (v >> 4)) & 0x0f0f0f0f0f0f0f0f;
  v += v >> 8;
  v += v >> 16;
  v += v >> 32;
  v &= 127;
}

/// Counts by a tree of carry-save adders (Harley and Seal): sixteen vectors
/// cost one count of bits.
template <class Vector>
[[gnu::always_inline]] inline std::uint64_t count(const std::uint64_t* words,
                                                  std::uint64_t size) noexcept {
  constexpr std::uint64_t lanes = sizeof(Vector) / sizeof(std::uint64_t);
  constexpr std::uint64_t step = 16 * lanes;
  Vector sixteens_count{};
  Vector ones{};
  Vector twos{};
  Vector fours{};
  Vector eights{};
  std::uint64_t i = 0;
  for (; i + step <= size; i += step) {
    const std::uint64_t* const w = words + i;
    Vector twos_a, twos_b, fours_a, fours_b, eights_a, eights_b, sixteens;
    add_bits(twos_a, ones, w);
    add_bits(twos_b, ones, w + 2 * lanes);
    add_bits(fours_a, twos, twos_a, twos_b);
    add_bits(twos_a, ones, w + 4 * lanes);
    add_bits(twos_b, ones, w + 6 * lanes);
    add_bits(fours_b, twos, twos_a, twos_b);
    add_bits(eights_a, fours, fours_a, fours_b);
    add_bits(twos_a, ones, w + 8 * lanes);
    add_bits(twos_b, ones, w + 10 * lanes);
    add_bits(fours_a, twos, twos_a, twos_b);
    add_bits(twos_a, ones, w + 12 * lanes);
    add_bits(twos_b, ones, w + 14 * lanes);
    add_bits(fours_b, twos, twos_a, twos_b);
    add_bits(eights_b, fours, fours_a, fours_b);
    add_bits(sixteens, eights, eights_a, eights_b);
    count_bits(sixteens);
    sixteens_count += sixteens;
  }
  count_bits(ones);
  count_bits(twos);
  count_bits(fours);
  count_bits(eights);
  const Vector counts = sixteens_count * 16 + eights * 8 + fours * 4 + twos * 2 + ones;
  std::uint64_t sum = 0;
  for (std::uint64_t lane = 0; lane < lanes; ++lane) {
    sum += counts[lane];
  }
  for (; i < size; ++i) {
    sum += static_cast<std::uint64_t>(__builtin_popcountll(words[i]));
  }
  return sum;
}

enum class Operation { merge, subtract, intersect };

template <Operation operation, class T>
[[gnu::always_inline]] inline void combine(T& a, const T& b) noexcept {
  if constexpr (operation == Operation::merge) {
    a |= b;
  } else if constexpr (operation == Operation::subtract) {
    a &= ~b;
  } else {
    a &= b;
  }
}

template <Operation operation, class Vector>
[[gnu::always_inline]] inline void combine(std::uint64_t* words, const std::uint64_t* others,
                                           std::uint64_t size) noexcept {
  constexpr std::uint64_t lanes = sizeof(Vector) / sizeof(std::uint64_t);
  std::uint64_t i = 0;
  for (; i + 2 * lanes <= size; i += 2 * lanes) {
    Vector a, b, c, d;
    load(a, words + i);
    load(b, others + i);
    load(c, words + i + lanes);
    load(d, others + i + lanes);
    combine<operation>(a, b);
    combine<operation>(c, d);
    std::memcpy(words + i, &a, sizeof a);
    std::memcpy(words + i + lanes, &c, sizeof c);
  }
  for (; i < size; ++i) {
    combine<operation>(words[i], others[i]);
  }
}

#if KVM_HPP_ARCH_X86
[[gnu::target("avx2,popcnt")]] inline std::uint64_t count_avx2(const std::uint64_t* words,
                                                               std::uint64_t size) noexcept {
  return count<Vector32>(words, size);
}
template <Operation operation>
[[gnu::target("avx2")]] void combine_avx2(std::uint64_t* words, const std::uint64_t* others,
                                          std::uint64_t size) noexcept {
  combine<operation, Vector32>(words, others, size);
}
#endif

inline std::uint64_t count(const std::uint64_t* words, std::uint64_t size) noexcept {
#if KVM_HPP_ARCH_X86
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("popcnt")) {
    return count_avx2(words, size);
  }
#endif
  return count<Vector16>(words, size);
}

template <Operation operation>
void combine(std::uint64_t* words, const std::uint64_t* others, std::uint64_t size) noexcept {
#if KVM_HPP_ARCH_X86
  if (__builtin_cpu_supports("avx2")) {
    return combine_avx2<operation>(words, others, size);
  }
#endif
  return combine<operation, Vector16>(words, others, size);
}

}  // namespace bitmap
}  // namespace detail

/// Which pages of a slot are dirty: one bit per page, in the form of
/// KVM_GET_DIRTY_LOG and KVM_CLEAR_DIRTY_LOG (bit n % 64 of word n / 64 is page
/// n). A value: it may be copied and compared. For one thread at a time.
///
/// A range of pages that is not wholly inside the bitmap, or another bitmap of
/// a different size, is refused with EINVAL, and nothing is changed. Bits of
/// the last word beyond pages() are never set here; if whoever has the address
/// set them, nothing sees them.
class DirtyBitmap {
 public:
  /// All pages clean. Throws std::bad_alloc if there is no memory for it.
  explicit DirtyBitmap(std::size_t pages) : words_(allocate(pages)), pages_(pages) { clear(); }

  /// The same, with as many pages as a slot has.
  template <std::same_as<MemorySlot> Slot>
  explicit DirtyBitmap(const Slot& slot) : DirtyBitmap(slot.pages()) {}

  DirtyBitmap(const DirtyBitmap& other) : words_(allocate(other.pages_)), pages_(other.pages_) {
    std::copy_n(other.data(), words(), data());
  }
  /// Leaves `other` with no pages.
  DirtyBitmap(DirtyBitmap&& other) noexcept
      : words_(std::move(other.words_)), pages_(std::exchange(other.pages_, 0)) {}
  /// Allocates only if the sizes differ.
  DirtyBitmap& operator=(const DirtyBitmap& other) {
    if (this != &other) {
      if (words() != other.words()) {
        words_ = allocate(other.pages_);
      }
      pages_ = other.pages_;
      std::copy_n(other.data(), words(), data());
    }
    return *this;
  }
  DirtyBitmap& operator=(DirtyBitmap&& other) noexcept {
    if (this != &other) {
      words_ = std::move(other.words_);
      pages_ = std::exchange(other.pages_, 0);
    }
    return *this;
  }
  ~DirtyBitmap() = default;

  /// How many pages it is about.
  std::size_t pages() const noexcept { return pages_; }
  /// How many 64-bit words hold them: the size of what data() points to.
  std::size_t words() const noexcept { return pages_ / 64 + (pages_ % 64 != 0); }
  /// The words, as the ioctls want them.
  std::uint64_t* data() noexcept { return words_.get(); }
  const std::uint64_t* data() const noexcept { return words_.get(); }

  /// Whether a page is dirty; a page outside is not.
  bool test(std::uint64_t page) const noexcept {
    return page < pages_ && (words_[page / 64] >> page % 64 & 1) != 0;
  }

  /// Marks a page dirty.
  Result<void> try_set(std::uint64_t page) {
    if (page >= pages_) [[unlikely]] {
      return outside("DirtyBitmap::set", page, 1);
    }
    words_[page / 64] |= std::uint64_t{1} << page % 64;
    return {};
  }
  void set(std::uint64_t page) { try_set(page).value(); }

  /// Marks `count` pages from `first` on dirty.
  Result<void> try_set(std::uint64_t first, std::uint64_t count) {
    if (!contains(first, count)) [[unlikely]] {
      return outside("DirtyBitmap::set", first, count);
    }
    fill<detail::bitmap::all_ones>(first, count);
    return {};
  }
  void set(std::uint64_t first, std::uint64_t count) { try_set(first, count).value(); }

  /// Marks `count` pages from `first` on clean.
  Result<void> try_clear(std::uint64_t first, std::uint64_t count) {
    if (!contains(first, count)) [[unlikely]] {
      return outside("DirtyBitmap::clear", first, count);
    }
    fill<0>(first, count);
    return {};
  }
  void clear(std::uint64_t first, std::uint64_t count) { try_clear(first, count).value(); }

  /// Marks all pages dirty.
  void set() noexcept { fill<detail::bitmap::all_ones>(0, pages_); }
  /// Marks all pages clean.
  void clear() noexcept { std::fill_n(data(), words(), std::uint64_t{0}); }

  /// How many pages are dirty.
  std::uint64_t count() const noexcept {
    const std::uint64_t whole = pages_ / 64;
    std::uint64_t sum = detail::bitmap::count(data(), whole);
    if (pages_ % 64 != 0) {
      sum += static_cast<std::uint64_t>(std::popcount(words_[whole] & tail_bits()));
    }
    return sum;
  }

  /// Whether any page is dirty.
  bool any() const noexcept { return detail::bitmap::find_page<0>(data(), 0, pages_) != pages_; }

  /// The first run of dirty pages at or after `from`, as long as it can be; it
  /// begins at `from` if that page is dirty. None if all from there on are
  /// clean. Pass the end of a run to get the next.
  std::optional<PageRange> next_run(std::uint64_t from) const noexcept {
    const std::uint64_t first = detail::bitmap::find_page<0>(data(), from, pages_);
    if (first == pages_) {
      return std::nullopt;
    }
    const std::uint64_t end =
        detail::bitmap::find_page<detail::bitmap::all_ones>(data(), first, pages_);
    return PageRange{first, end - first};
  }

  /// Calls f(first, count) for each run of dirty pages, from the lowest, each as
  /// long as it can be. Stops if `f` returns false; it may return nothing, too.
  /// `f` may change the bits of its own run and of pages below it.
  /// @return whether it came to the end
  template <class F>
  bool for_each_run(F&& f) const {
    static_assert(std::is_invocable_v<F&, std::uint64_t, std::uint64_t>,
                  "kvm-hpp: for_each_run calls its function with the first page and the count");
    using Returned = std::invoke_result_t<F&, std::uint64_t, std::uint64_t>;
    static_assert(std::is_void_v<Returned> || std::is_same_v<Returned, bool>,
                  "kvm-hpp: for_each_run's function returns nothing, or whether to go on");
    std::uint64_t from = 0;
    while (const std::optional<PageRange> run = next_run(from)) {
      if constexpr (std::is_void_v<Returned>) {
        f(run->first, run->count);
      } else if (!f(run->first, run->count)) {
        return false;
      }
      from = run->first + run->count;
    }
    return true;
  }

  /// Also marks dirty what is dirty in `other`, which has as many pages.
  Result<void> try_merge(const DirtyBitmap& other) {
    return try_combine<detail::bitmap::Operation::merge>("DirtyBitmap::merge", other);
  }
  void merge(const DirtyBitmap& other) { try_merge(other).value(); }

  /// Marks clean what is dirty in `other`, which has as many pages.
  Result<void> try_subtract(const DirtyBitmap& other) {
    return try_combine<detail::bitmap::Operation::subtract>("DirtyBitmap::subtract", other);
  }
  void subtract(const DirtyBitmap& other) { try_subtract(other).value(); }

  /// Leaves dirty only what is dirty in `other`, too, which has as many pages.
  Result<void> try_intersect(const DirtyBitmap& other) {
    return try_combine<detail::bitmap::Operation::intersect>("DirtyBitmap::intersect", other);
  }
  void intersect(const DirtyBitmap& other) { try_intersect(other).value(); }

  /// Whether both have as many pages and the same are dirty.
  friend bool operator==(const DirtyBitmap& a, const DirtyBitmap& b) noexcept {
    if (a.pages_ != b.pages_) {
      return false;
    }
    const std::uint64_t whole = a.pages_ / 64;
    return std::equal(a.data(), a.data() + whole, b.data()) &&
           (a.pages_ % 64 == 0 || ((a.words_[whole] ^ b.words_[whole]) & a.tail_bits()) == 0);
  }

 private:
  // Whole cache lines: wide vectors that straddle two cost a third more.
  static constexpr std::align_val_t alignment{64};
  struct Free {
    void operator()(std::uint64_t* words) const noexcept { ::operator delete(words, alignment); }
  };
  using Words = std::unique_ptr<std::uint64_t[], Free>;

  static Words allocate(std::size_t pages) {
    const std::size_t size = (pages / 64 + (pages % 64 != 0)) * sizeof(std::uint64_t);
    return Words(static_cast<std::uint64_t*>(::operator new(size, alignment)));
  }

  /// For any numbers.
  bool contains(std::uint64_t first, std::uint64_t count) const noexcept {
    return first <= pages_ && count <= pages_ - first;
  }

  /// The bits of the last word that stand for pages, unless all do.
  std::uint64_t tail_bits() const noexcept { return (std::uint64_t{1} << pages_ % 64) - 1; }

  /// Gives a range that is inside the bits of `value`, 0 or all ones.
  template <std::uint64_t value>
  void fill(std::uint64_t first, std::uint64_t count) noexcept {
    if (count == 0) {
      return;
    }
    const auto put = [this](std::uint64_t word, std::uint64_t bits) {
      words_[word] = (words_[word] & ~bits) | (value & bits);
    };
    constexpr std::uint64_t all_ones = detail::bitmap::all_ones;
    const std::uint64_t last = first + count - 1;
    const std::uint64_t head = all_ones << first % 64;
    const std::uint64_t tail = all_ones >> (63 - last % 64);
    if (first / 64 == last / 64) {
      put(first / 64, head & tail);
      return;
    }
    put(first / 64, head);
    std::fill(data() + first / 64 + 1, data() + last / 64, value);
    put(last / 64, tail);
  }

  template <detail::bitmap::Operation operation>
  Result<void> try_combine(const char* name, const DirtyBitmap& other) {
    if (pages_ != other.pages_) [[unlikely]] {
      return different(name, other);
    }
    detail::bitmap::combine<operation>(data(), other.data(), words());
    if (pages_ % 64 != 0) {
      words_[pages_ / 64] &= tail_bits();
    }
    return {};
  }

  [[gnu::noinline, gnu::cold]] Error outside(const char* name, std::uint64_t first,
                                             std::uint64_t count) const {
    return detail::make_error(EINVAL, name, detail::text("first=", first, ", count=", count),
                              detail::text("the bitmap has ", pages_, " pages"));
  }
  [[gnu::noinline, gnu::cold]] Error different(const char* name, const DirtyBitmap& other) const {
    return detail::make_error(EINVAL, name, detail::text("pages=", other.pages_),
                              detail::text("this bitmap has ", pages_, " pages"));
  }

  Words words_;
  std::size_t pages_;
};

KVM_HPP_END

#endif  // !KVM_HPP_REFUSED
#endif
