// SPDX-License-Identifier: MIT
#ifndef MIGRATE_CONNECTION_HPP
#define MIGRATE_CONNECTION_HPP

#include <kvm/fd.hpp>
#include <kvm/memory/guest_memory.hpp>
#include <kvm/types.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "wire.hpp"

namespace migrate {

/// A socket with frames on it. One thread at a time. Everything throws PeerGone when the other side
/// is gone or silent, PeerFailed with its text when it says that it failed, and Failure when it
/// sends what it should not.
///
/// Pages go from guest memory to the socket, and on the other side from the socket to guest memory,
/// without a buffer between. The program ignores SIGPIPE.
class Connection {
 public:
  /// @param socket  a stream, connected
  /// @param timeout seconds for which the other side may do nothing
  Connection(kvm::Fd socket, unsigned timeout);

  void send(FrameType type, std::span<const std::byte> payload = {});
  template <class T>
  void send_value(FrameType type, const T& value) {
    send(type, std::as_bytes(std::span(&value, 1)));
  }
  /// Sends a page-aligned range of at most most_page_bytes. Looks first whether the other side has
  /// given up.
  void send_pages(kvm::GuestMemory::View& memory, kvm::Gpa gpa, std::uint64_t size);
  /// Says why this side gives up, as far as that still goes, and waits until the other has heard.
  void send_failure(const std::string& text) noexcept;

  /// The next frame's header. Its payload comes next.
  FrameHeader receive_header();
  /// @param most if there is more, that is a Failure
  std::vector<std::byte> receive_payload(const FrameHeader& header, std::uint64_t most);
  /// The next frame, which must be of this type.
  std::vector<std::byte> receive(FrameType type, std::uint64_t most = 0);
  /// The payload of a frame of pages: wherever the other side says, if that is guest memory.
  /// @return how many bytes
  std::uint64_t receive_pages(const FrameHeader& header, kvm::GuestMemory::View& memory,
                              std::uint64_t page_bytes);

  /// Bytes sent so far, all in all.
  std::uint64_t sent() const { return sent_; }

 private:
  void send_all(std::span<const std::byte> bytes, int flags);
  void receive_all(std::span<std::byte> bytes);
  [[noreturn]] void lost(const char* doing, int error_number);
  [[noreturn]] void throw_peer_failed(const FrameHeader& header);

  kvm::Fd socket_;
  unsigned timeout_;
  std::uint64_t sent_ = 0;
};

/// An address is HOST:PORT, a path (with a slash in it) of a Unix socket, or fd:NUMBER, a connected
/// socket that was inherited.
kvm::Fd connect_to(const std::string& address);

/// Waits for one connection.
class Listener {
 public:
  explicit Listener(const std::string& address);
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;
  ~Listener();

  /// Where it really listens: port 0 is any that is free.
  const std::string& address() const { return address_; }
  /// Whether there is nothing to wait for.
  bool connected() const { return connected_; }
  kvm::Fd accept();

 private:
  kvm::Fd socket_;
  bool connected_ = false;  // inherited
  std::string address_;
  std::string path_;  // to remove again
};

}  // namespace migrate

#endif
