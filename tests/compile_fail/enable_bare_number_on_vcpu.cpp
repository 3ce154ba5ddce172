// SPDX-License-Identifier: MIT
// expect: this is not a capability: pass one of kvm::cap.s types, or use enable_raw\(\)
#include <kvm/kvm.hpp>

void use(kvm::Vcpu& vcpu) {
  static_cast<void>(vcpu.fd());
#ifdef MUST_FAIL
  vcpu.enable(kvm::uapi::cap::hyperv_synic2);
#endif
}
