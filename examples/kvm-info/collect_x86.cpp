// SPDX-License-Identifier: MIT
// What only x86's KVM tells.
#include <kvm/kvm.hpp>

#if KVM_HPP_ARCH_X86

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <optional>
#include <vector>

#include "collect.hpp"
#include "names.hpp"

namespace kvm_info {
namespace {

List<CpuidEntry> to_list(const kvm::Result<kvm::x86::Cpuid>& table) {
  List<CpuidEntry> out;
  if (!table) {
    out.problem = table.error().what();
    return out;
  }
  for (const auto& entry : *table) {
    const bool indexed = (entry.flags & kvm::uapi::cpuid_flag::significant_index) != 0;
    out.entries.push_back({.function = entry.function,
                           .index = indexed ? std::optional(entry.index) : std::nullopt,
                           .eax = entry.eax,
                           .ebx = entry.ebx,
                           .ecx = entry.ecx,
                           .edx = entry.edx});
  }
  return out;
}

List<Msr> to_list(const kvm::Result<std::vector<std::uint32_t>>& indices) {
  List<Msr> out;
  if (!indices) {
    out.problem = indices.error().what();
    return out;
  }
  std::transform(indices->begin(), indices->end(), std::back_inserter(out.entries),
                 [](std::uint32_t index) { return Msr{.index = index, .value = {}}; });
  return out;
}

std::optional<std::uint64_t> guest_xcr0(const kvm::System& system) {
  namespace attr = kvm::uapi::x86_attr;
  std::uint64_t mask = 0;
  const auto read = system.try_get_device_attr(attr::grp_system, attr::xcomp_guest_supp, mask);
  return read ? std::optional(mask) : std::nullopt;
}

}  // namespace

X86 collect_x86(const kvm::System& system) {
  X86 out;
  out.supported_cpuid = to_list(system.try_supported_cpuid());
  out.emulated_cpuid = to_list(system.try_emulated_cpuid());
  out.hyperv_cpuid = to_list(system.try_supported_hv_cpuid());
  out.paravirtual = paravirtual_features(out.supported_cpuid.entries);
  out.msrs = to_list(system.try_msr_index_list());
  out.feature_msrs = to_list(system.try_msr_feature_index_list());
  for (Msr& msr : out.feature_msrs.entries) {
    kvm::uapi::kvm_msr_entry entry{};
    entry.index = msr.index;
    const auto read = system.try_get_msrs({&entry, 1});
    if (read && *read == 1) {
      msr.value = entry.data;
    }
  }
  if (const auto value = system.try_mce_cap_supported()) {
    out.machine_check = *value;
  }
  out.guest_xcr0 = guest_xcr0(system);
  return out;
}

}  // namespace kvm_info

#endif
