// SPDX-License-Identifier: MIT
#include "connection.hpp"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <memory>
#include <optional>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

namespace migrate {
namespace {

std::string explain(int error_number) { return std::generic_category().message(error_number); }

[[noreturn]] void fail(const std::string& doing, int error_number) {
  throw Failure(doing + ": " + explain(error_number));
}

}  // namespace

Connection::Connection(kvm::Fd socket, unsigned timeout)
    : socket_(std::move(socket)), timeout_(timeout) {
  const ::timeval limit{.tv_sec = static_cast<time_t>(timeout), .tv_usec = 0};
  const int now = 1;
  for (const int which : {SO_RCVTIMEO, SO_SNDTIMEO}) {
    if (::setsockopt(socket_.get(), SOL_SOCKET, which, &limit, sizeof limit) != 0) {
      fail("the connection", errno);
    }
  }
  // Small frames are answers that somebody waits for. Fails on Unix sockets, which need it not.
  static_cast<void>(::setsockopt(socket_.get(), IPPROTO_TCP, TCP_NODELAY, &now, sizeof now));
}

void Connection::lost(const char* doing, int error_number) {
  if (error_number == EAGAIN) {
    throw PeerGone("the other side did nothing for " + std::to_string(timeout_) + " s while " +
                   doing);
  }
  throw PeerGone("the other side is gone while " + std::string(doing) +
                 (error_number == 0 ? "" : ": " + explain(error_number)));
}

void Connection::throw_peer_failed(const FrameHeader& header) {
  throw PeerFailed("the other side says: " + printable(receive_payload(header, most_text_bytes)));
}

void Connection::send_all(std::span<const std::byte> bytes, int flags) {
  while (!bytes.empty()) {
    const ssize_t count = ::send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL | flags);
    if (count < 0 && errno == EINTR) {
      continue;
    }
    if (count < 0) {
      lost("sending", errno);
    }
    bytes = bytes.subspan(static_cast<std::size_t>(count));
    sent_ += static_cast<std::uint64_t>(count);
  }
}

void Connection::receive_all(std::span<std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t count = ::recv(socket_.get(), bytes.data(), bytes.size(), 0);
    if (count < 0 && errno == EINTR) {
      continue;
    }
    if (count <= 0) {
      lost("receiving", count < 0 ? errno : 0);
    }
    bytes = bytes.subspan(static_cast<std::size_t>(count));
  }
}

void Connection::send(FrameType type, std::span<const std::byte> payload) {
  const FrameHeader header{.type = type, .size = payload.size()};
  send_all(std::as_bytes(std::span(&header, 1)), payload.empty() ? 0 : MSG_MORE);
  send_all(payload, 0);
}

void Connection::send_pages(kvm::GuestMemory::View& memory, kvm::Gpa gpa, std::uint64_t size) {
  // The destination is silent while pages come, unless it gives up.
  std::byte first;
  if (::recv(socket_.get(), &first, 1, MSG_PEEK | MSG_DONTWAIT) >= 0) {
    const FrameHeader header = receive_header();
    if (header.type == FrameType::failure) {
      throw_peer_failed(header);
    }
    throw Failure("the other side answered before it was asked");
  }
  const FrameHeader header{.type = FrameType::pages, .size = sizeof gpa.value + size};
  send_all(std::as_bytes(std::span(&header, 1)), MSG_MORE);
  send_all(std::as_bytes(std::span(&gpa.value, 1)), MSG_MORE);
  const kvm::Transfer sent = memory.write_to(socket_.get(), gpa, size);
  sent_ += sent.bytes;
  if (!sent) {
    lost("sending pages", sent.error_number);
  }
}

void Connection::send_failure(const std::string& text) noexcept {
  try {
    send(FrameType::failure,
         std::as_bytes(std::span(text).first(std::min<std::size_t>(text.size(), most_text_bytes))));
    // Closing a socket with something unread in it can take our last words away.
    ::shutdown(socket_.get(), SHUT_WR);
    std::byte rest[4096];
    while (::recv(socket_.get(), rest, sizeof rest, 0) > 0) {
    }
  } catch (const std::exception&) {  // It is gone; it will notice by itself.
  }
}

FrameHeader Connection::receive_header() {
  FrameHeader header;
  receive_all(std::as_writable_bytes(std::span(&header, 1)));
  if (header.magic != FrameHeader::right_magic) {
    throw Failure("what the other side sends is not a migration: wrong magic number");
  }
  return header;
}

std::vector<std::byte> Connection::receive_payload(const FrameHeader& header, std::uint64_t most) {
  if (header.size > most) {
    throw Failure("the other side sends a frame of " + std::to_string(header.size) +
                  " bytes, where at most " + std::to_string(most) + " are possible");
  }
  std::vector<std::byte> payload(header.size);
  receive_all(payload);
  return payload;
}

std::vector<std::byte> Connection::receive(FrameType type, std::uint64_t most) {
  const FrameHeader header = receive_header();
  if (header.type == FrameType::failure) {
    throw_peer_failed(header);
  }
  if (header.type != type) {
    throw Failure("the other side sends a frame of type " +
                  std::to_string(static_cast<std::uint32_t>(header.type)) + " instead of type " +
                  std::to_string(static_cast<std::uint32_t>(type)));
  }
  return receive_payload(header, most);
}

std::uint64_t Connection::receive_pages(const FrameHeader& header, kvm::GuestMemory::View& memory,
                                        std::uint64_t page_bytes) {
  kvm::Gpa gpa;
  if (header.size < sizeof gpa.value) {
    throw Failure("the other side sends pages without an address");
  }
  receive_all(std::as_writable_bytes(std::span(&gpa.value, 1)));
  const std::uint64_t size = header.size - sizeof gpa.value;
  const auto refuse = [&](const char* why) {
    throw Failure("the other side sends " + std::to_string(size) + " bytes for guest address " +
                  std::to_string(gpa.value) + ": " + why);
  };
  if (size == 0 || size > most_page_bytes || size % page_bytes != 0 ||
      gpa.value % page_bytes != 0) {
    refuse("that is no range of pages, or too long");
  }
  // It checks that all of the range is guest memory before it reads a byte.
  const kvm::Transfer got = memory.read_from(socket_.get(), gpa, size);
  if (got.error_number == EFAULT) {
    refuse("this guest has no memory there");
  }
  if (!got || got.bytes != size) {
    lost("receiving pages", got.error_number);
  }
  return size;
}

namespace {

struct FreeAddresses {
  void operator()(::addrinfo* list) const { ::freeaddrinfo(list); }
};
using Addresses = std::unique_ptr<::addrinfo, FreeAddresses>;

bool is_path(const std::string& address) { return address.find('/') != address.npos; }

::sockaddr_un unix_address(const std::string& path) {
  ::sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) {
    throw Failure(path + ": the path of a socket has at most " +
                  std::to_string(sizeof address.sun_path - 1) + " bytes");
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

Addresses resolve(const std::string& address, int flags) {
  const auto colon = address.rfind(':');
  if (colon == address.npos || colon + 1 == address.size()) {
    throw Failure("'" + address + "' is no address: it is HOST:PORT or the path of a socket");
  }
  std::string host = address.substr(0, colon);
  if (host.starts_with('[') && host.ends_with(']')) {  // IPv6
    host = host.substr(1, host.size() - 2);
  }
  ::addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags | AI_NUMERICSERV;
  ::addrinfo* list = nullptr;
  const int error = ::getaddrinfo(host.empty() ? nullptr : host.c_str(),
                                  address.c_str() + colon + 1, &hints, &list);
  if (error != 0) {
    throw Failure("'" + address + "': " + ::gai_strerror(error));
  }
  return Addresses(list);
}

/// The socket of fd:NUMBER; nothing if the address is of another kind.
std::optional<kvm::Fd> inherited(const std::string& address) {
  if (!address.starts_with("fd:")) {
    return std::nullopt;
  }
  int number = -1;
  const char* const end = address.data() + address.size();
  const auto [rest, error] = std::from_chars(address.data() + 3, end, number);
  int type = 0;
  ::socklen_t size = sizeof type;
  if (error != std::errc() || rest != end ||
      ::getsockopt(number, SOL_SOCKET, SO_TYPE, &type, &size) != 0 || type != SOCK_STREAM ||
      ::fcntl(number, F_SETFD, FD_CLOEXEC) != 0) {
    throw Failure("'" + address + "' is not an open stream socket");
  }
  return kvm::Fd(number);
}

}  // namespace

kvm::Fd connect_to(const std::string& address) {
  if (auto fd = inherited(address)) {
    return std::move(*fd);
  }
  if (is_path(address)) {
    const ::sockaddr_un to = unix_address(address);
    kvm::Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!fd || ::connect(fd.get(), reinterpret_cast<const ::sockaddr*>(&to), sizeof to) != 0) {
      fail("cannot connect to " + address, errno);
    }
    return fd;
  }
  int error_number = 0;
  const Addresses list = resolve(address, 0);
  for (const ::addrinfo* one = list.get(); one != nullptr; one = one->ai_next) {
    kvm::Fd fd(::socket(one->ai_family, one->ai_socktype | SOCK_CLOEXEC, one->ai_protocol));
    if (fd && ::connect(fd.get(), one->ai_addr, one->ai_addrlen) == 0) {
      return fd;
    }
    error_number = errno;
  }
  fail("cannot connect to " + address, error_number);
}

Listener::Listener(const std::string& address) : address_(address) {
  if (auto fd = inherited(address)) {
    socket_ = std::move(*fd);
    connected_ = true;
    return;
  }
  if (is_path(address)) {
    const ::sockaddr_un at = unix_address(address);
    // What a listener that was killed left behind.
    struct ::stat old {};
    if (::lstat(address.c_str(), &old) == 0 && S_ISSOCK(old.st_mode)) {
      ::unlink(address.c_str());
    }
    socket_ = kvm::Fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!socket_ ||
        ::bind(socket_.get(), reinterpret_cast<const ::sockaddr*>(&at), sizeof at) != 0) {
      fail("cannot listen on " + address, errno);
    }
    path_ = address;
  } else {
    int error_number = 0;
    const Addresses list = resolve(address, AI_PASSIVE);
    const int yes = 1;
    for (const ::addrinfo* one = list.get(); one != nullptr && !socket_; one = one->ai_next) {
      kvm::Fd fd(::socket(one->ai_family, one->ai_socktype | SOCK_CLOEXEC, one->ai_protocol));
      if (fd && ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) == 0 &&
          ::bind(fd.get(), one->ai_addr, one->ai_addrlen) == 0) {
        socket_ = std::move(fd);
      } else {
        error_number = errno;
      }
    }
    if (!socket_) {
      fail("cannot listen on " + address, error_number);
    }
    ::sockaddr_storage bound{};
    ::socklen_t size = sizeof bound;
    char port[NI_MAXSERV];
    if (::getsockname(socket_.get(), reinterpret_cast<::sockaddr*>(&bound), &size) == 0 &&
        ::getnameinfo(reinterpret_cast<const ::sockaddr*>(&bound), size, nullptr, 0, port,
                      sizeof port, NI_NUMERICSERV) == 0) {
      address_ = address.substr(0, address.rfind(':') + 1) + port;
    }
  }
  if (::listen(socket_.get(), 1) != 0) {
    fail("cannot listen on " + address, errno);
  }
}

Listener::~Listener() {
  if (!path_.empty()) {
    ::unlink(path_.c_str());
  }
}

kvm::Fd Listener::accept() {
  if (connected_) {
    return std::move(socket_);
  }
  for (;;) {
    kvm::Fd fd(::accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (fd) {
      return fd;
    }
    if (errno != EINTR && errno != ECONNABORTED) {
      fail("cannot accept a connection", errno);
    }
  }
}

}  // namespace migrate
