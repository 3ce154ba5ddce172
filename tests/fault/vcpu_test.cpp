// SPDX-License-Identifier: MIT
#include "driver.hpp"

#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <optional>
#include <string>
#include <thread>

#include <sys/syscall.h>

namespace {

using fault::Call;
using fault::FaultTest;
using fault::Function;
using fault::Guest;
using fault::Rule;
namespace request = kvm::uapi::request;

std::vector<Rule> fail_run(int error_number) {
  return {
      {.matches = [](const Call& call, std::size_t) { return call.is_ioctl(request::run.code); },
       .error_number = error_number}};
}

/// What a run came to, in a word that tests can compare.
std::string summary(const kvm::Exit& exit) {
  return exit.visit(
      [](kvm::exits::Interrupted interrupted) -> std::string {
        return interrupted.kicked ? "kicked" : "interrupted";
      },
      [](kvm::exits::Failed failed) { return "failed " + std::to_string(failed.error_number); },
      [](kvm::exits::MemoryFault fault) {
        return "memory fault " + std::to_string(fault.error_number) + " at " +
               std::to_string(fault.gpa.value);
      },
      [](kvm::exits::IoOut) -> std::string { return "out"; },
      [](kvm::exits::IoIn) -> std::string { return "in"; },
      [](auto&&) -> std::string { return "other"; });
}

std::string run_failing(kvm::Vcpu& vcpu, int error_number) {
  fault::arm(fail_run(error_number));
  const kvm::Exit exit = vcpu.run();
  fault::disarm();
  EXPECT_EQ(fault::injected(), 1u);
  return summary(exit);
}

// R23, and what a closed descriptor or a filter adds.
constexpr int run_errnos[] = {EFAULT, EHWPOISON, EINVAL, ENOEXEC, ENOSYS,
                              EPERM,  EIO,       EBADF,  ENOMEM,  ENOTTY};

class RunFaults : public FaultTest {
 protected:
  void SetUp() override {
    FaultTest::SetUp();
    struct ::sigaction action {};
    action.sa_handler = [](int) {};
    ::sigaction(SIGUSR1, &action, nullptr);
  }
};

TEST_F(RunFaults, EachErrnoIsAnExit) {
  const auto before = fault::Resources::now();
  {
    Guest guest = fault::make_guest();
    const auto inside = fault::Resources::now();
    EXPECT_EQ(run_failing(guest.vcpu, EINTR), "interrupted");
    EXPECT_EQ(run_failing(guest.vcpu, EAGAIN), "interrupted");
    for (const int error_number : run_errnos) {
      EXPECT_EQ(run_failing(guest.vcpu, error_number), "failed " + std::to_string(error_number));
      EXPECT_EQ(fault::Resources::now(), inside);
      EXPECT_EQ(summary(guest.vcpu.run()), "out");
    }
  }
  EXPECT_EQ(fault::Resources::now(), before);
}

// exit_reason counts with two errnos only (R25).
TEST_F(RunFaults, AMemoryFaultIsToldByItsErrno) {
  Guest guest = fault::make_guest();
  const auto fill = [&](const Call& call, std::size_t) {
    if (!call.is_ioctl(request::run.code)) {
      return false;
    }
    auto* const page = guest.vcpu.run_page();
    page->exit_reason = static_cast<std::uint32_t>(kvm::uapi::ExitReason::memory_fault);
    page->memory_fault.gpa = 4096;
    page->memory_fault.size = 4096;
    return true;
  };
  for (const int error_number : {EFAULT, EHWPOISON, EINVAL, EIO}) {
    fault::arm({{.matches = fill, .error_number = error_number}});
    const std::string seen = summary(guest.vcpu.run());
    fault::disarm();
    const std::string number = std::to_string(error_number);
    EXPECT_EQ(seen, error_number == EFAULT || error_number == EHWPOISON
                        ? "memory fault " + number + " at 4096"
                        : "failed " + number);
    EXPECT_EQ(summary(guest.vcpu.run()), "out");
  }
}

TEST_F(RunFaults, NoFailureSwallowsAKick) {
  for (const bool with_signal : {false, true}) {
    Guest guest = fault::make_guest();
    const kvm::Kicker kicker = with_signal ? guest.vcpu.kicker(SIGUSR1) : guest.vcpu.entry_kicker();
    for (const int error_number : run_errnos) {
      kicker.kick();
      EXPECT_EQ(run_failing(guest.vcpu, error_number), "failed " + std::to_string(error_number));
      EXPECT_EQ(summary(guest.vcpu.run()), "kicked");
      EXPECT_EQ(summary(guest.vcpu.run()), "out");
    }
    kicker.kick();
    EXPECT_EQ(run_failing(guest.vcpu, EINTR), "kicked");
    EXPECT_EQ(summary(guest.vcpu.run()), "out");
  }
}

// in al, 0x10; out 0x10, al; jmp back
Guest make_reader() { return Guest::real_mode({0xe4, 0x10, 0xe6, 0x10, 0xeb, 0xfa}); }

TEST_F(RunFaults, AFailedCompletionCanBeRepeated) {
  const auto before = fault::Resources::now();
  for (const int error_number : run_errnos) {
    SCOPED_TRACE(error_number);
    Guest guest = make_reader();
    guest.vcpu.run().visit([](kvm::exits::IoIn in) { in.data[0] = std::byte{0x42}; },
                           [](auto&&) { FAIL(); });
    ASSERT_TRUE(guest.vcpu.completion_pending());
    fault::arm(fail_run(error_number));
    const auto failed = guest.vcpu.complete();
    fault::disarm();
    ASSERT_TRUE(failed);
    EXPECT_EQ(summary(*failed), "failed " + std::to_string(error_number));
    if (error_number == EFAULT || error_number == EHWPOISON) {
      // These come from the guest's own accesses: KVM has finished what was pending.
      EXPECT_FALSE(guest.vcpu.completion_pending());
      EXPECT_FALSE(guest.vcpu.complete());
      EXPECT_EQ(summary(guest.vcpu.run()), "out");
      continue;
    }
    // Nothing was finished: the state stays closed, and the answer is not lost.
    EXPECT_TRUE(guest.vcpu.completion_pending());
    const auto refused = guest.vcpu.try_set_regs(guest.vcpu.get_regs());
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().error_number(), EBUSY);
    EXPECT_FALSE(guest.vcpu.complete());
    EXPECT_FALSE(guest.vcpu.completion_pending());
    EXPECT_EQ(guest.vcpu.get_regs().rax & 0xff, 0x42u);
    // immediate_exit was for the completion alone.
    EXPECT_EQ(summary(guest.vcpu.run()), "out");
  }
  EXPECT_EQ(fault::Resources::now(), before);
}

TEST_F(RunFaults, AFailedCompletionSwallowsNoKick) {
  for (const int error_number : run_errnos) {
    SCOPED_TRACE(error_number);
    Guest guest = make_reader();
    const kvm::Kicker kicker = guest.vcpu.entry_kicker();
    EXPECT_EQ(summary(guest.vcpu.run()), "in");
    kicker.kick();
    fault::arm(fail_run(error_number));
    EXPECT_TRUE(guest.vcpu.complete());
    fault::disarm();
    EXPECT_FALSE(guest.vcpu.complete());
    EXPECT_EQ(summary(guest.vcpu.run()), "kicked");
    EXPECT_EQ(summary(guest.vcpu.run()), "out");
  }
}

// What run() asks the C library before the first entry in a thread.
TEST_F(RunFaults, SignalChecks) {
  for (const Function function : {Function::pthread_sigmask, Function::sigaction}) {
    Guest guest = fault::make_guest();
    const kvm::Kicker kicker = guest.vcpu.kicker(SIGUSR1);
    fault::arm(
        {{.matches = [&](const Call& call, std::size_t) { return call.function == function; },
          .error_number = EINVAL}});
    const std::string seen = summary(guest.vcpu.run());
    const auto calls = fault::disarm();
    EXPECT_EQ(fault::injected(), 1u) << fault::name(function);
    EXPECT_EQ(seen, "failed " + std::to_string(EINVAL));
    for (const Call& call : calls) {
      EXPECT_FALSE(call.is_ioctl(request::run.code)) << "the guest ran, but cannot be stopped";
    }
    EXPECT_EQ(summary(guest.vcpu.run()), "out");
  }
}

bool is_membarrier(const Call& call, std::size_t) {
  return call.function == Function::syscall && call.detail == SYS_membarrier;
}
bool is_tgkill(const Call& call, std::size_t) {
  return call.function == Function::syscall && call.detail == SYS_tgkill;
}
bool is_taking(const Call& call, std::size_t) {
  return call.function == Function::syscall && call.detail == SYS_rt_sigtimedwait;
}
bool is_sleep(const Call& call, std::size_t) {
  return call.function == Function::syscall && call.detail == SYS_nanosleep;
}

// The signal that ended a run is taken if it is blocked; that there is none to take is no failure.
TEST_F(RunFaults, TakingTheSignal) {
  ::sigset_t set;
  ::sigemptyset(&set);
  ::sigaddset(&set, SIGUSR1);
  ::sigset_t before;
  ::pthread_sigmask(SIG_BLOCK, &set, &before);
  {
    Guest guest = fault::make_guest();
    const kvm::Kicker kicker = guest.vcpu.kicker(SIGUSR1);
    guest.vcpu.set_signal_mask(before);
    for (const int error_number : {EAGAIN, EINTR}) {
      kicker.kick();
      fault::arm({{.matches = is_taking, .error_number = error_number}});
      const std::string seen = summary(guest.vcpu.run());
      fault::disarm();
      EXPECT_EQ(fault::injected(), 1u);
      EXPECT_EQ(seen, "kicked");
      EXPECT_EQ(summary(guest.vcpu.run()), "out");
    }
  }
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

/// Kicks a guest that spins, with these failures in the kicking thread.
void expect_kick_ends_spinning(Guest& guest, const kvm::Kicker& kicker,
                               const std::vector<Rule>& rules, std::size_t expected) {
  std::size_t injected = 0;
  std::thread thread([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    fault::arm(rules);
    kicker.kick();
    fault::disarm();
    injected = fault::injected();
  });
  EXPECT_EQ(summary(guest.vcpu.run()), "kicked");
  thread.join();
  EXPECT_EQ(injected, expected);
}

Guest make_spinner() { return Guest::real_mode({0xeb, 0xfe}); }

TEST_F(RunFaults, KicksWorkWhereMembarrierIsRefused) {
  for (const int error_number : {ENOSYS, EINVAL, EPERM}) {
    SCOPED_TRACE(error_number);
    {  // As a seccomp filter refuses all of it.
      Guest guest = make_spinner();
      fault::arm({{.matches = is_membarrier, .error_number = error_number, .times = 100}});
      const kvm::Kicker kicker = guest.vcpu.kicker(SIGUSR1);
      fault::disarm();
      EXPECT_EQ(fault::injected(), 1u);
      for (int i = 0; i < 3; ++i) {
        // Known to be refused: it is not tried again.
        expect_kick_ends_spinning(
            guest, kicker, {{.matches = is_membarrier, .error_number = error_number, .times = 100}},
            0);
      }
    }
    {  // Refused only once it was registered.
      Guest guest = make_spinner();
      const kvm::Kicker kicker = guest.vcpu.kicker(SIGUSR1);
      expect_kick_ends_spinning(guest, kicker,
                                {{.matches = is_membarrier, .error_number = error_number}}, 1);
    }
  }
}

// The queue of real-time signals is full: the kick is sent again.
TEST_F(RunFaults, KicksWaitForRoomForTheSignal) {
  Guest guest = make_spinner();
  const kvm::Kicker kicker = guest.vcpu.kicker(SIGUSR1);
  expect_kick_ends_spinning(guest, kicker,
                            {{.matches = is_tgkill, .error_number = EAGAIN, .times = 5}}, 5);
  // An interrupted wait between two tries is none the worse.
  expect_kick_ends_spinning(guest, kicker,
                            {{.matches = is_tgkill, .error_number = EAGAIN, .times = 2},
                             {.matches = is_sleep, .error_number = EINTR, .times = 2}},
                            4);
}

// A queue that stays full ends the attempts: the kick returns, and the guest's next exit tells it.
TEST_F(RunFaults, KicksDoNotWaitForRoomForEver) {
  Guest guest = make_spinner();
  const kvm::Kicker kicker = guest.vcpu.kicker(SIGUSR1);
  constexpr int many = 1'000'000;
  const ::pthread_t runner = ::pthread_self();
  std::atomic<bool> stopped{false};
  std::size_t sent = 0;
  std::thread thread([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    fault::arm({{.matches = is_tgkill, .error_number = EAGAIN, .times = many},
                {.matches = is_sleep, .error_number = EINTR, .times = many}});
    kicker.kick();
    for (const Call& call : fault::disarm()) {
      sent += is_tgkill(call, 0);
    }
    while (!stopped.load()) {
      ::pthread_kill(runner, SIGUSR1);
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  });
  EXPECT_EQ(summary(guest.vcpu.run()), "kicked");
  stopped.store(true);
  thread.join();
  EXPECT_GE(sent, 100u);
  EXPECT_LE(sent, 10'000u);
}

class VcpuFaults : public RunFaults {};

TEST_F(VcpuFaults, Kicker) {
  fault::expect_pair_withstands(
      {.name = "kicker"}, [](Guest& guest) { return guest.vcpu.try_kicker(SIGUSR1); },
      [](Guest& guest) { return guest.vcpu.kicker(SIGUSR1); });
}

TEST_F(VcpuFaults, SignalMask) {
  static const ::sigset_t none = [] {
    ::sigset_t set;
    ::sigemptyset(&set);
    return set;
  }();
  KVM_HPP_EXPECT_PAIR(g.vcpu., set_signal_mask(none));
  KVM_HPP_EXPECT_PAIR(g.vcpu., clear_signal_mask());
}

// A mask that KVM refused is not the mask that the next run relies on.
TEST_F(VcpuFaults, ARefusedSignalMaskIsForgotten) {
  ::sigset_t set;
  ::sigemptyset(&set);
  ::sigaddset(&set, SIGUSR1);
  Guest guest = fault::make_guest();
  const kvm::Kicker kicker = guest.vcpu.kicker(SIGUSR1);
  fault::arm({{.matches = [](const Call& call,
                             std::size_t) { return call.is_ioctl(request::set_signal_mask.code); },
               .error_number = ENOMEM}});
  EXPECT_FALSE(guest.vcpu.try_set_signal_mask(set));
  fault::disarm();
  EXPECT_EQ(summary(guest.vcpu.run()), "out");
  guest.vcpu.set_signal_mask(set);
  EXPECT_EQ(summary(guest.vcpu.run()), "failed " + std::to_string(EINVAL));
  fault::arm({{.matches = [](const Call& call,
                             std::size_t) { return call.is_ioctl(request::set_signal_mask.code); },
               .error_number = ENOMEM}});
  EXPECT_FALSE(guest.vcpu.try_clear_signal_mask());
  fault::disarm();
  EXPECT_EQ(summary(guest.vcpu.run()), "failed " + std::to_string(EINVAL));
  guest.vcpu.clear_signal_mask();
  EXPECT_EQ(summary(guest.vcpu.run()), "out");
}

}  // namespace
