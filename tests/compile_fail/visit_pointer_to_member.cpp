// SPDX-License-Identifier: MIT
// expect: a handler's parameter must be one of kvm::exits's types
#include <kvm/kvm.hpp>

struct Machine {
  void on_raw(kvm::exits::Raw) {}
};

void use(kvm::Exit exit, Machine& machine) {
  exit.visit([&](kvm::exits::Raw raw) { machine.on_raw(raw); }, [](auto&&) {});
#ifdef MUST_FAIL
  exit.visit(&Machine::on_raw, [](auto&&) {});
#endif
}
