// SPDX-License-Identifier: MIT
// The VMM's own dirty marks: one thread against a vector of bools, and several
// with a harvester that follows the protocol.
#include <kvm/detail/dirty_words.hpp>
#include <kvm/detail/syscalls.hpp>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <random>
#include <thread>
#include <vector>

#include <linux/membarrier.h>

#include <gtest/gtest.h>

namespace {

using kvm::detail::DirtyWords;
using Model = std::vector<bool>;

constexpr std::uint64_t sizes[] = {0, 1, 63, 64, 65, 131, 511, 512, 513, 576, 1091, 4163};

std::vector<std::uint64_t> words_of(const Model& model) {
  std::vector<std::uint64_t> words((model.size() + 63) / 64);
  for (std::size_t page = 0; page < model.size(); ++page) {
    words[page / 64] |= std::uint64_t{model[page]} << page % 64;
  }
  return words;
}

std::vector<std::uint64_t> words_of(const DirtyWords& marks) {
  return {marks.data(), marks.data() + marks.words()};
}

void fill(Model& model, std::uint64_t first, std::uint64_t count) {
  std::fill_n(model.begin() + static_cast<std::ptrdiff_t>(first), count, true);
}

TEST(DirtyWords, BeginClean) {
  for (const std::uint64_t pages : sizes) {
    const DirtyWords marks(pages);
    EXPECT_EQ(marks.pages(), pages);
    EXPECT_EQ(marks.words(), (pages + 63) / 64);
    std::vector<std::uint64_t> out(marks.words());
    EXPECT_FALSE(marks.take(out.data()));
    EXPECT_EQ(words_of(marks), words_of(Model(pages)));
  }
}

TEST(DirtyWords, FollowAModel) {
  std::mt19937_64 random(1);
  for (const std::uint64_t pages : sizes) {
    SCOPED_TRACE(pages);
    const DirtyWords marks(pages);
    Model model(pages);
    std::vector<std::uint64_t> taken(marks.words());
    Model model_taken(pages);
    for (int step = 0; step < 2000; ++step) {
      const std::uint64_t first = random() % (pages + 1);
      const std::uint64_t room = pages - first;
      const std::uint64_t count = random() % (std::min<std::uint64_t>(room, random() % 400) + 1);
      const bool always = random() % 2 == 0;
      switch (random() % 8) {
        case 0:
        case 1:
        case 2:
          if (room != 0) {
            always ? marks.mark_always(first) : marks.mark(first);
            model[first] = true;
          }
          break;
        case 3:
        case 4:
        case 5:
          always ? marks.mark_range_always(first, count) : marks.mark_range(first, count);
          fill(model, first, count);
          break;
        case 6:
          if (random() % 64 == 0) {
            always ? marks.mark_all_always() : marks.mark_all();
            model.assign(pages, true);
          }
          break;
        default: {
          const bool any = std::find(model.begin(), model.end(), true) != model.end();
          ASSERT_EQ(marks.take(taken.data()), any);
          for (std::size_t page = 0; page < pages; ++page) {
            model_taken[page] = model_taken[page] || model[page];
          }
          model.assign(pages, false);
          ASSERT_EQ(taken, words_of(model_taken));
          if (random() % 4 == 0) {
            taken.assign(taken.size(), 0);
            model_taken.assign(pages, false);
          }
        }
      }
      ASSERT_EQ(words_of(marks), words_of(model)) << "step " << step;
    }
  }
}

TEST(DirtyWords, MarkEveryRangeExactly) {
  constexpr std::uint64_t pages = 259;
  for (const bool always : {false, true}) {
    for (std::uint64_t first = 0; first <= pages; ++first) {
      for (std::uint64_t count = 0; count <= pages - first; ++count) {
        const DirtyWords marks(pages);
        always ? marks.mark_range_always(first, count) : marks.mark_range(first, count);
        Model model(pages);
        fill(model, first, count);
        ASSERT_EQ(words_of(marks), words_of(model)) << first << ' ' << count;
      }
    }
  }
}

TEST(DirtyWords, AddToWhatWasTakenBefore) {
  const DirtyWords marks(1091);
  std::vector<std::uint64_t> out(marks.words());
  out[3] = 5;
  marks.mark(3 * 64 + 1);
  marks.mark(1090);
  EXPECT_TRUE(marks.take(out.data()));
  EXPECT_EQ(out[3], 7u);
  EXPECT_EQ(out[17], 4u);
  EXPECT_FALSE(marks.take(out.data()));
  EXPECT_EQ(out[3], 7u);
}

/// Lets two threads begin each round together.
class Start {
 public:
  void wait() {
    const unsigned round = arrived_.fetch_add(1) / 2;
    for (unsigned spins = 0; arrived_.load() < 2 * (round + 1); ++spins) {
      if (spins % 1024 == 1023) {  // There may be one core only.
        std::this_thread::yield();
      }
    }
  }

 private:
  std::atomic<unsigned> arrived_{0};
};

/// Two threads mark what is not marked yet, in the same words at the same time.
/// @param mark marks the pages of one of the two; the other marks the rest
template <class Mark>
void expect_all_marked_by_two(std::uint64_t pages, Mark mark) {
  constexpr int rounds = 3000;
  const DirtyWords marks(pages);
  const std::vector<std::uint64_t> all = words_of(Model(pages, true));
  std::vector<std::uint64_t> out(marks.words());
  Start start;
  std::thread other([&] {
    for (int round = 0; round < rounds; ++round) {
      start.wait();
      mark(marks.data(), 1);
      start.wait();
    }
  });
  int incomplete = 0;
  for (int round = 0; round < rounds; ++round) {
    start.wait();
    mark(marks.data(), 0);
    start.wait();
    out.assign(out.size(), 0);
    marks.take(out.data());
    incomplete += out != all;
  }
  other.join();
  EXPECT_EQ(incomplete, 0) << "of " << rounds << " rounds";
}

TEST(DirtyWords, KeepWhatTwoThreadsMarkInOneWord) {
  constexpr std::uint64_t pages = 131;
  const auto each_page = [](auto mark) {
    return [mark](std::uint64_t* words, unsigned thread) {
      for (std::uint64_t page = thread; page < pages; page += 2) {
        mark(words, page);
      }
    };
  };
  // The edge words of neighbouring ranges.
  const auto each_range = [](auto mark) {
    return [mark](std::uint64_t* words, unsigned thread) {
      for (std::uint64_t first = thread == 0 ? 0 : 5; first < pages; first += 10) {
        mark(words, first, std::min<std::uint64_t>(5, pages - first));
      }
    };
  };
  expect_all_marked_by_two(pages, each_page([](auto... of) { DirtyWords::mark(of...); }));
  expect_all_marked_by_two(pages, each_page([](auto... of) { DirtyWords::mark_always(of...); }));
  expect_all_marked_by_two(pages, each_range([](auto... of) { DirtyWords::mark_range(of...); }));
  expect_all_marked_by_two(pages,
                           each_range([](auto... of) { DirtyWords::mark_range_always(of...); }));
}

/// Pages of guest memory, each its last written number and nothing else.
class Guest {
 public:
  explicit Guest(std::uint64_t pages) : contents(pages), marks(pages) {}

  void store(std::uint64_t page, std::uint64_t value) {
    contents[page].store(value, std::memory_order_relaxed);
  }

  std::vector<std::atomic<std::uint64_t>> contents;
  DirtyWords marks;
};

/// Marks pages with several writers while one thread harvests, and compares what
/// the harvests read with what was written last. Each page is written for a short
/// while only, so each may be the one whose last write is lost.
/// @param write writes to a page and marks it, some times
template <class Write>
void expect_no_write_lost(std::uint64_t pages, bool with_membarrier, Write write) {
  Guest guest(pages);
  constexpr unsigned writers = 2;
  std::atomic<unsigned> writing{writers};
  std::vector<std::thread> threads;
  for (unsigned writer = 0; writer < writers; ++writer) {
    threads.emplace_back([&, writer] {
      write(guest, writer);
      writing.fetch_sub(1);
    });
  }

  std::vector<std::uint64_t> sent(pages);
  std::vector<std::uint64_t> dirty(guest.marks.words());
  const auto harvest = [&] {
    if (!guest.marks.take(dirty.data())) {
      return;
    }
    if (with_membarrier) {
      ASSERT_EQ(kvm::detail::sys::membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED), 0);
    }
    for (std::uint64_t& word : dirty) {
      for (; word != 0; word &= word - 1) {
        const auto page = static_cast<std::uint64_t>(&word - dirty.data()) * 64 +
                          static_cast<std::uint64_t>(__builtin_ctzll(word));
        sent[page] = guest.contents[page].load(std::memory_order_relaxed);
      }
    }
  };
  while (writing.load() != 0) {
    harvest();
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  harvest();

  std::uint64_t lost = 0;
  for (std::uint64_t page = 0; page < pages; ++page) {
    lost += sent[page] != guest.contents[page].load();
  }
  EXPECT_EQ(lost, 0u) << "of " << pages << " pages";
  EXPECT_FALSE(guest.marks.take(dirty.data()));
}

bool have_membarrier() {
  const int commands = kvm::detail::sys::membarrier(MEMBARRIER_CMD_QUERY);
  return commands > 0 && (commands & MEMBARRIER_CMD_PRIVATE_EXPEDITED) != 0 &&
         kvm::detail::sys::membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED) == 0;
}

constexpr std::uint64_t many_pages = 64 * 1024 + 3;

/// Each writer has every other page, so that they share words.
template <class Mark>
auto page_by_page(Mark mark) {
  return [mark](Guest& guest, unsigned writer) {
    for (std::uint64_t page = writer; page < guest.marks.pages(); page += 2) {
      for (std::uint64_t value = 1; value <= 8; ++value) {
        guest.store(page, value);
        mark(guest.marks.data(), page);
      }
    }
  };
}

/// Each writer has every other stretch of 150 pages: some whole words, edges
/// that the two share.
template <class Mark>
auto range_by_range(Mark mark) {
  return [mark](Guest& guest, unsigned writer) {
    constexpr std::uint64_t stretch = 150;
    const std::uint64_t pages = guest.marks.pages();
    for (std::uint64_t first = writer * stretch; first < pages; first += 2 * stretch) {
      const std::uint64_t count = std::min(stretch, pages - first);
      for (std::uint64_t value = 1; value <= 4; ++value) {
        for (std::uint64_t page = first; page < first + count; ++page) {
          guest.store(page, value);
        }
        mark(guest.marks.data(), first, count);
      }
    }
  };
}

TEST(DirtyWords, LoseNoWriteBesideAHarvest) {
  if (!have_membarrier()) {
    GTEST_SKIP() << "this host refuses MEMBARRIER_CMD_PRIVATE_EXPEDITED";
  }
  for (int round = 0; round < 8; ++round) {
    expect_no_write_lost(many_pages, true,
                         page_by_page([](std::uint64_t* words, std::uint64_t page) {
                           DirtyWords::mark(words, page);
                         }));
    expect_no_write_lost(
        many_pages, true,
        range_by_range([](std::uint64_t* words, std::uint64_t first, std::uint64_t count) {
          DirtyWords::mark_range(words, first, count);
        }));
  }
}

TEST(DirtyWords, LoseNoWriteWithoutMembarrierIfNothingIsSkipped) {
  for (int round = 0; round < 4; ++round) {
    expect_no_write_lost(many_pages, false,
                         page_by_page([](std::uint64_t* words, std::uint64_t page) {
                           DirtyWords::mark_always(words, page);
                         }));
    expect_no_write_lost(
        many_pages, false,
        range_by_range([](std::uint64_t* words, std::uint64_t first, std::uint64_t count) {
          DirtyWords::mark_range_always(words, first, count);
        }));
  }
}

}  // namespace
