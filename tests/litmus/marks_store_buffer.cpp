// SPDX-License-Identifier: MIT
// A mark that is already set is skipped, while the store before it may still sit
// in the writer's store buffer. It is not lost, since the harvester takes the
// marks, fences all threads, and only then copies. Built with WITHOUT_FENCE, it
// is lost now and then.
//
// usage: marks_store_buffer SECONDS
#include <kvm/detail/barriers.hpp>
#include <kvm/detail/dirty_words.hpp>
#include <kvm/detail/guest_access.hpp>

#include <cstdio>
#include <cstdlib>
#include <vector>

#include "two_threads.hpp"

namespace detail = kvm::detail;

int main(int argc, char** argv) {
  const double seconds = argc > 1 ? std::atof(argv[1]) : 5;
  if (!detail::register_membarrier()) {
    std::puts("membarrier is refused here");
    return 2;
  }
  detail::DirtyWords marks(1);
  alignas(64) std::byte memory[64] = {};
  // Stores to lines that are in no cache keep the store buffer busy.
  std::vector<std::uint64_t> cold(std::size_t{64} << 20 >> 3);
  std::atomic<std::uint64_t> asked{0};
  std::atomic<std::uint64_t> answered{0};
  std::atomic<bool> stop{false};

  kvm_litmus::Other writer([&] {
    std::uint64_t position = 1;
    std::uint64_t value = 0;
    for (std::uint64_t round = 1; !stop.load(std::memory_order_relaxed); ++round) {
      while (asked.load(std::memory_order_acquire) < round) {
        if (stop.load(std::memory_order_relaxed)) {
          return;
        }
      }
      // The first writes set the mark; the last one finds it set, or not.
      const auto writes = 2 + round % 5;
      for (std::uint64_t i = 0; i < writes; ++i) {
        if (i + 1 == writes) {
          for (int j = 0; j < 6; ++j) {
            position = position * 6364136223846793005 + 1442695040888963407;
            __atomic_store_n(&cold[position >> 41], value, __ATOMIC_RELAXED);
          }
        }
        detail::store<std::uint64_t>(memory, ++value);
        detail::light_fence();
        detail::DirtyWords::mark(marks.data(), 0);
      }
      answered.store(value, std::memory_order_release);
    }
  });

  std::uint64_t rounds = 0;
  std::uint64_t lost = 0;
  std::uint64_t copied = 0;
  const auto harvest = [&] {
    std::uint64_t taken = 0;
    if (marks.take(&taken)) {
#if !defined(WITHOUT_FENCE)
      detail::heavy_fence();
#endif
      copied = detail::load<std::uint64_t>(memory);
    }
  };
  kvm_litmus::Deadline deadline(seconds);
  std::uint64_t last = 0;
  while (!deadline.passed() && lost == 0) {
    ++rounds;
    asked.store(rounds, std::memory_order_release);
    std::uint64_t value;
    do {
      harvest();
      value = answered.load(std::memory_order_acquire);
    } while (value == last);
    last = value;
    harvest();  // Whatever was marked is copied now.
    lost += copied != value;
  }
  stop = true;
  std::printf("%llu rounds, %llu lost\n", static_cast<unsigned long long>(rounds),
              static_cast<unsigned long long>(lost));
  return lost == 0 ? 0 : 1;
}
