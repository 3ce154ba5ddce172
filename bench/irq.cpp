// SPDX-License-Identifier: MIT
// What eventfds and coalescing save: a guest's write that signals an eventfd, or waits in the ring,
// against one that is an exit; an interrupt through an eventfd against one through an ioctl. And
// what the library adds to the bare calls.
#include <linux/kvm.h>

#include <kvm/kvm.hpp>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <utility>

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "compare.hpp"
#include "support/guest.hpp"

namespace {

using kvm::EventFd;

[[noreturn]] void unexpected(const char* what) {
  std::fprintf(stderr, "unexpected: %s\n", what);
  std::abort();
}

constexpr std::uint8_t notify_port = 0x20;
constexpr std::uint8_t done_port = 0x10;
/// How many writes a guest makes for each time that it is done.
constexpr std::uint8_t writes = 100;
constexpr kvm_bench::Effort guest_effort{.rounds = 60, .batch = 10};

/// Writes to notify_port, or to mmio_at, then to done_port, for ever. In ring 3, which runs on the
/// CPU on every host.
constexpr kvm_test::Code write_ports = {
    0xb9, writes,      0x00, 0x00, 0x00,  // start: mov $writes, %ecx
    0xe6, notify_port,                    // again: out %al, $notify_port
    0xff, 0xc9,        0x75, 0xfa,        // dec %ecx; jnz again
    0xe6, done_port,                      // out %al, $done_port
    0xeb, 0xf1,                           // jmp start
};
constexpr kvm_test::Code write_memory = {
    0xbb, 0x00,      0x00, 0x00, 0x30,  // mov $mmio_at, %ebx
    0xb9, writes,    0x00, 0x00, 0x00,  // start: mov $writes, %ecx
    0x89, 0x03,                         // again: mov %eax, (%rbx)
    0xff, 0xc9,      0x75, 0xfa,        // dec %ecx; jnz again
    0xe6, done_port,                    // out %al, $done_port
    0xeb, 0xf1,                         // jmp start
};

struct Writer {
  explicit Writer(kvm_test::Code code) : guest(kvm_test::Guest::long_mode(code)) {}

  /// Runs until the guest is done; its writes are exits.
  void run_with_exits() {
    for (unsigned count = 0;;) {
      const bool done = guest.vcpu.run().visit(
          [](kvm::exits::IoOut io) { return io.port == done_port; },
          [](kvm::exits::MmioWrite) { return false; }, [](auto&&) -> bool { unexpected("exit"); });
      if (done) {
        if (count != writes) {
          unexpected("number of writes");
        }
        return;
      }
      ++count;
    }
  }
  /// Runs until the guest is done; its writes must not be exits.
  void run_without() {
    guest.vcpu.run().visit([](kvm::exits::IoOut) {}, [](auto&&) { unexpected("exit"); });
  }

  kvm_test::Guest guest;
};

void register_writes() {
  using At = kvm::IoeventfdAddress;
  const auto compare_notify = [](const char* name, double limit, kvm_test::Code code, auto at) {
    kvm_bench::compare(
        name, {limit},
        [=] {
          struct Notified : Writer {
            Notified(kvm_test::Code instructions, decltype(at) where)
                : Writer(instructions), ioeventfd(guest.vm.create_ioeventfd(where, event)) {}
            EventFd event;
            kvm::Ioeventfd ioeventfd;
          };
          auto exits = std::make_shared<Writer>(code);
          auto notified = std::make_shared<Notified>(code, at);
          return std::pair([=] { exits->run_with_exits(); },
                           [=] {
                             notified->run_without();
                             if (notified->event.read() != writes) {
                               unexpected("count");
                             }
                           });
        },
        guest_effort);
  };
  compare_notify("ioeventfd_port_write_against_exit", 0.6, write_ports,
                 At::pio<std::uint8_t>(notify_port));
  compare_notify("ioeventfd_mmio_write_against_exit", 0.6, write_memory,
                 At::mmio<std::uint32_t>(kvm::Gpa{kvm_test::mmio_at}));

  kvm_bench::compare(
      "coalesced_write_against_exit", {0.6},
      [] {
        struct Coalesced : Writer {
          Coalesced()
              : Writer(write_memory),
                ring(guest.vm.create_coalesced_ring(guest.vcpu)),
                zone(ring.create_zone(kvm::CoalescedRange::mmio(kvm::Gpa{kvm_test::mmio_at}, 4))) {}
          kvm::CoalescedRing ring;
          kvm::CoalescedZone zone;
          std::uint64_t sum = 0;
        };
        auto exits = std::make_shared<Writer>(write_memory);
        auto coalesced = std::make_shared<Coalesced>();
        return std::pair([=] { exits->run_with_exits(); },
                         [=] {
                           unsigned count = 0;
                           coalesced->ring
                               .run(coalesced->guest.vcpu,
                                    [&](auto&& write) {
                                      coalesced->sum += write.data.size();
                                      ++count;
                                    })
                               .visit([](kvm::exits::IoOut) {}, [](auto&&) { unexpected("exit"); });
                           if (count != writes) {
                             unexpected("number of writes");
                           }
                         });
      },
      guest_effort);

  // What is the library's in that: the same with a loop over the bare ring.
  kvm_bench::compare(
      "coalesced_drain_against_raw", {1.02},
      [] {
        struct Shared : Writer {
          Shared()
              : Writer(write_memory),
                ring(guest.vm.create_coalesced_ring(guest.vcpu)),
                zone(ring.create_zone(kvm::CoalescedRange::mmio(kvm::Gpa{kvm_test::mmio_at}, 4))),
                page(guest.vcpu.run_mapping().data() +
                     kvm::detail::sys::page_size() *
                         static_cast<std::size_t>(guest.vm.check<kvm::cap::CoalescedMmio>())) {}
          kvm::CoalescedRing ring;
          kvm::CoalescedZone zone;
          std::byte* page;
          std::uint64_t sum = 0;
        };
        auto shared = std::make_shared<Shared>();
        return std::pair(
            [=] {
              shared->run_without();
              auto* const first = reinterpret_cast<std::uint32_t*>(shared->page);
              auto* const entries = reinterpret_cast<kvm_coalesced_mmio*>(shared->page + 8);
              const std::uint32_t slots = static_cast<std::uint32_t>(
                  (kvm::detail::sys::page_size() - 8) / sizeof(kvm_coalesced_mmio));
              const std::uint32_t last = __atomic_load_n(first + 1, __ATOMIC_ACQUIRE);
              while (*first != last) {
                shared->sum += entries[*first].len + entries[*first].phys_addr;
                __atomic_store_n(first, (*first + 1) % slots, __ATOMIC_RELEASE);
              }
            },
            [=] {
              shared->run_without();
              shared->ring.drain(
                  [&](kvm::exits::MmioWrite write) {
                    shared->sum += write.data.size() + write.gpa.value;
                  },
                  [](auto&&) { unexpected("port"); });
            });
      },
      guest_effort);
}

/// A VM with interrupt controllers, whose vCPU never runs: what is raised stays pending.
struct Interrupts {
  static constexpr std::uint32_t line_gsi = 5;
  static constexpr std::uint32_t msi_gsi = 24;
  static constexpr std::uint64_t msi_address = 0xfee00000;
  static constexpr std::uint32_t msi_data = 0x60;

  Interrupts() {
    auto lapic = vcpu.get_lapic();
    lapic.regs[0xf1] = 1;  // the enable bit of the spurious vector register
    vcpu.set_lapic(lapic);
    vm.set_gsi_routing(routing);
  }

  kvm::System system;
  kvm::Vm vm = system.create_vm();
  kvm::Vcpu vcpu = (vm.create_irqchip(), vm.create_vcpu(0));
  kvm::IrqRouting routing = kvm::IrqRouting::x86_default().msi(msi_gsi, msi_address, msi_data);
  EventFd line;
  EventFd msi;
  EventFd idle;
  kvm::Irqfd line_irqfd = vm.create_irqfd(line_gsi, line);
  kvm::Irqfd msi_irqfd = vm.create_irqfd(msi_gsi, msi);
};

template <class Floor, class Library>
void compare(const char* name, double limit, Floor floor, Library library) {
  kvm_bench::compare(name, {limit}, [=] {
    auto shared = std::make_shared<Interrupts>();
    return std::pair([=] { floor(*shared); }, [=] { library(*shared); });
  });
}

void register_interrupts() {
  // One edge: up and down. KVM raises the irqfd's from a thread of its own.
  compare(
      "irqfd_signal_against_irq_line", 0.8,
      [](Interrupts& shared) {
        shared.vm.irq_line(Interrupts::line_gsi, true);
        shared.vm.irq_line(Interrupts::line_gsi, false);
      },
      [](Interrupts& shared) { shared.line.signal(); });
  // The ioctl does less, but only the VMM can send it.
  compare(
      "irqfd_msi_against_signal_msi", 1.25,
      [](Interrupts& shared) {
        shared.vm.signal_msi(Interrupts::msi_address, Interrupts::msi_data);
      },
      [](Interrupts& shared) { shared.msi.signal(); });

  compare(
      "irq_line_against_raw", 1.02,
      [](Interrupts& shared) {
        kvm_irq_level line{};
        line.irq = Interrupts::line_gsi;
        line.level = 1;
        if (ioctl(shared.vm.fd(), KVM_IRQ_LINE, &line) != 0) {
          unexpected("KVM_IRQ_LINE failed");
        }
      },
      [](Interrupts& shared) { shared.vm.irq_line(Interrupts::line_gsi, true); });
  compare(
      "signal_msi_against_raw", 1.02,
      [](Interrupts& shared) {
        kvm_msi msi{};
        msi.address_lo = static_cast<std::uint32_t>(Interrupts::msi_address);
        msi.data = Interrupts::msi_data;
        if (ioctl(shared.vm.fd(), KVM_SIGNAL_MSI, &msi) < 0) {
          unexpected("KVM_SIGNAL_MSI failed");
        }
      },
      [](Interrupts& shared) {
        shared.vm.signal_msi(Interrupts::msi_address, Interrupts::msi_data);
      });
  compare(
      "event_signal_and_read_against_raw", 1.02,
      [](Interrupts& shared) {
        std::uint64_t count = 1;
        if (write(shared.idle.fd(), &count, sizeof count) < 0 ||
            read(shared.idle.fd(), &count, sizeof count) < 0 || count != 1) {
          unexpected("eventfd failed");
        }
      },
      [](Interrupts& shared) {
        shared.idle.signal();
        if (shared.idle.read() != 1) {
          unexpected("eventfd failed");
        }
      });
  compare(
      "irqfd_made_and_dropped_against_raw", 1.02,
      [](Interrupts& shared) {
        const int own = fcntl(shared.idle.fd(), F_DUPFD_CLOEXEC, 0);
        kvm_irqfd irqfd{};
        irqfd.fd = static_cast<std::uint32_t>(own);
        irqfd.gsi = 6;
        if (ioctl(shared.vm.fd(), KVM_IRQFD, &irqfd) != 0) {
          unexpected("KVM_IRQFD failed");
        }
        irqfd.flags = KVM_IRQFD_FLAG_DEASSIGN;
        if (ioctl(shared.vm.fd(), KVM_IRQFD, &irqfd) != 0) {
          unexpected("KVM_IRQFD failed");
        }
        close(own);
      },
      [](Interrupts& shared) { const auto irqfd = shared.vm.create_irqfd(6, shared.idle); });
}

}  // namespace

int main(int argc, char** argv) {
  register_writes();
  register_interrupts();
  return kvm_bench::run(argc, argv);
}
