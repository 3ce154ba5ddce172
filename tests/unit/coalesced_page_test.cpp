// SPDX-License-Identifier: MIT
// The ring of coalesced writes, on pages made up by the test. The kernel's side is played by Ring,
// which does what coalesced_mmio_write() does.
#include <kvm/detail/coalesced.hpp>

#include <gtest/gtest.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include <sys/mman.h>
#include <unistd.h>

namespace {

using kvm::detail::CoalescedPage;
using Entry = CoalescedPage::Entry;

/// A page with an inaccessible one on either side, so that an access beyond it
/// ends the program.
class Ring {
 public:
  explicit Ring(std::size_t pages = 1)
      : size_(pages * host_page_),
        memory_(static_cast<std::byte*>(::mmap(nullptr, size_ + 2 * host_page_, PROT_NONE,
                                               MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))) {
    ::mprotect(data(), size_, PROT_READ | PROT_WRITE);
  }
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;
  ~Ring() { ::munmap(memory_, size_ + 2 * host_page_); }

  std::byte* data() const { return memory_ + host_page_; }
  std::size_t size() const { return size_; }
  CoalescedPage page() const { return {data(), size_}; }
  std::uint32_t& first() const { return *reinterpret_cast<std::uint32_t*>(data()); }
  std::uint32_t& last() const { return *reinterpret_cast<std::uint32_t*>(data() + 4); }
  std::uint32_t slots() const { return static_cast<std::uint32_t>((size_ - 8) / 24); }
  Entry& at(std::uint32_t index) const {
    return *reinterpret_cast<Entry*>(data() + 8 + std::size_t{24} * index);
  }

  /// False where KVM would make it an exit.
  bool write(std::uint64_t address, std::uint32_t length = 4) const {
    if ((last() + 1) % slots() == first()) {
      return false;
    }
    Entry entry{};
    entry.phys_addr = address;
    entry.len = length;
    std::memcpy(entry.data, &address, sizeof entry.data);
    at(last()) = entry;
    last() = (last() + 1) % slots();
    return true;
  }

 private:
  std::size_t host_page_ = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  std::size_t size_;
  std::byte* memory_;
};

struct Drained {
  int error_number = 0;
  std::size_t count = 0;
  std::vector<std::uint64_t> addresses;
};
Drained drain(const CoalescedPage& page) {
  Drained out;
  out.error_number = page.drain(out.count, [&](const Entry& entry) {
    std::uint64_t value;
    std::memcpy(&value, entry.data, sizeof value);
    EXPECT_EQ(value, entry.phys_addr);
    out.addresses.push_back(entry.phys_addr);
  });
  return out;
}

TEST(CoalescedPage, HasTheSizeOfThePage) {  // R74
  std::vector<std::byte> memory(std::size_t{64} << 10);
  EXPECT_EQ(CoalescedPage(memory.data(), 4096).capacity(), 170u);
  EXPECT_EQ(CoalescedPage(memory.data(), 16384).capacity(), 682u);
  EXPECT_EQ(CoalescedPage(memory.data(), 65536).capacity(), 2730u);
}

TEST(CoalescedPage, AnEmptyRingHasNothing) {
  const Ring ring;
  EXPECT_TRUE(ring.page().empty());
  const Drained drained = drain(ring.page());
  EXPECT_EQ(drained.error_number, 0);
  EXPECT_EQ(drained.count, 0u);
}

TEST(CoalescedPage, HandsOverInOrder) {
  const Ring ring;
  for (const std::uint64_t address : {7u, 3u, 9u}) {
    ASSERT_TRUE(ring.write(address));
  }
  EXPECT_FALSE(ring.page().empty());
  const Drained drained = drain(ring.page());
  EXPECT_EQ(drained.addresses, (std::vector<std::uint64_t>{7, 3, 9}));
  EXPECT_EQ(drained.count, 3u);
  EXPECT_TRUE(ring.page().empty());
  EXPECT_EQ(ring.first(), 3u);
}

TEST(CoalescedPage, WrapsAround) {
  const Ring ring;
  std::uint64_t written = 0;
  std::uint64_t taken = 0;
  for (unsigned round = 0; round < 1000; ++round) {
    for (unsigned i = 0; i < round % (ring.slots() - 1) + 1; ++i) {
      ASSERT_TRUE(ring.write(written++));
    }
    for (const std::uint64_t address : drain(ring.page()).addresses) {
      ASSERT_EQ(address, taken++);
    }
    ASSERT_EQ(taken, written);
  }
  EXPECT_GT(written, std::uint64_t{10} * ring.slots());
}

TEST(CoalescedPage, FillsButForOneSlot) {
  const Ring ring;
  std::size_t count = 0;
  for (; ring.write(count); ++count) {
  }
  EXPECT_EQ(count, ring.page().capacity() - 1);
  EXPECT_EQ(drain(ring.page()).count, count);
  EXPECT_TRUE(ring.write(0));
}

// What comes while entries are handed over waits for the next time: a guest that goes on writing
// cannot keep the consumer for ever.
TEST(CoalescedPage, EndsWhereItBegan) {
  const Ring ring;
  for (std::uint64_t i = 0; i < 5; ++i) {
    ring.write(i);
  }
  std::size_t count = 0;
  EXPECT_EQ(
      ring.page().drain(count, [&](const Entry& entry) { ring.write(100 + entry.phys_addr); }), 0);
  EXPECT_EQ(count, 5u);
  EXPECT_EQ(drain(ring.page()).addresses, (std::vector<std::uint64_t>{100, 101, 102, 103, 104}));
}

// Whoever finds the ring empty may rely on all entries having been dealt with.
TEST(CoalescedPage, AnEntryIsThereUntilItWasHandedOver) {
  const Ring ring;
  ring.write(1);
  ring.write(2);
  std::size_t count = 0;
  ring.page().drain(count, [&](const Entry& entry) {
    EXPECT_FALSE(ring.page().empty());
    EXPECT_EQ(ring.first(), entry.phys_addr - 1);
  });
  EXPECT_TRUE(ring.page().empty());
}

TEST(CoalescedPage, HostileIndicesReachNothing) {
  const std::uint32_t slots = Ring().slots();
  for (const std::uint32_t wrong :
       {slots, slots + 1, 0x7fff'ffffu, 0x8000'0000u, 0xffff'fffeu, 0xffff'ffffu}) {
    for (const bool last : {false, true}) {
      SCOPED_TRACE(testing::Message() << wrong << (last ? " as last" : " as first"));
      const Ring ring;
      ring.write(1);
      (last ? ring.last() : ring.first()) = wrong;
      EXPECT_FALSE(ring.page().empty());
      const Drained drained = drain(ring.page());
      EXPECT_EQ(drained.error_number, EPROTO);
      EXPECT_EQ(drained.count, 0u);
    }
    // Both alike: nothing waits.
    const Ring ring;
    ring.first() = ring.last() = wrong;
    EXPECT_TRUE(ring.page().empty());
    EXPECT_EQ(drain(ring.page()).error_number, EPROTO);
  }
}

// Any two indices within the ring are the kernel's to choose: at most a ring's worth is handed
// over.
TEST(CoalescedPage, AnyIndicesWithinTheRingEnd) {
  const Ring ring;
  const std::uint32_t slots = ring.slots();
  for (std::uint32_t first = 0; first < slots; ++first) {
    for (std::uint32_t last = 0; last < slots; ++last) {
      ring.first() = first;
      ring.last() = last;
      std::size_t count = 0;
      ASSERT_EQ(ring.page().drain(count, [](const Entry&) {}), 0);
      ASSERT_EQ(count, (last + slots - first) % slots);
      ASSERT_EQ(ring.first(), last);
    }
  }
}

TEST(CoalescedPage, HostileLengthsAreRefused) {
  for (const std::uint32_t length : {9u, 16u, 0x100u, 0xffff'ffffu}) {
    const Ring ring;
    ring.write(1);
    ring.write(2, length);
    ring.write(3);
    const Drained drained = drain(ring.page());
    EXPECT_EQ(drained.error_number, EPROTO);
    EXPECT_EQ(drained.addresses, (std::vector<std::uint64_t>{1}));
    EXPECT_EQ(ring.first(), 1u) << "what was not handed over stays";
  }
}

}  // namespace
