// SPDX-License-Identifier: MIT
// expect: a handler's parameter must be one of kvm::exits's types, or auto&& for all the rest
// expect: ParametersThatAreNoExit<
#include <kvm/kvm.hpp>

namespace exits = kvm::exits;

void use(const kvm::Exit& exit) {
#ifdef MUST_FAIL
  exit.visit([](int) {}, [](auto&&) {});
#else
  exit.visit([](exits::FailEntry) {}, [](auto&&) {});
#endif
}
