// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_TESTS_SUPPORT_GUEST_HPP
#define KVM_HPP_TESTS_SUPPORT_GUEST_HPP

#include <kvm/kvm.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <initializer_list>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

/// @file
/// Small guests: 2 MiB of memory at 0, one vCPU, code at 0x1000.

namespace kvm_test {

using namespace kvm::literals;

#if defined(__aarch64__)
using Code = std::initializer_list<std::uint32_t>;  // instructions
#else
using Code = std::initializer_list<std::uint8_t>;
#endif

inline constexpr std::uint64_t code_at = 0x1000;
inline constexpr std::uint64_t stack_at = 0x80000;
/// Where a guest has no memory: accesses become MMIO exits.
inline constexpr std::uint64_t mmio_at = 0x30000000;

/// A VM with memory, before it has a vCPU: for what must come first.
struct Machine {
  kvm::System system;
  kvm::Vm vm = system.create_vm();
  kvm::MemorySlot ram = vm.add_memory(kvm::Gpa{0}, kvm::Mapping::anonymous(2_MiB));

  Machine() = default;
  /// `first` is called with the VM before it has memory.
  template <std::invocable<kvm::Vm&> First>
  explicit Machine(First&& first)
      : system(),
        vm(system.create_vm()),
        ram((first(vm), vm.add_memory(kvm::Gpa{0}, kvm::Mapping::anonymous(2_MiB)))) {}

  void load(std::uint64_t gpa, std::span<const std::uint8_t> bytes) {
    if (!ram.load(kvm::Gpa{gpa}, std::as_bytes(bytes))) {
      std::abort();
    }
  }
  void load(std::uint64_t gpa, Code code) {
    if (!ram.load(kvm::Gpa{gpa}, std::as_bytes(std::span(code.begin(), code.size())))) {
      std::abort();
    }
  }
};

}  // namespace kvm_test

#if defined(__x86_64__)
#include "support/guest_x86.hpp"
#elif defined(__aarch64__)
#include "support/guest_arm64.hpp"
#endif

#endif
