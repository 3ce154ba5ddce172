// SPDX-License-Identifier: MIT
// flags: -Werror
// expect(g++): dropping it ends the observation
// expect(clang++): ignoring return value
#include <kvm/kvm.hpp>

void use(const kvm::GuestMemory& memory) {
  const kvm::Observation kept = memory.observe([](const kvm::MemoryChange&) noexcept {});
#ifdef MUST_FAIL
  memory.observe([](const kvm::MemoryChange&) noexcept {});
#endif
}
