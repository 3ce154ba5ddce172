// SPDX-License-Identifier: MIT
// usage: exit_cost raw|library EXITS
//
// Takes that many exits of a guest that writes to a port, and reads each one's
// port, size, count and byte: with the raw ioctl and a switch, or through the
// library. callgrind.sh counts the instructions of each and looks at the code
// of raw_loop and library_loop.
#include <linux/kvm.h>

#include <kvm/kvm.hpp>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

#include <sys/ioctl.h>

#include "support/guest.hpp"

namespace {

/// Both loops end with an error after anything but a write to a port.
struct Tally {
  std::uint64_t sum = 0;
  bool failed = false;
};

}  // namespace

extern "C" {

__attribute__((noinline)) void raw_loop(int fd, kvm_run* run, unsigned long exits, Tally& tally) {
  std::uint64_t sum = 0;
  for (unsigned long i = 0; i < exits; ++i) {
    if (ioctl(fd, KVM_RUN, 0) != 0) {
      tally.failed = true;
      break;
    }
    switch (run->exit_reason) {
      case KVM_EXIT_IO:
        if (run->io.direction == KVM_EXIT_IO_OUT) {
          sum += std::uint64_t{run->io.port} + run->io.size + run->io.count +
                 reinterpret_cast<const std::uint8_t*>(run)[run->io.data_offset];
          continue;
        }
        [[fallthrough]];
      default:
        tally.failed = true;
    }
    break;
  }
  tally.sum = sum;
}

__attribute__((noinline)) void library_loop(kvm::Vcpu& vcpu, unsigned long exits, Tally& tally) {
  std::uint64_t sum = 0;
  for (unsigned long i = 0; i < exits; ++i) {
    const bool expected = vcpu.run().visit(
        [&](kvm::exits::IoOut io) {
          sum += std::uint64_t{io.port} + io.size + io.count +
                 std::to_integer<std::uint64_t>(io.data[0]);
          return true;
        },
        [](auto&&) { return false; });
    if (!expected) {
      tally.failed = true;
      break;
    }
  }
  tally.sum = sum;
}

}  // extern "C"

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: exit_cost raw|library EXITS\n");
    return 2;
  }
  const unsigned long exits = std::strtoul(argv[2], nullptr, 10);
  // `1: out %al, $0x10; jmp 1b`, with 7 in al.
  auto guest = kvm_test::Guest::long_mode({0xe6, 0x10, 0xeb, 0xfc});
  auto regs = guest.vcpu.get_regs();
  regs.rax = 7;
  guest.vcpu.set_regs(regs);
  // What a program that uses the library has: a kicker.
  signal(SIGUSR1, [](int) {});
  const auto kicker = guest.vcpu.kicker(SIGUSR1);
  Tally tally;
  if (std::string(argv[1]) == "raw") {
    raw_loop(guest.vcpu.fd(), reinterpret_cast<kvm_run*>(guest.vcpu.run_mapping().data()), exits,
             tally);
  } else {
    library_loop(guest.vcpu, exits, tally);
  }
  if (tally.failed || tally.sum != exits * (0x10 + 1 + 1 + 7)) {
    std::fprintf(stderr, "the guest did something else\n");
    return 1;
  }
  return 0;
}
