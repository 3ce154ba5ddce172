// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_TESTS_SUPPORT_ROUNDS_HPP
#define KVM_HPP_TESTS_SUPPORT_ROUNDS_HPP

#include <algorithm>
#include <cstdlib>

/// @file
/// How often tests repeat what is to fail by chance.

namespace kvm_test {

/// `usual`, or the part of it that KVM_HPP_TEST_ROUNDS_PERCENT says: for hosts
/// that are emulated, and slow.
inline unsigned long rounds(unsigned long usual) {
  const char* const percent = std::getenv("KVM_HPP_TEST_ROUNDS_PERCENT");
  if (percent == nullptr || *percent == '\0') {
    return usual;
  }
  return std::max(1ul, usual * std::strtoul(percent, nullptr, 10) / 100);
}

}  // namespace kvm_test

#endif
