// SPDX-License-Identifier: MIT
// expect: more than one handler is for all the rest
#include <kvm/kvm.hpp>

namespace exits = kvm::exits;

void use(const kvm::Exit& exit) {
#ifdef MUST_FAIL
  exit.visit([](exits::MmioRead) {}, [](auto&&) {}, [](const auto&) {});
#else
  exit.visit([](exits::MmioRead) {}, [](auto&&) {});
#endif
}
