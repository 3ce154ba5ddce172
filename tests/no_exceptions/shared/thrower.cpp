// SPDX-License-Identifier: MIT
// A shared object whose symbols are hidden, as careful libraries build theirs.
#include <kvm/kvm.hpp>

extern "C" __attribute__((visibility("default"))) void kvm_hpp_test_throw(const char* path) {
  const kvm::System system(path);
}

extern "C" __attribute__((visibility("default"))) bool kvm_hpp_test_catch(void (*f)()) {
  try {
    f();
  } catch (const kvm::Error& error) {
    return error.error_number() == EINVAL;
  }
  return false;
}
