// SPDX-License-Identifier: MIT
// Whatever is done to two bitmaps of one size and one of another, with whatever
// numbers, they say what a vector of bools says.
#include <kvm/memory/dirty_bitmap.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <utility>
#include <vector>

#include "support/fuzzing.hpp"

namespace {

using kvm::DirtyBitmap;
using Model = std::vector<bool>;

using kvm_test::require;

class Input : public kvm_test::Input {
 public:
  using kvm_test::Input::Input;

  /// A page or a count: near, or any number at all.
  std::uint64_t number(std::uint64_t pages) {
    const std::uint64_t form = bytes(1);
    switch (form % 4) {
      case 0:
        return bytes(1);
      case 1:
        return bytes(2);
      case 2:
        return pages - form / 4;
      default:
        return bytes(8);
    }
  }
};

struct Pair {
  explicit Pair(std::size_t pages) : bitmap(pages), model(pages) {}

  DirtyBitmap bitmap;
  Model model;
};

bool inside(std::uint64_t first, std::uint64_t count, std::uint64_t pages) {
  return first <= pages && count <= pages - first;
}

void fill(Pair& pair, std::uint64_t first, std::uint64_t count, bool dirty) {
  const auto done = dirty ? pair.bitmap.try_set(first, count) : pair.bitmap.try_clear(first, count);
  require(done.has_value() == inside(first, count, pair.model.size()));
  if (done) {
    std::fill_n(pair.model.begin() + static_cast<std::ptrdiff_t>(first), count, dirty);
  }
}

template <class Function>
void combine(Pair& a, const Pair& b,
             kvm::Result<void> (DirtyBitmap::*operation)(const DirtyBitmap&), Function function) {
  const auto done = (a.bitmap.*operation)(b.bitmap);
  require(done.has_value() == (a.model.size() == b.model.size()));
  if (done) {
    for (std::size_t page = 0; page < a.model.size(); ++page) {
      a.model[page] = function(a.model[page], b.model[page]);
    }
  }
}

void check(const Pair& pair) {
  const auto& [bitmap, model] = pair;
  require(bitmap.pages() == model.size() && bitmap.words() == (model.size() + 63) / 64);
  const auto count = static_cast<std::uint64_t>(std::count(model.begin(), model.end(), true));
  require(bitmap.count() == count && bitmap.any() == (count != 0));
  std::uint64_t from = 0;
  bitmap.for_each_run([&, &pages = model](std::uint64_t first, std::uint64_t length) {
    require(first >= from && length != 0 && inside(first, length, pages.size()));
    require(from == 0 || first > from);  // Else it belongs to the run before.
    for (; from < first; ++from) {
      require(!pages[from]);
    }
    for (; from < first + length; ++from) {
      require(pages[from]);
    }
  });
  require(std::find(model.begin() + static_cast<std::ptrdiff_t>(from), model.end(), true) ==
          model.end());
}

void check_page(const Pair& pair, std::uint64_t page) {
  const auto& [bitmap, model] = pair;
  require(bitmap.test(page) == (page < model.size() && model[page]));
  const auto run = bitmap.next_run(page);
  if (page >= model.size()) {
    require(!run);
    return;
  }
  const auto begin = model.begin();
  const auto first = std::find(begin + static_cast<std::ptrdiff_t>(page), model.end(), true);
  require(run.has_value() == (first != model.end()));
  if (run) {
    require(run->first == static_cast<std::uint64_t>(first - begin) &&
            run->count == static_cast<std::uint64_t>(std::find(first, model.end(), false) - first));
  }
}

}  // namespace

/// The input: three bytes for the sizes, then an operation in each byte, with
/// its numbers behind it.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input input(data, size);
  const std::size_t pages = input.bytes(2) % 6000;
  const std::size_t other_pages = pages + input.bytes(1) % 3;
  std::array<Pair, 3> pairs = {Pair(pages), Pair(pages), Pair(other_pages)};

  for (int steps = 0; steps < 200 && !input.empty(); ++steps) {
    const std::uint64_t operation = input.bytes(1);
    Pair& a = pairs[operation >> 6 & 1];
    Pair& b = pairs[(operation >> 4 & 3) % 3];
    switch (operation & 15) {
      case 0:
      case 1:
      case 2:
      case 3: {
        const std::uint64_t first = input.number(pages);
        fill(a, first, input.number(pages), (operation & 1) == 0);
        break;
      }
      case 4: {
        const std::uint64_t page = input.number(pages);
        require(a.bitmap.try_set(page).has_value() == (page < pages));
        if (page < pages) {
          a.model[page] = true;
        }
        break;
      }
      case 5:
        combine(a, b, &DirtyBitmap::try_merge, [](bool x, bool y) { return x || y; });
        break;
      case 6:
        combine(a, b, &DirtyBitmap::try_subtract, [](bool x, bool y) { return x && !y; });
        break;
      case 7:
        combine(a, b, &DirtyBitmap::try_intersect, [](bool x, bool y) { return x && y; });
        break;
      case 8:
        a.bitmap.set();
        a.model.assign(pages, true);
        break;
      case 9:
        a.bitmap.clear();
        a.model.assign(pages, false);
        break;
      case 10:  // What KVM, or whoever has the address, leaves beyond the pages.
        if (pages % 64 != 0) {
          a.bitmap.data()[pages / 64] |= input.bytes(8) << pages % 64;
        }
        break;
      case 11:
        pairs[2] = a;
        break;
      case 12:
        pairs[2] = Pair(other_pages);
        break;
      case 13:
        std::swap(pairs[0], pairs[1]);
        break;
      case 14:
        require((a.bitmap == b.bitmap) == (a.model == b.model));
        break;
      default:
        check_page(a, input.number(pages));
        break;
    }
    if (steps % 8 == 0) {
      check(a);
    }
  }
  for (const Pair& pair : pairs) {
    check(pair);
  }
  return 0;
}
