// SPDX-License-Identifier: MIT
// needs: x86
#include <kvm/kvm.hpp>

#include <gtest/gtest.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <optional>
#include <string>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "support/guest.hpp"
#include "support/require.hpp"

namespace {

namespace cap = kvm::cap;
using kvm::Gpa;
using kvm::GuestMemfd;
using kvm::Mapping;
using namespace kvm::literals;

constexpr auto mappable = cap::GuestMemfdFlag::mmap | cap::GuestMemfdFlag::init_shared;
constexpr std::uint64_t max64 = ~std::uint64_t{0};
const std::size_t page = kvm::detail::sys::page_size();

template <class T>
void expect_error(const kvm::Result<T>& result, int error_number,
                  std::initializer_list<const char*> fragments) {
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().error_number(), error_number) << result.error().what();
  for (const char* const fragment : fragments) {
    EXPECT_NE(std::string(result.error().what()).find(fragment), std::string::npos)
        << "no \"" << fragment << "\" in: " << result.error().what();
  }
}

struct GuestMemfdTest : testing::Test {
  kvm::System system;
  kvm::Vm vm = system.create_vm();

  void SetUp() override { KVM_REQUIRE(vm, cap::GuestMemfd); }

  GuestMemfd make(std::uint64_t size, kvm::Flags<cap::GuestMemfdFlag> flags = {}) {
    auto result = vm.try_create_guest_memfd(size, flags);
    if (!result) {
      ADD_FAILURE() << result.error().what();
      std::abort();
    }
    return std::move(result).value();
  }
};

TEST_F(GuestMemfdTest, IsWhatWasAskedFor) {
  const GuestMemfd memory = make(64_KiB);
  EXPECT_GE(memory.fd(), 0);
  EXPECT_EQ(memory.size(), 64_KiB);
  EXPECT_TRUE(memory.flags().empty());
  struct ::stat status {};
  ASSERT_EQ(::fstat(memory.fd(), &status), 0);
  EXPECT_EQ(status.st_size, off_t{64_KiB});
}

TEST_F(GuestMemfdTest, IsClosedOnExec) {  // R12: KVM's own default is otherwise.
  EXPECT_EQ(::fcntl(make(page).fd(), F_GETFD), FD_CLOEXEC);
}

TEST_F(GuestMemfdTest, SizesAndFlagsThatAreRefused) {
  for (const std::uint64_t size : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{page + 1},
                                   max64, std::uint64_t{1} << 63}) {
    expect_error(vm.try_create_guest_memfd(size), EINVAL,
                 {"KVM_CREATE_GUEST_MEMFD", "multiple of the page size"});
  }
  expect_error(
      vm.try_create_guest_memfd(page, kvm::Flags<cap::GuestMemfdFlag>::from_raw(1ull << 40)),
      EINVAL, {"flags=0x10000000000", "cap::GuestMemfdFlags"});
  const kvm::Vm moved = std::move(vm);
  expect_error(vm.try_create_guest_memfd(page), EBADF, {"moved from"});  // NOLINT: that is the test
}

TEST_F(GuestMemfdTest, MovesAndOutlivesItsVm) {
  GuestMemfd memory = make(64_KiB);
  const int fd = memory.fd();
  GuestMemfd other = std::move(memory);
  EXPECT_EQ(memory.fd(), -1);  // NOLINT: moved from
  EXPECT_EQ(memory.size(), 0u);
  expect_error(memory.try_discard(0, page), EBADF, {"moved from"});
  expect_error(memory.try_map(0, page), EBADF, {"moved from"});
  EXPECT_EQ(other.fd(), fd);
  other = make(page);
  EXPECT_EQ(::fcntl(fd, F_GETFD), -1);
  { const kvm::Vm gone = std::move(vm); }
  EXPECT_TRUE(other.try_discard(0, page));
}

TEST_F(GuestMemfdTest, OnlyWhatIsMadeForItIsMapped) {
  expect_error(make(64_KiB).try_map(), ENODEV, {"GuestMemfdFlag::mmap", "mmap of a guest_memfd"});
}

TEST_F(GuestMemfdTest, DiscardBounds) {
  const GuestMemfd memory = make(4 * page);
  EXPECT_TRUE(memory.try_discard(0, 4 * page));
  EXPECT_TRUE(memory.try_discard(4 * page, 0));
  for (const std::uint64_t offset : {std::uint64_t{page / 2}, max64}) {
    expect_error(memory.try_discard(offset, page), EINVAL, {"multiples"});
  }
  expect_error(memory.try_discard(0, 1), EINVAL, {"multiples"});
  const std::uint64_t high = max64 - page + 1;
  expect_error(memory.try_discard(high, page), EINVAL, {"within"});
  expect_error(memory.try_discard(page, high), EINVAL, {"within"});
  expect_error(memory.try_discard(0, 5 * page), EINVAL, {"within"});
  expect_error(memory.try_discard(4 * page, page), EINVAL, {"within"});
}

TEST_F(GuestMemfdTest, MappedPartsShareIt) {
  KVM_REQUIRE(vm, cap::GuestMemfdFlags, mappable);
  const GuestMemfd memory = make(8 * page, mappable);
  EXPECT_EQ(memory.flags(), mappable);
  auto whole = memory.try_map({.populate = true});
  ASSERT_TRUE(whole) << whole.error().what();
  auto part = memory.try_map(2 * page, 2 * page, {.guard_pages = true});
  ASSERT_TRUE(part) << part.error().what();
  EXPECT_EQ(part->backing(), whole->backing());
  EXPECT_EQ(part->backing_offset(), 2 * page);
  auto other = make(page, mappable).try_map();
  ASSERT_TRUE(other) << other.error().what();
  EXPECT_NE(other->backing(), whole->backing());

  std::memset(whole->data(), 7, 8 * page);
  EXPECT_EQ(part->data()[0], std::byte{7});
  ASSERT_TRUE(memory.try_discard(3 * page, page));
  EXPECT_EQ(part->data()[page], std::byte{0});
  EXPECT_EQ(part->data()[page - 1], std::byte{7});
  ASSERT_TRUE(part->try_discard(0, page));
  EXPECT_EQ(whole->data()[2 * page], std::byte{0});
  EXPECT_EQ(whole->data()[2 * page - 1], std::byte{7});

  expect_error(memory.try_map(8 * page, page), EINVAL, {"SIGBUS"});
  expect_error(memory.try_map(max64 - page + 1, page), EINVAL, {"2^63"});
  expect_error(memory.try_map(page / 2, page), EINVAL, {"offset"});
  expect_error(memory.try_map(0, 0), EINVAL, {"size"});
  // Nobody can take memory away from under the mapping.
  EXPECT_EQ(::ftruncate(memory.fd(), 0), -1);
}

TEST_F(GuestMemfdTest, MappingOutlivesIt) {
  KVM_REQUIRE(vm, cap::GuestMemfdFlags, mappable);
  kvm::Result<Mapping> mapping = make(page, mappable).try_map();
  ASSERT_TRUE(mapping);
  { const kvm::Vm gone = std::move(vm); }
  std::memset(mapping->data(), 7, page);
  EXPECT_EQ(mapping->data()[page - 1], std::byte{7});
}

// The memory in a slot as KVM takes it without knowing what it is: through its mapping.
TEST_F(GuestMemfdTest, GuestUsesItsMapping) {
  kvm_test::Guest guest = kvm_test::Guest::long_mode(
      // mov al, [0x20000000]; inc al; mov [0x20001000], al; out 0xff, al
      {0x8a, 0x04, 0x25, 0x00, 0x00, 0x00, 0x20, 0xfe, 0xc0, 0x88, 0x04, 0x25, 0x00, 0x10, 0x00,
       0x20, 0xe6, 0xff});
  KVM_REQUIRE(guest.vm, cap::GuestMemfdFlags, mappable);
  auto memory = guest.vm.try_create_guest_memfd(64_KiB, mappable);
  ASSERT_TRUE(memory) << memory.error().what();
  auto mapping = memory->try_map();
  ASSERT_TRUE(mapping) << mapping.error().what();
  std::memset(mapping->data(), 0x30, 1);
  auto slot = guest.vm.try_add_memory(Gpa{0x20000000}, mapping->share());
  ASSERT_TRUE(slot) << slot.error().what();
  kvm_test::Devices devices;
  EXPECT_EQ(devices.run(guest.vcpu), "done");
  EXPECT_EQ(mapping->data()[0x1000], std::byte{0x31});
}

// ---- as the memory of a slot

struct GuestMemfdSlot : GuestMemfdTest {
  static constexpr Gpa there{0x20000000};

  void SetUp() override {
    GuestMemfdTest::SetUp();
    KVM_REQUIRE(vm, cap::UserMemory2);
  }
  /// Tries to make a slot of `pages` pages at `there`.
  kvm::Result<kvm::MemorySlot> add(kvm::Vm& to, const kvm::MemoryOptions& options,
                                   std::size_t pages = 2, Gpa gpa = there) {
    return to.try_add_memory(gpa, Mapping::try_anonymous(pages * page).value(), options);
  }
};

TEST_F(GuestMemfdSlot, IsDeletedAndBoundAgain) {
  const GuestMemfd memory = make(4 * page);
  for (int round = 0; round < 3; ++round) {
    auto slot = add(vm, {.guest_memfd = &memory, .guest_memfd_offset = 2 * page});
    ASSERT_TRUE(slot) << slot.error().what();
    // The range is taken, the rest is not.
    auto again = add(vm, {.guest_memfd = &memory, .guest_memfd_offset = page}, 2, there + 1_GiB);
    EXPECT_FALSE(again);
    auto rest = add(vm, {.guest_memfd = &memory}, 2, there + 2_GiB);
    EXPECT_TRUE(rest) << rest.error().what();
  }
}

TEST_F(GuestMemfdSlot, WhatKvmRefuses) {
  const GuestMemfd memory = make(4 * page);
  const GuestMemfd* const it = &memory;
  EXPECT_FALSE(add(vm, {.log_dirty = true, .guest_memfd = it}));  // R44
  EXPECT_FALSE(add(vm, {.read_only = true, .guest_memfd = it}));
  EXPECT_FALSE(add(vm, {.guest_memfd = it, .guest_memfd_offset = 3 * page}));
  EXPECT_FALSE(add(vm, {.guest_memfd = it, .guest_memfd_offset = page / 2}));
  EXPECT_FALSE(add(vm, {.guest_memfd = it, .guest_memfd_offset = max64 - page + 1}));
  kvm::Vm other = system.create_vm();
  EXPECT_FALSE(add(other, {.guest_memfd = it}));
  EXPECT_TRUE(add(vm, {.guest_memfd = it}));
}

TEST_F(GuestMemfdSlot, KeepsTheMemoryOfADroppedHandle) {
  std::optional<GuestMemfd> memory = make(2 * page);
  auto slot = add(vm, {.guest_memfd = &*memory});
  ASSERT_TRUE(slot) << slot.error().what();
  memory.reset();
  auto removed = slot->try_remove();
  EXPECT_TRUE(removed) << removed.error().what();
}

// The guest and a mapping of the guest_memfd see the same.
TEST_F(GuestMemfdSlot, GuestReachesIt) {
  KVM_REQUIRE(vm, cap::GuestMemfdFlags, mappable);
  kvm_test::Guest guest = kvm_test::Guest::long_mode(
      // mov al, [0x20000000]; inc al; mov [0x20001000], al; out 0xff, al
      {0x8a, 0x04, 0x25, 0x00, 0x00, 0x00, 0x20, 0xfe, 0xc0, 0x88, 0x04, 0x25, 0x00, 0x10, 0x00,
       0x20, 0xe6, 0xff});
  auto memory = guest.vm.try_create_guest_memfd(16_KiB, mappable);
  ASSERT_TRUE(memory) << memory.error().what();
  auto mapping = memory->try_map(8_KiB, 8_KiB);
  ASSERT_TRUE(mapping) << mapping.error().what();
  std::memset(mapping->data(), 0x30, 1);
  auto slot = guest.vm.try_add_memory(there, mapping->share(),
                                      {.guest_memfd = &*memory, .guest_memfd_offset = 8_KiB});
  ASSERT_TRUE(slot) << slot.error().what();
  kvm_test::Devices devices;
  EXPECT_EQ(devices.run(guest.vcpu), "done");
  EXPECT_EQ(mapping->data()[0x1000], std::byte{0x31});
}

}  // namespace
