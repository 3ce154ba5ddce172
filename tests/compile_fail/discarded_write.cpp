// SPDX-License-Identifier: MIT
// flags: -Werror
// expect(g++): declared with attribute .?nodiscard
// expect(clang++): ignoring return value
#include <kvm/kvm.hpp>

void use(kvm::GuestMemory::View& view) {
  (void)view.write<std::uint8_t>(kvm::Gpa{0}, 1);
#ifdef MUST_FAIL
  view.write<std::uint8_t>(kvm::Gpa{0}, 1);
#endif
}
