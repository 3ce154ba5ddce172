// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_EXIT_HPP
#define KVM_HPP_EXIT_HPP

#include <kvm/detail/kernel_header.hpp>
#if !KVM_HPP_REFUSED

#include <kvm/detail/exit_visitor.hpp>
#include <kvm/detail/guest_access.hpp>
#include <kvm/error.hpp>
#include <kvm/exits.hpp>

#include <cerrno>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <system_error>
#include <type_traits>

KVM_HPP_BEGIN

namespace detail {

/// The exits that the guest only gets past by re-entry, which also carries the
/// VMM's answer to it (R27), as a bit per exit reason.
inline constexpr std::uint64_t exits_to_complete = [] {
  using enum uapi::ExitReason;
  std::uint64_t bits = 0;
  for (const auto reason :
       {io, mmio, x86_rdmsr, x86_wrmsr, xen, hyperv, tdx, snp_req_certs, riscv_sbi, riscv_csr}) {
    bits |= std::uint64_t{1} << static_cast<unsigned>(reason);
  }
  if (host_arch == Arch::x86) {
    bits |= std::uint64_t{1} << static_cast<unsigned>(hypercall);
  }
  return bits;
}();

constexpr bool completes_on_entry(std::uint32_t reason) {
  return reason < 64 && (exits_to_complete >> reason & 1) != 0;
}

/// As many of the array as KVM says to have filled, and no more than it has.
template <std::size_t size>
std::span<const std::uint64_t> first_of(const std::uint64_t (&array)[size], std::uint32_t filled) {
  return {array, filled < size ? filled : size};
}

template <class E>
std::string describe_exit(const char* name, const E& exit) {
  if constexpr (std::same_as<E, exits::Interrupted>) {
    return exit.kicked ? "interrupted by a kick" : "interrupted by a signal";
  } else if constexpr (std::same_as<E, exits::Failed>) {
    return text("KVM_RUN failed: ", std::generic_category().message(exit.error_number),
                *exit.cause != '\0' ? ": " : "", exit.cause);
  } else if constexpr (std::same_as<E, exits::IoIn> || std::same_as<E, exits::IoOut>) {
    return text(name, ": ", std::same_as<E, exits::IoIn> ? "in" : "out", " at port ",
                Hex{exit.port}, ", ", exit.count, " of ", unsigned{exit.size}, " bytes");
  } else if constexpr (std::same_as<E, exits::MmioRead> || std::same_as<E, exits::MmioWrite>) {
    return text(name, ": ", std::same_as<E, exits::MmioRead> ? "read" : "write", " of ",
                exit.data.size(), " bytes at ", Hex{exit.gpa.value});
  } else if constexpr (std::same_as<E, exits::MemoryFault>) {
    return text(name, ": ", exit.size, " bytes at ", Hex{exit.gpa.value}, ", flags ",
                Hex{exit.flags});
  } else if constexpr (std::same_as<E, exits::FailEntry>) {
    return text(name, ": hardware reason ", Hex{exit.hardware_entry_failure_reason}, ", CPU ",
                exit.cpu);
  } else if constexpr (std::same_as<E, exits::SystemEvent>) {
    return text(name, ": type ", exit.type);
  } else if constexpr (std::same_as<E, exits::X86Rdmsr> || std::same_as<E, exits::X86Wrmsr>) {
    return text(name, ": MSR ", Hex{exit.index});
  } else if constexpr (std::same_as<E, exits::InternalError>) {
    std::string out = text(name, ": suberror ", exit.suberror);
    if (const auto bytes = exit.instruction_bytes()) {
      out += ", could not emulate";
      for (const std::byte byte : *bytes) {
        append(out, " ");
        append(out, Hex{std::to_integer<std::uint64_t>(byte)});
      }
    }
    return out;
  } else if constexpr (std::same_as<E, exits::Raw>) {
    return text(name, ", reason ", static_cast<std::uint32_t>(exit.reason));
  } else {
    return name;
  }
}

}  // namespace detail

/// How a run of a vCPU ended. A view of its run page: valid until the vCPU runs
/// again or is gone. Copies nothing.
class [[nodiscard]] Exit {
 public:
  /// Calls the handler for what happened and returns what it returns:
  ///
  ///     vcpu.run().visit([&](kvm::exits::IoOut io) { serial.write(io.data); },
  ///                      [&](kvm::exits::Hlt) { halted = true; },
  ///                      [&](auto&&) { unexpected = true; });
  ///
  /// Pass each handler by itself, not several in one object: within an object
  /// C++ chooses, and there auto&& beats a const reference.
  ///
  /// A handler is chosen by the type that its parameter names (by value, const
  /// or not, by reference or not), before a generic one. Without a generic one
  /// there must be a handler for each exit that this architecture has; what is
  /// wrong does not compile. All handlers return the same type, or types with
  /// a common one, by value: what a handler returns by reference is copied.
  template <class... Handlers>
  decltype(auto) visit(Handlers&&... handlers) const {
    using Set = detail::HandlerSet<detail::HostExits, std::remove_reference_t<Handlers>...>;
    Set::check();
    return dispatch<typename Set::result>(
        [&]<class E>(E exit) -> typename Set::result { return Set::call(exit, handlers...); });
  }

  /// The kernel's name of the exit, such as "KVM_EXIT_IO", or "interrupted",
  /// "failed", "unknown exit". describe() says more.
  const char* name() const noexcept {
    if (kind_ < first_of_ours) {
      const char* known = uapi::name(static_cast<uapi::ExitReason>(kind_));
      return known != nullptr && *known != '\0' ? known : "unknown exit";
    }
    return kind_ >= interrupted    ? "interrupted"
           : kind_ >= memory_fault ? "KVM_EXIT_MEMORY_FAULT"
                                   : "failed";
  }

  /// What happened, in words, for messages: the name and what tells most, such
  /// as a port, the cause of a failure or the instruction that KVM could not
  /// emulate.
  template <class = void>
  std::string describe() const {  // A template, or every unit would compile this visit.
    return visit([this]<class E>(const E& exit) { return detail::describe_exit(name(), exit); });
  }

  /// Reads a run page that KVM_RUN filled and returned 0 for, made with raw
  /// ioctls or by a test.
  /// @param size bytes mapped at `run`, at least sizeof(kvm_run); nothing past
  ///             them is touched
  static Exit decode(uapi::kvm_run& run, std::size_t size) noexcept {
    if (run.exit_reason >= first_of_ours) {
      return Exit(&run, failed | EPROTO, size);
    }
    return Exit(&run, run.exit_reason, size);
  }

  /// Reads a run page after KVM_RUN failed with an errno value.
  static Exit decode_failure(uapi::kvm_run& run, std::size_t size, int error_number) noexcept {
    switch (error_number) {
      case EINTR:
      case EAGAIN:  // An application processor was woken: enter again (R23).
        return Exit(&run, interrupted, size);
      case EFAULT:
      case EHWPOISON:  // The only errnos with which exit_reason counts (R25).
        if (host_arch != Arch::riscv &&
            run.exit_reason == static_cast<std::uint32_t>(uapi::ExitReason::memory_fault)) {
          return Exit(&run, memory_fault | static_cast<std::uint32_t>(error_number), size);
        }
        [[fallthrough]];
      default:
        return Exit(&run, failed | static_cast<std::uint32_t>(error_number), size);
    }
  }

 private:
  friend class detail::VcpuCore;

  /// Why a run never reached KVM.
  enum class Problem : std::uint32_t { none, empty, blocked, ignored, unhandled, masked, busy };

  // Exit reasons are small; above them are the ways to fail, with an errno or
  // a Problem in the low bits.
  static constexpr std::uint32_t first_of_ours = 0x8000'0000;
  static constexpr std::uint32_t failed = 0x8000'0000;
  static constexpr std::uint32_t refused = 0x9000'0000;
  static constexpr std::uint32_t memory_fault = 0xa000'0000;
  static constexpr std::uint32_t interrupted = 0xb000'0000;
  static constexpr std::uint32_t low_bits = 0x0fff'ffff;

  Exit(uapi::kvm_run* run, std::uint32_t kind, std::size_t size) noexcept
      : run_(run), kind_(kind), size_(static_cast<std::uint32_t>(size)) {}
  explicit Exit(Problem problem) noexcept
      : run_(nullptr), kind_(refused | static_cast<std::uint32_t>(problem)), size_(0) {}

  static exits::Failed out_of_bounds() noexcept {
    return {EPROTO, "the exit's data lies outside the run page's mapping"};
  }

  [[gnu::noinline, gnu::cold]] static exits::Failed failure(std::uint32_t kind) noexcept {
    const int error_number = static_cast<int>(kind & low_bits);
    if (kind >= refused) {
      switch (static_cast<Problem>(error_number)) {
        case Problem::none:
          break;
        case Problem::empty:
          return {EBADF, "this vCPU handle is empty: it was moved from"};
        case Problem::blocked:
          return {EINVAL,
                  "the kicker's signal is blocked in this thread: unblock it, or let it in with "
                  "Vcpu::set_signal_mask"};
        case Problem::ignored:
          return {EINVAL, "the kicker's signal is ignored in this process: install a handler"};
        case Problem::unhandled:
          return {EINVAL, "the kicker's signal has no handler in this process: install one"};
        case Problem::masked:
          return {EINVAL, "the kicker's signal is blocked by Vcpu::set_signal_mask"};
        case Problem::busy:
          return {EBUSY, "another thread is running this vCPU"};
      }
    }
    switch (error_number) {
      case EIO:
        return {EIO, "after a fork KVM refuses the child; or KVM has marked the VM as dead"};
      case EFAULT:
        return {EFAULT, "the guest touched a slot whose host memory is not accessible"};
      case EINVAL:
        return {
            EINVAL,
            "the vCPU's state or its run page (cr8, kvm_valid_regs, kvm_dirty_regs) is invalid"};
      case ENOEXEC:
        return {ENOEXEC, "the vCPU is not initialised (KVM_ARM_VCPU_INIT)"};
      case EPERM:
        return {EPERM, "the vCPU is not finalised (KVM_ARM_VCPU_FINALIZE)"};
      case ENOSPC:
        return {ENOSPC, "the VM has no memory slot yet, or KVM has no shadow pages left for it"};
      case EBADF:
        return {EBADF, "the vCPU's descriptor was closed"};
      case EPROTO:
        return {EPROTO, "the run page's exit reason is none that KVM could have"};
      default:
        return {error_number, ""};
    }
  }

  template <class R, class F>
  R dispatch(F&& handle) const;
  template <class R, class F>
  static R dispatch_ours(uapi::kvm_run* run, std::uint32_t kind, F& handle);

  uapi::kvm_run* run_;
  std::uint32_t kind_;
  std::uint32_t size_;
};

template <class R, class F>
R Exit::dispatch(F&& handle) const {
  using uapi::ExitReason;
  // Ours come last, so that they cost the others nothing; they may have no run
  // page.
  uapi::kvm_run* const run = run_;
#if KVM_HPP_ARCH_X86
  if (kind_ == static_cast<std::uint32_t>(ExitReason::io)) [[likely]] {  // The most frequent one.
    const auto& io = run->io;
    const std::uint64_t bytes = std::uint64_t{io.size} * io.count;
    if (!detail::in_bounds(io.data_offset, bytes, size_)) [[unlikely]] {  // R22
      return handle(out_of_bounds());
    }
    auto* const page = reinterpret_cast<std::byte*>(run);
    if (io.direction == 0) {
      return handle(exits::IoIn{io.port, io.size, io.count, {page + io.data_offset, bytes}});
    }
    return handle(exits::IoOut{io.port, io.size, io.count, {page + io.data_offset, bytes}});
  }
#endif
  switch (static_cast<ExitReason>(kind_)) {
    case ExitReason::unknown:
      return handle(exits::Unknown{run->hw.hardware_exit_reason});
    case ExitReason::mmio: {
      const auto& mmio = run->mmio;
      if (mmio.len > sizeof mmio.data) [[unlikely]] {
        return handle(out_of_bounds());
      }
      auto* const bytes = reinterpret_cast<std::byte*>(run->mmio.data);
      return mmio.is_write != 0 ? handle(exits::MmioWrite{Gpa(mmio.phys_addr), {bytes, mmio.len}})
                                : handle(exits::MmioRead{Gpa(mmio.phys_addr), {bytes, mmio.len}});
    }
    case ExitReason::fail_entry:
      return handle(
          exits::FailEntry{run->fail_entry.hardware_entry_failure_reason, run->fail_entry.cpu});
    case ExitReason::intr:
      return handle(exits::Interrupted{false});
    case ExitReason::system_event: {
      const auto& event = run->system_event;
      return handle(
          exits::SystemEvent{event.type, detail::first_of(event.data, event.ndata), event.flags});
    }
    case ExitReason::dirty_ring_full:
      return handle(exits::DirtyRingFull{});
#if KVM_HPP_ARCH_RISCV
    case ExitReason::debug:
      return handle(exits::Debug{});
#else
    case ExitReason::debug:
      return handle(exits::Debug{run->debug.arch});
    case ExitReason::hypercall: {
      auto& call = run->hypercall;
      return handle(exits::Hypercall{call.nr, std::span(call.args), call.flags, &call});
    }
    case ExitReason::internal_error: {
      const auto& internal = run->internal;
      return handle(
          exits::InternalError{internal.suberror, detail::first_of(internal.data, internal.ndata)});
    }
    case ExitReason::memory_fault:  // Only counts with an errno: see decode_failure (R25).
      break;
#endif
#if KVM_HPP_ARCH_X86
    case ExitReason::exception:
      return handle(exits::Exception{run->ex.exception, run->ex.error_code});
    case ExitReason::hlt:
      return handle(exits::Hlt{});
    case ExitReason::irq_window_open:
      return handle(exits::IrqWindowOpen{});
    case ExitReason::shutdown:
      return handle(exits::Shutdown{});
    case ExitReason::set_tpr:
      return handle(exits::SetTpr{run->cr8});
    case ExitReason::tpr_access:
      return handle(exits::TprAccess{run->tpr_access.rip, run->tpr_access.is_write != 0});
    case ExitReason::ioapic_eoi:
      return handle(exits::IoapicEoi{run->eoi.vector});
    case ExitReason::hyperv: {
      auto& hyperv = run->hyperv;
      switch (hyperv.type) {
        case 1:
          return handle(exits::HypervSynic{hyperv.u.synic.msr, hyperv.u.synic.control,
                                           hyperv.u.synic.evt_page, hyperv.u.synic.msg_page});
        case 2:
          return handle(exits::HypervHypercall{
              hyperv.u.hcall.input, {hyperv.u.hcall.params[0], hyperv.u.hcall.params[1]}, &hyperv});
        case 3:
          return handle(exits::HypervSyndbg{hyperv.u.syndbg.msr, hyperv.u.syndbg.control,
                                            hyperv.u.syndbg.send_page, hyperv.u.syndbg.recv_page,
                                            hyperv.u.syndbg.pending_page, &hyperv});
        default:
          break;
      }
      break;
    }
    case ExitReason::x86_rdmsr:
      return handle(exits::X86Rdmsr{run->msr.index, run->msr.reason, &run->msr});
    case ExitReason::x86_wrmsr:
      return handle(exits::X86Wrmsr{run->msr.index, run->msr.reason, run->msr.data, &run->msr});
    case ExitReason::ap_reset_hold:
      return handle(exits::ApResetHold{});
    case ExitReason::x86_bus_lock:
      return handle(exits::X86BusLock{});
    case ExitReason::xen: {
      auto& xen = run->xen;
      if (xen.type != 1) {
        break;
      }
      return handle(exits::XenHypercall{xen.u.hcall.longmode != 0, xen.u.hcall.cpl,
                                        xen.u.hcall.input, std::span(xen.u.hcall.params), &xen});
    }
    case ExitReason::notify:
      return handle(exits::Notify{run->notify.flags});
    case ExitReason::tdx:
      return handle(exits::Tdx{run->tdx.flags, run->tdx.nr, &run->tdx});
    case ExitReason::snp_req_certs:
      return handle(exits::SnpReqCerts{Gpa(run->snp_req_certs.gpa), run->snp_req_certs.npages,
                                       &run->snp_req_certs});
#elif KVM_HPP_ARCH_ARM64
    case ExitReason::arm_nisv:
      return handle(exits::ArmNisv{run->arm_nisv.esr_iss, Gpa(run->arm_nisv.fault_ipa)});
    case ExitReason::arm_sea:
      return handle(exits::ArmSea{run->arm_sea.flags, run->arm_sea.esr, run->arm_sea.gva,
                                  Gpa(run->arm_sea.gpa)});
    case ExitReason::arm_ldst64b:
      return handle(exits::ArmLdst64b{run->arm_nisv.esr_iss, Gpa(run->arm_nisv.fault_ipa)});
#else
    case ExitReason::riscv_sbi: {
      auto& sbi = run->riscv_sbi;
      return handle(exits::RiscvSbi{sbi.extension_id, sbi.function_id, std::span(sbi.args),
                                    std::span(sbi.ret)});
    }
    case ExitReason::riscv_csr: {
      auto& csr = run->riscv_csr;
      return handle(exits::RiscvCsr{csr.csr_num, csr.new_value, csr.write_mask, &csr.ret_value});
    }
#endif
    default:
      break;
  }
  if (kind_ >= first_of_ours) {
    return dispatch_ours<R>(run, kind_, handle);
  }
  return handle(
      exits::Raw{static_cast<ExitReason>(kind_),
                 std::span<std::byte, 256>(reinterpret_cast<std::byte*>(run->padding), 256)});
}

template <class R, class F>
R Exit::dispatch_ours([[maybe_unused]] uapi::kvm_run* run, std::uint32_t kind, F& handle) {
  if (kind >= interrupted) {
    return handle(exits::Interrupted{(kind & low_bits) != 0});
  }
#if !KVM_HPP_ARCH_RISCV
  if (kind >= memory_fault) {
    const auto& fault = run->memory_fault;
    return handle(exits::MemoryFault{fault.flags, Gpa(fault.gpa), fault.size,
                                     static_cast<int>(kind & low_bits)});
  }
#endif
  return handle(failure(kind));
}

KVM_HPP_END

#endif  // !KVM_HPP_REFUSED
#endif
