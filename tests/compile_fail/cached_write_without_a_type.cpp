// SPDX-License-Identifier: MIT
// expect: name the type that is stored: write<std::uint32_t>\(offset, value\)
#include <kvm/kvm.hpp>

#include <array>

void use(kvm::GfnToHvaCache& cache, const std::array<std::byte, 4>& bytes) {
#ifdef MUST_FAIL
  (void)cache.write(8, 1ul);
#else
  (void)cache.write<std::uint64_t>(8, 1);
  (void)cache.write(8, bytes);
#endif
}
