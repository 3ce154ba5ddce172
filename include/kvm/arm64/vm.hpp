// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_ARM64_VM_HPP
#define KVM_HPP_ARM64_VM_HPP

#include <kvm/detail/kernel_header.hpp>
#if !KVM_HPP_REFUSED && KVM_HPP_ARCH_ARM64

#include <kvm/detail/capability_handle.hpp>
#include <kvm/types.hpp>
#include <kvm/uapi/constants.hpp>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <span>

KVM_HPP_BEGIN
namespace arm64 {

/// The name of an interrupt line, as KVM_IRQ_LINE wants it.
struct IrqLine {
  /// The number as KVM takes it.
  std::uint32_t raw = 0;

  /// A shared peripheral interrupt of the controller in the kernel.
  /// @param number from 32 on
  static constexpr IrqLine spi(std::uint32_t number) {
    return IrqLine{uapi::arm_irq::type_spi << uapi::arm_irq::type_shift |
                   (number & uapi::arm_irq::num_mask)};
  }
  /// A private interrupt of one vCPU, of the controller in the kernel.
  /// @param number 16 to 31
  static constexpr IrqLine ppi(VcpuId vcpu, std::uint32_t number) {
    return IrqLine{uapi::arm_irq::type_ppi << uapi::arm_irq::type_shift | of(vcpu) |
                   (number & uapi::arm_irq::num_mask)};
  }
  /// The IRQ and FIQ inputs of a vCPU: without a controller in the kernel.
  static constexpr IrqLine irq(VcpuId vcpu) { return IrqLine{of(vcpu) | uapi::arm_irq::cpu_irq}; }
  /// The FIQ input of a vCPU: without a controller in the kernel.
  static constexpr IrqLine fiq(VcpuId vcpu) { return IrqLine{of(vcpu) | uapi::arm_irq::cpu_fiq}; }

 private:
  static constexpr std::uint32_t of(VcpuId vcpu) {
    using namespace uapi::arm_irq;
    return (vcpu.value & vcpu_mask) << vcpu_shift | (vcpu.value >> 8 & vcpu2_mask) << vcpu2_shift;
  }
};

/// What a VM has on this architecture only. Any thread may use it.
template <class = void>
class VmCalls : public detail::CapabilityHandle<uapi::Scope::vm> {
 public:
  /// The kind of processor that vCPUs do best with, for Vcpu::init
  /// (KVM_ARM_PREFERRED_TARGET). It asks for no features.
  Result<uapi::kvm_vcpu_init> try_preferred_target() const {
    return try_get<uapi::kvm_vcpu_init>(uapi::request::arm_preferred_target);
  }
  uapi::kvm_vcpu_init preferred_target() const { return try_preferred_target().value(); }

  /// Puts a GICv2 into the kernel, the old way (KVM_CREATE_IRQCHIP). New
  /// programs make a device: Vm::create_device(DeviceType::arm_vgic_v3).
  Result<void> try_create_irqchip() {
    constexpr auto request = uapi::request::create_irqchip;
    if (call(request) < 0) {
      const int error_number = errno;
      return failure(request.name, error_number, {},
                     error_number == EEXIST  ? "the VM has an interrupt controller already"
                     : error_number == EBUSY ? "a vCPU has run already"
                     : error_number == ENXIO || error_number == ENODEV
                         ? "this host cannot emulate a GICv2: make a GICv3 with create_device"
                         : "");
    }
    return {};
  }
  void create_irqchip() { try_create_irqchip().value(); }

  /// Sets the level of an interrupt line (KVM_IRQ_LINE).
  Result<void> try_irq_line(IrqLine which, bool level) {
    constexpr auto request = uapi::request::irq_line;
    uapi::kvm_irq_level line{};
    line.irq = which.raw;
    line.level = level ? 1 : 0;
    if (call(request, &line) < 0) {
      const int error_number = errno;
      return failure(request.name, error_number,
                     detail::text("line=", detail::Hex{which.raw}, ", level=", level),
                     error_number == ENXIO ? "this kind of line needs an interrupt controller in "
                                             "the kernel, or none"
                     : error_number == EINVAL ? "there is no such vCPU or line"
                                              : "");
    }
    return {};
  }
  void irq_line(IrqLine which, bool level) { try_irq_line(which, level).value(); }

  /// Delivers a message-signalled interrupt through an ITS (KVM_SIGNAL_MSI).
  /// @param device the id that the ITS knows the sender by
  /// @return whether a vCPU took it; false if the guest blocked it
  Result<bool> try_signal_msi(std::uint64_t address, std::uint32_t data, std::uint32_t device) {
    constexpr auto request = uapi::request::signal_msi;
    uapi::kvm_msi msi{};
    msi.address_lo = static_cast<std::uint32_t>(address);
    msi.address_hi = static_cast<std::uint32_t>(address >> 32);
    msi.data = data;
    msi.flags = uapi::msi_flag::valid_devid;
    msi.devid = device;
    const int result = call(request, &msi);
    if (result < 0) {
      const int error_number = errno;
      return failure(
          request.name, error_number,
          detail::text("address=", detail::Hex{address}, ", data=", data, ", device=", device));
    }
    return result > 0;
  }
  bool signal_msi(std::uint64_t address, std::uint32_t data, std::uint32_t device) {
    return try_signal_msi(address, data, device).value();
  }

  /// What is taken off the host's counter to give the guest's, virtual and
  /// physical (KVM_ARM_SET_COUNTER_OFFSET), where cap::CounterOffset is.
  Result<void> try_set_counter_offset(std::uint64_t offset) {
    constexpr auto request = uapi::request::arm_set_counter_offset;
    const uapi::kvm_arm_counter_offset value{.counter_offset = offset, .reserved = 0};
    if (call(request, &value) < 0) {
      const int error_number = errno;
      return failure(request.name, error_number, detail::text("offset=", offset),
                     error_number == EBUSY ? "a vCPU is running or being set up" : "");
    }
    return {};
  }
  void set_counter_offset(std::uint64_t offset) { try_set_counter_offset(offset).value(); }

  /// Copies memory tags from the guest (KVM_ARM_MTE_COPY_TAGS), where cap::ArmMte
  /// is enabled.
  /// @param gpa    a multiple of the page size
  /// @param length bytes of guest memory, a multiple of the page size
  /// @param tags   one byte for each 16 of them; fewer are refused, since KVM
  ///               would write past their end
  /// @return bytes of guest memory whose tags were copied
  Result<std::uint64_t> try_get_mte_tags(Gpa gpa, std::uint64_t length,
                                         std::span<std::uint8_t> tags) const {
    return copy_tags(gpa, length, tags.data(), tags.size(), uapi::mte_tags::from_guest);
  }
  std::uint64_t get_mte_tags(Gpa gpa, std::uint64_t length, std::span<std::uint8_t> tags) const {
    return try_get_mte_tags(gpa, length, tags).value();
  }
  /// The same to the guest.
  Result<std::uint64_t> try_set_mte_tags(Gpa gpa, std::uint64_t length,
                                         std::span<const std::uint8_t> tags) {
    return copy_tags(gpa, length, const_cast<std::uint8_t*>(tags.data()), tags.size(),
                     uapi::mte_tags::to_guest);
  }
  std::uint64_t set_mte_tags(Gpa gpa, std::uint64_t length, std::span<const std::uint8_t> tags) {
    return try_set_mte_tags(gpa, length, tags).value();
  }

 protected:
  using CapabilityHandle::CapabilityHandle;

 private:
  Result<std::uint64_t> copy_tags(Gpa gpa, std::uint64_t length, std::uint8_t* tags,
                                  std::size_t count, std::uint64_t direction) const {
    constexpr auto request = uapi::request::arm_mte_copy_tags;
    const auto arguments = [&] {
      return detail::text("gpa=", detail::Hex{gpa.value}, ", length=", length, ", tags=", count);
    };
    if (count < length / 16) {
      return detail::make_error(EINVAL, request.name, arguments(),
                                "there is a tag for each 16 bytes of guest memory");
    }
    const uapi::kvm_arm_copy_mte_tags copy{
        .guest_ipa = gpa.value, .length = length, .addr = tags, .flags = direction, .reserved = {}};
    const int done = call(request, &copy);
    if (done < 0) {
      const int error_number = errno;
      return failure(request.name, error_number, arguments(),
                     error_number == EINVAL
                         ? "gpa and length must be multiples of the page size, with memory tagging "
                           "enabled on the VM"
                         : "");
    }
    return static_cast<std::uint64_t>(done);
  }
};

}  // namespace arm64
KVM_HPP_END

#endif
#endif
