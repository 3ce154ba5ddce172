// SPDX-License-Identifier: MIT
#ifndef MIGRATE_CHECKSUM_HPP
#define MIGRATE_CHECKSUM_HPP

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace migrate {

/// A 64-bit checksum, as fast as memory: four lanes of words. Each step is a bijection, so that a
/// difference in one word always shows. No protection against who wants to be found equal.
class Checksum {
 public:
  /// @param bytes a multiple of 32, but for the last
  void add(std::span<const std::byte> bytes) {
    for (; bytes.size() >= sizeof lanes_; bytes = bytes.subspan(sizeof lanes_)) {
      std::array<std::uint64_t, 4> words;
      std::memcpy(words.data(), bytes.data(), sizeof words);
      for (std::size_t i = 0; i < words.size(); ++i) {
        lanes_[i] = mix(lanes_[i] ^ words[i]);
      }
    }
    for (const std::byte byte : bytes) {
      lanes_[0] = mix(lanes_[0] ^ (std::to_integer<std::uint64_t>(byte) + 1));
    }
  }
  std::uint64_t value() const {
    std::uint64_t sum = 0;
    for (const std::uint64_t lane : lanes_) {
      sum = mix(sum ^ lane);
    }
    return sum;
  }

 private:
  static std::uint64_t mix(std::uint64_t word) {
    return std::rotl(word * 0x9e3779b97f4a7c15, 29) + 0x632be59bd9b4e019;
  }

  std::array<std::uint64_t, 4> lanes_ = {1, 2, 3, 4};
};

inline std::uint64_t checksum(std::span<const std::byte> bytes) {
  Checksum sum;
  sum.add(bytes);
  return sum.value();
}

}  // namespace migrate

#endif
