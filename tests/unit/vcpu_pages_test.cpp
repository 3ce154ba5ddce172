// SPDX-License-Identifier: MIT
#include <kvm/detail/vcpu_pages.hpp>

#include <gtest/gtest.h>

#include <cerrno>
#include <cstddef>
#include <string>
#include <utility>

#include <sys/mman.h>

#include "support/child.hpp"
#include "support/zeroed_pages.hpp"

namespace {

using kvm::detail::VcpuPages;

const std::size_t page = kvm::detail::sys::page_size();

/// Whether anything is mapped there: msync() says ENOMEM where nothing is.
bool is_mapped(void* address) { return ::msync(address, page, MS_ASYNC) == 0; }

TEST(VcpuPages, AreMappedAsLongAsTheyAreOwned) {
  void* address = nullptr;
  {
    const VcpuPages pages = kvm_test::zeroed_pages(2 * page);
    address = pages.data();
    EXPECT_EQ(pages.size(), 2 * page);
    pages.data()[2 * page - 1] = std::byte{1};
    EXPECT_TRUE(is_mapped(address));
  }
  EXPECT_FALSE(is_mapped(address));
  const VcpuPages none;
  EXPECT_EQ(none.data(), nullptr);
  EXPECT_EQ(none.size(), 0u);
}

TEST(VcpuPages, MoveWithTheirOwner) {
  VcpuPages first = kvm_test::zeroed_pages(page);
  VcpuPages second = kvm_test::zeroed_pages(2 * page);
  void* const kept = first.data();
  void* const gone = second.data();
  second = std::move(first);
  EXPECT_EQ(second.data(), kept);
  EXPECT_EQ(second.size(), page);
  EXPECT_EQ(first.data(), nullptr);  // NOLINT(bugprone-use-after-move)
  EXPECT_EQ(first.size(), 0u);
  EXPECT_FALSE(is_mapped(gone));
  VcpuPages& same = second;
  second = std::move(same);
  EXPECT_EQ(second.data(), kept);
  const VcpuPages third(std::move(second));
  EXPECT_EQ(third.data(), kept);
  EXPECT_EQ(second.data(), nullptr);  // NOLINT(bugprone-use-after-move)
  EXPECT_TRUE(is_mapped(kept));
}

TEST(VcpuPages, SayWhatCouldNotBeMapped) {
  const auto pages = VcpuPages::try_map("mmap of a page", -1, page, 0);
  ASSERT_FALSE(pages);
  EXPECT_EQ(pages.error().error_number(), EBADF);
  const std::string text = pages.error().what();
  EXPECT_NE(text.find("mmap of a page(size="), std::string::npos) << text;
  EXPECT_NE(text.find("offset=0x0"), std::string::npos) << text;
}

// A child has nothing there, and may have put something of its own there.
TEST(VcpuPages, AChildNeitherHasNorUnmapsThem) {
  VcpuPages pages = kvm_test::zeroed_pages(page);
  void* const address = pages.data();
  kvm_test::expect_in_child([&] {
    EXPECT_FALSE(is_mapped(address));
    ASSERT_EQ(::mmap(address, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
                     -1, 0),
              address);
    pages = VcpuPages();
    EXPECT_TRUE(is_mapped(address));
  });
  EXPECT_TRUE(is_mapped(address));
}

}  // namespace
