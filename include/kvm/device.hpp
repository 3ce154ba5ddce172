// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_DEVICE_HPP
#define KVM_HPP_DEVICE_HPP

#include <kvm/detail/kernel_header.hpp>
#if !KVM_HPP_REFUSED

#include <kvm/detail/vm_handle.hpp>
#include <kvm/fd.hpp>

#include <cstdint>
#include <memory>
#include <utility>

KVM_HPP_BEGIN

/// The kinds of in-kernel device that KVM_CREATE_DEVICE makes, by the kernel's
/// numbers (KVM_DEV_TYPE_*). Any other number can be cast to it.
enum class DeviceType : std::uint32_t {
  mpic_20 = 1,       ///< PowerPC: MPIC 2.0
  mpic_42 = 2,       ///< PowerPC: MPIC 4.2
  xics = 3,          ///< PowerPC: XICS interrupt controller
  vfio = 4,          ///< what ties VFIO groups to the VM
  arm_vgic_v2 = 5,   ///< arm64: GICv2
  flic = 6,          ///< s390: floating interrupts
  arm_vgic_v3 = 7,   ///< arm64: GICv3, see arm64::GicV3
  arm_vgic_its = 8,  ///< arm64: GICv3 ITS, see arm64::Its
  xive = 9,          ///< PowerPC: XIVE interrupt controller
  arm_pv_time = 10,  ///< arm64: stolen time
  riscv_aia = 11,    ///< riscv: AIA interrupt controller
};

/// A device that KVM emulates, configured through its attributes (see
/// has_device_attr, get_device_attr, set_device_attr). Made by
/// Vm::create_device; lives as long as the VM does, whatever becomes of this
/// handle, except for VFIO, which ends with it.
class [[nodiscard]] Device : public detail::Handle<uapi::Scope::device> {
 public:
  Device(Device&&) noexcept = default;
  Device& operator=(Device&&) noexcept = default;

 private:
  friend class Vm;

  Device(std::shared_ptr<detail::VmHandle> vm, Fd fd) noexcept
      : Handle(fd.get()), vm_(std::move(vm)), owned_(std::move(fd)) {}

  std::shared_ptr<detail::VmHandle> vm_;
  Fd owned_;
};

KVM_HPP_END

#endif  // !KVM_HPP_REFUSED
#endif
