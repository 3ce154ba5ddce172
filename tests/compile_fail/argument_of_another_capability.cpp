// SPDX-License-Identifier: MIT
// expect(g++): has no non-static data member named .window.
// expect(clang++): field designator .window. does not refer to any field
#include <kvm/kvm.hpp>

kvm::cap::HaltPoll chosen() {
#ifdef MUST_FAIL
  kvm::cap::HaltPoll capability{.window = 1};
#else
  kvm::cap::HaltPoll capability{.max_ns = 1};
#endif
  return capability;
}
