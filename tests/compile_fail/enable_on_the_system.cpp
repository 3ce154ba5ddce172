// SPDX-License-Identifier: MIT
// expect: capabilities are enabled on a VM or a vCPU, not on the system
#include <kvm/kvm.hpp>

void use(const kvm::System& system, kvm::Vm& vm) {
#ifdef MUST_FAIL
  system.enable(kvm::cap::HaltPoll{.max_ns = 1});
#else
  vm.enable(kvm::cap::HaltPoll{.max_ns = 1});
  (void)system;
#endif
}
