// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_DETAIL_DIRTY_WORDS_HPP
#define KVM_HPP_DETAIL_DIRTY_WORDS_HPP

#include <kvm/detail/config.hpp>

#include <atomic>
#include <cstdint>
#include <memory>

/// @file
/// The marks that the VMM's own writes to guest memory leave. KVM's dirty log
/// has only what the guest wrote.
///
///     writer                          harvester
///     store to the page               take the words: exchange each for 0
///     mark it: nothing, if the bit    membarrier
///       is set; else an atomic or     clear KVM's log, having read it
///                                     read the pages
///
/// Store first: the other way round, the harvester could take the mark and read
/// the page in between, and the write would never be seen.
///
/// A bit that is set may be left alone, although the store before it may still
/// sit in the writer's store buffer: whichever point of the writer the
/// membarrier hits, one of these holds:
///   - the bit was looked at before it: then the store is visible to what the
///     harvester reads after it;
///   - the bit is looked at after it: then it is clear, as the words were taken
///     before, and is set again for the next harvest.
///
/// On a host that refuses membarrier nothing may be left alone: there each
/// writer uses the functions named `always`, whose read-modify-write either
/// comes before the harvester's exchange, and so does the store, or is found by
/// the next harvest.

KVM_HPP_BEGIN
namespace detail {

/// One bit per page of a slot; bit n % 64 of word n / 64 is page n. Any number
/// of threads may mark while one takes. Pages are not checked: callers have
/// checked the access that they mark.
class DirtyWords {
 public:
  /// All clean. Allocates, which nothing else here does.
  explicit DirtyWords(std::uint64_t pages)
      : words_(std::make_unique<std::uint64_t[]>(words_for(pages))), pages_(pages) {}

  std::uint64_t pages() const noexcept { return pages_; }
  /// How many words hold them.
  std::uint64_t words() const noexcept { return words_for(pages_); }
  /// The words, for hot paths. They stay where they are.
  std::uint64_t* data() const noexcept { return words_.get(); }

  /// Marks a page that was just written. A load, a test and a branch if it is
  /// dirty already.
  static void mark(std::uint64_t* words, std::uint64_t page) noexcept {
    // The compiler must not look at the bit before it stores to the page.
    std::atomic_signal_fence(std::memory_order_seq_cst);
    if ((load(words + page / 64) >> page % 64 & 1) == 0) [[unlikely]] {
      add_page(words, page);
    }
  }
  void mark(std::uint64_t page) const noexcept { mark(data(), page); }

  /// Marks `count` pages from `first` on.
  static void mark_range(std::uint64_t* words, std::uint64_t first, std::uint64_t count) noexcept {
    std::atomic_signal_fence(std::memory_order_seq_cst);
    const std::uint64_t shift = first % 64;
    // All in one word, and dirty already? (0 - 1 is not less.)
    if (count - 1 < 64 - shift &&
        (~load(words + first / 64) & all >> (64 - count) % 64 << shift) == 0) [[likely]] {
      return;
    }
    add_range<Skip::marked>(words, first, count);
  }
  void mark_range(std::uint64_t first, std::uint64_t count) const noexcept {
    mark_range(data(), first, count);
  }

  /// Marks every page.
  void mark_all() const noexcept { mark_range(data(), 0, pages_); }

  /// The same for a host without membarrier.
  static void mark_always(std::uint64_t* words, std::uint64_t page) noexcept {
    add_page(words, page);
  }
  void mark_always(std::uint64_t page) const noexcept { mark_always(data(), page); }
  static void mark_range_always(std::uint64_t* words, std::uint64_t first,
                                std::uint64_t count) noexcept {
    add_range<Skip::nothing>(words, first, count);
  }
  void mark_range_always(std::uint64_t first, std::uint64_t count) const noexcept {
    mark_range_always(data(), first, count);
  }
  void mark_all_always() const noexcept { mark_range_always(data(), 0, pages_); }

  /// Takes all marks: sets them in `out`, words() words, and clears them here.
  /// What is marked meanwhile is taken or stays, but is not lost. For one thread
  /// at a time.
  /// @return whether there was any
  bool take(std::uint64_t* out) const noexcept {
    std::uint64_t* const words = data();
    const std::uint64_t size = this->words();
    bool any = false;
    std::uint64_t i = 0;
    for (; i + 8 <= size; i += 8) {  // Most are clean: a branch for eight.
      const std::uint64_t* const w = words + i;
      if (((load(w) | load(w + 1) | load(w + 2) | load(w + 3)) |
           (load(w + 4) | load(w + 5) | load(w + 6) | load(w + 7))) != 0) {
        any |= take_words(words, i, i + 8, out);
      }
    }
    return take_words(words, i, size, out) || any;
  }

 private:
  enum class Skip { nothing, marked };
  static constexpr std::uint64_t all = ~std::uint64_t{0};

  static constexpr std::uint64_t words_for(std::uint64_t pages) noexcept {
    return pages / 64 + (pages % 64 != 0);
  }

  static std::uint64_t load(const std::uint64_t* word) noexcept {
    return __atomic_load_n(word, __ATOMIC_RELAXED);
  }
  static void add(std::uint64_t* word, std::uint64_t bits) noexcept {
    __atomic_fetch_or(word, bits, __ATOMIC_RELEASE);
  }
  // Not inline, so that mark() is small.
  [[gnu::noinline]] static void add_page(std::uint64_t* words, std::uint64_t page) noexcept {
    add(words + page / 64, std::uint64_t{1} << page % 64);
  }

  template <Skip skip>
  static void add_bits(std::uint64_t* word, std::uint64_t bits) noexcept {
    if (skip == Skip::marked && (~load(word) & bits) == 0) {
      return;
    }
    if (skip == Skip::marked && bits == all) {
      // No read-modify-write where all bits end up set. The store may come
      // between another thread's mark and the harvester, which then does not
      // synchronise with that thread by the language's rules; its membarrier
      // does instead.
      __atomic_store_n(word, all, __ATOMIC_RELEASE);
    } else {
      add(word, bits);
    }
  }

  template <Skip skip>
  [[gnu::noinline]] static void add_range(std::uint64_t* words, std::uint64_t first,
                                          std::uint64_t count) noexcept {
    if (count == 0) {
      return;
    }
    const std::uint64_t last = first + count - 1;
    const std::uint64_t head = all << first % 64;
    const std::uint64_t tail = all >> (63 - last % 64);
    std::uint64_t i = first / 64;
    if (i == last / 64) {
      add_bits<skip>(words + i, head & tail);
      return;
    }
    add_bits<skip>(words + i, head);
    for (++i; i < last / 64; ++i) {
      add_bits<skip>(words + i, all);
    }
    add_bits<skip>(words + i, tail);
  }

  static bool take_words(std::uint64_t* words, std::uint64_t first, std::uint64_t end,
                         std::uint64_t* out) noexcept {
    bool any = false;
    for (std::uint64_t i = first; i < end; ++i) {
      if (load(words + i) != 0) {
        out[i] |= __atomic_exchange_n(words + i, std::uint64_t{0}, __ATOMIC_ACQ_REL);
        any = true;
      }
    }
    return any;
  }

  std::unique_ptr<std::uint64_t[]> words_;
  std::uint64_t pages_;
};

}  // namespace detail
KVM_HPP_END

#endif
