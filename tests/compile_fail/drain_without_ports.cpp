// SPDX-License-Identifier: MIT
// only: x86
// expect: not every exit has a handler
#include <kvm/kvm.hpp>

void use(kvm::CoalescedRing& ring) {
#ifdef MUST_FAIL
  ring.drain([](kvm::exits::MmioWrite) {});
#else
  ring.drain([](kvm::exits::MmioWrite) {}, [](kvm::exits::IoOut) {});
#endif
}
