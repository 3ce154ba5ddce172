// SPDX-License-Identifier: MIT
// expect: not every exit has a handler: add the missing ones, or one with auto&& for all the rest
#include <kvm/kvm.hpp>

#include <concepts>

namespace exits = kvm::exits;

void use(const kvm::Exit& exit) {
#ifdef MUST_FAIL
  exit.visit([](exits::FailEntry) {}, [](std::same_as<exits::MmioRead&> auto&&) {});
#else
  exit.visit([](exits::FailEntry) {}, [](auto&&) {});
#endif
}
