// SPDX-License-Identifier: MIT
// expect: this request is not for this kind of descriptor
#include <kvm/kvm.hpp>

void use(kvm::Vm& vm, kvm::Vcpu& vcpu) {
  vm.ioctl(kvm::uapi::request::create_irqchip);
#ifdef MUST_FAIL
  vcpu.ioctl(kvm::uapi::request::create_irqchip);
#endif
}
