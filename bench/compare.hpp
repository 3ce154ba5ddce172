// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_BENCH_COMPARE_HPP
#define KVM_HPP_BENCH_COMPARE_HPP

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

/// @file
/// Measures the library against the raw call, both in one run: small batches of
/// the two take turns, each pair of batches gives a ratio, and the median of
/// those counts. So what the machine does meanwhile hits both alike.

namespace kvm_bench {

/// What a ratio must be.
struct Target {
  enum class Sense { at_most, at_least };
  double limit;
  Sense sense = Sense::at_most;
};

struct Ratio {
  std::string name;
  double value;
  Target target;
};
inline std::vector<Ratio> ratios;

inline double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

/// Nanoseconds per call of a batch.
template <class F>
double time_batch(F& call, unsigned batch) {
  const auto start = std::chrono::steady_clock::now();
  for (unsigned i = 0; i < batch; ++i) {
    call();
  }
  const std::chrono::duration<double, std::nano> time = std::chrono::steady_clock::now() - start;
  return time.count() / batch;
}

/// How often things are timed.
struct Effort {
  unsigned rounds = 400;
  unsigned batch = 250;  ///< calls between two looks at the clock
};

/// What a comparison's value is: the share of the floor's time that the library
/// takes, or of its speed that it reaches.
enum class Share { of_time, of_speed };

/// Registers a comparison of library() with floor().
/// @param make returns the pair {floor, library} of functions to time; called
///             when the comparison runs
template <class Make>
void compare(const std::string& name, Target target, Make make, Effort effort = {},
             Share share = Share::of_time) {
  benchmark::RegisterBenchmark(
      name.c_str(),
      [=](benchmark::State& state) {
        for ([[maybe_unused]] auto _ : state) {
          auto [floor, library] = make();
          std::vector<double> floors;
          std::vector<double> libraries;
          std::vector<double> shares;
          time_batch(floor, effort.batch);
          time_batch(library, effort.batch);
          for (unsigned round = 0; round < effort.rounds; ++round) {
            const bool floor_first = round % 2 == 0;
            double both[2];
            for (const bool first : {true, false}) {
              const bool is_floor = first == floor_first;
              both[is_floor ? 0 : 1] =
                  is_floor ? time_batch(floor, effort.batch) : time_batch(library, effort.batch);
            }
            floors.push_back(both[0]);
            libraries.push_back(both[1]);
            shares.push_back(share == Share::of_time ? both[1] / both[0] : both[0] / both[1]);
          }
          const double value = median(shares);
          state.counters["floor_ns"] = median(std::move(floors));
          state.counters["library_ns"] = median(std::move(libraries));
          state.counters["ratio"] = value;
          ratios.push_back({name, value, target});
        }
      })
      ->Iterations(1)
      ->Unit(benchmark::kMillisecond);
}

/// Registers how many bytes a nanosecond (GB/s) library() gets through.
/// @param make returns the function, which goes through `bytes`
template <class Make>
void measure_rate(const std::string& name, Target target, double bytes, Make make,
                  Effort effort = {}) {
  benchmark::RegisterBenchmark(name.c_str(),
                               [=](benchmark::State& state) {
                                 for ([[maybe_unused]] auto _ : state) {
                                   auto library = make();
                                   std::vector<double> times;
                                   time_batch(library, effort.batch);
                                   for (unsigned round = 0; round < effort.rounds; ++round) {
                                     times.push_back(time_batch(library, effort.batch));
                                   }
                                   const double time = median(std::move(times));
                                   state.counters["library_ns"] = time;
                                   ratios.push_back({name, bytes / time, target});
                                 }
                               })
      ->Iterations(1)
      ->Unit(benchmark::kMillisecond);
}

/// Runs what is registered and prints a line for each.
inline int run(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) {
    return 1;
  }
  benchmark::RunSpecifiedBenchmarks();
  for (const auto& [name, value, target] : ratios) {
    const bool at_most = target.sense == Target::Sense::at_most;
    const bool ok = at_most ? value <= target.limit : value >= target.limit;
    std::printf("ratio %s %.3f target %s%.2f %s\n", name.c_str(), value,
                at_most ? "<=" : ">=", target.limit, ok ? "ok" : "short");
  }
  benchmark::Shutdown();
  return 0;
}

}  // namespace kvm_bench

#endif
