// SPDX-License-Identifier: MIT
#ifndef MIGRATE_PROGRESS_HPP
#define MIGRATE_PROGRESS_HPP

#include <chrono>
#include <cstdint>
#include <string>

namespace migrate {

using Clock = std::chrono::steady_clock;

inline double milliseconds(Clock::duration time) {
  return std::chrono::duration<double, std::milli>(time).count();
}

/// What a round came to.
struct Round {
  std::uint64_t pages = 0;
  std::uint64_t bytes = 0;  ///< on the wire
  Clock::duration time{};
  /// How fast pages became dirty before it; 0 if not known.
  double dirty_per_second = 0;
};

/// Shows how a migration goes: a line per round, and on a terminal a last line that moves.
class Progress {
 public:
  explicit Progress(bool quiet);

  /// A line of its own.
  void say(const std::string& line);
  void heading();
  /// While a round is under way; shown ten times a second, on a terminal only.
  void under_way(const std::string& name, std::uint64_t done, std::uint64_t pages);
  void round(const std::string& name, const Round& round);

 private:
  void clear_line();

  bool quiet_;
  bool terminal_;
  bool moving_ = false;
  Clock::time_point shown_{};
};

/// printf into a string.
[[gnu::format(printf, 1, 2)]] std::string format(const char* text, ...);

}  // namespace migrate

#endif
