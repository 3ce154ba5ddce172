// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_TESTS_SUPPORT_GUEST_HPP
#define KVM_HPP_TESTS_SUPPORT_GUEST_HPP

#include <kvm/kvm.hpp>

#include <cstdint>
#include <initializer_list>
#include <span>
#include <utility>
#include <vector>

/// @file
/// Small x86 guests: 2 MiB of memory at 0, one vCPU, code at 0x1000.

namespace kvm_test {

using namespace kvm::literals;

using Code = std::initializer_list<std::uint8_t>;

inline constexpr std::uint64_t code_at = 0x1000;
inline constexpr std::uint64_t stack_at = 0x80000;
/// Where a guest has no memory: accesses become MMIO exits.
inline constexpr std::uint64_t mmio_at = 0x30000000;

/// A VM with memory, before it has a vCPU: for what must come first.
struct Machine {
  kvm::System system;
  kvm::Vm vm = system.create_vm();
  kvm::MemorySlot ram = vm.add_memory(kvm::Gpa{0}, kvm::Mapping::anonymous(2_MiB));

  void load(std::uint64_t gpa, std::span<const std::uint8_t> bytes) {
    if (!ram.load(kvm::Gpa{gpa}, std::as_bytes(bytes))) {
      std::abort();
    }
  }
  void load(std::uint64_t gpa, Code code) { load(gpa, std::span(code.begin(), code.size())); }
};

/// Puts a vCPU at code_at in real mode with flat segments of base 0.
inline void enter_real_mode(kvm::Vcpu& vcpu) {
  auto sregs = vcpu.get_sregs();
  sregs.cs.base = 0;
  sregs.cs.selector = 0;
  vcpu.set_sregs(sregs);
  auto regs = vcpu.get_regs();
  regs.rip = code_at;
  regs.rsp = 0x8000;
  regs.rflags = 2;
  vcpu.set_regs(regs);
}

/// Puts a vCPU at code_at in 64-bit mode. All of the first GiB is mapped to
/// itself, user accessible. Ring 3 runs with I/O privilege.
/// Page tables are at 0x100000 to 0x102fff.
inline void enter_long_mode(Machine& machine, kvm::Vcpu& vcpu, unsigned ring) {
  const auto put = [&](std::uint64_t gpa, std::uint64_t value) {
    std::uint8_t bytes[8];
    for (unsigned i = 0; i < 8; ++i) {
      bytes[i] = static_cast<std::uint8_t>(value >> (8 * i));
    }
    machine.load(gpa, bytes);
  };
  constexpr std::uint64_t present_writable_user = 7;
  constexpr std::uint64_t large = 0x80;
  put(0x100000, 0x101000 | present_writable_user);
  put(0x101000, 0x102000 | present_writable_user);
  for (std::uint64_t i = 0; i < 512; ++i) {
    put(0x102000 + 8 * i, i << 21 | large | present_writable_user);
  }
  auto sregs = vcpu.get_sregs();
  sregs.cr3 = 0x100000;
  sregs.cr4 = 1u << 5 | 3u << 9;                                  // PAE, SSE
  sregs.cr0 = 1u << 31 | 1u << 16 | 1u << 5 | 1u << 4 | 1u << 1 | 1u;  // PG WP NE ET MP PE
  sregs.efer = 1u << 8 | 1u << 10 | 1u;                           // LME LMA SCE
  const auto dpl = static_cast<std::uint8_t>(ring);
  const auto rpl = static_cast<std::uint16_t>(ring);
  sregs.cs = {.base = 0, .limit = 0xffffffff, .selector = static_cast<std::uint16_t>(0x8 | rpl),
              .type = 11, .present = 1, .dpl = dpl, .db = 0, .s = 1, .l = 1, .g = 1, .avl = 0,
              .unusable = 0, .padding = 0};
  sregs.ss = {.base = 0, .limit = 0xffffffff, .selector = static_cast<std::uint16_t>(0x10 | rpl),
              .type = 3, .present = 1, .dpl = dpl, .db = 1, .s = 1, .l = 0, .g = 1, .avl = 0,
              .unusable = 0, .padding = 0};
  sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss;
  vcpu.set_sregs(sregs);
  auto regs = vcpu.get_regs();
  regs.rip = code_at;
  regs.rsp = stack_at;
  regs.rflags = 2 | (ring == 3 ? 3u << 12 : 0u);
  vcpu.set_regs(regs);
}

/// A guest ready to run `code`.
struct Guest : Machine {
  kvm::Vcpu vcpu = vm.create_vcpu(0);

  static Guest real_mode(Code code) {
    Guest guest;
    guest.load(code_at, code);
    enter_real_mode(guest.vcpu);
    return guest;
  }
  /// @param ring 0 or 3. On hosts without hardware virtualization, ring 3 runs
  ///             natively and ring 0 is emulated.
  static Guest long_mode(Code code, unsigned ring = 3) {
    Guest guest;
    guest.load(code_at, code);
    enter_long_mode(guest, guest.vcpu, ring);
    return guest;
  }
};

}  // namespace kvm_test

#endif
