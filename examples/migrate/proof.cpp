// SPDX-License-Identifier: MIT
#include "proof.hpp"

namespace migrate {

std::vector<std::byte> serialise(const Proof& proof) {
  Writer out;
  out.put(proof.memory);
  out.put(proof.heartbeat_in_memory);
  out.put(proof.device);
  for (const auto& vcpu : proof.vcpus) {
    out.put(static_cast<std::uint64_t>(vcpu.size()));
    out.put_bytes(vcpu);
  }
  return out.bytes();
}

Proof parse_proof(std::span<const std::byte> bytes, unsigned vcpus) {
  Reader in(bytes, "the proof");
  Proof proof;
  proof.memory = in.get<std::uint64_t>();
  proof.heartbeat_in_memory = in.get<std::uint64_t>();
  proof.device = in.get<DeviceState>();
  for (unsigned i = 0; i < vcpus; ++i) {
    const auto state = in.get_bytes(in.get<std::uint64_t>());
    proof.vcpus.emplace_back(state.begin(), state.end());
  }
  in.expect_end();
  return proof;
}

}  // namespace migrate
