// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_TESTS_LITMUS_TWO_THREADS_HPP
#define KVM_HPP_TESTS_LITMUS_TWO_THREADS_HPP

#include <atomic>
#include <chrono>
#include <thread>
#include <utility>

#include <sched.h>

/// @file
/// Two threads on two CPUs, running freely.

namespace kvm_litmus {

/// Keeps the calling thread on one of the CPUs that it may use, so that two with
/// different numbers never share one where there are two.
inline void stay_on_cpu(int number) {
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) {
    return;
  }
  number %= CPU_COUNT(&allowed);
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &allowed) && number-- == 0) {
      cpu_set_t one;
      CPU_ZERO(&one);
      CPU_SET(cpu, &one);
      sched_setaffinity(0, sizeof one, &one);
      return;
    }
  }
}

/// Runs a function in another thread, on another CPU than the one that made it.
class Other {
 public:
  template <class F>
  explicit Other(F&& body)
      : thread_([body = std::forward<F>(body)]() mutable {
          stay_on_cpu(1);
          body();
        }) {
    stay_on_cpu(0);
  }
  Other(const Other&) = delete;
  Other& operator=(const Other&) = delete;
  ~Other() { thread_.join(); }

 private:
  std::thread thread_;
};

class Deadline {
 public:
  explicit Deadline(double seconds)
      : end_(std::chrono::steady_clock::now() +
             std::chrono::duration_cast<std::chrono::steady_clock::duration>(
                 std::chrono::duration<double>(seconds))) {}
  bool passed() {
    // The clock costs more than a round of most tests.
    return ++calls_ % 64 == 0 && std::chrono::steady_clock::now() > end_;
  }

 private:
  std::chrono::steady_clock::time_point end_;
  unsigned calls_ = 0;
};

}  // namespace kvm_litmus

#endif
