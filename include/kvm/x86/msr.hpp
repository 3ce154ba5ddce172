// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_X86_MSR_HPP
#define KVM_HPP_X86_MSR_HPP

#include <kvm/detail/kernel_header.hpp>
#if !KVM_HPP_REFUSED && KVM_HPP_ARCH_X86

#include <kvm/error.hpp>
#include <kvm/uapi/constants.hpp>
#include <kvm/uapi/structs.hpp>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

KVM_HPP_BEGIN
namespace x86 {

/// A range of MSRs and which of them the guest may access.
struct MsrFilterRange {
  /// Which accesses the range is about: uapi::msr_filter::read, write or both.
  std::uint32_t accesses = uapi::msr_filter::read | uapi::msr_filter::write;
  /// The first MSR.
  std::uint32_t base = 0;
  /// How many: at most 12288.
  std::uint32_t count = 0;
  /// A bit per MSR, from bit 0 of the first word on: 1 allows. Covers `count`.
  /// Read while the filter is being set, not kept.
  std::span<const std::uint64_t> allowed;
};

/// What becomes of an access that no range of a filter is about.
enum class MsrFilterDefault : std::uint32_t {
  allow = uapi::msr_filter::default_allow,  ///< KVM serves it
  deny = uapi::msr_filter::default_deny,    ///< the guest gets a #GP, or the VMM an exit
};

}  // namespace x86

namespace detail {

/// A kvm_msrs with its entries.
template <std::size_t N>
struct MsrBlock {
  uapi::kvm_msrs header;
  uapi::kvm_msr_entry entries[N];
};
static_assert(offsetof(MsrBlock<1>, entries) == uapi::kvm_msrs::array_offset);

/// The most that KVM takes at a time (R80).
inline constexpr std::size_t msr_block_size = 255;

/// What became of a transfer: how many MSRs went through, and whether a
/// request failed as a whole (errno says why).
struct MsrTransfer {
  std::size_t done = 0;
  bool failed = false;
};

/// Reads (Entry is not const) or writes MSRs in as many requests as it takes.
/// Ends at the first that KVM refuses.
/// @param send sends a block; returns what the ioctl returns, a count
template <class Entry, class Send>
MsrTransfer transfer_msrs(std::span<Entry> msrs, Send&& send) noexcept {
  MsrTransfer transfer;
  while (transfer.done < msrs.size()) {
    MsrBlock<msr_block_size> block;
    const std::size_t left = msrs.size() - transfer.done;
    const auto part = msrs.subspan(transfer.done, left < msr_block_size ? left : msr_block_size);
    block.header = {.nmsrs = static_cast<std::uint32_t>(part.size()), .pad = 0};
    std::memcpy(block.entries, part.data(), part.size_bytes());
    const int count = send(static_cast<void*>(&block));
    if (count < 0) {
      transfer.failed = true;
      break;
    }
    const auto answered = static_cast<std::size_t>(count);
    const std::size_t through = answered < part.size() ? answered : part.size();
    if constexpr (!std::is_const_v<Entry>) {
      std::memcpy(part.data(), block.entries, through * sizeof(Entry));
    }
    transfer.done += through;
    if (through < part.size()) {
      break;
    }
  }
  return transfer;
}

/// The list of MSR indices that a request gives. One that is too short gets
/// E2BIG and the length it should have (R80).
template <class Send, class Fail>
Result<std::vector<std::uint32_t>> fetch_msr_list(Send&& send, Fail&& fail) {
  std::vector<std::uint32_t> list(1);  // The count, then the indices.
  for (;;) {
    list[0] = static_cast<std::uint32_t>(list.size() - 1);
    if (send(list.data()) == 0) {
      break;
    }
    const int error_number = errno;
    if (error_number != E2BIG || list[0] <= list.size() - 1) {
      return fail(error_number);
    }
    list.resize(std::size_t{list[0]} + 1);
  }
  list.resize(std::size_t{list[0]} + 1);
  list.erase(list.begin());
  return list;
}

/// Why a filter cannot be given to KVM, or an empty string. KVM reads as many
/// bits as `count` says, whatever the bitmap's size.
inline std::string msr_filter_problem(std::span<const x86::MsrFilterRange> ranges,
                                      x86::MsrFilterDefault otherwise) {
  if (ranges.size() > uapi::msr_filter::max_ranges) {
    return text("a filter has at most ", uapi::msr_filter::max_ranges, " ranges, not ",
                ranges.size());
  }
  if (ranges.empty() && otherwise == x86::MsrFilterDefault::deny) {
    return "a filter that denies by default needs at least one range";
  }
  for (const x86::MsrFilterRange& range : ranges) {
    const auto fail = [&](const auto&... why) {
      return text("the range at ", Hex{range.base}, " ", why...);
    };
    if (range.accesses == 0 || (range.accesses & ~uapi::msr_filter::range_valid_mask) != 0) {
      return fail("must be about reads, writes or both");
    }
    if (range.count > uapi::msr_filter::max_bitmap_size * 8) {
      return fail("is about ", range.count, " MSRs, more than ",
                  uapi::msr_filter::max_bitmap_size * 8);
    }
    if (range.allowed.size() * 64 < range.count) {
      return fail("is about ", range.count, " MSRs, its bitmap about ", range.allowed.size() * 64);
    }
  }
  return {};
}

}  // namespace detail
KVM_HPP_END

#endif
#endif
