// SPDX-License-Identifier: MIT
// expect: only writes are coalesced
#include <kvm/kvm.hpp>

void use(kvm::CoalescedRing& ring) {
#ifdef MUST_FAIL
  ring.drain([](kvm::exits::MmioRead) {}, [](auto&&) {});
#else
  ring.drain([](kvm::exits::MmioWrite) {}, [](auto&&) {});
#endif
}
