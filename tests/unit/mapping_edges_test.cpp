// SPDX-License-Identifier: MIT
// Mappings that only somebody who tries asks for.
#include <kvm/memory/mapping.hpp>

#include <cerrno>
#include <cstddef>
#include <string>

#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <gtest/gtest.h>

namespace {

using kvm::HugePages;
using kvm::Mapping;
using kvm::NumaMode;
using kvm::detail::backing_of;

TEST(BackingOf, ADeviceIsTheSameByEachOfItsNames) {
  struct stat one {};
  one.st_mode = S_IFCHR;
  one.st_rdev = makedev(10, 200);
  one.st_dev = 5;
  one.st_ino = 77;
  struct stat same = one;
  same.st_ino = 78;
  struct stat other = one;
  other.st_rdev = makedev(10, 201);
  EXPECT_EQ(backing_of(one), backing_of(same));
  EXPECT_NE(backing_of(one), backing_of(other));
  struct stat file = one;
  file.st_mode = S_IFREG;
  EXPECT_NE(backing_of(one), backing_of(file));
  struct stat number = file;  // A file whose numbers are those of the device.
  number.st_dev = one.st_rdev;
  number.st_ino = 0;
  EXPECT_NE(backing_of(one), backing_of(number));
  // Neither file nor device.
  struct stat pipe = one;
  pipe.st_mode = S_IFIFO;
  EXPECT_NE(backing_of(pipe), backing_of(pipe));
}

TEST(Mapping, TooLargeWithWhatIsAroundIt) {
  constexpr std::size_t half = std::size_t{1} << 63;
  const auto mapping =
      Mapping::try_anonymous(half, {.huge_pages = HugePages{half}, .guard_pages = true});
  ASSERT_FALSE(mapping);
  EXPECT_EQ(mapping.error().error_number(), ENOMEM) << mapping.error().what();
}

TEST(Mapping, AnUnknownNumaModeIsNamedByItsNumber) {
  const std::size_t page = kvm::detail::sys::page_size();
  const auto mapping = Mapping::try_anonymous(page, {.numa = {NumaMode{99}, {0}}});
  ASSERT_FALSE(mapping);
  EXPECT_NE(std::string(mapping.error().what()).find("numa=99 {0}"), std::string::npos)
      << mapping.error().what();
}

}  // namespace
