// SPDX-License-Identifier: MIT
// What the run page holds for the next entry is handed over before a call that depends on it; where
// that fails, so does the call.
#include "driver.hpp"

#include <support/require.hpp>

#if KVM_HPP_ARCH_X86

#include <array>
#include <cerrno>
#include <cstdint>
#include <utility>

namespace {

using fault::Call;
using fault::FaultTest;
using fault::Guest;
namespace request = kvm::uapi::request;
namespace uapi = kvm::uapi;

class MarkedRegisters : public FaultTest {
 protected:
  void SetUp() override {
    FaultTest::SetUp();
    if (!IsSkipped()) {
      const Guest probe = fault::make_guest();
      KVM_REQUIRE(probe.vm, kvm::cap::SyncRegs, kvm::cap::SyncRegsFlag::events);
    }
  }
};

void mark(Guest& guest) { guest.vcpu.set_synced_vcpu_events(guest.vcpu.get_vcpu_events()); }

Guest make_with_irqchip() {
  kvm_test::Machine machine;
  machine.load(kvm_test::code_at, {0xba, 0x10, 0x00, 0xee, 0xeb, 0xfd});
  machine.vm.create_irqchip();
  Guest guest{std::move(machine)};
  kvm_test::enter_real_mode(guest.vcpu);
  return guest;
}

TEST_F(MarkedRegisters, AreHandedOverBeforeMsrs) {
  constexpr std::uint32_t sysenter_cs = 0x174;
  std::array<uapi::kvm_msr_entry, 1> msrs{{{.index = sysenter_cs, .reserved = 0, .data = 0}}};
  KVM_HPP_EXPECT_PAIR(g.vcpu., get_msr(sysenter_cs), .prepare = mark);
  KVM_HPP_EXPECT_PAIR(g.vcpu., set_msr(sysenter_cs, 0), .prepare = mark);
  KVM_HPP_EXPECT_PAIR(g.vcpu., get_msrs(msrs), .prepare = mark);
  KVM_HPP_EXPECT_PAIR(g.vcpu., set_msrs(msrs), .prepare = mark);
}

TEST_F(MarkedRegisters, AreHandedOverBeforeOtherState) {
  Guest probe = make_with_irqchip();
  const auto cpuid = probe.vcpu.get_cpuid2();
  KVM_HPP_EXPECT_PAIR(g.vcpu., set_cpuid2(cpuid), .prepare = mark);
  KVM_HPP_EXPECT_PAIR(g.vcpu., translate(0x1000), .prepare = mark);
  const auto lapic = probe.vcpu.get_lapic();
  KVM_HPP_EXPECT_PAIR(g.vcpu., set_lapic(lapic), .make = make_with_irqchip, .prepare = mark);
  KVM_HPP_EXPECT_PAIR(g.vcpu., get_sregs2(), .prepare = mark, .optional = true);
  const uapi::kvm_x86_mce mce{};
  KVM_HPP_EXPECT_PAIR(g.vcpu., set_mce(mce), .prepare = mark, .optional = true);
  const kvm::x86::NestedState nested(128);
  KVM_HPP_EXPECT_PAIR(g.vcpu., set_nested_state(nested), .prepare = mark, .optional = true);
  constexpr std::uint64_t some_register = 0x2030'0000'0000'0000;
  KVM_HPP_EXPECT_PAIR(g.vcpu., get_one_reg<std::uint64_t>(some_register), .prepare = mark,
                      .optional = true);
}

TEST_F(MarkedRegisters, AreHandedOverBeforeASave) {
  const auto saves_without = [](const Call& call, int error_number) {
    return call.is_ioctl(request::get_tsc_khz.code) ||
           (call.is_ioctl(request::get_cpuid2.code) && error_number == E2BIG) ||
           (error_number == EINVAL &&
            (call.is_ioctl(request::get_xcrs.code) || call.is_ioctl(request::get_lapic.code) ||
             call.is_ioctl(request::get_nested_state.code)));
  };
  KVM_HPP_EXPECT_PAIR(g.vcpu., save_state({}), .survives = saves_without, .make = make_with_irqchip,
                      .prepare = mark);
}

// The other way round: what KVM shall store there is stored at once.
TEST_F(MarkedRegisters, AreStoredWhenTheyAreAskedFor) {
  using Sets = kvm::cap::SyncRegsFlag;
  KVM_HPP_EXPECT_PAIR(g.vcpu., sync_on_exit(Sets::regs | Sets::sregs | Sets::events));
}

}  // namespace

#endif
