// SPDX-License-Identifier: MIT
// expect: kvm-hpp: an observer is called as observer\(const kvm::MemoryChange&\) and must be noexcept
#include <kvm/kvm.hpp>

void use(const kvm::GuestMemory& memory) {
#ifdef MUST_FAIL
  const kvm::Observation kept = memory.observe([](const kvm::MemoryChange&) {});
#else
  const kvm::Observation kept = memory.observe([](const kvm::MemoryChange&) noexcept {});
#endif
}
