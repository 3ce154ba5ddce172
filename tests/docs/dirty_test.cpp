// SPDX-License-Identifier: MIT
// needs: x86
// The code of docs/guides/dirty.md.
#include <kvm/kvm.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
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

}  // namespace
