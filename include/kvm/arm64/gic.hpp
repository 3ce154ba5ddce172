// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_ARM64_GIC_HPP
#define KVM_HPP_ARM64_GIC_HPP

#include <kvm/detail/kernel_header.hpp>
#if !KVM_HPP_REFUSED && KVM_HPP_ARCH_ARM64

#include <kvm/device.hpp>
#include <kvm/error.hpp>
#include <kvm/types.hpp>
#include <kvm/uapi/constants.hpp>
#include <kvm/vcpu.hpp>
#include <kvm/vm.hpp>

#include <cerrno>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

/// @file
/// The interrupt controllers that KVM emulates for arm64 guests. What their
/// devices have beyond this (saved state, the bare registers) is reached through
/// device().

KVM_HPP_BEGIN
namespace arm64 {

/// Where a GICv3 is and how large.
struct GicV3Options {
  /// The distributor's registers, a multiple of 64 KiB.
  Gpa distributor;
  /// The redistributors' registers, a multiple of 64 KiB; one behind the other
  /// for as many vCPUs as there are.
  Gpa redistributors;
  /// How many interrupts it has, the 32 private ones included: 64 to 992, a
  /// multiple of 32.
  std::uint32_t interrupts = 256;
};

/// The guest's interrupt controller, a GICv3 in the kernel
/// (KVM_DEV_TYPE_ARM_VGIC_V3). Make it, then all vCPUs, then init() it, then run
/// them. Like every Device it lives as long as the VM.
///
/// Its shared peripheral interrupts are IrqLine::spi(32 + n) for irq_line(), and
/// gsi n for Irqfd.
class [[nodiscard]] GicV3 {
 public:
  /// Bytes of the distributor's registers, and of each vCPU's redistributor's.
  static constexpr std::uint64_t distributor_size = 0x10000;
  /// Bytes of the registers of one vCPU's redistributor.
  static constexpr std::uint64_t redistributor_size = 0x20000;

  /// ENODEV where the host cannot emulate one. After another failure the VM may
  /// have one that is set up in part, and a VM has only one.
  static Result<GicV3> try_create(Vm& vm, const GicV3Options& options) {
    using namespace uapi::arm_vgic;
    if (auto problem = check(options); !problem) {  // Before the VM's only one is made.
      return problem.error();
    }
    auto device = vm.try_create_device(DeviceType::arm_vgic_v3);
    if (!device) {
      return device.error();
    }
    if (auto set = device->try_set_device_attr(grp_addr, v3_addr_dist, options.distributor.value);
        !set) {
      return set.error();
    }
    if (auto set =
            device->try_set_device_attr(grp_addr, v3_addr_redist, options.redistributors.value);
        !set) {
      return set.error();
    }
    if (auto set = device->try_set_device_attr(grp_nr_irqs, 0, options.interrupts); !set) {
      return set.error();
    }
    return GicV3(std::move(*device));
  }
  /// The same as try_create(), but throws.
  GicV3(Vm& vm, const GicV3Options& options) : GicV3(try_create(vm, options).value()) {}

  /// Makes it ready, once all vCPUs were created and before any runs.
  Result<void> try_init() {
    return device_.try_set_device_attr(uapi::arm_vgic::grp_ctrl, uapi::arm_vgic::ctrl_init);
  }
  void init() { try_init().value(); }

  /// The device behind it, for attributes that have no call here.
  Device& device() noexcept { return device_; }
  const Device& device() const noexcept { return device_; }

 private:
  static Result<void> check(const GicV3Options& options) {
    const auto refuse = [](std::string arguments, std::string_view cause) {
      return detail::make_error(EINVAL, "GicV3", arguments, cause);
    };
    if (options.interrupts < 64 || options.interrupts > 992 || options.interrupts % 32 != 0) {
      return refuse(detail::text("interrupts=", options.interrupts),
                    "there are 64 to 992, a multiple of 32");
    }
    if (options.distributor.value % 0x10000 != 0 || options.redistributors.value % 0x10000 != 0) {
      return refuse(detail::text("distributor=", detail::Hex{options.distributor.value},
                                 ", redistributors=", detail::Hex{options.redistributors.value}),
                    "both are multiples of 64 KiB");
    }
    return {};
  }

  explicit GicV3(Device device) noexcept : device_(std::move(device)) {}

  Device device_;
};

/// What translates messages of devices into interrupts for a GICv3, an ITS in
/// the kernel (KVM_DEV_TYPE_ARM_VGIC_ITS). With one, signal_msi() and messages
/// in IrqRouting have the device's id, and the guest's ITS tables say which
/// interrupt that is.
class [[nodiscard]] Its {
 public:
  /// Bytes of its registers.
  static constexpr std::uint64_t size = 0x20000;

  /// @param address of its registers, a multiple of 64 KiB. Devices write their
  ///                messages 0x10040 beyond it
  static Result<Its> try_create(Vm& vm, Gpa address) {
    using namespace uapi::arm_vgic;
    auto device = vm.try_create_device(DeviceType::arm_vgic_its);
    if (!device) {
      return device.error();
    }
    if (auto set = device->try_set_device_attr(grp_addr, its_addr, address.value); !set) {
      return set.error();
    }
    return Its(std::move(*device));
  }
  /// The same as try_create(), but throws.
  Its(Vm& vm, Gpa address) : Its(try_create(vm, address).value()) {}

  /// Makes it ready, before any vCPU runs.
  Result<void> try_init() {
    return device_.try_set_device_attr(uapi::arm_vgic::grp_ctrl, uapi::arm_vgic::ctrl_init);
  }
  void init() { try_init().value(); }

  /// The device behind it, for attributes that have no call here.
  Device& device() noexcept { return device_; }
  const Device& device() const noexcept { return device_; }

 private:
  explicit Its(Device device) noexcept : device_(std::move(device)) {}

  Device device_;
};

/// The timers of a vCPU, each with an interrupt of its own.
enum class Timer : std::uint64_t {
  virtual_timer = uapi::arm_vcpu_attr::timer_irq_vtimer,        ///< EL1's virtual timer
  physical_timer = uapi::arm_vcpu_attr::timer_irq_ptimer,       ///< EL1's physical timer
  hyp_virtual_timer = uapi::arm_vcpu_attr::timer_irq_hvtimer,   ///< EL2's virtual timer
  hyp_physical_timer = uapi::arm_vcpu_attr::timer_irq_hptimer,  ///< EL2's physical timer
};

/// Which private interrupt a timer raises: all vCPUs must have the same, set
/// before any runs. KVM's own choice is 27 for the virtual timer and 30 for the
/// physical one, which is what guests are used to.
/// @param interrupt 16 to 31, as the guest numbers them
inline Result<void> try_set_timer_interrupt(Vcpu& vcpu, Timer timer, std::uint32_t interrupt) {
  return vcpu.try_set_device_attr(uapi::arm_vcpu_attr::timer_ctrl,
                                  static_cast<std::uint64_t>(timer),
                                  static_cast<std::int32_t>(interrupt));
}
inline void set_timer_interrupt(Vcpu& vcpu, Timer timer, std::uint32_t interrupt) {
  try_set_timer_interrupt(vcpu, timer, interrupt).value();
}
/// Which one it raises now.
inline Result<std::uint32_t> try_get_timer_interrupt(const Vcpu& vcpu, Timer timer) {
  std::int32_t interrupt = 0;
  auto read = vcpu.try_get_device_attr(uapi::arm_vcpu_attr::timer_ctrl,
                                       static_cast<std::uint64_t>(timer), interrupt);
  if (!read) {
    return read.error();
  }
  return static_cast<std::uint32_t>(interrupt);
}
inline std::uint32_t get_timer_interrupt(const Vcpu& vcpu, Timer timer) {
  return try_get_timer_interrupt(vcpu, timer).value();
}

}  // namespace arm64
KVM_HPP_END

#endif
#endif
