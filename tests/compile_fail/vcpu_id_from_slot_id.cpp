// SPDX-License-Identifier: MIT
// expect(g++): (cannot|could not) convert
// expect(clang++): no viable conversion|no matching member function
#include <kvm/kvm.hpp>

kvm::Vcpu use(kvm::Vm& vm) {
#ifdef MUST_FAIL
  return vm.create_vcpu(kvm::SlotId(1));
#else
  return vm.create_vcpu(kvm::VcpuId(1));
#endif
}
