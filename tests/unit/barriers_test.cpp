// SPDX-License-Identifier: MIT
// Fences of which one side is free: what they say where membarrier is there, and where it is not.
#include <kvm/detail/barriers.hpp>

#include <cerrno>
#include <string>

#include <gtest/gtest.h>

#include "support/kicking.hpp"

namespace {

namespace detail = kvm::detail;

TEST(Barriers, LeaveErrnoAlone) {
  errno = E2BIG;
  detail::light_fence();
  detail::full_fence();
  detail::register_membarrier();
  detail::heavy_fence();
  EXPECT_EQ(errno, E2BIG);
}

TEST(Barriers, RegistrationCanBeRepeated) {
  if (!detail::register_membarrier()) {
    GTEST_SKIP() << "membarrier is refused here";
  }
  EXPECT_TRUE(detail::register_membarrier());
  EXPECT_TRUE(detail::heavy_fence());
}

TEST(BarriersFork, AChildInheritsTheRegistration) {
  if (!detail::register_membarrier()) {
    GTEST_SKIP() << "membarrier is refused here";
  }
  constexpr int private_expedited = 1 << 3;
  EXPECT_EQ(kvm_test::in_child([&]() -> std::string {
              return detail::sys::membarrier(private_expedited) == 0 ? "" : "it does not";
            }),
            "");
}

TEST(BarriersFork, WhereMembarrierIsRefusedTheySaySo) {
  const std::string problem = kvm_test::in_child([&]() -> std::string {
    if (!kvm_test::refuse_membarrier()) {
      return "skip";
    }
    errno = E2BIG;
    if (detail::register_membarrier()) {
      return "registered";
    }
    if (detail::heavy_fence()) {
      return "fenced";
    }
    return errno == E2BIG ? "" : "errno changed";
  });
  if (problem == "skip") {
    GTEST_SKIP() << "seccomp filters are refused here";
  }
  EXPECT_EQ(problem, "");
}

}  // namespace
