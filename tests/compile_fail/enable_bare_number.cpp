// SPDX-License-Identifier: MIT
// expect: this is not a capability: pass one of kvm::cap.s types, or use enable_raw\(\)
#include <kvm/kvm.hpp>

void use(kvm::Vm& vm) {
  vm.enable(kvm::cap::HaltPoll{});
#ifdef MUST_FAIL
  vm.enable(182);
#endif
}
