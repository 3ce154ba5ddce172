// SPDX-License-Identifier: MIT
// Capabilities of a real KVM: what check() reads, what enable() achieves, and
// what is said when it can't.
// needs: x86
#include "support/guest.hpp"
#include "support/require.hpp"

#include <kvm/kvm.hpp>

#include <cerrno>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <type_traits>

#include <gtest/gtest.h>
#include <sys/ioctl.h>

namespace {

namespace cap = kvm::cap;
namespace request = kvm::uapi::request;
using kvm_test::Guest;
using kvm_test::Machine;
using kvm_test::operator""_KiB;

void expect_error(const kvm::Result<void>& result, int error_number,
                  std::initializer_list<std::string_view> words) {
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().error_number(), error_number) << result.error().what();
  for (const std::string_view word : words) {
    EXPECT_NE(std::string_view(result.error().what()).find(word), std::string_view::npos)
        << "\"" << word << "\" is not in: " << result.error().what();
  }
}

/// The kernel's answer, past the library.
int ask(int fd, unsigned number) {
  return ::ioctl(fd, request::check_extension.code, static_cast<unsigned long>(number));
}

template <class Handle>
void expect_same_answers(const Handle& handle) {
  int checked = 0;
  kvm::for_each_capability([&]<class C>(std::type_identity<C>) {
    ++checked;
    const int raw = ask(handle.fd(), C::info.number);
    if (raw < 0) {
      return;
    }
    EXPECT_EQ(handle.check_raw(C::info.number), raw) << C::info.name;
    const auto value = handle.template try_check<C>();
    ASSERT_TRUE(value) << C::info.name;
    if constexpr (std::is_same_v<typename C::Value, bool>) {
      EXPECT_EQ(*value, raw > 0) << C::info.name;
    } else if constexpr (std::is_integral_v<typename C::Value>) {
      EXPECT_EQ(static_cast<std::int64_t>(*value), raw) << C::info.name;
    } else {
      EXPECT_EQ(static_cast<std::uint32_t>(value->raw()), static_cast<std::uint32_t>(raw))
          << C::info.name;
    }
  });
  EXPECT_GT(checked, 50);
}

TEST(CheckCapability, GivesWhatKvmSaysOfAll) {
  const kvm::System system;
  expect_same_answers(system);
  expect_same_answers(system.create_vm());
}

TEST(CheckCapability, OfNumbersThatKvmDoesNotKnowIsZero) {
  const Machine machine;
  for (const unsigned number : {100'000u, 0x7fffffffu}) {
    EXPECT_EQ(machine.system.check_raw(number), 0);
    EXPECT_EQ(machine.vm.check_raw(number), 0);
  }
}

TEST(CheckCapability, HasTheValuesType) {
  const Machine machine;
  static_assert(std::is_same_v<decltype(machine.vm.check<cap::UserMemory>()), bool>);
  EXPECT_TRUE(machine.vm.check<cap::UserMemory>());
  static_assert(std::is_unsigned_v<decltype(machine.vm.check<cap::NrMemslots>())>);
  EXPECT_GE(machine.vm.check<cap::NrMemslots>(), 32u);
  EXPECT_TRUE(machine.vm.check<cap::SyncRegs>().contains(cap::SyncRegsFlag::regs));
}

/// A fresh VM on which the capability is enabled; false if it is not offered.
template <class C>
bool enables(const C& capability) {
  Machine machine;
  if (!kvm_test::offers<C>(machine.vm)) {
    return false;
  }
  const auto result = machine.vm.try_enable(capability);
  EXPECT_TRUE(result) << result.error().what();
  // A VM that has it still runs a guest.
  kvm::Vcpu vcpu = machine.vm.create_vcpu(0);
  machine.load(kvm_test::code_at, {0xe6, 0x20});
  kvm_test::enter_real_mode(vcpu);
  EXPECT_STREQ(vcpu.run().name(), "KVM_EXIT_IO") << C::info.name;
  return true;
}

/// Skips only where enables() says that the capability is not offered.
#define EXPECT_ENABLES(...)                                                            \
  if (const auto capability = __VA_ARGS__; !enables(capability)) {                     \
    GTEST_SKIP() << decltype(capability)::info.name << " is not offered by this host"; \
  }

TEST(EnableCapability, DisableQuirks) {
  EXPECT_ENABLES(cap::DisableQuirks{.quirks = cap::Quirk::cd_nw_cleared});
}
TEST(EnableCapability, DisableQuirks2) {
  EXPECT_ENABLES(cap::DisableQuirks2{.quirks = cap::Quirk::cd_nw_cleared});
}
TEST(EnableCapability, SplitIrqchip) {
  EXPECT_ENABLES(cap::SplitIrqchip{.userspace_ioapic_routes = 24});
}
TEST(EnableCapability, X2ApicApi) {
  EXPECT_ENABLES(cap::X2ApicApi{.flags = cap::X2ApicFlag::use_32bit_ids |
                                         cap::X2ApicFlag::disable_broadcast_quirk});
}
TEST(EnableCapability, X86DisableExits) {
  const Machine machine;
  KVM_REQUIRE(machine.vm, cap::X86DisableExits, cap::DisabledExit::pause);
  EXPECT_ENABLES(cap::X86DisableExits{.exits = cap::DisabledExit::pause});
}
TEST(EnableCapability, MsrPlatformInfo) { EXPECT_ENABLES(cap::MsrPlatformInfo{.enabled = false}); }
TEST(EnableCapability, ExceptionPayload) { EXPECT_ENABLES(cap::ExceptionPayload{}); }
TEST(EnableCapability, X86TripleFaultEvent) { EXPECT_ENABLES(cap::X86TripleFaultEvent{}); }
TEST(EnableCapability, X86UserSpaceMsr) {
  EXPECT_ENABLES(cap::X86UserSpaceMsr{.reasons = cap::MsrExitReason::unknown});
}
TEST(EnableCapability, X86BusLockExit) {
  const Machine machine;
  KVM_REQUIRE(machine.vm, cap::X86BusLockExit, cap::BusLockDetection::exit);
  EXPECT_ENABLES(cap::X86BusLockExit{.mode = cap::BusLockDetection::exit});
}
TEST(EnableCapability, ExitHypercall) {
  EXPECT_ENABLES(cap::ExitHypercall{.hypercalls = cap::Hypercall::map_gpa_range});
}
TEST(EnableCapability, ExitOnEmulationFailure) { EXPECT_ENABLES(cap::ExitOnEmulationFailure{}); }
TEST(EnableCapability, PmuCapability) {
  const Machine machine;
  KVM_REQUIRE(machine.vm, cap::PmuCapability, cap::PmuFlag::disable);
  EXPECT_ENABLES(cap::PmuCapability{.flags = cap::PmuFlag::disable});
}
TEST(EnableCapability, X86NotifyVmexit) {
  const Machine machine;
  KVM_REQUIRE(machine.vm, cap::X86NotifyVmexit);
  EXPECT_ENABLES(cap::X86NotifyVmexit{});
}
/// Before Linux 6.0 KVM_CAP_MAX_VCPU_ID only says a number.
bool limits_vcpu_ids() { return Machine().vm.try_enable(cap::MaxVcpuId{.limit = 8}).has_value(); }

TEST(EnableCapability, MaxVcpuId) {
  if (limits_vcpu_ids()) {
    EXPECT_ENABLES(cap::MaxVcpuId{.limit = 8});
  } else {
    expect_error(Machine().vm.try_enable(cap::MaxVcpuId{.limit = 8}), EINVAL,
                 {"KVM_CAP_MAX_VCPU_ID", "limit=8"});
  }
}
TEST(EnableCapability, ManualDirtyLogProtect2) {
  EXPECT_ENABLES(cap::ManualDirtyLogProtect2{});
  EXPECT_ENABLES(cap::ManualDirtyLogProtect2{.initially_set = true});
}
TEST(EnableCapability, HaltPoll) { EXPECT_ENABLES(cap::HaltPoll{.max_ns = 200'000}); }
TEST(EnableCapability, DirtyLogRing) { EXPECT_ENABLES(cap::DirtyLogRing{.bytes = 4096}); }
TEST(EnableCapability, DirtyLogRingAcqRel) {
  EXPECT_ENABLES(cap::DirtyLogRingAcqRel{.bytes = 1 << 16});
}

TEST(EnableCapability, X86ApicBusCyclesNsBetweenIrqchipAndVcpus) {
  Machine machine;
  KVM_REQUIRE(machine.vm, cap::X86ApicBusCyclesNs);
  const cap::X86ApicBusCyclesNs bus{.ns = 25};
  expect_error(machine.vm.try_enable(bus), ENXIO, {"KVM_CAP_X86_APIC_BUS_CYCLES_NS", "irqchip"});
  machine.vm.enable(cap::SplitIrqchip{});
  EXPECT_TRUE(machine.vm.try_enable(bus));
  const kvm::Vcpu vcpu = machine.vm.create_vcpu(0);
  expect_error(machine.vm.try_enable(bus), EINVAL, {"before the first vCPU is created"});
}

TEST(EnableCapability, VmDisableNxHugePagesNeedsTheRightToReboot) {
  Machine machine;
  KVM_REQUIRE(machine.vm, cap::VmDisableNxHugePages);
  const auto result = machine.vm.try_enable(cap::VmDisableNxHugePages{});
  if (!result) {
    expect_error(result, EPERM, {"KVM_CAP_VM_DISABLE_NX_HUGE_PAGES", "CAP_SYS_BOOT"});
  }
}

TEST(EnableCapability, OnAVcpu) {
  Guest guest = Guest::real_mode({0xf4});
  KVM_REQUIRE(guest.vm, cap::EnforcePvFeatureCpuid);
  EXPECT_TRUE(guest.vcpu.try_enable(cap::EnforcePvFeatureCpuid{}));
  EXPECT_TRUE(guest.vcpu.try_enable(cap::EnforcePvFeatureCpuid{.enabled = false}));
  EXPECT_STREQ(guest.vcpu.run().name(), "KVM_EXIT_HLT");
}

/// @param always whether every KVM that has the capability refuses it then
template <class C>
void expect_too_late(const C& capability, bool always = true) {
  Machine machine;
  if (!kvm_test::offers<C>(machine.vm)) {
    return;
  }
  const kvm::Vcpu vcpu = machine.vm.create_vcpu(0);
  const auto result = machine.vm.try_enable(capability);
  if (result && !always) {
    return;
  }
  ASSERT_FALSE(result) << C::info.name;
  expect_error(result, result.error().error_number(),
               {"KVM_ENABLE_CAP", C::info.name, capability.describe(),
                "must be enabled before the first vCPU is created; this VM has vCPUs already"});
}

TEST(EnableCapability, TooLateSaysSo) {
  expect_too_late(cap::SplitIrqchip{});
  expect_too_late(cap::X86DisableExits{.exits = cap::DisabledExit::pause}, false);
  expect_too_late(cap::MaxVcpuId{.limit = 8});
  expect_too_late(cap::DirtyLogRing{.bytes = 4096});
  expect_too_late(cap::DirtyLogRingAcqRel{.bytes = 4096});
}

TEST(EnableCapability, MaxVcpuIdLimitsTheIds) {
  Machine machine;
  KVM_REQUIRE(machine.vm, cap::MaxVcpuId);
  if (!limits_vcpu_ids()) {
    EXPECT_TRUE(machine.vm.try_create_vcpu(8));
    return;
  }
  machine.vm.enable(cap::MaxVcpuId{.limit = 8});
  const auto refused = machine.vm.try_create_vcpu(8);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().error_number(), EINVAL);
  const std::string_view what = refused.error().what();
  EXPECT_NE(what.find("this VM's are below 8"), std::string_view::npos) << what;
  EXPECT_TRUE(machine.vm.try_create_vcpu(7));
  expect_error(machine.vm.try_enable(cap::MaxVcpuId{.limit = 9}), EINVAL,
               {"KVM_CAP_MAX_VCPU_ID", "limit=9"});
}

TEST(EnableCapability, RefusedArgumentsAreNamed) {
  Machine machine;
  KVM_REQUIRE(machine.vm, cap::DirtyLogRingAcqRel);
  expect_error(machine.vm.try_enable(cap::DirtyLogRingAcqRel{.bytes = 100}), EINVAL,
               {"KVM_ENABLE_CAP(KVM_CAP_DIRTY_LOG_RING_ACQ_REL, bytes=100)", "power of two"});
  expect_error(machine.vm.try_enable(cap::DirtyLogRingAcqRel{.bytes = 1u << 30}), E2BIG,
               {"larger than check() allows"});
  KVM_REQUIRE(machine.vm, cap::SplitIrqchip);
  expect_error(machine.vm.try_enable(cap::SplitIrqchip{.userspace_ioapic_routes = 5000}), EINVAL,
               {"userspace_ioapic_routes=5000", "4096"});
  machine.vm.enable(cap::SplitIrqchip{});
  expect_error(machine.vm.try_enable(cap::SplitIrqchip{}), EEXIST, {"has an irqchip already"});
}

// KVM accepts both and then loses dirty pages.
TEST(EnableCapability, ARingAndInitiallySetAreRefusedTogether) {
  constexpr std::string_view sentence = "lose dirty pages together";
  const cap::ManualDirtyLogProtect2 initially_set{.initially_set = true};
  const cap::DirtyLogRingAcqRel ring{.bytes = 4096};
  {
    Machine machine;
    KVM_REQUIRE(machine.vm, cap::DirtyLogRingAcqRel);
    KVM_REQUIRE(machine.vm, cap::ManualDirtyLogProtect2, cap::ManualDirtyLogFlag::initially_set);
    machine.vm.enable(ring);
    expect_error(machine.vm.try_enable(initially_set), EINVAL,
                 {"KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2", "initially_set=true", sentence});
    EXPECT_TRUE(machine.vm.try_enable(cap::ManualDirtyLogProtect2{}));
  }
  {
    Machine machine;
    machine.vm.enable(initially_set);
    expect_error(machine.vm.try_enable(ring), EINVAL,
                 {"KVM_CAP_DIRTY_LOG_RING_ACQ_REL", "bytes=4096", sentence});
    if (kvm_test::offers<cap::DirtyLogRing>(machine.vm)) {
      expect_error(machine.vm.try_enable(cap::DirtyLogRing{.bytes = 4096}), EINVAL, {sentence});
    }
    machine.vm.enable(cap::ManualDirtyLogProtect2{});  // Taken back,
    EXPECT_TRUE(machine.vm.try_enable(ring));          // it is no obstacle.
  }
}

TEST(EnableCapability, RawIsTheEscape) {
  Guest guest = Guest::real_mode({0xf4});
  EXPECT_TRUE(guest.vm.try_enable_raw(cap::HaltPoll::info.number, {1000}));
  expect_error(guest.vm.try_enable_raw(9999, {1, 2, 3, 4}), EINVAL, {"KVM_ENABLE_CAP", "cap=9999"});
  expect_error(guest.vcpu.try_enable_raw(9999), EINVAL, {"KVM_ENABLE_CAP", "cap=9999"});
  // What raw enabling breaks is the caller's: KVM takes it.
  Machine machine;
  KVM_REQUIRE(machine.vm, cap::DirtyLogRingAcqRel);
  machine.vm.enable(cap::DirtyLogRingAcqRel{.bytes = 4096});
  EXPECT_TRUE(machine.vm.try_enable_raw(cap::ManualDirtyLogProtect2::info.number, {3}));
}

}  // namespace
