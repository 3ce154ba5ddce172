// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_TYPES_HPP
#define KVM_HPP_TYPES_HPP

#include <kvm/detail/config.hpp>
#if !KVM_HPP_REFUSED

#include <compare>
#include <cstddef>
#include <cstdint>

/// @file
/// Numbers that must not be mixed up, and sizes that don't overflow.

KVM_HPP_BEGIN

/// A guest physical address, in bytes.
struct Gpa {
  /// Bytes from the start of guest physical memory.
  std::uint64_t value = 0;

  constexpr Gpa() = default;
  /// The address with this number.
  constexpr explicit Gpa(std::uint64_t address) : value(address) {}

  constexpr auto operator<=>(const Gpa&) const = default;
  /// The address `bytes` further on; wraps at 2^64.
  friend constexpr Gpa operator+(Gpa a, std::uint64_t bytes) { return Gpa(a.value + bytes); }
  friend constexpr Gpa operator-(Gpa a, std::uint64_t bytes) { return Gpa(a.value - bytes); }
  /// The distance in bytes, modulo 2^64.
  friend constexpr std::uint64_t operator-(Gpa a, Gpa b) { return a.value - b.value; }
};

/// The number of a vCPU within its VM: 0 to KVM_CAP_MAX_VCPU_ID - 1. On x86 it
/// is the APIC id.
struct VcpuId {
  /// The number.
  std::uint32_t value = 0;

  constexpr VcpuId() = default;
  /// The vCPU of this number.
  constexpr VcpuId(std::uint32_t id) : value(id) {}

  constexpr auto operator<=>(const VcpuId&) const = default;
};

/// The number of a memory slot within its address space: 0 to
/// KVM_CAP_NR_MEMSLOTS - 1. Slots of one address space don't overlap.
struct SlotId {
  /// The number within the address space.
  std::uint16_t id = 0;
  /// 0, or 1 for what x86 sees in system management mode.
  std::uint16_t address_space = 0;

  constexpr SlotId() = default;
  /// The slot of this number.
  constexpr explicit SlotId(std::uint16_t slot, std::uint16_t space = 0)
      : id(slot), address_space(space) {}

  /// Both in the form that the kernel's structs hold them.
  constexpr std::uint32_t raw() const {
    return static_cast<std::uint32_t>(address_space) << 16 | id;
  }
  constexpr auto operator<=>(const SlotId&) const = default;
};

/// Pages of one slot: numbers from its start, in the host's page size.
struct PageRange {
  /// The first page.
  std::uint64_t first = 0;
  /// How many there are.
  std::uint64_t count = 0;

  constexpr auto operator<=>(const PageRange&) const = default;
};

/// Guest frames: guest physical addresses divided by the host's page size.
struct GfnRange {
  /// The first frame.
  std::uint64_t first = 0;
  /// How many there are.
  std::uint64_t count = 0;

  constexpr auto operator<=>(const GfnRange&) const = default;
};

inline namespace literals {
/// Sizes in bytes: `64_MiB`. A plain `2 << 30` is negative.
constexpr std::size_t operator""_KiB(unsigned long long n) { return std::size_t{n} << 10; }
/// 2^20 bytes each.
constexpr std::size_t operator""_MiB(unsigned long long n) { return std::size_t{n} << 20; }
/// 2^30 bytes each.
constexpr std::size_t operator""_GiB(unsigned long long n) { return std::size_t{n} << 30; }
}  // namespace literals

KVM_HPP_END

#endif  // !KVM_HPP_REFUSED
#endif
