// SPDX-License-Identifier: MIT
// expect: name the type that is stored: write<std::uint32_t>\(gpa, value\)
#include <kvm/kvm.hpp>

#include <array>
#include <cstddef>

bool use(kvm::GuestMemory::View& view) {
#ifdef MUST_FAIL
  return view.write(kvm::Gpa{0}, 8);  // Of how many bytes?
#else
  return view.write<std::uint64_t>(kvm::Gpa{0}, 8) &&
         view.write(kvm::Gpa{0}, std::array<std::byte, 4>{});
#endif
}
