// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_TESTS_MACHINE_CODE_HEADER_HPP
#define KVM_HPP_TESTS_MACHINE_CODE_HEADER_HPP

#include <cstddef>
#include <cstdint>

/// @file
/// What the subjects read from guest memory, and what they make of it.

/// As a device's queue might have it.
struct Header {
  std::uint32_t kind;
  std::uint16_t index;
  std::uint16_t flags;
  std::uint64_t address;
};

inline constexpr std::uint64_t table[16] = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3};
inline constexpr std::uint64_t refused = ~std::uint64_t{0};

std::uint64_t handle_reset(std::uint64_t address);
std::uint64_t handle_read(std::uint64_t address);
std::uint64_t handle_write(std::uint64_t address);
std::uint64_t handle_flush(std::uint64_t address);
std::uint64_t handle_stop(std::uint64_t address);

[[gnu::always_inline]] inline std::uint64_t look_up(const Header& header) {
  return header.index < 16 ? header.address + table[header.index] : refused;
}

/// Switches on one field and indexes with another, both checked: what a guest
/// wants to change in between.
[[gnu::always_inline]] inline std::uint64_t decide(const Header& header) {
  switch (header.kind) {
    case 0:
      return handle_reset(look_up(header));
    case 1:
      return handle_read(look_up(header));
    case 2:
      return handle_write(look_up(header));
    case 3:
      return handle_flush(look_up(header));
    case 4:
      return handle_stop(look_up(header));
    case 5:
      return header.flags;
    case 6:
      return look_up(header) * 2;
    default:
      return refused;
  }
}

/// Reads a header from guest memory, stores what it took for its contents, and
/// returns its decision.
using Subject = std::uint64_t (*)(const std::byte* guest, Header* seen);

struct Case {
  const char* name;
  Subject subject;
  /// How many instructions read guest memory, each at an address of its own;
  /// 0 where that is not promised.
  unsigned fetches;
  /// Whether it fetches twice on purpose: it must be caught.
  bool control;
  /// Whether the compiler chooses if the control fetches twice.
  bool compiler_decides;
};

extern const Case cases[];
extern const std::size_t case_count;

#endif
