// SPDX-License-Identifier: MIT
#ifndef MIGRATE_GUEST_HPP
#define MIGRATE_GUEST_HPP

#if !defined(__x86_64__)
#error "this example's guest is x86 machine code; kvm-info is the one that runs everywhere"
#endif

#include <kvm/kvm.hpp>

#include <cstdint>
#include <string>

/// @file
/// The guest that is migrated. Each vCPU walks over pages of its own, in an order that a linear
/// congruential generator gives: every page once per lap. On each visit it looks whether the page
/// holds what it wrote there the lap before, then writes anew. So a page that a migration lost or
/// mixed up is found within a lap.
///
/// It counts its visits in a general register, in an SSE register and on the x87 stack, and
/// compares them; it takes numbers from a device, which must come without gap or repetition (an IN
/// that was done twice would show); and it reads the VMM's heartbeat in memory, which must not go
/// back. At the end of each lap it tells its number. If anything is wrong, it tells what.

namespace migrate {

/// What the guest does; the source chooses.
struct GuestOptions {
  std::uint64_t memory_bytes = 0;
  unsigned vcpus = 0;
  /// Of the guest's pages (4 KiB) per vCPU: a power of two, at least least_pages.
  std::uint64_t pages = 0;
  /// PAUSE instructions between two pages.
  std::uint64_t pauses = 0;
};

namespace port {
inline constexpr std::uint16_t number = 0x500;  ///< in: 1, 2, 3, … for each vCPU
inline constexpr std::uint16_t lap = 0x504;     ///< out: the lap that was finished
inline constexpr std::uint16_t fault = 0x508;   ///< out: a fault that was found
}  // namespace port

/// The limits of what can be asked for.
inline constexpr std::uint64_t least_memory = std::uint64_t{8} << 20;
inline constexpr std::uint64_t most_memory = std::uint64_t{16} << 30;
inline constexpr unsigned most_vcpus = 16;
inline constexpr std::uint64_t least_pages = 64;

/// Where the VMM's device writes its heartbeat, a word, and its records, a page each in turn.
inline constexpr kvm::Gpa heartbeat_at{0x3000};
inline constexpr kvm::Gpa records_at{0x80000};
inline constexpr std::uint64_t record_pages = 16;
inline constexpr std::uint64_t guest_page = 4096;

/// How many pages each vCPU can have at most; a power of two.
std::uint64_t most_pages(std::uint64_t memory_bytes, unsigned vcpus);

/// Fills all of the guest's memory: its code, its page tables, its pages, and noise elsewhere.
void load_guest(const kvm::MemorySlot& ram, const GuestOptions& options);

/// Puts a new vCPU at the start of the code, in 64-bit mode.
void boot_vcpu(const kvm::System& system, kvm::Vcpu& vcpu, const GuestOptions& options);

/// A fault's number in words.
std::string describe_fault(std::uint32_t fault);

}  // namespace migrate

#endif
