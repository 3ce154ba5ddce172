// SPDX-License-Identifier: MIT
// needs: x86
// The code of docs/guides/stopping.md.
#include <kvm/kvm.hpp>

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <exception>
#include <functional>
#include <mutex>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <pthread.h>

#include "support/guest.hpp"
#include "support/kicking.hpp"

namespace {

using kvm_test::Guest;

TEST(StoppingGuide, Kicker) {
  struct sigaction before {};
  sigaction(SIGUSR1, nullptr, &before);
  Guest guest = Guest::running(kvm_test::spin);
  kvm::Vcpu& vcpu = guest.vcpu;
  std::string ended_by;
  //! [kicker]
  // Once per process. Without SA_RESTART or with it: run() ends either way.
  struct sigaction action {};
  action.sa_handler = [](int) {};
  sigaction(SIGUSR1, &action, nullptr);

  kvm::Kicker kicker = vcpu.kicker(SIGUSR1);  // before the vCPU runs
  std::atomic<bool> stop{false};

  std::thread runner([&] {
    while (!stop) {
      const kvm::Exit exit = vcpu.run();
      exit.visit([&](kvm::exits::Interrupted) {},  // look at `stop`, and run again
                 [&](auto&&) {
                   ended_by = exit.describe();
                   stop = true;
                 });
    }
  });

  std::this_thread::sleep_for(std::chrono::milliseconds(10));
  stop = true;    // first what the runner looks at,
  kicker.kick();  // then the kick: run() returns, also from an endless loop
  runner.join();  // now the vCPU's other calls don't wait, and it may be dropped
  //! [kicker]
  EXPECT_EQ(ended_by, "");
  sigaction(SIGUSR1, &before, nullptr);
}

TEST(StoppingGuide, Mask) {
  kvm_test::Handler handler(SIGUSR1);
  Guest guest = Guest::running(kvm_test::spin);
  kvm::Vcpu& vcpu = guest.vcpu;
  sigset_t mask_before;
  pthread_sigmask(SIG_SETMASK, nullptr, &mask_before);
  //! [mask]
  // Blocked in this thread, let in while in the guest: no handler ever runs between exits.
  sigset_t blocked;
  pthread_sigmask(SIG_SETMASK, nullptr, &blocked);
  sigset_t in_guest = blocked;
  sigaddset(&blocked, SIGUSR1);
  pthread_sigmask(SIG_SETMASK, &blocked, nullptr);
  vcpu.set_signal_mask(in_guest);
  //! [mask]
  kvm::Kicker kicker = vcpu.kicker(SIGUSR1);
  kicker.kick();
  EXPECT_EQ(kvm_test::outcome(vcpu.run()), "kicked");
  vcpu.clear_signal_mask();
  pthread_sigmask(SIG_SETMASK, &mask_before, nullptr);
}

TEST(StoppingGuide, NextEntry) {
  Guest guest = Guest::running(kvm_test::spin);
  kvm::Vcpu& vcpu = guest.vcpu;
  //! [entry]
  kvm::Kicker soon = vcpu.entry_kicker();  // no signal: stops the next entry only
  soon.kick();
  //! [entry]
  EXPECT_EQ(kvm_test::outcome(vcpu.run()), "kicked");
}

/// Runs `count` vCPUs, each after set_up(vcpu), until one of them has serve(exit, memory) return
/// false or throw, or wait_for_the_end(token) returns or throws.
template <class SetUp, class Serve, class Wait>
void run_all(kvm::Vm& vm, unsigned count, SetUp set_up, Serve serve, Wait wait_for_the_end) {
  //! [several]
  struct Cpu {
    kvm::Vcpu vcpu;
    kvm::Kicker kicker = vcpu.kicker(SIGUSR1);
  };
  std::vector<Cpu> cpus;  // complete before the first thread: a vCPU that runs must not move
  for (unsigned id = 0; id < count; ++id) {
    cpus.push_back({vm.create_vcpu(id)});
    set_up(cpus.back().vcpu);  // registers, CPUID
  }

  std::stop_source stop;
  std::once_flag failed;
  std::exception_ptr problem;
  const auto run = [&](Cpu& cpu) {
    // Called by whoever stops: first what the loop looks at, then the kick.
    const std::stop_callback kick(stop.get_token(), [&] { cpu.kicker.kick(); });
    try {
      kvm::GuestMemory::View memory = vm.memory().view();  // each thread its own
      while (!stop.stop_requested()) {
        if (!serve(cpu.vcpu.run(), memory)) stop.request_stop();  // the guest has powered off
      }
    } catch (...) {  // the first one is kept, and ends all
      std::call_once(failed, [&] { problem = std::current_exception(); });
      stop.request_stop();
    }
  };
  struct AtEnd {
    std::stop_source& stop;
    ~AtEnd() { stop.request_stop(); }
  };
  {
    std::vector<std::jthread> threads;  // joined at the end of this block, however it ends,
    const AtEnd at_end{stop};           // once this has stopped them
    for (Cpu& cpu : cpus) threads.emplace_back(run, std::ref(cpu));
    wait_for_the_end(stop.get_token());
  }
  if (problem) std::rethrow_exception(problem);
  //! [several]
}

/// Three vCPUs: number 0 writes to port 0x10 for ever, the others once to 0x11, and then never
/// leave.
struct Three {
  kvm_test::Handler handler{SIGUSR1};
  kvm_test::Machine machine;
  std::atomic<int> away{0};
  int served = 0;

  Three() {
    machine.load(kvm_test::code_at, {0xe6, 0x10, 0xeb, 0xfc});  // 1: out %al, $0x10; jmp 1b
    machine.load(0x2000, {0xe6, 0x11, 0xeb, 0xfe});             // out %al, $0x11; jmp .
  }
  static void set_up(kvm::Vcpu& vcpu) {
    kvm_test::enter_real_mode(vcpu);
    if (vcpu.id().value != 0) kvm_test::jump_to(vcpu, 0x2000);
  }
  /// Whether it is number 0's fifth write or a later one, and the others are away.
  bool fifth(kvm::exits::IoOut io) {
    if (io.port != 0x10) {
      ++away;
      return false;
    }
    return ++served >= 5 && away == 2;
  }
  static void until_stopped(std::stop_token token) {
    while (!token.stop_requested()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
};

TEST(StoppingGuide, SeveralUntilTheyAreStopped) {
  Three three;
  std::atomic<bool> fifth{false};
  run_all(
      three.machine.vm, 3, Three::set_up,
      [&](const kvm::Exit& exit, kvm::GuestMemory::View& memory) {
        return exit.visit(
            [&](kvm::exits::IoOut io) {
              if (three.fifth(io)) fifth = true;
              return memory.contains(kvm::Gpa{0}, 1);
            },
            [](kvm::exits::Interrupted) { return true; }, [](auto&&) { return false; });
      },
      [&](std::stop_token token) {
        while (!token.stop_requested() && !fifth) std::this_thread::yield();
        EXPECT_FALSE(token.stop_requested());
      });
  EXPECT_TRUE(fifth);
}

TEST(StoppingGuide, SeveralUntilTheGuestEnds) {
  Three three;
  run_all(
      three.machine.vm, 3, Three::set_up,
      [&](const kvm::Exit& exit, kvm::GuestMemory::View&) {
        return exit.visit([&](kvm::exits::IoOut io) { return !three.fifth(io); },
                          [](auto&&) { return true; });
      },
      Three::until_stopped);
  EXPECT_GE(three.served, 5);
}

TEST(StoppingGuide, SeveralUntilOneThrows) {
  Three three;
  EXPECT_THROW(run_all(
                   three.machine.vm, 3, Three::set_up,
                   [&](const kvm::Exit& exit, kvm::GuestMemory::View&) {
                     return exit.visit(
                         [&](kvm::exits::IoOut io) {
                           if (three.fifth(io)) throw std::runtime_error("no device");
                           return true;
                         },
                         [](auto&&) { return true; });
                   },
                   Three::until_stopped),
               std::runtime_error);
}

TEST(StoppingGuide, SeveralWhileTheMainThreadThrows) {
  Three three;
  EXPECT_THROW(run_all(
                   three.machine.vm, 3, Three::set_up,
                   [](const kvm::Exit&, kvm::GuestMemory::View&) { return true; },
                   [](std::stop_token) { throw std::logic_error("the console is gone"); }),
               std::logic_error);
}

}  // namespace
