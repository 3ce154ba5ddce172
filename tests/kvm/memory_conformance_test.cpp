// SPDX-License-Identifier: MIT
// What the kernel's own tests of memory slots ask of KVM, asked through the library.
#include <kvm/kvm.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "support/guest.hpp"
#include "support/kicking.hpp"
#include "support/require.hpp"

namespace {

namespace cap = kvm::cap;
namespace request = kvm::uapi::request;
using kvm::Gpa;
using kvm::Mapping;
using kvm::MemorySlot;
using kvm_test::Guest;
using namespace kvm::literals;

const std::size_t page = kvm::detail::sys::page_size();
constexpr Gpa high{0x4000'0000};
constexpr std::uint64_t max64 = ~std::uint64_t{0};

// --- which slots there can be ---

/// KVM_SET_USER_MEMORY_REGION with any values at all.
int set_region(const kvm::Vm& vm, const kvm::uapi::kvm_userspace_memory_region& region) {
  const auto result = vm.try_ioctl(request::set_user_memory_region.code, &region);
  return result ? 0 : result.error().error_number();
}

// The limits are the kernel's, and the library knows them: numbers are below NR_MEMSLOTS, and the
// flags are those that it has.
TEST(SetMemoryRegion, KnowsTheKernelsLimits) {
  kvm::System system;
  kvm::Vm vm = system.create_vm();
  const auto limit = static_cast<std::uint32_t>(vm.check_raw(kvm::uapi::cap::nr_memslots));
  const Mapping memory = Mapping::anonymous(page);
  const auto address = reinterpret_cast<std::uint64_t>(memory.data());
  const auto region = [&](std::uint32_t slot, std::uint32_t flags) {
    return kvm::uapi::kvm_userspace_memory_region{.slot = slot,
                                                  .flags = flags,
                                                  .guest_phys_addr = high.value,
                                                  .memory_size = page,
                                                  .userspace_addr = address};
  };
  EXPECT_EQ(set_region(vm, region(limit, 0)), EINVAL);
  EXPECT_EQ(set_region(vm, region(0xffff, 0)), EINVAL);
  for (unsigned bit = 3; bit < 32; ++bit) {
    EXPECT_EQ(set_region(vm, region(0, 1u << bit)), EINVAL) << bit;
  }
  // Without a guest_memfd there can be none.
  EXPECT_EQ(set_region(vm, region(0, kvm::uapi::mem::guest_memfd)), EINVAL);
  auto last = region(limit - 1, 0);
  EXPECT_EQ(set_region(vm, last), 0);
  last.memory_size = 0;
  EXPECT_EQ(set_region(vm, last), 0);
  EXPECT_EQ(set_region(vm, last), EINVAL) << "it is gone already";
}

// A slot made with raw ioctls is not the library's, and its errors say that there may be such.
TEST(SetMemoryRegion, OverlapsWithStrangers) {
  kvm::System system;
  kvm::Vm vm = system.create_vm();
  const Mapping memory = Mapping::anonymous(2 * page);
  kvm::uapi::kvm_userspace_memory_region strange{
      .slot = 77,
      .flags = 0,
      .guest_phys_addr = high.value,
      .memory_size = 2 * page,
      .userspace_addr = reinterpret_cast<std::uint64_t>(memory.data())};
  ASSERT_EQ(set_region(vm, strange), 0);
  const auto slot = vm.try_add_memory(high + page, Mapping::anonymous(page));
  ASSERT_FALSE(slot);
  EXPECT_EQ(slot.error().error_number(), EEXIST);
  EXPECT_NE(std::string(slot.error().what()).find("raw ioctls"), std::string::npos);
  MemorySlot other = vm.add_memory(high + 8 * page, Mapping::anonymous(page));
  const auto moved = other.try_move_to(high);
  ASSERT_FALSE(moved);
  EXPECT_EQ(moved.error().error_number(), EEXIST);
  EXPECT_NE(std::string(moved.error().what()).find("raw ioctls"), std::string::npos);
  strange.memory_size = 0;
  EXPECT_EQ(set_region(vm, strange), 0);
  EXPECT_TRUE(other.try_move_to(high));
}

// As many slots as the host has, all of the same kind, side by side; one more fails; each can go.
TEST(SetMemoryRegion, AdjacentSlots) {
  kvm::System system;
  kvm::Vm vm = system.create_vm();
  // Before Linux 5.12 a VM has 509.
  const auto count = std::min<std::uint64_t>(
      512, static_cast<std::uint64_t>(vm.check_raw(kvm::uapi::cap::nr_memslots)));
  const Mapping memory = Mapping::anonymous(count * page);
  std::vector<MemorySlot> slots;
  for (std::size_t i = 0; i < count; ++i) {
    slots.push_back(vm.add_memory(high + i * page, memory.try_part(i * page, page).value()));
  }
  auto view = vm.memory().view();
  EXPECT_TRUE(view.contains(high, count * page));
  EXPECT_FALSE(view.contains(high, count * page + 1));
  ASSERT_TRUE(view.fill(high + 1, count * page - 2, std::byte{7}));
  EXPECT_EQ(memory.data()[0], std::byte{0});
  EXPECT_EQ(memory.data()[1], std::byte{7});
  EXPECT_EQ(memory.data()[count * page - 2], std::byte{7});
  EXPECT_EQ(memory.data()[count * page - 1], std::byte{0});
  for (std::size_t i = 0; i < count; i += 2) {
    ASSERT_TRUE(slots[i].try_remove());
  }
  for (std::size_t i = 0; i < count; ++i) {
    ASSERT_EQ(view.contains(high + i * page, page), i % 2 == 1) << i;
  }
}

// The host memory need not exist, and may be shared by slots.
TEST(SetMemoryRegion, AliasesShowTheSameMemory) {
  kvm::System system;
  kvm::Vm vm = system.create_vm();
  const Mapping memory = Mapping::anonymous(2 * page);
  const MemorySlot one = vm.add_memory(high, memory.share());
  const MemorySlot two = vm.add_memory(high + 1_MiB, memory.share());
  const MemorySlot half = vm.add_memory(high + 2_MiB, memory.try_part(page, page).value());
  auto view = vm.memory().view();
  ASSERT_TRUE(view.write<std::uint32_t>(high + page, 5));
  EXPECT_EQ(view.read<std::uint32_t>(high + (1_MiB + page)), 5u);
  EXPECT_EQ(view.read<std::uint32_t>(high + 2_MiB), 5u);
}

// What is laid down of a slot can't be changed but by a new one: the library has no way to ask.
TEST(SetMemoryRegion, ChangesThatKvmRefuses) {
  kvm::System system;
  kvm::Vm vm = system.create_vm();
  const MemorySlot slot = vm.add_memory(high, Mapping::anonymous(2 * page));
  const Mapping other = Mapping::anonymous(2 * page);
  kvm::uapi::kvm_userspace_memory_region region{
      .slot = slot.id().raw(),
      .flags = 0,
      .guest_phys_addr = high.value,
      .memory_size = 2 * page,
      .userspace_addr = reinterpret_cast<std::uint64_t>(slot.mapping().data())};
  EXPECT_EQ(set_region(vm, region), 0);  // What it is.
  auto changed = region;
  changed.memory_size = page;
  EXPECT_EQ(set_region(vm, changed), EINVAL);
  changed = region;
  changed.userspace_addr = reinterpret_cast<std::uint64_t>(other.data());
  EXPECT_EQ(set_region(vm, changed), EINVAL);
  changed = region;
  changed.flags = kvm::uapi::mem::readonly;
  EXPECT_EQ(set_region(vm, changed), EINVAL);
}

#if KVM_HPP_ARCH_X86

// A VM without memory: the vCPU finds no code, and says so in one of the ways that there are.
TEST(SetMemoryRegion, AGuestWithoutMemory) {
  kvm::System system;
  kvm::Vm vm = system.create_vm();
  kvm::Vcpu vcpu = vm.create_vcpu(0);
  vcpu.run().visit(
      [](kvm::exits::InternalError) {},
      // Where KVM keeps no page tables in hardware.
      [](kvm::exits::Failed failed) { EXPECT_EQ(failed.error_number, ENOSPC) << failed.cause; },
      [](auto&&) { ADD_FAILURE() << "it ran"; });
}

/// again: mov eax, [address]; cmp eax, 0x51515151; je again; out 0x10, eax; jmp again
/// Says what it read unless that is the stamp.
constexpr std::uint32_t stamp = 0x5151'5151;
constexpr std::initializer_list<std::uint8_t> watching = {
    0x8b, 0x04, 0x25, 0x00, 0x00, 0x00, 0x10,  // mov eax, [0x10000000]
    0x3d, 0x51, 0x51, 0x51, 0x51,              // cmp eax, stamp
    0x74, 0xf2,                                // je back
    0xe7, 0x10,                                // out 0x10, eax
    0xeb, 0xee};                               // jmp back
constexpr Gpa watched{0x1000'0000};

Mapping stamped() {
  Mapping memory = Mapping::anonymous(2 * page);
  for (std::size_t i = 0; i < memory.size(); i += 4) {
    std::memcpy(memory.data() + i, &stamp, 4);
  }
  return memory;
}

/// Runs a vCPU until told to end, serves MMIO reads of the watched slot with
/// the stamp, and counts what should not be.
class Watcher {
 public:
  explicit Watcher(Guest& guest)
      : kicker_(guest.vcpu.kicker(SIGUSR1)), thread_([this, &guest] { run(guest.vcpu); }) {}
  Watcher(const Watcher&) = delete;
  Watcher& operator=(const Watcher&) = delete;
  ~Watcher() { end(); }

  void end() {
    end_ = true;
    if (thread_.joinable()) {
      kicker_.kick();
      thread_.join();
    }
  }
  std::string problem() {
    end();
    return problem_;
  }
  std::uint64_t mmio() const { return mmio_; }

 private:
  void run(kvm::Vcpu& vcpu) {
    while (!end_ && problem_.empty()) {
      vcpu.run().visit(
          [&](kvm::exits::MmioRead read) {
            mmio_.fetch_add(1, std::memory_order_relaxed);
            if (read.gpa < watched || read.gpa >= watched + page) {
              problem_ = "MMIO elsewhere";
            }
            for (std::byte& byte : read.data) {
              byte = std::byte{0x51};
            }
          },
          [&](kvm::exits::IoOut out) {
            std::uint32_t value = 0;
            std::memcpy(&value, out.data.data(), std::min<std::size_t>(4, out.data.size()));
            problem_ = "it read " + std::to_string(value);
          },
          [](kvm::exits::Interrupted) {},
          [&](kvm::exits::Failed failed) { problem_ = failed.cause; },
          [&](auto&&) { problem_ = "an exit of another kind"; });
    }
  }

  std::atomic<bool> end_{false};
  std::atomic<std::uint64_t> mmio_{0};
  std::string problem_;
  kvm_test::Handler handler_{SIGUSR1, [](int) {}};
  kvm::Kicker kicker_;
  std::thread thread_;
};

// The slot goes and comes back under a running vCPU, which reads memory or gets MMIO exits, and
// never anything else.
TEST(SetMemoryRegion, DeletedAndAddedUnderARunningVcpu) {
  Guest guest = Guest::long_mode(watching);
  std::optional<MemorySlot> slot = guest.vm.add_memory(watched, stamped());
  Watcher watcher(guest);
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  const auto wait_for_mmio = [&] {
    for (const std::uint64_t before = watcher.mmio(); watcher.mmio() == before;) {
      if (std::chrono::steady_clock::now() > deadline) {
        return false;
      }
      std::this_thread::yield();
    }
    return true;
  };
  for (int i = 0; i < 100; ++i) {
    Mapping back = slot->remove();
    if (!wait_for_mmio()) {
      ADD_FAILURE() << "the guest sees no MMIO";
      break;
    }
    // Nobody sees it any more, the guest least of all.
    std::memset(back.data(), 0xee, back.size());
    slot = guest.vm.add_memory(watched, stamped());
  }
  EXPECT_EQ(watcher.problem(), "");
}

TEST(SetMemoryRegion, MovedUnderARunningVcpu) {
  Guest guest = Guest::long_mode(watching);
  MemorySlot slot = guest.vm.add_memory(watched, stamped());
  Watcher watcher(guest);
  for (int i = 0; i < 300; ++i) {
    // Over itself: the guest's page is there before and after, and MMIO in between.
    slot.move_to(watched - page);
    slot.move_to(watched);
    slot.move_to(watched - page * static_cast<std::uint64_t>(i % 2));
    slot.log_dirty(i % 2 == 0);
  }
  EXPECT_EQ(watcher.problem(), "");
}

// A slot that has nothing to do with what the vCPU touches comes and goes thousands of times: the
// vCPU never sees anything of it.
TEST(MemorySlotModification, OfAnotherSlotIsNotSeen) {
  Guest guest = Guest::long_mode(watching);
  const MemorySlot slot = guest.vm.add_memory(watched, stamped());
  Watcher watcher(guest);
  const Mapping dummy = Mapping::anonymous(page);
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(2);
  unsigned rounds = 0;
  for (; rounds < 3000 && std::chrono::steady_clock::now() < deadline; ++rounds) {
    auto added = guest.vm.try_add_memory(high, dummy.share());
    ASSERT_TRUE(added) << added.error().what();
    auto removed = added->try_remove();
    ASSERT_TRUE(removed) << removed.error().what();
  }
  const std::uint64_t mmio = watcher.mmio();
  EXPECT_EQ(watcher.problem(), "");
  EXPECT_EQ(mmio, 0u) << "in " << rounds << " rounds";
  EXPECT_GT(rounds, 10u);
  EXPECT_EQ(guest.vm.parked_mappings(), 0u);
  EXPECT_EQ(guest.vm.memory().reclaim(), 0u);
}

#endif

// --- guest_memfd ---

TEST(GuestMemfdSlots, CanOnlyBeDeleted) {
  kvm::System system;
  kvm::Vm vm = system.create_vm();
  KVM_REQUIRE(vm, cap::GuestMemfd);
  const kvm::GuestMemfd memfd = vm.create_guest_memfd(4 * page);
  auto slot = vm.try_add_memory(high, Mapping::anonymous(2 * page),
                                {.guest_memfd = &memfd, .guest_memfd_offset = page});
  ASSERT_TRUE(slot) << slot.error().what();
  EXPECT_TRUE(vm.memory().slots()[0].has_guest_memfd);
  for (const auto& change : {slot->try_move_to(high + page), slot->try_log_dirty(true)}) {
    ASSERT_FALSE(change);
    EXPECT_EQ(change.error().error_number(), EINVAL) << change.error().what();
  }
  EXPECT_EQ(slot->gpa(), high);
  EXPECT_FALSE(slot->logs_dirty());
  // Its pages have one place.
  EXPECT_FALSE(vm.try_add_memory(high + 1_MiB, Mapping::anonymous(page),
                                 {.guest_memfd = &memfd, .guest_memfd_offset = 2 * page}));
  const auto elsewhere = vm.try_add_memory(high + 1_MiB, Mapping::anonymous(page),
                                           {.guest_memfd = &memfd, .guest_memfd_offset = 3 * page});
  EXPECT_TRUE(elsewhere);
  for (const std::uint64_t offset : {std::uint64_t{4 * page}, std::uint64_t{1}, max64 - page + 1}) {
    EXPECT_FALSE(vm.try_add_memory(high + 2_MiB, Mapping::anonymous(page),
                                   {.guest_memfd = &memfd, .guest_memfd_offset = offset}))
        << offset;
  }
  EXPECT_TRUE(slot->try_remove());
}

}  // namespace
