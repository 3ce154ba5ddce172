// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_RISCV_VM_HPP
#define KVM_HPP_RISCV_VM_HPP

#include <kvm/detail/kernel_header.hpp>
#if !KVM_HPP_REFUSED && KVM_HPP_ARCH_RISCV

#include <kvm/detail/capability_handle.hpp>
#include <kvm/uapi/constants.hpp>

#include <cerrno>
#include <cstdint>

KVM_HPP_BEGIN
namespace riscv {

/// What a VM has on this architecture only. Any thread may use it.
template <class = void>
class VmCalls : public detail::CapabilityHandle<uapi::Scope::vm> {
 public:
  /// Sets the level of a wired interrupt of the controller in the kernel
  /// (KVM_IRQ_LINE), which is a device: Vm::create_device(DeviceType::riscv_aia).
  /// @param source the number that the guest knows it by, from 1 on
  Result<void> try_irq_line(std::uint32_t source, bool level) {
    constexpr auto request = uapi::request::irq_line;
    uapi::kvm_irq_level line{};
    line.irq = source;
    line.level = level ? 1 : 0;
    if (call(request, &line) < 0) {
      const int error_number = errno;
      return failure(request.name, error_number, detail::text("source=", source, ", level=", level),
                     error_number == ENXIO   ? "there is no interrupt controller in the kernel"
                     : error_number == EBUSY ? "the interrupt controller is not initialised yet"
                                             : "");
    }
    return {};
  }
  void irq_line(std::uint32_t source, bool level) { try_irq_line(source, level).value(); }

  /// Delivers a message-signalled interrupt (KVM_SIGNAL_MSI): the address of a
  /// hart's interrupt file and the data as a device would write them. KVM does not
  /// tell whether anybody took it: an address that no hart has is no error.
  Result<void> try_signal_msi(std::uint64_t address, std::uint32_t data) {
    constexpr auto request = uapi::request::signal_msi;
    uapi::kvm_msi msi{};
    msi.address_lo = static_cast<std::uint32_t>(address);
    msi.address_hi = static_cast<std::uint32_t>(address >> 32);
    msi.data = data;
    if (call(request, &msi) < 0) {
      const int error_number = errno;
      return failure(request.name, error_number,
                     detail::text("address=", detail::Hex{address}, ", data=", detail::Hex{data}),
                     error_number == EBUSY    ? "the interrupt controller is not initialised yet"
                     : error_number == EINVAL ? "there is no interrupt of this number"
                     : error_number == ENODEV ? "not the address at which a file takes messages"
                                              : "");
    }
    return {};
  }
  void signal_msi(std::uint64_t address, std::uint32_t data) {
    try_signal_msi(address, data).value();
  }

 protected:
  using CapabilityHandle::CapabilityHandle;
};

}  // namespace riscv
KVM_HPP_END

#endif
#endif
