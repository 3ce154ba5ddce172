// SPDX-License-Identifier: MIT
// expect: datamatch must have the type that names the address's width
#include <kvm/kvm.hpp>

kvm::Ioeventfd notified(kvm::Vm& vm, const kvm::EventFd& event) {
  const auto at = kvm::IoeventfdAddress::mmio<std::uint16_t>(kvm::Gpa{0x1000});
#ifdef MUST_FAIL
  return vm.create_ioeventfd(at, event, 1);
#else
  return vm.create_ioeventfd(at, event, std::uint16_t{1});
#endif
}
