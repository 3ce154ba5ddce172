// SPDX-License-Identifier: MIT
// expect: this capability is enabled on a VM, not on a vCPU
#include <kvm/kvm.hpp>

void use(kvm::Vm& vm, kvm::Vcpu& vcpu) {
  vm.enable(kvm::cap::ManualDirtyLogProtect2{.initially_set = true});
  static_cast<void>(vcpu);
#ifdef MUST_FAIL
  vcpu.enable(kvm::cap::ManualDirtyLogProtect2{.initially_set = true});
#endif
}
