// SPDX-License-Identifier: MIT
#include "driver.hpp"

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

namespace {

using fault::Call;
using fault::FaultTest;
using fault::Function;
using fault::Guest;
using fault::Rule;
namespace request = kvm::uapi::request;
using namespace kvm::literals;

class MemoryFaults : public FaultTest {};

constexpr kvm::Gpa high{0x4000'0000};

bool is_check(const Call& call, int) { return call.is_ioctl(request::check_extension.code); }

/// The deletion of a slot.
bool is_deletion(const Call& call, std::size_t = 0) {
  return call.is_ioctl(request::set_user_memory_region.code) &&
         reinterpret_cast<const kvm::uapi::kvm_userspace_memory_region*>(call.argument)
                 ->memory_size == 0;
}
std::vector<Rule> refuse_deletion(int error_number, int times = 1) {
  return {{.matches = is_deletion, .error_number = error_number, .times = times}};
}

TEST_F(MemoryFaults, AnonymousMapping) {
  fault::expect_pair_withstands(
      {.name = "Mapping::anonymous"}, [](Guest&) { return kvm::Mapping::try_anonymous(64_KiB); },
      [](Guest&) { return kvm::Mapping::anonymous(64_KiB); });
}

TEST_F(MemoryFaults, SharedMapping) {
  fault::expect_withstands({.name = "Mapping::try_shared", .run = [](Guest& guest) {
                              return fault::attempt([&] {
                                return kvm::Mapping::try_shared("mmap", guest.vcpu.fd(),
                                                                guest.system.vcpu_mmap_size());
                              });
                            }});
}

TEST_F(MemoryFaults, PagesOfAVcpu) {
  fault::expect_withstands({.name = "VcpuPages::try_map", .run = [](Guest& guest) {
                              return fault::attempt([&] {
                                return kvm::detail::VcpuPages::try_map(
                                    "mmap", guest.vcpu.fd(), guest.system.vcpu_mmap_size());
                              });
                            }});
}

TEST_F(MemoryFaults, AddMemory) {
  // The mapping that was not taken is still the caller's.
  std::optional<kvm::Mapping> memory;
  const auto prepare = [&](Guest&) { memory = kvm::Mapping::anonymous(64_KiB); };
  const auto finish = [&] { memory.reset(); };
  const auto add = [&](Guest& guest, bool throwing) {
    return fault::attempt([&]() -> kvm::Result<void> {
      const void* const where = memory->data();
      if (throwing) {
        kvm::MemorySlot slot = guest.vm.add_memory(high, std::move(*memory));
        EXPECT_EQ(memory->data(), nullptr);
        memory = slot.remove();
        return {};
      }
      auto slot = guest.vm.try_add_memory(high, std::move(*memory), {.log_dirty = true});
      if (!slot) {
        EXPECT_EQ(memory->data(), where);
        EXPECT_EQ(memory->size(), 64_KiB);
        return slot.error();
      }
      auto removed = slot->try_remove();
      if (!removed) {
        EXPECT_EQ(slot->mapping().data(), where);
        memory = slot->remove();
        return removed.error();
      }
      memory = removed->take();
      return {};
    });
  };
  fault::expect_withstands({.name = "try_add_memory, try_remove",
                            .run = [&](Guest& guest) { return add(guest, false); },
                            .survives = is_check,
                            .prepare = prepare,
                            .finish = finish});
  // x() loses the slot, and with it the memory, when remove() fails: it is parked with the VM.
  fault::expect_withstands({.name = "add_memory, remove",
                            .run =
                                [&](Guest& guest) {
                                  auto outcome = add(guest, true);
                                  if (memory->data() == nullptr) {
                                    memory = kvm::Mapping::anonymous(64_KiB);
                                  }
                                  return outcome;
                                },
                            .survives = is_check,
                            .prepare = prepare,
                            .finish = finish});
}

// The first slot of a VM asks how many there can be; no answer is no limit.
TEST_F(MemoryFaults, FirstSlot) {
  const auto fresh = [](Guest& guest) {
    const fault::Unobserved ours;
    return guest.system.create_vm();
  };
  const auto pages = [] {
    const fault::Unobserved ours;
    return kvm::Mapping::anonymous(64_KiB);
  };
  const fault::Operation operation{.name = "add_memory, first", .survives = is_check};
  fault::expect_pair_withstands(
      operation,
      [&](Guest& guest) -> kvm::Result<void> {
        kvm::Vm vm = fresh(guest);
        kvm::Mapping memory = pages();
        auto slot = vm.try_add_memory(high, std::move(memory));
        if (!slot) {
          return slot.error();
        }
        auto removed = slot->try_remove();
        return removed ? kvm::Result<void>() : kvm::Result<void>(removed.error());
      },
      [&](Guest& guest) {
        kvm::Vm vm = fresh(guest);
        kvm::Mapping memory = pages();
        kvm::MemorySlot slot = vm.add_memory(high, std::move(memory));
        static_cast<void>(slot.remove());
      });
}

TEST_F(MemoryFaults, DroppedSlot) {
  // Nothing that happens in a destructor is told; a slot that stays is parked.
  fault::expect_withstands({.name = "~MemorySlot",
                            .run =
                                [](Guest& guest) {
                                  std::optional<kvm::MemorySlot> slot;
                                  {
                                    const fault::Unobserved ours;
                                    slot =
                                        guest.vm.add_memory(high, kvm::Mapping::anonymous(64_KiB));
                                  }
                                  slot.reset();
                                  return fault::Outcome();
                                },
                            .survives = [](const Call&, int) { return true; },
                            .repeatable = false,
                            .idempotent = false});
}

class ParkedMemory : public MemoryFaults, public testing::WithParamInterface<int> {};

TEST_P(ParkedMemory, StaysMappedWhileTheVmLives) {
  const auto before = fault::Resources::now();
  const void* memory = nullptr;
  {
    // again: mov al, [0x10000000]; out 0x10, al; jmp again
    std::optional<Guest> guest =
        Guest::long_mode({0x8a, 0x04, 0x25, 0x00, 0x00, 0x00, 0x10, 0xe6, 0x10, 0xeb, 0xf5});
    constexpr kvm::Gpa gpa{0x1000'0000};
    const auto mappings = fault::live_mappings();
    {
      kvm::MemorySlot slot = guest->vm.add_memory(gpa, kvm::Mapping::anonymous(64_KiB));
      memory = slot.mapping().data();
      const std::byte value{0x5a};
      ASSERT_TRUE(slot.load(gpa, std::span(&value, 1)));
      EXPECT_EQ(guest->vm.parked_mappings(), 0u);
      fault::arm(refuse_deletion(GetParam()));
    }
    const auto calls = fault::disarm();
    EXPECT_EQ(fault::injected(), 1u);
    for (const Call& call : calls) {
      EXPECT_NE(call.function, Function::munmap);
    }
    EXPECT_EQ(guest->vm.parked_mappings(), 1u);
    EXPECT_EQ(fault::live_mappings(), mappings + 1);
    ASSERT_TRUE(fault::is_mapped(memory));

    // KVM has the slot still, and the guest reads what was there.
    bool seen = false;
    guest->vcpu.run().visit(
        [&](kvm::exits::IoOut out) {
          seen = true;
          EXPECT_EQ(out.data[0], std::byte{0x5a});
        },
        [](kvm::exits::Failed failed) { ADD_FAILURE() << failed.cause; },
        [](auto&& other) { ADD_FAILURE() << typeid(other).name(); });
    EXPECT_TRUE(seen);

    // The place is taken, and the error says by which slot.
    const auto again = guest->vm.try_add_memory(gpa, kvm::Mapping::anonymous(64_KiB));
    ASSERT_FALSE(again);
    EXPECT_EQ(again.error().error_number(), EEXIST);
    EXPECT_NE(std::string(again.error().what()).find("overlaps slot 1"), std::string::npos)
        << again.error().what();
    // Another is not.
    EXPECT_TRUE(guest->vm.try_add_memory(high, kvm::Mapping::anonymous(64_KiB)));

    // Not the Vm object but the last handle ends it.
    kvm::Vcpu last = std::move(guest->vcpu);
    guest.reset();
    EXPECT_TRUE(fault::is_mapped(memory));
  }
  EXPECT_FALSE(fault::is_mapped(memory));
  EXPECT_EQ(fault::Resources::now(), before);
}

TEST_P(ParkedMemory, ComesFromAssignmentToo) {
  const auto before = fault::Resources::now();
  {
    Guest guest = fault::make_guest();
    kvm::MemorySlot one = guest.vm.add_memory(high, kvm::Mapping::anonymous(64_KiB));
    kvm::MemorySlot two = guest.vm.add_memory(high + 64_KiB, kvm::Mapping::anonymous(64_KiB));
    const void* const memory = one.mapping().data();
    fault::arm(refuse_deletion(GetParam()));
    one = std::move(two);
    fault::disarm();
    EXPECT_EQ(guest.vm.parked_mappings(), 1u);
    EXPECT_TRUE(fault::is_mapped(memory));
    EXPECT_EQ(one.gpa(), high + 64_KiB);
  }
  EXPECT_EQ(fault::Resources::now(), before);
}

TEST_P(ParkedMemory, OfEverySlotAtOnce) {
  const auto before = fault::Resources::now();
  {
    Guest guest = fault::make_guest();
    {
      std::vector<kvm::MemorySlot> slots;
      for (std::uint64_t i = 0; i < 50; ++i) {
        slots.push_back(guest.vm.add_memory(high + i * 64_KiB, kvm::Mapping::anonymous(64_KiB)));
      }
      fault::arm(refuse_deletion(GetParam(), 50));
    }
    fault::disarm();
    EXPECT_EQ(guest.vm.parked_mappings(), 50u);
  }
  EXPECT_EQ(fault::Resources::now(), before);
}

TEST_P(ParkedMemory, IsNotMadeByTryRemove) {
  const auto before = fault::Resources::now();
  {
    Guest guest = fault::make_guest();
    const kvm::SlotId id = guest.ram.id();
    const void* const memory = guest.ram.mapping().data();
    const std::byte value{0x77};
    ASSERT_TRUE(guest.ram.load(kvm::Gpa{0x9000}, std::span(&value, 1)));

    fault::arm(refuse_deletion(GetParam()));
    const auto refused = guest.ram.try_remove();
    fault::disarm();
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().error_number(), GetParam());
    EXPECT_STREQ(refused.error().operation(), "KVM_SET_USER_MEMORY_REGION");
    EXPECT_EQ(guest.vm.parked_mappings(), 0u);
    EXPECT_EQ(guest.ram.id(), id);
    EXPECT_EQ(guest.ram.gpa(), kvm::Gpa{0});
    EXPECT_EQ(guest.ram.mapping().data(), memory);
    std::byte read{};
    EXPECT_TRUE(guest.ram.fetch(kvm::Gpa{0x9000}, std::span(&read, 1)));
    EXPECT_EQ(read, value);
    guest.vcpu.run().visit([](kvm::exits::IoOut) {},
                           [](auto&&) { ADD_FAILURE() << "the guest lost its memory"; });

    auto removed = guest.ram.try_remove();
    ASSERT_TRUE(removed) << removed.error().what();
    EXPECT_EQ(removed->take().data(), memory);
    EXPECT_EQ(guest.ram.try_remove().error().error_number(), EBADF);
  }
  EXPECT_EQ(fault::Resources::now(), before);
}

// EINTR is not among them: the deletion is sent again.
INSTANTIATE_TEST_SUITE_P(Errnos, ParkedMemory, testing::Values(ENOMEM, EINVAL, EIO, EBADF, EAGAIN),
                         [](const auto& test) { return "errno" + std::to_string(test.param); });

}  // namespace
