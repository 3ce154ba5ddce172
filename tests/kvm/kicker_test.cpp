// SPDX-License-Identifier: MIT
// How a vCPU is stopped, and what its first run in a thread says about it.
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <optional>
#include <string>
#include <thread>

#include <sys/resource.h>

#include "support/kicking.hpp"
#include "support/rounds.hpp"

namespace kvm_test {
namespace {

/// Moves a spinning guest on to code that exits: shows that it can be entered.
std::string run_out(Guest& guest) {
  constexpr std::uint64_t out_at = 0x2000;
  guest.load(out_at, out_forever);
  jump_to(guest.vcpu, out_at);
  return run(guest.vcpu);
}

TEST(Kicker, StopsASpinningGuest) {
  const Handler handler(SIGUSR1);
  auto guest = Guest::running(spin);
  const auto kicker = guest.vcpu.kicker(SIGUSR1);
  EXPECT_EQ(kicker.signal(), SIGUSR1);
  Running running(guest.vcpu);
  EXPECT_FALSE(running.done());
  const kvm::Kicker copy = kicker;
  copy.kick();
  EXPECT_EQ(running.wait(), "kicked");
}

TEST(Kicker, ARealTimeSignalDoesTheSame) {
  const Handler handler(SIGRTMIN + 1);
  auto guest = Guest::running(spin);
  const auto kicker = guest.vcpu.kicker(SIGRTMIN + 1);
  Running running(guest.vcpu);
  kicker.kick();
  EXPECT_EQ(running.wait(), "kicked");
}

TEST(Kicker, TwoSignalsForOneVcpu) {
  const Handler first(SIGUSR1);
  const Handler second(SIGRTMIN);
  auto guest = Guest::running(spin);
  const std::array kickers = {guest.vcpu.kicker(SIGUSR1), guest.vcpu.kicker(SIGRTMIN)};
  for (const auto& kicker : kickers) {
    Running running(guest.vcpu);
    kicker.kick();
    EXPECT_EQ(running.wait(), "kicked");
  }
}

TEST(Kicker, WithoutAKickNoRunIsInterrupted) {
  const Handler handler(SIGUSR1);
  auto guest = Guest::running(out_forever);
  const auto kicker = guest.vcpu.kicker(SIGUSR1);
  const auto entry_kicker = guest.vcpu.entry_kicker();
  for (int i = 0; i < 1000; ++i) {
    ASSERT_EQ(run(guest.vcpu), "out");
  }
}

TEST(Kicker, ASignalOfTheProgramsOwnIsNoKick) {
  const Handler handler(SIGUSR1);
  auto guest = Guest::running(spin);
  const auto kicker = guest.vcpu.kicker(SIGUSR1);
  Running running(guest.vcpu);
  pthread_kill(running.thread(), SIGUSR1);
  EXPECT_EQ(running.wait(), "interrupted");
}

TEST(Kicker, KicksBeforeARunMakeOneInterruption) {
  const Handler handler(SIGUSR1);
  auto guest = Guest::running(out_forever);
  const auto kicker = guest.vcpu.kicker(SIGUSR1);
  const auto entry_kicker = guest.vcpu.entry_kicker();
  for (int i = 0; i < 3; ++i) {
    kicker.kick();
    entry_kicker.kick();
  }
  EXPECT_EQ(run(guest.vcpu), "kicked");
  EXPECT_EQ(run(guest.vcpu), "out");
  entry_kicker.kick();
  kicker.kick();
  EXPECT_EQ(run(guest.vcpu), "kicked");
  EXPECT_EQ(run(guest.vcpu), "out");
}

TEST(Kicker, AnEntryKickerStopsTheNextEntryOnly) {
  const Handler handler(SIGUSR1);
  auto guest = Guest::running(spin);
  const auto kicker = guest.vcpu.kicker(SIGUSR1);
  const auto entry_kicker = guest.vcpu.entry_kicker();
  EXPECT_EQ(entry_kicker.signal(), 0);
  entry_kicker.kick();
  EXPECT_EQ(run(guest.vcpu), "kicked");
  Running running(guest.vcpu);
  entry_kicker.kick();
  EXPECT_EQ(running.wait(50ms), "running");
  kicker.kick();  // The entry kicker's request is not in its way.
  EXPECT_EQ(running.wait(), "kicked");
}

TEST(Kicker, AnEntryKickerNeedsNoSignal) {
  auto guest = Guest::running(out_forever);
  const auto entry_kicker = guest.vcpu.entry_kicker();
  EXPECT_EQ(run(guest.vcpu), "out");
  entry_kicker.kick();
  EXPECT_EQ(run(guest.vcpu), "kicked");
  EXPECT_EQ(run(guest.vcpu), "out");
}

TEST(Kicker, AKickLeavesADeviceReadWhole) {
  const Handler handler(SIGUSR1);
  auto guest = Guest::running(count_in);
  const auto kicker = guest.vcpu.kicker(SIGUSR1);
  guest.vcpu.run().visit([](DeviceRead read) { read.data[0] = std::byte{0x5a}; },
                         [](auto&&) { FAIL(); });
  kicker.kick();
  EXPECT_TRUE(guest.vcpu.completion_pending());
  EXPECT_EQ(run(guest.vcpu), "kicked");
  EXPECT_FALSE(guest.vcpu.completion_pending());
  EXPECT_EQ(byte_read(guest.vcpu), 0x5au);
}

TEST(Kicker, ACompletionLeavesTheKickToTheNextRun) {
  const Handler handler(SIGUSR1);
  auto guest = Guest::running(in_forever);
  const auto kicker = guest.vcpu.kicker(SIGUSR1);
  const auto entry_kicker = guest.vcpu.entry_kicker();
  for (const auto& each : {kicker, entry_kicker}) {
    EXPECT_EQ(run(guest.vcpu), "in");
    each.kick();
    EXPECT_FALSE(guest.vcpu.complete());
    EXPECT_FALSE(guest.vcpu.complete());
    EXPECT_EQ(run(guest.vcpu), "kicked");
  }
  EXPECT_EQ(run(guest.vcpu), "in");
}

TEST(Kicker, FollowsTheVcpuIntoAnotherThreadAndHandle) {
  const Handler handler(SIGUSR1);
  auto guest = Guest::running(spin);
  const auto kicker = guest.vcpu.kicker(SIGUSR1);
  for (int i = 0; i < 3; ++i) {
    kvm::Vcpu moved = std::move(guest.vcpu);
    Running running(moved);
    kicker.kick();
    EXPECT_EQ(running.wait(), "kicked");
    guest.vcpu = std::move(moved);
  }
}

TEST(Kicker, DoesNothingOnceTheVcpuIsGone) {
  const Handler handler(SIGUSR1);
  std::optional<Guest> guest(Guest::running(out_forever));
  const auto kicker = guest->vcpu.kicker(SIGUSR1);
  const auto entry_kicker = guest->vcpu.entry_kicker();
  EXPECT_EQ(run(guest->vcpu), "out");
  signals_handled = 0;
  guest.reset();
  kicker.kick();
  entry_kicker.kick();
  EXPECT_EQ(signals_handled, 0u);
}

TEST(Kicker, RefusesSignalsThatCannotBeHandled) {
  auto guest = Guest::running(spin);
  for (const int signal : {0, -1, SIGKILL, SIGSTOP, 32, 33, SIGRTMAX + 1}) {
    const auto kicker = guest.vcpu.try_kicker(signal);
    ASSERT_FALSE(kicker) << signal;
    EXPECT_EQ(kicker.error().error_number(), EINVAL);
    EXPECT_NE(std::string(kicker.error().what()).find("signal=" + std::to_string(signal)),
              std::string::npos);
  }
  const kvm::Vcpu moved = std::move(guest.vcpu);
  EXPECT_EQ(guest.vcpu.try_kicker(SIGUSR1).error().error_number(), EBADF);
  EXPECT_EQ(guest.vcpu.try_entry_kicker().error().error_number(), EBADF);
}

TEST(KickerSignals, TheFirstRunReportsABlockedOne) {
  const Handler handler(SIGUSR1);
  auto guest = Guest::running(out_forever);
  const auto kicker = guest.vcpu.kicker(SIGUSR1);
  EXPECT_EQ(run(guest.vcpu), "out");  // Not blocked in this thread.
  std::thread([&] {
    const auto set = set_of(SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &set, nullptr);
    const std::string message =
        "the kicker's signal is blocked in this thread: unblock it, or let it in with "
        "Vcpu::set_signal_mask (22)";
    EXPECT_EQ(run(guest.vcpu), message);
    EXPECT_EQ(run(guest.vcpu), message);
    pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
    EXPECT_EQ(run(guest.vcpu), "out");
  }).join();
}

TEST(KickerSignals, TheFirstRunReportsAnIgnoredOne) {
  auto guest = Guest::running(out_forever);
  const auto kicker = guest.vcpu.kicker(SIGUSR1);
  {
    const Handler ignored(SIGUSR1, SIG_IGN);
    EXPECT_EQ(run(guest.vcpu),
              "the kicker's signal is ignored in this process: install a handler (22)");
  }
  const Handler handler(SIGUSR1);
  EXPECT_EQ(run(guest.vcpu), "out");
}

TEST(KickerSignals, TheFirstRunReportsOneAtItsDefault) {
  auto guest = Guest::running(out_forever);
  EXPECT_EQ(run(guest.vcpu), "out");
  const auto kicker = guest.vcpu.kicker(SIGUSR1);  // Looks again.
  EXPECT_EQ(run(guest.vcpu),
            "the kicker's signal has no handler in this process: install one (22)");
  const Handler handler(SIGUSR1);
  EXPECT_EQ(run(guest.vcpu), "out");
}

TEST(KickerSignals, ABlockedOneIsLetInByTheSignalMaskAndTaken) {
  const auto set = set_of(SIGUSR1);
  auto guest = Guest::running(spin);
  const auto kicker = guest.vcpu.kicker(SIGUSR1);  // No handler: it is never delivered.
  sigset_t none;
  sigemptyset(&none);
  guest.vcpu.set_signal_mask(none);
  std::string first;
  std::string second;
  std::string without_mask;
  bool pending = true;
  std::atomic<bool> inside{false};
  std::thread runner([&] {
    pthread_sigmask(SIG_BLOCK, &set, nullptr);
    inside = true;
    first = run(guest.vcpu);
    sigset_t left;
    sigpending(&left);
    pending = sigismember(&left, SIGUSR1) == 1;
    second = run_out(guest);
    guest.vcpu.clear_signal_mask();
    without_mask = run(guest.vcpu);
  });
  while (!inside) {
    std::this_thread::yield();
  }
  std::this_thread::sleep_for(20ms);
  kicker.kick();
  runner.join();
  EXPECT_EQ(first, "kicked");
  EXPECT_FALSE(pending);
  EXPECT_EQ(second, "out");
  EXPECT_NE(without_mask.find("is blocked in this thread"), std::string::npos) << without_mask;
}

TEST(KickerSignals, TheFirstRunReportsOneThatTheSignalMaskBlocks) {
  const Handler handler(SIGUSR1);
  auto guest = Guest::running(out_forever);
  const auto kicker = guest.vcpu.kicker(SIGUSR1);
  guest.vcpu.set_signal_mask(set_of(SIGUSR1));
  EXPECT_EQ(run(guest.vcpu), "the kicker's signal is blocked by Vcpu::set_signal_mask (22)");
  guest.vcpu.clear_signal_mask();
  EXPECT_EQ(run(guest.vcpu), "out");
}

std::optional<kvm::Kicker> kicked_by_handler;
void kick_in_handler(int) {
  const int before = errno;
  errno = 1234;
  kicked_by_handler->kick();
  if (errno != 1234) {
    signals_outside = 1;
  }
  errno = before;
}

TEST(KickerSignals, AHandlerMayKick) {
  const Handler handler(SIGUSR1);
  const Handler kicking(SIGALRM, kick_in_handler);
  signals_outside = 0;
  auto guest = Guest::running(spin);
  kicked_by_handler = guest.vcpu.kicker(SIGUSR1);
  {
    Running running(guest.vcpu);  // In a thread that is not the vCPU's.
    raise(SIGALRM);
    EXPECT_EQ(running.wait(), "kicked");
  }
  {
    Running running(guest.vcpu);  // In the vCPU's own, which it interrupts.
    pthread_kill(running.thread(), SIGALRM);
    EXPECT_EQ(running.wait(), "kicked");
  }
  kicked_by_handler.reset();
  EXPECT_EQ(signals_outside, 0u) << "errno was changed, or the signal came late";
}

/// A limit on queued signals of 0: real-time signals cannot be sent.
class FullQueue {
 public:
  FullQueue() {
    getrlimit(RLIMIT_SIGPENDING, &before_);
    const rlimit none{.rlim_cur = 0, .rlim_max = before_.rlim_max};
    setrlimit(RLIMIT_SIGPENDING, &none);
  }
  FullQueue(const FullQueue&) = delete;
  FullQueue& operator=(const FullQueue&) = delete;
  ~FullQueue() { setrlimit(RLIMIT_SIGPENDING, &before_); }

 private:
  rlimit before_{};
};

TEST(KickerSignals, AFullQueueDelaysAKick) {
  const Handler handler(SIGRTMIN);
  auto guest = Guest::running(spin);
  const auto kicker = guest.vcpu.kicker(SIGRTMIN);
  Running running(guest.vcpu);
  std::optional<FullQueue> full(std::in_place);
  std::thread other([&] { kicker.kick(); });
  EXPECT_EQ(running.wait(10ms), "running");
  full.reset();
  EXPECT_EQ(running.wait(), "kicked");
  other.join();
}

TEST(KickerSignals, AFullQueueDoesNotHangAHandlerInTheVcpusThread) {
  const Handler handler(SIGRTMIN);
  const Handler kicking(SIGALRM, kick_in_handler);
  auto guest = Guest::running(spin);
  kicked_by_handler = guest.vcpu.kicker(SIGRTMIN);
  Running running(guest.vcpu);
  {
    const FullQueue full;
    pthread_kill(running.thread(), SIGALRM);
    EXPECT_EQ(running.wait(), "kicked");
  }
  running.wait();
  kicked_by_handler.reset();
}

// The limit is the user's: other processes can keep the queue full for good.
TEST(KickerSignals, AFullQueueDoesNotHoldAKickForEver) {
  EXPECT_EQ(in_child([]() -> std::string {
              const Handler handler(SIGRTMIN);
              auto guest = Guest::running(spin);
              const auto kicker = guest.vcpu.kicker(SIGRTMIN);
              Running running(guest.vcpu);
              const FullQueue full;
              std::atomic<bool> returned{false};
              std::thread other([&] {
                kicker.kick();
                returned = true;
              });
              const auto deadline = Clock::now() + 60s;  // Short sleeps are long when emulated.
              while (!returned && Clock::now() < deadline) {
                std::this_thread::sleep_for(1ms);
              }
              const bool in_time = returned;
              pthread_kill(running.thread(), SIGUSR2);  // A plain signal is never refused.
              const std::string end = running.wait();
              other.join();
              if (!in_time) {
                return "kick() did not return";
              }
              return end == "kicked" ? "" : end;
            }),
            "");
}

TEST(KickerSignals, AKickAfterARefusedOneIsSent) {
  EXPECT_EQ(in_child([]() -> std::string {
              const Handler handler(SIGRTMIN);
              auto guest = Guest::running(spin);
              const auto kicker = guest.vcpu.kicker(SIGRTMIN);
              Running running(guest.vcpu);
              {
                const FullQueue full;
                kicker.kick();
                if (running.wait(10ms) != "running") {
                  return "the refused kick ended the run";
                }
              }
              kicker.kick();
              const std::string end = running.wait();
              return end == "kicked" ? "" : end;
            }),
            "");
}

// The threads of pthread_cancel() end where they can be unwound, which is not within run().
TEST(KickerSignals, ARunIsNoCancellationPoint) {
#if defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "address sanitizer takes the stack of a cancelled thread for out of scope";
#endif
  EXPECT_EQ(in_child([]() -> std::string {
              const auto set = set_of(SIGUSR1);
              pthread_sigmask(SIG_BLOCK, &set, nullptr);
              auto guest = Guest::running(spin);
              sigset_t none;
              sigemptyset(&none);
              guest.vcpu.set_signal_mask(none);
              const auto kicker = guest.vcpu.kicker(SIGUSR1);
              std::atomic<bool> inside{false};
              std::string first;
              std::thread runner([&] {
                inside = true;
                first = run(guest.vcpu);
                while (true) {
                  pthread_testcancel();
                }
              });
              while (!inside) {
                std::this_thread::yield();
              }
              std::this_thread::sleep_for(20ms);
              pthread_cancel(runner.native_handle());
              std::this_thread::sleep_for(20ms);
              kicker.kick();
              runner.join();
              return first == "kicked" ? "" : "the run ended with " + first;
            }),
            "");
}

TEST(KickerFork, AChildsKickIsNotTheParents) {
  const Handler handler(SIGUSR1);
  auto guest = Guest::running(count_in);
  const auto kicker = guest.vcpu.kicker(SIGUSR1);
  const auto entry_kicker = guest.vcpu.entry_kicker();
  EXPECT_EQ(run(guest.vcpu), "in");
  signals_handled = 0;
  EXPECT_EQ(in_child([&]() -> std::string {
              kicker.kick();
              entry_kicker.kick();
              const std::string refused =
                  "after a fork KVM refuses the child; or KVM has marked the VM as dead (5)";
              const auto completed = guest.vcpu.complete();
              if (!completed || outcome(*completed) != refused) {
                return "complete() did not fail with EIO";
              }
              if (const auto end = run(guest.vcpu); end != refused) {
                return "run() ended with " + end;
              }
              { const kvm::Vcpu gone = std::move(guest.vcpu); }
              kicker.kick();
              return signals_handled == 0 ? "" : "the child was sent a signal";
            }),
            "");
  EXPECT_EQ(signals_handled, 0u);
  EXPECT_FALSE(guest.vcpu.complete());
  EXPECT_EQ(run_out(guest), "out");
  kicker.kick();
  EXPECT_EQ(run(guest.vcpu), "kicked");
}

TEST(KickerFork, AChildOfAForkDuringAKickDoesNotWaitForIt) {
  const Handler handler(SIGRTMIN);
  auto guest = Guest::running(spin);
  const auto kicker = guest.vcpu.kicker(SIGRTMIN);
  Running running(guest.vcpu);
  std::optional<FullQueue> full(std::in_place);
  std::thread other([&] { kicker.kick(); });
  std::this_thread::sleep_for(20ms);  // It is in flight now.
  EXPECT_EQ(in_child([&]() -> std::string {
              alarm(20);
              const auto end = run(guest.vcpu);
              return end.find("after a fork") == 0 ? "" : end;
            }),
            "");
  full.reset();
  other.join();
  pthread_kill(running.thread(), SIGUSR2);  // Should the kick have given up by then.
  EXPECT_EQ(running.wait(), "kicked");
}

/// Kicks a spinning guest again and again, in a child where membarrier is
/// refused from some point on.
std::string kick_without_membarrier(bool from_the_start, unsigned long kicks) {
  return in_child([&]() -> std::string {
    const Handler handler(SIGUSR1);
    auto guest = Guest::running(spin);
    std::optional<kvm::Kicker> kicker;
    if (!from_the_start) {
      kicker = guest.vcpu.kicker(SIGUSR1);
    }
    if (!refuse_membarrier()) {
      return "skip";
    }
    if (from_the_start) {
      kicker = guest.vcpu.kicker(SIGUSR1);
    }
    std::atomic<bool> end{false};
    Acknowledged side;
    const pthread_t runner = pthread_self();
    const Handler rescue(SIGUSR2, [](int) {});
    std::thread thread([&] {
      side.kick(*kicker, kicks, 0, end);
      while (side.lost() && !end) {
        pthread_kill(runner, SIGUSR2);
        std::this_thread::sleep_for(1ms);
      }
    });
    std::string problem;
    while (!side.finished() && !side.lost() && problem.empty()) {
      const std::string outcome = run(guest.vcpu);
      if (outcome == "kicked") {
        side.see();
      } else if (!side.lost()) {
        problem = outcome;
      }
    }
    end = true;
    thread.join();
    if (side.lost()) {
      problem += " a kick was lost";
    }
    if (!thread_sanitizer && signals_outside != 0) {
      problem += " a signal came late";
    }
    return problem;
  });
}

TEST(KickerFork, NoneIsLostWhereMembarrierIsRefused) {
  const std::string problem = kick_without_membarrier(true, kvm_test::rounds(20'000));
  if (problem == "skip") {
    GTEST_SKIP() << "seccomp filters are refused here";
  }
  EXPECT_EQ(problem, "");
}

TEST(KickerFork, NoneIsLostWhereMembarrierIsRefusedLater) {
  const std::string problem = kick_without_membarrier(false, kvm_test::rounds(10'000));
  if (problem == "skip") {
    GTEST_SKIP() << "seccomp filters are refused here";
  }
  EXPECT_EQ(problem, "");
}

}  // namespace
}  // namespace kvm_test
