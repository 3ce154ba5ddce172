// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_TESTS_SUPPORT_GUEST_ARM64_HPP
#define KVM_HPP_TESTS_SUPPORT_GUEST_ARM64_HPP

#include <kvm/kvm.hpp>

#include <cstdint>

#include "support/guest.hpp"

/// @file
/// What small arm64 guests begin with. Included by guest.hpp. They run at EL1
/// without an MMU: addresses are physical.

namespace kvm_test {

/// A vCPU of the host's kind that knows PSCI.
inline kvm::Vcpu create_arm64_vcpu(kvm::Vm& vm, unsigned id = 0) {
  auto init = vm.preferred_target();
  init.features[0] |= 1u << kvm::uapi::arm_vcpu_feature::psci_0_2;
  kvm::Vcpu vcpu = vm.create_vcpu(id);
  vcpu.init(init);
  return vcpu;
}

/// A guest ready to run `code`, with the address of its devices in x1.
struct Guest : Machine {
  kvm::Vcpu vcpu = create_arm64_vcpu(vm);

  static Guest running(Code code) {
    Guest guest;
    guest.load(code_at, code);
    guest.set(kvm::arm64::reg::pc, code_at);
    guest.set(kvm::arm64::reg::x(1), mmio_at);
    return guest;
  }

  std::uint64_t get(std::uint64_t id) const { return vcpu.get_one_reg<std::uint64_t>(id); }
  void set(std::uint64_t id, std::uint64_t value) { vcpu.set_one_reg(id, value); }
  std::uint64_t x(unsigned number) const { return get(kvm::arm64::reg::x(number)); }
};

/// What an access to a device ends a run with, where tests run on every
/// architecture.
using DeviceRead = kvm::exits::MmioRead;
using DeviceWrite = kvm::exits::MmioWrite;

inline void jump_to(kvm::Vcpu& vcpu, std::uint64_t address) {
  vcpu.set_one_reg(kvm::arm64::reg::pc, address);
}
/// What `ldrb w0` read last.
inline std::uint8_t byte_read(const kvm::Vcpu& vcpu) {
  return static_cast<std::uint8_t>(vcpu.get_one_reg<std::uint64_t>(kvm::arm64::reg::x(0)));
}

}  // namespace kvm_test

#endif
