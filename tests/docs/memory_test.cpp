// SPDX-License-Identifier: MIT
// The code of docs/guides/memory.md.
#include <kvm/kvm.hpp>

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <optional>
#include <span>
#include <utility>

#include <sys/uio.h>
#include <unistd.h>

//! [struct]
struct Descriptor {  // a virtqueue's: 16 bytes, and nothing between them
  std::uint64_t address;
  std::uint32_t length;
  std::uint16_t flags;
  std::uint16_t next;
};

struct Sample {  // three bytes of padding, and a float
  std::uint8_t kind;
  float value;
};
template <>  // so it has to say that guests may share it
inline constexpr bool kvm::is_guest_layout<Sample> = true;
//! [struct]

namespace {

using namespace kvm::literals;

TEST(MemoryGuide, Slots) {
  //! [slots]
  using namespace kvm::literals;

  kvm::System system;
  kvm::Vm vm = system.create_vm();

  // 64 MiB of RAM from 0 on, which this process can share with others.
  kvm::MemorySlot ram = vm.add_memory(kvm::Gpa{0}, kvm::Mapping::memfd(64_MiB));
  // Firmware that the guest cannot write to: its writes become exits.
  kvm::MemorySlot rom =
      vm.add_memory(kvm::Gpa{0xfffc0000}, kvm::Mapping::anonymous(256_KiB), {.read_only = true});
  // The same memory a second time, somewhere else.
  kvm::MemorySlot alias = vm.add_memory(kvm::Gpa{4_GiB}, ram.mapping().share());
  //! [slots]
  EXPECT_EQ(ram.size(), 64_MiB);
  EXPECT_TRUE(rom.read_only());
  EXPECT_EQ(alias.size(), ram.size());
  kvm::GuestMemory::View memory = vm.memory().view();
  EXPECT_TRUE(memory.write<std::uint32_t>(kvm::Gpa{0x1000}, 7));
  EXPECT_EQ(memory.read<std::uint32_t>(kvm::Gpa{4_GiB + 0x1000}), 7u);
}

TEST(MemoryGuide, Addresses) {
  //! [gpa]
  constexpr kvm::Gpa ring{0x10000};
  constexpr kvm::Gpa third = ring + 2 * sizeof(Descriptor);  // in bytes; wraps at 2^64
  constexpr std::uint64_t distance = third - ring;
  constexpr std::uint64_t number = third.value;  // for a register, a printf, an ioctl
  constexpr kvm::Gpa page{number & ~std::uint64_t{0xfff}};
  constexpr bool low = third < kvm::Gpa{4_GiB};  // compared with other addresses only
  //! [gpa]
  EXPECT_EQ(distance, 32u);
  EXPECT_EQ(number, 0x10020u);
  EXPECT_EQ(page, ring);
  EXPECT_TRUE(low);
}

TEST(MemoryGuide, Structs) {
  kvm::System system;
  kvm::Vm vm = system.create_vm();
  kvm::MemorySlot ram = vm.add_memory(kvm::Gpa{0}, kvm::Mapping::anonymous(1_MiB));
  kvm::GuestMemory::View memory = vm.memory().view();
  const kvm::Gpa table{0x2000};
  const std::uint16_t index = 1;
  //! [use-struct]
  std::optional<Descriptor> descriptor =
      memory.read<Descriptor>(table + index * sizeof(Descriptor));
  bool written = memory.write<Sample>(kvm::Gpa{0x3000}, {.kind = 1, .value = 0.5f});
  //! [use-struct]
  ASSERT_TRUE(descriptor);
  EXPECT_EQ(descriptor->length, 0u);
  EXPECT_TRUE(written);
  ASSERT_TRUE(memory.read<Sample>(kvm::Gpa{0x3000}));
  EXPECT_EQ(memory.read<Sample>(kvm::Gpa{0x3000})->value, 0.5f);
}

TEST(MemoryGuide, Access) {
  kvm::System system;
  kvm::Vm vm = system.create_vm();
  const std::size_t page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  kvm::MemorySlot ram = vm.add_memory(kvm::Gpa{0}, kvm::Mapping::anonymous(16 * page));
  const std::array<std::byte, 3> code = {std::byte{0x0f}, std::byte{0x0b}, std::byte{0xf4}};
  //! [load]
  // Before the guest runs: firmware, a kernel. Goes into read-only slots, too.
  bool loaded = ram.load(kvm::Gpa{0x1000}, code);
  //! [load]
  EXPECT_TRUE(loaded);

  //! [view]
  kvm::GuestMemory::View memory = vm.memory().view();  // one per thread

  // A device reads a descriptor at an address that the guest chose.
  std::optional<std::uint64_t> address = memory.read<std::uint64_t>(kvm::Gpa{0x2000});
  if (!address) {
    // No memory there. The guest's mistake, so a value and not an exception.
  }
  // All four bytes or none; false where there is no memory, or only read-only memory.
  bool written = memory.write<std::uint32_t>(kvm::Gpa{0x2008}, 1);
  // Ordered against the guest's own accesses.
  bool published =
      memory.atomic_store<std::uint16_t>(kvm::Gpa{0x2010}, 1, std::memory_order_release);
  //! [view]
  EXPECT_EQ(address, 0u);
  EXPECT_TRUE(written);
  EXPECT_TRUE(published);
  EXPECT_EQ(memory.read<std::uint32_t>(kvm::Gpa{0x2008}), 1u);
  EXPECT_EQ(memory.read<std::uint8_t>(kvm::Gpa{16 * page}), std::nullopt);

  //! [cache]
  // 64 bytes that are used again and again: a virtqueue's ring, a steal time area.
  kvm::GfnToHvaCache area(vm.memory(), kvm::Gpa{0x3000}, 64);
  bool stored = area.write<std::uint64_t>(/*offset=*/8, 42);
  //! [cache]
  EXPECT_TRUE(stored);
  EXPECT_EQ(area.read<std::uint64_t>(8), 42u);
  EXPECT_FALSE(area.write<std::uint64_t>(60, 42));

  std::unique_ptr<std::FILE, int (*)(std::FILE*)> stream(std::tmpfile(), std::fclose);
  ASSERT_NE(stream, nullptr);
  const int file = fileno(stream.get());
  ASSERT_EQ(ftruncate(file, 4096), 0);
  //! [pin]
  // What may block gets addresses that stay good: the memory cannot go while the pin is there.
  std::optional<kvm::Pin> pin = memory.pin(kvm::Gpa{0x4000}, 512, kvm::PinFor::writing);
  if (pin) {
    ssize_t got = ::preadv(file, pin->iovecs().data(), static_cast<int>(pin->iovecs().size()), 0);
    if (got > 0) pin->mark_dirty(0, static_cast<std::uint64_t>(got));
  }
  //! [pin]
}

TEST(MemoryGuide, Removal) {
  kvm::System system;
  kvm::Vm vm = system.create_vm();
  kvm::MemorySlot ram = vm.add_memory(kvm::Gpa{0}, kvm::Mapping::anonymous(1_MiB));
  std::atomic<int> told{0};
  //! [observe]
  // VFIO and vhost have to map what the guest sees, and to unmap it in time.
  kvm::Observation observation = vm.memory().observe([&](const kvm::MemoryChange& change) noexcept {
    if (change.kind == kvm::MemoryChange::Kind::added) {
      ++told;  // map [change.address, change.size) at *change.new_gpa
    } else {
      ++told;  // unmap it at *change.old_gpa: it is about to go
    }
  });
  //! [observe]
  EXPECT_EQ(told, 1);

  //! [remove]
  // Deletes the slot, waits for accesses and pins that began before, gives the memory back.
  kvm::Mapping memory = ram.remove();
  //! [remove]
  EXPECT_EQ(told, 2);
  EXPECT_EQ(memory.size(), 1_MiB);
  kvm::GuestMemory::View view = vm.memory().view();
  EXPECT_EQ(view.read<std::uint8_t>(kvm::Gpa{0}), std::nullopt);
}

}  // namespace
