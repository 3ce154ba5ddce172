// SPDX-License-Identifier: MIT
// What an error tells.
#include <kvm/detail/device_file.hpp>
#include <kvm/error.hpp>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>

#include <gtest/gtest.h>
#include <unistd.h>

namespace {

using kvm::Error;
using kvm::detail::Hex;
using kvm::detail::make_error;
using kvm::detail::text;

static_assert(std::is_base_of_v<std::system_error, Error>);
static_assert(std::is_nothrow_copy_constructible_v<Error>);
static_assert(std::is_nothrow_copy_assignable_v<Error>);

bool says(const Error& error, std::string_view words) {
  return std::string_view(error.what()).find(words) != std::string_view::npos;
}

TEST(Error, NamesTheCallItsArgumentsTheCauseAndTheErrno) {
  const Error error = make_error(EEXIST, "KVM_CREATE_VCPU", "id=3", "the VM has a vCPU 3 already");
  EXPECT_STREQ(error.operation(), "KVM_CREATE_VCPU");
  EXPECT_EQ(error.error_number(), EEXIST);
  EXPECT_EQ(error.code(), std::error_code(EEXIST, std::generic_category()));
  EXPECT_EQ(error.code(), std::errc::file_exists);
  EXPECT_EQ(
      std::string(error.what()),
      std::string("KVM_CREATE_VCPU(id=3): the VM has a vCPU 3 already: ") + std::strerror(EEXIST));
}

TEST(Error, NeedsNoArgumentsAndNoCause) {
  EXPECT_TRUE(says(make_error(EIO, "KVM_RUN"), "KVM_RUN(): "));
  EXPECT_TRUE(says(make_error(EIO, "KVM_RUN", "a=1"), "KVM_RUN(a=1): "));
  EXPECT_TRUE(says(make_error(EIO, "KVM_RUN", {}, "why"), "KVM_RUN(): why: "));
}

TEST(Error, CopiesSayTheSame) {
  const Error error = make_error(ENOMEM, "mmap", "size=1", "x");
  Error copy = error;
  EXPECT_STREQ(copy.what(), error.what());
  copy = make_error(EIO, "munmap");
  EXPECT_STREQ(copy.operation(), "munmap");
  EXPECT_STREQ(error.operation(), "mmap");
}

TEST(ErrorText, PutsPartsTogether) {
  EXPECT_EQ(text(), "");
  EXPECT_EQ(text("a", std::string("b"), std::string_view("c"), 1, -2, 3u, true, false),
            "abc1-23truefalse");
  EXPECT_EQ(text(std::uint8_t{65}), "65");  // A number, not a character.
  EXPECT_EQ(text(std::numeric_limits<std::uint64_t>::max()), "18446744073709551615");
  EXPECT_EQ(text(Hex{0}, ' ', Hex{~std::uint64_t{0}}), text("0x0", 32, "0xffffffffffffffff"));
}

TEST(ErrorHandler, IsExchanged) {
  const kvm::ErrorHandler mine = [](const Error&) {};
  const kvm::ErrorHandler before = kvm::set_error_handler(mine);
  ASSERT_NE(before, nullptr);
  EXPECT_EQ(kvm::set_error_handler(nullptr), mine);   // null sets the default again,
  EXPECT_EQ(kvm::set_error_handler(before), before);  // which is not null.
}

TEST(OpenFailure, NamesWhatIsMissing) {
  using kvm::detail::open_failure;
  for (const int error_number : {ENOENT, ENODEV, ENXIO}) {
    const Error error = open_failure(error_number, "/dev/kvm");
    EXPECT_EQ(error.error_number(), error_number);
    EXPECT_TRUE(says(error, "open(/dev/kvm): ")) << error.what();
    EXPECT_TRUE(says(error, "modprobe kvm_intel")) << error.what();
  }
  EXPECT_TRUE(says(open_failure(EISDIR, "/dev"), "directory"));
  EXPECT_TRUE(says(open_failure(EMFILE, "/dev/kvm"), "too many files"));
  EXPECT_TRUE(says(open_failure(EACCES, "/no/such/file"), "no permission"));
  // /proc belongs to root's group everywhere.
  EXPECT_TRUE(says(open_failure(EACCES, "/proc"), "the group \"root\""));
  EXPECT_TRUE(says(open_failure(EPERM, "/proc"), "usermod"));
}

TEST(GroupName, IsANumberWhereThereIsNoName) {
  EXPECT_EQ(kvm::detail::group_name(0), "\"root\"");
  EXPECT_EQ(kvm::detail::group_name(3999999999u), "3999999999");
}

TEST(ReadTextFile, GivesNothingOfAMissingFile) {
  EXPECT_EQ(kvm::detail::read_text_file("/no/such/file"), "");
  EXPECT_NE(kvm::detail::read_text_file("/proc/self/status"), "");
}

}  // namespace
