// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_TESTS_SUPPORT_DIRTY_GUEST_HPP
#define KVM_HPP_TESTS_SUPPORT_DIRTY_GUEST_HPP

#include <kvm/kvm.hpp>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <set>

#include "support/guest.hpp"

/// @file
/// A guest that writes pages where it is told to.

namespace kvm_test {

/// The host's, and with that the granularity of dirty logs.
#if defined(__x86_64__)
inline constexpr std::uint64_t page = 4096;
#else
inline const std::uint64_t page = kvm::detail::sys::page_size();
#endif
/// Where the tests have the slots that are logged; no page tables there.
inline constexpr std::uint64_t logged_at = 0x1000000;

/// Page numbers within a slot, or frames.
using Pages = std::set<std::uint64_t>;

inline void insert(Pages& pages, std::uint64_t first, std::uint64_t count) {
  for (std::uint64_t i = 0; i < count; ++i) {
    pages.insert(first + i);
  }
}
inline Pages range(std::uint64_t first, std::uint64_t count) {
  Pages pages;
  insert(pages, first, count);
  return pages;
}
/// What of `wanted` is not in `pages`: empty, as hosts may report too much but
/// never too little.
inline Pages missing(const Pages& pages, const Pages& wanted) {
  Pages result;
  for (const std::uint64_t number : wanted) {
    if (!pages.contains(number)) {
      result.insert(number);
    }
  }
  return result;
}

/// A vCPU, in user mode on x86, that writes one byte to each page of a range.
class Writer {
 public:
#if defined(__aarch64__)
  explicit Writer(Machine& machine, unsigned id = 0) : vcpu(create_arm64_vcpu(machine.vm, id)) {
    machine.load(code_at, {
                              0x39000022,  // l: strb w2, [x1]
                              0x8b030021,  // add x1, x1, x3
                              0xf1000442,  // subs x2, x2, #1
                              0x54ffffa1,  // b.ne l
                              0x39000082,  // strb w2, [x4]
                              0x17fffffb,  // b l
                          });
  }
#else
  explicit Writer(Machine& machine, unsigned id = 0) : vcpu(machine.vm.create_vcpu(id)) {
    machine.load(code_at, {
                              0x88, 0x0b,                          // l: mov [rbx], cl
                              0x48, 0x81, 0xc3, 0x00, 0x10, 0, 0,  // add rbx, 0x1000
                              0xff, 0xc9,                          // dec ecx
                              0x75, 0xf3,                          // jnz l
                              0xe6, 0xff,                          // out 0xff, al
                              0xeb, 0xef,                          // jmp l
                          });
    enter_long_mode(machine, vcpu, 3);
  }
#endif

  /// What a page of write(gpa, count) holds then, at `index` from the first.
  static std::uint8_t value(std::uint64_t count, std::uint64_t index) {
    return static_cast<std::uint8_t>(count - index);
  }

  /// Benchmarks use this guest as well, so there is no test to fail.
  [[noreturn]] static void fail(const char* what) {
    std::fprintf(stderr, "the guest that dirties memory: %s\n", what);
    std::abort();
  }

  /// Writes the first byte of `count` pages from `gpa` on.
  /// @param full serves exits::DirtyRingFull
  void write(std::uint64_t gpa, std::uint64_t count, const std::function<void()>& full = {}) {
    while (vcpu.complete()) {
    }
    start(gpa, count);
    for (int full_rings = 0; full_rings < 10'000;) {
      bool done = false;
      const kvm::Exit exit = vcpu.run();
      exit.visit([&](Done) { done = true; },
                 [&](kvm::exits::DirtyRingFull) {
                   if (!full) {
                     fail("the ring is full");
                   }
                   full();
                   ++full_rings;
                 },
                 [&](kvm::exits::Interrupted) {}, [&](auto&&) { fail(exit.describe().c_str()); });
      if (done) {
        return;
      }
    }
    fail("too many exits");
  }

  kvm::Vcpu vcpu;

 private:
#if defined(__aarch64__)
  using Done = kvm::exits::MmioWrite;

  void start(std::uint64_t gpa, std::uint64_t count) {
    using namespace kvm::arm64;
    vcpu.set_one_reg(reg::pc, code_at);
    vcpu.set_one_reg(reg::x(1), gpa);
    vcpu.set_one_reg(reg::x(2), count);
    vcpu.set_one_reg(reg::x(3), page);
    vcpu.set_one_reg(reg::x(4), mmio_at);
  }
#else
  using Done = kvm::exits::IoOut;

  void start(std::uint64_t gpa, std::uint64_t count) {
    auto regs = vcpu.get_regs();
    regs.rip = code_at;
    regs.rbx = gpa;
    regs.rcx = count;
    vcpu.set_regs(regs);
  }
#endif
};

}  // namespace kvm_test

#endif
