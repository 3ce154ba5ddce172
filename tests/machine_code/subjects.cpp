// SPDX-License-Identifier: MIT
// Decisions on guest memory, read through the library and, as controls, not.
#include <kvm/detail/guest_access.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "header.hpp"

namespace detail = kvm::detail;

namespace {

struct Large {
  Header header;
  std::byte rest[184];
};
struct Medium {
  Header header;
  std::byte rest[48];
};
struct Larger {
  Header header;
  std::byte rest[2032];
};

}  // namespace

extern "C" {

std::uint64_t scalars(const std::byte* guest, Header* seen) {
  Header header{};
  header.kind = detail::load<std::uint32_t>(guest);
  header.index = detail::load<std::uint16_t>(guest + 4);
  header.flags = detail::load<std::uint16_t>(guest + 6);
  header.address = detail::load<std::uint64_t>(guest + 8);
  const std::uint64_t decision = decide(header);
  *seen = header;
  return decision;
}

std::uint64_t scalars_anywhere(const std::byte* guest, Header* seen) {
  Header header{};
  header.kind = detail::load_any<std::uint32_t>(guest);
  header.index = detail::load_any<std::uint16_t>(guest + 4);
  header.flags = detail::load_any<std::uint16_t>(guest + 6);
  header.address = detail::load_any<std::uint64_t>(guest + 8);
  const std::uint64_t decision = decide(header);
  *seen = header;
  return decision;
}

std::uint64_t atomics(const std::byte* guest, Header* seen) {
  Header header{};
  header.kind = detail::atomic_load<std::uint32_t>(guest, std::memory_order_acquire);
  header.index = detail::atomic_load<std::uint16_t>(guest + 4, std::memory_order_relaxed);
  header.flags = detail::atomic_load<std::uint16_t>(guest + 6, std::memory_order_relaxed);
  header.address = detail::atomic_load<std::uint64_t>(guest + 8, std::memory_order_seq_cst);
  const std::uint64_t decision = decide(header);
  *seen = header;
  return decision;
}

std::uint64_t whole_struct(const std::byte* guest, Header* seen) {
  const auto header = detail::load_any<Header>(guest);
  const std::uint64_t decision = decide(header);
  *seen = header;
  return decision;
}

std::uint64_t large_struct(const std::byte* guest, Header* seen) {
  const auto large = detail::load_any<Large>(guest);
  const std::uint64_t decision = decide(large.header);
  *seen = large.header;
  return decision;
}

std::uint64_t larger_struct(const std::byte* guest, Header* seen) {
  const auto larger = detail::load_any<Larger>(guest);
  const std::uint64_t decision = decide(larger.header);
  *seen = larger.header;
  return decision;
}

std::uint64_t bulk_copy(const std::byte* guest, Header* seen) {
  Header header;
  detail::copy_from_guest(reinterpret_cast<std::byte*>(&header), guest, sizeof(header));
  const std::uint64_t decision = decide(header);
  *seen = header;
  return decision;
}

// The controls.

std::uint64_t control_plain(const std::byte* guest, Header* seen) {
  const Header header = *reinterpret_cast<const Header*>(guest);
  const std::uint64_t decision = decide(header);
  std::memcpy(seen, &header, sizeof(header));
  return decision;
}

// GCC 12 at -O2 compares with one fetch of the kind and jumps by the other.
std::uint64_t control_memcpy(const std::byte* guest, Header* seen) {
  Medium medium;
  std::memcpy(&medium, guest, sizeof(medium));
  const std::uint64_t decision = decide(medium.header);
  *seen = medium.header;
  return decision;
}

// Every look at the struct is a fetch.
std::uint64_t control_volatile(const std::byte* guest, Header* seen) {
  const volatile Header* const shared = reinterpret_cast<const volatile Header*>(guest);
  seen->kind = shared->kind;
  seen->index = shared->index;
  seen->flags = shared->flags;
  seen->address = shared->address;
  return decide({shared->kind, shared->index, shared->flags, shared->address});
}

// The hazard by itself: the value is checked, then fetched again to be used.
std::uint64_t control_checked_then_used(const std::byte* guest, Header* seen) {
  const volatile Header* const shared = reinterpret_cast<const volatile Header*>(guest);
  Header header = detail::load_any<Header>(guest);
  *seen = header;
  if (header.index >= 16) {
    return refused;
  }
  header.index = shared->index & 15;
  return decide(header);
}

}  // extern "C"

const Case cases[] = {
    {"scalars", scalars, 4, false, false},
    {"scalars_anywhere", scalars_anywhere, 4, false, false},
    {"atomics", atomics, 4, false, false},
    {"whole_struct", whole_struct, 2, false, false},
    {"large_struct", large_struct, 0, false, false},
    {"larger_struct", larger_struct, 0, false, false},
    {"bulk_copy", bulk_copy, 0, false, false},
    {"control_plain", control_plain, 0, true, true},
    {"control_memcpy", control_memcpy, 0, true, true},
    {"control_volatile", control_volatile, 4, true, false},
    {"control_checked_then_used", control_checked_then_used, 2, true, false},
};
const std::size_t case_count = sizeof(cases) / sizeof(cases[0]);
