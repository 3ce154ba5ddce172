// SPDX-License-Identifier: MIT
// expect: KVM only reports this capability; it cannot be enabled
#include <kvm/kvm.hpp>

void use(kvm::Vm& vm) {
  static_cast<void>(vm.check<kvm::cap::NrMemslots>());
#ifdef MUST_FAIL
  vm.enable(kvm::cap::NrMemslots{});
#endif
}
