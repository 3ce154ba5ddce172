// SPDX-License-Identifier: MIT
// expect: no matching (member )?function
#include <kvm/kvm.hpp>

bool use(kvm::GuestMemory::View& view) {
#ifdef MUST_FAIL
  return view.write(kvm::Gpa{0}, 8);  // Of how many bytes?
#else
  return view.write<std::uint64_t>(kvm::Gpa{0}, 8);
#endif
}
