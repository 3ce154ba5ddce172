// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_X86_XSAVE_HPP
#define KVM_HPP_X86_XSAVE_HPP

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

/// The extended processor state (x87, SSE, AVX and what came later) in the
/// standard format of the XSAVE instruction, by value. As large as KVM says
/// that this VM's is (KVM_CAP_XSAVE2, R82): 4096 bytes, or more with AMX.
class Xsave {
 public:
  /// The least that KVM reads and writes.
  static constexpr std::size_t min_size = sizeof(uapi::kvm_xsave);

  /// Empty: what Vcpu::get_xsave() fills.
  Xsave() = default;
  /// All zeroes, which puts every component into its initial state.
  explicit Xsave(std::size_t size) : bytes_(size) {}

  /// All of it. A component's offset is in CPUID function 0xd.
  std::span<std::byte> bytes() noexcept { return {bytes_.data(), size()}; }
  std::span<const std::byte> bytes() const noexcept { return {bytes_.data(), size()}; }
  /// In bytes.
  std::size_t size() const noexcept { return bytes_.size(); }

  /// Zeroes added at the end leave the state the same.
  void resize(std::size_t size) { bytes_.resize(size); }

  /// XSTATE_BV: which components are not in their initial state. Bit 0 is x87,
  /// 1 SSE, 2 AVX. A component whose bit is clear is ignored when set.
  /// 0 if the state is empty.
  std::uint64_t components() const noexcept {
    std::uint64_t bits = 0;
    if (size() >= components_offset + sizeof bits) {
      std::memcpy(&bits, bytes_.data() + components_offset, sizeof bits);
    }
    return bits;
  }
  /// Sets XSTATE_BV; nothing if the state is empty.
  void set_components(std::uint64_t bits) noexcept {
    if (size() >= components_offset + sizeof bits) {
      std::memcpy(bytes_.data() + components_offset, &bits, sizeof bits);
    }
  }

  /// The 16 bytes of an XMM register, 0 to 15; they count if bit 1 of
  /// components() is set. Empty if there is no such register in here.
  std::span<std::byte> xmm(unsigned number) noexcept {
    return number < 16 && size() >= min_size
               ? bytes().subspan(xmm_offset + 16 * std::size_t{number}, 16)
               : std::span<std::byte>();
  }
  std::span<const std::byte> xmm(unsigned number) const noexcept {
    return const_cast<Xsave*>(this)->xmm(number);
  }

  bool operator==(const Xsave&) const = default;

 private:
  static constexpr std::size_t xmm_offset = 160;
  static constexpr std::size_t components_offset = 512;

  std::vector<std::byte> bytes_;
};

}  // namespace x86
KVM_HPP_END

#endif
#endif
