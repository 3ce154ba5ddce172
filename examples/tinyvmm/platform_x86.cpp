// SPDX-License-Identifier: MIT
#if defined(__x86_64__)

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "acpi.hpp"
#include "boot_x86.hpp"
#include "failure.hpp"
#include "machine.hpp"
#include "pc.hpp"
#include "pc_devices.hpp"
#include "serial_16550.hpp"
#include "vcpu_x86.hpp"
#include "virtio_blk.hpp"
#include "virtio_mmio.hpp"

namespace tinyvmm {
namespace {

/// A PC: interrupt controllers and timer in the kernel, and the few devices that kernels ask for.
class Pc final : public Platform {
 public:
  std::vector<RamRange> ram(std::uint64_t bytes) const override {
    if (bytes <= pc::most_memory_below_4g) {
      return {{kvm::Gpa{0}, bytes}};
    }
    return {{kvm::Gpa{0}, pc::most_memory_below_4g},
            {pc::above_4g, bytes - pc::most_memory_below_4g}};
  }

  void before_vcpus(Machine& machine) override {
    kvm::Vm& vm = machine.vm();
    // Intel's CPUs need some pages for real mode, which must be nobody else's.
    vm.set_identity_map_addr(pc::kvm_identity_map);
    vm.set_tss_addr(pc::kvm_tss);
    vm.create_irqchip();
    vm.create_pit2({.flags = 1, .pad = {}});  // With port 0x61: guests measure time by it.
  }

  void after_vcpus(Machine& machine) override {
    const kvm::x86::Cpuid supported = machine.system().supported_cpuid();
    const bool has_deadline_timer = machine.vm().check<kvm::cap::TscDeadlineTimer>();
    // The other processors wait for the first one to start them.
    for (unsigned id = 0; id < machine.cpus(); ++id) {
      kvm::Vcpu& vcpu = machine.vcpu(id);
      vcpu.set_cpuid2(make_cpuid(supported, has_deadline_timer, id, machine.cpus()));
      leave_firmware(vcpu);
    }
  }

  void add_devices(Machine& machine) override {
    kvm::Vm& vm = machine.vm();
    const auto reset = [&machine] { machine.stop({status::reset}); };
    serial_.emplace(machine.line(), [&vm](bool level) { vm.irq_line(pc::serial_gsi, level); });
    keyboard_.emplace(reset);
    reset_.emplace(reset);
    debug_exit_.emplace([&machine](int status) { machine.stop({status}); });
    power_.emplace([&machine] { machine.stop({status::powered_off}); });
    firmware_.emplace(machine.cpus(), machine.options().memory);

    Bus& ports = machine.ports();
    ports.add(pc::port::keyboard, 1, *keyboard_);
    ports.add(pc::port::debug_exit, DebugExit::size, *debug_exit_);
    ports.add(pc::port::serial, Serial16550::size, *serial_);
    ports.add(pc::port::firmware_configuration, FirmwareConfiguration::size, *firmware_);
    ports.add(pc::port::acpi_event, AcpiPower::size, *power_);
    ports.add(pc::port::reset, 1, *reset_);
    if (!machine.options().disk.empty()) {
      add_disk(machine);
    }
  }

  void load(Machine& machine, const Options& options) override {
    kvm::GuestMemory::View memory = machine.vm().memory().view();
    const ImageFile kernel(options.kernel);
    std::optional<ImageFile> initrd;
    if (!options.initrd.empty()) {
      initrd.emplace(options.initrd);
    }
    const BootOptions boot{
        .initrd = initrd ? &*initrd : nullptr, .cmdline = options.cmdline, .ram = machine.ram()};
    const EntryPoint entry = is_bzimage(kernel) ? load_bzimage(kernel, boot, memory)
                                                : load_multiboot(kernel, boot, memory);
    store_firmware_tables(machine, memory);
    enter(machine.vcpu(0), entry, memory);
  }

  void input_ready() override { serial_->input_ready(); }

  std::string describe(kvm::Vcpu& vcpu, kvm::GuestMemory::View& memory) override {
    return describe_vcpu(vcpu, memory);
  }

 private:
  /// Sets what firmware would have set on each processor.
  static void leave_firmware(kvm::Vcpu& vcpu) {
    // Memory is cached unless page tables say otherwise.
    constexpr std::uint32_t mtrr_default_type = 0x2ff;
    constexpr std::uint64_t enabled_write_back = 0x806;
    const kvm::uapi::kvm_msr_entry caching{
        .index = mtrr_default_type, .reserved = 0, .data = enabled_write_back};
    vcpu.set_msrs(std::span(&caching, 1));
    // The PIC's interrupts and NMIs come in at the two pins of the local APIC. Without any such
    // call, some KVMs deliver no INIT to a processor that never ran.
    constexpr std::size_t lint0 = 0x350;
    constexpr std::size_t lint1 = 0x360;
    constexpr std::uint32_t external = 0x700;
    constexpr std::uint32_t nmi = 0x400;
    kvm::uapi::kvm_lapic_state apic = vcpu.get_lapic();
    const auto registers = std::as_writable_bytes(std::span(apic.regs));
    put(registers, lint0, external);
    put(registers, lint1, nmi);
    vcpu.set_lapic(apic);
  }

  void add_disk(Machine& machine) {
    const Options& options = machine.options();
    disk_.emplace(machine.vm().memory(),
                  std::make_unique<VirtioBlk>(options.disk, options.disk_writable),
                  [&machine](const std::string& why) {
                    machine.stop({status::host_failed, why});
                  });
    machine.mmio().add(pc::disk.value, VirtioMmio::size, *disk_);
    // The guest's notification and our interrupt reach their threads without an exit.
    disk_notify_.emplace(machine.vm().create_ioeventfd(
        kvm::IoeventfdAddress::mmio<std::uint32_t>(pc::disk + VirtioMmio::queue_notify),
        disk_->queue_event(), std::uint32_t{0}));
    disk_interrupt_.emplace(machine.vm().create_irqfd(pc::disk_gsi, disk_->interrupt_event()));
  }

  void store_firmware_tables(Machine& machine, kvm::GuestMemory::View& memory) {
    AcpiDescription acpi{.cpus = machine.cpus(),
                         .local_apic = static_cast<std::uint32_t>(pc::local_apic.value),
                         .io_apic = static_cast<std::uint32_t>(pc::io_apic.value),
                         .interrupt = pc::acpi_gsi,
                         .event_port = pc::port::acpi_event,
                         .control_port = pc::port::acpi_control,
                         .reset_port = pc::port::reset,
                         .reset_value = ResetControl::reset_value};
    if (disk_) {
      acpi.disk = {.address = static_cast<std::uint32_t>(pc::disk.value),
                   .size = static_cast<std::uint32_t>(VirtioMmio::size),
                   .interrupt = pc::disk_gsi};
    }
    store(memory, pc::acpi, make_acpi_tables(acpi, static_cast<std::uint32_t>(pc::acpi.value)));
    // Where the extended BIOS data area begins, and how many KiB of low memory there are.
    const auto area = static_cast<std::uint16_t>(pc::low_memory_end.value >> 4);
    const auto kibibytes = static_cast<std::uint16_t>(pc::low_memory_end.value >> 10);
    store(memory, pc::bios_data + 0x0e, std::as_bytes(std::span(&area, 1)));
    store(memory, pc::bios_data + 0x13, std::as_bytes(std::span(&kibibytes, 1)));
  }

  std::optional<Serial16550> serial_{};
  std::optional<KeyboardController> keyboard_{};
  std::optional<ResetControl> reset_{};
  std::optional<DebugExit> debug_exit_{};
  std::optional<AcpiPower> power_{};
  std::optional<FirmwareConfiguration> firmware_{};
  std::optional<VirtioMmio> disk_{};
  std::optional<kvm::Ioeventfd> disk_notify_{};
  std::optional<kvm::Irqfd> disk_interrupt_{};
};

}  // namespace

std::unique_ptr<Platform> make_platform() { return std::make_unique<Pc>(); }

}  // namespace tinyvmm

#endif
