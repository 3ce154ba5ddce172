// SPDX-License-Identifier: MIT
// expect: two handlers name the same exit
// expect: ExitsWithTwoHandlers<[^(]*exits::
#include <kvm/kvm.hpp>

namespace exits = kvm::exits;

void use(const kvm::Exit& exit) {
#ifdef MUST_FAIL
  exit.visit([](exits::MmioRead) {}, [](const exits::MmioRead&) {}, [](auto&&) {});
#else
  exit.visit([](exits::MmioRead) {}, [](exits::MmioWrite) {}, [](auto&&) {});
#endif
}
