// SPDX-License-Identifier: MIT
// flags: -Werror
// expect(g++): dropping the slot takes the memory from the guest
// expect(clang++): ignoring return value
#include <kvm/kvm.hpp>

void use(kvm::Vm& vm) {
  const kvm::MemorySlot ram = vm.add_memory(kvm::Gpa{0}, kvm::Mapping::anonymous(0x1000));
#ifdef MUST_FAIL
  vm.add_memory(kvm::Gpa{0x1000}, kvm::Mapping::anonymous(0x1000));
#endif
}
