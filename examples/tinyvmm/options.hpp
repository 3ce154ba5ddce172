// SPDX-License-Identifier: MIT
#ifndef TINYVMM_OPTIONS_HPP
#define TINYVMM_OPTIONS_HPP

#include <chrono>
#include <cstdint>
#include <string>

namespace tinyvmm {

// Limits of --memory in bytes. The unit is the largest page size of a host.
inline constexpr std::uint64_t memory_unit = std::uint64_t{64} << 10;
inline constexpr std::uint64_t least_memory = std::uint64_t{2} << 20;
inline constexpr std::uint64_t most_memory = std::uint64_t{1} << 40;
/// What the tables for the guest have room for: local APIC ids of eight bits.
inline constexpr unsigned most_cpus = 254;

/// The command line.
struct Options {
  std::string kernel;
  /// Empty: none.
  std::string initrd;
  std::string cmdline;
  /// The file behind the virtio-blk disk; empty: no disk.
  std::string disk;
  bool disk_writable = false;
  /// The guest's memory in bytes, a multiple of memory_unit.
  std::uint64_t memory = std::uint64_t{256} << 20;
  unsigned cpus = 1;
  /// Print registers and code when the guest crashes.
  bool dump_on_crash = false;
  /// Print how long each part of the start took.
  bool timing = false;
  /// When the program began, for that.
  std::chrono::steady_clock::time_point started = std::chrono::steady_clock::now();
};

}  // namespace tinyvmm

#endif
