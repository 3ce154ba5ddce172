// SPDX-License-Identifier: MIT
// expect(g++): narrowing conversion of .4294967296
// expect(clang++): cannot be narrowed to type
#include <kvm/kvm.hpp>

kvm::cap::DirtyLogRingAcqRel chosen() {
#ifdef MUST_FAIL
  kvm::cap::DirtyLogRingAcqRel capability{.bytes = 0x100000000};
#else
  kvm::cap::DirtyLogRingAcqRel capability{.bytes = 0x10000};
#endif
  return capability;
}
