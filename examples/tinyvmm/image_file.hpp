// SPDX-License-Identifier: MIT
#ifndef TINYVMM_IMAGE_FILE_HPP
#define TINYVMM_IMAGE_FILE_HPP

#include <kvm/kvm.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "failure.hpp"

namespace tinyvmm {

/// A file that is to be loaded into the guest: a kernel or an initrd. Its beginning, where kernels
/// have their headers, is read at once, and each part of the rest straight into guest memory: no
/// byte is read twice. Whatever is wrong is a BadImage that names the file.
class ImageFile {
 public:
  /// How much of the beginning can be looked at.
  static constexpr std::size_t head_size = 8192;

  explicit ImageFile(const std::string& path);
  /// Of an open file; the name is for messages.
  ImageFile(kvm::Fd file, const std::string& name);

  const std::string& name() const { return name_; }
  std::uint64_t size() const { return size_; }
  /// The first head_size bytes, or all if there are fewer.
  std::span<const std::byte> head() const { return head_; }

  /// A little-endian number in the head. Refuses a file that ends before.
  template <std::unsigned_integral T>
  T get(std::uint64_t offset) const {
    T value{};
    if (offset > head_.size() || sizeof value > head_.size() - offset) {
      fail("it is truncated, or a header lies too far from its beginning");
    }
    std::memcpy(&value, head_.data() + offset, sizeof value);
    return value;
  }

  /// Puts a part of the file into guest memory.
  void load(std::uint64_t offset, std::uint64_t size, kvm::Gpa gpa,
            kvm::GuestMemory::View& memory) const;

  [[noreturn]] void fail(const std::string& why) const { throw BadImage(name_ + ": " + why); }

 private:
  std::string name_;
  kvm::Fd file_;
  std::uint64_t size_ = 0;
  std::vector<std::byte> head_{};
};

/// "0x1000", for messages.
std::string hex(std::uint64_t value);

/// Writes what the VMM made itself: tables for the guest.
void store(kvm::GuestMemory::View& memory, kvm::Gpa gpa, std::span<const std::byte> bytes);

/// Puts a little-endian number, or any bytes, into a table that is being made.
template <class T>
void put(std::span<std::byte> table, std::size_t offset, T value) {
  const auto bytes = std::as_bytes(std::span(&value, 1));
  std::memcpy(table.subspan(offset, bytes.size()).data(), bytes.data(), bytes.size());
}
inline void put_text(std::span<std::byte> table, std::size_t offset, std::string_view text) {
  std::memcpy(table.subspan(offset, text.size()).data(), text.data(), text.size());
}

}  // namespace tinyvmm

#endif
