// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_MEMORY_MAPPING_HPP
#define KVM_HPP_MEMORY_MAPPING_HPP

#include <kvm/detail/process.hpp>
#include <kvm/detail/syscalls.hpp>
#include <kvm/error.hpp>

#include <cstddef>
#include <utility>

KVM_HPP_BEGIN

/// Host memory, mapped and owned: the backing of a memory slot. Unmapped when
/// dropped. A forked child does not inherit it.
class [[nodiscard]] Mapping {
 public:
  /// An empty mapping: no address, size 0.
  Mapping() noexcept = default;

  /// Zeroed private memory, allocated when it is first touched.
  /// @param size in bytes, a multiple of the host's page size
  static Result<Mapping> try_anonymous(std::size_t size) {
    return try_map("mmap", size, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  }
  static Mapping anonymous(std::size_t size) { return try_anonymous(size).value(); }

  Mapping(Mapping&& other) noexcept
      : address_(std::exchange(other.address_, nullptr)),
        size_(std::exchange(other.size_, 0)),
        owner_(other.owner_) {}
  Mapping& operator=(Mapping&& other) noexcept {
    if (this != &other) {
      unmap();
      address_ = std::exchange(other.address_, nullptr);
      size_ = std::exchange(other.size_, 0);
      owner_ = other.owner_;
    }
    return *this;
  }
  ~Mapping() { unmap(); }

  /// Where the memory begins, or null. Another thread or a running guest may
  /// write to it at any time: don't keep references to objects in it.
  std::byte* data() const noexcept { return address_; }
  /// Its size in bytes.
  std::size_t size() const noexcept { return size_; }

  /// Whether the memory is this process's: not in a forked child, where
  /// something else may be at its address.
  bool accessible() const noexcept { return detail::this_process() == owner_; }

  /// Maps what KVM or a file provides, shared. `operation` names the call in
  /// an error's message.
  static Result<Mapping> try_shared(const char* operation, int fd, std::size_t size,
                                    off_t offset = 0) {
    return try_map(operation, size, MAP_SHARED, fd, offset);
  }

 private:
  Mapping(void* address, std::size_t size) noexcept
      : address_(static_cast<std::byte*>(address)), size_(size), owner_(detail::this_process()) {}

  static Result<Mapping> try_map(const char* operation, std::size_t size, int flags, int fd,
                                 off_t offset) {
    const auto fail = [&](int error_number, std::string_view cause) {
      return detail::make_error(error_number, operation, detail::text("size=", size), cause);
    };
    if (size > std::size_t{1} << 63) {
      return fail(EINVAL,
                  "the size is negative as a signed number: 2 << 30 overflows an int, "
                  "2_GiB does not");
    }
    if (size == 0 || size % detail::sys::page_size() != 0) {
      return fail(EINVAL, detail::text("the size must be a positive multiple of the page size, ",
                                       detail::sys::page_size()));
    }
    void* address = detail::sys::mmap(size, PROT_READ | PROT_WRITE, flags, fd, offset);
    if (address == MAP_FAILED) {
      return fail(errno,
                  errno == ENOMEM ? "the host has no room for it, or its limits forbid it" : "");
    }
    Mapping mapping(address, size);
    // A child must neither write to the guest nor copy its memory on write.
    if (detail::sys::madvise(address, size, MADV_DONTFORK) != 0) {
      return fail(errno, "MADV_DONTFORK was refused");
    }
    return mapping;
  }

  void unmap() noexcept {
    // In a forked child the address belongs to whatever the child put there.
    if (address_ != nullptr && accessible()) {
      detail::sys::munmap(address_, size_);
    }
    address_ = nullptr;
  }

  std::byte* address_ = nullptr;
  std::size_t size_ = 0;
  detail::ProcessToken owner_ = 0;
};

KVM_HPP_END

#endif
