// SPDX-License-Identifier: MIT
// DirtyBitmap against a vector of bools, in odd sizes.
#include <kvm/memory/dirty_bitmap.hpp>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <random>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

namespace {

using kvm::DirtyBitmap;
using kvm::PageRange;
using Model = std::vector<bool>;

static_assert(std::is_nothrow_move_constructible_v<DirtyBitmap> &&
              std::is_nothrow_move_assignable_v<DirtyBitmap>);
static_assert(!std::is_convertible_v<std::size_t, DirtyBitmap>);

constexpr std::uint64_t most = ~std::uint64_t{0};

// Around a word, the 16 words that a scan looks at together, the 64 that a
// count does, and more.
constexpr std::size_t sizes[] = {0,    1,    2,    63,   64,   65,    127,   128,
                                 131,  1023, 1024, 1025, 1091, 2051,  4095,  4096,
                                 4097, 4163, 8192, 8259, 9999, 65539, 100000};

DirtyBitmap bitmap_of(const Model& model) {
  DirtyBitmap bitmap(model.size());
  for (std::size_t page = 0; page < model.size(); ++page) {
    if (model[page]) {
      bitmap.set(page);
    }
  }
  return bitmap;
}

std::vector<PageRange> runs_of(const Model& model) {
  std::vector<PageRange> runs;
  for (std::size_t page = 0; page < model.size(); ++page) {
    if (!model[page]) {
      continue;
    }
    if (page > 0 && model[page - 1]) {
      ++runs.back().count;
    } else {
      runs.push_back({page, 1});
    }
  }
  return runs;
}

std::vector<PageRange> runs_of(const DirtyBitmap& bitmap) {
  std::vector<PageRange> runs;
  EXPECT_TRUE(bitmap.for_each_run([&](std::uint64_t first, std::uint64_t count) {
    runs.push_back({first, count});
  }));
  return runs;
}

/// Everything that a bitmap tells, against the model.
void expect_equal(const DirtyBitmap& bitmap, const Model& model) {
  ASSERT_EQ(bitmap.pages(), model.size());
  std::size_t differing = 0;
  for (std::size_t page = 0; page < model.size(); ++page) {
    differing += bitmap.test(page) != model[page];
  }
  EXPECT_EQ(differing, 0u) << "of " << model.size() << " pages";
  const auto count = static_cast<std::uint64_t>(std::count(model.begin(), model.end(), true));
  EXPECT_EQ(bitmap.count(), count);
  EXPECT_EQ(bitmap.any(), count != 0);
  EXPECT_EQ(runs_of(bitmap), runs_of(model));
}

class Randomly {
 public:
  explicit Randomly(std::uint64_t seed) : engine_(seed) {}

  std::uint64_t below(std::uint64_t limit) { return engine_() % limit; }
  PageRange range(std::size_t pages) {
    const std::uint64_t first = below(pages + 1);
    const std::uint64_t room = pages - first;
    return {first, below(2) == 0 ? below(room + 1) : below(std::min<std::uint64_t>(room, 70) + 1)};
  }
  /// Sparse, dense, clean or full, with runs of any length.
  Model model(std::size_t pages) {
    Model model(pages, below(2) == 0);
    for (std::uint64_t i = below(20); i > 0; --i) {
      const PageRange r = range(pages);
      std::fill_n(model.begin() + static_cast<std::ptrdiff_t>(r.first), r.count, below(2) == 0);
    }
    return model;
  }

 private:
  std::mt19937_64 engine_;
};

TEST(DirtyBitmap, BeginsCleanWithAWordFor64Pages) {
  for (const std::size_t pages : sizes) {
    const DirtyBitmap bitmap(pages);
    EXPECT_EQ(bitmap.words(), (pages + 63) / 64);
    EXPECT_NE(bitmap.data(), nullptr);
    expect_equal(bitmap, Model(pages));
    EXPECT_TRUE(std::all_of(bitmap.data(), bitmap.data() + bitmap.words(),
                            [](std::uint64_t word) { return word == 0; }));
  }
}

TEST(DirtyBitmap, HasTheLayoutOfTheDirtyLog) {
  DirtyBitmap bitmap(131);
  bitmap.set(0);
  bitmap.set(63);
  bitmap.set(130);
  EXPECT_EQ(bitmap.data()[0], std::uint64_t{1} << 63 | 1);
  EXPECT_EQ(bitmap.data()[1], 0u);
  EXPECT_EQ(bitmap.data()[2], 4u);
  bitmap.data()[1] = 2;
  EXPECT_TRUE(bitmap.test(65));
}

TEST(DirtyBitmap, FollowsAModelThroughRandomOperations) {
  Randomly random(1);
  for (const std::size_t pages : sizes) {
    SCOPED_TRACE(pages);
    Model model(pages);
    DirtyBitmap bitmap(pages);
    for (int step = 0; step < 120; ++step) {
      const PageRange range = random.range(pages);
      const auto fill = [&, at = model.begin() + static_cast<std::ptrdiff_t>(range.first)](
                            bool dirty) { std::fill_n(at, range.count, dirty); };
      const auto combine = [&, other = random.model(pages)](auto operation, auto function) {
        (bitmap.*operation)(bitmap_of(other));
        for (std::size_t page = 0; page < pages; ++page) {
          model[page] = function(model[page], other[page]);
        }
      };
      switch (random.below(pages < 5000 ? 9 : 6)) {
        case 0:
        case 1:
          bitmap.set(range.first, range.count);
          fill(true);
          break;
        case 2:
        case 3:
          bitmap.clear(range.first, range.count);
          fill(false);
          break;
        case 4:
          if (range.first < pages) {
            bitmap.set(range.first);
            model[range.first] = true;
          }
          break;
        case 5:
          if (random.below(8) == 0) {
            bitmap.set();
            model.assign(pages, true);
          } else if (random.below(8) == 0) {
            bitmap.clear();
            model.assign(pages, false);
          }
          break;
        case 6:
          combine(&DirtyBitmap::merge, [](bool a, bool b) { return a || b; });
          break;
        case 7:
          combine(&DirtyBitmap::subtract, [](bool a, bool b) { return a && !b; });
          break;
        default:
          combine(&DirtyBitmap::intersect, [](bool a, bool b) { return a && b; });
          break;
      }
      if (pages < 5000 || step % 20 == 0) {
        expect_equal(bitmap, model);
      }
      ASSERT_FALSE(testing::Test::HasFailure()) << "step " << step;
    }
  }
}

TEST(DirtyBitmap, CombinesLargeOnes) {
  Randomly random(2);
  for (const std::size_t pages : {std::size_t{65539}, std::size_t{100000}}) {
    for (int round = 0; round < 4; ++round) {
      const Model a = random.model(pages);
      const Model b = random.model(pages);
      for (const auto& [operation, function] :
           {std::pair{&DirtyBitmap::merge, +[](bool x, bool y) { return x || y; }},
            std::pair{&DirtyBitmap::subtract, +[](bool x, bool y) { return x && !y; }},
            std::pair{&DirtyBitmap::intersect, +[](bool x, bool y) { return x && y; }}}) {
        DirtyBitmap bitmap = bitmap_of(a);
        (bitmap.*operation)(bitmap_of(b));
        Model model = a;
        for (std::size_t page = 0; page < pages; ++page) {
          model[page] = function(a[page], b[page]);
        }
        expect_equal(bitmap, model);
      }
    }
  }
}

TEST(DirtyBitmap, CombinesWithItself) {
  Randomly random(3);
  const Model model = random.model(4163);
  DirtyBitmap bitmap = bitmap_of(model);
  bitmap.merge(bitmap);
  bitmap.intersect(bitmap);
  expect_equal(bitmap, model);
  bitmap.subtract(bitmap);
  expect_equal(bitmap, Model(4163));
}

/// What an instruction set that this host may lack would leave untested.
TEST(DirtyBitmap, CountsAndCombinesTheSameWithNarrowVectors) {
  namespace words = kvm::detail::bitmap;
  Randomly random(4);
  for (std::size_t size = 0; size < 200; ++size) {
    DirtyBitmap a = bitmap_of(random.model(size * 64));
    const DirtyBitmap b = bitmap_of(random.model(size * 64));
    ASSERT_EQ(words::count<words::Vector16>(a.data(), size), words::count(a.data(), size));
    DirtyBitmap narrow = a;
    words::combine<words::Operation::merge, words::Vector16>(narrow.data(), b.data(), size);
    a.merge(b);
    ASSERT_EQ(narrow, a);
    words::combine<words::Operation::subtract, words::Vector16>(narrow.data(), b.data(), size);
    a.subtract(b);
    ASSERT_EQ(narrow, a);
  }
}

TEST(DirtyBitmap, CountsEveryBitOfEveryWord) {
  for (const std::size_t pages : {std::size_t{4160}, std::size_t{8259}}) {
    for (std::size_t page = 0; page < pages; page += 61) {
      DirtyBitmap bitmap(pages);
      bitmap.set(page);
      ASSERT_EQ(bitmap.count(), 1u) << page;
      bitmap.set();
      bitmap.clear(page, 1);
      ASSERT_EQ(bitmap.count(), pages - 1) << page;
    }
  }
}

TEST(DirtyBitmap, IgnoresBitsBeyondItsPages) {
  for (const std::size_t pages : {std::size_t{1}, std::size_t{63}, std::size_t{67},
                                  std::size_t{1091}, std::size_t{4163}, std::size_t{65539}}) {
    for (const std::uint64_t beyond : {most << pages % 64, std::uint64_t{1} << 63}) {
      SCOPED_TRACE(pages);
      DirtyBitmap bitmap(pages);
      bitmap.data()[bitmap.words() - 1] = beyond;
      expect_equal(bitmap, Model(pages));
      EXPECT_EQ(bitmap, DirtyBitmap(pages));
      EXPECT_EQ(bitmap.next_run(0), std::nullopt);
      EXPECT_FALSE(bitmap.test(pages));
      EXPECT_FALSE(bitmap.test(bitmap.words() * 64 - 1));

      DirtyBitmap merged(pages);
      merged.merge(bitmap);
      EXPECT_EQ(merged.data()[merged.words() - 1], 0u);

      Model model(pages);
      model[pages - 1] = true;
      bitmap.set(pages - 1);
      expect_equal(bitmap, model);
      EXPECT_EQ(bitmap.next_run(0), (PageRange{pages - 1, 1}));
    }
  }
}

TEST(DirtyBitmap, SetsNoBitBeyondItsPages) {
  for (const std::size_t pages :
       {std::size_t{1}, std::size_t{63}, std::size_t{67}, std::size_t{1091}, std::size_t{4163}}) {
    const std::uint64_t tail = most << pages % 64;
    DirtyBitmap bitmap(pages);
    bitmap.set();
    EXPECT_EQ(bitmap.data()[bitmap.words() - 1] & tail, 0u);
    bitmap.clear();
    bitmap.set(0, pages);
    EXPECT_EQ(bitmap.data()[bitmap.words() - 1] & tail, 0u);
  }
}

TEST(DirtyBitmap, GivesTheNextRunFromAnyPage) {
  Randomly random(5);
  for (const std::size_t pages : {std::size_t{131}, std::size_t{4163}}) {
    const Model model = random.model(pages);
    const DirtyBitmap bitmap = bitmap_of(model);
    for (std::uint64_t from = 0; from < pages + 3; ++from) {
      std::optional<PageRange> expected;
      for (std::uint64_t page = from; page < pages && (!expected || model[page]); ++page) {
        if (model[page]) {
          expected =
              PageRange{expected ? expected->first : page, expected ? expected->count + 1 : 1};
        }
      }
      ASSERT_EQ(bitmap.next_run(from), expected) << from;
    }
    EXPECT_EQ(bitmap.next_run(most), std::nullopt);
  }
}

TEST(DirtyBitmap, StopsWhereTheFunctionSaysSo) {
  DirtyBitmap bitmap(300);
  bitmap.set(1, 2);
  bitmap.set(100, 100);
  bitmap.set(299);
  std::vector<PageRange> seen;
  const auto look = [&](std::uint64_t first, std::uint64_t count) {
    seen.push_back({first, count});
    return first != 100;
  };
  EXPECT_FALSE(bitmap.for_each_run(look));
  EXPECT_EQ(seen, (std::vector<PageRange>{{1, 2}, {100, 100}}));
  bitmap.clear(100, 100);
  seen.clear();
  EXPECT_TRUE(bitmap.for_each_run(look));
  EXPECT_EQ(seen, (std::vector<PageRange>{{1, 2}, {299, 1}}));
}

TEST(DirtyBitmap, LetsTheFunctionClearItsRun) {
  Randomly random(6);
  const Model model = random.model(4163);
  DirtyBitmap bitmap = bitmap_of(model);
  std::vector<PageRange> seen;
  bitmap.for_each_run([&](std::uint64_t first, std::uint64_t count) {
    seen.push_back({first, count});
    bitmap.clear(first, count);
  });
  EXPECT_EQ(seen, runs_of(model));
  EXPECT_FALSE(bitmap.any());
}

TEST(DirtyBitmap, RefusesPagesOutside) {
  for (const std::size_t pages : sizes) {
    SCOPED_TRACE(pages);
    DirtyBitmap bitmap(pages);
    EXPECT_FALSE(bitmap.test(pages));
    EXPECT_FALSE(bitmap.test(most));
    EXPECT_FALSE(bitmap.try_set(pages));
    EXPECT_FALSE(bitmap.try_set(most));
    for (const auto& [first, count] : {std::pair<std::uint64_t, std::uint64_t>{0, pages + 1},
                                       {pages, 1},
                                       {pages + 1, 0},
                                       {pages / 2, pages},
                                       {1, most},
                                       {most, 1},
                                       {most, 2},
                                       {most, most},
                                       {0, most}}) {
      if (pages < 2 && first == pages / 2 && count == pages) {
        continue;  // That is all of it.
      }
      EXPECT_FALSE(bitmap.try_set(first, count)) << first << ' ' << count;
      EXPECT_FALSE(bitmap.any());
      bitmap.set();
      EXPECT_FALSE(bitmap.try_clear(first, count)) << first << ' ' << count;
      EXPECT_EQ(bitmap.count(), pages);
      bitmap.clear();
    }
    EXPECT_TRUE(bitmap.try_set(pages, 0));
    EXPECT_TRUE(bitmap.try_clear(pages, 0));
    EXPECT_FALSE(bitmap.any());
  }
}

TEST(DirtyBitmap, SaysWhichPagesAreOutside) {
  DirtyBitmap bitmap(67);
  const auto outside = bitmap.try_set(60, 8);
  ASSERT_FALSE(outside);
  EXPECT_EQ(outside.error().error_number(), EINVAL);
  EXPECT_STREQ(outside.error().operation(), "DirtyBitmap::set");
  const std::string what = outside.error().what();
  EXPECT_NE(what.find("DirtyBitmap::set(first=60, count=8): the bitmap has 67 pages"),
            std::string::npos)
      << what;
  EXPECT_STREQ(bitmap.try_clear(67, 1).error().operation(), "DirtyBitmap::clear");
}

TEST(DirtyBitmap, RefusesToCombineDifferentSizes) {
  for (const auto& [a, b] :
       {std::pair<std::size_t, std::size_t>{64, 65}, {65, 66}, {128, 64}, {0, 1}, {4163, 4164}}) {
    DirtyBitmap bitmap(a);
    bitmap.set();
    DirtyBitmap other(b);
    for (const auto operation :
         {&DirtyBitmap::try_merge, &DirtyBitmap::try_subtract, &DirtyBitmap::try_intersect}) {
      const auto refused = (bitmap.*operation)(other);
      ASSERT_FALSE(refused);
      EXPECT_EQ(refused.error().error_number(), EINVAL);
    }
    EXPECT_EQ(bitmap.count(), a);
    bitmap.clear();
    other.set();
    EXPECT_FALSE(bitmap.try_merge(other));
    EXPECT_FALSE(bitmap.any());
  }
}

TEST(DirtyBitmap, IsAValue) {
  DirtyBitmap a(4163);
  a.set(5, 4000);
  DirtyBitmap b = a;
  EXPECT_EQ(a, b);
  b.clear(4004, 1);
  EXPECT_NE(a, b);
  EXPECT_TRUE(a.test(4004));
  EXPECT_NE(DirtyBitmap(64), DirtyBitmap(65));
  EXPECT_EQ(DirtyBitmap(0), DirtyBitmap(0));

  const std::uint64_t* const words = b.data();
  b = a;  // The same size: the same words.
  EXPECT_EQ(b.data(), words);
  EXPECT_EQ(a, b);
  DirtyBitmap& same = b;
  b = same;
  EXPECT_EQ(a, b);
  b = std::move(same);
  EXPECT_EQ(a, b);

  DirtyBitmap c = std::move(b);
  EXPECT_EQ(a, c);
  // What a moved-from bitmap is, is documented.
  // NOLINTBEGIN(bugprone-use-after-move,clang-analyzer-cplusplus.Move)
  EXPECT_EQ(b.pages(), 0u);
  EXPECT_EQ(b.words(), 0u);
  EXPECT_FALSE(b.any());
  EXPECT_EQ(b.count(), 0u);
  EXPECT_FALSE(b.test(5));
  b.set();
  b.clear();
  EXPECT_FALSE(b.try_set(0));
  EXPECT_EQ(b, DirtyBitmap(0));
  DirtyBitmap d = b;
  EXPECT_EQ(d, b);
  b = DirtyBitmap(0);
  d = b;
  d = c;
  EXPECT_EQ(d, a);
  c = std::move(d);
  EXPECT_EQ(c, a);
  d = DirtyBitmap(70);
  EXPECT_EQ(d.pages(), 70u);
  d = a;
  EXPECT_EQ(d, a);
  // NOLINTEND(bugprone-use-after-move,clang-analyzer-cplusplus.Move)
}

TEST(DirtyBitmap, DiffersByAPageOfTheLastWordAlone) {
  DirtyBitmap a(100);
  DirtyBitmap b(100);
  a.set(3);
  b.set(3);
  EXPECT_EQ(a, b);
  a.set(70);
  EXPECT_FALSE(a == b);
  b.set(71);
  EXPECT_FALSE(a == b);
  b.set(70);
  a.set(71);
  EXPECT_EQ(a, b);
}

}  // namespace
