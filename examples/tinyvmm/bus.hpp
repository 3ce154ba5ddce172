// SPDX-License-Identifier: MIT
#ifndef TINYVMM_BUS_HPP
#define TINYVMM_BUS_HPP

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <span>
#include <stdexcept>
#include <vector>

namespace tinyvmm {

/// Something that answers the guest's accesses to a range of ports or of guest physical addresses.
/// Called by vCPU threads, several at once: an implementation locks for itself.
class Device {
 public:
  virtual ~Device() = default;
  /// Reads data.size() bytes at `offset` from its first address. `data` comes filled with 0xff,
  /// what nobody answers.
  virtual void read(std::uint64_t offset, std::span<std::byte> data) = 0;
  virtual void write(std::uint64_t offset, std::span<const std::byte> data) = 0;
};

/// Which device answers which addresses. Filled before the vCPUs run, and only read afterwards.
class Bus {
 public:
  /// Gives [first, first + size) to a device, which must live as long as the bus is used.
  void add(std::uint64_t first, std::uint64_t size, Device& device) {
    const auto next = after(first);
    if (size == 0 || first + (size - 1) < first ||
        (next != ranges_.end() && next->first - first < size) ||
        (next != ranges_.begin() && first - std::prev(next)->first < std::prev(next)->size)) {
      throw std::logic_error("two devices claim the same address");
    }
    ranges_.insert(next, {first, size, &device});
  }

  /// Serves a read. What no device answers reads as ones; an access that begins in a device's range
  /// is cut at the range's end.
  void read(std::uint64_t address, std::span<std::byte> data) const {
    std::fill(data.begin(), data.end(), std::byte{0xff});
    if (const Range* const range = find(address)) {
      range->device->read(address - range->first, data.first(cut(*range, address, data.size())));
    }
  }
  /// Serves a write. What no device takes is lost.
  void write(std::uint64_t address, std::span<const std::byte> data) const {
    if (const Range* const range = find(address)) {
      range->device->write(address - range->first, data.first(cut(*range, address, data.size())));
    }
  }

 private:
  struct Range {
    std::uint64_t first;
    std::uint64_t size;
    Device* device;
  };
  using Iterator = std::vector<Range>::const_iterator;

  /// The first range that begins behind the address.
  Iterator after(std::uint64_t address) const {
    return std::upper_bound(ranges_.begin(), ranges_.end(), address,
                            [](std::uint64_t at, const Range& range) { return at < range.first; });
  }
  const Range* find(std::uint64_t address) const {
    const auto next = after(address);
    if (next == ranges_.begin()) {
      return nullptr;
    }
    const Range& range = *std::prev(next);
    return address - range.first < range.size ? &range : nullptr;
  }
  static std::size_t cut(const Range& range, std::uint64_t address, std::size_t size) {
    return static_cast<std::size_t>(
        std::min<std::uint64_t>(size, range.size - (address - range.first)));
  }

  std::vector<Range> ranges_;  // by address
};

}  // namespace tinyvmm

#endif
