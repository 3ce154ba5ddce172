// SPDX-License-Identifier: MIT
// flags: -Werror
// expect(g++): declared with attribute .?nodiscard
// expect(clang++): ignoring return value|ignoring temporary
#include <kvm/kvm.hpp>

void use(kvm::Vm& vm, const kvm::EventFd& event) {
  const kvm::Irqfd irqfd = vm.create_irqfd(5, event);
#ifdef MUST_FAIL
  vm.create_irqfd(6, event);
#endif
}
