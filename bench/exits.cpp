// SPDX-License-Identifier: MIT
// Running a guest and looking at its registers, against the same with raw
// ioctls on the same vCPU.
#include <linux/kvm.h>

#include <kvm/kvm.hpp>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <utility>

#include <sys/ioctl.h>

#include "compare.hpp"
#include "support/guest.hpp"

namespace {

[[noreturn]] void unexpected(const char* what) {
  std::fprintf(stderr, "unexpected: %s\n", what);
  std::abort();
}

/// `1: out %al, $0x10; jmp 1b`
constexpr kvm_test::Code out_forever = {0xe6, 0x10, 0xeb, 0xfc};

/// What both sides of a comparison use. The guest is in ring 0: the cheapest
/// exit that every host has, so that what is added weighs most. (Where KVM
/// emulates ring 0, that costs a quarter of an exit from ring 3.)
struct Shared {
  kvm_test::Guest guest = kvm_test::Guest::long_mode(out_forever, 0);
  kvm::Vcpu& vcpu = guest.vcpu;
  int fd = vcpu.fd();
  kvm_run* run = reinterpret_cast<kvm_run*>(vcpu.run_mapping().data());
  std::uint64_t sum = 0;
};

void raw_round_trip(Shared& shared) {
  if (ioctl(shared.fd, KVM_RUN, 0) != 0) {
    unexpected("KVM_RUN failed");
  }
  kvm_run& run = *shared.run;
  switch (run.exit_reason) {
    case KVM_EXIT_IO:
      if (run.io.direction != KVM_EXIT_IO_OUT) {
        unexpected("a port read");
      }
      shared.sum += run.io.port + run.io.size * run.io.count +
                    reinterpret_cast<const std::uint8_t*>(&run)[run.io.data_offset];
      break;
    default:
      unexpected("exit reason");
  }
}

void library_round_trip(Shared& shared) {
  shared.vcpu.run().visit(
      [&](kvm::exits::IoOut io) {
        shared.sum += io.port + io.size * io.count + std::to_integer<std::uint64_t>(io.data[0]);
      },
      [](auto&&) { unexpected("exit"); });
}

template <class Floor, class Library>
void compare(const char* name, double limit, Floor floor, Library library) {
  kvm_bench::compare(name, {limit}, [=] {
    auto shared = std::make_shared<Shared>();
    return std::pair([=] { floor(*shared); }, [=] { library(*shared); });
  });
}

void register_all() {
  compare("exit_round_trip", 1.02, raw_round_trip, library_round_trip);

  compare(
      "get_regs", 1.02,
      [](Shared& shared) {
        kvm_regs regs;
        if (ioctl(shared.fd, KVM_GET_REGS, &regs) != 0) {
          unexpected("KVM_GET_REGS failed");
        }
        benchmark::DoNotOptimize(regs);
      },
      [](Shared& shared) {
        auto regs = shared.vcpu.get_regs();
        benchmark::DoNotOptimize(regs);
      });

  const auto regs = std::make_shared<kvm::uapi::kvm_regs>();
  regs->rip = kvm_test::code_at;
  regs->rflags = 2;
  compare(
      "set_regs", 1.02,
      [=](Shared& shared) {
        if (ioctl(shared.fd, KVM_SET_REGS, regs.get()) != 0) {
          unexpected("KVM_SET_REGS failed");
        }
      },
      [=](Shared& shared) { shared.vcpu.set_regs(*regs); });

  // A vCPU for each side: what is synced is asked for once and stays.
  kvm_bench::compare("run_and_read_synced_regs", {0.65}, [] {
    auto plain = std::make_shared<Shared>();
    auto synced = std::make_shared<Shared>();
    synced->vcpu.sync_on_exit(kvm::cap::SyncRegsFlag::regs);
    return std::pair(
        [=] {
          raw_round_trip(*plain);
          kvm_regs out;
          if (ioctl(plain->fd, KVM_GET_REGS, &out) != 0) {
            unexpected("KVM_GET_REGS failed");
          }
          plain->sum += out.rip + out.rax;
        },
        [=] {
          library_round_trip(*synced);
          const auto* out = synced->vcpu.synced_regs();
          synced->sum += out->rip + out->rax;
        });
  });

  // What of that ratio is the library's: the same through the bare run page.
  kvm_bench::compare("synced_regs_against_raw", {1.02}, [] {
    auto shared = std::make_shared<Shared>();
    shared->vcpu.sync_on_exit(kvm::cap::SyncRegsFlag::regs);
    return std::pair(
        [=] {
          raw_round_trip(*shared);
          const auto& out = shared->run->s.regs.regs;
          shared->sum += out.rip + out.rax;
        },
        [=] {
          library_round_trip(*shared);
          const auto* out = shared->vcpu.synced_regs();
          shared->sum += out->rip + out->rax;
        });
  });
}

}  // namespace

int main(int argc, char** argv) {
  register_all();
  return kvm_bench::run(argc, argv);
}
