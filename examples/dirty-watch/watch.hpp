// SPDX-License-Identifier: MIT
#ifndef DIRTY_WATCH_WATCH_HPP
#define DIRTY_WATCH_WATCH_HPP

#include <cstddef>
#include <cstdint>
#include <string>

namespace dirty_watch {

/// Which pages the guest writes.
enum class Pattern {
  sequential,  ///< one after the other; each round goes on where the last one ended
  sparse,      ///< every n-th
  random,
};

/// What the guest does, and for how long.
struct Plan {
  std::uint64_t memory = 256u << 20;  ///< in bytes
  std::uint64_t pages = 2048;         ///< that it writes in a round
  std::uint64_t rounds = 20;
  std::uint64_t stride = 16;  ///< of the sparse pattern
  Pattern pattern = Pattern::sparse;
};

/// A way to learn which pages were written.
struct Mode {
  const char* name;
  const char* what;
};
inline constexpr Mode modes[] = {
    {"log", "a log per slot, cleared as a whole when it is read"},
    {"manual", "a log per slot; what was dirty is cleared after it was read"},
    {"manual-64", "the same, cleared in pieces of 64 pages"},
    {"ring", "a ring per vCPU"},
};

/// What came of one mode, all rounds together.
struct Outcome {
  /// Why this host cannot, or empty.
  std::string unavailable;
  std::uint64_t written = 0;      ///< pages that the guest wrote, each once a round
  std::uint64_t seen = 0;         ///< pages that were reported
  std::uint64_t not_written = 0;  ///< of these, those that the guest did not write
  std::uint64_t missed = 0;       ///< pages that were written, and not reported
  std::uint64_t stops = 0;        ///< how often the vCPU had to wait for its ring to be emptied
  double guest_seconds = 0;       ///< median of what the guest took to write them
  double harvest_seconds = 0;     ///< median of what it took to find out
};

/// How large a guest can be, in bytes, and how much it can write in a round.
inline constexpr std::uint64_t most_memory = std::uint64_t{64} << 30;
inline constexpr std::uint64_t most_pages = std::uint64_t{1} << 24;
/// How many pages of the guest's memory can be in a pattern.
std::uint64_t usable_pages(std::uint64_t memory);
/// In bytes.
std::uint64_t page_size();

Outcome watch(const Mode& mode, const Plan& plan);

}  // namespace dirty_watch

#endif
