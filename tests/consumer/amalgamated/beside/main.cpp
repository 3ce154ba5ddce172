// SPDX-License-Identifier: MIT
#include "kvm.hpp"

#include <cerrno>
#include <cstdio>
#include <exception>
#include <stdexcept>

#include "split.hpp"

namespace {
void handler(const kvm::Error&) {}
}  // namespace

int main() try {
  // The library's state is one, whichever file's copy of its functions the linker kept.
  kvm::set_error_handler(handler);
  if (exchange_handler(nullptr) != handler)
    throw std::runtime_error("there are two error handlers");

  // Handles that one file made run in the other, and what one throws the other catches.
  Guest guest = make_guest();
  for (bool running = true; running;) {
    kvm::Exit exit = guest.vcpu.run();
    exit.visit([](kvm::exits::IoOut io) { std::fwrite(io.data.data(), 1, io.data.size(), stdout); },
               [&](kvm::exits::Hlt) { running = false; }, [](kvm::exits::Interrupted) {},
               [&](auto&&) { throw std::runtime_error(exit.describe()); });
  }
  try {
    add_the_same_vcpu(guest);
  } catch (const kvm::Error& error) {
    if (error.code().value() == EEXIST) return 0;
    throw;
  }
  throw std::runtime_error("a second vCPU 0 was made");
} catch (const std::exception& error) {
  std::fprintf(stderr, "beside: %s\n", error.what());
  return 1;
}
