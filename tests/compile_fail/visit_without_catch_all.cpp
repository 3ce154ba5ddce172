// SPDX-License-Identifier: MIT
// expect: not every exit has a handler: add the missing ones, or one with auto&& for all the rest
// expect: ExitsWithoutHandler<[^(]*exits::Raw, [^(]*exits::IoOut, [^(]*exits::MmioWrite
#include <kvm/kvm.hpp>

namespace exits = kvm::exits;

void use(const kvm::Exit& exit) {
#ifdef MUST_FAIL
  exit.visit([](exits::FailEntry) {}, [](exits::MmioRead) {});
#else
  exit.visit([](exits::FailEntry) {}, [](exits::MmioRead) {}, [](auto&&) {});
#endif
}
