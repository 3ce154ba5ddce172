// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_TESTS_FAULT_DRIVER_HPP
#define KVM_HPP_TESTS_FAULT_DRIVER_HPP

#include "errnos.hpp"
#include "interpose.hpp"

#include <kvm/kvm.hpp>
#include <support/guest.hpp>

#include <gtest/gtest.h>

#include <cstddef>
#include <functional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

/// @file
/// Runs an operation once for each way in which each of its calls can fail.

namespace fault {

/// What an operation did.
struct Outcome {
  bool succeeded = true;
  int error_number = 0;
  std::string operation;
  std::string what;

  static Outcome of(const kvm::Error& error) {
    return {false, error.error_number(), error.operation(), error.what()};
  }
};

/// Calls one half of a pair: what returns a Result or what throws. What it
/// makes is gone before this returns.
template <class F>
Outcome attempt(F&& f) {
  using R = std::invoke_result_t<F&>;
  try {
    if constexpr (requires { std::declval<R>().error(); }) {
      const auto result = f();
      return result ? Outcome() : Outcome::of(result.error());
    } else {
      static_cast<void>(f());
      return {};
    }
  } catch (const kvm::Error& error) {
    return Outcome::of(error);
  }
}

/// A VM with memory and a vCPU whose code writes to a port for ever.
using Guest = kvm_test::Guest;
Guest make_guest();

/// What a program can leak.
struct Resources {
  std::vector<std::string> descriptors;
  std::size_t library_mappings = 0;
  std::size_t process_mappings = 0;

  static Resources now();
  bool operator==(const Resources&) const = default;
  friend void PrintTo(const Resources& resources, std::ostream* out);
};

/// An operation and what is special about it.
struct Operation {
  std::string name;
  std::function<Outcome(Guest&)> run = {};
  /// Failures that the operation must survive, besides those that all survive.
  std::function<bool(const Call&, int)> survives = {};
  /// Makes the guest.
  std::function<Guest()> make = make_guest;
  /// Done to each fresh guest before anything is counted.
  std::function<void(Guest&)> prepare = {};
  /// Done at the end, while the guest lives.
  std::function<void()> finish = {};
  /// Further failures, present in each run: with them the undisturbed
  /// operation fails with `usual_error`, and so must the disturbed one.
  std::function<std::vector<Rule>()> rules = {};
  int usual_error = 0;
  /// A host may lack it: where it fails undisturbed, the ioctl that failed is
  /// answered with 0.
  bool optional = false;
  /// Whether the operation can be done again after it failed.
  bool repeatable = true;
  /// Whether it can be done a second time after it succeeded.
  bool idempotent = true;
};

/// Counts the operation's calls, then lets each fail with each errno. Each
/// time: the error has that errno and names the call, or the operation
/// survives where it must; the handles go on working; nothing leaks.
void expect_withstands(const Operation& operation);

/// Skips where there is no KVM.
class FaultTest : public testing::Test {
 protected:
  void SetUp() override;
};

/// Both halves of a pair, as operations: `pair("x", [](Guest& g) { return g.vm.try_x(); },
/// [](Guest& g) { g.vm.x(); })`.
template <class Try, class Throw>
void expect_pair_withstands(Operation operation, Try&& without, Throw&& throwing) {
  const std::string name = operation.name;
  operation.name = "try_" + name;
  operation.run = [&](Guest& guest) { return attempt([&] { return without(guest); }); };
  expect_withstands(operation);
  operation.name = name;
  operation.run = [&](Guest& guest) { return attempt([&] { return throwing(guest); }); };
  expect_withstands(operation);
}

}  // namespace fault

/// Tests `target.try_call` and `target.call` for the Guest `g`; what follows is
/// designated initializers of Operation.
#define KVM_HPP_EXPECT_PAIR(target, call, ...) \
  fault::expect_pair_withstands(               \
      {.name = #call, __VA_ARGS__},            \
      [&](fault::Guest& g) {                   \
        static_cast<void>(g);                  \
        return target try_##call;              \
      },                                       \
      [&](fault::Guest& g) {                   \
        static_cast<void>(g);                  \
        return target call;                    \
      })

#endif
