// SPDX-License-Identifier: MIT
// hello and tour, as a user runs them.
#include <gtest/gtest.h>

#include <cstddef>
#include <sstream>
#include <string>
#include <vector>

#include "program.hpp"

namespace {

TEST(Hello, PrintsWhatItsGuestWrote) {
  SKIP_WITHOUT_KVM(EXAMPLE_HELLO);
  const auto outcome = program::run(EXAMPLE_HELLO);
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_EQ(outcome.out, "Hello, KVM!\n");
  EXPECT_EQ(outcome.err, "");
}

/// The lines of tour's table: a kind of exit, how often it came, about what.
struct Line {
  std::string kind;
  unsigned count = 0;
  std::string about;
};
std::vector<Line> table(const std::string& text) {
  std::vector<Line> lines;
  const auto begin = text.find("\nExits handled");
  std::istringstream rest(begin == text.npos ? std::string() : text.substr(begin + 1));
  std::string line;
  std::getline(rest, line);
  while (std::getline(rest, line)) {
    std::istringstream words(line);
    Line row;
    words >> row.kind >> row.count >> std::ws;
    std::getline(words, row.about);
    lines.push_back(row);
  }
  return lines;
}

TEST(Tour, PrintsWhatItsGuestWroteAndALinePerExit) {
  SKIP_WITHOUT_KVM(EXAMPLE_TOUR);
  const auto outcome = program::run(EXAMPLE_TOUR);
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_EQ(outcome.err, "");
  const std::string wrote =
      "The guest wrote:\n"
      "  Hello from a guest in real mode.\n"
      "  The square of the host's number is 49.\n\n";
  EXPECT_NE(outcome.out.find(wrote), std::string::npos) << outcome.out;

  const bool left_out = outcome.out.find("left out") != std::string::npos;
  std::vector<std::string> expected = {"IoOut", "IoIn", "MmioWrite", "MmioRead"};
  if (!left_out) {
    expected.insert(expected.end(), {"X86Rdmsr", "X86Wrmsr"});
  }
  expected.insert(expected.end(), {"Hlt", "Shutdown"});

  const auto lines = table(outcome.out);
  ASSERT_EQ(lines.size(), expected.size()) << outcome.out;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    EXPECT_EQ(lines[i].kind, expected[i]);
    EXPECT_FALSE(lines[i].about.empty());
    if (lines[i].kind == "IoOut") {
      EXPECT_GE(lines[i].count, 2u);  // Two strings, each in one exit or in many.
    } else {
      EXPECT_EQ(lines[i].count, 1u) << lines[i].kind;
    }
  }
  if (!left_out) {
    EXPECT_NE(outcome.out.find("MSR 0x12345 was set to 42"), std::string::npos) << outcome.out;
  }
}

TEST(Tour, SaysThatItsOutputIsLost) {
  SKIP_WITHOUT_KVM(EXAMPLE_TOUR);
  for (const char* where : {">/dev/full", ">&-"}) {
    const auto outcome = program::run(EXAMPLE_TOUR, where);
    EXPECT_EQ(outcome.status, 1) << where;
    EXPECT_EQ(outcome.err.substr(0, 22), "tour: standard output:") << outcome.err;
  }
}

}  // namespace
