// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_X86_VCPU_HPP
#define KVM_HPP_X86_VCPU_HPP

#include <kvm/detail/kernel_header.hpp>
#if !KVM_HPP_REFUSED && KVM_HPP_ARCH_X86

#include <kvm/detail/vcpu_core.hpp>
#include <kvm/uapi/constants.hpp>
#include <kvm/x86/cpuid.hpp>
#include <kvm/x86/msr.hpp>
#include <kvm/x86/nested_state.hpp>
#include <kvm/x86/snapshot.hpp>
#include <kvm/x86/xsave.hpp>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

KVM_HPP_BEGIN
namespace x86 {

/// What a vCPU has on this architecture only.
///
/// Setting state is refused (EBUSY) while the last exit waits for completion
/// (R30): complete() first. What a set_synced_...() left in the run page counts
/// as set for the get_...() of the same registers, and a later set_...() of them
/// replaces it.
template <class = void>
class VcpuCalls : public detail::VcpuCore {
 public:
  /// @name Registers
  /// @{

  /// The general registers (KVM_GET_REGS).
  Result<uapi::kvm_regs> try_get_regs() const {
    if (const auto* run = dirty(uapi::sync::x86_regs)) [[unlikely]] {
      return run->s.regs.regs;
    }
    return try_get<uapi::kvm_regs>(uapi::request::get_regs);
  }
  uapi::kvm_regs get_regs() const {
    if (const auto* run = dirty(uapi::sync::x86_regs)) [[unlikely]] {
      return run->s.regs.regs;
    }
    return get<uapi::kvm_regs>(uapi::request::get_regs);
  }
  /// KVM_SET_REGS.
  Result<void> try_set_regs(const uapi::kvm_regs& regs) {
    auto result = try_set(uapi::request::set_regs, regs);
    if (result) {
      replaced(uapi::sync::x86_regs);
    }
    return result;
  }
  void set_regs(const uapi::kvm_regs& regs) {
    set(uapi::request::set_regs, regs);
    replaced(uapi::sync::x86_regs);
  }

  /// Segments, descriptor tables and control registers (KVM_GET_SREGS).
  Result<uapi::kvm_sregs> try_get_sregs() const {
    if (const auto* run = dirty(uapi::sync::x86_sregs)) [[unlikely]] {
      return run->s.regs.sregs;
    }
    return try_get<uapi::kvm_sregs>(uapi::request::get_sregs);
  }
  uapi::kvm_sregs get_sregs() const { return try_get_sregs().value(); }
  /// KVM_SET_SREGS. KVM refuses combinations that the CPU cannot be in (EINVAL).
  Result<void> try_set_sregs(const uapi::kvm_sregs& sregs) {
    return set_special(uapi::request::set_sregs, sregs);
  }
  void set_sregs(const uapi::kvm_sregs& sregs) { try_set_sregs(sregs).value(); }

  /// The same with the PAE page-directory pointers (KVM_GET_SREGS2), where
  /// cap::Sregs2 is.
  Result<uapi::kvm_sregs2> try_get_sregs2() const {
    if (auto flushed = flush_synced(); !flushed) {
      return flushed.error();
    }
    return try_get<uapi::kvm_sregs2>(uapi::request::get_sregs2);
  }
  uapi::kvm_sregs2 get_sregs2() const { return try_get_sregs2().value(); }
  /// KVM_SET_SREGS2. The pointers count with uapi::sregs2_flag::pdptrs_valid;
  /// otherwise KVM loads them from guest memory.
  Result<void> try_set_sregs2(const uapi::kvm_sregs2& sregs) {
    return set_special(uapi::request::set_sregs2, sregs);
  }
  void set_sregs2(const uapi::kvm_sregs2& sregs) { try_set_sregs2(sregs).value(); }

  /// x87 and SSE registers (KVM_GET_FPU). What else there is, is in the xsave.
  Result<uapi::kvm_fpu> try_get_fpu() const {
    return try_get<uapi::kvm_fpu>(uapi::request::get_fpu);
  }
  uapi::kvm_fpu get_fpu() const { return try_get_fpu().value(); }
  /// KVM_SET_FPU. KVM leaves MXCSR alone: that goes through the xsave only.
  ///
  /// KVM writes the registers but does not note that they are in use, so that a
  /// vCPU whose SSE state is still the initial one would never load them. This
  /// marks them before, at the price of an xsave read and, the first time,
  /// written.
  Result<void> try_set_fpu(const uapi::kvm_fpu& fpu) {
    constexpr std::uint64_t x87_and_sse = 3;
    if (completion_pending()) {
      return pending_failure(uapi::request::set_fpu.name);
    }
    auto state = try_get_xsave();
    if (!state) {
      return state.error();
    }
    if ((state->components() & x87_and_sse) != x87_and_sse) {
      state->set_components(state->components() | x87_and_sse);
      if (auto marked = try_set_xsave(*state); !marked) {
        return marked;
      }
    }
    return try_set(uapi::request::set_fpu, fpu);
  }
  void set_fpu(const uapi::kvm_fpu& fpu) { try_set_fpu(fpu).value(); }

  /// Bytes of this vCPU's extended state (KVM_CAP_XSAVE2 on the VM): 4096 or
  /// more. Fixed once there is a vCPU, and asked for once.
  Result<std::size_t> try_xsave_size() const {
    if (xsave_size_ == 0) {
      const auto answer = check_vm(uapi::cap::xsave2);
      if (!answer) {
        return answer.error();
      }
      has_xsave2_ = *answer > 0;
      xsave_size_ = *answer > static_cast<int>(Xsave::min_size)
                        ? static_cast<std::uint32_t>(*answer)
                        : static_cast<std::uint32_t>(Xsave::min_size);
    }
    return std::size_t{xsave_size_};
  }
  std::size_t xsave_size() const { return try_xsave_size().value(); }

  /// The extended state (KVM_GET_XSAVE2; KVM_GET_XSAVE before Linux 5.17).
  Result<Xsave> try_get_xsave() const {
    Xsave state;
    if (auto result = try_get_xsave(state); !result) {
      return result.error();
    }
    return state;
  }
  Xsave get_xsave() const { return try_get_xsave().value(); }
  /// The same into a state that is there already: allocates nothing from the
  /// second time on.
  Result<void> try_get_xsave(Xsave& state) const {
    const auto size = try_xsave_size();
    if (!size) {
      return size.error();
    }
    state.resize(*size);
    void* const bytes = state.bytes().data();
    const int result = has_xsave2_ ? call(uapi::request::get_xsave2, bytes)
                                   : call(uapi::request::get_xsave, bytes);
    if (result < 0) {
      const int error_number = errno;
      return failure(has_xsave2_ ? uapi::request::get_xsave2.name : uapi::request::get_xsave.name,
                     error_number, detail::text("size=", *size));
    }
    return {};
  }
  void get_xsave(Xsave& state) const { try_get_xsave(state).value(); }
  /// KVM_SET_XSAVE. A state that is smaller than xsave_size() is refused: KVM
  /// would read past its end (R82).
  Result<void> try_set_xsave(const Xsave& state) {
    constexpr auto request = uapi::request::set_xsave;
    if (completion_pending()) {
      return pending_failure(request.name);
    }
    const auto size = try_xsave_size();
    if (!size) {
      return size.error();
    }
    const auto arguments = [&] { return detail::text("size=", state.size()); };
    if (state.size() < *size) {
      return detail::make_error(EINVAL, request.name, arguments(),
                                detail::text("this vCPU's extended state takes ", *size,
                                             " bytes: KVM would read past the end of this one"));
    }
    if (call(request, static_cast<const void*>(state.bytes().data())) < 0) {
      const int error_number = errno;
      return failure(request.name, error_number, arguments(),
                     error_number == EINVAL
                         ? "it has a component that this guest may not use, or reserved bits"
                         : "");
    }
    return {};
  }
  void set_xsave(const Xsave& state) { try_set_xsave(state).value(); }

  /// The extended control registers, XCR0 above all (KVM_GET_XCRS).
  Result<uapi::kvm_xcrs> try_get_xcrs() const {
    return try_get<uapi::kvm_xcrs>(uapi::request::get_xcrs);
  }
  uapi::kvm_xcrs get_xcrs() const { return try_get_xcrs().value(); }
  /// KVM_SET_XCRS.
  Result<void> try_set_xcrs(const uapi::kvm_xcrs& xcrs) {
    return set_explained(uapi::request::set_xcrs, xcrs, [](int error_number) {
      return error_number == EINVAL
                 ? "the guest's CPUID (function 0xd) does not offer these components, or the "
                   "combination is impossible"
                 : "";
    });
  }
  void set_xcrs(const uapi::kvm_xcrs& xcrs) { try_set_xcrs(xcrs).value(); }

  /// DR0 to DR3, DR6 and DR7 of the guest (KVM_GET_DEBUGREGS).
  Result<uapi::kvm_debugregs> try_get_debugregs() const {
    return try_get<uapi::kvm_debugregs>(uapi::request::get_debugregs);
  }
  uapi::kvm_debugregs get_debugregs() const { return try_get_debugregs().value(); }
  /// KVM_SET_DEBUGREGS.
  Result<void> try_set_debugregs(const uapi::kvm_debugregs& debugregs) {
    return try_set(uapi::request::set_debugregs, debugregs);
  }
  void set_debugregs(const uapi::kvm_debugregs& debugregs) { try_set_debugregs(debugregs).value(); }

  /// Exceptions, interrupts, NMIs and SMIs that are pending or being delivered
  /// (KVM_GET_VCPU_EVENTS).
  Result<uapi::kvm_vcpu_events> try_get_vcpu_events() const {
    if (const auto* run = dirty(uapi::sync::x86_events)) [[unlikely]] {
      return run->s.regs.events;
    }
    return try_get<uapi::kvm_vcpu_events>(uapi::request::get_vcpu_events);
  }
  uapi::kvm_vcpu_events get_vcpu_events() const { return try_get_vcpu_events().value(); }
  /// KVM_SET_VCPU_EVENTS. `flags` says which of the optional fields count, see
  /// uapi::vcpuevent_valid.
  Result<void> try_set_vcpu_events(const uapi::kvm_vcpu_events& events) {
    auto result = set_explained(uapi::request::set_vcpu_events, events, [](int error_number) {
      return error_number == EINVAL
                 ? "a flag is unknown or its capability is not enabled on the VM "
                   "(cap::ExceptionPayload, cap::X86TripleFaultEvent), or the exception is none"
                 : "";
    });
    if (result) {
      replaced(uapi::sync::x86_events);
    }
    return result;
  }
  void set_vcpu_events(const uapi::kvm_vcpu_events& events) { try_set_vcpu_events(events).value(); }

  /// The registers of the local APIC in the kernel (KVM_GET_LAPIC).
  Result<uapi::kvm_lapic_state> try_get_lapic() const {
    constexpr auto request = uapi::request::get_lapic;
    uapi::kvm_lapic_state state;
    if (call(request, &state) < 0) {
      const int error_number = errno;
      return failure(request.name, error_number, {}, explain_lapic(error_number));
    }
    return state;
  }
  uapi::kvm_lapic_state get_lapic() const { return try_get_lapic().value(); }
  /// KVM_SET_LAPIC. The APIC id in it must be this vCPU's.
  Result<void> try_set_lapic(const uapi::kvm_lapic_state& state) {
    if (auto flushed = flush_synced(); !flushed) {
      return flushed;
    }
    return set_explained(uapi::request::set_lapic, state, explain_lapic);
  }
  void set_lapic(const uapi::kvm_lapic_state& state) { try_set_lapic(state).value(); }

  /// @}
  /// @name Model-specific registers
  /// @{

  /// Reads the MSRs whose `index` is given and fills in their `data`
  /// (KVM_GET_MSRS, as often as it takes: any number of them goes).
  /// @return how many were read. KVM stops at the first that it refuses (R80):
  ///         if the count is less, it is the index of that one.
  Result<std::size_t> try_get_msrs(std::span<uapi::kvm_msr_entry> msrs) const {
    constexpr auto request = uapi::request::get_msrs;
    if (auto flushed = flush_synced(); !flushed) {
      return flushed.error();
    }
    const auto transfer =
        detail::transfer_msrs(msrs, [&](void* block) { return call(request, block); });
    return outcome(request.name, transfer, msrs.size());
  }
  std::size_t get_msrs(std::span<uapi::kvm_msr_entry> msrs) const {
    return try_get_msrs(msrs).value();
  }

  /// Writes MSRs in the order given (KVM_SET_MSRS, as often as it takes).
  /// @return how many were written, as with try_get_msrs(); the rest is
  ///         untouched. On an error some may have been written.
  Result<std::size_t> try_set_msrs(std::span<const uapi::kvm_msr_entry> msrs) {
    constexpr auto request = uapi::request::set_msrs;
    if (completion_pending()) {
      return pending_failure(request.name);
    }
    if (auto flushed = flush_synced(); !flushed) {
      return flushed.error();
    }
    const auto transfer =
        detail::transfer_msrs(msrs, [&](void* block) { return call(request, block); });
    return outcome(request.name, transfer, msrs.size());
  }
  std::size_t set_msrs(std::span<const uapi::kvm_msr_entry> msrs) {
    return try_set_msrs(msrs).value();
  }

  /// Reads one MSR. ENOENT if this vCPU does not have it.
  Result<std::uint64_t> try_get_msr(std::uint32_t index) const {
    constexpr auto request = uapi::request::get_msrs;
    if (auto flushed = flush_synced(); !flushed) {
      return flushed.error();
    }
    detail::MsrBlock<1> block{{.nmsrs = 1, .pad = 0}, {{.index = index, .reserved = 0, .data = 0}}};
    const int count = call(request, &block);
    if (count == 1) {
      return std::uint64_t{block.entries[0].data};
    }
    const int error_number = count < 0 ? errno : ENOENT;
    return failure(request.name, error_number, detail::text("msr=", detail::Hex{index}),
                   error_number == ENOENT
                       ? "KVM has no such MSR, or the guest's CPUID does not offer it"
                       : "");
  }
  std::uint64_t get_msr(std::uint32_t index) const { return try_get_msr(index).value(); }

  /// Writes one MSR. EINVAL if this vCPU does not have it or it cannot take the
  /// value.
  Result<void> try_set_msr(std::uint32_t index, std::uint64_t value) {
    constexpr auto request = uapi::request::set_msrs;
    if (completion_pending()) {
      return pending_failure(request.name);
    }
    if (auto flushed = flush_synced(); !flushed) {
      return flushed.error();
    }
    const detail::MsrBlock<1> block{{.nmsrs = 1, .pad = 0},
                                    {{.index = index, .reserved = 0, .data = value}}};
    const int count = call(request, &block);
    if (count == 1) {
      return {};
    }
    const int error_number = count < 0 ? errno : EINVAL;
    return failure(request.name, error_number,
                   detail::text("msr=", detail::Hex{index}, ", value=", detail::Hex{value}),
                   error_number == EINVAL ? "KVM has no such MSR, the guest's CPUID does not offer "
                                            "it, or it cannot take this value"
                                          : "");
  }
  void set_msr(std::uint32_t index, std::uint64_t value) { try_set_msr(index, value).value(); }

  /// @}
  /// @name What the guest sees of its processor
  /// @{

  /// The guest's CPUID table (KVM_GET_CPUID2).
  Result<Cpuid> try_get_cpuid2() const {
    constexpr auto request = uapi::request::get_cpuid2;
    return detail::fetch_cpuid(
        [&](void* buffer) { return call(request, buffer); },
        [&](int error_number) { return failure(request.name, error_number); });
  }
  Cpuid get_cpuid2() const { return try_get_cpuid2().value(); }

  /// Sets it (KVM_SET_CPUID2): before the vCPU first runs, and before MSRs and
  /// control registers whose bits it allows. Afterwards KVM only takes the table
  /// that it has (R81).
  Result<void> try_set_cpuid2(const Cpuid& cpuid) {
    constexpr auto request = uapi::request::set_cpuid2;
    if (completion_pending()) {
      return pending_failure(request.name);
    }
    const auto arguments = [&] { return detail::text("nent=", cpuid.size()); };
    if (cpuid.size() > Cpuid::max_entries) {
      return detail::make_error(
          E2BIG, request.name, arguments(),
          detail::text("KVM takes a table of at most ", Cpuid::max_entries, " entries"));
    }
    struct {
      uapi::kvm_cpuid2 header;
      Cpuid::Entry entries[Cpuid::max_entries];
    } table;
    static_assert(offsetof(decltype(table), entries) == uapi::kvm_cpuid2::array_offset);
    table.header = {.nent = static_cast<std::uint32_t>(cpuid.size()), .padding = 0};
    std::size_t next = 0;
    for (const Cpuid::Entry& entry : cpuid) {
      table.entries[next++] = entry;
    }
    if (auto flushed = flush_synced(); !flushed) {
      return flushed;
    }
    if (call(request, &table) < 0) {
      const int error_number = errno;
      return failure(request.name, error_number, arguments(),
                     error_number == EINVAL
                         ? "once the vCPU has run, KVM takes no other table than the one it has; "
                           "before, the address widths in function 0x80000008 may be impossible"
                     : error_number == E2BIG ? "this KVM takes fewer entries"
                                             : "");
    }
    return {};
  }
  void set_cpuid2(const Cpuid& cpuid) { try_set_cpuid2(cpuid).value(); }

  /// The Hyper-V leaves that this vCPU could have (KVM_GET_SUPPORTED_HV_CPUID).
  Result<Cpuid> try_supported_hv_cpuid() const {
    constexpr auto request = uapi::request::get_supported_hv_cpuid;
    return detail::fetch_cpuid(
        [&](void* buffer) { return call(request, buffer); },
        [&](int error_number) {
          return failure(request.name, error_number, {},
                         error_number == EINVAL ? "this KVM has no Hyper-V support" : "");
        });
  }
  Cpuid supported_hv_cpuid() const { return try_supported_hv_cpuid().value(); }

  /// Frequency of the guest's time stamp counter in kHz (KVM_GET_TSC_KHZ).
  Result<std::uint32_t> try_get_tsc_khz() const {
    constexpr auto request = uapi::request::get_tsc_khz;
    const int khz = call(request);
    if (khz < 0) {
      return failure(request.name, errno);
    }
    return static_cast<std::uint32_t>(khz);
  }
  std::uint32_t get_tsc_khz() const { return try_get_tsc_khz().value(); }
  /// KVM_SET_TSC_KHZ. Less than the host's needs cap::TscControl; without it,
  /// more is possible but makes the guest slow. KVM keeps a frequency that it
  /// has refused, and would go by it: this puts the old one back.
  Result<void> try_set_tsc_khz(std::uint32_t khz) {
    constexpr auto request = uapi::request::set_tsc_khz;
    const int before = call(uapi::request::get_tsc_khz);
    if (call(request, std::uint64_t{khz}) < 0) {
      const int error_number = errno;
      if (before > 0) {
        call(request, static_cast<unsigned long>(before));
      }
      return failure(request.name, error_number, detail::text("khz=", khz),
                     error_number == EINVAL
                         ? "this host's CPU cannot scale its time stamp counter so far"
                         : "");
    }
    return {};
  }
  void set_tsc_khz(std::uint32_t khz) { try_set_tsc_khz(khz).value(); }

  /// The guest physical address that a guest virtual one is mapped to now, or
  /// nothing (KVM_TRANSLATE). An address need not have memory behind it. Whether
  /// it may be written, and by whom, KVM does not tell (R37).
  Result<std::optional<Gpa>> try_translate(std::uint64_t virtual_address) const {
    constexpr auto request = uapi::request::translate;
    if (auto flushed = flush_synced(); !flushed) {
      return flushed.error();
    }
    uapi::kvm_translation translation{};
    translation.linear_address = virtual_address;
    if (call(request, &translation) < 0) {
      const int error_number = errno;
      return failure(request.name, error_number,
                     detail::text("address=", detail::Hex{virtual_address}));
    }
    return translation.valid != 0 ? std::optional<Gpa>(Gpa(translation.physical_address))
                                  : std::nullopt;
  }
  std::optional<Gpa> translate(std::uint64_t virtual_address) const {
    return try_translate(virtual_address).value();
  }

  /// @}
  /// @name Events
  /// These may come between an exit and its completion.
  /// @{

  /// Queues an interrupt (KVM_INTERRUPT). Without an interrupt controller in the
  /// kernel the guest must be able to take it: see ready_for_interrupt_injection().
  /// With a split one it is the line of the external PIC, where one can be
  /// pending (R71).
  Result<void> try_interrupt(std::uint8_t vector) {
    constexpr auto request = uapi::request::interrupt;
    if (auto flushed = flush_synced(); !flushed) {
      return flushed;
    }
    const uapi::kvm_interrupt interrupt{.irq = vector};
    if (call(request, &interrupt) < 0) {
      const int error_number = errno;
      return failure(request.name, error_number, detail::text("vector=", unsigned{vector}),
                     error_number == ENXIO
                         ? "the interrupt controller is in the kernel: use Vm::irq_line or "
                           "Vm::signal_msi"
                     : error_number == EEXIST ? "an external interrupt is pending already"
                                              : "");
    }
    return {};
  }
  void interrupt(std::uint8_t vector) { try_interrupt(vector).value(); }

  /// Queues a non-maskable interrupt (KVM_NMI).
  Result<void> try_nmi() {
    auto flushed = flush_synced();
    return flushed ? try_call(uapi::request::nmi) : std::move(flushed);
  }
  void nmi() { try_nmi().value(); }

  /// Queues a system management interrupt (KVM_SMI), where cap::X86Smm is.
  Result<void> try_smi() {
    constexpr auto request = uapi::request::smi;
    if (auto flushed = flush_synced(); !flushed) {
      return flushed;
    }
    if (call(request) < 0) {
      const int error_number = errno;
      return failure(request.name, error_number, {},
                     error_number == ENOTTY || error_number == EINVAL
                         ? "this KVM has no system management mode"
                         : "");
    }
    return {};
  }
  void smi() { try_smi().value(); }

  /// Whether the guest's accesses to the TPR are exits, exits::TprAccess
  /// (KVM_TPR_ACCESS_REPORTING). Only with a local APIC in the kernel.
  Result<void> try_set_tpr_access_reporting(bool enabled) {
    uapi::kvm_tpr_access_ctl control{};
    control.enabled = enabled ? 1 : 0;
    return set_explained(uapi::request::tpr_access_reporting, control,
                         [](int) { return std::string_view(); });
  }
  void set_tpr_access_reporting(bool enabled) { try_set_tpr_access_reporting(enabled).value(); }

  /// Where the TPR is shadowed in guest memory (KVM_SET_VAPIC_ADDR). Needs a
  /// local APIC in the kernel.
  Result<void> try_set_vapic_addr(Gpa address) {
    return set_explained(uapi::request::set_vapic_addr,
                         uapi::kvm_vapic_addr{.vapic_addr = address.value}, explain_lapic);
  }
  void set_vapic_addr(Gpa address) { try_set_vapic_addr(address).value(); }

  /// Tells the guest that it was paused, so that its watchdog stays quiet
  /// (KVM_KVMCLOCK_CTRL).
  Result<void> try_kvmclock_ctrl() {
    constexpr auto request = uapi::request::kvmclock_ctrl;
    if (call(request) < 0) {
      const int error_number = errno;
      return failure(request.name, error_number, {},
                     error_number == EINVAL ? "the guest does not use kvmclock" : "");
    }
    return {};
  }
  void kvmclock_ctrl() { try_kvmclock_ctrl().value(); }

  /// Gives the vCPU machine check banks (KVM_X86_SETUP_MCE).
  /// @param mcg_cap IA32_MCG_CAP: of the bits of System::mce_cap_supported(),
  ///                the number of banks in the lowest 8
  Result<void> try_setup_mce(std::uint64_t mcg_cap) {
    constexpr auto request = uapi::request::x86_setup_mce;
    if (call(request, &mcg_cap) < 0) {
      const int error_number = errno;
      return failure(request.name, error_number, detail::text("mcg_cap=", detail::Hex{mcg_cap}),
                     error_number == EINVAL
                         ? "too many banks, or bits that System::mce_cap_supported() lacks"
                         : "");
    }
    return {};
  }
  void setup_mce(std::uint64_t mcg_cap) { try_setup_mce(mcg_cap).value(); }

  /// Injects a machine check (KVM_X86_SET_MCE).
  Result<void> try_set_mce(const uapi::kvm_x86_mce& mce) {
    if (auto flushed = flush_synced(); !flushed) {
      return flushed;
    }
    return set_explained(uapi::request::x86_set_mce, mce, [](int error_number) {
      return error_number == EINVAL ? "there is no such bank, or the status is not valid" : "";
    });
  }
  void set_mce(const uapi::kvm_x86_mce& mce) { try_set_mce(mce).value(); }

  /// @}
  /// @name Nested virtualization
  /// @{

  /// The state of a guest that is a hypervisor (KVM_GET_NESTED_STATE), where
  /// cap::NestedState is not 0.
  Result<NestedState> try_get_nested_state() const {
    const auto size = check_vm(uapi::cap::nested_state);
    if (!size) {
      return size.error();
    }
    return get_nested_state_of(*size);
  }
  NestedState get_nested_state() const { return try_get_nested_state().value(); }
  /// KVM_SET_NESTED_STATE. A state whose header speaks of more bytes than there
  /// are is refused: KVM would read past its end.
  Result<void> try_set_nested_state(const NestedState& state) {
    constexpr auto request = uapi::request::set_nested_state;
    if (completion_pending()) {
      return pending_failure(request.name);
    }
    const auto arguments = [&] { return detail::text("size=", state.size()); };
    const std::size_t said = state.header().size;
    if (state.empty() || said > state.size()) {
      return detail::make_error(EINVAL, request.name, arguments(),
                                state.empty()
                                    ? std::string("the state is empty")
                                    : detail::text("the header speaks of ", said, " bytes"));
    }
    if (auto flushed = flush_synced(); !flushed) {
      return flushed;
    }
    if (call(request, static_cast<const void*>(state.bytes().data())) < 0) {
      const int error_number = errno;
      return failure(request.name, error_number, arguments(), explain_nested(error_number));
    }
    return {};
  }
  void set_nested_state(const NestedState& state) { try_set_nested_state(state).value(); }

  /// @}
  /// @name Through the run page
  /// No system calls. Interrupts and CR8 are the VMM's only without a local
  /// APIC in the kernel (R35). Not for the child of a fork, which has no run
  /// page.
  /// @{

  /// Asks for exits::IrqWindowOpen as soon as the guest can take an interrupt.
  /// Stays until it is taken back.
  void request_interrupt_window(bool wanted) noexcept {
    if (auto* const run = run_page()) {
      run->request_interrupt_window = wanted ? 1 : 0;
    }
  }
  /// Whether interrupt() would be taken at the next entry. As of the last exit.
  bool ready_for_interrupt_injection() const noexcept {
    const auto* const run = run_page();
    return run != nullptr && run->ready_for_interrupt_injection != 0;
  }
  /// The guest's RFLAGS.IF. As of the last exit.
  bool interrupt_flag() const noexcept {
    const auto* const run = run_page();
    return run != nullptr && run->if_flag != 0;
  }
  /// The guest's task priority, 0 to 15. As of the last exit or what was set.
  std::uint64_t cr8() const noexcept {
    const auto* const run = run_page();
    return run != nullptr ? run->cr8 : 0;
  }
  /// Sets it for the next entry. More than 15 is refused: every entry would fail.
  Result<void> try_set_cr8(std::uint64_t value) {
    auto* const run = run_page();
    if (run == nullptr) {
      return failure("Vcpu::set_cr8", EBADF);
    }
    if (value > 15) {
      return detail::make_error(EINVAL, "Vcpu::set_cr8", detail::text("value=", value),
                                "task priorities are 0 to 15");
    }
    run->cr8 = value;
    return {};
  }
  void set_cr8(std::uint64_t value) { try_set_cr8(value).value(); }
  /// IA32_APIC_BASE. As of the last exit; 0 before the first.
  std::uint64_t apic_base() const noexcept {
    const auto* const run = run_page();
    return run != nullptr ? run->apic_base : 0;
  }

  /// Lets KVM store these registers in the run page at each exit, where
  /// synced_regs() and its like find them without a system call. The current
  /// ones are stored at once. Replaces what was asked for before; {} ends it.
  ///
  /// What this KVM cannot sync (cap::SyncRegs on the VM) is refused: every entry
  /// would fail (R31).
  Result<void> try_sync_on_exit(Flags<cap::SyncRegsFlag> sets) {
    constexpr const char* operation = "Vcpu::sync_on_exit";
    auto* const run = run_page();
    if (run == nullptr) {
      return failure(operation, EBADF);
    }
    if (auto result = check_syncable(operation, sets.raw()); !result) {
      return result;
    }
    if (foreign()) {
      return failure(operation, EIO);  // A fork's child has no run page.
    }
    const std::uint64_t fresh = sets.raw() & ~run->kvm_dirty_regs;
    if (auto result = store_synced(fresh & ~run->kvm_valid_regs); !result) {
      return result;
    }
    run->kvm_valid_regs = sets.raw();
    return {};
  }
  void sync_on_exit(Flags<cap::SyncRegsFlag> sets) { try_sync_on_exit(sets).value(); }

  /// The registers in the run page; null unless sync_on_exit() asked for them.
  /// As of the last exit, or what set_synced_...() has put there since; what
  /// set_regs() and its like change is not seen before the next exit. The
  /// pointer stays good for the vCPU's life.
  const uapi::kvm_regs* synced_regs() const noexcept {
    const auto* const run = valid(uapi::sync::x86_regs);
    return run != nullptr ? &run->s.regs.regs : nullptr;
  }
  /// The same for segments, descriptor tables and control registers.
  const uapi::kvm_sregs* synced_sregs() const noexcept {
    const auto* const run = valid(uapi::sync::x86_sregs);
    return run != nullptr ? &run->s.regs.sregs : nullptr;
  }
  /// The same for pending events.
  const uapi::kvm_vcpu_events* synced_vcpu_events() const noexcept {
    const auto* const run = valid(uapi::sync::x86_events);
    return run != nullptr ? &run->s.regs.events : nullptr;
  }

  /// Puts registers into the run page and marks them, so that the next entry
  /// loads them: set_regs() and its like without a system call. What KVM would
  /// refuse makes that entry fail (exits::Failed with EINVAL).
  /// @param regs may be what synced_regs() points to
  Result<void> try_set_synced_regs(const uapi::kvm_regs& regs) {
    return set_synced("Vcpu::set_synced_regs", uapi::sync::x86_regs,
                      [&](uapi::kvm_run& run) { run.s.regs.regs = regs; });
  }
  void set_synced_regs(const uapi::kvm_regs& regs) { try_set_synced_regs(regs).value(); }
  /// The same for segments, descriptor tables and control registers; CR8 is
  /// taken over too.
  Result<void> try_set_synced_sregs(const uapi::kvm_sregs& sregs) {
    return set_synced("Vcpu::set_synced_sregs", uapi::sync::x86_sregs, [&](uapi::kvm_run& run) {
      run.s.regs.sregs = sregs;
      run.cr8 = sregs.cr8;
    });
  }
  void set_synced_sregs(const uapi::kvm_sregs& sregs) { try_set_synced_sregs(sregs).value(); }
  /// The same for pending events.
  Result<void> try_set_synced_vcpu_events(const uapi::kvm_vcpu_events& events) {
    return set_synced("Vcpu::set_synced_vcpu_events", uapi::sync::x86_events,
                      [&](uapi::kvm_run& run) { run.s.regs.events = events; });
  }
  void set_synced_vcpu_events(const uapi::kvm_vcpu_events& events) {
    try_set_synced_vcpu_events(events).value();
  }

  /// @}
  /// @name All of it
  /// @{

  /// Saves the vCPU's whole state. Refused while a completion is pending: the
  /// restored guest would do its access a second time. complete() first.
  /// @param msrs which MSRs: System::msr_index_list(). Those that this vCPU does
  ///             not have are left out.
  Result<VcpuSnapshot> try_save_state(std::span<const std::uint32_t> msrs) const {
    VcpuSnapshot snapshot;
    if (auto result = save(snapshot, msrs); !result) {
      return result.error();
    }
    return snapshot;
  }
  VcpuSnapshot save_state(std::span<const std::uint32_t> msrs) const {
    return try_save_state(msrs).value();
  }

  /// Gives the vCPU a saved state, in the order that KVM needs. The vCPU may
  /// have run, if its CPUID table is the snapshot's; with a local APIC in the
  /// kernel it must have the id of the one that was saved. An error says what
  /// was refused; what came before it is set.
  Result<void> try_restore_state(const VcpuSnapshot& snapshot) {
    if (completion_pending()) {
      return pending_failure("Vcpu::restore_state");
    }
    const auto optional = [](const auto& value, auto&& set_it) -> Result<void> {
      return value ? set_it(*value) : Result<void>();
    };
    // The table decides what registers and MSRs take; control registers enable
    // the extended state and the local APIC; a deadline MSR needs the APIC's
    // timer; nested state depends on system management mode, and a change of
    // that mode drops nested state; setting the general registers clears a
    // pending exception, so the events come after them.
    auto result = restore_cpuid(snapshot.cpuid);
    if (result) {
      result = restore_tsc_khz(snapshot.tsc_khz);
    }
    if (result) {
      result = optional(snapshot.sregs, [&](auto& sregs) { return try_set_sregs(sregs); });
    }
    if (result) {
      result = optional(snapshot.sregs2, [&](auto& sregs) { return try_set_sregs2(sregs); });
    }
    if (result) {
      result = optional(snapshot.xcrs, [&](auto& xcrs) { return try_set_xcrs(xcrs); });
    }
    if (result) {
      result = try_set_xsave(snapshot.xsave);
    }
    if (result) {
      result = optional(snapshot.lapic, [&](auto& lapic) { return try_set_lapic(lapic); });
    }
    if (result) {
      result = restore_msrs(snapshot.msrs);
    }
    if (result) {
      result = restore_smm(snapshot.events);
    }
    if (result) {
      result = optional(snapshot.nested, [&](auto& state) { return try_set_nested_state(state); });
    }
    if (result) {
      result = try_set_debugregs(snapshot.debugregs);
    }
    if (result) {
      result = try_set_regs(snapshot.regs);
    }
    if (result) {
      result = try_set_vcpu_events(snapshot.events);
    }
    if (result) {
      result = try_set(uapi::request::set_mp_state, snapshot.mp_state);
    }
    return result;
  }
  void restore_state(const VcpuSnapshot& snapshot) { try_restore_state(snapshot).value(); }

  /// @}

 protected:
  using VcpuCore::VcpuCore;

  /// What KVM does at an entry, now: for calls that must see what it loads.
  Result<void> flush_synced() const {
    auto* const run = marked_page();
    if (run == nullptr) [[likely]] {
      return {};
    }
    const auto flush = [&](std::uint64_t which, const auto& request,
                           const void* value) -> Result<void> {
      if ((run->kvm_dirty_regs & which) != 0) {
        if (call(request, value) < 0) {
          return failure(request.name, errno, {}, "set by a set_synced_...() before");
        }
        run->kvm_dirty_regs &= ~which;
      }
      return {};
    };
    auto result = flush(uapi::sync::x86_regs, uapi::request::set_regs, &run->s.regs.regs);
    if (result) {
      result = flush(uapi::sync::x86_sregs, uapi::request::set_sregs, &run->s.regs.sregs);
    }
    if (result) {
      result = flush(uapi::sync::x86_events, uapi::request::set_vcpu_events, &run->s.regs.events);
    }
    return result;
  }

 private:
  static constexpr std::uint32_t not_asked = ~std::uint32_t{0};

  static std::string_view explain_lapic(int error_number) {
    return error_number == EINVAL ? "it needs a local APIC in the kernel: Vm::create_irqchip or "
                                    "cap::SplitIrqchip before the vCPU"
                                  : "";
  }
  static std::string_view explain_nested(int error_number) {
    return error_number == EINVAL
               ? "this VM has no nested virtualization (KVM_CAP_NESTED_STATE), or the state does "
                 "not fit the vCPU's CPUID and MSRs"
               : "";
  }

  /// A capability's bare answer, from the VM.
  Result<int> check_vm(unsigned capability) const {
    constexpr auto request = uapi::request::check_extension;
    if (!vm()) {
      return failure(request.name, EBADF);
    }
    const int answer = vm()->call(request, capability);
    if (answer < 0) {
      return failure(request.name, errno);
    }
    return answer;
  }

  /// @param explain gives the usual cause of an errno value, or ""
  template <class T, uapi::Scopes R, class Explain>
  Result<void> set_explained(uapi::Request<R> request, const T& value, Explain&& explain) const {
    if (completion_pending()) {
      return pending_failure(request.name);
    }
    if (call(request, &value) < 0) {
      const int error_number = errno;
      return failure(request.name, error_number, {}, explain(error_number));
    }
    return {};
  }

  template <class T, uapi::Scopes R>
  Result<void> set_special(uapi::Request<R> request, const T& sregs) {
    auto result = set_explained(request, sregs, [](int error_number) {
      return error_number == EINVAL
                 ? "the CPU cannot be in this combination of control registers, EFER and flags"
                 : "";
    });
    if (result) {
      replaced(uapi::sync::x86_sregs);
      // Without a local APIC in the kernel the run page's CR8 counts (R35).
      run_page()->cr8 = sregs.cr8;
    }
    return result;
  }

  /// An error if the ioctl failed, though blocks before it may have gone through.
  Result<std::size_t> outcome(const char* operation, const detail::MsrTransfer& transfer,
                              std::size_t count) const {
    if (transfer.failed) {
      const int error_number = errno;
      return failure(operation, error_number,
                     detail::text("nmsrs=", count, ", processed=", transfer.done));
    }
    return transfer.done;
  }

  /// The run page, if it may hold registers that the next entry will load. Not
  /// looked at otherwise: a fork's child has none.
  uapi::kvm_run* marked_page() const noexcept {
    if (!marked_) [[likely]] {
      return nullptr;
    }
    auto* const run = foreign() ? nullptr : run_page();
    marked_ = run != nullptr && run->kvm_dirty_regs != 0;
    return marked_ ? run : nullptr;
  }
  /// The run page, if it holds these of them.
  const uapi::kvm_run* dirty(std::uint64_t which) const noexcept {
    const auto* const run = marked_page();
    return run != nullptr && (run->kvm_dirty_regs & which) != 0 ? run : nullptr;
  }
  /// The run page, if KVM stores these registers there.
  const uapi::kvm_run* valid(std::uint64_t which) const noexcept {
    const auto* const run = run_page();
    return run != nullptr && (run->kvm_valid_regs & which) != 0 ? run : nullptr;
  }
  /// Takes back what the next entry would load over registers just set.
  void replaced(std::uint64_t which) noexcept {
    if (auto* const run = marked_page()) [[unlikely]] {
      run->kvm_dirty_regs &= ~which;
    }
  }

  Result<void> check_syncable(const char* operation, std::uint64_t sets) const {
    if (sync_supported_ == not_asked) {
      const auto answer = check_vm(uapi::cap::sync_regs);
      if (!answer) {
        return answer.error();
      }
      sync_supported_ = static_cast<std::uint32_t>(*answer);
    }
    if ((sets & ~std::uint64_t{sync_supported_}) != 0) {
      using Sets = Flags<cap::SyncRegsFlag>;
      return detail::make_error(
          EINVAL, operation, detail::text("sets=", to_string(Sets::from_raw(sets))),
          detail::text("this KVM can sync: ", to_string(Sets::from_raw(sync_supported_))));
    }
    return {};
  }

  /// What KVM does at an exit, now.
  Result<void> store_synced(std::uint64_t sets) const {
    auto* const run = run_page();
    if ((sets & uapi::sync::x86_regs) != 0 &&
        call(uapi::request::get_regs, &run->s.regs.regs) < 0) {
      return failure(uapi::request::get_regs.name, errno);
    }
    if ((sets & uapi::sync::x86_sregs) != 0 &&
        call(uapi::request::get_sregs, &run->s.regs.sregs) < 0) {
      return failure(uapi::request::get_sregs.name, errno);
    }
    if ((sets & uapi::sync::x86_events) != 0 &&
        call(uapi::request::get_vcpu_events, &run->s.regs.events) < 0) {
      return failure(uapi::request::get_vcpu_events.name, errno);
    }
    return {};
  }

  template <class Store>
  Result<void> set_synced(const char* operation, std::uint64_t which, Store&& store) {
    auto* const run = run_page();
    if (run == nullptr) [[unlikely]] {
      return failure(operation, EBADF);
    }
    if (completion_pending()) [[unlikely]] {
      return pending_failure(operation);  // R30
    }
    if ((std::uint64_t{sync_supported_} & which) == 0 || sync_supported_ == not_asked)
        [[unlikely]] {
      if (auto result = check_syncable(operation, which); !result) {
        return result;
      }
    }
    store(*run);
    run->kvm_dirty_regs |= which;
    marked_ = true;
    return {};
  }

  Result<void> save(VcpuSnapshot& snapshot, std::span<const std::uint32_t> msrs) const {
    if (completion_pending()) {
      return detail::make_error(EBUSY, "Vcpu::save_state", {},
                                "the last exit is not completed: answer it and call complete() "
                                "first, or the restored guest does its access again");
    }
    if (auto flushed = flush_synced(); !flushed) {
      return flushed;
    }
    // First: asking for it lets KVM take in a pending INIT or SIPI.
    if (auto result =
            take(snapshot.mp_state, try_get<uapi::kvm_mp_state>(uapi::request::get_mp_state));
        !result) {
      return result;
    }
    auto result = take(snapshot.events, try_get_vcpu_events());
    if (result) {
      result = take(snapshot.cpuid, try_get_cpuid2());
    }
    if (result) {
      // EIO before Linux 5.18, where the host's counter is not stable.
      snapshot.tsc_khz = try_get_tsc_khz().value_or(0);
      result = take(snapshot.regs, try_get_regs());
    }
    if (result) {
      result = save_special(snapshot);
    }
    if (result) {
      result = try_get_xsave(snapshot.xsave);
    }
    if (result) {
      result = take_if(snapshot.xcrs, try_get_xcrs());
    }
    if (result) {
      result = take(snapshot.debugregs, try_get_debugregs());
    }
    if (result) {
      result = take_if(snapshot.lapic, try_get_lapic());
    }
    if (result) {
      result = save_nested(snapshot);
    }
    if (result) {
      result = save_msrs(snapshot.msrs, msrs);
    }
    return result;
  }

  template <class T, class U>
  static Result<void> take(T& into, Result<U>&& value) {
    if (!value) {
      return value.error();
    }
    into = *std::move(value);
    return {};
  }
  /// EINVAL means that this vCPU has no such thing.
  template <class T>
  static Result<void> take_if(std::optional<T>& into, Result<T>&& value) {
    if (!value && value.error().error_number() == EINVAL) {
      into.reset();
      return {};
    }
    return take(into, std::move(value));
  }

  Result<void> save_special(VcpuSnapshot& snapshot) const {
    const auto has_sregs2 = check_vm(uapi::cap::sregs2);
    if (!has_sregs2) {
      return has_sregs2.error();
    }
    return *has_sregs2 != 0 ? take(snapshot.sregs2, try_get_sregs2())
                            : take(snapshot.sregs, try_get_sregs());
  }

  Result<void> save_nested(VcpuSnapshot& snapshot) const {
    const auto size = check_vm(uapi::cap::nested_state);
    if (!size) {
      return size.error();
    }
    return *size != 0 ? take_if(snapshot.nested, get_nested_state_of(*size)) : Result<void>();
  }

  Result<NestedState> get_nested_state_of(int size) const {
    constexpr auto request = uapi::request::get_nested_state;
    NestedState state(size > 0 ? static_cast<std::size_t>(size) : 0);
    if (call(request, static_cast<const void*>(state.bytes().data())) < 0) {
      const int error_number = errno;
      return failure(request.name, error_number, detail::text("size=", state.size()),
                     explain_nested(error_number));
    }
    return state;
  }

  Result<void> save_msrs(std::vector<uapi::kvm_msr_entry>& into,
                         std::span<const std::uint32_t> indices) const {
    into.clear();
    into.reserve(indices.size());
    for (const std::uint32_t index : indices) {
      into.push_back({.index = index, .reserved = 0, .data = 0});
    }
    for (std::size_t done = 0; done < into.size();) {
      const auto count = try_get_msrs(std::span(into).subspan(done));
      if (!count) {
        return count.error();
      }
      done += *count;
      if (done < into.size()) {  // This one is in the list but not in this vCPU.
        into.erase(into.begin() + static_cast<std::ptrdiff_t>(done));
      }
    }
    return {};
  }

  Result<void> restore_cpuid(const Cpuid& cpuid) {
    const auto current = try_get_cpuid2();
    if (!current) {
      return current.error();
    }
    return *current == cpuid ? Result<void>() : try_set_cpuid2(cpuid);
  }

  Result<void> restore_tsc_khz(std::uint32_t khz) {
    if (khz == 0 || try_get_tsc_khz().value_or(0) == khz) {
      return {};
    }
    return try_set_tsc_khz(khz);
  }

  /// Enters or leaves system management mode as the saved vCPU had, ahead of the
  /// other events.
  Result<void> restore_smm(const uapi::kvm_vcpu_events& saved) {
    if ((saved.flags & uapi::vcpuevent_valid::smm) == 0) {
      return {};
    }
    auto current = try_get_vcpu_events();
    if (!current) {
      return current.error();
    }
    if (current->smi.smm == saved.smi.smm) {
      return {};
    }
    current->flags = uapi::vcpuevent_valid::smm;
    current->smi = saved.smi;
    return try_set_vcpu_events(*current);
  }

  /// An MSR that cannot be written is no harm if it has the value already.
  Result<void> restore_msrs(std::span<const uapi::kvm_msr_entry> msrs) {
    while (!msrs.empty()) {
      const auto count = try_set_msrs(msrs);
      if (!count) {
        return count.error();
      }
      if (*count == msrs.size()) {
        break;
      }
      const uapi::kvm_msr_entry& refused = msrs[*count];
      const auto current = try_get_msr(refused.index);
      if (!current || *current != refused.data) {
        return try_set_msr(refused.index, refused.data);  // For its error.
      }
      msrs = msrs.subspan(*count + 1);
    }
    return {};
  }

  mutable std::uint32_t xsave_size_ = 0;  // 0 until asked for
  mutable bool has_xsave2_ = false;
  mutable std::uint32_t sync_supported_ = not_asked;
  mutable bool marked_ = false;  // whether set_synced_...() was called since the last entry
};

}  // namespace x86
KVM_HPP_END

#endif
#endif
