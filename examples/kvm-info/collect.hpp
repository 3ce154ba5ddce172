// SPDX-License-Identifier: MIT
#ifndef KVM_INFO_COLLECT_HPP
#define KVM_INFO_COLLECT_HPP

#include <kvm/kvm.hpp>

#include <string>

#include "report.hpp"

namespace kvm_info {

/// Asks the KVM behind `device` for everything, making a VM for what only a VM
/// can tell. Throws kvm::Error if it is no KVM; what it merely lacks is left out.
Report collect(const std::string& device);

/// The kernel's release, the modules and their parameters: needs no KVM.
void collect_host(Report& report);

#if KVM_HPP_ARCH_X86
X86 collect_x86(const kvm::System& system);
#endif

}  // namespace kvm_info

#endif
