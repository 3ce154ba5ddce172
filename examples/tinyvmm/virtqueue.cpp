// SPDX-License-Identifier: MIT
#include "virtqueue.hpp"

#include <bit>
#include <limits>

namespace tinyvmm {

namespace {

// Flags of a descriptor.
constexpr std::uint16_t has_next = 1;
constexpr std::uint16_t device_writes = 2;
constexpr std::uint16_t indirect = 4;

// Both rings begin with 16 bits of flags and a 16 bit index, of what comes next to be written.
constexpr std::uint64_t index_at = 2;
constexpr std::uint64_t ring_at = 4;
constexpr std::uint16_t no_interrupt = 1;  ///< a flag of the available ring

constexpr std::uint64_t available_size(std::uint64_t descriptors) {
  return ring_at + 2 * descriptors;
}
constexpr std::uint64_t used_size(std::uint64_t descriptors) { return ring_at + 8 * descriptors; }

}  // namespace

std::uint64_t total_size(std::span<const Buffer> buffers) {
  std::uint64_t sum = 0;
  for (const Buffer& buffer : buffers) {
    sum += buffer.size;
  }
  return sum;
}

Virtqueue::Virtqueue(const kvm::GuestMemory& memory, const QueueSetup& setup)
    : setup_(setup),
      descriptors_(memory, setup.descriptors, sizeof(Descriptor) * setup.size),
      available_(memory, setup.available, available_size(setup.size)),
      used_(memory, setup.used, used_size(setup.size)),
      indices_(memory.view()) {
  if (!std::has_single_bit(setup.size) || setup.size > most_descriptors) {
    fail("the queue's size is not a power of two up to 256");
  } else if (setup.descriptors.value % 16 != 0 || setup.available.value % 2 != 0 ||
             setup.used.value % 4 != 0) {
    fail("the parts of the queue are not aligned to 16, 2 and 4 bytes");
  } else if (!descriptors_.valid() || !available_.valid() || !used_.valid()) {
    fail("the parts of the queue are not all in memory");
  }
}

bool Virtqueue::pop(Chain& chain) {
  if (fault_ != nullptr) {
    return false;
  }
  // Whatever the driver wrote before it moved the index is seen after this.
  const auto index =
      indices_.atomic_load<std::uint16_t>(setup_.available + index_at, std::memory_order_acquire);
  if (!index) {
    return fail("the available ring is not in memory any more");
  }
  const auto waiting = static_cast<std::uint16_t>(*index - next_available_);
  if (waiting == 0) {
    return false;
  }
  if (waiting > setup_.size) {
    return fail("the available ring's index jumped by more than the queue's size");
  }
  const auto head = available_.read<std::uint16_t>(ring_at + 2 * (next_available_ % setup_.size));
  if (!head) {
    return fail("the available ring is not in memory any more");
  }
  ++next_available_;
  return walk(*head, chain);
}

bool Virtqueue::walk(std::uint16_t head, Chain& chain) {
  chain.head = head;
  chain.readable.clear();
  chain.writable.clear();
  std::uint64_t sum = 0;
  std::uint16_t index = head;
  // No chain is longer than the table, unless it runs in a circle.
  for (std::uint32_t length = 0; length < setup_.size; ++length) {
    if (index >= setup_.size) {
      return fail("a descriptor is named that is beyond the table");
    }
    const auto descriptor = descriptors_.read<Descriptor>(sizeof(Descriptor) * index);
    if (!descriptor) {
      return fail("the descriptors are not in memory any more");
    }
    if ((descriptor->flags & indirect) != 0) {
      return fail("a descriptor is indirect, which was not offered");
    }
    if (descriptor->size == 0) {
      return fail("a descriptor has no bytes");
    }
    sum += descriptor->size;
    if (sum > std::numeric_limits<std::uint32_t>::max()) {
      return fail("a chain has 2^32 bytes or more");
    }
    const bool writable = (descriptor->flags & device_writes) != 0;
    if (!writable && !chain.writable.empty()) {
      return fail("a descriptor to be read follows one to be written");
    }
    (writable ? chain.writable : chain.readable)
        .push_back({.gpa = kvm::Gpa(descriptor->gpa), .size = descriptor->size});
    if ((descriptor->flags & has_next) == 0) {
      return true;
    }
    index = descriptor->next;
  }
  return fail("a chain has more descriptors than the queue");
}

void Virtqueue::push(std::uint16_t head, std::uint32_t written) {
  if (fault_ != nullptr) {
    return;
  }
  const std::uint64_t at = ring_at + sizeof(UsedElement) * (next_used_ % setup_.size);
  ++next_used_;
  // The index moves last, so that the driver finds all that was written before. seq_cst, since
  // wants_interrupt() must not look before the driver can see the index.
  if (!used_.write<UsedElement>(at, {.head = head, .written = written}) ||
      !indices_.atomic_store<std::uint16_t>(setup_.used + index_at, next_used_)) {
    fail("the used ring is not in memory that can be written");
  }
}

bool Virtqueue::wants_interrupt() {
  const auto flags = indices_.atomic_load<std::uint16_t>(setup_.available);
  return flags && (*flags & no_interrupt) == 0;
}

}  // namespace tinyvmm
