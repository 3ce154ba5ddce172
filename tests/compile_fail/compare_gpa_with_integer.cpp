// SPDX-License-Identifier: MIT
// expect(g++): no match for .operator==.
// expect(clang++): invalid operands to binary expression
#include <kvm/kvm.hpp>

bool use(kvm::Gpa gpa) {
#ifdef MUST_FAIL
  return gpa == 0x1000;
#else
  return gpa == kvm::Gpa(0x1000);
#endif
}
