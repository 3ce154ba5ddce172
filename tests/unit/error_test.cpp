// SPDX-License-Identifier: MIT
// What an error tells.
#include <kvm/detail/device_file.hpp>
#include <kvm/error.hpp>
#include <kvm/fd.hpp>

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
#include <sys/stat.h>
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

// What a program without exceptions ends with, unless it has set a handler.
TEST(Error, IsPrintedOnALineOfItsOwn) {
  testing::internal::CaptureStderr();
  kvm::detail::print_error(make_error(EIO, "KVM_RUN", {}, "why"));
  EXPECT_EQ(testing::internal::GetCapturedStderr(),
            std::string("kvm-hpp: KVM_RUN(): why: ") + std::strerror(EIO) + "\n");
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

using kvm::detail::open_failure;

TEST(OpenFailure, NamesWhatIsMissing) {
  for (const int error_number : {ENOENT, ENODEV, ENXIO}) {
    const Error error = open_failure(error_number, "/dev/kvm");
    EXPECT_EQ(error.error_number(), error_number);
    EXPECT_TRUE(says(error, "open(/dev/kvm): ")) << error.what();
    EXPECT_TRUE(says(error, "modprobe kvm_intel")) << error.what();
  }
  EXPECT_TRUE(says(open_failure(EISDIR, "/dev"), "a directory, not KVM's device"));
  EXPECT_TRUE(says(open_failure(EMFILE, "/dev/kvm"), "too many files"));
  EXPECT_TRUE(says(open_failure(EACCES, "/no/such/file"), "no permission"));
}

/// A file of that mode, for as long as it lives.
class File {
 public:
  explicit File(mode_t mode) {
    fd_.reset(mkstemp(name_));
    EXPECT_TRUE(fd_);
    EXPECT_EQ(fchmod(fd_.get(), mode), 0);
    EXPECT_EQ(fstat(fd_.get(), &status_), 0);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File() { unlink(name_); }

  const char* name() const { return name_; }
  std::string group() const { return kvm::detail::group_name(status_.st_gid); }
  std::string user() const { return std::to_string(status_.st_uid); }

 private:
  char name_[32] = "/tmp/kvm-hpp-test-XXXXXX";
  kvm::Fd fd_;
  struct stat status_ {};
};

TEST(OpenFailure, NamesTheGroupThatMay) {
  const File file(0660);
  for (const int error_number : {EACCES, EPERM}) {
    const Error error = open_failure(error_number, file.name());
    EXPECT_TRUE(says(error, "belongs to the group " + file.group())) << error.what();
    EXPECT_TRUE(says(error, "usermod -aG")) << error.what();
  }
}

TEST(OpenFailure, NamesTheOwnerWhereTheGroupMayNot) {
  for (const mode_t mode : {0600u, 0640u, 0620u}) {  // KVM needs both.
    const File file(mode);
    const Error error = open_failure(EACCES, file.name());
    EXPECT_TRUE(says(error, "only its owner, user " + file.user() + ",")) << error.what();
    EXPECT_TRUE(says(error, file.group())) << error.what();
    EXPECT_FALSE(says(error, "usermod")) << error.what();
  }
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
