// SPDX-License-Identifier: MIT
// only: x86
// expect: this capability is enabled on a vCPU, not on a VM
#include <kvm/kvm.hpp>

void use(kvm::Vm& vm, kvm::Vcpu& vcpu) {
  vcpu.enable(kvm::cap::EnforcePvFeatureCpuid{});
  vm.enable(kvm::cap::HaltPoll{});
#ifdef MUST_FAIL
  vm.enable(kvm::cap::EnforcePvFeatureCpuid{});
#endif
}
