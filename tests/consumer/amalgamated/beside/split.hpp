// SPDX-License-Identifier: MIT
// What split.cpp defines, in the library's types. Whoever includes this has included the library,
// split or in one.
#ifndef SPLIT_HPP
#define SPLIT_HPP

/// A guest that writes "Hello, KVM!" to a port, before its first instruction.
struct Guest {
  kvm::Vm vm;
  kvm::MemorySlot ram;
  kvm::Vcpu vcpu;
};
Guest make_guest();

/// Sets the handler that this file's part of the library calls; returns the one before.
kvm::ErrorHandler exchange_handler(kvm::ErrorHandler handler);

/// Throws a kvm::Error, since the guest has that vCPU already.
void add_the_same_vcpu(Guest& guest);

#endif
