// SPDX-License-Identifier: MIT
// expect: KVM only reports this capability; it cannot be enabled
#include <kvm/kvm.hpp>

void use(kvm::Vm& vm) {
  static_cast<void>(vm.try_check<kvm::cap::Irqfd>());
#ifdef MUST_FAIL
  static_cast<void>(vm.try_enable(kvm::cap::Irqfd{}));
#endif
}
