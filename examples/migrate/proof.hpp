// SPDX-License-Identifier: MIT
#ifndef MIGRATE_PROOF_HPP
#define MIGRATE_PROOF_HPP

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "machine.hpp"
#include "wire.hpp"

namespace migrate {

/// What both sides say of a stopped machine, to be compared: before it runs on, and all of it read
/// anew, the vCPUs' states from KVM.
struct Proof {
  std::uint64_t memory = 0;  ///< checksum
  /// In guest memory, against the device's own.
  std::uint64_t heartbeat_in_memory = 0;
  DeviceState device;
  std::vector<std::vector<std::byte>> vcpus;  ///< serialised
};

std::vector<std::byte> serialise(const Proof& proof);
/// @param vcpus how many states there must be
Proof parse_proof(std::span<const std::byte> bytes, unsigned vcpus);

}  // namespace migrate

#endif
