// SPDX-License-Identifier: MIT
#ifndef MIGRATE_OPTIONS_HPP
#define MIGRATE_OPTIONS_HPP

#include <kvm/memory/dirty_tracker.hpp>

#include <cstdint>
#include <string>

namespace migrate {

/// The command line.
struct Options {
  std::string listen;
  std::string to;
  kvm::DirtyMode mode = kvm::DirtyMode::automatic;
  std::uint64_t memory_mib = 64;
  unsigned vcpus = 2;
  /// Pages that each vCPU writes, a power of two; 0 chooses.
  std::uint64_t pages = 0;
  std::uint64_t pauses = 1000;
  unsigned downtime_ms = 5;
  unsigned max_rounds = 30;
  /// Of the wire, in MiB/s; 0 is as fast as it goes.
  unsigned bandwidth = 0;
  /// For which the other side may do nothing, in seconds.
  unsigned timeout = 30;
  std::uint64_t max_memory_mib = 4096;
  bool quiet = false;
};

}  // namespace migrate

#endif
