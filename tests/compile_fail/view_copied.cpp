// SPDX-License-Identifier: MIT
// expect(g++): use of deleted function
// expect(clang++): call to implicitly-deleted copy constructor|call to deleted constructor
#include <kvm/kvm.hpp>

void use(kvm::GuestMemory::View view) {
#ifdef MUST_FAIL
  kvm::GuestMemory::View other = view;  // One per thread: memory.view() makes another.
#else
  kvm::GuestMemory::View other = std::move(view);
#endif
}
