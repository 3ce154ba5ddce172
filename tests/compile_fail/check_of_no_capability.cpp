// SPDX-License-Identifier: MIT
// expect: this is not a capability: name one of kvm::cap.s types, or use check_raw\(\)
#include <kvm/kvm.hpp>

void use(kvm::Vm& vm) {
  static_cast<void>(vm.check<kvm::cap::NrVcpus>());
#ifdef MUST_FAIL
  static_cast<void>(vm.check<int>());
#endif
}
