// SPDX-License-Identifier: MIT
// The typed capabilities: what each passes to KVM_ENABLE_CAP, how the values of
// KVM_CHECK_EXTENSION are read, and what is said when enabling one fails.
#include <kvm/capability.hpp>

#include <cerrno>
#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <type_traits>

#include <gtest/gtest.h>

namespace {

namespace cap = kvm::cap;
using kvm::detail::CapInfo;
using Args = kvm::detail::CapArgs;

// The literals below are the kernel's, so that an encoding can't agree with itself only.
TEST(CapabilityArguments, OfEveryArchitecture) {
  EXPECT_EQ(cap::ManualDirtyLogProtect2{}.args(), (Args{1}));
  EXPECT_EQ((cap::ManualDirtyLogProtect2{.initially_set = true}.args()), (Args{3}));
  EXPECT_EQ((cap::ManualDirtyLogProtect2{.enabled = false}.args()), (Args{0}));
  EXPECT_EQ((cap::ManualDirtyLogProtect2{.enabled = false, .initially_set = true}.args()),
            (Args{2}));
  EXPECT_EQ((cap::HaltPoll{.max_ns = 0xffffffff}.args()), (Args{0xffffffff}));
  EXPECT_EQ((cap::DirtyLogRingAcqRel{.bytes = 0x100000}.args()), (Args{0x100000}));
}

TEST(CapabilityArguments, OfX86OnAVm) {
  EXPECT_EQ((cap::DisableQuirks{.quirks = cap::Quirk::lapic_mmio_hole}.args()), (Args{4}));
  EXPECT_EQ((cap::SplitIrqchip{.userspace_ioapic_routes = 24}.args()), (Args{24}));
  EXPECT_EQ((cap::MaxVcpuId{.limit = 64}.args()), (Args{64}));
  EXPECT_EQ((cap::X2ApicApi{.flags = cap::X2ApicFlag::use_32bit_ids |
                                     cap::X2ApicFlag::disable_broadcast_quirk}
                 .args()),
            (Args{3}));
  EXPECT_EQ((cap::X2ApicApi{.flags = cap::X2ApicFlag::enable_suppress_eoi_broadcast}.args()),
            (Args{4}));
  EXPECT_EQ((cap::X2ApicApi{.flags = cap::X2ApicFlag::disable_suppress_eoi_broadcast}.args()),
            (Args{8}));
  const auto all_exits = cap::DisabledExit::mwait | cap::DisabledExit::hlt |
                         cap::DisabledExit::pause | cap::DisabledExit::cstate |
                         cap::DisabledExit::aperfmperf;
  EXPECT_EQ((cap::X86DisableExits{.exits = all_exits}.args()), (Args{0x1f}));
  EXPECT_EQ((cap::X86DisableExits{.exits = cap::DisabledExit::hlt}.args()), (Args{2}));
  EXPECT_EQ(cap::MsrPlatformInfo{}.args(), (Args{1}));
  EXPECT_EQ((cap::MsrPlatformInfo{.enabled = false}.args()), (Args{0}));
  EXPECT_EQ(cap::ExceptionPayload{}.args(), (Args{1}));
  EXPECT_EQ(
      (cap::X86UserSpaceMsr{.reasons = cap::MsrExitReason::invalid | cap::MsrExitReason::filtered}
           .args()),
      (Args{5}));
  EXPECT_EQ((cap::X86UserSpaceMsr{.reasons = cap::MsrExitReason::unknown}.args()), (Args{2}));
  EXPECT_EQ((cap::DirtyLogRing{.bytes = 4096}.args()), (Args{4096}));
  EXPECT_EQ(cap::X86BusLockExit{}.args(), (Args{2}));
  EXPECT_EQ((cap::X86BusLockExit{.mode = cap::BusLockDetection::off}.args()), (Args{1}));
  EXPECT_EQ((cap::SgxAttribute{.attribute_fd = 7}.args()), (Args{7}));
  EXPECT_EQ((cap::VmCopyEncContextFrom{.source_vm_fd = 8}.args()), (Args{8}));
  EXPECT_EQ((cap::VmMoveEncContextFrom{.source_vm_fd = 9}.args()), (Args{9}));
  EXPECT_EQ((cap::ExitHypercall{.hypercalls = cap::Hypercall::map_gpa_range}.args()), (Args{4096}));
  EXPECT_EQ(cap::ExitOnEmulationFailure{}.args(), (Args{1}));
  EXPECT_EQ((cap::PmuCapability{.flags = cap::PmuFlag::disable}.args()), (Args{1}));
  EXPECT_EQ(cap::PmuCapability{}.args(), (Args{0}));
  EXPECT_EQ(cap::X86TripleFaultEvent{}.args(), (Args{1}));
  EXPECT_EQ((cap::X86NotifyVmexit{.window = 0x80000001, .exit_to_user = true}.args()),
            (Args{0x8000000100000003}));
  EXPECT_EQ((cap::X86NotifyVmexit{.window = 5, .exit_to_user = false}.args()), (Args{0x500000001}));
  EXPECT_EQ(cap::VmDisableNxHugePages{}.args(), (Args{0}));
  EXPECT_EQ((cap::X86ApicBusCyclesNs{.ns = 40}.args()), (Args{40}));
}

TEST(CapabilityArguments, OfEachQuirk) {
  const struct {
    cap::Quirk quirk;
    std::uint64_t bit;
  } quirks[] = {
      {cap::Quirk::lint0_reenabled, 0x1},
      {cap::Quirk::cd_nw_cleared, 0x2},
      {cap::Quirk::lapic_mmio_hole, 0x4},
      {cap::Quirk::out_7e_inc_rip, 0x8},
      {cap::Quirk::misc_enable_no_mwait, 0x10},
      {cap::Quirk::fix_hypercall_insn, 0x20},
      {cap::Quirk::mwait_never_ud_faults, 0x40},
      {cap::Quirk::slot_zap_all, 0x80},
      {cap::Quirk::stuff_feature_msrs, 0x100},
      {cap::Quirk::ignore_guest_pat, 0x200},
      {cap::Quirk::vmcs12_allow_freeze_in_smm, 0x400},
      {cap::Quirk::nested_svm_shared_pat, 0x800},
  };
  for (const auto& [quirk, bit] : quirks) {
    EXPECT_EQ((cap::DisableQuirks2{.quirks = quirk}.args()), (Args{bit}));
  }
}

TEST(CapabilityArguments, OfX86OnAVcpu) {
  EXPECT_EQ(cap::HypervSynic{}.args(), (Args{0}));
  EXPECT_EQ(cap::HypervSynic2{}.args(), (Args{0}));
  EXPECT_EQ(cap::HypervDirectTlbflush{}.args(), (Args{0}));
  EXPECT_EQ(cap::EnforcePvFeatureCpuid{}.args(), (Args{1}));
  EXPECT_EQ((cap::EnforcePvFeatureCpuid{.enabled = false}.args()), (Args{0}));
  EXPECT_EQ(cap::HypervEnforceCpuid{}.args(), (Args{1}));
  std::uint16_t version = 0;
  EXPECT_EQ((cap::HypervEnlightenedVmcs{.version = &version}.args()),
            (Args{reinterpret_cast<std::uintptr_t>(&version)}));
}

TEST(CapabilityArguments, OfArm64AndRiscv) {
  EXPECT_EQ(cap::ArmNisvToUser{}.args(), Args{});
  EXPECT_EQ(cap::ArmMte{}.args(), Args{});
  EXPECT_EQ(cap::ArmSystemSuspend{}.args(), Args{});
  EXPECT_EQ(cap::DirtyLogRingWithBitmap{}.args(), Args{});
  EXPECT_EQ((cap::ArmEagerSplitChunkSize{.bytes = 0x200000}.args()), (Args{0x200000}));
  EXPECT_EQ(cap::ArmWritableImpIdRegs{}.args(), Args{});
  EXPECT_EQ(cap::ArmSeaToUser{}.args(), Args{});
  EXPECT_EQ((cap::VmGpaBits{.bits = 50}.args()), (Args{50}));
  EXPECT_EQ(cap::RiscvMpStateReset{}.args(), Args{});
}

TEST(CapabilityArguments, InTheCallersWords) {
  EXPECT_EQ((cap::ManualDirtyLogProtect2{.initially_set = true}.describe()),
            "enabled=true, initially_set=true");
  EXPECT_EQ((cap::HaltPoll{.max_ns = 200000}.describe()), "max_ns=200000");
  EXPECT_EQ(
      (cap::DisableQuirks2{.quirks = cap::Quirk::lint0_reenabled | cap::Quirk{0x40000}}.describe()),
      "quirks=lint0_reenabled|0x40000");
  EXPECT_EQ(cap::DisableQuirks2{}.describe(), "quirks=none");
  EXPECT_EQ(cap::X86BusLockExit{}.describe(), "mode=exit");
  EXPECT_EQ(cap::VmCopyEncContextFrom{}.describe(), "source_vm_fd=-1");
  EXPECT_EQ((cap::X86NotifyVmexit{.window = 3}.describe()), "window=3, exit_to_user=true");
  EXPECT_EQ(cap::ArmMte{}.describe(), "");
  EXPECT_EQ(cap::HypervEnlightenedVmcs{}.describe(), "version=null");
}

TEST(CapabilityArguments, OfX86InTheCallersWords) {
  EXPECT_EQ((cap::DisableQuirks{.quirks = cap::Quirk::lint0_reenabled}.describe()),
            "quirks=lint0_reenabled");
  EXPECT_EQ(cap::X2ApicApi{}.describe(), "flags=none");
  EXPECT_EQ((cap::MsrPlatformInfo{.enabled = false}.describe()), "enabled=false");
  EXPECT_EQ(cap::ExceptionPayload{}.describe(), "enabled=true");
  EXPECT_EQ((cap::X86UserSpaceMsr{.reasons = cap::MsrExitReason::filtered}.describe()),
            "reasons=filtered");
  EXPECT_EQ((cap::SgxAttribute{.attribute_fd = 5}.describe()), "attribute_fd=5");
  EXPECT_EQ(cap::HypervEnforceCpuid{}.describe(), "enabled=true");
  EXPECT_EQ(cap::ExitHypercall{}.describe(), "hypercalls=none");
  EXPECT_EQ((cap::ExitOnEmulationFailure{.enabled = false}.describe()), "enabled=false");
  EXPECT_EQ((cap::VmMoveEncContextFrom{.source_vm_fd = 9}.describe()), "source_vm_fd=9");
  EXPECT_EQ(cap::PmuCapability{}.describe(), "flags=none");
  EXPECT_EQ(cap::X86TripleFaultEvent{}.describe(), "enabled=true");
  EXPECT_EQ(cap::HypervSynic{}.describe(), "");
  EXPECT_EQ(cap::HypervSynic2{}.describe(), "");
  EXPECT_EQ(cap::HypervDirectTlbflush{}.describe(), "");
  EXPECT_EQ(cap::VmDisableNxHugePages{}.describe(), "");
}

TEST(CapabilityValues, BooleansAreNoForNegativeNumbers) {
  static_assert(std::is_same_v<cap::MsiDevid::Value, bool>);
  EXPECT_FALSE(cap::MsiDevid::decode(-EINVAL));  // R16
  EXPECT_FALSE(cap::Irqchip::decode(0));
  EXPECT_TRUE(cap::Irqchip::decode(1));
  EXPECT_TRUE(cap::HaltPoll::decode(1));
}

TEST(CapabilityValues, CountsAndSizes) {
  static_assert(std::is_same_v<cap::NrMemslots::Value, std::uint32_t>);
  EXPECT_EQ(cap::NrMemslots::decode(32764), 32764u);
  EXPECT_EQ(cap::DirtyLogRing::decode(0x100000), 0x100000u);
  EXPECT_EQ(cap::Xsave2::decode(4096), 4096u);
  EXPECT_EQ(cap::MaxVcpuId::decode(4096), 4096u);
  EXPECT_EQ(cap::ArmEagerSplitChunkSize::decode(0x200000), 0x200000u);
  EXPECT_EQ(cap::VmGpaBits::decode(59), 59u);
}

TEST(CapabilityValues, FlagsByName) {
  EXPECT_EQ(to_string(cap::AdjustClock::decode(14)), "tsc_stable|realtime|host_tsc");
  EXPECT_EQ(to_string(cap::SetGuestDebug2::decode(2031619)),
            "enable|single_step|software_breakpoints|hardware_breakpoints|inject_db|inject_bp|"
            "block_irq");
  EXPECT_EQ(to_string(cap::SyncRegs::decode(7)), "regs|sregs|events");
  EXPECT_EQ(to_string(cap::X2ApicApi::decode(11)),
            "use_32bit_ids|disable_broadcast_quirk|disable_suppress_eoi_broadcast");
  EXPECT_EQ(to_string(cap::X86DisableExits::decode(14)), "hlt|pause|cstate");
  EXPECT_EQ(to_string(cap::ExitHypercall::decode(4096)), "map_gpa_range");
  EXPECT_EQ(to_string(cap::GuestMemfdFlags::decode(3)), "mmap|init_shared");
  EXPECT_EQ(to_string(cap::VmTypes::decode(0x11)), "ordinary|snp");
  EXPECT_EQ(to_string(cap::MemoryAttributes::decode(8)), "private");
  EXPECT_EQ(to_string(cap::ManualDirtyLogProtect2::decode(3)), "enable|initially_set");
  EXPECT_EQ(to_string(cap::X86BusLockExit::decode(0)), "none");
  EXPECT_EQ(to_string(cap::PmuCapability::decode(1)), "disable");
  EXPECT_EQ(to_string(cap::XenHvm::decode(0x1ff)),
            "hypercall_msr|intercept_hypercalls|shared_info|runstate|event_channels|"
            "event_channel_send|runstate_update_flag|clock_tsc_unstable|shared_info_by_address");
  EXPECT_TRUE(cap::DisableQuirks2::decode(1535).contains(cap::Quirk::slot_zap_all));
  EXPECT_FALSE(cap::DisableQuirks2::decode(1535).contains(cap::Quirk::ignore_guest_pat));
}

TEST(CapabilityValues, ABitWithoutANameIsKept) {
  const auto flags = cap::SyncRegs::decode(0x41);
  EXPECT_EQ(flags.raw(), 0x41u);
  EXPECT_EQ(to_string(flags), "regs|0x40");
  EXPECT_EQ(to_string(cap::SyncRegs::decode(0x7fffff00)), "0x7fffff00");
}

TEST(CapabilityValues, BlockSizesAreBytes) {
  const cap::BlockSizes sizes = cap::ArmSupportedBlockSizes::decode(0x40201000);
  EXPECT_TRUE(sizes.contains(4096));
  EXPECT_TRUE(sizes.contains(0x200000));
  EXPECT_TRUE(sizes.contains(0x40000000));
  EXPECT_FALSE(sizes.contains(65536));
  EXPECT_FALSE(sizes.contains(0x201000));
  EXPECT_FALSE(sizes.contains(0));
  EXPECT_EQ(to_string(sizes), "4096|2097152|1073741824");
}

TEST(Flags, AreASet) {
  using Reasons = kvm::Flags<cap::MsrExitReason>;
  constexpr Reasons none;
  static_assert(none.empty());
  constexpr Reasons both = cap::MsrExitReason::invalid | cap::MsrExitReason::unknown;
  static_assert(both.contains(cap::MsrExitReason::unknown));
  static_assert(!both.contains(cap::MsrExitReason::filtered));
  static_assert(!both.contains(both | cap::MsrExitReason::filtered));
  static_assert(both.without(cap::MsrExitReason::invalid) == cap::MsrExitReason::unknown);
  static_assert((both & cap::MsrExitReason::invalid) == cap::MsrExitReason::invalid);
  Reasons reasons = cap::MsrExitReason::filtered;
  reasons |= both;
  EXPECT_EQ(reasons.raw(), 7u);
}

TEST(CapabilityList, EveryOneIsNamedAndExplained) {
  std::set<std::string_view> names, summaries;
  unsigned last = 0, count = 0;
  kvm::for_each_capability([&]<class C>(std::type_identity<C>) {
    const CapInfo& info = C::info;
    EXPECT_TRUE(info.check_arches.contains(kvm::host_arch)) << info.name;
    EXPECT_TRUE(std::string_view(info.name).starts_with("KVM_CAP_"));
    EXPECT_TRUE(std::string_view(info.summary).ends_with('.')) << info.name;
    EXPECT_GT(std::string_view(info.summary).size(), 20u) << info.name;
    if (count++ != 0) {
      EXPECT_GT(info.number, last) << info.name;
    }
    last = info.number;
    names.insert(info.name);
    summaries.insert(info.summary);
    EXPECT_FALSE(cap::to_string(C::decode(1)).empty());
    // What can be enabled has arguments, and the other way round.
    EXPECT_EQ((requires(const C& c) {
                c.args();
                c.describe();
              }),
              info.scope != kvm::detail::EnableScope::none)
        << info.name;
    EXPECT_EQ(info.enable_arches.empty(), info.scope == kvm::detail::EnableScope::none)
        << info.name;
  });
  EXPECT_EQ(count, (kvm::uapi::per_arch<unsigned>(127, 69, 32)));
  EXPECT_EQ(names.size(), count);
  EXPECT_EQ(summaries.size(), count);
}

// "" where nothing is known.
std::string explain(const CapInfo& info, int error, bool vcpus = false, bool slots = false) {
  const char* sentence = kvm::detail::explain_enable(info, error, vcpus, slots);
  return sentence != nullptr ? sentence : "";
}

TEST(CapabilityExplanation, OfTheWrongOrder) {
  const std::string vcpus =
      "must be enabled before the first vCPU is created; this VM has vCPUs already";
  const std::string slots =
      "must be enabled before the first memory slot is added; this VM has slots already";
  for (const CapInfo* info :
       {&cap::DirtyLogRing::info, &cap::DirtyLogRingAcqRel::info, &cap::X86DisableExits::info,
        &cap::SplitIrqchip::info, &cap::MaxVcpuId::info, &cap::PmuCapability::info,
        &cap::X86NotifyVmexit::info, &cap::VmDisableNxHugePages::info,
        &cap::X86ApicBusCyclesNs::info, &cap::ArmMte::info, &cap::ArmWritableImpIdRegs::info,
        &cap::VmGpaBits::info}) {
    for (const int error : {EINVAL, EBUSY, EEXIST}) {
      EXPECT_EQ(explain(*info, error, true), vcpus) << info->name;
      EXPECT_NE(explain(*info, error, false), vcpus) << info->name;
    }
  }
  for (const CapInfo* info : {&cap::VmGpaBits::info, &cap::DirtyLogRingWithBitmap::info,
                              &cap::ArmEagerSplitChunkSize::info}) {
    EXPECT_EQ(explain(*info, EBUSY, false, true), slots) << info->name;
    EXPECT_NE(explain(*info, EINVAL, false, false), slots) << info->name;
  }
  // Slots don't matter to a ring (but for its bitmap), vCPUs not to what is free of order.
  EXPECT_EQ(explain(cap::DirtyLogRing::info, EINVAL, false, true),
            cap::DirtyLogRing::info.constraint);
  EXPECT_EQ(explain(cap::X86UserSpaceMsr::info, EINVAL, true, true),
            cap::X86UserSpaceMsr::info.constraint);
}

TEST(CapabilityExplanation, OfParticularErrors) {
  const auto says = [](const std::string& sentence, std::string_view what) {
    return sentence.find(what) != std::string::npos;
  };
  EXPECT_TRUE(says(explain(cap::SplitIrqchip::info, EEXIST), "irqchip already"));
  EXPECT_TRUE(says(explain(cap::X86ApicBusCyclesNs::info, ENXIO), "local APIC"));
  EXPECT_TRUE(says(explain(cap::VmDisableNxHugePages::info, EPERM, true), "CAP_SYS_BOOT"));
  EXPECT_TRUE(says(explain(cap::DirtyLogRing::info, E2BIG), "larger"));
  EXPECT_TRUE(says(explain(cap::DirtyLogRingAcqRel::info, E2BIG), "larger"));
  EXPECT_TRUE(says(explain(cap::DirtyLogRingAcqRel::info, EINVAL), "power of two"));
  EXPECT_TRUE(says(explain(cap::HypervEnlightenedVmcs::info, ENOTTY), "nested"));
  EXPECT_TRUE(says(explain(cap::HypervSynic2::info, EINVAL), "local APIC"));
  EXPECT_TRUE(says(explain(cap::VmCopyEncContextFrom::info, EBADF), "source_vm_fd"));
  EXPECT_TRUE(says(explain(cap::HaltPoll::info, EIO), "fork"));
  EXPECT_TRUE(says(explain(cap::HaltPoll::info, EINVAL), "does not know"));
  EXPECT_EQ(kvm::detail::explain_enable(cap::HaltPoll::info, ENOMEM, true, true), nullptr);
}

}  // namespace
