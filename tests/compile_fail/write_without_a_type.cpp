// SPDX-License-Identifier: MIT
// expect: name the type that is stored: write<std::uint32_t>\(gpa, value\)
#include <kvm/kvm.hpp>

#include <array>

void use(kvm::GuestMemory::View& view, const std::array<std::byte, 4>& bytes) {
#ifdef MUST_FAIL
  (void)view.write(kvm::Gpa{0x1000}, 1);
#else
  (void)view.write<std::uint32_t>(kvm::Gpa{0x1000}, 1);
  (void)view.write(kvm::Gpa{0x1000}, bytes);
#endif
}
