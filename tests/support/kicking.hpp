// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_TESTS_SUPPORT_KICKING_HPP
#define KVM_HPP_TESTS_SUPPORT_KICKING_HPP

#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <random>
#include <string>
#include <thread>
#include <utility>

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/guest.hpp"
#include "support/thread_sanitizer.hpp"

/// @file
/// What the tests of Kicker share.

namespace kvm_test {

using Clock = std::chrono::steady_clock;
using namespace std::chrono_literals;

#if defined(__aarch64__)
/// `b .`
inline constexpr Code spin = {0x14000000};
/// `1: strb w0, [x1]; b 1b`
inline constexpr Code out_forever = {0x39000020, 0x17ffffff};
/// `1: ldrb w0, [x1]; b 1b`
inline constexpr Code in_forever = {0x39400020, 0x17ffffff};
/// Reads a device for ever and expects each value to be one more than the last
/// one, from 0; otherwise it writes to the device.
/// `1: ldrb w0, [x1]; add w2, w2, #1; and w2, w2, #0xff; cmp w0, w2; b.eq 1b; strb w0, [x1]; b 1b`
inline constexpr Code count_in = {0x39400020, 0x11000442, 0x12001c42, 0x6b02001f,
                                  0x54ffff80, 0x39000020, 0x17fffffa};
#else
/// `jmp .`
inline constexpr Code spin = {0xeb, 0xfe};
/// `1: out %al, $0x10; jmp 1b`
inline constexpr Code out_forever = {0xe6, 0x10, 0xeb, 0xfc};
/// `1: in $0x10, %al; jmp 1b`
inline constexpr Code in_forever = {0xe4, 0x10, 0xeb, 0xfc};
/// Reads port 0x10 for ever and expects each value to be one more than the last
/// one, from bl, which begins as 0; otherwise it writes to port 0x11.
/// `1: in $0x10, %al; inc %bl; cmp %bl, %al; jne 2f; jmp 1b; 2: out %al, $0x11; jmp 1b`
inline constexpr Code count_in = {0xe4, 0x10, 0xfe, 0xc3, 0x38, 0xd8, 0x75,
                                  0x02, 0xeb, 0xf6, 0xe6, 0x11, 0xeb, 0xf2};
#endif

/// Whether this thread is within run() or complete(); set by the tests.
inline thread_local volatile std::sig_atomic_t inside_run = 0;
/// How many signals were handled in all, and outside of run().
inline std::atomic<unsigned long> signals_handled{0};
inline std::atomic<unsigned long> signals_outside{0};

inline void count_signal(int) {
  signals_handled.fetch_add(1, std::memory_order_relaxed);
  if (inside_run == 0) {
    signals_outside.fetch_add(1, std::memory_order_relaxed);
  }
}

/// Sets what a signal does, and puts it back.
class Handler {
 public:
  explicit Handler(int signal, void (*handler)(int) = count_signal) : signal_(signal) {
    struct sigaction action {};
    action.sa_handler = handler;
    sigemptyset(&action.sa_mask);
    sigaction(signal, &action, &before_);
  }
  Handler(const Handler&) = delete;
  Handler& operator=(const Handler&) = delete;
  ~Handler() { sigaction(signal_, &before_, nullptr); }

 private:
  int signal_;
  struct sigaction before_ {};
};

inline sigset_t set_of(int signal) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, signal);
  return set;
}

/// What one run ended with, in a form to compare: an exit's name, "kicked", or
/// the cause of a failure.
inline std::string outcome(const kvm::Exit& exit) {
  return exit.visit(
      [](kvm::exits::Interrupted interrupted) -> std::string {
        return interrupted.kicked ? "kicked" : "interrupted";
      },
      [](kvm::exits::Failed failed) -> std::string {
        return failed.cause + std::string(" (") + std::to_string(failed.error_number) + ")";
      },
      [](DeviceRead) -> std::string { return "in"; },
      [](DeviceWrite) -> std::string { return "out"; },
      [&](auto&&) -> std::string { return exit.name(); });
}
inline std::string run(kvm::Vcpu& vcpu) {
  inside_run = 1;
  const kvm::Exit exit = vcpu.run();
  inside_run = 0;
  return outcome(exit);
}

/// Runs a vCPU once in a thread of its own. If it is still running when the
/// test ends, it is brought back by a plain signal to its thread.
class Running {
 public:
  explicit Running(kvm::Vcpu& vcpu)
      : thread_([this, &vcpu] {
          started_ = true;
          result_ = run(vcpu);
          done_ = true;
        }) {
    while (!started_) {
      std::this_thread::yield();
    }
    // Into the guest, which spins: the more a host emulates, the longer it takes.
    for (int i = 0; i < 500 && !done_ && cpu_time() < 20ms; ++i) {
      std::this_thread::sleep_for(1ms);
    }
  }
  Running(const Running&) = delete;
  Running& operator=(const Running&) = delete;
  ~Running() { stop(); }

  bool done() const { return done_; }
  /// How it ended, or "running" if it does not within the time.
  std::string wait(Clock::duration time = 10s) {
    const auto deadline = Clock::now() + time;
    while (!done_) {
      if (Clock::now() > deadline) {
        return "running";
      }
      std::this_thread::sleep_for(1ms);
    }
    return result_;
  }
  pthread_t thread() { return thread_.native_handle(); }

 private:
  /// What the thread has had, its guest included.
  Clock::duration cpu_time() {
    clockid_t clock{};
    timespec time{};
    if (pthread_getcpuclockid(thread_.native_handle(), &clock) != 0 ||
        clock_gettime(clock, &time) != 0) {
      return 20ms;
    }
    return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
  }

  void stop() {
    while (!done_) {
      pthread_kill(thread_.native_handle(), SIGUSR2);
      std::this_thread::sleep_for(1ms);
    }
    thread_.join();
  }

  Handler rescue_{SIGUSR2, [](int) {}};
  std::atomic<bool> started_{false};
  std::atomic<bool> done_{false};
  std::string result_;
  std::thread thread_;
};

/// A thread that kicks again and again, in bursts of 1 to 31. Each kick
/// publishes a number first. The next burst comes when the runner has seen the
/// number of the last kick, so each burst's end is a chance to lose one.
class Acknowledged {
 public:
  /// Kicks until `count` are seen, `end` is set, or one is lost: not seen
  /// within 10 s.
  /// @param pause the most turns of an empty loop between two bursts
  void kick(const kvm::Kicker& kicker, unsigned long count, unsigned pause,
            const std::atomic<bool>& end) {
    std::minstd_rand random(static_cast<unsigned>(count));
    while (kicks_ < count && !end.load(std::memory_order_relaxed)) {
      for (auto burst = 1 + random() % 31; burst != 0; --burst) {
        published_.store(++kicks_, std::memory_order_relaxed);  // kick() orders it.
        kicker.kick();
      }
      ++bursts_;
      if (!await(kicks_, end)) {
        return;
      }
      for (auto turns = pause == 0 ? 0 : random() % pause; turns != 0; --turns) {
        std::atomic_signal_fence(std::memory_order_seq_cst);
      }
    }
    finished_.store(true, std::memory_order_release);
    kicker.kick();  // For the runner to look at that.
  }
  /// The runner has seen Interrupted.
  void see() { seen_.store(published_.load(std::memory_order_relaxed), std::memory_order_release); }
  bool finished() const { return finished_.load(std::memory_order_acquire); }
  bool lost() const { return lost_.load(std::memory_order_acquire); }
  unsigned long kicks() const { return kicks_; }
  unsigned long bursts() const { return bursts_; }

 private:
  bool await(unsigned long number, const std::atomic<bool>& end) {
    const auto deadline = Clock::now() + 10s;
    for (unsigned spins = 1; seen_.load(std::memory_order_acquire) < number; ++spins) {
      if (end.load(std::memory_order_relaxed)) {
        break;
      }
      if (spins % 64 == 0) {
        std::this_thread::yield();
      }
      if (spins % 4096 == 0 && Clock::now() > deadline) {
        lost_.store(true, std::memory_order_release);
        return false;
      }
    }
    return true;
  }

  alignas(64) std::atomic<unsigned long> published_{0};
  alignas(64) std::atomic<unsigned long> seen_{0};
  std::atomic<bool> finished_{false};
  std::atomic<bool> lost_{false};
  unsigned long kicks_ = 0;
  unsigned long bursts_ = 0;
};

/// Lets membarrier fail with EPERM in this process, for good.
inline bool refuse_membarrier() {
  sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_membarrier, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog program{.len = sizeof code / sizeof code[0], .filter = code};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program) == 0 &&
         syscall(SYS_membarrier, 0, 0, 0) < 0 && errno == EPERM;
}

/// Runs `body` in a forked child and returns what went wrong there, which the
/// body returns; empty if nothing did.
template <class F>
std::string in_child(F&& body) {
  int pipes[2];
  if (pipe(pipes) != 0) {
    return "pipe failed";
  }
  const pid_t child = fork();
  if (child == 0) {
    close(pipes[0]);
    const std::string problem = body();
    const auto written = write(pipes[1], problem.data(), problem.size());
    _exit(problem.empty() && written == 0 ? 0 : 1);
  }
  close(pipes[1]);
  std::string problem;
  char buffer[512];
  for (ssize_t got; (got = read(pipes[0], buffer, sizeof buffer)) > 0;) {
    problem.append(buffer, static_cast<std::size_t>(got));
  }
  close(pipes[0]);
  int status = 0;
  if (child < 0 || waitpid(child, &status, 0) != child) {
    return "no child";
  }
  if (WIFSIGNALED(status)) {
    return problem + "the child died of signal " + std::to_string(WTERMSIG(status));
  }
  if (problem.empty() && WEXITSTATUS(status) != 0) {
    return "the child ended with " + std::to_string(WEXITSTATUS(status));
  }
  return problem;
}

}  // namespace kvm_test

#endif
