// SPDX-License-Identifier: MIT
// expect: where writes of any width count, their value cannot
#include <kvm/kvm.hpp>

kvm::Ioeventfd notified(kvm::Vm& vm, const kvm::EventFd& event) {
#ifdef MUST_FAIL
  return vm.create_ioeventfd(kvm::IoeventfdAddress::mmio_any(kvm::Gpa{0x1000}), event, 1u);
#else
  return vm.create_ioeventfd(kvm::IoeventfdAddress::mmio_any(kvm::Gpa{0x1000}), event);
#endif
}
