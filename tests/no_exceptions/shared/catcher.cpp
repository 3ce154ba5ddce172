// SPDX-License-Identifier: MIT
// What modes_test.cpp tests of the shared object, without a test framework.
#include <kvm/kvm.hpp>

#include <cstdio>

extern "C" void kvm_hpp_test_throw(const char* path);
extern "C" bool kvm_hpp_test_catch(void (*f)());

int main() {
  bool caught = false;
  try {
    kvm_hpp_test_throw("/dev/null");
  } catch (const kvm::Error&) {
    caught = true;
  } catch (...) {
    std::puts("it is caught as something else");
  }
  const bool there = kvm_hpp_test_catch([] { static_cast<void>(kvm::Mapping::anonymous(1)); });
  std::printf("caught here: %d, caught there: %d\n", caught, there);
  return caught && there ? 0 : 1;
}
