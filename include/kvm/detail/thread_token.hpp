// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_DETAIL_THREAD_TOKEN_HPP
#define KVM_HPP_DETAIL_THREAD_TOKEN_HPP

#include <kvm/detail/config.hpp>

#include <atomic>
#include <cstdint>

KVM_HPP_BEGIN
namespace detail {

/// Tells living threads apart at the price of a load; 0 until first used.
/// (A thread id would cost a system call, an address is reused.)
#if defined(__GLIBC__)
// In a shared object too: its loader keeps room for such variables.
[[gnu::tls_model("initial-exec")]]
#endif
inline constinit thread_local std::uint64_t thread_token = 0;
inline std::atomic<std::uint64_t> last_thread_token{0};

/// This thread's token, given out at first use; never 0.
inline std::uint64_t this_thread() noexcept {
  if (thread_token == 0) [[unlikely]] {
    thread_token = last_thread_token.fetch_add(1, std::memory_order_relaxed) + 1;
  }
  return thread_token;
}

}  // namespace detail
KVM_HPP_END

#endif
