// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_TESTS_SUPPORT_ALLOCATIONS_HPP
#define KVM_HPP_TESTS_SUPPORT_ALLOCATIONS_HPP

#include <cstddef>
#include <cstdlib>
#include <new>

/// @file
/// Counts what the program that includes this allocates, in one of its sources,
/// and lets allocations fail: it replaces the global operator new.

namespace kvm_test {

/// Of this thread, so far.
inline thread_local std::size_t allocations = 0;

/// How many allocations of this thread succeed before they fail; all if negative.
inline thread_local long allocations_left = -1;
/// Whether only one fails then.
inline thread_local bool fails_once = false;

inline void* allocate(std::size_t size, std::size_t alignment) {
  ++allocations;
  if (allocations_left == 0) {
    allocations_left = fails_once ? -1 : 0;
    return nullptr;
  }
  allocations_left -= allocations_left > 0 ? 1 : 0;
  return std::aligned_alloc(alignment, (size / alignment + (size % alignment != 0)) * alignment);
}
inline void* allocate_or_throw(std::size_t size, std::size_t alignment) {
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

}  // namespace kvm_test

[[gnu::noinline]] void* operator new(std::size_t size) {
  return kvm_test::allocate_or_throw(size, alignof(std::max_align_t));
}
[[gnu::noinline]] void* operator new(std::size_t size, std::align_val_t alignment) {
  return kvm_test::allocate_or_throw(size, static_cast<std::size_t>(alignment));
}
// Address sanitizer has these, too: all that delete may meet must come from here.
[[gnu::noinline]] void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  return kvm_test::allocate(size, alignof(std::max_align_t));
}
[[gnu::noinline]] void* operator new[](std::size_t size, const std::nothrow_t&) noexcept {
  return kvm_test::allocate(size, alignof(std::max_align_t));
}
[[gnu::noinline]] void* operator new[](std::size_t size) {
  return kvm_test::allocate_or_throw(size, alignof(std::max_align_t));
}
[[gnu::noinline]] void operator delete[](void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::align_val_t) noexcept {
  std::free(memory);
}
[[gnu::noinline]] void operator delete(void* memory, std::size_t, std::align_val_t) noexcept {
  std::free(memory);
}

#endif
