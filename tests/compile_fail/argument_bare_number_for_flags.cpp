// SPDX-License-Identifier: MIT
// expect: a bare number is not a set of flags; name the bits, or use from_raw\(bits\)
#include <kvm/kvm.hpp>

kvm::cap::X2ApicApi chosen() {
#ifdef MUST_FAIL
  return {.flags = 3};
#else
  return {.flags = kvm::Flags<kvm::cap::X2ApicFlag>::from_raw(3)};
#endif
}
