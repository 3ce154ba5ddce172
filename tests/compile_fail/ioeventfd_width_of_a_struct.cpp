// SPDX-License-Identifier: MIT
// expect: a write's width is named by std::uint8_t, uint16_t, uint32_t or uint64_t
#include <kvm/kvm.hpp>

struct Register {
  std::uint32_t value;
};

kvm::Ioeventfd notified(kvm::Vm& vm, const kvm::EventFd& event) {
#ifdef MUST_FAIL
  using Width = Register;
#else
  using Width = std::uint32_t;
#endif
  return vm.create_ioeventfd(kvm::IoeventfdAddress::mmio<Width>(kvm::Gpa{0x1000}), event);
}
