// SPDX-License-Identifier: MIT
#ifndef MIGRATE_VCPU_STATE_HPP
#define MIGRATE_VCPU_STATE_HPP

#include <kvm/kvm.hpp>

#include <cstddef>
#include <span>
#include <string>
#include <vector>

namespace migrate {

/// A vCPU's whole state as bytes: sections, each with a number, its size and KVM's own structs.
std::vector<std::byte> serialise(const kvm::x86::VcpuSnapshot& state);

/// The state again. Throws Failure unless every section has the size that it must have and is there
/// once. What the values mean is for KVM to check.
kvm::x86::VcpuSnapshot parse_vcpu_state(std::span<const std::byte> bytes);

/// Whether a vCPU that was given `saved`, and has not run since, is in that state: what differs, or
/// an empty string. The time stamp counter has gone on, and must not have gone back.
std::string difference(const kvm::x86::VcpuSnapshot& saved, const kvm::x86::VcpuSnapshot& restored);

/// The same state with nothing in it that moves while the vCPU stands still: two states that are
/// equal are the same bytes then.
kvm::x86::VcpuSnapshot without_time(kvm::x86::VcpuSnapshot state);

}  // namespace migrate

#endif
