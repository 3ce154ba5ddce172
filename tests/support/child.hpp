// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_TESTS_SUPPORT_CHILD_HPP
#define KVM_HPP_TESTS_SUPPORT_CHILD_HPP

#include <gtest/gtest.h>

#include <cstdio>

#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

namespace kvm_test {

/// Runs `body` in a forked child. Its expectations count here: the child ends
/// with 0 only if none of them failed.
template <class F>
void expect_in_child(F&& body) {
  std::fflush(nullptr);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    body();
    std::fflush(nullptr);
    _exit(testing::Test::HasFailure() ? 1 : 0);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "status " << status;
}

}  // namespace kvm_test

#endif
