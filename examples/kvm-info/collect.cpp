// SPDX-License-Identifier: MIT
// What any architecture's KVM tells.
#include "collect.hpp"

#include <concepts>
#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

namespace kvm_info {
namespace {

Value to_value(bool value) { return value; }
template <std::unsigned_integral Number>
Value to_value(Number value) {
  return std::uint64_t{value};
}
template <class Bit>
Value to_value(kvm::Flags<Bit> flags) {
  FlagSet set{.bits = flags.raw(), .names = {}};
  for (const auto& name : flag_names(Bit{})) {
    if (flags.contains(name.bit)) {
      set.names.emplace_back(name.text);
      flags = flags.without(name.bit);
    }
  }
  if (!flags.empty()) {
    set.names.push_back(to_string(flags));
  }
  return set;
}

#if KVM_HPP_ARCH_ARM64
Value to_value(kvm::cap::BlockSizes sizes) {
  FlagSet set{.bits = sizes.raw(), .names = {}};
  for (std::uint64_t bytes = 1; bytes != 0; bytes <<= 1) {
    if (sizes.contains(bytes)) {
      set.names.push_back(std::to_string(bytes));
    }
  }
  return set;
}
#endif

/// Asks the system or a VM for one capability.
template <class C, class Handle>
std::optional<Answer> ask(const Handle& handle) {
  auto value = handle.template try_check<C>();
  if (!value) {
    return std::nullopt;
  }
  return Answer{.raw = handle.try_check_raw(C::info.number).value_or(0), .value = to_value(*value)};
}

template <class C>
Capability describe(const kvm::System& system, const kvm::Vm* vm) {
  constexpr auto& info = C::info;
  using Scope = std::remove_cvref_t<decltype(info.scope)>;
  Capability out{.number = info.number,
                 .name = info.name,
                 .summary = info.summary,
                 .system = ask<C>(system),
                 .vm = vm != nullptr ? ask<C>(*vm) : std::nullopt,
                 .enabled_on = {},
                 .constraint = info.constraint != nullptr ? info.constraint : ""};
  if (info.enable_arches.contains(kvm::host_arch)) {
    out.enabled_on = info.scope == Scope::vm ? "vm" : info.scope == Scope::vcpu ? "vcpu" : "";
  }
  return out;
}

void collect_capabilities(Report& report, const kvm::System& system, const kvm::Vm* vm) {
  std::set<unsigned> known;
  kvm::for_each_capability([&]<class C>(std::type_identity<C>) {
    report.capabilities.push_back(describe<C>(system, vm));
    known.insert(C::info.number);
  });
  // KVM may be newer than the library.
  constexpr unsigned numbers = 512;
  for (unsigned number = 0; number < numbers; ++number) {
    if (known.contains(number)) {
      continue;
    }
    const auto raw = vm != nullptr ? vm->try_check_raw(number) : system.try_check_raw(number);
    if (raw && *raw > 0) {
      report.unknown_capabilities.push_back({number, *raw});
    }
  }
}

void collect_limits(Report& report, const kvm::System& system) {
  const auto capability = [&](unsigned number) -> std::optional<std::uint64_t> {
    for (const Capability& candidate : report.capabilities) {
      if (candidate.number == number && candidate.offered()) {
        return static_cast<std::uint64_t>(candidate.answer()->raw);
      }
    }
    return std::nullopt;
  };
  namespace number = kvm::uapi::cap;
  report.limits = {
      {"recommended_vcpus", capability(number::nr_vcpus), "", "vCPUs per VM, recommended"},
      {"max_vcpus", capability(number::max_vcpus), "", "vCPUs per VM, at most"},
      {"max_vcpu_id", capability(number::max_vcpu_id), "", "vCPU ids are below this"},
      {"memory_slots", capability(number::nr_memslots), "", "memory slots per address space"},
      {"address_spaces", capability(number::multi_address_space).value_or(1), "",
       "address spaces that slots can be put in"},
      {"vcpu_mapping_bytes", system.vcpu_mmap_size(), "bytes",
       "mapped per vCPU, run page included"},
      {"irq_routes", capability(number::irq_routing), "", "interrupt routes per VM"},
      {"dirty_ring_bytes", capability(number::dirty_log_ring_acq_rel), "bytes",
       "largest dirty ring per vCPU"},
  };
#if KVM_HPP_ARCH_X86
  report.limits.push_back({"xsave_bytes", capability(number::xsave2), "bytes",
                           "a vCPU's extended processor state (XSAVE)"});
  report.limits.push_back({"nested_state_bytes", capability(number::nested_state), "bytes",
                           "a vCPU's state of nested virtualization"});
  report.limits.push_back(
      {"machine_check_banks", capability(number::mce), "", "machine-check banks per vCPU"});
#elif KVM_HPP_ARCH_ARM64
  report.limits.push_back(
      {"ipa_bits", capability(number::arm_vm_ipa_size), "", "bits of a guest physical address"});
  report.limits.push_back({"hardware_breakpoints", capability(number::guest_debug_hw_bps), "",
                           "hardware breakpoints for guest debugging"});
  report.limits.push_back({"hardware_watchpoints", capability(number::guest_debug_hw_wps), "",
                           "hardware watchpoints for guest debugging"});
#endif
}

void collect_vm_types(Report& report) {
  std::uint64_t types = 1;  // The ordinary one, from before there was a choice.
#if KVM_HPP_ARCH_X86
  for (const Capability& capability : report.capabilities) {
    if (capability.number == kvm::uapi::cap::vm_types && capability.offered()) {
      types = static_cast<std::uint64_t>(capability.answer()->raw);
    }
  }
  constexpr const char* names[][2] = {
      {"ordinary", "what most guests run in"},
      {"software-protected", "private memory without hardware support, for development"},
      {"SEV", "AMD: encrypted memory"},
      {"SEV-ES", "AMD: encrypted memory and registers"},
      {"SEV-SNP", "AMD: encrypted memory and registers, with integrity"},
      {"TDX", "Intel: a trust domain"},
  };
  std::uint64_t number = 0;
  for (const auto& [name, meaning] : names) {
    report.vm_types.push_back({name, number, (types >> number & 1) != 0, meaning});
    ++number;
  }
  for (; number < 32; ++number) {
    if ((types >> number & 1) != 0) {
      report.vm_types.push_back(
          {"type " + std::to_string(number), number, true, "not known to this program"});
    }
  }
#else
  report.vm_types.push_back({"ordinary", 0, types == 1, "what most guests run in"});
#endif
}

void collect_devices(Report& report, const kvm::Vm& vm) {
  using enum kvm::DeviceType;
  struct {
    kvm::DeviceType type;
    const char* name;
    const char* meaning;
  } constexpr kinds[] = {
      {mpic_20, "MPIC 2.0", "PowerPC: Freescale's interrupt controller"},
      {mpic_42, "MPIC 4.2", "PowerPC: Freescale's interrupt controller"},
      {xics, "XICS", "PowerPC: interrupt controller of POWER up to 8"},
      {vfio, "VFIO", "tells KVM of assigned host devices, for memory ordering"},
      {arm_vgic_v2, "VGIC v2", "arm64: interrupt controller GICv2"},
      {flic, "FLIC", "s390: floating interrupts"},
      {arm_vgic_v3, "VGIC v3", "arm64: interrupt controller GICv3"},
      {arm_vgic_its, "VGIC ITS", "arm64: message-signalled interrupts of GICv3"},
      {xive, "XIVE", "PowerPC: interrupt controller of POWER9 and later"},
      {arm_pv_time, "PV time", "arm64: stolen time"},
      {riscv_aia, "AIA", "RISC-V: interrupt controllers APLIC and IMSIC"},
  };
  std::uint32_t last = 0;
  for (const auto& kind : kinds) {
    last = static_cast<std::uint32_t>(kind.type);
    report.devices.push_back(
        {kind.name, last, vm.try_has_device(kind.type).value_or(false), kind.meaning});
  }
  for (std::uint32_t number = last + 1; number < 32; ++number) {
    if (vm.try_has_device(static_cast<kvm::DeviceType>(number)).value_or(false)) {
      report.devices.push_back(
          {"type " + std::to_string(number), number, true, "not known to this program"});
    }
  }
}

}  // namespace

Report collect(const std::string& device) {
  Report report;
  report.device = device;
  collect_host(report);
  const kvm::System system(device.c_str());
  report.api_version = kvm::System::api_version;  // Any other is an error.

  const auto made = system.try_create_vm();
  const kvm::Vm* vm = made ? &*made : nullptr;
  if (vm == nullptr) {
    report.vm_problem = made.error().what();
  }
  collect_capabilities(report, system, vm);
  collect_limits(report, system);
  collect_vm_types(report);
  if (vm != nullptr) {
    collect_devices(report, *vm);
  }
#if KVM_HPP_ARCH_X86
  report.x86 = collect_x86(system);
#endif
  return report;
}

}  // namespace kvm_info
