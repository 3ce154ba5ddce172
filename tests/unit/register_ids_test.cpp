// SPDX-License-Identifier: MIT
// The ids of other architectures' registers are numbers: they can be looked at anywhere.
#include <gtest/gtest.h>

#include <kvm/arm64/registers.hpp>
#include <kvm/riscv/registers.hpp>

namespace {

TEST(RegisterIds, Arm64) {
  namespace reg = kvm::arm64::reg;
  static_assert(reg::x(0) == 0x6030000000100000);
  static_assert(reg::x(30) == 0x603000000010003c);
  static_assert(reg::sp == 0x603000000010003e);
  static_assert(reg::pc == 0x6030000000100040);
  static_assert(reg::pstate == 0x6030000000100042);
  static_assert(reg::sp_el1 == 0x6030000000100044);
  static_assert(reg::elr_el1 == 0x6030000000100046);
  static_assert(reg::spsr_el1 == 0x6030000000100048);
  static_assert(reg::v(0) == 0x6040000000100054);
  static_assert(reg::v(31) == 0x60400000001000d0);
  static_assert(reg::fpsr == 0x60200000001000d4);
  static_assert(reg::fpcr == 0x60200000001000d5);
  static_assert(reg::sysreg(3, 0, 0, 0, 5) == 0x603000000013c005);  // MPIDR_EL1
  static_assert(reg::sysreg(3, 3, 14, 3, 1) == 0x603000000013df19);
  static_assert(reg::sysreg(3, 3, 14, 3, 1) == kvm::uapi::reg_arm64::timer_ctl);
}

TEST(RegisterIds, Riscv) {
  namespace reg = kvm::riscv::reg;
  static_assert(reg::isa == 0x8030000001000000);
  static_assert(reg::pc == 0x8030000002000000);
  static_assert(reg::ra == 0x8030000002000001);
  static_assert(reg::a(0) == 0x803000000200000a);
  static_assert(reg::x(31) == 0x803000000200001f);
  static_assert(reg::mode == 0x8030000002000020);
  static_assert(reg::sstatus == 0x8030000003000000);
  static_assert(reg::satp == 0x8030000003000008);
  static_assert(reg::timer_time == 0x8030000004000001);
}

}  // namespace
