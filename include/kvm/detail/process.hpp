// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_DETAIL_PROCESS_HPP
#define KVM_HPP_DETAIL_PROCESS_HPP

#include <kvm/detail/syscalls.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <new>

/// @file
/// Which process this is, for handles that a fork copies. A process id does not
/// tell: a child in a new PID namespace can have its parent's, and ids are
/// reused. A page that the kernel clears in a forked child does, at the price
/// of a load.

KVM_HPP_BEGIN
namespace detail {

using ProcessToken = std::uint64_t;

/// Mapped once per process and shared by all of it; never unmapped.
inline std::atomic<std::atomic<ProcessToken>*> process_page{nullptr};
/// A fork copies it, so that a child's token differs from all of its ancestors'.
inline std::atomic<ProcessToken> last_process_token{0};
/// Stands for the page where the kernel refused it.
inline constinit std::atomic<ProcessToken> no_process_page{0};

[[gnu::noinline, gnu::cold]] inline std::atomic<ProcessToken>* map_process_page() noexcept {
  const std::size_t size = sys::page_size();
  std::atomic<ProcessToken>* mine = &no_process_page;
  void* const address = sys::mmap(size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (address != MAP_FAILED) {
    if (sys::madvise(address, size, MADV_WIPEONFORK) == 0) {
      mine = new (address) std::atomic<ProcessToken>(0);
    } else {
      sys::munmap(address, size);
    }
  }
  std::atomic<ProcessToken>* theirs = nullptr;
  if (process_page.compare_exchange_strong(theirs, mine)) {
    return mine;
  }
  if (mine != &no_process_page) {  // Another thread was first.
    sys::munmap(address, size);
  }
  return theirs;
}

[[gnu::noinline, gnu::cold]] inline ProcessToken new_process_token(
    std::atomic<ProcessToken>& page) noexcept {
  if (&page == &no_process_page) {
    return static_cast<ProcessToken>(sys::getpid());
  }
  ProcessToken none = 0;
  const ProcessToken token = last_process_token.fetch_add(1) + 1;
  return page.compare_exchange_strong(none, token) ? token : none;
}

/// A number that this process has and no process that it was forked from. Safe
/// in a signal handler once there is a handle.
inline ProcessToken this_process() noexcept {
  std::atomic<ProcessToken>* page = process_page.load(std::memory_order_acquire);
  if (page == nullptr) [[unlikely]] {
    page = map_process_page();
  }
  const ProcessToken token = page->load(std::memory_order_relaxed);
  return token != 0 ? token : new_process_token(*page);
}

}  // namespace detail
KVM_HPP_END

#endif
