// SPDX-License-Identifier: MIT
// needs: arm64
// arm64 guests: their exits, their registers, their interrupt controller.
#include "support/guest.hpp"
#include "support/require.hpp"

#include <kvm/arm64/gic.hpp>
#include <kvm/kvm.hpp>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>

#include <gtest/gtest.h>

namespace {

namespace cap = kvm::cap;
namespace exits = kvm::exits;
namespace reg = kvm::arm64::reg;
namespace uapi = kvm::uapi;
using kvm::Gpa;
using kvm_test::create_arm64_vcpu;
using kvm_test::Guest;
using kvm_test::Machine;
using kvm_test::mmio_at;

template <class E>
std::optional<E> as(const kvm::Exit& exit) {
  return exit.visit([](E seen) { return std::optional<E>(seen); },
                    [&](auto&&) {
                      ADD_FAILURE() << exit.describe();
                      return std::optional<E>();
                    });
}

template <class T>
void expect_error(const kvm::Result<T>& result, int error_number, const std::string& words) {
  ASSERT_FALSE(result.has_value()) << "expected: " << words;
  EXPECT_EQ(result.error().error_number(), error_number) << result.error().what();
  EXPECT_NE(std::string(result.error().what()).find(words), std::string::npos)
      << result.error().what();
}

std::uint64_t number(std::span<const std::byte> data) {
  std::uint64_t value = 0;
  std::memcpy(&value, data.data(), std::min(data.size(), sizeof value));
  return value;
}

// --- exits ---

TEST(Arm64Mmio, WritesHaveTheirSizeAndPlace) {
  Guest guest = Guest::running({
      0x39000025,  // strb w5, [x1]
      0x79001025,  // strh w5, [x1, #8]
      0xb9001025,  // str w5, [x1, #16]
      0xf9000c25,  // str x5, [x1, #24]
  });
  guest.set(reg::x(5), 0x1122334455667788);
  std::uint64_t offset = 0;
  for (const std::size_t size : {1u, 2u, 4u, 8u}) {
    const kvm::Exit exit = guest.vcpu.run();
    const auto write = as<exits::MmioWrite>(exit);
    ASSERT_TRUE(write);
    EXPECT_EQ(write->gpa, Gpa{mmio_at + offset});
    ASSERT_EQ(write->data.size(), size);
    const std::uint64_t mask = size == 8 ? ~0ull : (1ull << 8 * size) - 1;
    EXPECT_EQ(number(write->data), 0x1122334455667788 & mask);
    offset += 8;
  }
}

TEST(Arm64Mmio, ReadsReachTheRegister) {
  Guest guest = Guest::running({
      0xf9400c26,  // ldr x6, [x1, #24]
      0x39408027,  // ldrb w7, [x1, #32]
      0xb9400028,  // ldr w8, [x1]
      0x39000025,  // strb w5, [x1]
  });
  guest.set(reg::x(8), ~std::uint64_t{0});
  for (const std::size_t size : {8u, 1u, 4u}) {
    const kvm::Exit exit = guest.vcpu.run();
    const auto read = as<exits::MmioRead>(exit);
    ASSERT_TRUE(read);
    ASSERT_EQ(read->data.size(), size);
    std::fill(read->data.begin(), read->data.end(), std::byte{0x91});
  }
  ASSERT_TRUE(as<exits::MmioWrite>(guest.vcpu.run()));
  EXPECT_EQ(guest.x(6), 0x9191919191919191u);
  // (KVM extends what ldrsb loads, where the CPU says that it is one; QEMU 7.2's does not.)
  EXPECT_EQ(guest.x(7), 0x91u);
  EXPECT_EQ(guest.x(8), 0x91919191u);
}

TEST(Arm64Mmio, ACompletionPutsTheAnswerInTheRegisterAndRunsNoFurther) {
  Guest guest = Guest::running({0xb9400028, 0x39000025});  // ldr w8, [x1]; strb w5, [x1]
  const auto before = guest.get(reg::pc);
  {
    const kvm::Exit exit = guest.vcpu.run();
    const auto read = as<exits::MmioRead>(exit);
    ASSERT_TRUE(read);
    read->data[0] = std::byte{0x42};
  }
  EXPECT_TRUE(guest.vcpu.completion_pending());
  expect_error(guest.vcpu.try_set_one_reg(reg::x(3), std::uint64_t{1}), EBUSY, "");
  EXPECT_FALSE(guest.vcpu.complete());
  EXPECT_FALSE(guest.vcpu.completion_pending());
  EXPECT_EQ(guest.x(8), 0x42u);
  EXPECT_EQ(guest.get(reg::pc), before + 4);
  guest.set(reg::x(5), 7);
  const kvm::Exit exit = guest.vcpu.run();
  const auto write = as<exits::MmioWrite>(exit);
  ASSERT_TRUE(write);
  EXPECT_EQ(write->data[0], std::byte{7});
}

TEST(Arm64Mmio, StoresReachMemory) {
  Guest guest = Guest::running({
      0xf8008445,  // l: str x5, [x2], #8
      0xf1000463,  // subs x3, x3, #1
      0x54ffffc1,  // b.ne l
      0x39000025,  // strb w5, [x1]
  });
  guest.set(reg::x(2), 0x10000);
  guest.set(reg::x(3), 1000);
  guest.set(reg::x(5), 0x0102030405060708);
  ASSERT_TRUE(as<exits::MmioWrite>(guest.vcpu.run()));
  auto view = guest.vm.memory().view();
  for (std::uint64_t i = 0; i < 1000; ++i) {
    ASSERT_EQ(view.read<std::uint64_t>(Gpa{0x10000 + 8 * i}), 0x0102030405060708u) << i;
  }
  EXPECT_EQ(view.read<std::uint64_t>(Gpa{0x10000 + 8000}), 0u);
}

TEST(Arm64Mmio, AnAccessWithoutAnAddressIsAnExitOfItsOwn) {
  // ldp x5, x6, [x1] does not tell the hypervisor what it was.
  Machine machine;
  KVM_REQUIRE(machine.vm, cap::ArmNisvToUser);
  machine.vm.enable(cap::ArmNisvToUser{});
  kvm::Vcpu vcpu = create_arm64_vcpu(machine.vm);
  machine.load(kvm_test::code_at, {0xa9401825u});
  vcpu.set_one_reg(reg::pc, kvm_test::code_at);
  vcpu.set_one_reg(reg::x(1), mmio_at);
  const kvm::Exit exit = vcpu.run();
  const auto nisv = as<exits::ArmNisv>(exit);
  ASSERT_TRUE(nisv);
  EXPECT_EQ(nisv->fault_ipa, Gpa{mmio_at});
}

/// The guest calls PSCI's `function`.
Guest calling(std::uint32_t function) {
  Guest guest = Guest::running({0xd4000002, 0x14000000});  // hvc #0; b .
  guest.set(reg::x(0), function);
  return guest;
}

TEST(Arm64Psci, PowerOffAndResetAreSystemEvents) {
  struct Case {
    std::uint32_t function;
    std::uint32_t type;
  };
  for (const Case& each : {Case{0x84000008, uapi::system_event::shutdown},
                           Case{0x84000009, uapi::system_event::reset}}) {
    Guest guest = calling(each.function);
    const kvm::Exit exit = guest.vcpu.run();
    const auto event = as<exits::SystemEvent>(exit);
    ASSERT_TRUE(event);
    EXPECT_EQ(event->type, each.type);
    EXPECT_STREQ(exit.name(), "KVM_EXIT_SYSTEM_EVENT");
  }
}

TEST(Arm64Psci, OtherCallsAreAnsweredByKvm) {
  // hvc #0; mov x4, #0x30000000; strb w0, [x4]  (an answer takes x0 to x3)
  Guest guest = Guest::running({0xd4000002, 0xd2a60004, 0x39000080});
  guest.set(reg::x(0), 0x84000000);  // PSCI_VERSION
  ASSERT_TRUE(as<exits::MmioWrite>(guest.vcpu.run()));
  EXPECT_GE(guest.x(0), 2u) << "PSCI 0.2 or newer";
}

TEST(Arm64Psci, ASecondVcpuIsStartedByTheFirst) {
  Machine machine;
  kvm::Vcpu first = create_arm64_vcpu(machine.vm, 0);
  auto init = machine.vm.preferred_target();
  init.features[0] |=
      1u << uapi::arm_vcpu_feature::psci_0_2 | 1u << uapi::arm_vcpu_feature::power_off;
  kvm::Vcpu second = machine.vm.create_vcpu(1);
  second.init(init);
  EXPECT_EQ(second.get_mp_state().mp_state, uapi::mp_state::stopped);
  // hvc #0; mov x4, #0x30000000; strb w0, [x4]
  machine.load(kvm_test::code_at, {0xd4000002u, 0xd2a60004u, 0x39000080u});
  machine.load(0x2000, {0xd2a60004u, 0x39000080u});  // mov x4, #0x30000000; strb w0, [x4]
  first.set_one_reg(reg::pc, kvm_test::code_at);
  first.set_one_reg(reg::x(0), std::uint64_t{0xc4000003});  // CPU_ON
  first.set_one_reg(reg::x(1), std::uint64_t{1});           // its affinity
  first.set_one_reg(reg::x(2), std::uint64_t{0x2000});      // where it begins
  first.set_one_reg(reg::x(3), std::uint64_t{0x5a});        // what it gets in x0
  ASSERT_TRUE(as<exits::MmioWrite>(first.run()));
  EXPECT_EQ(first.get_one_reg<std::uint64_t>(reg::x(0)), 0u) << "CPU_ON succeeded";
  EXPECT_EQ(second.get_mp_state().mp_state, uapi::mp_state::runnable);
  const kvm::Exit exit = second.run();
  const auto write = as<exits::MmioWrite>(exit);
  ASSERT_TRUE(write);
  EXPECT_EQ(write->data[0], std::byte{0x5a});
}

// --- registers ---

TEST(Arm64Registers, ComeBackAsTheyWereSet) {
  Guest guest = Guest::running({0x14000000});
  for (unsigned i = 0; i <= 30; ++i) {
    guest.set(reg::x(i), 0x100000000 * i + i);
  }
  for (const std::uint64_t id : {reg::sp, reg::sp_el1, reg::elr_el1}) {
    guest.set(id, id);
  }
  for (unsigned i = 0; i <= 30; ++i) {
    EXPECT_EQ(guest.x(i), 0x100000000 * i + i);
  }
  for (const std::uint64_t id : {reg::sp, reg::sp_el1, reg::elr_el1}) {
    EXPECT_EQ(guest.get(id), id);
  }
  EXPECT_EQ(guest.get(reg::pc), kvm_test::code_at);
  EXPECT_EQ(guest.get(reg::pstate) & 0xf, 5u) << "EL1 with its own stack pointer";
  const std::array<std::uint64_t, 2> wide{0x3344, 0x1122};
  guest.vcpu.set_one_reg(reg::v(31), wide);
  EXPECT_EQ((guest.vcpu.get_one_reg<std::array<std::uint64_t, 2>>(reg::v(31))), wide);
}

TEST(Arm64Registers, AreListed) {
  const Guest guest = Guest::running({0x14000000});
  const auto list = guest.vcpu.get_reg_list();
  for (const std::uint64_t id : {reg::x(0), reg::x(30), reg::pc, reg::pstate, reg::v(0)}) {
    EXPECT_TRUE(std::find(list.begin(), list.end(), id) != list.end()) << std::hex << id;
  }
  for (const std::uint64_t id : list) {
    if ((id & uapi::reg::size_mask) == uapi::reg::size_u64) {
      EXPECT_TRUE(guest.vcpu.try_get_one_reg<std::uint64_t>(id)) << std::hex << id;
    }
  }
}

TEST(Arm64Registers, SystemRegistersHaveTheNumbersOfMsr) {
  Guest guest = Guest::running({0xd538d080, 0x39000020});  // mrs x0, tpidr_el1; strb w0, [x1]
  guest.set(reg::sysreg(3, 0, 13, 0, 4), 0x77);            // TPIDR_EL1
  ASSERT_TRUE(as<exits::MmioWrite>(guest.vcpu.run()));
  EXPECT_EQ(guest.x(0), 0x77u);
}

TEST(Arm64Registers, OfAnotherSizeOrUnknownAreRefused) {
  Guest guest = Guest::running({0x14000000});
  EXPECT_FALSE(guest.vcpu.try_get_one_reg<std::uint64_t>(reg::core(4)));
  EXPECT_FALSE(guest.vcpu.try_get_one_reg<std::uint64_t>(reg::core(1 << 12)));
}

TEST(Arm64VcpuInit, MustComeFirst) {
  Machine machine;
  kvm::Vcpu vcpu = machine.vm.create_vcpu(0);
  vcpu.run().visit([](exits::Failed failed) { EXPECT_EQ(failed.error_number, ENOEXEC); },
                   [](auto&&) { ADD_FAILURE() << "it ran"; });
  EXPECT_FALSE(vcpu.try_get_one_reg<std::uint64_t>(reg::pc));
}

TEST(Arm64VcpuInit, OfAFeatureThatTheHostLacksIsExplained) {
  Machine machine;
  kvm::Vcpu vcpu = machine.vm.create_vcpu(0);
  auto init = machine.vm.preferred_target();
  init.features[6] = 1u << 31;
  expect_error(vcpu.try_init(init), ENOENT, "lacks one of the features");
}

TEST(Arm64VcpuInit, AgainResetsTheVcpu) {
  Guest guest = Guest::running({0x39000020});  // strb w0, [x1]
  ASSERT_TRUE(as<exits::MmioWrite>(guest.vcpu.run()));
  EXPECT_FALSE(guest.vcpu.complete());
  auto init = guest.vm.preferred_target();
  init.features[0] |= 1u << uapi::arm_vcpu_feature::psci_0_2;
  guest.vcpu.init(init);
  EXPECT_EQ(guest.get(reg::pc), 0u);
  EXPECT_EQ(guest.x(1), 0u);
}

TEST(Arm64Events, SErrorsAreKept) {
  Guest guest = Guest::running({0x14000000});
  auto events = guest.vcpu.get_vcpu_events();
  EXPECT_EQ(events.exception.serror_pending, 0);
  events.exception.serror_pending = 1;
  guest.vcpu.set_vcpu_events(events);
  EXPECT_EQ(guest.vcpu.get_vcpu_events().exception.serror_pending, 1);
}

// --- the interrupt controller ---

constexpr kvm::arm64::GicV3Options gic_options{.distributor = Gpa{0x8000000},
                                               .redistributors = Gpa{0x80a0000}};

/// One of the distributor's registers, as KVM keeps it.
std::uint32_t distributor(const kvm::arm64::GicV3& gic, std::uint64_t offset) {
  std::uint32_t value = 0;
  gic.device().get_device_attr(uapi::arm_vgic::grp_dist_regs, offset, value);
  return value;
}

TEST(Arm64Gic, AnInterruptLineIsSeenByIt) {
  Machine machine;
  kvm::arm64::GicV3 gic(machine.vm, gic_options);
  const kvm::Vcpu vcpu = create_arm64_vcpu(machine.vm);
  gic.init();
  constexpr std::uint64_t pending_32_to_63 = 0x204;  // GICD_ISPENDR1
  EXPECT_EQ(distributor(gic, pending_32_to_63), 0u);
  machine.vm.irq_line(kvm::arm64::IrqLine::spi(35), true);
  EXPECT_EQ(distributor(gic, pending_32_to_63) & 1u << 3, 1u << 3);
}

TEST(Arm64Gic, IsOnePerVm) {
  Machine machine;
  const kvm::arm64::GicV3 gic(machine.vm, gic_options);
  EXPECT_FALSE(kvm::arm64::GicV3::try_create(machine.vm, gic_options));
}

TEST(Arm64Gic, MustNotOverlap) {
  Machine machine;
  const auto gic = kvm::arm64::GicV3::try_create(
      machine.vm, {.distributor = Gpa{0x8000000}, .redistributors = Gpa{0x8000000}});
  if (gic) {  // Checked when it is used at the latest.
    kvm::Vcpu vcpu = create_arm64_vcpu(machine.vm);
    vcpu.run().visit([](exits::Failed) {}, [](auto&&) { ADD_FAILURE() << "it ran"; });
  }
}

/// A guest that takes interrupt 35 as its first: it sets up the GIC and waits.
TEST(Arm64Gic, AnInterruptWakesAGuestThatWaits) {
  Machine machine;
  kvm::arm64::GicV3 gic(machine.vm, gic_options);
  kvm::Vcpu vcpu = create_arm64_vcpu(machine.vm);
  gic.init();
  machine.load(kvm_test::code_at, {
                                      0xd2a10002u,  // mov x2, #0x08000000, the distributor
                                      0x52800243u,  // mov w3, #0x12: affinity routing, group 1
                                      0xb9000043u,  // str w3, [x2]
                                      0x52800104u,  // mov w4, #8: interrupt 35
                                      0xb9008444u,  // str w4, [x2, #0x84], its group: 1
                                      0xb9010444u,  // str w4, [x2, #0x104]: enabled
                                      0xd2801fe5u,  // mov x5, #0xff
                                      0xd5184605u,  // msr icc_pmr_el1, x5: all priorities
                                      0xd2800026u,  // mov x6, #1
                                      0xd518cce6u,  // msr icc_igrpen1_el1, x6
                                      0xd5033fdfu,  // isb
                                      0xd503207fu,  // wfi, with interrupts masked
                                      0xd538cc00u,  // mrs x0, icc_iar1_el1
                                      0xb9000020u,  // str w0, [x1]
                                  });
  vcpu.set_one_reg(reg::pc, kvm_test::code_at);
  vcpu.set_one_reg(reg::x(1), mmio_at);
  machine.vm.irq_line(kvm::arm64::IrqLine::spi(35), true);
  const kvm::Exit exit = vcpu.run();
  const auto write = as<exits::MmioWrite>(exit);
  ASSERT_TRUE(write);
  EXPECT_EQ(number(write->data), 35u);
}

}  // namespace
