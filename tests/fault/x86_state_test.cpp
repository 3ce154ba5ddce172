// SPDX-License-Identifier: MIT
#include "driver.hpp"

#include <support/require.hpp>

#if KVM_HPP_ARCH_X86

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace {

using fault::Call;
using fault::FaultTest;
using fault::Guest;
namespace request = kvm::uapi::request;
namespace uapi = kvm::uapi;

class X86StateFaults : public FaultTest {};
class X86VmFaults : public FaultTest {};

/// A guest whose interrupt controllers are in the kernel.
Guest make_with_irqchip() {
  kvm_test::Machine machine;
  machine.load(kvm_test::code_at, {0xba, 0x10, 0x00, 0xee, 0xeb, 0xfd});
  machine.vm.create_irqchip();
  Guest guest{std::move(machine)};
  kvm_test::enter_real_mode(guest.vcpu);
  return guest;
}

/// What a guest sees in system management mode, where that has memory of its own: out dx, al.
class SmmMemory {
 public:
  void add_to(Guest& guest) {
    if (guest.vm.check<kvm::cap::MultiAddressSpace>() < 2) {
      return;
    }
    kvm::Mapping memory = kvm::Mapping::anonymous(0x10000);
    std::memset(memory.data(), 0xee, memory.size());
    slot_.emplace(guest.vm.add_memory(kvm::Gpa{0x30000}, std::move(memory), {.address_space = 1}));
  }
  void remove() { slot_.reset(); }

 private:
  std::optional<kvm::MemorySlot> slot_;
};

// A table that does not fit is fetched again, larger.
bool grows(const Call&, int error_number) { return error_number == E2BIG; }
bool is_check(const Call& call, int) { return call.is_ioctl(request::check_extension.code); }

TEST_F(X86StateFaults, Registers) {
  Guest probe = fault::make_guest();
  const auto regs = probe.vcpu.get_regs();
  KVM_HPP_EXPECT_PAIR(g.vcpu., get_regs());
  KVM_HPP_EXPECT_PAIR(g.vcpu., set_regs(regs));
  const auto sregs = probe.vcpu.get_sregs();
  KVM_HPP_EXPECT_PAIR(g.vcpu., get_sregs());
  KVM_HPP_EXPECT_PAIR(g.vcpu., set_sregs(sregs));
  KVM_HPP_EXPECT_PAIR(g.vcpu., get_sregs2(), .optional = true);
  const auto sregs2 = probe.vcpu.try_get_sregs2().value_or({});
  KVM_HPP_EXPECT_PAIR(g.vcpu., set_sregs2(sregs2), .optional = true);
  const auto debugregs = probe.vcpu.get_debugregs();
  KVM_HPP_EXPECT_PAIR(g.vcpu., get_debugregs());
  KVM_HPP_EXPECT_PAIR(g.vcpu., set_debugregs(debugregs));
  KVM_HPP_EXPECT_PAIR(g.vcpu., get_xcrs(), .optional = true);
  const auto xcrs = probe.vcpu.try_get_xcrs().value_or({});
  KVM_HPP_EXPECT_PAIR(g.vcpu., set_xcrs(xcrs), .optional = true);
}

TEST_F(X86StateFaults, FloatingPoint) {
  Guest probe = fault::make_guest();
  const auto fpu = probe.vcpu.get_fpu();
  KVM_HPP_EXPECT_PAIR(g.vcpu., get_fpu());
  KVM_HPP_EXPECT_PAIR(g.vcpu., set_fpu(fpu));
  const auto xsave = probe.vcpu.get_xsave();
  KVM_HPP_EXPECT_PAIR(g.vcpu., xsave_size());
  KVM_HPP_EXPECT_PAIR(g.vcpu., get_xsave());
  kvm::x86::Xsave again = xsave;
  KVM_HPP_EXPECT_PAIR(g.vcpu., get_xsave(again));
  KVM_HPP_EXPECT_PAIR(g.vcpu., set_xsave(xsave));
}

TEST_F(X86StateFaults, Events) {
  Guest probe = fault::make_guest();
  const auto events = probe.vcpu.get_vcpu_events();
  KVM_HPP_EXPECT_PAIR(g.vcpu., get_vcpu_events());
  KVM_HPP_EXPECT_PAIR(g.vcpu., set_vcpu_events(events));
  const auto mp_state = probe.vcpu.get_mp_state();
  KVM_HPP_EXPECT_PAIR(g.vcpu., get_mp_state());
  KVM_HPP_EXPECT_PAIR(g.vcpu., set_mp_state(mp_state));
  const uapi::kvm_guest_debug debug{};
  KVM_HPP_EXPECT_PAIR(g.vcpu., set_guest_debug(debug), .survives = is_check);
  KVM_HPP_EXPECT_PAIR(g.vcpu., translate(0x1000));
  KVM_HPP_EXPECT_PAIR(g.vcpu., nmi());
  SmmMemory smm;
  KVM_HPP_EXPECT_PAIR(
      g.vcpu., smi(), .prepare = [&](Guest& guest) { smm.add_to(guest); },
      .finish = [&] { smm.remove(); }, .optional = true);
  // Real mode takes it: vector 0x20 of the zeroed table leads to 0:0, which is memory.
  KVM_HPP_EXPECT_PAIR(g.vcpu., interrupt(0x20));
  const uapi::kvm_x86_mce mce{};
  KVM_HPP_EXPECT_PAIR(g.vcpu., setup_mce(1), .optional = true);
  KVM_HPP_EXPECT_PAIR(g.vcpu., set_mce(mce), .optional = true);
  KVM_HPP_EXPECT_PAIR(g.vcpu., kvmclock_ctrl(), .optional = true);
}

// What the next entry would load is loaded first; a failure of that is the call's.
TEST_F(X86StateFaults, EventsBehindMarkedRegisters) {
  Guest probe = fault::make_guest();
  if (!kvm_test::offers<kvm::cap::SyncRegs>(probe.vm, kvm::cap::SyncRegsFlag::events)) {
    GTEST_SKIP() << "KVM_CAP_SYNC_REGS has no events on this host";
  }
  const auto mark = [](Guest& guest) {
    guest.vcpu.set_synced_vcpu_events(guest.vcpu.get_vcpu_events());
  };
  const uapi::kvm_guest_debug debug{};
  KVM_HPP_EXPECT_PAIR(g.vcpu., nmi(), .prepare = mark);
  KVM_HPP_EXPECT_PAIR(g.vcpu., interrupt(0x20), .prepare = mark);
  SmmMemory smm;
  const auto mark_with_smm = [&](Guest& guest) {
    smm.add_to(guest);
    mark(guest);
  };
  KVM_HPP_EXPECT_PAIR(
      g.vcpu., smi(), .prepare = mark_with_smm, .finish = [&] { smm.remove(); }, .optional = true);
  KVM_HPP_EXPECT_PAIR(g.vcpu., set_guest_debug(debug), .survives = is_check, .prepare = mark);
}

TEST_F(X86StateFaults, LocalApic) {
  Guest probe = make_with_irqchip();
  const auto lapic = probe.vcpu.get_lapic();
  KVM_HPP_EXPECT_PAIR(g.vcpu., get_lapic(), .make = make_with_irqchip);
  KVM_HPP_EXPECT_PAIR(g.vcpu., set_lapic(lapic), .make = make_with_irqchip);
  KVM_HPP_EXPECT_PAIR(g.vcpu., set_vapic_addr(kvm::Gpa{0x2000}), .make = make_with_irqchip);
  KVM_HPP_EXPECT_PAIR(g.vcpu., set_tpr_access_reporting(true), .make = make_with_irqchip);
}

TEST_F(X86StateFaults, Msrs) {
  constexpr std::uint32_t efer = 0xc0000080;
  constexpr std::uint32_t pat = 0x277;
  std::array<uapi::kvm_msr_entry, 2> msrs{
      {{.index = efer, .reserved = 0, .data = 0}, {.index = pat, .reserved = 0, .data = 0}}};
  KVM_HPP_EXPECT_PAIR(g.vcpu., get_msrs(msrs));
  KVM_HPP_EXPECT_PAIR(g.vcpu., set_msrs(msrs));
  KVM_HPP_EXPECT_PAIR(g.vcpu., get_msr(pat));
  Guest probe = fault::make_guest();
  const auto value = probe.vcpu.get_msr(pat);
  KVM_HPP_EXPECT_PAIR(g.vcpu., set_msr(pat, value));
  // More than one block, of which a later one fails.
  std::vector<uapi::kvm_msr_entry> many(600, {.index = pat, .reserved = 0, .data = value});
  KVM_HPP_EXPECT_PAIR(g.vcpu., get_msrs(many));
  KVM_HPP_EXPECT_PAIR(g.vcpu., set_msrs(many));
}

TEST_F(X86StateFaults, CpuidAndTsc) {
  Guest probe = fault::make_guest();
  const auto cpuid = probe.system.supported_cpuid();
  KVM_HPP_EXPECT_PAIR(g.system., supported_cpuid(), .survives = grows);
  KVM_HPP_EXPECT_PAIR(g.system., emulated_cpuid(), .survives = grows, .optional = true);
  KVM_HPP_EXPECT_PAIR(g.system., supported_hv_cpuid(), .survives = grows, .optional = true);
  KVM_HPP_EXPECT_PAIR(g.vcpu., supported_hv_cpuid(), .survives = grows, .optional = true);
  KVM_HPP_EXPECT_PAIR(g.vcpu., get_cpuid2(), .survives = grows);
  KVM_HPP_EXPECT_PAIR(g.vcpu., set_cpuid2(cpuid));
  KVM_HPP_EXPECT_PAIR(g.vcpu., get_tsc_khz(), .optional = true);
  const auto khz = probe.vcpu.try_get_tsc_khz().value_or(0);
  const auto asks_first = [](const Call& call, int) {
    return call.is_ioctl(request::get_tsc_khz.code);
  };
  KVM_HPP_EXPECT_PAIR(g.vcpu., set_tsc_khz(khz), .survives = asks_first, .optional = true);
}

TEST_F(X86StateFaults, NestedState) {
  KVM_HPP_EXPECT_PAIR(g.vcpu., get_nested_state(), .optional = true);
  const kvm::x86::NestedState state(128);
  KVM_HPP_EXPECT_PAIR(g.vcpu., set_nested_state(state), .optional = true);
}

TEST_F(X86StateFaults, SyncedRegisters) {
  const auto regs = kvm::cap::SyncRegsFlag::regs;
  KVM_HPP_EXPECT_PAIR(g.vcpu., sync_on_exit(regs));
}

TEST_F(X86StateFaults, RegisterList) {
  KVM_HPP_EXPECT_PAIR(g.vcpu., get_reg_list(), .optional = true);
  KVM_HPP_EXPECT_PAIR(g.vcpu., get_one_reg<std::uint64_t>(0x2030'0000'0000'0000), .optional = true);
  KVM_HPP_EXPECT_PAIR(g.vcpu., set_one_reg(0x2030'0000'0000'0000, std::uint64_t{0}),
                      .optional = true);
}

// What a vCPU may lack is left out of its snapshot; anything else ends it.
TEST_F(X86StateFaults, SaveAndRestore) {
  const auto saves_without = [](const Call& call, int error_number) {
    if (call.is_ioctl(request::get_tsc_khz.code)) {
      return true;
    }
    if (call.is_ioctl(request::get_cpuid2.code)) {
      return error_number == E2BIG;
    }
    return error_number == EINVAL &&
           (call.is_ioctl(request::get_xcrs.code) || call.is_ioctl(request::get_lapic.code) ||
            call.is_ioctl(request::get_nested_state.code));
  };
  Guest probe = make_with_irqchip();
  const auto indices = probe.system.msr_index_list();
  // KVM refuses what it lacks with a count, not an errno; an MSR that cannot be read is left out.
  KVM_HPP_EXPECT_PAIR(g.vcpu., save_state(indices), .survives = saves_without,
                      .make = make_with_irqchip);
  const auto snapshot = probe.vcpu.save_state(indices);
  const auto restores_without = [](const Call& call, int error_number) {
    return call.is_ioctl(request::get_tsc_khz.code) ||
           (call.is_ioctl(request::get_cpuid2.code) && error_number == E2BIG);
  };
  KVM_HPP_EXPECT_PAIR(g.vcpu., restore_state(snapshot), .survives = restores_without,
                      .make = make_with_irqchip);
}

TEST_F(X86VmFaults, System) {
  KVM_HPP_EXPECT_PAIR(g.system., msr_index_list());
  KVM_HPP_EXPECT_PAIR(g.system., msr_feature_index_list());
  KVM_HPP_EXPECT_PAIR(g.system., mce_cap_supported(), .optional = true);
  std::array<uapi::kvm_msr_entry, 1> msrs{{{.index = 0x10a, .reserved = 0, .data = 0}}};
  KVM_HPP_EXPECT_PAIR(g.system., get_msrs(msrs));
}

TEST_F(X86VmFaults, InterruptControllers) {
  // Before the first vCPU: on a VM of its own.
  const auto fresh = [](Guest& guest) {
    const fault::Unobserved ours;
    return guest.system.create_vm();
  };
  KVM_HPP_EXPECT_PAIR(fresh(g)., create_irqchip());
  KVM_HPP_EXPECT_PAIR(fresh(g)., set_boot_cpu_id(0));
  KVM_HPP_EXPECT_PAIR(fresh(g)., set_identity_map_addr(kvm::Gpa{0xfeff'c000}));
  KVM_HPP_EXPECT_PAIR(fresh(g)., set_tss_addr(kvm::Gpa{0xfeff'd000}));

  KVM_HPP_EXPECT_PAIR(g.vm., create_pit2(), .make = make_with_irqchip, .idempotent = false);
  const auto with_pit = [](Guest& guest) { guest.vm.create_pit2(); };
  Guest probe = make_with_irqchip();
  with_pit(probe);
  const auto pit = probe.vm.get_pit2();
  KVM_HPP_EXPECT_PAIR(g.vm., get_pit2(), .make = make_with_irqchip, .prepare = with_pit);
  KVM_HPP_EXPECT_PAIR(g.vm., set_pit2(pit), .make = make_with_irqchip, .prepare = with_pit);
  KVM_HPP_EXPECT_PAIR(g.vm., set_pit_reinject(true), .make = make_with_irqchip,
                      .prepare = with_pit);
  const auto chip = probe.vm.get_irqchip(0);
  KVM_HPP_EXPECT_PAIR(g.vm., get_irqchip(0), .make = make_with_irqchip);
  KVM_HPP_EXPECT_PAIR(g.vm., set_irqchip(chip), .make = make_with_irqchip);
  KVM_HPP_EXPECT_PAIR(g.vm., irq_line(5, true), .make = make_with_irqchip);
  KVM_HPP_EXPECT_PAIR(g.vm., irq_line_status(5, true), .make = make_with_irqchip);
  KVM_HPP_EXPECT_PAIR(g.vm., signal_msi(0xfee0'0000, 0x40), .make = make_with_irqchip);
}

TEST_F(X86VmFaults, ClockAndMemory) {
  Guest probe = fault::make_guest();
  auto clock = probe.vm.get_clock();
  clock.flags = 0;
  KVM_HPP_EXPECT_PAIR(g.vm., get_clock());
  KVM_HPP_EXPECT_PAIR(g.vm., set_clock(clock));
  KVM_HPP_EXPECT_PAIR(g.vm., get_tsc_khz(), .optional = true);
  const auto khz = probe.vm.try_get_tsc_khz().value_or(0);
  const auto fresh = [](Guest& guest) {
    const fault::Unobserved ours;
    return guest.system.create_vm();
  };
  KVM_HPP_EXPECT_PAIR(fresh(g)., set_tsc_khz(khz), .optional = true);
  KVM_HPP_EXPECT_PAIR(g.vm., set_nr_mmu_pages(1024));
  const std::vector<kvm::x86::MsrFilterRange> ranges;
  KVM_HPP_EXPECT_PAIR(g.vm., set_msr_filter(ranges), .optional = true);
}

}  // namespace

#endif
