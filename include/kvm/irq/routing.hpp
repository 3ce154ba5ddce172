// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_IRQ_ROUTING_HPP
#define KVM_HPP_IRQ_ROUTING_HPP

#include <kvm/detail/kernel_header.hpp>
#if !KVM_HPP_REFUSED

#include <kvm/detail/vectors.hpp>
#include <kvm/error.hpp>
#include <kvm/types.hpp>
#include <kvm/uapi/constants.hpp>
#include <kvm/uapi/structs.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

KVM_HPP_BEGIN

/// Where each interrupt (GSI, "global system interrupt": the number that Irqfd
/// and, on x86, irq_line() take) goes: to pins of the interrupt controllers in
/// the kernel, or out as a message. A value to be built and given to
/// Vm::set_gsi_routing:
///
///     auto routing = kvm::IrqRouting::x86_default();
///     vm.set_gsi_routing(routing.msi(24, address, data));
///
/// A gsi may go to one pin of each of several chips, or to one target of
/// another kind. Building checks nothing; setting does.
class IrqRouting {
 public:
  /// All gsis are below this (KVM_CAP_IRQ_ROUTING).
  static constexpr std::uint32_t gsi_limit = 4096;
  /// So many targets fit in a table.
  static constexpr std::size_t max_entries = 4096;

  /// An empty table: no interrupt goes anywhere.
  IrqRouting() = default;

  /// What KVM sets with x86's KVM_CREATE_IRQCHIP: gsi n goes to pin n of the
  /// IOAPIC for n from 0 to 23, and below 16 to the PICs, too.
  static IrqRouting x86_default() {
    constexpr std::uint32_t pic_master = 0;
    constexpr std::uint32_t pic_slave = 1;
    constexpr std::uint32_t ioapic = 2;
    IrqRouting table;
    for (std::uint32_t gsi = 0; gsi < 24; ++gsi) {
      table.irqchip(gsi, ioapic, gsi);
      if (gsi < 16) {
        table.irqchip(gsi, gsi < 8 ? pic_master : pic_slave, gsi % 8);
      }
    }
    return table;
  }
  /// What KVM sets when an arm64 GIC is initialised: gsi n goes to shared
  /// peripheral interrupt n, which the guest calls 32 + n.
  /// @param spis how many the GIC has: its number of interrupts without the 32
  ///             private ones
  static IrqRouting arm64_default(std::uint32_t spis) {
    IrqRouting table;
    for (std::uint32_t gsi = 0; gsi < spis; ++gsi) {
      table.irqchip(gsi, 0, gsi);
    }
    return table;
  }

  /// To an input of an interrupt controller in the kernel.
  /// @param chip x86: uapi::irqchip::pic_master, pic_slave or ioapic; others: 0
  /// @param pin  the input's number on that chip; on arm64 that of the shared
  ///             peripheral interrupt, from 0 on
  IrqRouting& irqchip(std::uint32_t gsi, std::uint32_t chip, std::uint32_t pin) {
    uapi::kvm_irq_routing_entry& entry = add(gsi, uapi::irq_routing::irqchip);
    entry.u.irqchip.irqchip = chip;
    entry.u.irqchip.pin = pin;
    return *this;
  }

  /// To a message, as a device would write it.
  /// @param address, data what the guest wrote into the device's MSI registers
  IrqRouting& msi(std::uint32_t gsi, std::uint64_t address, std::uint32_t data) {
    uapi::kvm_irq_routing_entry& entry = add(gsi, uapi::irq_routing::msi);
    entry.u.msi.address_lo = static_cast<std::uint32_t>(address);
    entry.u.msi.address_hi = static_cast<std::uint32_t>(address >> 32);
    entry.u.msi.data = data;
    return *this;
  }
  /// The same with the id that an arm64 ITS knows the device by, where the VM has
  /// KVM_CAP_MSI_DEVID.
  IrqRouting& msi(std::uint32_t gsi, std::uint64_t address, std::uint32_t data,
                  std::uint32_t device) {
    msi(gsi, address, data);
    entries_.back().flags = uapi::msi_flag::valid_devid;
    entries_.back().u.msi.devid = device;
    return *this;
  }

  /// To a synthetic interrupt source of Hyper-V, on x86 where cap::HypervSynic
  /// is enabled on the vCPU.
  /// @param sint 0 to 15
  IrqRouting& hv_sint(std::uint32_t gsi, VcpuId vcpu, std::uint32_t sint) {
    uapi::kvm_irq_routing_entry& entry = add(gsi, uapi::irq_routing::hv_sint);
    entry.u.hv_sint.vcpu = vcpu.value;
    entry.u.hv_sint.sint = sint;
    return *this;
  }

  /// Any entry, as the kernel has it.
  IrqRouting& raw(const uapi::kvm_irq_routing_entry& entry) {
    entries_.push_back(entry);
    return *this;
  }

  /// Takes back all that was said about a gsi: to mask it, or to say it anew.
  IrqRouting& remove(std::uint32_t gsi) {
    detail::remove_if(entries_, [gsi](const auto& entry) { return entry.gsi == gsi; });
    return *this;
  }

  /// The table, in the order in which it was built.
  std::span<const uapi::kvm_irq_routing_entry> entries() const noexcept {
    return {entries_.data(), entries_.size()};
  }

 private:
  friend class Vm;

  uapi::kvm_irq_routing_entry& add(std::uint32_t gsi, std::uint32_t type) {
    uapi::kvm_irq_routing_entry entry;
    std::memset(&entry, 0, sizeof entry);  // All of the union: KVM reads it.
    entry.gsi = gsi;
    entry.type = type;
    return entries_.emplace_back(entry);
  }

  /// What is wrong with it, whatever the VM has; empty if nothing is.
  std::string problem() const {
    if (entries_.size() > max_entries) {
      return detail::text("a table has ", max_entries, " entries at most");
    }
    // A bit for each pin's chip that a gsi has, and one for the rest.
    std::vector<std::uint32_t> seen(gsi_limit);
    constexpr std::uint32_t chips = 31;
    constexpr std::uint32_t other = 1u << chips;
    for (const auto& entry : entries_) {
      const std::uint32_t gsi = entry.gsi;
      if (gsi >= gsi_limit) {
        return detail::text("gsi ", gsi, " is too large: they are below ", gsi_limit);
      }
      const bool pin = entry.type == uapi::irq_routing::irqchip;
      const std::uint32_t bit = pin ? 1u << std::min(entry.u.irqchip.irqchip, chips - 1) : other;
      if ((seen[gsi] & bit) != 0 && pin) {
        return detail::text("gsi ", gsi, " goes to two pins of one chip");
      }
      if (seen[gsi] != 0 && (!pin || (seen[gsi] & other) != 0)) {
        return detail::text("gsi ", gsi, " goes to more than one target, and not all are pins");
      }
      seen[gsi] |= bit;
    }
    return {};
  }

  /// The table as KVM_SET_GSI_ROUTING takes it.
  std::vector<std::byte> message() const {
    const uapi::kvm_irq_routing header{.nr = static_cast<std::uint32_t>(entries_.size()),
                                       .flags = 0};
    static_assert(sizeof header == uapi::kvm_irq_routing::array_offset);
    std::vector<std::byte> bytes(uapi::flexible_size<uapi::kvm_irq_routing>(entries_.size()));
    std::memcpy(bytes.data(), &header, sizeof header);
    if (!entries_.empty()) {
      std::memcpy(bytes.data() + sizeof header, entries_.data(), bytes.size() - sizeof header);
    }
    return bytes;
  }

  std::vector<uapi::kvm_irq_routing_entry> entries_;
};

KVM_HPP_END

#endif  // !KVM_HPP_REFUSED
#endif
