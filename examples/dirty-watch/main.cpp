// SPDX-License-Identifier: MIT
// A guest writes to pages that are known, and each way of KVM's to find out
// which they were is shown side by side.
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <cstdint>
#include <cstdio>
#include <exception>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "watch.hpp"

namespace {

constexpr int failed = 1;
constexpr int wrong_usage = 2;

using dirty_watch::Mode;
using dirty_watch::Outcome;
using dirty_watch::Pattern;
using dirty_watch::Plan;
using Rows = std::vector<std::pair<Mode, Outcome>>;

const std::map<std::string, Pattern> patterns{
    {"sequential", Pattern::sequential}, {"sparse", Pattern::sparse}, {"random", Pattern::random}};

std::string name_of(Pattern pattern) {
  for (const auto& [name, value] : patterns) {
    if (value == pattern) {
      return name;
    }
  }
  return {};
}

unsigned long long number(std::uint64_t value) { return value; }

void print_head(const Plan& plan) {
  const std::string stride =
      plan.pattern == Pattern::sparse ? ", every " + std::to_string(plan.stride) + "th" : "";
  std::printf("A guest of %llu MiB writes to %llu pages (%s%s), %llu times.\n\n",
              number(plan.memory >> 20), number(plan.pages), name_of(plan.pattern).c_str(),
              stride.c_str(), number(plan.rounds));
  std::printf("%-11s %10s %10s %12s %8s %7s %12s %12s\n", "mode", "written", "seen", "not written",
              "missed", "stops", "guest us", "harvest us");
}
void print_row(const Mode& mode, const Outcome& outcome) {
  if (!outcome.unavailable.empty()) {
    std::printf("%-11s %s\n", mode.name, outcome.unavailable.c_str());
  } else {
    std::printf("%-11s %10llu %10llu %12llu %8llu %7llu %12.1f %12.1f\n", mode.name,
                number(outcome.written), number(outcome.seen), number(outcome.not_written),
                number(outcome.missed), number(outcome.stops), outcome.guest_seconds * 1e6,
                outcome.harvest_seconds * 1e6);
  }
  std::fflush(stdout);
}
void print_foot() {
  std::puts("");
  for (const Mode& mode : dirty_watch::modes) {
    std::printf("%-11s %s\n", mode.name, mode.what);
  }
  std::puts(
      "\n"
      "written      pages that the guest wrote in a round, all rounds together\n"
      "seen         pages that were reported; some hosts report more than was written\n"
      "missed       pages that were written, and not reported: there must be none\n"
      "stops        how often the guest waited for its ring to be emptied\n"
      "guest us     median of what the guest took for a round: the first write to a page is slow\n"
      "harvest us   median of what it took to find out what was written");
}

nlohmann::ordered_json to_json(const Plan& plan, const Rows& rows) {
  nlohmann::ordered_json result{{"memory", plan.memory},
                                {"pages", plan.pages},
                                {"rounds", plan.rounds},
                                {"stride", plan.stride},
                                {"pattern", name_of(plan.pattern)},
                                {"modes", nlohmann::ordered_json::array()}};
  for (const auto& [mode, outcome] : rows) {
    nlohmann::ordered_json row{{"mode", mode.name}};
    if (outcome.unavailable.empty()) {
      row["written"] = outcome.written;
      row["seen"] = outcome.seen;
      row["not_written"] = outcome.not_written;
      row["missed"] = outcome.missed;
      row["stops"] = outcome.stops;
      row["guest_seconds"] = outcome.guest_seconds;
      row["harvest_seconds"] = outcome.harvest_seconds;
    } else {
      row["unavailable"] = outcome.unavailable;
    }
    result["modes"].push_back(std::move(row));
  }
  return result;
}

/// What is wrong with a plan, or empty.
std::string problem(const Plan& plan) {
  const std::uint64_t page = dirty_watch::page_size();
  if (plan.memory % page != 0 || plan.memory > dirty_watch::most_memory) {
    return "--memory: a multiple of " + std::to_string(page) + " bytes, at most 64 GiB";
  }
  if (plan.pages > dirty_watch::usable_pages(plan.memory)) {
    return "--pages: more than the guest has; --memory gives it more";
  }
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  Plan plan;
  std::string only;
  bool json = false;
  CLI::App app(
      "Shows each way to learn which pages a guest writes: what it sees, and what it costs.",
      "dirty-watch");
  app.add_option("--pages", plan.pages, "Pages to write in a round")
      ->check(CLI::Range(std::uint64_t{1}, dirty_watch::most_pages))
      ->capture_default_str();
  app.add_option("--rounds", plan.rounds, "How many rounds")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  app.add_option("--pattern", plan.pattern, "Which pages: sequential, sparse (default) or random")
      ->transform(CLI::CheckedTransformer(patterns).description(""))
      ->type_name("");
  app.add_option("--stride", plan.stride, "The sparse pattern is every STRIDE-th page")
      ->check(CLI::Range(std::uint64_t{1}, dirty_watch::most_pages))
      ->capture_default_str();
  app.add_option("--memory", plan.memory, "The guest's memory, as in 512MiB (default 256MiB)")
      ->transform(CLI::AsSizeValue(false))
      ->type_name("SIZE");
  CLI::Validator known(
      [](std::string& name) {
        for (const Mode& mode : dirty_watch::modes) {
          if (name == mode.name) {
            return std::string();
          }
        }
        return "there is no mode " + name;
      },
      "");
  app.add_option("--mode", only, "Only this one: log, manual, manual-64 or ring")
      ->check(known)
      ->type_name("");
  app.add_flag("--json", json, "Print JSON instead of a table");
  app.footer("Exit status: 0, 1 if a page was missed or KVM cannot be used, 2 for wrong usage.");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : wrong_usage;
  }
  if (const std::string wrong = problem(plan); !wrong.empty()) {
    std::fprintf(stderr, "dirty-watch: %s\n", wrong.c_str());
    return wrong_usage;
  }

  Rows rows;
  std::uint64_t missed = 0;
  try {
    if (!json) {
      print_head(plan);
    }
    for (const Mode& mode : dirty_watch::modes) {
      if (!only.empty() && only != mode.name) {
        continue;
      }
      rows.emplace_back(mode, dirty_watch::watch(mode, plan));
      missed += rows.back().second.missed;
      if (!json) {
        print_row(mode, rows.back().second);
      }
    }
  } catch (const std::exception& error) {
    std::fflush(stdout);
    std::fprintf(stderr, "dirty-watch: %s\n", error.what());
    return failed;
  }
  if (json) {
    std::printf("%s\n", to_json(plan, rows).dump(2).c_str());
  } else {
    print_foot();
  }
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {
    std::perror("dirty-watch: standard output");
    return failed;
  }
  return missed == 0 ? 0 : failed;
}
