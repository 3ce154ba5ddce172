// SPDX-License-Identifier: MIT
#ifndef TINYVMM_VIRTQUEUE_HPP
#define TINYVMM_VIRTQUEUE_HPP

#include <kvm/kvm.hpp>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

/// @file
/// The split virtqueue of virtio 1.x, from the device's side: a table of descriptors, a ring in
/// which the driver makes chains of them available, and one in which the device hands them back.
/// All three are in guest memory, where the guest can write whatever it likes at any moment, so
/// everything is fetched once and checked afterwards.

namespace tinyvmm {

/// A piece of guest memory that a descriptor names. Whether there is memory shows on access.
struct Buffer {
  kvm::Gpa gpa;
  std::uint32_t size = 0;
};

/// One request: a chain of descriptors.
struct Chain {
  std::uint16_t head = 0;
  std::vector<Buffer> readable;  ///< what the driver says to the device
  std::vector<Buffer> writable;  ///< where the answer goes
};

/// How many bytes there are in all. At most 2^32 for the buffers of a Chain.
std::uint64_t total_size(std::span<const Buffer> buffers);

/// Calls `use(gpa, size)` for each piece of the bytes [offset, offset + size) of `buffers`, in
/// order, for as long as it returns true.
/// @return whether all of the range was there, and used
template <class Use>
bool for_each_piece(std::span<const Buffer> buffers, std::uint64_t offset, std::uint64_t size,
                    Use use) {
  for (const Buffer& buffer : buffers) {
    if (size == 0) {
      return true;
    }
    if (offset >= buffer.size) {
      offset -= buffer.size;
      continue;
    }
    const std::uint64_t here = std::min(size, buffer.size - offset);
    if (!use(buffer.gpa + offset, here)) {
      return false;
    }
    size -= here;
    offset = 0;
  }
  return size == 0;
}

/// What the driver tells the transport about a queue.
struct QueueSetup {
  std::uint32_t size = 0;  ///< how many descriptors
  kvm::Gpa descriptors;
  kvm::Gpa available;
  kvm::Gpa used;
};

/// One thread at a time. Once the driver has broken a rule the queue stays out of order: fault()
/// says why, and it neither takes nor gives anything any more.
class Virtqueue {
 public:
  static constexpr std::uint32_t most_descriptors = 256;

  /// @param setup any numbers
  Virtqueue(const kvm::GuestMemory& memory, const QueueSetup& setup);

  /// Takes the next chain that the driver has made available.
  /// @return false if there is none, or with a fault()
  bool pop(Chain& chain);
  /// Hands a chain back.
  /// @param written how many bytes the device wrote, from the start of the writable buffers on
  void push(std::uint16_t head, std::uint32_t written);
  /// Whether the driver wants to be told of what was handed back. After push().
  bool wants_interrupt();

  /// What the driver did that no driver may do; null as long as all is well.
  const char* fault() const { return fault_; }

 private:
  struct Descriptor {
    std::uint64_t gpa;
    std::uint32_t size;
    std::uint16_t flags;
    std::uint16_t next;
  };
  struct UsedElement {
    std::uint32_t head;
    std::uint32_t written;
  };

  bool walk(std::uint16_t head, Chain& chain);
  bool fail(const char* why) {
    fault_ = why;
    return false;
  }

  QueueSetup setup_;
  // What is read and written again and again, with its translation kept. The two indices go through
  // the view, which has accesses that order others.
  kvm::GfnToHvaCache descriptors_;
  kvm::GfnToHvaCache available_;
  kvm::GfnToHvaCache used_;
  kvm::GuestMemory::View indices_;
  std::uint16_t next_available_ = 0;
  std::uint16_t next_used_ = 0;
  const char* fault_ = nullptr;
};

}  // namespace tinyvmm

#endif
