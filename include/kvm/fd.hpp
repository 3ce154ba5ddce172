// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_FD_HPP
#define KVM_HPP_FD_HPP

#include <kvm/detail/config.hpp>
#if !KVM_HPP_REFUSED

#include <kvm/detail/syscalls.hpp>

#include <utility>

KVM_HPP_BEGIN

/// An owned file descriptor, closed when dropped. Empty after a move.
class [[nodiscard]] Fd {
 public:
  Fd() noexcept = default;
  /// Takes ownership of `fd`; -1 makes an empty one.
  explicit Fd(int fd) noexcept : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(other.release()) {}
  Fd& operator=(Fd&& other) noexcept {
    if (this != &other) {
      reset(other.release());
    }
    return *this;
  }
  ~Fd() { reset(); }

  /// The descriptor's number, or -1. Still owned by this object.
  int get() const noexcept { return fd_; }
  /// Whether there is a descriptor.
  explicit operator bool() const noexcept { return fd_ >= 0; }

  /// Gives up ownership: the caller closes the descriptor.
  [[nodiscard]] int release() noexcept { return std::exchange(fd_, -1); }

  /// Closes the descriptor, if any, and takes ownership of `fd`.
  void reset(int fd = -1) noexcept {
    if (fd_ >= 0) {
      detail::sys::close(fd_);  // Linux frees the number whatever close returns.
    }
    fd_ = fd;
  }

 private:
  int fd_ = -1;
};

KVM_HPP_END

#endif  // !KVM_HPP_REFUSED
#endif
