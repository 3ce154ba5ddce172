// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_TESTS_SUPPORT_GUEST_X86_HPP
#define KVM_HPP_TESTS_SUPPORT_GUEST_X86_HPP

#include <kvm/kvm.hpp>

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "support/guest.hpp"

/// @file
/// The modes that x86 guests run in, and their devices. Included by guest.hpp.

namespace kvm_test {

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
  sregs.cr4 = 1u << 5 | 3u << 9;                                       // PAE, SSE
  sregs.cr0 = 1u << 31 | 1u << 16 | 1u << 5 | 1u << 4 | 1u << 1 | 1u;  // PG WP NE ET MP PE
  sregs.efer = 1u << 8 | 1u << 10 | 1u;                                // LME LMA SCE
  const auto dpl = static_cast<std::uint8_t>(ring);
  const auto rpl = static_cast<std::uint16_t>(ring);
  sregs.cs = {.base = 0,
              .limit = 0xffffffff,
              .selector = static_cast<std::uint16_t>(0x8 | rpl),
              .type = 11,
              .present = 1,
              .dpl = dpl,
              .db = 0,
              .s = 1,
              .l = 1,
              .g = 1,
              .avl = 0,
              .unusable = 0,
              .padding = 0};
  sregs.ss = {.base = 0,
              .limit = 0xffffffff,
              .selector = static_cast<std::uint16_t>(0x10 | rpl),
              .type = 3,
              .present = 1,
              .dpl = dpl,
              .db = 1,
              .s = 1,
              .l = 0,
              .g = 1,
              .avl = 0,
              .unusable = 0,
              .padding = 0};
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
  /// In whatever mode this architecture's guests run fastest.
  static Guest running(Code code) { return long_mode(code); }
};

/// What an access to a device ends a run with, where tests run on every
/// architecture.
using DeviceRead = kvm::exits::IoIn;
using DeviceWrite = kvm::exits::IoOut;

inline void jump_to(kvm::Vcpu& vcpu, std::uint64_t address) {
  auto regs = vcpu.get_regs();
  regs.rip = address;
  vcpu.set_regs(regs);
}
/// What `in al, port` read last.
inline std::uint8_t byte_read(const kvm::Vcpu& vcpu) {
  return static_cast<std::uint8_t>(vcpu.get_regs().rax);
}

/// What emulated devices saw of a guest, and what they answer: port reads get
/// the bytes 1, 2, 3…, MMIO reads a byte that depends on its address alone. So
/// it makes no difference into how many exits a host cuts an access.
struct Devices {
  /// Guests write to it when they are done.
  static constexpr std::uint16_t done_port = 0xff;

  static constexpr std::uint8_t mmio_byte(std::uint64_t gpa) {
    return static_cast<std::uint8_t>(gpa * 7 + (gpa >> 8) + 3);
  }
  /// What a read of `size` bytes at `gpa` gives.
  static constexpr std::uint64_t mmio_value(std::uint64_t gpa, unsigned size) {
    std::uint64_t value = 0;
    for (unsigned i = 0; i < size; ++i) {
      value |= std::uint64_t{mmio_byte(gpa + i)} << (8 * i);
    }
    return value;
  }

  std::map<std::uint16_t, std::vector<std::uint8_t>> out;
  std::map<std::uint64_t, std::uint8_t> written;
  std::vector<unsigned> element_sizes;
  std::vector<std::size_t> mmio_sizes;
  std::uint8_t last_in = 0;
  unsigned ios = 0;
  /// The exit that serve() did not know.
  std::string ended_by;

  /// Serves an IO or MMIO exit. False if it was another, or the guest is done.
  bool serve(const kvm::Exit& exit) {
    return exit.visit(
        [&](kvm::exits::IoOut io) {
          if (io.port == done_port) {
            ended_by = "done";
            return false;
          }
          ++ios;
          element_sizes.push_back(io.size);
          for (const std::byte byte : io.data) {
            out[io.port].push_back(std::to_integer<std::uint8_t>(byte));
          }
          return true;
        },
        [&](kvm::exits::IoIn io) {
          ++ios;
          element_sizes.push_back(io.size);
          for (std::byte& byte : io.data) {
            byte = std::byte{++last_in};
          }
          return true;
        },
        [&](kvm::exits::MmioRead read) {
          mmio_sizes.push_back(read.data.size());
          for (std::size_t i = 0; i < read.data.size(); ++i) {
            read.data[i] = std::byte{mmio_byte(read.gpa.value + i)};
          }
          return true;
        },
        [&](kvm::exits::MmioWrite write) {
          mmio_sizes.push_back(write.data.size());
          for (std::size_t i = 0; i < write.data.size(); ++i) {
            written[write.gpa.value + i] = std::to_integer<std::uint8_t>(write.data[i]);
          }
          return true;
        },
        [&](kvm::exits::Interrupted) { return true; },
        [&](kvm::exits::Failed failed) {
          ended_by = "failed with " + std::to_string(failed.error_number) + ", " + failed.cause;
          return false;
        },
        [&](auto&&) {
          ended_by = exit.name();
          return false;
        });
  }

  /// Runs until something is not an access to a device, and says what.
  std::string run(kvm::Vcpu& vcpu) {
    ended_by = "too many exits";
    for (int i = 0; i < 100'000; ++i) {
      if (!serve(vcpu.run())) {
        break;
      }
    }
    return ended_by;
  }

  /// What was written to memory-mapped devices, as a number.
  std::uint64_t written_value(std::uint64_t gpa, unsigned size) const {
    std::uint64_t value = 0;
    for (unsigned i = 0; i < size; ++i) {
      const auto found = written.find(gpa + i);
      value |= std::uint64_t{found == written.end() ? std::uint8_t{0} : found->second} << (8 * i);
    }
    return value;
  }
};

/// Maps the local APIC's page to itself, for guests in long mode.
inline void map_apic(Machine& machine) {
  constexpr std::uint64_t apic = 0xfee00000;
  const auto put = [&](std::uint64_t gpa, std::uint64_t value) {
    std::uint8_t bytes[8];
    for (unsigned i = 0; i < 8; ++i) {
      bytes[i] = static_cast<std::uint8_t>(value >> (8 * i));
    }
    machine.load(gpa, bytes);
  };
  put(0x101000 + 8 * (apic >> 30), 0x103000 | 7);
  put(0x103000 + 8 * (apic >> 21 & 511), apic | 0x87);
}

/// Points a real-mode interrupt vector at a handler in segment 0.
inline void set_vector(Machine& machine, unsigned vector, std::uint16_t handler) {
  machine.load(vector * 4,
               {static_cast<std::uint8_t>(handler), static_cast<std::uint8_t>(handler >> 8), 0, 0});
}

}  // namespace kvm_test

#endif
