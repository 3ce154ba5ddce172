// SPDX-License-Identifier: MIT
// expect(g++): use of deleted function
// expect(clang++): call to deleted member function 'run'
// expect: Give the vCPU a name
#include <kvm/kvm.hpp>

void use(kvm::Vm& vm) {
#ifdef MUST_FAIL
  kvm::Exit exit = vm.create_vcpu(0).run();  // Its run page would be gone.
#else
  kvm::Vcpu vcpu = vm.create_vcpu(0);
  kvm::Exit exit = vcpu.run();
#endif
  (void)exit.name();
}
