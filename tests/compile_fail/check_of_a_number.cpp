// SPDX-License-Identifier: MIT
// expect: this is not a capability: name one of kvm::cap.s types, or use check_raw\(\)
#include <kvm/kvm.hpp>

int use(const kvm::Vm& vm) {
#ifdef MUST_FAIL
  vm.check(10);
#endif
  return static_cast<int>(vm.check<kvm::cap::NrMemslots>()) + vm.check_raw(10);
}
