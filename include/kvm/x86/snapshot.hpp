// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_X86_SNAPSHOT_HPP
#define KVM_HPP_X86_SNAPSHOT_HPP

#include <kvm/detail/kernel_header.hpp>
#if !KVM_HPP_REFUSED && KVM_HPP_ARCH_X86

#include <kvm/uapi/structs.hpp>
#include <kvm/x86/cpuid.hpp>
#include <kvm/x86/nested_state.hpp>
#include <kvm/x86/xsave.hpp>

#include <cstdint>
#include <optional>
#include <vector>

KVM_HPP_BEGIN
namespace x86 {

/// All of one vCPU's state, by value: what Vcpu::save_state() gives and
/// Vcpu::restore_state() takes. What belongs to the VM is not in it: memory,
/// interrupt controllers, timers, the clock.
///
/// The fields may be changed in between. An empty optional is left alone when
/// restoring.
struct VcpuSnapshot {
  /// What the guest sees of its processor.
  Cpuid cpuid;
  /// Frequency of the time stamp counter; 0 is left alone.
  std::uint32_t tsc_khz = 0;
  /// Whether it runs, halts or waits to be started.
  uapi::kvm_mp_state mp_state{};
  /// Exceptions, interrupts and NMIs that are pending or being delivered.
  uapi::kvm_vcpu_events events{};
  /// The general registers.
  uapi::kvm_regs regs{};
  /// One of the two: sregs2 where this KVM has KVM_CAP_SREGS2.
  std::optional<uapi::kvm_sregs> sregs;
  /// The same with the PAE page-directory pointers.
  std::optional<uapi::kvm_sregs2> sregs2;
  /// The FPU's registers included.
  Xsave xsave;
  /// The extended control registers, where the host has them.
  std::optional<uapi::kvm_xcrs> xcrs;
  /// The debug registers.
  uapi::kvm_debugregs debugregs{};
  /// With a local APIC in the kernel.
  std::optional<uapi::kvm_lapic_state> lapic;
  /// The MSRs that were asked for and that this vCPU has.
  std::vector<uapi::kvm_msr_entry> msrs;
  /// Where this KVM has KVM_CAP_NESTED_STATE.
  std::optional<NestedState> nested;
};

}  // namespace x86
KVM_HPP_END

#endif
#endif
