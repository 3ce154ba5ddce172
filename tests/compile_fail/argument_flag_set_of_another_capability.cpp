// SPDX-License-Identifier: MIT
// expect: these flags belong to another capability
#include <kvm/kvm.hpp>

kvm::cap::X86UserSpaceMsr chosen(kvm::Flags<kvm::cap::MsrExitReason> reasons,
                                 kvm::Flags<kvm::cap::Quirk> quirks) {
  static_cast<void>(quirks);
#ifdef MUST_FAIL
  return {.reasons = quirks};
#else
  return {.reasons = reasons};
#endif
}
