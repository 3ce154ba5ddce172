// SPDX-License-Identifier: MIT
// expect: no matching (member )?function
#include <kvm/kvm.hpp>

struct Pair {
  std::uint32_t first;
  std::uint32_t second;
};

bool use(kvm::GuestMemory::View& view) {
#ifdef MUST_FAIL
  return view.atomic_load<Pair>(kvm::Gpa{0}).has_value();
#else
  return view.atomic_load<std::uint64_t>(kvm::Gpa{0}).has_value();
#endif
}
