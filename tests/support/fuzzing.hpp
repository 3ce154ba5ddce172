// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_TESTS_SUPPORT_FUZZING_HPP
#define KVM_HPP_TESTS_SUPPORT_FUZZING_HPP

#include <cstddef>
#include <cstdint>
#include <cstdlib>

/// @file
/// What fuzz targets share.

namespace kvm_test {

/// What must hold, whatever the input: libFuzzer keeps the input that aborts.
inline void require(bool holds) {
  if (!holds) {
    std::abort();
  }
}

/// Reads an input from the front.
class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {}

  bool empty() const { return size_ == 0; }
  /// A number of so many bytes, of which those beyond 8 count for nothing. 0
  /// once there is no more.
  std::uint64_t bytes(std::size_t count) {
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < count && size_ != 0; ++i, ++data_, --size_) {
      value |= i < 8 ? std::uint64_t{*data_} << 8 * i : 0;
    }
    return value;
  }

 private:
  const std::uint8_t* data_;
  std::size_t size_;
};

}  // namespace kvm_test

#endif
