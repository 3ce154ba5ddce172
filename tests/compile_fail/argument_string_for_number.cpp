// SPDX-License-Identifier: MIT
// expect(g++): invalid conversion from .const char\*. to .(std::)?(uint32_t|unsigned)
// expect(clang++): cannot initialize a member subobject of type .(std::)?(uint32_t|unsigned)
#include <kvm/kvm.hpp>

kvm::cap::HaltPoll chosen() {
#ifdef MUST_FAIL
  kvm::cap::HaltPoll capability{.max_ns = "200000"};
#else
  kvm::cap::HaltPoll capability{.max_ns = 200000};
#endif
  return capability;
}
