// SPDX-License-Identifier: MIT
#include "progress.hpp"

#include <cstdarg>
#include <cstdio>

#include <unistd.h>

namespace migrate {

std::string format(const char* text, ...) {
  char buffer[400];
  std::va_list arguments;
  va_start(arguments, text);
  std::vsnprintf(buffer, sizeof buffer, text, arguments);
  va_end(arguments);
  return buffer;
}

Progress::Progress(bool quiet) : quiet_(quiet), terminal_(::isatty(STDOUT_FILENO) == 1) {}

void Progress::clear_line() {
  if (moving_) {
    std::fputs("\r\033[K", stdout);
    moving_ = false;
  }
}

void Progress::say(const std::string& line) {
  if (!quiet_) {
    clear_line();
    std::puts(line.c_str());
    std::fflush(stdout);
  }
}

void Progress::heading() {
  say("   round      pages        MiB         ms      MiB/s  dirtied pages/s");
}

void Progress::under_way(const std::string& name, std::uint64_t done, std::uint64_t pages) {
  const auto now = Clock::now();
  if (quiet_ || !terminal_ || now - shown_ < std::chrono::milliseconds(100)) {
    return;
  }
  shown_ = now;
  std::printf("\r\033[K%8s %10llu of %llu pages, %llu %%", name.c_str(),
              static_cast<unsigned long long>(done), static_cast<unsigned long long>(pages),
              static_cast<unsigned long long>(done * 100 / pages));
  std::fflush(stdout);
  moving_ = true;
}

void Progress::round(const std::string& name, const Round& round) {
  const double ms = milliseconds(round.time);
  const double mib = static_cast<double>(round.bytes) / 1048576;
  const std::string rate =
      round.dirty_per_second > 0 ? format("%.0f", round.dirty_per_second) : "-";
  say(format("%8s %10llu %10.2f %10.1f %10.1f %16s", name.c_str(),
             static_cast<unsigned long long>(round.pages), mib, ms, ms > 0 ? mib * 1000 / ms : 0.0,
             rate.c_str()));
}

}  // namespace migrate
