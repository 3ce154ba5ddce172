// SPDX-License-Identifier: MIT
// needs: x86
// The code of docs/guides/stopping.md.
#include <kvm/kvm.hpp>

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <string>
#include <thread>

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

}  // namespace
