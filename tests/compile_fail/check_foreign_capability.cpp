// SPDX-License-Identifier: MIT
// expect: this capability belongs to another architecture
#include <kvm/kvm.hpp>

#include <type_traits>

using Foreign = std::conditional_t<kvm::host_arch == kvm::Arch::riscv, kvm::cap::SplitIrqchip,
                                   kvm::cap::VmGpaBits>;

void use(kvm::System& system) {
  static_assert(Foreign::info.number != 0);
  static_cast<void>(system.check<kvm::cap::HaltPoll>());
#ifdef MUST_FAIL
  static_cast<void>(system.check<Foreign>());
#endif
}
