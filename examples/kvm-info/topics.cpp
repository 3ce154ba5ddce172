// SPDX-License-Identifier: MIT
// Which capability belongs to which topic.
#include <algorithm>
#include <array>

#include "names.hpp"

namespace kvm_info {
namespace {

struct Topic {
  std::string_view title;
  /// Names without KVM_CAP_, a blank on both sides of each; a star is for any rest.
  std::string_view names;
};

constexpr Topic table[] = {
    {"Machine",
     " NR_VCPUS MAX_VCPUS MAX_VCPU_ID VM_TYPES CHECK_EXTENSION_VM ENABLE_CAP ENABLE_CAP_VM"
     " SET_BOOT_CPU_ID MP_STATE IMMEDIATE_EXIT HALT_POLL HLT DEVICE_CTRL VCPU_ATTRIBUTES"
     " SYS_ATTRIBUTES BINARY_STATS_FD DISABLE_QUIRKS DISABLE_QUIRKS2 LAST_CPU "},
    {"Memory",
     " USER_MEMORY USER_MEMORY2 NR_MEMSLOTS MULTI_ADDRESS_SPACE READONLY_MEM SYNC_MMU"
     " DESTROY_MEMORY_REGION_WORKS JOIN_MEMORY_REGIONS_WORKS VM_GPA_BITS SMALLER_MAXPHYADDR"
     " GUEST_MEMFD GUEST_MEMFD_FLAGS MEMORY_ATTRIBUTES MEMORY_FAULT_INFO PRE_FAULT_MEMORY"
     " SET_TSS_ADDR SET_IDENTITY_MAP_ADDR MMU_SHADOW_CACHE_CONTROL PV_MMU ASYNC_PF ASYNC_PF_INT"
     " VM_DISABLE_NX_HUGE_PAGES "},
    {"Dirty pages",
     " MANUAL_DIRTY_LOG_PROTECT2 DIRTY_LOG_RING DIRTY_LOG_RING_ACQ_REL"
     " DIRTY_LOG_RING_WITH_BITMAP "},
    {"Interrupts",
     " IRQCHIP SPLIT_IRQCHIP IRQ_ROUTING IRQ_INJECT_STATUS IRQFD IRQFD_RESAMPLE SIGNAL_MSI"
     " MSI_DEVID USER_NMI VAPIC X2APIC_API X86_APIC_BUS_CYCLES_NS TSC_DEADLINE_TIMER"
     " IOAPIC_POLARITY_IGNORED PIT PIT2 PIT_STATE2 REINJECT_CONTROL "},
    {"Ports and MMIO",
     " IOEVENTFD IOEVENTFD_NO_LENGTH IOEVENTFD_ANY_LENGTH COALESCED_MMIO COALESCED_PIO"
     " NOP_IO_DELAY PCI_SEGMENT "},
    {"vCPU state",
     " ONE_REG SYNC_REGS SREGS2 VCPU_EVENTS EXCEPTION_PAYLOAD X86_TRIPLE_FAULT_EVENT DEBUGREGS"
     " XSAVE XSAVE2 XCRS NESTED_STATE X86_GUEST_MODE X86_SMM MCE "},
    {"CPUID, MSRs and performance counters",
     " EXT_CPUID EXT_EMUL_CPUID ENFORCE_PV_FEATURE_CPUID GET_MSR_FEATURES MSR_PLATFORM_INFO"
     " X86_USER_SPACE_MSR X86_MSR_FILTER PMU_CAPABILITY PMU_EVENT_FILTER"
     " PMU_EVENT_MASKED_EVENTS "},
    {"Time",
     " CLOCKSOURCE ADJUST_CLOCK KVMCLOCK_CTRL TSC_CONTROL VM_TSC_CONTROL GET_TSC_KHZ STEAL_TIME"
     " PTP_KVM COUNTER_OFFSET "},
    {"Exits and debugging",
     " SET_GUEST_DEBUG SET_GUEST_DEBUG2 GUEST_DEBUG_HW_BPS GUEST_DEBUG_HW_WPS"
     " X86_ROBUST_SINGLESTEP INTERNAL_ERROR_DATA EXIT_ON_EMULATION_FAILURE SYSTEM_EVENT_DATA"
     " X86_DISABLE_EXITS X86_BUS_LOCK_EXIT X86_NOTIFY_VMEXIT EXIT_HYPERCALL "},
    {"Confidential guests", " VM_COPY_ENC_CONTEXT_FROM VM_MOVE_ENC_CONTEXT_FROM SGX_ATTRIBUTE "},
    {"Hyper-V and Xen", " HYPERV* SYS_HYPERV* XEN* "},
    {"Arm", " ARM* "},
    {"RISC-V", " RISCV* "},
    {"Other", " * "},
};

constexpr auto titles = [] {
  std::array<std::string_view, std::size(table)> out{};
  std::transform(std::begin(table), std::end(table), out.begin(),
                 [](const Topic& topic) { return topic.title; });
  return out;
}();

bool holds(const Topic& topic, std::string_view name) {
  for (std::string_view rest = topic.names.substr(1); !rest.empty();) {
    const std::string_view word = rest.substr(0, rest.find(' '));
    rest.remove_prefix(word.size() + 1);
    if (word == name ||
        (word.ends_with('*') && name.starts_with(word.substr(0, word.size() - 1)))) {
      return true;
    }
  }
  return false;
}

}  // namespace

std::span<const std::string_view> topics() { return titles; }

std::string_view topic(std::string_view capability) {
  constexpr std::string_view prefix = "KVM_CAP_";
  if (capability.starts_with(prefix)) {
    capability.remove_prefix(prefix.size());
  }
  return std::find_if(std::begin(table), std::end(table),
                      [&](const Topic& topic) { return holds(topic, capability); })
      ->title;
}

}  // namespace kvm_info
