// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_CAPABILITY_HPP
#define KVM_HPP_CAPABILITY_HPP

#include <kvm/detail/config.hpp>
#if !KVM_HPP_REFUSED

#include <kvm/capability/arm64.hpp>
#include <kvm/capability/common.hpp>
#include <kvm/capability/explain.hpp>
#include <kvm/capability/info.hpp>
#include <kvm/capability/riscv.hpp>
#include <kvm/capability/x86.hpp>

#include <string>
#include <type_traits>

/// @file
/// kvm::cap has one type per capability, named as the kernel names it:
/// KVM_CAP_NR_MEMSLOTS is cap::NrMemslots. A VM or the system is asked with
/// `check<cap::NrMemslots>()`, whose type is the capability's Value; a VM or a
/// vCPU is given one with `enable(cap::HaltPoll{.max_ns = 200'000})`. All types
/// exist on every architecture; to use one where it does not belong is a compile
/// error that says so. `info.summary` says what a capability means.

KVM_HPP_BEGIN
namespace detail {

template <class... C>
struct CapabilityList {
  template <class F>
  static constexpr void for_each(F& f) {
    (visit<C>(f), ...);
  }

 private:
  template <class One, class F>
  static constexpr void visit(F& f) {
    if constexpr (Checkable<One>) f(std::type_identity<One>{});
  }
};

/// All of them, in the order of their numbers.
using AllCapabilities = CapabilityList<
    cap::Irqchip, cap::Hlt, cap::MmuShadowCacheControl, cap::UserMemory, cap::SetTssAddr,
    cap::Vapic, cap::ExtCpuid, cap::Clocksource, cap::NrVcpus, cap::NrMemslots, cap::Pit,
    cap::NopIoDelay, cap::PvMmu, cap::MpState, cap::CoalescedMmio, cap::SyncMmu,
    cap::DestroyMemoryRegionWorks, cap::UserNmi, cap::SetGuestDebug, cap::ReinjectControl,
    cap::IrqRouting, cap::IrqInjectStatus, cap::JoinMemoryRegionsWorks, cap::Mce, cap::Irqfd,
    cap::Pit2, cap::SetBootCpuId, cap::PitState2, cap::Ioeventfd, cap::SetIdentityMapAddr,
    cap::XenHvm, cap::AdjustClock, cap::InternalErrorData, cap::VcpuEvents, cap::Hyperv,
    cap::HypervVapic, cap::HypervSpin, cap::PciSegment, cap::Debugregs, cap::X86RobustSinglestep,
    cap::EnableCap, cap::Xsave, cap::Xcrs, cap::AsyncPf, cap::TscControl, cap::GetTscKhz,
    cap::MaxVcpus, cap::OneReg, cap::TscDeadlineTimer, cap::SyncRegs, cap::KvmclockCtrl,
    cap::SignalMsi, cap::ReadonlyMem, cap::IrqfdResample, cap::ArmPsci, cap::ArmSetDeviceAddr,
    cap::DeviceCtrl, cap::ArmEl1_32bit, cap::ExtEmulCpuid, cap::HypervTime,
    cap::IoapicPolarityIgnored, cap::EnableCapVm, cap::IoeventfdNoLength, cap::ArmPsci0_2,
    cap::CheckExtensionVm, cap::DisableQuirks, cap::X86Smm, cap::MultiAddressSpace,
    cap::GuestDebugHwBps, cap::GuestDebugHwWps, cap::SplitIrqchip, cap::IoeventfdAnyLength,
    cap::HypervSynic, cap::ArmPmuV3, cap::VcpuAttributes, cap::MaxVcpuId, cap::X2ApicApi,
    cap::MsiDevid, cap::ImmediateExit, cap::X86DisableExits, cap::ArmUserIrq, cap::HypervSynic2,
    cap::HypervVpIndex, cap::GetMsrFeatures, cap::HypervEventfd, cap::HypervTlbflush,
    cap::NestedState, cap::ArmInjectSerrorEsr, cap::MsrPlatformInfo, cap::HypervSendIpi,
    cap::CoalescedPio, cap::HypervEnlightenedVmcs, cap::ExceptionPayload, cap::ArmVmIpaSize,
    cap::HypervCpuid, cap::ManualDirtyLogProtect2, cap::ArmSve, cap::ArmPtrauthAddress,
    cap::ArmPtrauthGeneric, cap::PmuEventFilter, cap::ArmIrqLineLayout2, cap::HypervDirectTlbflush,
    cap::ArmNisvToUser, cap::ArmInjectExtDabt, cap::HaltPoll, cap::AsyncPfInt, cap::LastCpu,
    cap::SmallerMaxphyaddr, cap::StealTime, cap::X86UserSpaceMsr, cap::X86MsrFilter,
    cap::EnforcePvFeatureCpuid, cap::SysHypervCpuid, cap::DirtyLogRing, cap::X86BusLockExit,
    cap::SetGuestDebug2, cap::SgxAttribute, cap::VmCopyEncContextFrom, cap::PtpKvm,
    cap::HypervEnforceCpuid, cap::Sregs2, cap::ExitHypercall, cap::BinaryStatsFd,
    cap::ExitOnEmulationFailure, cap::ArmMte, cap::VmMoveEncContextFrom, cap::VmGpaBits,
    cap::Xsave2, cap::SysAttributes, cap::PmuCapability, cap::DisableQuirks2, cap::VmTscControl,
    cap::SystemEventData, cap::ArmSystemSuspend, cap::X86TripleFaultEvent, cap::X86NotifyVmexit,
    cap::VmDisableNxHugePages, cap::DirtyLogRingAcqRel, cap::DirtyLogRingWithBitmap,
    cap::PmuEventMaskedEvents, cap::CounterOffset, cap::ArmEagerSplitChunkSize,
    cap::ArmSupportedBlockSizes, cap::ArmSupportedRegMaskRanges, cap::UserMemory2,
    cap::MemoryFaultInfo, cap::MemoryAttributes, cap::GuestMemfd, cap::VmTypes, cap::PreFaultMemory,
    cap::X86ApicBusCyclesNs, cap::X86GuestMode, cap::ArmWritableImpIdRegs, cap::ArmEl2,
    cap::ArmEl2E2h0, cap::RiscvMpStateReset, cap::ArmCacheablePfnmapSupported, cap::GuestMemfdFlags,
    cap::ArmSeaToUser, cap::ArmPmuV3Strict>;

}  // namespace detail

/// Calls `f(std::type_identity<cap::X>{})` for every capability that this
/// architecture can check, in the order of their numbers.
template <class F>
constexpr void for_each_capability(F&& f) {
  detail::AllCapabilities::for_each(f);
}

namespace cap {

/// The values of check() as text: "yes" and "no", numbers, and the names of flags.
inline std::string to_string(bool value) { return value ? "yes" : "no"; }
inline std::string to_string(std::uint32_t value) { return std::to_string(value); }
inline std::string to_string(std::uint64_t value) { return std::to_string(value); }
using kvm::to_string;

}  // namespace cap
KVM_HPP_END

#endif  // !KVM_HPP_REFUSED
#endif
