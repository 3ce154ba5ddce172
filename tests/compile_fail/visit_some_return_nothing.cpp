// SPDX-License-Identifier: MIT
// expect: the handlers return types that have no common type
#include <kvm/kvm.hpp>

namespace exits = kvm::exits;

void use(const kvm::Exit& exit) {
#ifdef MUST_FAIL
  exit.visit([](exits::MmioRead) { return 1; }, [](auto&&) {});
#else
  exit.visit([](exits::MmioRead) { return 1; }, [](auto&&) { return 2; });
#endif
}
