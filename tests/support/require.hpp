// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_TESTS_SUPPORT_REQUIRE_HPP
#define KVM_HPP_TESTS_SUPPORT_REQUIRE_HPP

#include <kvm/kvm.hpp>

#include <gtest/gtest.h>

#include <initializer_list>
#include <string>

/// @file
/// Skipping, and only what the host does not offer.

namespace kvm_test {

/// Whether KVM_CHECK_EXTENSION says anything but no.
template <class Capability, class Handle>
bool offers(const Handle& handle) {
  return handle.check_raw(Capability::info.number) > 0;
}

/// Whether all of `flags` are offered, of a capability whose value is a set.
template <class Capability, class Handle>
bool offers(const Handle& handle, typename Capability::Value flags) {
  return handle.check_raw(Capability::info.number) > 0 &&
         handle.template check<Capability>().contains(flags);
}

/// The flags that a test needs, as their number: " [5]". Nothing if it needs none.
template <class Capability>
std::string flags_of(std::initializer_list<typename Capability::Value> wanted) {
  if constexpr (requires(typename Capability::Value value) { value.raw(); }) {
    return wanted.size() == 0 ? "" : " [" + std::to_string(wanted.begin()->raw()) + "]";
  }
  return "";
}

}  // namespace kvm_test

/// Skips the test unless the VM or system offers the capability, or all given
/// flags of it: KVM_REQUIRE(vm, cap::X86Smm) says "KVM_CAP_X86_SMM is not
/// offered by this host". There is no way to skip what the host offers, and
/// scripts/matrix compares what tests say with what kvm-info says.
#define KVM_REQUIRE(handle, capability, ...)                                               \
  if (kvm_test::offers<capability>(handle __VA_OPT__(, ) __VA_ARGS__)) {                   \
  } else                                                                                   \
    GTEST_SKIP() << capability::info.name << kvm_test::flags_of<capability>({__VA_ARGS__}) \
                 << " is not offered by this host"

#endif
