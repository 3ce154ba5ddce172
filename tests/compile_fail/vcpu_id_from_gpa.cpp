// SPDX-License-Identifier: MIT
// expect(g++): (cannot|could not) convert
// expect(clang++): no viable conversion|no matching member function
#include <kvm/kvm.hpp>

kvm::Vcpu use(kvm::Vm& vm) {
#ifdef MUST_FAIL
  return vm.create_vcpu(kvm::Gpa(1));
#else
  return vm.create_vcpu(1);
#endif
}
