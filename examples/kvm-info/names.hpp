// SPDX-License-Identifier: MIT
#ifndef KVM_INFO_NAMES_HPP
#define KVM_INFO_NAMES_HPP

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "report.hpp"

/// The names that the report's numbers go by.
namespace kvm_info {

/// What a capability is about, such as "Memory".
std::string_view topic(std::string_view capability);
/// All topics, in the order in which they read well.
std::span<const std::string_view> topics();

/// What a CPUID leaf is about, or nothing.
std::string_view leaf_title(const CpuidEntry& entry);
/// The names of the feature bits that are set in a leaf.
std::vector<std::string> feature_names(const CpuidEntry& entry);

/// What CPUID says of the processor as a whole.
struct Processor {
  std::string vendor;
  std::string name;
  unsigned family, model, stepping;
  unsigned physical_bits, linear_bits;
};
Processor processor(std::span<const CpuidEntry> cpuid);

/// The names of XCR0's state components.
std::vector<std::string> state_component_names(std::uint64_t xcr0);
/// The names of what IA32_MCG_CAP says beside the number of banks.
std::vector<std::string> machine_check_names(std::uint64_t mcg_cap);

/// KVM's own leaf 0x40000001, each feature with its meaning.
std::vector<Feature> paravirtual_features(std::span<const CpuidEntry> cpuid);

}  // namespace kvm_info

#endif
