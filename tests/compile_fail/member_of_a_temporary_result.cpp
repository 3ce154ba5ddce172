// SPDX-License-Identifier: MIT
// expect(g++): use of deleted function
// expect(clang++): overload resolution selected deleted operator '->'
// expect: Give the Result a name
#include <kvm/kvm.hpp>

void use(kvm::Vm& vm) {
#ifdef MUST_FAIL
  kvm::Exit exit = vm.try_create_vcpu(0)->run();  // Its run page would be gone.
#else
  auto vcpu = vm.try_create_vcpu(0);
  kvm::Exit exit = vcpu->run();
#endif
  (void)exit.name();
}
