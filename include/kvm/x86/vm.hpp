// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_X86_VM_HPP
#define KVM_HPP_X86_VM_HPP

#include <kvm/detail/kernel_header.hpp>
#if !KVM_HPP_REFUSED && KVM_HPP_ARCH_X86

#include <kvm/detail/capability_handle.hpp>
#include <kvm/types.hpp>
#include <kvm/uapi/constants.hpp>
#include <kvm/x86/msr.hpp>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

KVM_HPP_BEGIN
namespace x86 {

/// What a VM has on this architecture only. Any thread may use it.
template <class = void>
class VmCalls : public detail::CapabilityHandle<uapi::Scope::vm> {
 public:
  /// @name Set-up, before the first vCPU (R70)
  /// @{

  /// Puts PIC, IOAPIC and local APICs into the kernel (KVM_CREATE_IRQCHIP).
  /// Instead of cap::SplitIrqchip, before the first vCPU.
  Result<void> try_create_irqchip() {
    return send(uapi::request::create_irqchip, 0ul, [](int error_number) {
      return error_number == EEXIST   ? "the VM has an interrupt controller already, this or a "
                                        "split one"
             : error_number == EINVAL ? "it must come before the first vCPU"
                                      : "";
    });
  }
  void create_irqchip() { try_create_irqchip().value(); }

  /// Puts the timer (i8254) into the kernel (KVM_CREATE_PIT2). Needs
  /// create_irqchip().
  Result<void> try_create_pit2(const uapi::kvm_pit_config& config = {}) {
    return send(uapi::request::create_pit2, &config, [](int error_number) {
      return error_number == ENOENT   ? "it needs the whole interrupt controller in the kernel: "
                                        "create_irqchip() first"
             : error_number == EEXIST ? "the VM has one already"
             : error_number == EINVAL ? "the configuration has unknown flags"
                                      : "";
    });
  }
  void create_pit2(const uapi::kvm_pit_config& config = {}) { try_create_pit2(config).value(); }

  /// Where KVM puts the three pages that Intel CPUs need for real mode
  /// (KVM_SET_TSS_ADDR): below 4 GiB, in no slot.
  Result<void> try_set_tss_addr(Gpa address) {
    return send(
        uapi::request::set_tss_addr, address.value,
        [](int error_number) {
          return error_number == EINVAL ? "its three pages must end below 4 GiB" : "";
        },
        [&] { return describe(address); });
  }
  void set_tss_addr(Gpa address) { try_set_tss_addr(address).value(); }

  /// Where KVM puts the page table that Intel CPUs need for real mode
  /// (KVM_SET_IDENTITY_MAP_ADDR), one page in no slot; 0 is KVM's default.
  /// Before the first vCPU.
  Result<void> try_set_identity_map_addr(Gpa address) {
    return send(
        uapi::request::set_identity_map_addr, &address.value,
        [](int error_number) {
          return error_number == EINVAL ? "it must come before the first vCPU" : "";
        },
        [&] { return describe(address); });
  }
  void set_identity_map_addr(Gpa address) { try_set_identity_map_addr(address).value(); }

  /// Which vCPU starts the others (KVM_SET_BOOT_CPU_ID); 0 unless set. Before
  /// the first vCPU.
  Result<void> try_set_boot_cpu_id(VcpuId id) {
    return send(
        uapi::request::set_boot_cpu_id, std::uint64_t{id.value},
        [](int error_number) {
          return error_number == EBUSY    ? "it must come before the first vCPU"
                 : error_number == EINVAL ? "the id is too large for this VM"
                                          : "";
        },
        [&] { return detail::text("id=", id.value); });
  }
  void set_boot_cpu_id(VcpuId id) { try_set_boot_cpu_id(id).value(); }

  /// Frequency of the vCPUs' time stamp counters in kHz (KVM_SET_TSC_KHZ), where
  /// cap::VmTscControl is. Before the first vCPU; 0 is the host's.
  Result<void> try_set_tsc_khz(std::uint32_t khz) {
    return send(
        uapi::request::set_tsc_khz, std::uint64_t{khz},
        [](int error_number) {
          return error_number == EINVAL
                     ? "it must come before the first vCPU, and the host's CPU must be "
                       "able to scale its counter so far"
                     : "";
        },
        [&] { return detail::text("khz=", khz); });
  }
  void set_tsc_khz(std::uint32_t khz) { try_set_tsc_khz(khz).value(); }
  /// What it is for vCPUs to come (KVM_GET_TSC_KHZ).
  Result<std::uint32_t> try_get_tsc_khz() const {
    constexpr auto request = uapi::request::get_tsc_khz;
    const int khz = call(request);
    if (khz < 0) {
      return failure(request.name, errno);
    }
    return static_cast<std::uint32_t>(khz);
  }
  std::uint32_t get_tsc_khz() const { return try_get_tsc_khz().value(); }

  /// @}
  /// @name Interrupts
  /// @{

  /// Sets the level of an interrupt line (KVM_IRQ_LINE): an IOAPIC pin, and
  /// below 16 a PIC's too, unless routed otherwise.
  Result<void> try_irq_line(std::uint32_t gsi, bool level) {
    uapi::kvm_irq_level line{};
    line.irq = gsi;
    line.level = level ? 1 : 0;
    return send(uapi::request::irq_line, &line, explain_line,
                [&] { return detail::text("gsi=", gsi, ", level=", level); });
  }
  void irq_line(std::uint32_t gsi, bool level) { try_irq_line(gsi, level).value(); }

  /// The same, and tells what became of it (KVM_IRQ_LINE_STATUS).
  /// @return positive if it was delivered, to so many vCPUs; 0 if it merged with
  ///         one that is pending; negative if it was masked
  Result<int> try_irq_line_status(std::uint32_t gsi, bool level) {
    uapi::kvm_irq_level line{};
    line.irq = gsi;
    line.level = level ? 1 : 0;
    auto result = send(uapi::request::irq_line_status, &line, explain_line,
                       [&] { return detail::text("gsi=", gsi, ", level=", level); });
    if (!result) {
      return result.error();
    }
    return static_cast<int>(line.status);
  }
  int irq_line_status(std::uint32_t gsi, bool level) {
    return try_irq_line_status(gsi, level).value();
  }

  /// Delivers a message-signalled interrupt (KVM_SIGNAL_MSI): the address and
  /// the data as a device would write them.
  /// @return whether a vCPU took it; false if the guest blocked it
  Result<bool> try_signal_msi(std::uint64_t address, std::uint32_t data) {
    constexpr auto request = uapi::request::signal_msi;
    uapi::kvm_msi msi{};
    msi.address_lo = static_cast<std::uint32_t>(address);
    msi.address_hi = static_cast<std::uint32_t>(address >> 32);
    msi.data = data;
    const int result = call(request, &msi);
    if (result < 0) {
      const int error_number = errno;
      return failure(request.name, error_number,
                     detail::text("address=", detail::Hex{address}, ", data=", detail::Hex{data}),
                     error_number == EINVAL  ? "it needs local APICs in the kernel"
                     : error_number == EPERM ? "no vCPU has that APIC id, or its local APIC is off"
                                             : "");
    }
    return result > 0;
  }
  bool signal_msi(std::uint64_t address, std::uint32_t data) {
    return try_signal_msi(address, data).value();
  }

  /// The state of one of the interrupt controllers of create_irqchip()
  /// (KVM_GET_IRQCHIP).
  /// @param chip uapi::irqchip::pic_master, pic_slave or ioapic
  Result<uapi::kvm_irqchip> try_get_irqchip(std::uint32_t chip) const {
    uapi::kvm_irqchip state{};
    state.chip_id = chip;
    auto result = send(uapi::request::get_irqchip, &state, explain_chip,
                       [&] { return detail::text("chip=", chip); });
    if (!result) {
      return result.error();
    }
    return state;
  }
  uapi::kvm_irqchip get_irqchip(std::uint32_t chip) const { return try_get_irqchip(chip).value(); }
  /// KVM_SET_IRQCHIP; chip_id says which.
  Result<void> try_set_irqchip(const uapi::kvm_irqchip& state) {
    return send(uapi::request::set_irqchip, &state, explain_chip,
                [&] { return detail::text("chip=", std::uint32_t{state.chip_id}); });
  }
  void set_irqchip(const uapi::kvm_irqchip& state) { try_set_irqchip(state).value(); }

  /// The state of the timer of create_pit2() (KVM_GET_PIT2).
  Result<uapi::kvm_pit_state2> try_get_pit2() const {
    uapi::kvm_pit_state2 state{};
    auto result = send(uapi::request::get_pit2, &state, explain_pit);
    if (!result) {
      return result.error();
    }
    return state;
  }
  uapi::kvm_pit_state2 get_pit2() const { return try_get_pit2().value(); }
  /// KVM_SET_PIT2.
  Result<void> try_set_pit2(const uapi::kvm_pit_state2& state) {
    return send(uapi::request::set_pit2, &state, explain_pit);
  }
  void set_pit2(const uapi::kvm_pit_state2& state) { try_set_pit2(state).value(); }

  /// Whether ticks of the timer that the guest missed are delivered late
  /// (KVM_REINJECT_CONTROL); they are unless set.
  Result<void> try_set_pit_reinject(bool reinject) {
    uapi::kvm_reinject_control control{};
    control.pit_reinject = reinject ? 1 : 0;
    return send(uapi::request::reinject_control, &control, explain_pit,
                [&] { return detail::text("pit_reinject=", reinject); });
  }
  void set_pit_reinject(bool reinject) { try_set_pit_reinject(reinject).value(); }

  /// @}
  /// @name Clock, MSRs, memory
  /// @{

  /// The VM's kvmclock, in nanoseconds, with the host's clocks of the same
  /// instant where `flags` says so (KVM_GET_CLOCK).
  Result<uapi::kvm_clock_data> try_get_clock() const {
    return try_get<uapi::kvm_clock_data>(uapi::request::get_clock);
  }
  uapi::kvm_clock_data get_clock() const { return try_get_clock().value(); }
  /// KVM_SET_CLOCK. With uapi::clock_flag::realtime the time that passed since
  /// `realtime` is added. Other flags are refused: clear what get_clock() set.
  Result<void> try_set_clock(const uapi::kvm_clock_data& clock) {
    return send(
        uapi::request::set_clock, &clock,
        [](int error_number) {
          return error_number == EINVAL ? "only the flag realtime can be set" : "";
        },
        [&] {
          return detail::text("clock=", std::uint64_t{clock.clock},
                              ", flags=", detail::Hex{clock.flags});
        });
  }
  void set_clock(const uapi::kvm_clock_data& clock) { try_set_clock(clock).value(); }

  /// Which MSRs the guest may access (KVM_X86_SET_MSR_FILTER). Replaces the
  /// filter there was; no ranges and allow ends it. MSRs of the x2APIC cannot be
  /// filtered. A denied access is a #GP, or exits::X86Rdmsr and X86Wrmsr with
  /// cap::X86UserSpaceMsr: enable that first, and end it after the filter.
  ///
  /// A range without bits for all its MSRs is refused: KVM would read past them
  /// (R83).
  Result<void> try_set_msr_filter(std::span<const MsrFilterRange> ranges,
                                  MsrFilterDefault otherwise = MsrFilterDefault::allow) {
    constexpr auto request = uapi::request::x86_set_msr_filter;
    const auto arguments = [&] {
      return detail::text("ranges=", ranges.size(),
                          ", default=", otherwise == MsrFilterDefault::deny ? "deny" : "allow");
    };
    if (const std::string problem = detail::msr_filter_problem(ranges, otherwise);
        !problem.empty()) {
      return detail::make_error(EINVAL, request.name, arguments(), problem);
    }
    uapi::kvm_msr_filter filter{};
    filter.flags = static_cast<std::uint32_t>(otherwise);
    for (std::size_t i = 0; i < ranges.size(); ++i) {
      filter.ranges[i].flags = ranges[i].accesses;
      filter.ranges[i].nmsrs = ranges[i].count;
      filter.ranges[i].base = ranges[i].base;
      // KVM only reads it, though the field is not const.
      filter.ranges[i].bitmap =
          reinterpret_cast<std::uint8_t*>(const_cast<std::uint64_t*>(ranges[i].allowed.data()));
    }
    return send(
        request, &filter,
        [](int error_number) {
          return error_number == EINVAL ? "KVM refused a range or the default" : "";
        },
        arguments);
  }
  void set_msr_filter(std::span<const MsrFilterRange> ranges,
                      MsrFilterDefault otherwise = MsrFilterDefault::allow) {
    try_set_msr_filter(ranges, otherwise).value();
  }

  /// Limits the pages that KVM takes for shadow page tables
  /// (KVM_SET_NR_MMU_PAGES).
  Result<void> try_set_nr_mmu_pages(std::uint32_t pages) {
    return send(
        uapi::request::set_nr_mmu_pages, std::uint64_t{pages},
        [](int error_number) { return error_number == EINVAL ? "KVM needs at least 64" : ""; },
        [&] { return detail::text("pages=", pages); });
  }
  void set_nr_mmu_pages(std::uint32_t pages) { try_set_nr_mmu_pages(pages).value(); }

  /// @}

 protected:
  using CapabilityHandle::CapabilityHandle;

 private:
  static std::string describe(Gpa address) {
    return detail::text("address=", detail::Hex{address.value});
  }
  static std::string_view explain_line(int error_number) {
    return error_number == ENXIO    ? "there is no interrupt controller in the kernel: "
                                      "create_irqchip() first"
           : error_number == EINVAL ? "the line leads nowhere"
                                    : "";
  }
  static std::string_view explain_chip(int error_number) {
    return error_number == ENXIO    ? "the VM has no such chip in the kernel: create_irqchip() "
                                      "first"
           : error_number == EINVAL ? "there is no such chip"
                                    : "";
  }
  static std::string_view explain_pit(int error_number) {
    return error_number == ENXIO ? "the VM has no timer in the kernel: create_pit2() first" : "";
  }

  struct NoArguments {
    std::string_view operator()() const noexcept { return {}; }
  };

  /// Sends a request that only succeeds or fails. Words are only made for a
  /// failure.
  /// @param argument a number or a pointer
  /// @param explain  gives the usual cause of an errno value, or ""
  /// @param describe gives the arguments in the caller's terms
  template <uapi::Scopes R, class Argument, class Explain, class Describe = NoArguments>
  Result<void> send(uapi::Request<R> request, Argument argument, Explain&& explain,
                    Describe&& describe = {}) const {
    if (call(request, argument) < 0) {
      const int error_number = errno;
      return failure(request.name, error_number, describe(), explain(error_number));
    }
    return {};
  }
};

}  // namespace x86
KVM_HPP_END

#endif
#endif
