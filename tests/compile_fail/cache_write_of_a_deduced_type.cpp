// SPDX-License-Identifier: MIT
// expect: name the type that is stored: write<std::uint32_t>\(offset, value\)
#include <kvm/kvm.hpp>

#include <array>
#include <cstddef>

bool use(kvm::GfnToHvaCache& cache) {
#ifdef MUST_FAIL
  return cache.write(0, 8);
#else
  return cache.write<std::uint64_t>(0, 8) && cache.write(0, std::array<std::byte, 4>{});
#endif
}
