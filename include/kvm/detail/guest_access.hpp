// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_DETAIL_GUEST_ACCESS_HPP
#define KVM_HPP_DETAIL_GUEST_ACCESS_HPP

#include <kvm/detail/config.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>

/// @file
/// All access to memory that a running guest shares. The barriers keep the
/// compiler from fetching a copied value a second time from the guest's memory.

KVM_HPP_BEGIN
namespace detail {

inline void copy_to_guest(std::byte* guest, const std::byte* from, std::size_t size) noexcept {
  std::atomic_signal_fence(std::memory_order_seq_cst);
  if (size != 0) {  // An empty span may have no address.
    std::memcpy(guest, from, size);
  }
  std::atomic_signal_fence(std::memory_order_seq_cst);
}

inline void copy_from_guest(std::byte* to, const std::byte* guest, std::size_t size) noexcept {
  std::atomic_signal_fence(std::memory_order_seq_cst);
  if (size != 0) {  // An empty span may have no address.
    std::memcpy(to, guest, size);
  }
  std::atomic_signal_fence(std::memory_order_seq_cst);
}

/// Whether [offset, offset + size) lies inside [0, limit), for any numbers.
constexpr bool in_bounds(std::uint64_t offset, std::uint64_t size, std::uint64_t limit) noexcept {
  std::uint64_t room = 0;
  return !__builtin_sub_overflow(limit, size, &room) && offset <= room;
}

}  // namespace detail
KVM_HPP_END

#endif
