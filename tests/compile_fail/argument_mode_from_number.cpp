// SPDX-License-Identifier: MIT
// expect(g++): cannot convert .int. to .kvm::.*BusLockDetection.
// expect(clang++): cannot initialize a member subobject of type .*BusLockDetection
#include <kvm/kvm.hpp>

kvm::cap::X86BusLockExit chosen() {
#ifdef MUST_FAIL
  kvm::cap::X86BusLockExit capability{.mode = 3};
#else
  kvm::cap::X86BusLockExit capability{.mode = kvm::cap::BusLockDetection{3}};
#endif
  return capability;
}
