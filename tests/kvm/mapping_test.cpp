// SPDX-License-Identifier: MIT
// needs: x86
#include <kvm/kvm.hpp>

#include <gtest/gtest.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include <unistd.h>

#include "support/guest.hpp"

// Guests that use each kind of mapping.

namespace {

using kvm::Gpa;
using kvm::Mapping;
using kvm::MappingOptions;
using namespace kvm::literals;

constexpr std::uint64_t there = 0x20000000;

/// mov al, [there]; inc al; mov [there + 0x1000], al; out 0xff, al
constexpr kvm_test::Code copy_incremented = {0x8a, 0x04, 0x25, 0x00, 0x00, 0x00, 0x20,  //
                                             0xfe, 0xc0,                                //
                                             0x88, 0x04, 0x25, 0x00, 0x10, 0x00, 0x20,  //
                                             0xe6, 0xff};

void put(const Mapping& mapping, std::size_t offset, unsigned value) {
  std::memset(mapping.data() + offset, static_cast<int>(value), 1);
}
unsigned get(const Mapping& mapping, std::size_t offset) {
  return std::to_integer<unsigned>(mapping.data()[offset]);
}

Mapping made(kvm::Result<Mapping> result) {
  if (!result) {
    ADD_FAILURE() << result.error().what();
    std::abort();
  }
  return std::move(result).value();
}

/// Lets a guest read the byte at the mapping's begin and write one more than
/// it 0x1000 further on.
void expect_serves_a_guest(const Mapping& memory) {
  kvm_test::Guest guest = kvm_test::Guest::long_mode(copy_incremented);
  put(memory, 0, 0x41);
  put(memory, 0x1000, 0);
  auto slot = guest.vm.try_add_memory(Gpa{there}, memory.share());
  ASSERT_TRUE(slot) << slot.error().what();
  kvm_test::Devices devices;
  EXPECT_EQ(devices.run(guest.vcpu), "done");
  EXPECT_EQ(devices.mmio_sizes.size(), 0u) << "the guest did not find its memory";
  EXPECT_EQ(get(memory, 0x1000), 0x42u);
}

TEST(MappingInSlot, EveryKind) {
  {
    SCOPED_TRACE("anonymous");
    expect_serves_a_guest(made(Mapping::try_anonymous(64_KiB)));
  }
  {
    SCOPED_TRACE("anonymous, aligned and guarded");
    expect_serves_a_guest(made(Mapping::try_anonymous(64_KiB, {.transparent_huge_pages = true,
                                                               .gpa = Gpa{there},
                                                               .populate = true,
                                                               .guard_pages = true})));
  }
  {
    SCOPED_TRACE("memfd");
    expect_serves_a_guest(made(Mapping::try_memfd(64_KiB)));
  }
  {
    SCOPED_TRACE("part of a memfd");
    const Mapping whole = made(Mapping::try_memfd(256_KiB));
    expect_serves_a_guest(made(whole.try_part(64_KiB, 64_KiB)));
    EXPECT_EQ(get(whole, 64_KiB + 0x1000), 0x42u);
    EXPECT_EQ(get(whole, 0x1000), 0u);
  }
  {
    SCOPED_TRACE("received");
    const Mapping sender = made(Mapping::try_memfd(256_KiB));
    expect_serves_a_guest(made(Mapping::try_from_fd(sender.fd(), 64_KiB, {.offset = 64_KiB})));
    EXPECT_EQ(get(sender, 64_KiB + 0x1000), 0x42u);
  }
  std::string path = testing::TempDir() + "kvm_hpp_mapping_XXXXXX";
  const kvm::Fd file(::mkstemp(path.data()));
  ASSERT_EQ(::ftruncate(file.get(), 64 << 10), 0);
  const auto in_file = [&] {
    unsigned char byte = 0;
    EXPECT_EQ(::pread(file.get(), &byte, 1, 0x1000), 1);
    return byte;
  };
  {
    SCOPED_TRACE("private copy of a file");
    expect_serves_a_guest(
        made(Mapping::try_file(path.c_str(), 64_KiB, {.sharing = kvm::FileSharing::private_copy})));
    EXPECT_EQ(in_file(), 0);
  }
  {
    SCOPED_TRACE("shared file");
    expect_serves_a_guest(made(Mapping::try_file(path.c_str(), 64_KiB)));
    EXPECT_EQ(in_file(), 0x42);
  }
  ::unlink(path.c_str());
}

// Two slots with the same memory: what the guest writes through one it reads through the other.
TEST(MappingInSlot, Aliases) {
  kvm_test::Guest guest = kvm_test::Guest::long_mode(copy_incremented);
  const Mapping memory = made(Mapping::try_anonymous(8_KiB));
  auto first = guest.vm.try_add_memory(Gpa{there}, made(memory.try_part(4_KiB, 4_KiB)));
  ASSERT_TRUE(first) << first.error().what();
  auto second = guest.vm.try_add_memory(Gpa{there + 0x1000}, made(memory.try_part(4_KiB, 4_KiB)));
  ASSERT_TRUE(second) << second.error().what();
  put(memory, 4_KiB, 0x60);
  kvm_test::Devices devices;
  EXPECT_EQ(devices.run(guest.vcpu), "done");
  EXPECT_EQ(get(memory, 4_KiB), 0x61u);
  EXPECT_EQ(get(memory, 0), 0u);
  EXPECT_EQ(first->mapping().backing(), second->mapping().backing());
}

// The slot keeps the memory when all other handles to it are gone.
TEST(MappingInSlot, OutlivesItsOtherHandles) {
  kvm_test::Guest guest = kvm_test::Guest::long_mode(copy_incremented);
  std::optional<Mapping> memory = made(Mapping::try_memfd(8_KiB));
  put(*memory, 0, 0x10);
  auto slot = guest.vm.try_add_memory(Gpa{there}, memory->share());
  ASSERT_TRUE(slot) << slot.error().what();
  memory.reset();
  kvm_test::Devices devices;
  EXPECT_EQ(devices.run(guest.vcpu), "done");
  std::byte seen{};
  EXPECT_TRUE(slot->fetch(Gpa{there + 0x1000}, std::span(&seen, 1)));
  EXPECT_EQ(seen, std::byte{0x11});
}

// A balloon: the guest gets zeros for what it gave back, and can use it again.
TEST(MappingInSlot, DiscardedUnderAGuest) {
  for (const bool memfd : {false, true}) {
    const Mapping memory =
        made(memfd ? Mapping::try_memfd(64_KiB) : Mapping::try_anonymous(64_KiB));
    // again: mov al, [there]; inc al; mov [there], al; out 0x10, al; jmp again
    kvm_test::Guest guest =
        kvm_test::Guest::long_mode({0x8a, 0x04, 0x25, 0x00, 0x00, 0x00, 0x20, 0xfe, 0xc0, 0x88,
                                    0x04, 0x25, 0x00, 0x00, 0x00, 0x20, 0xe6, 0x10, 0xeb, 0xec});
    auto slot = guest.vm.try_add_memory(Gpa{there}, memory.share());
    ASSERT_TRUE(slot) << slot.error().what();
    put(memory, 0, 0x70);
    put(memory, 0x1000, 0x70);
    const auto next = [&] {
      unsigned said = 0;
      guest.vcpu.run().visit(
          [&](kvm::exits::IoOut out) { said = std::to_integer<unsigned>(out.data[0]); },
          [](auto&&) { ADD_FAILURE() << "the guest lost its memory"; });
      return said;
    };
    EXPECT_EQ(next(), 0x71u);
    EXPECT_EQ(next(), 0x72u);
    ASSERT_TRUE(memory.try_discard(0, 0x1000));
    EXPECT_EQ(next(), 1u);
    EXPECT_EQ(next(), 2u);
    EXPECT_EQ(get(memory, 0), 2u);
    EXPECT_EQ(get(memory, 0x1000), 0x70u);
  }
}

}  // namespace
