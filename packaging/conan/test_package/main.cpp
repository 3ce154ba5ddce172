// SPDX-License-Identifier: MIT
// Builds against the package. A build machine need not have /dev/kvm, so nothing is opened.
#include <kvm/kvm.hpp>

int main() { return static_cast<unsigned>(kvm::host_arch) == 0 ? 1 : 0; }
