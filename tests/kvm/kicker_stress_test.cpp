// SPDX-License-Identifier: MIT
// Kicks by the million against running guests: none may be lost.
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <csignal>
#include <cstdint>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "support/kicking.hpp"

namespace kvm_test {
namespace {

/// Kicks in all, each of them seen. A third of it without exceptions, where the
/// same is tested again; less under sanitizers, which make each dearer.
constexpr unsigned long million = thread_sanitizer ? 100'000
#if defined(__SANITIZE_ADDRESS__)
                                  : true ? 300'000
#endif
                                         : 1'000'000;

/// Kicks from several threads, until each has its share seen or one is lost.
template <std::size_t N>
class Storm {
 public:
  /// @param share kicks per thread
  Storm(const std::array<kvm::Kicker, N>& kickers, unsigned long share, pthread_t runner)
      : kickers_(kickers), runner_(runner) {
    for (std::size_t i = 0; i < N; ++i) {
      threads_[i] = std::thread([this, i, share] {
        sides_[i].kick(kickers_[i], share, end_);
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
        problem += "kick " + std::to_string(sides_[i].kicks()) + " of thread " +
                   std::to_string(i) + " was not seen within 10 s. ";
      }
      kicks_ += sides_[i].kicks();
    }
    return problem;
  }
  unsigned long kicks() const { return kicks_; }

 private:
  std::array<Acknowledged, N> sides_;
  std::array<kvm::Kicker, N> kickers_;
  pthread_t runner_;
  Handler rescue_{SIGUSR2, [](int) {}};
  std::atomic<bool> end_{false};
  std::atomic<bool> left_{false};
  std::array<std::thread, N> threads_;
  unsigned long kicks_ = 0;
};

TEST(KickerStressSerial, AMillionKicksOfASpinningGuest) {
  const Handler handler(SIGUSR1);
  auto guest = Guest::long_mode(spin);
  const auto kicker = guest.vcpu.kicker(SIGUSR1);
  signals_outside = 0;
  constexpr std::size_t kickers = 3;
  Storm<kickers> storm({kicker, kicker, kicker}, million / kickers + 1, pthread_self());
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
  RecordProperty("interrupted", std::to_string(interrupted));
}

}  // namespace
}  // namespace kvm_test
