// SPDX-License-Identifier: MIT
#ifndef TINYVMM_VCPU_X86_HPP
#define TINYVMM_VCPU_X86_HPP

#include <kvm/kvm.hpp>

#include <string>

#include "boot_x86.hpp"

namespace tinyvmm {

/// What CPUID says on one of `count` processors: what the host supports, as one package of so many
/// cores.
/// @param has_deadline_timer whether the kernel's local APICs have (KVM_CAP_TSC_DEADLINE_TIMER)
kvm::x86::Cpuid make_cpuid(const kvm::x86::Cpuid& supported, bool has_deadline_timer, unsigned id,
                           unsigned count);

/// Puts a vCPU where its kernel begins: flat segments, interrupts off, and either protected mode or
/// long mode with pc::page_tables. Writes the descriptor table that they come from.
void enter(kvm::Vcpu& vcpu, const EntryPoint& entry, kvm::GuestMemory::View& memory);

/// Registers and the code bytes at RIP: a few lines, the last without end.
std::string describe_vcpu(kvm::Vcpu& vcpu, kvm::GuestMemory::View& memory);

}  // namespace tinyvmm

#endif
