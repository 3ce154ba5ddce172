// SPDX-License-Identifier: MIT
// expect: a port write's width is named by std::uint8_t, uint16_t or uint32_t
#include <kvm/kvm.hpp>

kvm::Ioeventfd notified(kvm::Vm& vm, const kvm::EventFd& event) {
#ifdef MUST_FAIL
  using Width = std::uint64_t;
#else
  using Width = std::uint32_t;
#endif
  return vm.create_ioeventfd(kvm::IoeventfdAddress::pio<Width>(0x20), event);
}
