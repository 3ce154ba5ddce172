// SPDX-License-Identifier: MIT
// dirty-watch, as a user runs it.
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <cstdint>
#include <iterator>
#include <sstream>
#include <string>

#include "program.hpp"

namespace {

using Json = nlohmann::json;

constexpr const char* all_modes[] = {"log", "manual", "manual-64", "ring"};

class DirtyWatch : public ::testing::Test {
 protected:
  void SetUp() override { SKIP_WITHOUT_KVM(EXAMPLE_DIRTY_WATCH); }

  static Json report(const std::string& arguments) {
    const auto outcome = program::run(EXAMPLE_DIRTY_WATCH, "--json " + arguments);
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    EXPECT_EQ(outcome.err, "");
    Json json = Json::parse(outcome.out, nullptr, false);
    EXPECT_TRUE(json.is_object()) << outcome.out;
    return json;
  }
  /// @param written what the pattern comes to
  static void expect_all_seen(const Json& json, std::uint64_t written) {
    ASSERT_TRUE(json.is_object());
    for (const Json& row : json.at("modes")) {
      if (row.contains("unavailable")) {
        EXPECT_NE(row.at("unavailable").get<std::string>(), "") << row;
        continue;
      }
      EXPECT_EQ(row.at("missed"), 0) << row;
      EXPECT_EQ(row.at("written"), written) << row;
      EXPECT_EQ(row.at("seen"), written + row.at("not_written").get<std::uint64_t>()) << row;
    }
  }
};

TEST_F(DirtyWatch, SeesEveryPageInEachMode) {
  for (const char* pattern : {"sequential", "sparse"}) {
    const Json json =
        report("--memory 16MiB --pages 100 --rounds 5 --pattern " + std::string(pattern));
    ASSERT_TRUE(json.is_object());
    ASSERT_EQ(json.at("modes").size(), std::size(all_modes));
    for (std::size_t i = 0; i < std::size(all_modes); ++i) {
      EXPECT_EQ(json.at("modes").at(i).at("mode"), all_modes[i]);
    }
    expect_all_seen(json, 500);
  }
}

TEST_F(DirtyWatch, WritesTheSameRandomPagesInEachMode) {
  const Json json = report("--memory 4MiB --pages 300 --rounds 5 --pattern random");
  ASSERT_TRUE(json.is_object());
  const auto written = json.at("modes").at(0).at("written").get<std::uint64_t>();
  EXPECT_GT(written, 500u);
  EXPECT_LT(written, 1500u);  // Some of them twice.
  expect_all_seen(json, written);
}

TEST_F(DirtyWatch, EmptiesARingThatIsSmallerThanARound) {
  const Json json =
      report("--mode ring --memory 64MiB --pages 9000 --rounds 2 --pattern sequential");
  ASSERT_TRUE(json.is_object());
  expect_all_seen(json, 18000);
  const Json& row = json.at("modes").at(0);
  EXPECT_TRUE(row.contains("unavailable") || row.at("stops") >= 2) << row;
}

TEST_F(DirtyWatch, PrintsATable) {
  const auto outcome = program::run(EXAMPLE_DIRTY_WATCH, "--memory 8MiB --pages 64 --rounds 2");
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_EQ(outcome.err, "");
  for (const char* mode : all_modes) {
    EXPECT_NE(outcome.out.find(std::string("\n") + mode + ' '), std::string::npos) << mode;
  }
  std::istringstream text(outcome.out);
  for (std::string line; std::getline(text, line);) {
    EXPECT_LE(line.size(), 100u) << line;
  }
}

TEST_F(DirtyWatch, SaysThatItsOutputIsLost) {
  const auto outcome =
      program::run(EXAMPLE_DIRTY_WATCH, "--memory 8MiB --pages 1 --rounds 1 >/dev/full");
  EXPECT_EQ(outcome.status, 1);
  EXPECT_NE(outcome.err.find("dirty-watch: standard output"), std::string::npos) << outcome.err;
}

TEST(DirtyWatchUsage, HelpsAndRefuses) {
  SKIP_WITHOUT_EXAMPLE(EXAMPLE_DIRTY_WATCH);
  const auto help = program::run(EXAMPLE_DIRTY_WATCH, "--help");
  EXPECT_EQ(help.status, 0);
  for (const char* option :
       {"--pages", "--rounds", "--pattern", "--stride", "--memory", "--mode", "--json"}) {
    EXPECT_NE(help.out.find(option), std::string::npos) << option;
  }
  for (const char* arguments :
       {"--nope", "extra", "--mode none", "--pattern zigzag", "--pages 0", "--rounds 0",
        "--stride 0", "--memory 1KiB", "--memory 128GiB", "--memory 1MiB --pages 300"}) {
    const auto outcome = program::run(EXAMPLE_DIRTY_WATCH, arguments);
    EXPECT_EQ(outcome.status, 2) << arguments;
    EXPECT_EQ(outcome.out, "") << arguments;
    EXPECT_FALSE(outcome.err.empty()) << arguments;
  }
}

}  // namespace
