// SPDX-License-Identifier: MIT
// needs: x86
// The code of docs/guides/dirty.md.
#include <kvm/kvm.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "support/dirty_guest.hpp"
#include "support/kicking.hpp"
#include "support/require.hpp"

namespace {

using namespace kvm::literals;

/// What a migration's other side has: guest memory, page by page.
class Destination {
 public:
  explicit Destination(std::uint64_t bytes) : memory_(bytes) {}

  bool send(kvm::GuestMemory::View& source, kvm::Gpa gpa, std::uint64_t size) {
    if (gpa.value > memory_.size() || size > memory_.size() - gpa.value) return true;  // not ours
    sent_ += size;
    return source.read(gpa, std::span(memory_).subspan(gpa.value, size));
  }
  const std::vector<std::byte>& memory() const { return memory_; }
  std::uint64_t sent() const { return sent_; }

 private:
  std::vector<std::byte> memory_;
  std::uint64_t sent_ = 0;
};

TEST(DirtyGuide, OneHarvest) {
  kvm::System system;
  kvm::Vm vm = system.create_vm();
  kvm::MemorySlot ram = vm.add_memory(kvm::Gpa{0}, kvm::Mapping::anonymous(1_MiB));
  std::vector<kvm::Gpa> seen;
  const auto send = [&](kvm::Gpa gpa, std::uint64_t) { seen.push_back(gpa); };
  //! [track]
  kvm::DirtyTracker tracker = vm.track_dirty();
  tracker.log_all(true);  // or MemoryOptions::log_dirty for the slots that matter
  kvm::DirtySubscription migration = tracker.subscribe();

  kvm::DirtyHarvest all = migration.harvest([&](const kvm::DirtyPages& pages) {
    send(pages.gpa, pages.size);  // everything: it has seen nothing yet
  });
  if (all.untracked != 0) {
    for (const kvm::UntrackedSlot& slot : tracker.untracked()) {
      (void)slot;  // its memory is to be sent as a whole, whenever it counts
    }
  }
  //! [track]
  EXPECT_EQ(all.pages * kvm_test::page, 1_MiB);
  EXPECT_EQ(all.untracked, 0u);
  seen.clear();

  //! [own-writes]
  kvm::GuestMemory::View memory = vm.memory().view();
  bool written = memory.write<std::uint32_t>(kvm::Gpa{0x5000}, 1);  // marked by the library
  std::byte* raw = ram.mapping().data();
  raw[0x7000] = std::byte{1};                            // not seen by anybody:
  bool marked = memory.mark_dirty(kvm::Gpa{0x7000}, 1);  // so say it, after the store
  //! [own-writes]
  EXPECT_TRUE(written && marked);
  migration.harvest([&](const kvm::DirtyPages& pages) { send(pages.gpa, pages.size); });
  EXPECT_EQ(seen, (std::vector{kvm::Gpa{0x5000}, kvm::Gpa{0x7000}}));
}

TEST(DirtyGuide, PreCopy) {
  kvm_test::Machine machine;
  kvm_test::Handler handler(SIGUSR1);
  kvm::Vm& vm = machine.vm;
  kvm_test::Writer writer(machine);
  kvm::Vcpu& vcpu = writer.vcpu;
  kvm::MemorySlot logged =
      vm.add_memory(kvm::Gpa{kvm_test::logged_at}, kvm::Mapping::anonymous(64 * kvm_test::page));
  Destination destination(kvm_test::logged_at + 64 * kvm_test::page);
  kvm::Kicker kicker = vcpu.kicker(SIGUSR1);
  std::atomic<bool> stop{false};
  std::thread thread([&] {
    // The values depend on the count, so that each turn's are other ones.
    for (std::uint64_t count = 64; !stop; count = count > 32 ? count - 1 : 64) {
      writer.write(kvm_test::logged_at, count);
    }
  });
  const std::uint64_t few = 8;
  const int most_rounds = 5;

  kvm::DirtyTracker tracker = vm.track_dirty();
  tracker.log_all(true);
  kvm::DirtySubscription migration = tracker.subscribe();
  kvm::GuestMemory::View memory = vm.memory().view();
  //! [precopy]
  const auto send = [&](const kvm::DirtyPages& pages) {
    return destination.send(memory, pages.gpa, pages.size);  // false: they stay pending
  };
  // While the guest runs: each round sends what was written during the one before.
  for (int round = 0; round < most_rounds; ++round) {
    if (migration.harvest(send).pages <= few) break;
  }
  // All who write have stopped: vCPUs are out of run(), devices are quiet.
  stop = true;
  kicker.kick();
  thread.join();
  // Now there is no later write: what this sends is all that was left.
  kvm::DirtyHarvest last = migration.harvest(send);
  bool done = last.complete && last.untracked == 0;
  //! [precopy]
  EXPECT_TRUE(done);
  std::vector<std::byte> page(64 * kvm_test::page);
  ASSERT_TRUE(memory.read(kvm::Gpa{kvm_test::logged_at}, page));
  EXPECT_TRUE(
      std::equal(page.begin(), page.end(), destination.memory().begin() + kvm_test::logged_at));
  EXPECT_EQ(migration.harvest(send).pages, 0u);
}

TEST(DirtyGuide, Rings) {
  kvm_test::Machine machine;
  kvm::Vm& vm = machine.vm;
  KVM_REQUIRE(vm, kvm::cap::DirtyLogRingAcqRel);
  int resumed = 0;
  //! [ring]
  kvm::DirtyTracker tracker = vm.track_dirty(kvm::DirtyMode::ring);  // before the first vCPU
  kvm::Vcpu vcpu = vm.create_vcpu(0);

  const auto run_once = [&] {
    return vcpu.run().visit(
        [&](kvm::exits::DirtyRingFull) {
          tracker.collect();  // makes room; subscribers get the pages with their next harvest
          ++resumed;
          return true;
        },
        [&](kvm::exits::Hlt) { return false; }, [](auto&&) { return false; });
  };
  //! [ring]
  machine.load(kvm_test::code_at, {0xf4});
  kvm_test::enter_real_mode(vcpu);
  EXPECT_FALSE(run_once());
  EXPECT_EQ(tracker.mode(), kvm::DirtyMode::ring);
}

TEST(DirtyGuide, BackToASnapshot) {
  // 1: inc byte [0x40000]; movzx eax, byte [0x40000]; inc byte [rax * 4096 + 0x41000];
  // out %al, $0x10; jmp 1b: counts, and writes another page in each turn
  kvm_test::Guest guest =
      kvm_test::Guest::long_mode({0xfe, 0x04, 0x25, 0,    0,    4, 0,              //
                                  0x0f, 0xb6, 0x04, 0x25, 0,    0, 4,    0,        //
                                  0xc1, 0xe0, 0x0c, 0xfe, 0x80, 0, 0x10, 0x04, 0,  //
                                  0x8a, 0x04, 0x25, 0,    0,    4, 0,    0xe6, 0x10, 0xeb, 0xdd});
  kvm::System& system = guest.system;
  kvm::Vm& vm = guest.vm;
  kvm::MemorySlot& ram = guest.ram;
  kvm::Vcpu& vcpu = guest.vcpu;
  vcpu.set_cpuid2(system.supported_cpuid());
  std::vector<unsigned> counts;
  // One input: the guest takes three turns.
  const auto run_one_input = [&] {
    counts.clear();
    while (counts.size() < 3) {
      const kvm::Exit exit = vcpu.run();
      exit.visit(
          [&](kvm::exits::IoOut io) { counts.push_back(std::to_integer<unsigned>(io.data[0])); },
          [&](auto&&) { FAIL() << exit.describe(); });
      if (testing::Test::HasFailure()) break;
    }
  };
  run_one_input();
  ASSERT_EQ(counts, (std::vector{1u, 2u, 3u}));
  const auto serve = [](const kvm::Exit&) { return false; };  // an OUT has no second half
  //! [snapshot]
  // The guest takes its last answer, so that nothing is pending; serve() answers a second half.
  const auto settle = [&] {
    for (auto more = vcpu.complete(); more && serve(*more);) more = vcpu.complete();
  };
  settle();
  const kvm::x86::VcpuSnapshot start = vcpu.save_state(system.msr_index_list());
  std::byte* const now = ram.mapping().data();
  const std::vector<std::byte> then(now, now + ram.size());
  kvm::DirtyTracker tracker = vm.track_dirty();
  ram.log_dirty(true);
  kvm::DirtySubscription written = tracker.subscribe({.slot = &ram, .all_pending = false});
  //! [snapshot]
  for (int round = 0; round < 3; ++round) {
    //! [back]
    run_one_input();
    settle();
    kvm::DirtyHarvest harvest = written.harvest([&](const kvm::DirtyPages& pages) {
      const std::uint64_t offset = pages.gpa - ram.gpa();
      // By the bare address: what a View writes would be in the next harvest again.
      std::memcpy(now + offset, then.data() + offset, pages.size);
    });
    vcpu.restore_state(start);
    //! [back]
    EXPECT_EQ(counts, (std::vector{4u, 5u, 6u})) << round;
    EXPECT_EQ(harvest.untracked, 0u);
    EXPECT_GE(harvest.pages, 4u);  // the counter and three pages
    EXPECT_LT(harvest.pages, ram.pages());
    EXPECT_TRUE(std::equal(then.begin(), then.end(), now));
  }
  // What was restored is not dirty by that.
  EXPECT_EQ(written.harvest([](const kvm::DirtyPages&) {}).pages, 0u);

  // A guest that died goes back, too.
  kvm_test::jump_to(vcpu, kvm_test::mmio_at);
  const std::string death = vcpu.run().name();
  EXPECT_TRUE(death == "KVM_EXIT_INTERNAL_ERROR" || death == "KVM_EXIT_SHUTDOWN") << death;
  settle();
  vcpu.restore_state(start);
  run_one_input();
  EXPECT_EQ(counts, (std::vector{4u, 5u, 6u}));
}

TEST(DirtyGuide, TheRestOfTheState) {
  const auto make = [](kvm::Vm& vm) {
    vm.create_irqchip();
    vm.create_pit2();
  };
  kvm_test::Machine source(make), target(make);
  std::vector<kvm::Vcpu> vcpus, there;
  for (unsigned id = 0; id < 2; ++id) {
    vcpus.push_back(source.vm.create_vcpu(id));
    there.push_back(target.vm.create_vcpu(id));
    vcpus.back().set_cpuid2(source.system.supported_cpuid());
  }
  kvm_test::enter_real_mode(vcpus[0]);
  vcpus[1].set_mp_state({.mp_state = kvm::uapi::mp_state::halted});
  constexpr std::size_t spurious_vector = 0xf0, requests_32_to_63 = 0x210;
  auto lapic = vcpus[0].get_lapic();
  lapic.regs[spurious_vector + 1] |= 1;  // bit 8: the local APIC is on
  vcpus[0].set_lapic(lapic);
  auto pic = source.vm.get_irqchip(kvm::uapi::irqchip::pic_master);
  pic.chip.pic.imr = 0x5a;
  source.vm.set_irqchip(pic);
  kvm::uapi::kvm_clock_data begun{};
  begun.clock = 1'000'000'000'000;
  source.vm.set_clock(begun);
  kvm::System& system = source.system;
  kvm::Vm& vm = source.vm;
  kvm::Vm& destination = target.vm;
  //! [save]
  // At the source, where nothing runs any more and nothing is pending.
  std::vector<kvm::x86::VcpuSnapshot> cpus;
  for (kvm::Vcpu& vcpu : vcpus) cpus.push_back(vcpu.save_state(system.msr_index_list()));
  std::array<kvm::uapi::kvm_irqchip, 3> chips;  // PIC, PIC, IOAPIC of create_irqchip()
  for (std::uint32_t chip = 0; chip < chips.size(); ++chip) chips[chip] = vm.get_irqchip(chip);
  kvm::uapi::kvm_pit_state2 pit = vm.get_pit2();  // of create_pit2()
  kvm::uapi::kvm_clock_data clock = vm.get_clock();
  //! [save]
  // As if the guest had an interrupt there that has not reached its CPU.
  auto& ioapic = chips[kvm::uapi::irqchip::ioapic].chip.ioapic;
  ioapic.redirtbl[5].bits = 32 + 8;  // an edge, to CPU 0, not masked
  ioapic.irr |= 1u << 5;
  //! [restore]
  // At the destination: the same calls made the VM, and its memory has arrived.
  for (std::size_t i = 0; i < cpus.size(); ++i) there[i].restore_state(cpus[i]);
  // After the vCPUs: an interrupt that waits in the IOAPIC goes to a local APIC now.
  for (const kvm::uapi::kvm_irqchip& chip : chips) destination.set_irqchip(chip);
  destination.set_pit2(pit);
  clock.flags &= kvm::uapi::clock_flag::realtime;  // where it is: adds the time since then
  destination.set_clock(clock);
  //! [restore]
  EXPECT_EQ(there[0].get_regs().rip, kvm_test::code_at);
  EXPECT_EQ(there[0].get_lapic().regs[requests_32_to_63 + 1], 1);  // interrupt 40 is there
  EXPECT_EQ(there[1].get_mp_state().mp_state, kvm::uapi::mp_state::halted);
  EXPECT_EQ(destination.get_irqchip(kvm::uapi::irqchip::pic_master).chip.pic.imr, 0x5a);
  EXPECT_GE(destination.get_clock().clock, 1'000'000'000'000u);
}

}  // namespace
