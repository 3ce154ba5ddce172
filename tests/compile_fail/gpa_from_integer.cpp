// SPDX-License-Identifier: MIT
// expect(g++): (cannot|could not) convert
// expect(clang++): no viable conversion|no matching member function
#include <kvm/kvm.hpp>

kvm::MemorySlot use(kvm::Vm& vm, kvm::Mapping memory) {
#ifdef MUST_FAIL
  return vm.add_memory(0x1000, std::move(memory));
#else
  return vm.add_memory(kvm::Gpa(0x1000), std::move(memory));
#endif
}
