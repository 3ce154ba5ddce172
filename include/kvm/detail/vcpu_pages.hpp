// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_DETAIL_VCPU_PAGES_HPP
#define KVM_HPP_DETAIL_VCPU_PAGES_HPP

#include <kvm/detail/process.hpp>
#include <kvm/detail/syscalls.hpp>
#include <kvm/error.hpp>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <utility>

KVM_HPP_BEGIN
namespace detail {

/// What KVM shares through a vCPU's descriptor: its run page, its dirty ring,
/// the ring of coalesced writes. Unmapped with its owner. A forked child does
/// not inherit it: there the addresses belong to whatever it put there.
class VcpuPages {
 public:
  VcpuPages() = default;
  VcpuPages(VcpuPages&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)),
        size_(std::exchange(other.size_, 0)),
        owner_(other.owner_) {}
  VcpuPages& operator=(VcpuPages&& other) noexcept {
    if (this != &other) {
      unmap();
      data_ = std::exchange(other.data_, nullptr);
      size_ = std::exchange(other.size_, 0);
      owner_ = other.owner_;
    }
    return *this;
  }
  ~VcpuPages() { unmap(); }

  /// @param operation what is mapped, for messages
  /// @param offset    in bytes; the descriptor need not outlive the call
  static Result<VcpuPages> try_map(const char* operation, int fd, std::size_t size,
                                   off_t offset = 0) {
    const auto fail = [&](int error_number, const char* cause) {
      return make_error(error_number, operation,
                        text("size=", size, ", offset=", Hex{static_cast<std::uint64_t>(offset)}),
                        cause);
    };
    void* const data = sys::mmap(size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, offset);
    if (data == MAP_FAILED) {
      const int error_number = errno;
      return fail(error_number, error_number == ENOMEM
                                    ? "the host has no room for it, or its limits forbid it"
                                    : "");
    }
    VcpuPages pages(data, size);
    if (sys::madvise(data, size, MADV_DONTFORK) != 0) {
      return fail(errno, "MADV_DONTFORK was refused");
    }
    return pages;
  }

  /// Null if there are none.
  std::byte* data() const noexcept { return static_cast<std::byte*>(data_); }
  std::size_t size() const noexcept { return size_; }

 private:
  VcpuPages(void* data, std::size_t size) noexcept : data_(data), size_(size) {}

  void unmap() noexcept {
    if (data_ != nullptr && this_process() == owner_) {
      sys::munmap(data_, size_);
    }
  }

  void* data_ = nullptr;
  std::size_t size_ = 0;
  ProcessToken owner_ = this_process();
};

}  // namespace detail
KVM_HPP_END

#endif
