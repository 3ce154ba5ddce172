// SPDX-License-Identifier: MIT
// expect: a handler names an exit that cannot occur on this architecture
// expect: ExitsOfOtherArchitectures<[^(]*exits::
#include <kvm/kvm.hpp>

#include <type_traits>

namespace exits = kvm::exits;

using Foreign =
    std::conditional_t<kvm::host_arch == kvm::Arch::arm64, exits::RiscvSbi, exits::ArmSea>;

void use(const kvm::Exit& exit) {
#ifdef MUST_FAIL
  exit.visit([](Foreign) {}, [](auto&&) {});
#else
  exit.visit([](exits::FailEntry) {}, [](auto&&) {});
#endif
}
