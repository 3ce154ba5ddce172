// SPDX-License-Identifier: MIT
#ifndef MIGRATE_WIRE_HPP
#define MIGRATE_WIRE_HPP

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "failure.hpp"

/// @file
/// What travels. A stream is a sequence of frames, each a header and its payload. Numbers are
/// little-endian, which both hosts are.
///
///     source                                   destination
///     hello: version, memory, vCPUs        →
///                                          ←   ready
///     pages, again and again               →
///     [stops the guest]
///     pages, vcpu for each, device, stopped →
///                                          ←   restored
///                                          ←   proof
///     resume                               →   [the guest is the destination's from here on]
///                                          ←   resumed
///                                          ←   result
///
/// Either side can say failure instead, with a text. Until `resume` is sent, the guest is the
/// source's, and only the source may run it again.

namespace migrate {

inline constexpr std::uint32_t wire_version = 1;

enum class FrameType : std::uint32_t {
  hello = 1,
  ready,
  pages,
  vcpu,
  device,
  stopped,
  restored,
  proof,
  resume,
  resumed,
  result,
  failure,
};

/// Before each payload.
struct FrameHeader {
  static constexpr std::uint32_t right_magic = 0x2b6d766b;  // "kvm+"

  std::uint32_t magic = right_magic;
  FrameType type{};
  /// Bytes of the payload.
  std::uint64_t size = 0;
};
static_assert(sizeof(FrameHeader) == 16 && std::is_trivially_copyable_v<FrameHeader>);

/// The most that each kind of payload may have: nobody sets memory aside because a stranger said
/// so.
inline constexpr std::uint64_t most_page_bytes = 256 * 1024;
inline constexpr std::uint64_t most_state_bytes = 1024 * 1024;
inline constexpr std::uint64_t most_text_bytes = 1000;

/// The machine that is to be made: the payload of `hello`.
struct Hello {
  std::uint32_t version = wire_version;
  std::uint32_t vcpus = 0;
  std::uint64_t memory_bytes = 0;
  std::uint64_t page_bytes = 0;
};

/// Puts values one after another.
class Writer {
 public:
  template <class T>
  void put(const T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    put_bytes(std::as_bytes(std::span(&value, 1)));
  }
  void put_bytes(std::span<const std::byte> bytes) {
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
  }
  const std::vector<std::byte>& bytes() const { return bytes_; }

 private:
  std::vector<std::byte> bytes_;
};

/// Takes values out again. Throws where there are too few bytes, or too many.
class Reader {
 public:
  /// @param what names the bytes in errors
  Reader(std::span<const std::byte> bytes, const char* what) : rest_(bytes), what_(what) {}

  template <class T>
  T get() {
    static_assert(std::is_trivially_copyable_v<T>);
    T value;
    std::memcpy(&value, get_bytes(sizeof value).data(), sizeof value);
    return value;
  }
  std::span<const std::byte> get_bytes(std::uint64_t size) {
    if (size > rest_.size()) {
      throw Failure(std::string("what the other side sent as ") + what_ + " is cut short");
    }
    const auto bytes = rest_.first(size);
    rest_ = rest_.subspan(size);
    return bytes;
  }
  bool empty() const { return rest_.empty(); }
  void expect_end() const {
    if (!rest_.empty()) {
      throw Failure(std::string("what the other side sent as ") + what_ + " is too long");
    }
  }

 private:
  std::span<const std::byte> rest_;
  const char* what_;
};

/// What a stranger wrote, fit to be shown on a terminal.
inline std::string printable(std::span<const std::byte> text) {
  std::string out;
  for (const std::byte byte : text) {
    const char c = static_cast<char>(byte);
    out += c >= ' ' && c <= '~' ? c : '?';
  }
  return out;
}

}  // namespace migrate

#endif
