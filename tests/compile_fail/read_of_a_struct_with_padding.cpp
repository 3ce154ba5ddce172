// SPDX-License-Identifier: MIT
// expect: no matching (member )?function
#include <kvm/kvm.hpp>

struct Padded {
  std::uint8_t kind;
  std::uint32_t value;
};
struct Packed {
  std::uint32_t kind;
  std::uint32_t value;
};

bool use(kvm::GuestMemory::View& view) {
#ifdef MUST_FAIL
  return view.read<Padded>(kvm::Gpa{0}).has_value();
#else
  return view.read<Packed>(kvm::Gpa{0}).has_value();
#endif
}
