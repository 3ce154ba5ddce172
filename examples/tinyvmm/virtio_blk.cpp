// SPDX-License-Identifier: MIT
#include "virtio_blk.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string_view>
#include <system_error>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "failure.hpp"

namespace tinyvmm {

namespace {

// Features.
constexpr std::uint64_t feature_size_max = 1 << 1;
constexpr std::uint64_t feature_segment_max = 1 << 2;
constexpr std::uint64_t feature_read_only = 1 << 5;
constexpr std::uint64_t feature_flush = 1 << 9;

// What a request asks for at most, so that none takes for ever.
constexpr std::uint32_t most_bytes_in_segment = 1 << 20;
constexpr std::uint32_t most_segments = 126;
constexpr std::uint64_t most_bytes = std::uint64_t{most_bytes_in_segment} * most_segments;

/// What a request begins with. Its last byte is for the outcome, the rest is data.
struct Header {
  std::uint32_t type;
  std::uint32_t reserved;
  std::uint64_t sector;
};
// Types of requests.
constexpr std::uint32_t in = 0;
constexpr std::uint32_t out = 1;
constexpr std::uint32_t flush_cache = 4;
constexpr std::uint32_t get_id = 8;

[[noreturn]] void refuse(const std::string& path, const std::string& why) {
  throw BadImage("the disk " + path + ": " + why);
}
[[noreturn]] void refuse(const std::string& path, int error_number) {
  refuse(path, std::generic_category().message(error_number));
}

}  // namespace

VirtioBlk::VirtioBlk(const std::string& path, bool writable)
    : writable_(writable),
      // A pipe without a writer would keep us waiting.
      file_(::open(path.c_str(), (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK)) {
  struct ::stat info {};
  if (!file_ || ::fstat(file_.get(), &info) != 0) {
    refuse(path, errno);
  }
  if (!S_ISREG(info.st_mode) && !S_ISBLK(info.st_mode)) {
    refuse(path, "is neither a file nor a block device");
  }
  if (::flock(file_.get(), (writable ? LOCK_EX : LOCK_SH) | LOCK_NB) != 0) {
    refuse(path, errno == EWOULDBLOCK ? "is in use by another process, and one of them writes"
                                      : std::generic_category().message(errno));
  }
  const off_t size = ::lseek(file_.get(), 0, SEEK_END);  // A block device's stat has none.
  if (size < 0) {
    refuse(path, errno);
  }
  const auto bytes = static_cast<std::uint64_t>(size);
  if (bytes == 0 || bytes % sector != 0) {
    refuse(path, "has " + std::to_string(bytes) +
                     " bytes, which is not a multiple of 512: `truncate -s %512` rounds it up");
  }
  sectors_ = bytes / sector;
  std::memcpy(config_.data(), &sectors_, sizeof sectors_);
  std::memcpy(config_.data() + 8, &most_bytes_in_segment, sizeof most_bytes_in_segment);
  std::memcpy(config_.data() + 12, &most_segments, sizeof most_segments);
}

std::uint64_t VirtioBlk::features() const {
  return feature_size_max | feature_segment_max | feature_flush |
         (writable_ ? 0 : feature_read_only);
}

std::optional<std::uint32_t> VirtioBlk::serve(const Chain& request, std::uint64_t features,
                                              kvm::GuestMemory::View& memory) {
  // Where one buffer ends and the next begins means nothing, so the header may lie in several.
  Header header;
  std::span<std::byte> rest = std::as_writable_bytes(std::span(&header, 1));
  const bool has_header =
      for_each_piece(request.readable, 0, sizeof header, [&](kvm::Gpa gpa, std::uint64_t size) {
        const auto piece = rest.first(static_cast<std::size_t>(size));
        rest = rest.subspan(piece.size());
        return memory.read(gpa, piece);
      });
  if (!has_header || request.writable.empty()) {
    return std::nullopt;
  }
  const std::uint64_t readable = total_size(request.readable) - sizeof header;
  const std::uint64_t writable = total_size(request.writable) - sizeof(Status);

  Outcome outcome;
  switch (header.type) {
    case in:
      outcome = transfer(in, header.sector, request, writable, memory);
      break;
    case out:
      outcome = transfer(out, header.sector, request, readable, memory);
      // A driver that knows of no flushes takes what was written for being safe.
      if (outcome.status == Status::ok && (features & feature_flush) == 0) {
        outcome.status = flush().status;
      }
      break;
    case flush_cache:
      outcome = flush();
      break;
    case get_id:
      outcome = identify(request, writable, memory);
      break;
    default:
      outcome.status = Status::unsupported;
      break;
  }

  const Buffer& last = request.writable.back();
  if (outcome.outside || !memory.write<std::uint8_t>(last.gpa + (last.size - sizeof(Status)),
                                                     static_cast<std::uint8_t>(outcome.status))) {
    return std::nullopt;
  }
  // Counted is what was written without a gap.
  return static_cast<std::uint32_t>(outcome.written +
                                    (outcome.written == writable ? sizeof(Status) : 0));
}

VirtioBlk::Outcome VirtioBlk::transfer(std::uint32_t type, std::uint64_t first_sector,
                                       const Chain& request, std::uint64_t size,
                                       kvm::GuestMemory::View& memory) {
  const bool to_guest = type == in;
  if (size % sector != 0 || size > most_bytes || first_sector > sectors_ ||
      size / sector > sectors_ - first_sector || (!to_guest && !writable_)) {
    return {.status = Status::io_error};
  }
  std::uint64_t position = first_sector * sector;
  Outcome outcome;
  const auto move = [&](kvm::Gpa gpa, std::uint64_t piece) {
    // Straight between the file and guest memory.
    const kvm::Transfer moved = to_guest ? memory.read_from(file_.get(), gpa, piece, position)
                                         : memory.write_to(file_.get(), gpa, piece, position);
    position += moved.bytes;
    if (moved.error_number == EFAULT) {
      outcome.outside = true;
    } else if (!moved || moved.bytes != piece) {  // Short if the file was truncated meanwhile.
      outcome.status = Status::io_error;
    }
    return moved.bytes == piece;
  };
  for_each_piece(to_guest ? request.writable : request.readable, to_guest ? 0 : sizeof(Header),
                 size, move);
  outcome.written = to_guest ? position - first_sector * sector : 0;
  return outcome;
}

VirtioBlk::Outcome VirtioBlk::identify(const Chain& request, std::uint64_t room,
                                       kvm::GuestMemory::View& memory) {
  std::array<char, 20> name{};
  constexpr std::string_view text = "tinyvmm-disk";
  std::copy(text.begin(), text.end(), name.begin());
  std::span<const std::byte> rest = std::as_bytes(std::span(name));
  const std::uint64_t size = std::min<std::uint64_t>(room, rest.size());
  const bool done =
      for_each_piece(request.writable, 0, size, [&](kvm::Gpa gpa, std::uint64_t piece) {
        const auto bytes = rest.first(static_cast<std::size_t>(piece));
        rest = rest.subspan(bytes.size());
        return memory.write(gpa, bytes);
      });
  return {.written = size, .outside = !done};
}

VirtioBlk::Outcome VirtioBlk::flush() {
  return {.status = ::fdatasync(file_.get()) == 0 ? Status::ok : Status::io_error};
}

}  // namespace tinyvmm
