// SPDX-License-Identifier: MIT
// What a vCPU's getters and setters do on real KVM: where it can, the guest itself is the witness
// that KVM took what was set.
// needs: x86
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <kvm/kvm.hpp>

#include "support/guest.hpp"
#include "support/require.hpp"

namespace {

using kvm_test::code_at;
using kvm_test::Guest;
using kvm_test::Machine;
namespace uapi = kvm::uapi;

constexpr std::uint32_t msr_sysenter_cs = 0x174;
constexpr std::uint32_t msr_sysenter_esp = 0x175;
constexpr std::uint32_t no_such_msr = 0x12345;
constexpr std::uint8_t data_page = 0x30;  // second byte of 0x3000

/// What the guest writes to a port; a failure names any other exit.
std::uint32_t run_to_out(kvm::Vcpu& vcpu, unsigned port = 0x10) {
  std::uint32_t value = 0;
  const kvm::Exit exit = vcpu.run();
  exit.visit(
      [&](kvm::exits::IoOut io) {
        EXPECT_EQ(io.port, port);
        std::memcpy(&value, io.data.data(), std::min<std::size_t>(io.data.size(), 4));
      },
      [&](kvm::exits::Failed failed) {
        ADD_FAILURE() << "errno " << failed.error_number << ": " << failed.cause;
      },
      [&](const auto&) { ADD_FAILURE() << "unexpected exit " << exit.name(); });
  return value;
}

template <class Exit>
bool ends_with(kvm::Exit exit) {
  return exit.visit([](const Exit&) { return true; }, [](const auto&) { return false; });
}

std::array<std::byte, 16> pattern(unsigned seed) {
  std::array<std::byte, 16> bytes;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] = static_cast<std::byte>(seed + 7 * i);
  }
  return bytes;
}

std::array<std::byte, 16> fetch(const Machine& machine, std::uint64_t gpa) {
  std::array<std::byte, 16> bytes{};
  EXPECT_TRUE(machine.ram.fetch(kvm::Gpa{gpa}, bytes));
  return bytes;
}

template <class T>
void expect_error(const kvm::Result<T>& result, int error_number, const std::string& words) {
  ASSERT_FALSE(result.has_value()) << "expected: " << words;
  EXPECT_EQ(result.error().error_number(), error_number) << result.error().what();
  EXPECT_NE(std::string(result.error().what()).find(words), std::string::npos)
      << result.error().what();
}

constexpr std::uint8_t out_eax = 0xe7;  // out imm8, eax

TEST(Registers, RegsReachTheGuest) {
  auto guest = Guest::long_mode({out_eax, 0x10});
  auto regs = guest.vcpu.get_regs();
  regs.rax = 0x12345678;
  guest.vcpu.set_regs(regs);
  EXPECT_EQ(run_to_out(guest.vcpu), 0x12345678u);
}

TEST(Registers, SregsReachTheGuest) {
  auto guest = Guest::long_mode({0x64, 0x8b, 0x04, 0x25, 0, 0, 0, 0,  // mov eax, fs:[0]
                                 out_eax, 0x10});
  guest.load(0x3000, {0x11, 0x22, 0x33, 0x44});
  auto sregs = guest.vcpu.get_sregs();
  sregs.fs.base = 0x3000;
  guest.vcpu.set_sregs(sregs);
  EXPECT_EQ(guest.vcpu.get_sregs().fs.base, 0x3000u);
  EXPECT_EQ(run_to_out(guest.vcpu), 0x44332211u);
}

TEST(Registers, Sregs2ReachTheGuest) {
  auto guest = Guest::long_mode({0x65, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0,  // mov rax, gs:[0]
                                 out_eax, 0x10});
  KVM_REQUIRE(guest.vm, kvm::cap::Sregs2);
  guest.load(0x3000, {0x55, 0x66, 0x77, 0x08});
  auto sregs = guest.vcpu.get_sregs2();
  EXPECT_EQ(sregs.cr3, 0x100000u);
  sregs.gs.base = 0x3000;
  guest.vcpu.set_sregs2(sregs);
  EXPECT_EQ(run_to_out(guest.vcpu), 0x08776655u);
}

TEST(Registers, ImpossibleSregsAreExplained) {
  auto guest = Guest::long_mode({out_eax, 0x10});
  auto sregs = guest.vcpu.get_sregs();
  sregs.cr0 &= ~std::uint64_t{1};  // paging without protection
  // Before Linux 5.12 AMD's KVM leaves it to the CPU to refuse.
  if (const auto set = guest.vcpu.try_set_sregs(sregs); !set) {
    expect_error(set, EINVAL, "combination of control registers");
  }
}

constexpr kvm_test::Code store_xmm0_load_xmm1 = {
    0xf3,    0x0f, 0x6f, 0x0c, 0x25, 0,    data_page, 0, 0,  // movdqu xmm1, [0x3000]
    0xf3,    0x0f, 0x7f, 0x04, 0x25, 0x10, data_page, 0, 0,  // movdqu [0x3010], xmm0
    out_eax, 0x10};

TEST(Registers, FpuReachesTheGuestAndComesBack) {
  auto guest = Guest::long_mode(store_xmm0_load_xmm1);
  const auto in_memory = pattern(3);
  const auto in_xmm0 = pattern(99);
  ASSERT_TRUE(guest.ram.load(kvm::Gpa{0x3000}, in_memory));
  auto fpu = guest.vcpu.get_fpu();
  std::memcpy(fpu.xmm[0], in_xmm0.data(), in_xmm0.size());
  guest.vcpu.set_fpu(fpu);
  run_to_out(guest.vcpu);
  EXPECT_EQ(fetch(guest, 0x3010), in_xmm0);
  fpu = guest.vcpu.get_fpu();
  EXPECT_EQ(std::memcmp(fpu.xmm[1], in_memory.data(), 16), 0);
}

TEST(Registers, XsaveReachesTheGuestAndComesBack) {
  auto guest = Guest::long_mode(store_xmm0_load_xmm1);
  const auto in_memory = pattern(5);
  const auto in_xmm0 = pattern(77);
  ASSERT_TRUE(guest.ram.load(kvm::Gpa{0x3000}, in_memory));
  kvm::x86::Xsave state = guest.vcpu.get_xsave();
  std::memcpy(state.xmm(0).data(), in_xmm0.data(), 16);
  state.set_components(state.components() | 2);
  guest.vcpu.set_xsave(state);
  run_to_out(guest.vcpu);
  EXPECT_EQ(fetch(guest, 0x3010), in_xmm0);
  const void* const before = state.bytes().data();
  guest.vcpu.get_xsave(state);
  EXPECT_EQ(std::memcmp(state.xmm(1).data(), in_memory.data(), 16), 0);
  EXPECT_EQ(state.bytes().data(), before) << "the second get allocated";
}

TEST(Registers, XsaveIsAsLargeAsKvmSays) {
  auto guest = Guest::long_mode({out_eax, 0x10});
  const std::size_t said = guest.vm.check<kvm::cap::Xsave2>();
  EXPECT_EQ(guest.vcpu.xsave_size(), std::max<std::size_t>(said, 4096));
  EXPECT_EQ(guest.vcpu.get_xsave().size(), guest.vcpu.xsave_size());
}

TEST(Registers, ASmallXsaveIsRefusedBeforeKvmReadsPastIt) {  // R82
  auto guest = Guest::long_mode({out_eax, 0x10});
  auto state = guest.vcpu.get_xsave();
  state.resize(state.size() - 1);
  expect_error(guest.vcpu.try_set_xsave(state), EINVAL, "read past the end");
  expect_error(guest.vcpu.try_set_xsave(kvm::x86::Xsave()), EINVAL, "size=0");
}

/// A table that offers XSAVE with x87 and SSE, which not every KVM lists as supported.
kvm::x86::Cpuid with_xsave(const kvm::System& system) {
  auto table = system.supported_cpuid();
  table.set_bit({.function = 1, .index = 0, .reg = kvm::x86::CpuidRegister::ecx, .bit = 26});
  uapi::kvm_cpuid_entry2 components{};
  components.function = 0xd;
  components.flags = uapi::cpuid_flag::significant_index;
  components.eax = 3;
  components.ebx = components.ecx = 0x240;
  table.set(components);
  return table;
}

// XGETBV is no witness everywhere: without hardware virtualization the guest sees the host's.
// host's.
TEST(Registers, XcrsAreTakenAndKept) {
  auto guest = Guest::long_mode({out_eax, 0x10});
  KVM_REQUIRE(guest.vm, kvm::cap::Xcrs);
  guest.vcpu.set_cpuid2(with_xsave(guest.system));
  auto sregs = guest.vcpu.get_sregs();
  sregs.cr4 |= 1u << 18;  // OSXSAVE
  guest.vcpu.set_sregs(sregs);
  auto xcrs = guest.vcpu.get_xcrs();
  ASSERT_GE(xcrs.nr_xcrs, 1u);
  EXPECT_EQ(xcrs.xcrs[0].value, 1u);
  xcrs.xcrs[0].value = 3;
  guest.vcpu.set_xcrs(xcrs);
  run_to_out(guest.vcpu);
  EXPECT_EQ(guest.vcpu.get_xcrs().xcrs[0].value, 3u);
}

TEST(Registers, ImpossibleXcrsAreExplained) {
  auto guest = Guest::long_mode({out_eax, 0x10});
  KVM_REQUIRE(guest.vm, kvm::cap::Xcrs);
  auto xcrs = guest.vcpu.get_xcrs();
  xcrs.xcrs[0].value = 0;  // without x87
  expect_error(guest.vcpu.try_set_xcrs(xcrs), EINVAL, "CPUID");
}

TEST(Registers, DebugregsReachTheGuest) {
  auto guest = Guest::long_mode({0x0f, 0x21, 0xc0,  // mov rax, dr0
                                 out_eax, 0x10},
                                0);
  auto debugregs = guest.vcpu.get_debugregs();
  debugregs.db[0] = 0x7654321;
  guest.vcpu.set_debugregs(debugregs);
  EXPECT_EQ(guest.vcpu.get_debugregs().db[0], 0x7654321u);
  EXPECT_EQ(run_to_out(guest.vcpu), 0x7654321u);
}

/// A real-mode guest whose handler of one vector writes 0x5a to port 0x11.
Machine with_handler(std::uint8_t vector, kvm_test::Code main) {
  Machine machine;
  machine.load(code_at, main);
  machine.load(4 * std::uint64_t{vector}, {0x00, 0x11, 0, 0});  // 0000:1100
  machine.load(0x1100, {0xb0, 0x5a, 0xe6, 0x11, 0xf4});
  return machine;
}
void enter_with_interrupts(kvm::Vcpu& vcpu) {
  kvm_test::enter_real_mode(vcpu);
  auto regs = vcpu.get_regs();
  regs.rflags = 0x202;
  vcpu.set_regs(regs);
}
constexpr kvm_test::Code nop_hlt = {0x90, 0x90, 0xf4};

TEST(Events, VcpuEventsReachTheGuest) {
  auto machine = with_handler(2, nop_hlt);
  auto vcpu = machine.vm.create_vcpu(0);
  kvm_test::enter_real_mode(vcpu);
  auto events = vcpu.get_vcpu_events();
  EXPECT_EQ(events.nmi.pending, 0);
  events.nmi.pending = 1;
  events.flags |= uapi::vcpuevent_valid::nmi_pending;
  vcpu.set_vcpu_events(events);
  EXPECT_EQ(run_to_out(vcpu, 0x11), 0x5au);
}

TEST(Events, UnknownEventFlagsAreExplained) {
  auto guest = Guest::real_mode(nop_hlt);
  auto events = guest.vcpu.get_vcpu_events();
  events.flags |= 0x8000;
  expect_error(guest.vcpu.try_set_vcpu_events(events), EINVAL, "capability is not enabled");
}

TEST(Events, NmiIsTaken) {
  auto machine = with_handler(2, nop_hlt);
  auto vcpu = machine.vm.create_vcpu(0);
  kvm_test::enter_real_mode(vcpu);
  vcpu.nmi();
  EXPECT_EQ(run_to_out(vcpu, 0x11), 0x5au);
}

TEST(Events, SmiIsQueuedOrExplained) {
  auto guest = Guest::real_mode(nop_hlt);
  if (!guest.vm.check<kvm::cap::X86Smm>()) {
    expect_error(guest.vcpu.try_smi(), ENOTTY, "no system management mode");
  }
  KVM_REQUIRE(guest.vm, kvm::cap::X86Smm);
  guest.vcpu.smi();
  EXPECT_EQ(guest.vcpu.get_vcpu_events().smi.pending, 1);
}

TEST(Events, InterruptIsTaken) {
  auto machine = with_handler(0x40, nop_hlt);
  auto vcpu = machine.vm.create_vcpu(0);
  enter_with_interrupts(vcpu);
  vcpu.interrupt(0x40);
  EXPECT_EQ(run_to_out(vcpu, 0x11), 0x5au);
}

TEST(Events, InterruptBesideAControllerIsExplained) {  // R71
  Machine machine;
  machine.vm.create_irqchip();
  auto vcpu = machine.vm.create_vcpu(0);
  expect_error(vcpu.try_interrupt(0x40), ENXIO, "Vm::signal_msi");
}

TEST(Events, ASplitControllerTakesOneExternalInterrupt) {  // R71
  Machine machine;
  machine.vm.enable(kvm::cap::SplitIrqchip{});
  auto vcpu = machine.vm.create_vcpu(0);
  vcpu.interrupt(0x40);
  expect_error(vcpu.try_interrupt(0x41), EEXIST, "pending already");
}

TEST(Events, InterruptWindow) {
  // out; sti; nop; jmp to the nop
  auto guest = Guest::real_mode({0xe6, 0x10, 0xfb, 0x90, 0xeb, 0xfd});
  run_to_out(guest.vcpu);
  EXPECT_FALSE(guest.vcpu.interrupt_flag());
  EXPECT_FALSE(guest.vcpu.ready_for_interrupt_injection());
  guest.vcpu.request_interrupt_window(true);
  EXPECT_TRUE(ends_with<kvm::exits::IrqWindowOpen>(guest.vcpu.run()));
  EXPECT_TRUE(guest.vcpu.interrupt_flag());
  EXPECT_TRUE(guest.vcpu.ready_for_interrupt_injection());
  EXPECT_NE(guest.vcpu.apic_base(), 0u);
  guest.vcpu.request_interrupt_window(false);
  EXPECT_EQ(guest.vcpu.run_page()->request_interrupt_window, 0);
}

constexpr kvm_test::Code out_cr8 = {0x44, 0x0f, 0x20, 0xc0, out_eax, 0x10};  // mov rax, cr8

TEST(RunPage, Cr8ReachesTheGuest) {
  auto guest = Guest::long_mode(out_cr8, 0);
  guest.vcpu.set_cr8(5);
  EXPECT_EQ(run_to_out(guest.vcpu), 5u);
  EXPECT_EQ(guest.vcpu.cr8(), 5u);
  EXPECT_EQ(guest.vcpu.get_sregs().cr8, 5u);
}

TEST(RunPage, Cr8OfSregsIsNotLostToTheRunPage) {  // R35
  auto guest = Guest::long_mode(out_cr8, 0);
  auto sregs = guest.vcpu.get_sregs();
  sregs.cr8 = 6;
  guest.vcpu.set_sregs(sregs);
  EXPECT_EQ(run_to_out(guest.vcpu), 6u);
}

TEST(RunPage, AnImpossibleCr8IsRefused) {
  auto guest = Guest::long_mode(out_cr8, 0);
  expect_error(guest.vcpu.try_set_cr8(16), EINVAL, "0 to 15");
  EXPECT_EQ(run_to_out(guest.vcpu), 0u);
}

TEST(LocalApic, ReachesTheGuest) {
  Machine machine;
  machine.vm.create_irqchip();
  auto vcpu = machine.vm.create_vcpu(0);
  machine.load(code_at, out_cr8);
  kvm_test::enter_long_mode(machine, vcpu, 0);
  auto lapic = vcpu.get_lapic();
  lapic.regs[0x80] = 0x30;  // TPR, of which CR8 is the upper half
  vcpu.set_lapic(lapic);
  EXPECT_EQ(run_to_out(vcpu), 3u);
}

TEST(LocalApic, WithoutOneIsExplained) {
  auto guest = Guest::real_mode(nop_hlt);
  expect_error(guest.vcpu.try_get_lapic(), EINVAL, "create_irqchip");
  expect_error(guest.vcpu.try_set_lapic({}), EINVAL, "create_irqchip");
  expect_error(guest.vcpu.try_set_vapic_addr(kvm::Gpa{0x4000}), EINVAL, "create_irqchip");
}

TEST(LocalApic, TprReportingAndVapic) {
  Machine machine;
  machine.vm.create_irqchip();
  auto vcpu = machine.vm.create_vcpu(0);
  KVM_REQUIRE(machine.vm, kvm::cap::Vapic);
  vcpu.set_vapic_addr(kvm::Gpa{0x4000});
  vcpu.set_vapic_addr(kvm::Gpa{0});
  vcpu.set_tpr_access_reporting(false);
  vcpu.set_tpr_access_reporting(true);
  // The guest reads the TPR at 0xfee00080, mapped at 0x200080.
  machine.load(code_at, {0xa1, 0x80, 0x00, 0x20, 0, 0, 0, 0, 0, out_eax, 0x10});
  kvm_test::enter_long_mode(machine, vcpu, 0);
  machine.load(0x102008, {0x83, 0x00, 0xe0, 0xfe, 0, 0, 0, 0});
  bool reported = false;
  for (int i = 0; i < 3 && !reported; ++i) {
    reported = ends_with<kvm::exits::TprAccess>(vcpu.run());
  }
  EXPECT_TRUE(reported);
}

TEST(Msrs, ReachTheGuest) {
  auto guest = Guest::long_mode({0xb9, 0x74, 0x01, 0, 0, 0x0f, 0x32,  // rdmsr 0x174
                                 out_eax, 0x10},
                                0);
  guest.vcpu.set_msr(msr_sysenter_cs, 0x1238);
  EXPECT_EQ(guest.vcpu.get_msr(msr_sysenter_cs), 0x1238u);
  EXPECT_EQ(run_to_out(guest.vcpu), 0x1238u);
}

TEST(Msrs, GuestsWritesComeBack) {
  auto guest = Guest::long_mode({0xb9, 0x75, 0x01, 0, 0, 0xb8, 0x78, 0x56, 0x34, 0x12, 0x31, 0xd2,
                                 0x0f, 0x30,  // xor edx, edx; wrmsr
                                 out_eax, 0x10},
                                0);
  run_to_out(guest.vcpu);
  EXPECT_EQ(guest.vcpu.get_msr(msr_sysenter_esp), 0x12345678u);
}

TEST(Msrs, CountsArePartial) {  // R80
  auto guest = Guest::real_mode(nop_hlt);
  std::array<uapi::kvm_msr_entry, 3> msrs{
      {{.index = msr_sysenter_cs, .reserved = 0, .data = 0x10},
       {.index = no_such_msr, .reserved = 0, .data = 0x20},
       {.index = msr_sysenter_esp, .reserved = 0, .data = 0x30}}};
  EXPECT_EQ(guest.vcpu.set_msrs(msrs), 1u);
  EXPECT_EQ(guest.vcpu.get_msr(msr_sysenter_cs), 0x10u);
  EXPECT_EQ(guest.vcpu.get_msr(msr_sysenter_esp), 0u);
  for (auto& msr : msrs) {
    msr.data = 0xdead;
  }
  EXPECT_EQ(guest.vcpu.get_msrs(msrs), 1u);
  EXPECT_EQ(msrs[0].data, 0x10u);
  EXPECT_EQ(msrs[1].data, 0xdeadu) << "what was not read is untouched";
  EXPECT_EQ(guest.vcpu.get_msrs({}), 0u);
}

TEST(Msrs, AnyNumberGoesInBlocks) {  // R80
  auto guest = Guest::real_mode(nop_hlt);
  std::vector<uapi::kvm_msr_entry> msrs(
      600, uapi::kvm_msr_entry{.index = msr_sysenter_cs, .reserved = 0, .data = 7});
  msrs.back() = {.index = msr_sysenter_esp, .reserved = 0, .data = 0x99};
  EXPECT_EQ(guest.vcpu.set_msrs(msrs), 600u);
  EXPECT_EQ(guest.vcpu.get_msr(msr_sysenter_esp), 0x99u);
  for (auto& msr : msrs) {
    msr.data = 0;
  }
  EXPECT_EQ(guest.vcpu.get_msrs(msrs), 600u);
  EXPECT_EQ(msrs[0].data, 7u);
  EXPECT_EQ(msrs[598].data, 7u);
  EXPECT_EQ(msrs[599].data, 0x99u);
  msrs[400].index = no_such_msr;
  EXPECT_EQ(guest.vcpu.get_msrs(msrs), 400u);
  EXPECT_EQ(guest.vcpu.set_msrs(msrs), 400u);
}

TEST(Msrs, ErrorsNameTheMsr) {
  auto guest = Guest::real_mode(nop_hlt);
  expect_error(guest.vcpu.try_get_msr(no_such_msr), ENOENT, "KVM_GET_MSRS(msr=0x12345)");
  expect_error(guest.vcpu.try_set_msr(no_such_msr, 0x77), EINVAL,
               "KVM_SET_MSRS(msr=0x12345, value=0x77)");
}

TEST(Tsc, FrequencyOfAVcpu) {
  auto guest = Guest::real_mode(nop_hlt);
  const auto khz = guest.vcpu.get_tsc_khz();
  EXPECT_GT(khz, 100'000u);
  guest.vcpu.set_tsc_khz(khz);
  if (guest.vm.check<kvm::cap::TscControl>()) {
    guest.vcpu.set_tsc_khz(khz / 2);
    EXPECT_EQ(guest.vcpu.get_tsc_khz(), khz / 2);
  } else {
    expect_error(guest.vcpu.try_set_tsc_khz(khz / 2), EINVAL, "cannot scale");
    EXPECT_EQ(guest.vcpu.get_tsc_khz(), khz);
  }
}

TEST(Translate, FollowsTheGuestsPageTables) {  // R37
  auto guest = Guest::long_mode({out_eax, 0x10});
  EXPECT_EQ(guest.vcpu.translate(0x123456), kvm::Gpa{0x123456});
  guest.load(0x102008, {0x83, 0x00, 0x00, 0x10, 0, 0, 0, 0});  // 2 MiB is at 0x10000000
  EXPECT_EQ(guest.vcpu.translate(0x200123), kvm::Gpa{0x10000123}) << "no memory is needed there";
  EXPECT_EQ(guest.vcpu.translate(0x4000000000), std::nullopt);
}

TEST(Clock, PausingAGuestWithoutKvmclockIsExplained) {
  auto guest = Guest::real_mode(nop_hlt);
  KVM_REQUIRE(guest.vm, kvm::cap::KvmclockCtrl);
  expect_error(guest.vcpu.try_kvmclock_ctrl(), EINVAL, "does not use kvmclock");
  guest.vcpu.set_msr(0x4b564d01, 0x5000 | 1);  // MSR_KVM_SYSTEM_TIME_NEW
  EXPECT_TRUE(ends_with<kvm::exits::Hlt>(guest.vcpu.run()));
  guest.vcpu.kvmclock_ctrl();
}

TEST(MachineChecks, AreSetUpAndInjected) {
  auto guest = Guest::real_mode(nop_hlt);
  const auto supported = guest.system.mce_cap_supported();
  ASSERT_NE(supported, 0u);
  expect_error(guest.vcpu.try_setup_mce(0xff), EINVAL, "mce_cap_supported");
  guest.vcpu.setup_mce((supported & ~std::uint64_t{0xff}) | 10);
  uapi::kvm_x86_mce mce{};
  mce.status = std::uint64_t{1} << 63;
  mce.bank = 3;
  mce.addr = 0x1234000;
  guest.vcpu.set_mce(mce);
  EXPECT_EQ(guest.vcpu.get_msr(0x400 + 4 * 3 + 2), 0x1234000u);
  mce.bank = 200;
  expect_error(guest.vcpu.try_set_mce(mce), EINVAL, "no such bank");
}

TEST(Nested, StateIsRefusedOrRoundTrips) {
  auto guest = Guest::long_mode({out_eax, 0x10});
  kvm::x86::NestedState longer(4096);
  auto header = longer.header();
  header.size = 4097;
  longer.set_header(header);
  expect_error(guest.vcpu.try_set_nested_state(longer), EINVAL, "speaks of 4097 bytes");
  expect_error(guest.vcpu.try_set_nested_state({}), EINVAL, "empty");
  if (guest.vm.check<kvm::cap::NestedState>() == 0) {
    expect_error(guest.vcpu.try_get_nested_state(), EINVAL, "KVM_CAP_NESTED_STATE");
  }
  KVM_REQUIRE(guest.vm, kvm::cap::NestedState);
  guest.vcpu.set_nested_state(guest.vcpu.get_nested_state());
}

using kvm::cap::SyncRegsFlag;

TEST(SyncRegs, AreStoredOnExit) {
  // mov eax, 0x11223344; out; mov eax, 0x55; out
  auto guest = Guest::long_mode({0xb8, 0x44, 0x33, 0x22, 0x11, out_eax, 0x10,  //
                                 0xb8, 0x55, 0, 0, 0, out_eax, 0x10});
  KVM_REQUIRE(guest.vm, kvm::cap::SyncRegs);
  EXPECT_EQ(guest.vcpu.synced_regs(), nullptr);
  EXPECT_EQ(guest.vcpu.synced_sregs(), nullptr);
  EXPECT_EQ(guest.vcpu.synced_vcpu_events(), nullptr);
  guest.vcpu.sync_on_exit(SyncRegsFlag::regs | SyncRegsFlag::sregs);
  ASSERT_NE(guest.vcpu.synced_regs(), nullptr);
  EXPECT_EQ(guest.vcpu.synced_regs()->rip, code_at) << "stored at once";
  EXPECT_EQ(guest.vcpu.synced_vcpu_events(), nullptr);
  run_to_out(guest.vcpu);
  EXPECT_EQ(guest.vcpu.synced_regs()->rax, 0x11223344u);
  EXPECT_EQ(guest.vcpu.synced_sregs()->cr3, 0x100000u);
  run_to_out(guest.vcpu);
  EXPECT_EQ(guest.vcpu.synced_regs()->rax, 0x55u) << "valid bits persist";
  guest.vcpu.sync_on_exit({});
  EXPECT_EQ(guest.vcpu.synced_regs(), nullptr);
}

TEST(SyncRegs, SettingMarksAndTheGuestSees) {
  auto guest = Guest::long_mode({out_eax, 0x10, 0x64, 0x8b, 0x04, 0x25, 0, 0, 0, 0, out_eax, 0x10});
  KVM_REQUIRE(guest.vm, kvm::cap::SyncRegs);
  guest.vcpu.sync_on_exit(SyncRegsFlag::regs | SyncRegsFlag::sregs);
  auto regs = *guest.vcpu.synced_regs();
  regs.rax = 0xabcdef;
  guest.vcpu.set_synced_regs(regs);
  EXPECT_EQ(guest.vcpu.run_page()->kvm_dirty_regs, uapi::sync::x86_regs);
  EXPECT_EQ(run_to_out(guest.vcpu), 0xabcdefu);
  EXPECT_EQ(guest.vcpu.run_page()->kvm_dirty_regs, 0u);  // R31
  ASSERT_FALSE(guest.vcpu.complete().has_value());
  guest.load(0x3000, {0x21, 0x43, 0x65, 0x07});
  auto sregs = *guest.vcpu.synced_sregs();
  sregs.fs.base = 0x3000;
  guest.vcpu.set_synced_sregs(sregs);
  EXPECT_EQ(run_to_out(guest.vcpu), 0x07654321u);
}

TEST(SyncRegs, EventsReachTheGuest) {
  auto machine = with_handler(2, nop_hlt);
  auto vcpu = machine.vm.create_vcpu(0);
  kvm_test::enter_real_mode(vcpu);
  KVM_REQUIRE(machine.vm, kvm::cap::SyncRegs, SyncRegsFlag::events);
  auto events = vcpu.get_vcpu_events();
  events.nmi.pending = 1;
  events.flags |= uapi::vcpuevent_valid::nmi_pending;
  vcpu.set_synced_vcpu_events(events);
  EXPECT_EQ(run_to_out(vcpu, 0x11), 0x5au);
}

// KVM loads the marked events at the next entry: what is queued in between must outlive that.
TEST(SyncRegs, AnNmiAfterMarkedEventsIsNotLost) {
  auto machine = with_handler(2, nop_hlt);
  auto vcpu = machine.vm.create_vcpu(0);
  kvm_test::enter_real_mode(vcpu);
  KVM_REQUIRE(machine.vm, kvm::cap::SyncRegs, SyncRegsFlag::events);
  vcpu.set_synced_vcpu_events(vcpu.get_vcpu_events());
  vcpu.nmi();
  // KVM counts it apart and merges it when it is asked, or at the entry.
  EXPECT_EQ(vcpu.get_vcpu_events().nmi.pending, 1);
  EXPECT_EQ(run_to_out(vcpu, 0x11), 0x5au);
}

TEST(SyncRegs, AnInterruptAfterMarkedEventsIsNotLost) {
  auto machine = with_handler(0x40, nop_hlt);
  auto vcpu = machine.vm.create_vcpu(0);
  enter_with_interrupts(vcpu);
  KVM_REQUIRE(machine.vm, kvm::cap::SyncRegs, SyncRegsFlag::events);
  vcpu.set_synced_vcpu_events(vcpu.get_vcpu_events());
  vcpu.interrupt(0x40);
  const auto events = vcpu.get_vcpu_events();
  EXPECT_EQ(events.interrupt.injected, 1);
  EXPECT_EQ(events.interrupt.nr, 0x40);
  EXPECT_EQ(run_to_out(vcpu, 0x11), 0x5au);
}

TEST(SyncRegs, GettersSeeWhatIsMarkedAndSettersReplaceIt) {
  auto guest = Guest::long_mode({out_eax, 0x10});
  KVM_REQUIRE(guest.vm, kvm::cap::SyncRegs);
  auto regs = guest.vcpu.get_regs();
  regs.rax = 1;
  guest.vcpu.set_synced_regs(regs);
  EXPECT_EQ(guest.vcpu.get_regs().rax, 1u);
  regs.rax = 2;
  guest.vcpu.set_regs(regs);
  EXPECT_EQ(guest.vcpu.get_regs().rax, 2u);
  auto sregs = guest.vcpu.get_sregs();
  sregs.cr3 = 0x105000;
  guest.vcpu.set_synced_sregs(sregs);
  EXPECT_EQ(guest.vcpu.get_sregs().cr3, 0x105000u);
  EXPECT_EQ(guest.vcpu.translate(0x1000), std::nullopt) << "the new page table is empty";
  EXPECT_EQ(guest.vcpu.run_page()->kvm_dirty_regs, 0u) << "given to KVM";
  sregs.cr3 = 0x100000;
  guest.vcpu.set_synced_sregs(sregs);
  EXPECT_EQ(run_to_out(guest.vcpu), 2u);
}

TEST(SyncRegs, TheStoredCopyIsNotLostWhenMarked) {
  auto guest = Guest::long_mode({out_eax, 0x10});
  KVM_REQUIRE(guest.vm, kvm::cap::SyncRegs);
  auto regs = guest.vcpu.get_regs();
  regs.rax = 0x31;
  guest.vcpu.set_synced_regs(regs);
  guest.vcpu.sync_on_exit(SyncRegsFlag::regs);  // must not store the old ones over it
  EXPECT_EQ(guest.vcpu.synced_regs()->rax, 0x31u);
  EXPECT_EQ(run_to_out(guest.vcpu), 0x31u);
}

TEST(SyncRegs, UnknownSetsAreRefusedBeforeEveryEntryFails) {  // R31
  auto guest = Guest::long_mode({out_eax, 0x10});
  KVM_REQUIRE(guest.vm, kvm::cap::SyncRegs);
  expect_error(guest.vcpu.try_sync_on_exit(kvm::Flags<SyncRegsFlag>::from_raw(0x41)), EINVAL,
               "this KVM can sync: regs");
  EXPECT_EQ(guest.vcpu.run_page()->kvm_valid_regs, 0u);
  run_to_out(guest.vcpu);
}

/// Everything that sets state, each of which must be refused while an IN waits.
struct Setter {
  const char* name;
  std::function<kvm::Result<void>(Guest&)> set;
};
std::vector<Setter> setters() {
  return {
      {"regs", [](Guest& g) { return g.vcpu.try_set_regs(g.vcpu.get_regs()); }},
      {"sregs", [](Guest& g) { return g.vcpu.try_set_sregs(g.vcpu.get_sregs()); }},
      {"sregs2", [](Guest& g) { return g.vcpu.try_set_sregs2({}); }},
      {"fpu", [](Guest& g) { return g.vcpu.try_set_fpu(g.vcpu.get_fpu()); }},
      {"xsave", [](Guest& g) { return g.vcpu.try_set_xsave(g.vcpu.get_xsave()); }},
      {"xcrs", [](Guest& g) { return g.vcpu.try_set_xcrs({}); }},
      {"debugregs", [](Guest& g) { return g.vcpu.try_set_debugregs({}); }},
      {"events", [](Guest& g) { return g.vcpu.try_set_vcpu_events(g.vcpu.get_vcpu_events()); }},
      {"lapic", [](Guest& g) { return g.vcpu.try_set_lapic({}); }},
      {"mp_state", [](Guest& g) { return g.vcpu.try_set_mp_state({}); }},
      {"cpuid", [](Guest& g) { return g.vcpu.try_set_cpuid2({}); }},
      {"msr", [](Guest& g) { return g.vcpu.try_set_msr(msr_sysenter_cs, 0); }},
      {"msrs",
       [](Guest& g) {
         auto result = g.vcpu.try_set_msrs({});
         return result ? kvm::Result<void>() : kvm::Result<void>(result.error());
       }},
      {"nested", [](Guest& g) { return g.vcpu.try_set_nested_state({}); }},
      {"synced regs", [](Guest& g) { return g.vcpu.try_set_synced_regs({}); }},
      {"synced sregs", [](Guest& g) { return g.vcpu.try_set_synced_sregs({}); }},
      {"synced events", [](Guest& g) { return g.vcpu.try_set_synced_vcpu_events({}); }},
      {"one_reg", [](Guest& g) { return g.vcpu.try_set_one_reg(0, std::uint8_t{}); }},
      {"guest debug", [](Guest& g) { return g.vcpu.try_set_guest_debug({}); }},
      {"snapshot", [](Guest& g) { return g.vcpu.try_restore_state({}); }},
  };
}

TEST(PendingCompletion, RefusesEverySetterAndKeepsWhatTheGuestReads) {  // R30
  auto guest = Guest::real_mode({0xe4, 0x81, 0xe6, 0x10});              // in al, 0x81; out 0x10, al
  guest.vcpu.run().visit([](kvm::exits::IoIn io) { io.data[0] = std::byte{0xab}; },
                         [](const auto&) { FAIL() << "no IN"; });
  ASSERT_TRUE(guest.vcpu.completion_pending());
  for (const Setter& setter : setters()) {
    SCOPED_TRACE(setter.name);
    expect_error(setter.set(guest), EBUSY, "call complete() first");
  }
  expect_error(guest.vcpu.try_save_state({}), EBUSY, "call complete() first");
  ASSERT_FALSE(HasFailure()) << "the guest could be anywhere now";
  ASSERT_FALSE(guest.vcpu.complete().has_value());
  auto regs = guest.vcpu.get_regs();
  EXPECT_EQ(regs.rax & 0xff, 0xabu);
  guest.vcpu.set_regs(regs);
  EXPECT_EQ(run_to_out(guest.vcpu) & 0xff, 0xabu);
}

TEST(MovedFrom, IsAnErrorNotACrash) {
  auto guest = Guest::real_mode(nop_hlt);
  kvm::Vcpu taken = std::move(guest.vcpu);
  kvm::Vcpu& empty = guest.vcpu;
  expect_error(empty.try_get_regs(), EBADF, "moved from");
  expect_error(empty.try_get_xsave(), EBADF, "moved from");
  expect_error(empty.try_set_xsave(kvm::x86::Xsave(4096)), EBADF, "moved from");
  expect_error(empty.try_set_sregs({}), EBADF, "moved from");
  expect_error(empty.try_get_msr(0x10), EBADF, "moved from");
  expect_error(empty.try_get_cpuid2(), EBADF, "moved from");
  expect_error(empty.try_translate(0), EBADF, "moved from");
  expect_error(empty.try_get_nested_state(), EBADF, "moved from");
  expect_error(empty.try_sync_on_exit({}), EBADF, "moved from");
  expect_error(empty.try_set_synced_regs({}), EBADF, "moved from");
  expect_error(empty.try_set_cr8(1), EBADF, "moved from");
  expect_error(empty.try_save_state({}), EBADF, "moved from");
  expect_error(empty.try_restore_state({}), EBADF, "moved from");
  EXPECT_EQ(empty.synced_regs(), nullptr);
  EXPECT_FALSE(empty.interrupt_flag());
  EXPECT_FALSE(empty.ready_for_interrupt_injection());
  EXPECT_EQ(empty.cr8(), 0u);
  EXPECT_EQ(empty.apic_base(), 0u);
  empty.request_interrupt_window(true);
  EXPECT_EQ(taken.xsave_size() % 64, 0u);
}

/// A guest whose result depends on registers, an XMM register, a word of memory and what it reads
/// from port 0x11: ten rounds, each with an IN and an OUT to 0x10, then the result to 0x12.
constexpr kvm_test::Code computation = {
    0xb8, 1,    0,    0,    0,                // mov eax, 1
    0xb9, 10,   0,    0,    0,                // mov ecx, 10
    0x66, 0x0f, 0x6e, 0xc0,                   // movd xmm0, eax
    0x6b, 0xc0, 0x03,                         // again: imul eax, eax, 3
    0x03, 0x04, 0x25, 0,    data_page, 0, 0,  // add eax, [0x3000]
    0xff, 0x04, 0x25, 0,    data_page, 0, 0,  // inc dword [0x3000]
    0x66, 0x0f, 0xfe, 0xc0,                   // paddd xmm0, xmm0
    0x89, 0xc3,                               // mov ebx, eax
    0xe5, 0x11,                               // in eax, 0x11
    0x01, 0xd8,                               // add eax, ebx
    0xe7, 0x10,                               // out 0x10, eax
    0xff, 0xc9,                               // dec ecx
    0x75, 0xdf,                               // jnz again
    0x66, 0x0f, 0x7e, 0xc3,                   // movd ebx, xmm0
    0x01, 0xd8,                               // add eax, ebx
    0xe7, 0x12,                               // out 0x12, eax
};

/// Serves the guest until it has a result, or has done `ins` INs.
std::uint32_t compute(kvm::Vcpu& vcpu, int ins) {
  std::uint32_t result = 0;
  bool done = ins == 0;
  while (!done) {
    const kvm::Exit exit = vcpu.run();
    exit.visit(
        [&](kvm::exits::IoIn io) {
          const std::uint32_t answer = 7;
          std::memcpy(io.data.data(), &answer, sizeof answer);
          done = --ins == 0;
        },
        [&](kvm::exits::IoOut io) {
          std::memcpy(&result, io.data.data(), sizeof result);
          done = io.port == 0x12;
        },
        [&](const auto&) {
          ADD_FAILURE() << "unexpected exit " << exit.name();
          done = true;
        });
  }
  return result;
}

std::uint32_t expected_result() {
  std::uint32_t eax = 1, memory = 5, xmm = 1;
  for (int i = 0; i < 10; ++i) {
    eax = eax * 3 + memory++;
    xmm += xmm;
    eax += 7;
  }
  return eax + xmm;
}

/// A second guest's memory becomes the first one's.
void copy_memory(const Machine& from, const Machine& to) {
  std::vector<std::byte> all(from.ram.size());
  ASSERT_TRUE(from.ram.fetch(kvm::Gpa{0}, all));
  ASSERT_TRUE(to.ram.load(kvm::Gpa{0}, all));
}

TEST(Snapshot, AGuestGoesOnInAnotherVm) {
  auto guest = Guest::long_mode(computation);
  guest.load(0x3000, {5, 0, 0, 0});
  guest.vcpu.set_cpuid2(guest.system.supported_cpuid());
  guest.vcpu.set_msr(msr_sysenter_esp, 0x77);
  compute(guest.vcpu, 5);
  expect_error(guest.vcpu.try_save_state(guest.system.msr_index_list()), EBUSY,
               "does its access again");
  ASSERT_FALSE(guest.vcpu.complete().has_value());
  const auto snapshot = guest.vcpu.save_state(guest.system.msr_index_list());
  EXPECT_GT(snapshot.msrs.size(), 5u);
  EXPECT_FALSE(snapshot.cpuid.empty());

  Guest other;
  copy_memory(guest, other);
  other.vcpu.restore_state(snapshot);
  EXPECT_EQ(other.vcpu.get_msr(msr_sysenter_esp), 0x77u);
  EXPECT_EQ(other.vcpu.get_regs().rip, guest.vcpu.get_regs().rip);
  EXPECT_TRUE(other.vcpu.get_cpuid2() == guest.vcpu.get_cpuid2());
  EXPECT_EQ(compute(other.vcpu, 100), expected_result());
  EXPECT_EQ(compute(guest.vcpu, 100), expected_result()) << "saving changed the guest";
}

TEST(Snapshot, AVcpuThatHasRunGoesBack) {
  auto guest = Guest::long_mode(computation);
  guest.load(0x3000, {5, 0, 0, 0});
  guest.vcpu.set_cpuid2(guest.system.supported_cpuid());
  compute(guest.vcpu, 3);
  ASSERT_FALSE(guest.vcpu.complete().has_value());
  const auto snapshot = guest.vcpu.save_state(guest.system.msr_index_list());
  Machine memory;
  copy_memory(guest, memory);
  for (int round = 0; round < 2; ++round) {
    EXPECT_EQ(compute(guest.vcpu, 100), expected_result());
    ASSERT_FALSE(guest.vcpu.complete().has_value());
    copy_memory(memory, guest);
    guest.vcpu.restore_state(snapshot);  // R81: with the table that it has
  }
}

/// A guest with an exception on its way, pending or injected, goes on in another VM.
void expect_exception_survives(bool pending) {
  constexpr unsigned debug_exception = 1;
  const auto make = [&] {
    auto machine = with_handler(debug_exception, nop_hlt);
    machine.vm.enable(kvm::cap::ExceptionPayload{});
    return machine;
  };
  auto first = make();
  auto vcpu = first.vm.create_vcpu(0);
  kvm_test::enter_real_mode(vcpu);
  auto events = vcpu.get_vcpu_events();
  events.exception.nr = debug_exception;
  events.exception.has_error_code = 0;
  events.exception.pending = pending ? 1 : 0;
  events.exception.injected = pending ? 0 : 1;
  events.flags |= uapi::vcpuevent_valid::payload;
  vcpu.set_vcpu_events(events);
  const auto snapshot = vcpu.save_state({});
  EXPECT_EQ(snapshot.events.exception.pending, pending ? 1 : 0);
  EXPECT_EQ(snapshot.events.exception.injected, pending ? 0 : 1);

  auto second = make();
  auto other = second.vm.create_vcpu(0);
  other.restore_state(snapshot);
  const auto restored = other.get_vcpu_events();
  EXPECT_EQ(restored.exception.pending, pending ? 1 : 0);
  EXPECT_EQ(restored.exception.injected, pending ? 0 : 1);
  EXPECT_EQ(restored.exception.nr, debug_exception);
  EXPECT_EQ(run_to_out(other, 0x11), 0x5au) << "the restored guest's handler";
  EXPECT_EQ(run_to_out(vcpu, 0x11), 0x5au) << "the saved guest's handler";
}

TEST(Snapshot, KeepsAPendingException) {
  KVM_REQUIRE(kvm::System(), kvm::cap::ExceptionPayload);
  expect_exception_survives(true);
}

TEST(Snapshot, KeepsAnInjectedException) {
  KVM_REQUIRE(kvm::System(), kvm::cap::ExceptionPayload);
  expect_exception_survives(false);
}

TEST(Snapshot, HoldsWhatIsMarkedInTheRunPage) {
  auto guest = Guest::long_mode({out_eax, 0x10});
  KVM_REQUIRE(guest.vm, kvm::cap::SyncRegs);
  auto regs = guest.vcpu.get_regs();
  regs.rax = 0x4711;
  guest.vcpu.set_synced_regs(regs);
  EXPECT_EQ(guest.vcpu.save_state({}).regs.rax, 0x4711u);
  EXPECT_EQ(run_to_out(guest.vcpu), 0x4711u);
}

TEST(Snapshot, WithALocalApic) {
  const auto start = [](Machine& machine) {
    machine.vm.create_irqchip();
    auto vcpu = machine.vm.create_vcpu(0);
    vcpu.set_cpuid2(machine.system.supported_cpuid());
    return vcpu;
  };
  Machine first;
  auto vcpu = start(first);
  first.load(code_at, out_cr8);
  kvm_test::enter_long_mode(first, vcpu, 0);
  auto lapic = vcpu.get_lapic();
  constexpr std::size_t timer_divider = 0x3e0;
  lapic.regs[0x80] = 0x40;
  lapic.regs[timer_divider] = 0x3;
  vcpu.set_lapic(lapic);
  const auto snapshot = vcpu.save_state(first.system.msr_index_list());
  ASSERT_TRUE(snapshot.lapic.has_value());

  Machine second;
  auto other = start(second);
  copy_memory(first, second);
  other.restore_state(snapshot);
  EXPECT_EQ(other.get_lapic().regs[timer_divider], 0x3);
  EXPECT_EQ(run_to_out(other), 4u);
}

TEST(Snapshot, LeavesOutMsrsThatTheVcpuDoesNotHave) {
  auto guest = Guest::long_mode({out_eax, 0x10});
  guest.vcpu.set_msr(msr_sysenter_esp, 0x31);
  const auto snapshot = guest.vcpu.save_state(
      std::array{no_such_msr, msr_sysenter_cs, no_such_msr, msr_sysenter_esp});
  ASSERT_EQ(snapshot.msrs.size(), 2u);
  EXPECT_EQ(snapshot.msrs[0].index, msr_sysenter_cs);
  EXPECT_EQ(snapshot.msrs[1].index, msr_sysenter_esp);
  EXPECT_EQ(snapshot.msrs[1].data, 0x31u);
}

TEST(Snapshot, AnMsrThatIsRefusedIsNamed) {
  auto guest = Guest::long_mode({out_eax, 0x10});
  auto snapshot = guest.vcpu.save_state({});
  snapshot.msrs = {{.index = no_such_msr, .reserved = 0, .data = 1}};
  expect_error(guest.vcpu.try_restore_state(snapshot), EINVAL, "msr=0x12345");
}

}  // namespace
