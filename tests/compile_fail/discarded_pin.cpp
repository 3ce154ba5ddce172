// SPDX-License-Identifier: MIT
// flags: -Werror
// expect(g++): declared with attribute .?nodiscard
// expect(clang++): ignoring return value|ignoring temporary
#include <kvm/kvm.hpp>

kvm::Pin pin_it(kvm::GuestMemory::View& view);

void use(kvm::GuestMemory::View& view) {
  const kvm::Pin pin = pin_it(view);
#ifdef MUST_FAIL
  pin_it(view);
#endif
}
