// SPDX-License-Identifier: MIT
#pragma once

#if defined(__SANITIZE_THREAD__)
#define KVM_HPP_TESTS_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define KVM_HPP_TESTS_TSAN 1
#endif
#endif
#ifndef KVM_HPP_TESTS_TSAN
#define KVM_HPP_TESTS_TSAN 0
#endif

namespace kvm_test {

/// Thread sanitizer holds signals back until the thread makes its next call, so
/// when they land and how many of them says nothing about the library there.
inline constexpr bool thread_sanitizer = KVM_HPP_TESTS_TSAN != 0;

}  // namespace kvm_test
