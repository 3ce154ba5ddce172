// SPDX-License-Identifier: MIT
// expect(g++): (cannot|could not) convert
// expect(clang++): no viable conversion|no matching member function
#include <kvm/kvm.hpp>

bool use(const kvm::MemorySlot& slot, std::span<const std::byte> bytes) {
#ifdef MUST_FAIL
  return slot.load(slot.id(), bytes);
#else
  return slot.load(slot.gpa(), bytes);
#endif
}
