// SPDX-License-Identifier: MIT
// Bitmaps of 16 GiB of guest against memcpy over the same bytes and the plain
// loop, and marks against the plain store and the atomic or.
#include <kvm/detail/dirty_words.hpp>
#include <kvm/memory/dirty_bitmap.hpp>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "compare.hpp"

namespace {

using kvm::DirtyBitmap;
using kvm::detail::DirtyWords;
using kvm_bench::Effort;
using kvm_bench::Share;
using kvm_bench::Target;

constexpr std::uint64_t pages = std::uint64_t{16} << 30 >> 12;
constexpr std::size_t size_in_bytes = pages / 8;
constexpr Effort bitmap_effort{.rounds = 400, .batch = 10};

constexpr Target at_least(double limit) { return {limit, Target::Sense::at_least}; }

enum class Content { clean, sparse, full };

DirtyBitmap make_bitmap(Content content) {
  DirtyBitmap bitmap(pages);
  if (content == Content::full) {
    bitmap.set();
  } else if (content == Content::sparse) {
    std::mt19937_64 random(1);
    for (std::uint64_t i = 0; i < pages / 1000; ++i) {
      bitmap.set(random() % pages);
    }
  }
  return bitmap;
}

struct Bitmaps {
  explicit Bitmaps(Content content) : bitmap(make_bitmap(content)) {}
  DirtyBitmap bitmap;
  DirtyBitmap other = bitmap;
  std::uint64_t sum = 0;
};

auto copy(const std::shared_ptr<Bitmaps>& bitmaps) {
  return [bitmaps] {
    std::memcpy(bitmaps->other.data(), bitmaps->bitmap.data(), size_in_bytes);
    benchmark::ClobberMemory();
  };
}

auto scan(const std::shared_ptr<Bitmaps>& bitmaps) {
  return [bitmaps] {
    bitmaps->bitmap.for_each_run(
        [&](std::uint64_t first, std::uint64_t count) { bitmaps->sum += first ^ count; });
    benchmark::DoNotOptimize(bitmaps->sum);
    benchmark::ClobberMemory();
  };
}

void compare_scan(const char* name, Content content, double limit) {
  kvm_bench::compare(
      name, at_least(limit),
      [content] {
        const auto bitmaps = std::make_shared<Bitmaps>(content);
        return std::pair{copy(bitmaps), scan(bitmaps)};
      },
      bitmap_effort, Share::of_speed);
}

void compare_bitmaps() {
  compare_scan("bitmap_scan_clean", Content::clean, 0.80);
  kvm_bench::measure_rate(
      "bitmap_scan_sparse_gbps", at_least(4.0), size_in_bytes,
      [] { return scan(std::make_shared<Bitmaps>(Content::sparse)); }, bitmap_effort);
  compare_scan("bitmap_scan_full", Content::full, 0.25);
  kvm_bench::compare(
      "bitmap_count", at_least(4.0),
      [] {
        const auto bitmaps = std::make_shared<Bitmaps>(Content::sparse);
        return std::pair{[bitmaps] {
                           const std::uint64_t* const words = bitmaps->bitmap.data();
                           std::uint64_t count = 0;
                           for (std::size_t i = 0; i < size_in_bytes / sizeof *words; ++i) {
                             count += static_cast<std::uint64_t>(std::popcount(words[i]));
                           }
                           benchmark::DoNotOptimize(count);
                           benchmark::ClobberMemory();
                         },
                         [bitmaps] {
                           benchmark::DoNotOptimize(bitmaps->bitmap.count());
                           benchmark::ClobberMemory();
                         }};
      },
      bitmap_effort, Share::of_speed);
  kvm_bench::compare(
      "bitmap_merge", at_least(0.60),
      [] {
        const auto bitmaps = std::make_shared<Bitmaps>(Content::sparse);
        return std::pair{copy(bitmaps), [bitmaps] {
                           bitmaps->other.merge(bitmaps->bitmap);
                           benchmark::ClobberMemory();
                         }};
      },
      bitmap_effort, Share::of_speed);
}

/// Writes to guest memory at addresses that were made up before: a few lines of
/// each page, which stay in the first-level cache.
struct Stores {
  static constexpr std::uint64_t page_size = 4096;
  static constexpr std::uint64_t guest_pages = 64;

  Stores() {
    std::mt19937_64 random(2);
    for (std::uint64_t& offset : offsets) {
      const std::uint64_t page = random() % guest_pages;
      const std::uint64_t line = (page + random() % 4) % (page_size / 64);
      offset = page * page_size + line * 64 + random() % 8 * 8;
    }
    marks.mark_all();
  }
  void store(std::uint64_t offset, std::uint64_t value) noexcept {
    __atomic_store_n(reinterpret_cast<std::uint64_t*>(memory.data() + offset), value,
                     __ATOMIC_RELAXED);
  }

  std::vector<std::byte> memory = std::vector<std::byte>(guest_pages * page_size);
  std::vector<std::uint64_t> offsets = std::vector<std::uint64_t>(1024);
  DirtyWords marks{guest_pages};
};

void compare_marks() {
  kvm_bench::compare(
      "mark_dirty_page", Target{2.50},
      [] {
        const auto stores = std::make_shared<Stores>();
        return std::pair{[stores] {
                           for (const std::uint64_t offset : stores->offsets) {
                             stores->store(offset, offset);
                           }
                         },
                         [stores] {
                           std::uint64_t* const marks = stores->marks.data();
                           for (const std::uint64_t offset : stores->offsets) {
                             stores->store(offset, offset);
                             DirtyWords::mark(marks, offset / Stores::page_size);
                           }
                         }};
      },
      Effort{.rounds = 400, .batch = 100});
  // Both clean the words, which the shares contain.
  kvm_bench::compare("mark_256_pages", Target{0.02}, [] {
    constexpr std::uint64_t many = 256;
    const auto marks = std::make_shared<DirtyWords>(many);
    const auto clean = [](const DirtyWords& words) {
      std::fill_n(words.data(), many / 64, std::uint64_t{0});
      benchmark::ClobberMemory();
    };
    return std::pair{[=] {
                       clean(*marks);
                       for (std::uint64_t page = 0; page < many; ++page) {
                         __atomic_fetch_or(marks->data() + page / 64, std::uint64_t{1} << page % 64,
                                           __ATOMIC_RELEASE);
                       }
                     },
                     [=] {
                       clean(*marks);
                       marks->mark_range(0, many);
                     }};
  });
}

}  // namespace

int main(int argc, char** argv) {
  compare_bitmaps();
  compare_marks();
  return kvm_bench::run(argc, argv);
}
