// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_X86_NESTED_STATE_HPP
#define KVM_HPP_X86_NESTED_STATE_HPP

#include <kvm/detail/kernel_header.hpp>
#if !KVM_HPP_REFUSED && KVM_HPP_ARCH_X86

#include <kvm/uapi/structs.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

KVM_HPP_BEGIN
namespace x86 {

/// What KVM keeps for a guest that is a hypervisor itself, by value: a header
/// and the VMCS or VMCB pages after it. As large as KVM says
/// (KVM_CAP_NESTED_STATE).
class NestedState {
 public:
  /// Empty: what Vcpu::get_nested_state() fills.
  NestedState() = default;
  /// Zeroes, with a header that says so many bytes, at least the header's own.
  explicit NestedState(std::size_t size)
      : bytes_(size < sizeof(uapi::kvm_nested_state) ? sizeof(uapi::kvm_nested_state) : size) {
    uapi::kvm_nested_state start = header();
    start.size = static_cast<std::uint32_t>(bytes_.size());
    set_header(start);
  }

  /// Its flags, its format, the bytes that count.
  uapi::kvm_nested_state header() const noexcept {
    uapi::kvm_nested_state value{};
    if (bytes_.size() >= sizeof value) {
      std::memcpy(&value, bytes_.data(), sizeof value);
    }
    return value;
  }
  /// Changes the header; nothing if this is empty.
  void set_header(const uapi::kvm_nested_state& value) noexcept {
    if (bytes_.size() >= sizeof value) {
      std::memcpy(bytes_.data(), &value, sizeof value);
    }
  }

  /// All of it, header included.
  std::span<std::byte> bytes() noexcept { return {bytes_.data(), size()}; }
  std::span<const std::byte> bytes() const noexcept { return {bytes_.data(), size()}; }
  /// Bytes, header included.
  std::size_t size() const noexcept { return bytes_.size(); }
  /// Whether there is none: not filled yet.
  bool empty() const noexcept { return bytes_.empty(); }

  bool operator==(const NestedState&) const = default;

 private:
  std::vector<std::byte> bytes_;
};

}  // namespace x86
KVM_HPP_END

#endif
#endif
