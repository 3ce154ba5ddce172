// SPDX-License-Identifier: MIT
// Kicks by the million against running guests: none may be lost.
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "support/kicking.hpp"
#include "support/rounds.hpp"

namespace kvm_test {
namespace {

const unsigned long million = rounds(1'000'000);

/// Kicks from several threads, until each has its share seen or one is lost.
template <std::size_t N>
class Storm {
 public:
  /// @param share kicks per thread
  /// @param pause see Acknowledged::kick
  Storm(const std::array<kvm::Kicker, N>& kickers, unsigned long share, unsigned pause,
        pthread_t runner)
      : kickers_(kickers), runner_(runner) {
    for (std::size_t i = 0; i < N; ++i) {
      threads_[i] = std::thread([this, i, share, pause] {
        sides_[i].kick(kickers_[i], share, pause, end_);
        if (sides_[i].lost()) {
          end_ = true;
          while (!left_) {  // The runner does not know: a kick was lost.
            pthread_kill(runner_, SIGUSR2);
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
          }
        }
      });
    }
  }
  Storm(const Storm&) = delete;
  Storm& operator=(const Storm&) = delete;

  /// For the runner, after Interrupted.
  void see() {
    for (auto& side : sides_) {
      side.see();
    }
  }
  bool over() const {
    if (end_) {
      return true;
    }
    for (const auto& side : sides_) {
      if (!side.finished()) {
        return false;
      }
    }
    return true;
  }
  /// Ends it and says which kick was lost, or nothing.
  std::string join() {
    left_ = true;
    std::string problem;
    for (std::size_t i = 0; i < N; ++i) {
      threads_[i].join();
      if (sides_[i].lost()) {
        problem += "kick " + std::to_string(sides_[i].kicks()) + " of thread " + std::to_string(i) +
                   " was not seen within 10 s. ";
      }
      kicks_ += sides_[i].kicks();
      bursts_ += sides_[i].bursts();
    }
    return problem;
  }
  unsigned long kicks() const { return kicks_; }
  unsigned long bursts() const { return bursts_; }

 private:
  std::array<Acknowledged, N> sides_;
  std::array<kvm::Kicker, N> kickers_;
  pthread_t runner_;
  Handler rescue_{SIGUSR2, [](int) {}};
  std::atomic<bool> end_{false};
  std::atomic<bool> left_{false};
  std::array<std::thread, N> threads_;
  unsigned long kicks_ = 0;
  unsigned long bursts_ = 0;
};

/// Writes how many there were into the test report.
template <std::size_t N>
void record(const Storm<N>& storm, unsigned long interrupted) {
  ::testing::Test::RecordProperty("kicks", std::to_string(storm.kicks()));
  ::testing::Test::RecordProperty("awaited", std::to_string(storm.bursts()));
  ::testing::Test::RecordProperty("interrupted", std::to_string(interrupted));
  std::printf("%lu kicks, %lu of them awaited, %lu times interrupted\n", storm.kicks(),
              storm.bursts(), interrupted);
}

TEST(KickerStressSerial, AMillionKicksOfASpinningGuest) {
  const Handler handler(SIGUSR1);
  auto guest = Guest::running(spin);
  const auto kicker = guest.vcpu.kicker(SIGUSR1);
  signals_outside = 0;
  constexpr std::size_t kickers = 3;
  Storm<kickers> storm({kicker, kicker, kicker}, million / kickers + 1, 0, pthread_self());
  unsigned long interrupted = 0;
  unsigned long without_kick = 0;
  while (!storm.over()) {
    const std::string end = run(guest.vcpu);
    if (end == "kicked") {
      storm.see();
      ++interrupted;
    } else if (end == "interrupted") {
      ++without_kick;
    } else {
      ADD_FAILURE() << end;
      break;
    }
  }
  EXPECT_EQ(storm.join(), "");
  EXPECT_GE(storm.kicks(), million);
  EXPECT_EQ(without_kick, 0u);
  if (!thread_sanitizer) {
    EXPECT_EQ(signals_outside, 0u);
  }
  record(storm, interrupted);
}

/// Signal kickers and one that only stops the next entry, with a guest that
/// exits all the time: every second device read is finished by complete().
TEST(KickerStressSerial, KicksDuringCompletionAreNeitherSwallowedNorLoseData) {
  const Handler handler(SIGUSR1);
  auto guest = Guest::running(count_in);
  const auto kicker = guest.vcpu.kicker(SIGUSR1);
  signals_outside = 0;
  Storm<3> storm({kicker, kicker, guest.vcpu.entry_kicker()}, million / 10, 300'000,
                 pthread_self());
  unsigned long interrupted = 0;
  unsigned long reads = 0;
  unsigned long completed = 0;
  bool failed = false;
  std::uint8_t value = 0;
  while (!storm.over() && !failed) {
    inside_run = 1;
    guest.vcpu.run().visit(
        [&](DeviceRead read) { read.data[0] = std::byte{++value}; },
        [&](kvm::exits::Interrupted end) {
          failed = !end.kicked;
          storm.see();
          ++interrupted;
        },
        [&](auto&&) { failed = true; });  // The guest's write: a read went wrong.
    if (++reads % 2 == 0 && guest.vcpu.completion_pending()) {
      const auto more = guest.vcpu.complete();
      inside_run = 0;
      ++completed;
      ASSERT_FALSE(more);
      ASSERT_FALSE(guest.vcpu.completion_pending());
      ASSERT_EQ(byte_read(guest.vcpu), value);
    }
    inside_run = 0;
  }
  EXPECT_FALSE(failed);
  EXPECT_EQ(storm.join(), "");
  EXPECT_GE(storm.kicks(), million / 10 * 3);
  EXPECT_GT(completed, million / 100);
  if (!thread_sanitizer) {
    EXPECT_EQ(signals_outside, 0u);
  }
  record(storm, interrupted);
}

/// Threads that run the vCPU a few times and end, under kicks that do not wait.
TEST(KickerStressSerial, NoSignalFollowsAThreadOutOfRun) {
  const Handler handler(SIGUSR1);
  auto guest = Guest::running(out_forever);
  const auto kicker = guest.vcpu.kicker(SIGUSR1);
  signals_handled = 0;
  signals_outside = 0;
  std::atomic<bool> end{false};
  std::array<std::thread, 2> kickers;
  for (auto& thread : kickers) {
    thread = std::thread([&] {
      while (!end) {
        kicker.kick();
      }
    });
  }
  unsigned long kicked = 0;
  bool failed = false;
  const unsigned long threads = rounds(2'000);
  for (unsigned long i = 0; i < threads && !failed; ++i) {
    std::thread([&] {
      for (unsigned runs = 0; runs < 20; ++runs) {
        const std::string outcome = run(guest.vcpu);
        kicked += outcome == "kicked" ? 1 : 0;
        failed = failed || (outcome != "kicked" && outcome != "out");
        // A while in the program, for signals that come late.
        for (unsigned spins = 0; spins < 100; ++spins) {
          std::atomic_signal_fence(std::memory_order_seq_cst);
        }
      }
    }).join();
  }
  end = true;
  for (auto& thread : kickers) {
    thread.join();
  }
  EXPECT_FALSE(failed);
  const bool all_rounds = threads == 2'000;
  // CPUs that take turns stop a thread once, or not at all.
  EXPECT_GT(kicked, all_rounds ? threads : threads / 2);
  if (!thread_sanitizer) {
    EXPECT_EQ(signals_outside, 0u);
    if (all_rounds) {  // In few rounds, on CPUs that take turns, a kick may need no signal.
      EXPECT_GT(signals_handled, 0u);
    }
  }
  std::printf("%lu times interrupted, %lu signals\n", kicked, signals_handled.load());
}

/// The vCPU and its VM go while kicks are under way.
TEST(KickerStressSerial, KicksOfWhatIsGoneDoNothing) {
  const Handler handler(SIGUSR1);
  std::atomic<bool> end{false};
  const unsigned long repetitions = rounds(200);
  for (unsigned long round = 0; round < repetitions; ++round) {
    std::optional<Guest> guest(Guest::running(out_forever));
    const auto kicker = guest->vcpu.kicker(SIGUSR1);
    const auto entry_kicker = guest->vcpu.entry_kicker();
    end = false;
    std::atomic<unsigned> started{0};
    std::array<std::thread, 2> kickers;
    for (auto& thread : kickers) {
      thread = std::thread([&] {
        ++started;
        while (!end) {
          kicker.kick();
          entry_kicker.kick();
        }
      });
    }
    while (started < kickers.size()) {
      std::this_thread::yield();
    }
    for (unsigned runs = 0; runs < 20; ++runs) {
      run(guest->vcpu);
    }
    {
      kvm::Vcpu vcpu = std::move(guest->vcpu);  // Kicks find it all the same.
      guest.reset();
      run(vcpu);
    }
    std::this_thread::yield();
    end = true;
    for (auto& thread : kickers) {
      thread.join();
    }
    kicker.kick();
  }
}

}  // namespace
}  // namespace kvm_test
