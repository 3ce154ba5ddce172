// SPDX-License-Identifier: MIT
// flags: -Werror
// expect(g++): dropping the zone ends it
// expect(clang++): ignoring return value
#include <kvm/kvm.hpp>

void use(kvm::CoalescedRing& ring) {
  const auto range = kvm::CoalescedRange::mmio(kvm::Gpa{0x1000}, 16);
  const kvm::CoalescedZone zone = ring.create_zone(range);
#ifdef MUST_FAIL
  ring.create_zone(range);
#endif
}
