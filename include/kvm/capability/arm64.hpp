// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_CAPABILITY_ARM64_HPP
#define KVM_HPP_CAPABILITY_ARM64_HPP

#include <kvm/detail/config.hpp>
#if !KVM_HPP_REFUSED

#include <kvm/capability/info.hpp>

/// @file
/// The capabilities that only arm64 has.

KVM_HPP_BEGIN
namespace cap {

/// A set of block sizes, each a power of two of bytes.
class BlockSizes {
 public:
  constexpr BlockSizes() = default;
  /// Bit n stands for blocks of 2^n bytes.
  static constexpr BlockSizes from_raw(std::uint64_t bits) {
    BlockSizes sizes;
    sizes.raw_ = bits;
    return sizes;
  }
  /// The bits as KVM has them.
  constexpr std::uint64_t raw() const { return raw_; }
  /// Whether blocks of exactly this size are in the set.
  constexpr bool contains(std::uint64_t bytes) const {
    return (bytes & (bytes - 1)) == 0 && (raw_ & bytes) != 0;
  }
  constexpr bool operator==(const BlockSizes&) const = default;

 private:
  std::uint64_t raw_ = 0;
};

/// The sizes in bytes, smallest first: "4096|2097152". "none" if empty.
inline std::string to_string(BlockSizes sizes) {
  std::string text;
  for (std::uint64_t bits = sizes.raw(); bits != 0; bits &= bits - 1) {
    if (!text.empty()) text += '|';
    text += std::to_string(bits & (~bits + 1));
  }
  return text.empty() ? "none" : text;
}

/// The feature-register ranges that KVM_ARM_GET_REG_WRITABLE_MASKS knows.
enum class RegMaskRange : std::uint64_t {
  feature_id = 1,  ///< the id registers, op0 = 3, op1 = 0, 1 or 3, CRn = 0, CRm = 0 to 7
};
constexpr std::array<FlagName<RegMaskRange>, 1> flag_names(RegMaskRange) {
  return {{{RegMaskRange::feature_id, "feature_id"}}};
}

// The summary of each says what it means; `Yes` is a bool, `Count` a number.
// clang-format off
struct ArmPsci : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::arm_psci, "KVM_CAP_ARM_PSCI", Arch::arm64,
    "KVM answers the guest's PSCI 0.1 calls."}; };
struct ArmSetDeviceAddr : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::arm_set_device_addr, "KVM_CAP_ARM_SET_DEVICE_ADDR", Arch::arm64,
    "The interrupt controller's address can be set the old way."}; };
struct ArmEl1_32bit : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::arm_el1_32bit, "KVM_CAP_ARM_EL1_32BIT", Arch::arm64,
    "Guest kernels can be 32-bit."}; };
struct ArmPsci0_2 : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::arm_psci_0_2, "KVM_CAP_ARM_PSCI_0_2", Arch::arm64,
    "KVM answers the guest's PSCI calls of version 0.2 and later."}; };
struct ArmPmuV3 : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::arm_pmu_v3, "KVM_CAP_ARM_PMU_V3", Arch::arm64,
    "vCPUs can have a performance monitoring unit."}; };
struct MsiDevid : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::msi_devid, "KVM_CAP_MSI_DEVID", Arch::arm64,
    "Messages need a device id, since the VM has an interrupt translation service."}; };
struct ArmUserIrq : detail::Count { static constexpr detail::CapInfo info{
    uapi::cap::arm_user_irq, "KVM_CAP_ARM_USER_IRQ", Arch::arm64,
    "Timers and PMU tell a user-space interrupt controller their lines; the value is a version."}; };
struct ArmInjectSerrorEsr : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::arm_inject_serror_esr, "KVM_CAP_ARM_INJECT_SERROR_ESR", Arch::arm64,
    "A system error can be injected with a chosen syndrome."}; };
struct ArmVmIpaSize : detail::Count { static constexpr detail::CapInfo info{
    uapi::cap::arm_vm_ipa_size, "KVM_CAP_ARM_VM_IPA_SIZE", Arch::arm64,
    "The most bits that a guest physical address can have."}; };
struct ArmSve : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::arm_sve, "KVM_CAP_ARM_SVE", Arch::arm64,
    "vCPUs can have the scalable vector extension."}; };
struct ArmPtrauthAddress : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::arm_ptrauth_address, "KVM_CAP_ARM_PTRAUTH_ADDRESS", Arch::arm64,
    "vCPUs can have pointer authentication of addresses."}; };
struct ArmPtrauthGeneric : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::arm_ptrauth_generic, "KVM_CAP_ARM_PTRAUTH_GENERIC", Arch::arm64,
    "vCPUs can have generic pointer authentication."}; };
struct ArmIrqLineLayout2 : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::arm_irq_line_layout_2, "KVM_CAP_ARM_IRQ_LINE_LAYOUT_2", Arch::arm64,
    "Raising an interrupt line can name a vCPU above 255."}; };
struct ArmInjectExtDabt : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::arm_inject_ext_dabt, "KVM_CAP_ARM_INJECT_EXT_DABT", Arch::arm64,
    "An external data abort can be injected."}; };
struct PtpKvm : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::ptp_kvm, "KVM_CAP_PTP_KVM", Arch::arm64,
    "The guest can read the host's clock precisely."}; };
struct CounterOffset : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::counter_offset, "KVM_CAP_COUNTER_OFFSET", Arch::arm64,
    "The offset of the guest's counters can be set for the whole VM."}; };
struct ArmSupportedBlockSizes : detail::Reported<BlockSizes> {
  static constexpr detail::CapInfo info{
    uapi::cap::arm_supported_block_sizes, "KVM_CAP_ARM_SUPPORTED_BLOCK_SIZES", Arch::arm64,
    "Block sizes, in bytes, that stage-2 mappings use."}; };
struct ArmSupportedRegMaskRanges : detail::Reported<Flags<RegMaskRange>> {
  static constexpr detail::CapInfo info{
    uapi::cap::arm_supported_reg_mask_ranges, "KVM_CAP_ARM_SUPPORTED_REG_MASK_RANGES", Arch::arm64,
    "Register ranges whose writable bits KVM can list."}; };
struct ArmEl2 : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::arm_el2, "KVM_CAP_ARM_EL2", Arch::arm64,
    "vCPUs can start at EL2, for nested virtualization."}; };
struct ArmEl2E2h0 : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::arm_el2_e2h0, "KVM_CAP_ARM_EL2_E2H0", Arch::arm64,
    "Nested hypervisors can run without VHE."}; };
struct ArmCacheablePfnmapSupported : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::arm_cacheable_pfnmap_supported, "KVM_CAP_ARM_CACHEABLE_PFNMAP_SUPPORTED",
    Arch::arm64,
    "Device memory that the host maps cacheable can be given to the guest."}; };
struct ArmPmuV3Strict : detail::Yes { static constexpr detail::CapInfo info{
    uapi::cap::arm_pmu_v3_strict, "KVM_CAP_ARM_PMU_V3_STRICT", Arch::arm64,
    "A vCPU's PMU can be made to match the host PMU that was chosen for it."}; };
// clang-format on

/// A guest access that the hardware does not decode becomes an ArmNisv exit
/// instead of ENOSYS from KVM_RUN.
struct ArmNisvToUser {
  static constexpr detail::CapInfo info{
      .number = uapi::cap::arm_nisv_to_user,
      .name = "KVM_CAP_ARM_NISV_TO_USER",
      .check_arches = Arch::arm64,
      .summary = "Accesses that the hardware does not decode can be exits.",
      .scope = detail::EnableScope::vm,
      .enable_arches = Arch::arm64};
  using Value = bool;
  static constexpr Value decode(int raw) { return detail::decode_value<Value>(raw); }
  constexpr detail::CapArgs args() const { return {}; }
  std::string describe() const { return {}; }
};

/// Memory tagging for the VM.
struct ArmMte {
  static constexpr detail::CapInfo info{
      .number = uapi::cap::arm_mte,
      .name = "KVM_CAP_ARM_MTE",
      .check_arches = Arch::arm64,
      .summary = "The guest can tag its memory.",
      .scope = detail::EnableScope::vm,
      .enable_arches = Arch::arm64,
      .order = detail::Order::before_vcpus,
      .constraint = "the CPU must have MTE, and no slot may be backed by a guest_memfd"};
  using Value = bool;
  static constexpr Value decode(int raw) { return detail::decode_value<Value>(raw); }
  constexpr detail::CapArgs args() const { return {}; }
  std::string describe() const { return {}; }
};

/// The guest's PSCI SYSTEM_SUSPEND becomes a SystemEvent exit.
struct ArmSystemSuspend {
  static constexpr detail::CapInfo info{
      .number = uapi::cap::arm_system_suspend,
      .name = "KVM_CAP_ARM_SYSTEM_SUSPEND",
      .check_arches = Arch::arm64,
      .summary = "The guest's request to suspend the system can be an exit.",
      .scope = detail::EnableScope::vm,
      .enable_arches = Arch::arm64};
  using Value = bool;
  static constexpr Value decode(int raw) { return detail::decode_value<Value>(raw); }
  constexpr detail::CapArgs args() const { return {}; }
  std::string describe() const { return {}; }
};

/// Beside the dirty ring, a bitmap takes what KVM dirties outside of any vCPU.
struct DirtyLogRingWithBitmap {
  static constexpr detail::CapInfo info{
      .number = uapi::cap::dirty_log_ring_with_bitmap,
      .name = "KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP",
      .check_arches = Arch::arm64,
      .summary = "A bitmap beside the dirty ring takes pages that no vCPU dirtied.",
      .scope = detail::EnableScope::vm,
      .enable_arches = Arch::arm64,
      .order = detail::Order::after_ring_before_slots,
      .constraint = "a dirty ring must be enabled first, and the VM must have no memory slot yet"};
  using Value = bool;
  static constexpr Value decode(int raw) { return detail::decode_value<Value>(raw); }
  constexpr detail::CapArgs args() const { return {}; }
  std::string describe() const { return {}; }
};

/// Dirty logging splits large blocks eagerly, this many bytes at a time.
struct ArmEagerSplitChunkSize {
  /// 0 splits nothing ahead; otherwise one of ArmSupportedBlockSizes.
  std::uint64_t bytes = 0;

  static constexpr detail::CapInfo info{
      .number = uapi::cap::arm_eager_split_chunk_size,
      .name = "KVM_CAP_ARM_EAGER_SPLIT_CHUNK_SIZE",
      .check_arches = Arch::arm64,
      .summary = "Bytes per chunk in which dirty logging splits blocks ahead; 0 is not at all.",
      .scope = detail::EnableScope::vm,
      .enable_arches = Arch::arm64,
      .order = detail::Order::before_slots,
      .constraint = "the size is 0 or one of check<cap::ArmSupportedBlockSizes>()"};
  using Value = std::uint64_t;
  static constexpr Value decode(int raw) { return detail::decode_value<Value>(raw); }
  constexpr detail::CapArgs args() const { return {bytes}; }
  std::string describe() const { return detail::argument("bytes", bytes); }
};

/// MIDR_EL1, REVIDR_EL1 and AIDR_EL1 can be written, so that a guest sees another CPU.
struct ArmWritableImpIdRegs {
  static constexpr detail::CapInfo info{
      .number = uapi::cap::arm_writable_imp_id_regs,
      .name = "KVM_CAP_ARM_WRITABLE_IMP_ID_REGS",
      .check_arches = Arch::arm64,
      .summary = "The registers that identify the CPU's maker and revision can be set.",
      .scope = detail::EnableScope::vm,
      .enable_arches = Arch::arm64,
      .order = detail::Order::before_vcpus};
  using Value = bool;
  static constexpr Value decode(int raw) { return detail::decode_value<Value>(raw); }
  constexpr detail::CapArgs args() const { return {}; }
  std::string describe() const { return {}; }
};

/// A guest's synchronous external abort becomes an ArmSea exit where the host
/// does not handle it.
struct ArmSeaToUser {
  static constexpr detail::CapInfo info{
      .number = uapi::cap::arm_sea_to_user,
      .name = "KVM_CAP_ARM_SEA_TO_USER",
      .check_arches = Arch::arm64,
      .summary = "Synchronous external aborts of the guest can be exits.",
      .scope = detail::EnableScope::vm,
      .enable_arches = Arch::arm64};
  using Value = bool;
  static constexpr Value decode(int raw) { return detail::decode_value<Value>(raw); }
  constexpr detail::CapArgs args() const { return {}; }
  std::string describe() const { return {}; }
};

}  // namespace cap
KVM_HPP_END

#endif  // !KVM_HPP_REFUSED
#endif
