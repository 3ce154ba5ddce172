// SPDX-License-Identifier: MIT
// expect: this capability belongs to another architecture
#include <kvm/kvm.hpp>

#include <type_traits>

using Foreign = std::conditional_t<kvm::host_arch == kvm::Arch::riscv, kvm::cap::SplitIrqchip,
                                   kvm::cap::VmGpaBits>;

void use(kvm::Vm& vm) {
  static_cast<void>(Foreign{}.args());
  vm.enable(kvm::cap::HaltPoll{});
#ifdef MUST_FAIL
  vm.enable(Foreign{});
#endif
}
