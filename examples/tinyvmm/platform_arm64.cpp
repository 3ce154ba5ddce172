// SPDX-License-Identifier: MIT
#if defined(__aarch64__)

#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "arm_board.hpp"
#include "boot_arm64.hpp"
#include "failure.hpp"
#include "machine.hpp"
#include "pl011.hpp"
#include "virtio_blk.hpp"
#include "virtio_mmio.hpp"

namespace tinyvmm {
namespace {

namespace reg = kvm::arm64::reg;

/// Registers, and the code at the program counter as long as addresses are physical ones: KVM does
/// not translate addresses on this architecture.
std::string describe_vcpu(kvm::Vcpu& vcpu, kvm::GuestMemory::View& memory) {
  constexpr std::uint64_t sctlr_el1 = reg::sysreg(3, 0, 1, 0, 0);
  constexpr std::uint64_t esr_el1 = reg::sysreg(3, 0, 5, 2, 0);
  constexpr std::uint64_t far_el1 = reg::sysreg(3, 0, 6, 0, 0);
  constexpr std::uint64_t vbar_el1 = reg::sysreg(3, 0, 12, 0, 0);
  std::string out;
  unsigned in_line = 0;
  const auto show = [&](const char* name, std::uint64_t id) {
    const auto value = vcpu.try_get_one_reg<std::uint64_t>(id);
    char text[48] = "";
    std::snprintf(text, sizeof text, value ? "%6s %016llx" : "%6s ?               ", name,
                  value ? static_cast<unsigned long long>(*value) : 0);
    out += text;
    out += ++in_line % 4 == 0 ? '\n' : ' ';
    return value ? *value : 0;
  };
  const std::uint64_t pc = show("pc", reg::pc);
  show("pstate", reg::pstate);
  show("sp_el0", reg::sp);
  show("sp_el1", reg::sp_el1);
  for (unsigned i = 0; i <= 30; ++i) {
    show(("x" + std::to_string(i)).c_str(), reg::x(i));
  }
  const std::uint64_t control = show("sctlr", sctlr_el1);
  show("esr", esr_el1);
  show("far", far_el1);
  show("elr", reg::elr_el1);
  show("vbar", vbar_el1);
  out += "  code";
  if ((control & 1) != 0) {
    return out + " unknown, as the MMU is on";
  }
  for (std::uint64_t i = 0; i < 4; ++i) {
    const auto word = memory.read<std::uint32_t>(kvm::Gpa(pc + 4 * i));
    char text[16] = " ????????";
    if (word) {
      std::snprintf(text, sizeof text, " %08x", *word);
    }
    out += text;
  }
  return out;
}

/// A board with a GICv3 and timers in the kernel, which also answers PSCI.
class Board final : public Platform {
 public:
  std::vector<RamRange> ram(std::uint64_t bytes) const override {
    return {{arm_board::ram, bytes}};
  }

  void before_vcpus(Machine& machine) override {
    // What the CPU cannot tell enough of to emulate it then ends the guest with a sentence about
    // it, where the host is able to.
    static_cast<void>(machine.vm().try_enable(kvm::cap::ArmNisvToUser{}));
    gic_.emplace(machine.vm(),
                 kvm::arm64::GicV3Options{.distributor = arm_board::gic_distributor,
                                          .redistributors = arm_board::gic_redistributors,
                                          .interrupts = arm_board::gic_interrupts});
  }

  void after_vcpus(Machine& machine) override {
    namespace feature = kvm::uapi::arm_vcpu_feature;
    for (unsigned id = 0; id < machine.cpus(); ++id) {
      auto init = machine.vm().preferred_target();
      init.features[0] = 1u << feature::psci_0_2;
      if (id != 0) {  // The guest turns it on.
        init.features[0] |= 1u << feature::power_off;
      }
      machine.vcpu(id).init(init);
    }
    gic_->init();
  }

  void add_devices(Machine& machine) override {
    kvm::Vm& vm = machine.vm();
    serial_.emplace(machine.line(), [&vm](bool level) {
      vm.irq_line(kvm::arm64::IrqLine::spi(32 + arm_board::serial_interrupt), level);
    });
    machine.mmio().add(arm_board::serial.value, Pl011::size, *serial_);
    const Options& options = machine.options();
    if (options.disk.empty()) {
      return;
    }
    disk_.emplace(vm.memory(), std::make_unique<VirtioBlk>(options.disk, options.disk_writable),
                  [&machine](const std::string& why) {
                    machine.stop({status::host_failed, why});
                  });
    machine.mmio().add(arm_board::disk.value, VirtioMmio::size, *disk_);
    // The guest's notification and our interrupt reach their threads without an exit.
    disk_notify_.emplace(vm.create_ioeventfd(
        kvm::IoeventfdAddress::mmio<std::uint32_t>(arm_board::disk + VirtioMmio::queue_notify),
        disk_->queue_event(), std::uint32_t{0}));
    disk_interrupt_.emplace(vm.create_irqfd(arm_board::disk_interrupt, disk_->interrupt_event()));
  }

  void load(Machine& machine, const Options& options) override {
    kvm::GuestMemory::View memory = machine.vm().memory().view();
    const ImageFile kernel(options.kernel);
    std::optional<ImageFile> initrd;
    if (!options.initrd.empty()) {
      initrd.emplace(options.initrd);
    }
    const ArmEntry entry = load_arm64_image(kernel, initrd ? &*initrd : nullptr,
                                            {.cpus = machine.cpus(),
                                             .ram = machine.ram().front(),
                                             .has_disk = disk_.has_value(),
                                             .cmdline = options.cmdline},
                                            memory);
    // The rest is as after a reset: EL1, interrupts masked, MMU off.
    machine.vcpu(0).set_one_reg<std::uint64_t>(reg::pc, entry.pc);
    machine.vcpu(0).set_one_reg<std::uint64_t>(reg::x(0), entry.device_tree);
  }

  void input_ready() override { serial_->input_ready(); }

  std::string describe(kvm::Vcpu& vcpu, kvm::GuestMemory::View& memory) override {
    return describe_vcpu(vcpu, memory);
  }

 private:
  std::optional<kvm::arm64::GicV3> gic_{};
  std::optional<Pl011> serial_{};
  std::optional<VirtioMmio> disk_{};
  std::optional<kvm::Ioeventfd> disk_notify_{};
  std::optional<kvm::Irqfd> disk_interrupt_{};
};

}  // namespace

std::unique_ptr<Platform> make_platform() { return std::make_unique<Board>(); }

}  // namespace tinyvmm

#endif
