// SPDX-License-Identifier: MIT
// Result: a value or the reason why there is none, without exceptions.
#include <kvm/error.hpp>

#include <cerrno>
#include <concepts>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include <gtest/gtest.h>

namespace {

using kvm::Error;
using kvm::Result;

Error failure(int error_number = EINVAL) {
  return kvm::detail::make_error(error_number, "KVM_TEST", "n=1", "the test says so");
}

static_assert(std::is_nothrow_move_constructible_v<Result<std::unique_ptr<int>>>);
static_assert(std::is_nothrow_move_constructible_v<Result<void>>);
static_assert(!std::copy_constructible<Result<std::unique_ptr<int>>>);
static_assert(std::copy_constructible<Result<int>>);
static_assert(!std::convertible_to<Result<int>, bool>);
static_assert(!std::convertible_to<Result<void>, bool>);

TEST(Result, HasAValue) {
  Result<int> result = 5;
  ASSERT_TRUE(result);
  EXPECT_TRUE(result.has_value());
  EXPECT_EQ(result.value(), 5);
  EXPECT_EQ(*result, 5);
  *result = 6;
  EXPECT_EQ(std::as_const(result).value(), 6);
  EXPECT_EQ(std::move(result).value_or(7), 6);
}

TEST(Result, HasAnError) {
  Result<int> result = failure(ENOENT);
  ASSERT_FALSE(result);
  EXPECT_FALSE(result.has_value());
  EXPECT_EQ(result.error().error_number(), ENOENT);
  EXPECT_STREQ(result.error().operation(), "KVM_TEST");
  EXPECT_EQ(std::move(result).value_or(7), 7);
}

TEST(Result, ReachesIntoItsValue) {
  Result<std::string> result = std::string("abc");
  EXPECT_EQ(result->size(), 3u);
  result->push_back('d');
  EXPECT_EQ(*std::as_const(result), "abcd");
}

TEST(Result, HoldsWhatCanOnlyBeMoved) {
  Result<std::unique_ptr<int>> made = std::make_unique<int>(3);
  Result<std::unique_ptr<int>> moved = std::move(made);
  std::unique_ptr<int> taken = std::move(moved).value();
  EXPECT_EQ(*taken, 3);
}

/// Counts how many are alive.
struct Counted {
  explicit Counted(int& count) : alive(&count) { ++*alive; }
  Counted(Counted&& other) noexcept : alive(other.alive) { ++*alive; }
  Counted& operator=(Counted&&) noexcept = default;
  ~Counted() { --*alive; }
  int* alive;
};

TEST(Result, EndsWhatItHeldWhenAssigned) {
  int alive = 0;
  {
    Result<Counted> a = Counted(alive);
    EXPECT_EQ(alive, 1);
    Result<Counted> b = failure();
    a = std::move(b);  // A value gives way to an error,
    EXPECT_EQ(alive, 0);
    EXPECT_FALSE(a);
    a = Result<Counted>(Counted(alive));  // and an error to a value.
    EXPECT_TRUE(a);
    EXPECT_EQ(alive, 1);
    auto& same = a;
    a = std::move(same);
    EXPECT_TRUE(a);
    EXPECT_EQ(alive, 1);
    Result<Counted> c = std::move(a);
    EXPECT_EQ(c.value().alive, &alive);
  }
  EXPECT_EQ(alive, 0);
}

TEST(Result, IsCopied) {
  const Result<std::string> value = std::string("long enough to be on the heap, I should think");
  const Result<std::string> copy = value;
  EXPECT_EQ(*copy, *value);
  const Result<std::string> error = failure(EBUSY);
  const Result<std::string> error_copy = error;
  EXPECT_STREQ(error_copy.error().what(), error.error().what());
}

TEST(ResultOfNothing, SucceedsOrHasAnError) {
  Result<void> success;
  ASSERT_TRUE(success);
  success.value();
  Result<void> failed = failure(EPERM);
  ASSERT_FALSE(failed.has_value());
  EXPECT_EQ(failed.error().error_number(), EPERM);
  Result<void> moved = std::move(failed);
  EXPECT_FALSE(moved);
  moved = Result<void>();
  EXPECT_TRUE(moved);
}

TEST(ResultDeathTest, TheErrorOfASuccessEndsTheProgram) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  const Result<int> value = 1;
  EXPECT_DEATH(static_cast<void>(value.error()), "");
  const Result<void> success;
  EXPECT_DEATH(static_cast<void>(success.error()), "");
}

#if KVM_HPP_EXCEPTIONS
TEST(Result, ThrowsItsErrorWhereAValueIsAskedFor) {
  const Result<int> result = failure(ENOENT);
  try {
    static_cast<void>(result.value());
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.error_number(), ENOENT);
    EXPECT_NE(std::string_view(error.what()).find("KVM_TEST(n=1): the test says so"),
              std::string_view::npos);
  }
  EXPECT_THROW(static_cast<void>(*result), Error);
  const Result<std::string> named = failure(ENOENT);
  EXPECT_THROW(static_cast<void>(named->size()), Error);
  EXPECT_THROW(Result<void>(failure()).value(), std::system_error);
}
#else
TEST(ResultDeathTest, WithoutExceptionsTheHandlerIsCalledAndTheProgramEnds) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  const Result<int> result = failure(ENOENT);
  EXPECT_DEATH(static_cast<void>(result.value()), "kvm-hpp: KVM_TEST\\(n=1\\): the test says so");
  kvm::set_error_handler([](const Error& error) {
    std::fprintf(stderr, "mine: %s %d\n", error.operation(), error.error_number());
  });
  EXPECT_DEATH(Result<void>(failure(EBUSY)).value(), "mine: KVM_TEST 16");
  kvm::set_error_handler(nullptr);
}
#endif

}  // namespace
