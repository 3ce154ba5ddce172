// SPDX-License-Identifier: MIT
#include "console.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <exception>
#include <system_error>
#include <utility>

#include <poll.h>
#include <unistd.h>

namespace tinyvmm {
namespace {

constexpr std::byte control_a{0x01};
/// A pipe that is writable takes so much without blocking (PIPE_BUF).
constexpr std::size_t most_at_once = 4096;

/// Waits until one of them is ready, or for `timeout` milliseconds, -1: for ever.
void poll_all(std::span<::pollfd> fds, int timeout) {
  while (::poll(fds.data(), fds.size(), timeout) < 0) {
    if (errno != EINTR) {
      throw std::system_error(errno, std::generic_category(), "the console: poll");
    }
  }
}

/// Waits until a descriptor is ready.
/// @return false if the other became ready, which comes first
bool wait_for(int fd, short events, const kvm::EventFd& unless) {
  std::array<::pollfd, 2> fds{{{unless.fd(), POLLIN, 0}, {fd, events, 0}}};
  poll_all(fds, -1);
  return fds[0].revents == 0;
}

bool is_ready(int fd, short events) {
  ::pollfd polled{fd, events, 0};
  poll_all({&polled, 1}, 0);
  return polled.revents != 0;
}

}  // namespace

void Console::start(Events events) {
  events_ = std::move(events);
  thread_ = std::thread([this] { work(); });
}

void Console::stop() {
  close();
  if (thread_.joinable()) {
    thread_.join();
  }
}

void Console::send(std::span<const std::byte> bytes) {
  // The descriptor is often shared with other programs, so it stays in the mode that it is in: only
  // what it takes for sure is written, lest a full pipe keep this thread when it should end. No
  // other thread takes that room meanwhile. Another program that writes to the same pipe can, and
  // then close() does not end the wait.
  while (!bytes.empty()) {
    const std::lock_guard lock(output_mutex_);
    const bool open = wait_for(output_, POLLOUT, closed_);
    if (!open && !is_ready(output_, POLLOUT)) {
      return;
    }
    const auto written = ::write(output_, bytes.data(), std::min(bytes.size(), most_at_once));
    if (written >= 0) {
      bytes = bytes.subspan(static_cast<std::size_t>(written));
    } else if (errno == EAGAIN && !open) {
      return;
    } else if (errno != EINTR && errno != EAGAIN) {
      const int error_number = errno;
      close();
      events_.failed(std::string("standard output: ") + std::strerror(error_number));
      return;
    }
  }
}

std::size_t Console::take(std::span<std::byte> bytes) {
  const std::lock_guard lock(mutex_);
  const std::size_t count = std::min(bytes.size(), queue_.size());
  std::copy_n(queue_.begin(), count, bytes.begin());
  queue_.erase(queue_.begin(), queue_.begin() + static_cast<std::ptrdiff_t>(count));
  if (count != 0) {
    room_.signal();
  }
  return count;
}

std::size_t Console::waiting() {
  const std::lock_guard lock(mutex_);
  return queue_.size();
}

void Console::work() noexcept {
  try {
    read_input();
  } catch (const std::exception& error) {
    events_.failed(error.what());
  }
}

void Console::read_input() {
  std::array<std::byte, 256> buffer;
  for (;;) {
    // A person who types must always be able to leave. A file can wait for the guest.
    while (!interactive_ && waiting() >= most_waiting) {
      if (!wait_for(room_.fd(), POLLIN, closed_)) {
        return;
      }
      static_cast<void>(room_.read());
    }
    if (!wait_for(input_, POLLIN, closed_)) {
      return;
    }
    const auto count = ::read(input_, buffer.data(), buffer.size());
    if (count < 0 && (errno == EINTR || errno == EAGAIN)) {
      continue;
    }
    if (count <= 0) {
      return;  // No more input: the guest goes on without.
    }
    if (!accept(std::span(buffer).first(static_cast<std::size_t>(count)))) {
      events_.leave();
      return;
    }
    events_.input();
  }
}

bool Console::accept(std::span<const std::byte> bytes) {
  const std::lock_guard lock(mutex_);
  for (const std::byte byte : bytes) {
    if (interactive_) {
      if (std::exchange(escaped_, false)) {
        if (byte == std::byte{'x'}) {
          return false;
        }
        if (byte != control_a) {
          continue;  // It means nothing.
        }
      } else if (byte == control_a) {
        escaped_ = true;
        continue;
      }
      if (queue_.size() >= most_waiting) {
        continue;
      }
    }
    queue_.push_back(byte);
  }
  return true;
}

}  // namespace tinyvmm
