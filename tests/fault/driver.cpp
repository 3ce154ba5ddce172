// SPDX-License-Identifier: MIT
#include "driver.hpp"

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <optional>
#include <ostream>

#include <sys/syscall.h>
#include <unistd.h>

#include <support/rounds.hpp>

namespace fault {
namespace {

// The library maps one page for the whole process, for good: before anything is counted.
[[maybe_unused]] const kvm::detail::ProcessToken process = kvm::detail::this_process();

// It maps memory of its own as it goes: only the library's mappings can be counted then.
#if defined(__SANITIZE_ADDRESS__)
constexpr bool address_sanitizer = true;
#elif defined(__has_feature)
constexpr bool address_sanitizer = __has_feature(address_sanitizer);
#else
constexpr bool address_sanitizer = false;
#endif

bool always_survives(const Call& call, int error_number) {
  switch (call.function) {
    case Function::close:   // The descriptor is gone all the same.
    case Function::munmap:  // Nobody is left to tell.
      return true;
    case Function::syscall:
      return call.detail == SYS_membarrier || call.detail == SYS_tgkill ||
             call.detail == SYS_rt_sigtimedwait ||  // No signal to take.
             call.detail == SYS_nanosleep;
    case Function::ioctl:
      return error_number == EINTR;  // Sent again.
    default:
      return false;
  }
}

void expect_error(const Outcome& outcome, const Call& call, int error_number) {
  ASSERT_FALSE(outcome.succeeded) << "the failure went unnoticed";
  EXPECT_EQ(outcome.error_number, error_number) << outcome.what;
  EXPECT_NE(outcome.what.find(operation_of(call)), std::string::npos)
      << "the message names another call: " << outcome.what;
  EXPECT_NE(outcome.what.find(outcome.operation), std::string::npos) << outcome.what;
  EXPECT_FALSE(outcome.operation.empty());
}

void expect_alive(Guest& guest) {
  EXPECT_EQ(guest.system.check_raw(kvm::uapi::cap::user_memory), 1);
  EXPECT_EQ(guest.vm.check_raw(kvm::uapi::cap::user_memory), 1);
  EXPECT_TRUE(guest.vcpu.try_get_regs());
  const kvm::Exit exit = guest.vcpu.run();
  exit.visit([](kvm::exits::Failed failed) { ADD_FAILURE() << "run: " << failed.cause; },
             [](auto&&) {});
}

/// An ioctl that this host lacks, answered with 0 in its stead.
using Pretended = std::optional<unsigned long>;

struct Disturbance {
  std::size_t index;
  Call call;
  int error_number;
};

/// One run with a fresh guest; returns the calls that it made.
std::vector<Call> run_once(const Operation& operation,
                           const std::optional<Disturbance>& disturbance,
                           const Pretended& pretended) {
  const Resources outside = Resources::now();
  std::vector<Call> calls;
  {
    Guest guest = operation.make();
    if (operation.prepare) {
      operation.prepare(guest);
    }
    const Resources inside = Resources::now();
    std::vector<Rule> rules = operation.rules ? operation.rules() : std::vector<Rule>();
    const std::size_t usual_injections = rules.size();
    if (disturbance) {
      rules.push_back(
          {.matches = [&](const Call&, std::size_t index) { return index == disturbance->index; },
           .error_number = disturbance->error_number});
    }
    if (pretended) {
      rules.push_back(
          {.matches = [&](const Call& call, std::size_t) { return call.is_ioctl(*pretended); },
           .times = 1000});
    }
    arm(rules);
    const Outcome outcome = operation.run(guest);
    calls = disarm();

    if (!pretended) {
      EXPECT_EQ(injected(), usual_injections + (disturbance ? 1 : 0));
    }
    const bool survives =
        disturbance &&
        (always_survives(disturbance->call, disturbance->error_number) ||
         (operation.survives && operation.survives(disturbance->call, disturbance->error_number)));
    const bool succeeds = (!disturbance || survives) && operation.usual_error == 0;
    if (succeeds) {
      EXPECT_TRUE(outcome.succeeded) << outcome.what;
    } else if (operation.usual_error != 0 && (!disturbance || survives)) {
      EXPECT_FALSE(outcome.succeeded);
      EXPECT_EQ(outcome.error_number, operation.usual_error) << outcome.what;
    } else if (disturbance->index < calls.size()) {
      EXPECT_EQ(operation_of(calls[disturbance->index]), operation_of(disturbance->call))
          << "the calls before the failing one differ from those of the undisturbed run";
      expect_error(outcome, disturbance->call, disturbance->error_number);
    }
    if (operation.idempotent) {
      EXPECT_EQ(Resources::now(), inside) << "with the guest's own handles still alive";
    }
    const bool again = !pretended && operation.repeatable && operation.usual_error == 0 &&
                       (operation.idempotent || !outcome.succeeded);
    if (disturbance && again) {
      const Outcome second = operation.run(guest);
      EXPECT_TRUE(second.succeeded) << "a second, undisturbed try: " << second.what;
    }
    expect_alive(guest);
    if (operation.finish) {
      operation.finish();
    }
  }
  EXPECT_EQ(Resources::now(), outside) << "with all handles gone";
  return calls;
}

/// The ioctl with which an undisturbed run fails, if it does.
Pretended missing_ioctl(const Operation& operation) {
  Guest guest = operation.make();
  if (operation.prepare) {
    operation.prepare(guest);
  }
  arm();
  const Outcome outcome = operation.run(guest);
  const std::vector<Call> calls = disarm();
  if (operation.finish) {
    operation.finish();
  }
  if (outcome.succeeded) {
    return {};
  }
  const auto last = std::find_if(calls.rbegin(), calls.rend(),
                                 [](const Call& call) { return call.function == Function::ioctl; });
  EXPECT_NE(last, calls.rend()) << "it fails without KVM: " << outcome.what;
  return last != calls.rend() ? Pretended(last->detail) : Pretended();
}

}  // namespace

Guest make_guest() {
  // mov dx, 0x10; again: out dx, al; jmp again
  return Guest::real_mode({0xba, 0x10, 0x00, 0xee, 0xeb, 0xfd});
}

Resources Resources::now() {
  Resources resources;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code ignored;  // The iterator's own descriptor.
    resources.descriptors.push_back(std::filesystem::read_symlink(entry.path(), ignored).string());
  }
  std::sort(resources.descriptors.begin(), resources.descriptors.end());
  resources.library_mappings = live_mappings();
  if (!address_sanitizer) {
    std::ifstream maps("/proc/self/maps");
    for (std::string line; std::getline(maps, line);) {
      ++resources.process_mappings;
    }
  }
  return resources;
}

void PrintTo(const Resources& resources, std::ostream* out) {
  *out << resources.library_mappings << " mappings of the library, " << resources.process_mappings
       << " of the process, " << resources.descriptors.size() << " descriptors:";
  for (const std::string& descriptor : resources.descriptors) {
    *out << ' ' << descriptor;
  }
}

void expect_withstands(const Operation& operation) {
  SCOPED_TRACE(operation.name);
  const Pretended pretended = operation.optional ? missing_ioctl(operation) : Pretended();
  run_once(operation, std::nullopt, pretended);  // Warms up the allocator.
  const std::vector<Call> calls = run_once(operation, std::nullopt, pretended);
  EXPECT_FALSE(calls.empty()) << "it makes no call: is it intercepted?";

  std::size_t failures = 0;
  for (std::size_t index = 0; index < calls.size(); ++index) {
    const Call& call = calls[index];
    const std::vector<int> errnos = errnos_of(call);
    if (call.function == Function::ioctl) {
      EXPECT_FALSE(errnos.empty()) << operation_of(call) << " has no row in errnos.cpp";
    }
    if (operation.rules) {  // The calls that fail already.
      bool fails_already = false;
      for (Rule& rule : operation.rules()) {
        fails_already |= rule.matches(call, index);
      }
      if (fails_already) {
        continue;
      }
    }
    // On a slow host each call fails, but not in all ways that it can.
    const std::size_t tried = errnos.empty() ? 0 : kvm_test::rounds(errnos.size());
    for (std::size_t i = 0; i < tried; ++i) {
      const int error_number = errnos[(index + i) % errnos.size()];
      SCOPED_TRACE("call " + std::to_string(index) + ": " + describe(call, error_number));
      run_once(operation, Disturbance{index, call, error_number}, pretended);
      ++failures;
      if (testing::Test::HasFatalFailure()) {
        return;
      }
    }
  }
  std::cout << "[ FAULTS   ] " << operation.name << ": " << calls.size() << " calls, " << failures
            << " failures" << (pretended ? " (KVM's answer is ours: this host lacks it)" : "")
            << '\n';
}

void FaultTest::SetUp() {
  if (::access("/dev/kvm", R_OK | W_OK) != 0) {
    GTEST_SKIP() << "/dev/kvm cannot be opened";
  }
}

}  // namespace fault
