// SPDX-License-Identifier: MIT
// expect: KVM only reports this capability; it cannot be enabled
#include <kvm/kvm.hpp>

void use(kvm::Vm& vm, kvm::Vcpu& vcpu) {
  static_cast<void>(vm.check<kvm::cap::ImmediateExit>());
  static_cast<void>(vcpu);
#ifdef MUST_FAIL
  vcpu.enable(kvm::cap::ImmediateExit{});
#endif
}
