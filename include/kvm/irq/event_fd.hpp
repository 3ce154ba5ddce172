// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_IRQ_EVENT_FD_HPP
#define KVM_HPP_IRQ_EVENT_FD_HPP

#include <kvm/detail/config.hpp>
#if !KVM_HPP_REFUSED

#include <kvm/detail/syscalls.hpp>
#include <kvm/error.hpp>
#include <kvm/fd.hpp>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string_view>
#include <utility>

KVM_HPP_BEGIN

/// An owned eventfd: a counter in the kernel that one side adds to and the other
/// takes. How devices and KVM tell each other that something happened, without
/// an exit: see Irqfd and Ioeventfd, which keep descriptors of their own, so
/// that this one may be dropped before them.
///
/// Any thread may use it, several at once.
class [[nodiscard]] EventFd {
 public:
  /// Makes one that is close-on-exec and never blocks (eventfd).
  /// @param initial what the counter starts with
  static Result<EventFd> try_create(std::uint32_t initial = 0) {
    const int fd = detail::sys::eventfd(initial, O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
      const int error_number = errno;
      return detail::make_error(
          error_number, "eventfd", detail::text("initial=", initial),
          error_number == EMFILE ? "this process has as many descriptors as it may have" : "");
    }
    return EventFd(Fd(fd));
  }
  /// The same as try_create(0), but throws.
  EventFd() : EventFd(try_create().value()) {}

  /// Takes over a descriptor that was made elsewhere, for instance by a process
  /// that sent it. It must be non-blocking (EFD_NONBLOCK) for read() not to wait.
  explicit EventFd(Fd fd) noexcept : fd_(std::move(fd)) {}

  /// The descriptor's number, still owned by this object; -1 after a move.
  int fd() const noexcept { return fd_.get(); }

  /// A second descriptor of the same counter.
  Result<EventFd> try_duplicate() const {
    Fd own(detail::sys::duplicate(fd_.get()));
    if (!own) {
      return failure("fcntl(F_DUPFD_CLOEXEC)", errno);
    }
    return EventFd(std::move(own));
  }
  EventFd duplicate() const { return try_duplicate().value(); }

  /// Adds to the counter (write). A counter that is full stays as it is, which
  /// is no error: whoever waits for it is told as it is.
  /// @param count at least 1, at most 2^64 - 2
  Result<void> try_signal(std::uint64_t count = 1) const {
    for (;;) {
      if (detail::sys::write(fd_.get(), &count, sizeof count) >= 0 || errno == EAGAIN) [[likely]] {
        return {};
      }
      if (errno != EINTR) {
        const int error_number = errno;
        return failure("write", error_number, detail::text("count=", count),
                       error_number == EINVAL ? "the counter's largest value is 2^64 - 2" : "");
      }
    }
  }
  void signal(std::uint64_t count = 1) const { try_signal(count).value(); }

  /// Takes what was counted since the last time, or nothing if that is 0 (read).
  /// Never waits. What an Irqfd is bound to is taken by KVM.
  Result<std::optional<std::uint64_t>> try_read() const {
    std::uint64_t count = 0;
    for (;;) {
      if (detail::sys::read(fd_.get(), &count, sizeof count) >= 0) [[likely]] {
        return std::optional<std::uint64_t>(count);
      }
      if (errno == EAGAIN) {
        return std::optional<std::uint64_t>();
      }
      if (errno != EINTR) {
        return failure("read", errno);
      }
    }
  }
  std::optional<std::uint64_t> read() const { return try_read().value(); }

  /// Waits until the counter is not 0, and leaves it as it is (ppoll). Signals
  /// that the thread handles meanwhile don't end it.
  /// @param timeout how long at most; 0 or less only looks
  /// @return whether there is something to read()
  Result<bool> try_wait(std::chrono::nanoseconds timeout) const {
    constexpr std::int64_t second = 1'000'000'000;
    const std::int64_t nanoseconds = timeout.count() > 0 ? timeout.count() : 0;
    struct ::timespec left {
      .tv_sec = nanoseconds / second, .tv_nsec = nanoseconds % second
    };
    return wait_for(&left);
  }
  bool wait(std::chrono::nanoseconds timeout) const { return try_wait(timeout).value(); }
  /// The same for as long as it takes.
  Result<void> try_wait() const {
    auto waited = wait_for(nullptr);
    return waited ? Result<void>() : waited.error();
  }
  void wait() const { try_wait().value(); }

 private:
  /// @param left what is left of the time, which the kernel keeps; null: no end
  Result<bool> wait_for(struct ::timespec* left) const {
    struct ::pollfd waited {
      .fd = fd_.get(), .events = POLLIN, .revents = 0
    };
    if (waited.fd < 0) {  // To the kernel that is one to leave out.
      return failure("ppoll", EBADF);
    }
    for (;;) {
      const int ready = detail::sys::poll(&waited, 1, left);
      if (ready >= 0 && (waited.revents & (POLLERR | POLLNVAL)) == 0) {
        return ready > 0;
      }
      if (ready >= 0) {
        return failure("ppoll", (waited.revents & POLLNVAL) != 0 ? EBADF : EIO);
      }
      if (errno != EINTR) {
        return failure("ppoll", errno);
      }
    }
  }

  [[gnu::noinline, gnu::cold]] Error failure(const char* operation, int error_number,
                                             std::string_view arguments = {},
                                             std::string_view cause = {}) const {
    if (!fd_) {
      error_number = EBADF;
      cause = "this eventfd is empty: it was moved from";
    }
    return detail::make_error(error_number, operation, arguments, cause);
  }

  Fd fd_;
};

KVM_HPP_END

#endif  // !KVM_HPP_REFUSED
#endif
