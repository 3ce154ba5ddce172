// SPDX-License-Identifier: MIT
// expect: these flags belong to another capability
#include <kvm/kvm.hpp>

kvm::cap::X86DisableExits chosen() {
#ifdef MUST_FAIL
  return {.exits = kvm::cap::Quirk::lint0_reenabled};
#else
  return {.exits = kvm::cap::DisabledExit::hlt | kvm::cap::DisabledExit::pause};
#endif
}
