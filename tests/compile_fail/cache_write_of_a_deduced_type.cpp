// SPDX-License-Identifier: MIT
// expect: no matching (member )?function
#include <kvm/kvm.hpp>

bool use(kvm::GfnToHvaCache& cache) {
#ifdef MUST_FAIL
  return cache.write(0, 8);
#else
  return cache.write<std::uint64_t>(0, 8);
#endif
}
