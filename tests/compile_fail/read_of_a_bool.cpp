// SPDX-License-Identifier: MIT
// expect: no matching (member )?function
#include <kvm/kvm.hpp>

bool use(kvm::GuestMemory::View& view) {
#ifdef MUST_FAIL
  return view.read<bool>(kvm::Gpa{0}).has_value();  // The guest may store a 2.
#else
  return view.read<std::uint8_t>(kvm::Gpa{0}).has_value();
#endif
}
