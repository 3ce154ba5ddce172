// SPDX-License-Identifier: MIT
// Giving numbers back happens in destructors, so the room for it is there before.
#include <kvm/detail/slot_ids.hpp>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <initializer_list>
#include <new>

#include <gtest/gtest.h>

namespace {

thread_local bool counting = false;
thread_local std::size_t allocations = 0;

void* allocate(std::size_t size, std::size_t alignment) {
  allocations += counting ? 1 : 0;
  return std::aligned_alloc(alignment, (size / alignment + (size % alignment != 0)) * alignment);
}
void* allocate_or_throw(std::size_t size, std::size_t alignment) {
  void* const memory = allocate(size, alignment);
  if (memory == nullptr) {
#if defined(__cpp_exceptions)
    throw std::bad_alloc();
#else
    std::abort();
#endif
  }
  return memory;
}

}  // namespace

[[gnu::noinline]] void* operator new(std::size_t size) {
  return allocate_or_throw(size, alignof(std::max_align_t));
}
[[gnu::noinline]] void* operator new(std::size_t size, std::align_val_t alignment) {
  return allocate_or_throw(size, static_cast<std::size_t>(alignment));
}
// Address sanitizer has this one, too: all that delete may meet must come from here.
[[gnu::noinline]] void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  return allocate(size, alignof(std::max_align_t));
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::align_val_t) noexcept {
  std::free(memory);
}
[[gnu::noinline]] void operator delete(void* memory, std::size_t, std::align_val_t) noexcept {
  std::free(memory);
}

namespace {

using kvm::SlotId;
using kvm::detail::SlotIds;

/// How often giving back `number` numbers and draining the rings allocates.
std::size_t count(std::uint16_t number, bool rings) {
  SlotIds ids;
  if (rings) {
    ids.hold_back();
  }
  for (std::uint16_t i = 0; i < number; ++i) {
    EXPECT_EQ(ids.take(0, number), SlotId(i, 0));
  }
  allocations = 0;
  counting = true;
  for (std::uint16_t i = number; i-- != 0;) {
    ids.give_back(SlotId(i, 0));
  }
  ids.drained(ids.stamp());
  counting = false;
  EXPECT_EQ(ids.take(0, number), SlotId(0, 0));
  return allocations;
}

TEST(SlotIdsAllocation, GivingBackNeedsNone) {
  using Numbers = std::initializer_list<std::uint16_t>;
  for (const std::uint16_t number : Numbers{1, 2, 3, 4, 5, 7, 8, 9, 100, 1000}) {
    EXPECT_EQ(count(number, false), 0u) << number;
    EXPECT_EQ(count(number, true), 0u) << number;
  }
}

TEST(SlotIdsAllocation, TheCounterCounts) {
  allocations = 0;
  counting = true;
  ::operator delete(::operator new(1));  // As a new-expression it could be left out.
  counting = false;
  EXPECT_EQ(allocations, 1u);
}

// Taking many numbers makes room a few times, not each time.
TEST(SlotIdsAllocation, TakingNeedsFew) {
  SlotIds ids;
  allocations = 0;
  counting = true;
  for (int i = 0; i < 4096; ++i) {
    (void)ids.take(0, 4096);
  }
  counting = false;
  EXPECT_LT(allocations, 64u);
}

}  // namespace
