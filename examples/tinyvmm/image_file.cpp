// SPDX-License-Identifier: MIT
#include "image_file.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <stdexcept>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace tinyvmm {
namespace {

kvm::Fd open_file(const std::string& path) {
  // A pipe without a writer would keep us waiting.
  kvm::Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!file) {
    throw BadImage(path + ": " + std::strerror(errno));
  }
  return file;
}

}  // namespace

ImageFile::ImageFile(const std::string& path) : ImageFile(open_file(path), path) {}

ImageFile::ImageFile(kvm::Fd file, const std::string& name) : name_(name), file_(std::move(file)) {
  struct ::stat status {};
  if (::fstat(file_.get(), &status) != 0) {
    fail(std::strerror(errno));
  }
  if (!S_ISREG(status.st_mode)) {
    fail("it is not a regular file");
  }
  size_ = static_cast<std::uint64_t>(status.st_size);
  head_.resize(std::min<std::uint64_t>(size_, head_size));
  for (std::size_t done = 0; done < head_.size();) {
    const auto count =
        ::pread(file_.get(), head_.data() + done, head_.size() - done, static_cast<::off_t>(done));
    if (count < 0 && errno == EINTR) {
      continue;
    }
    if (count <= 0) {
      fail(count < 0 ? std::strerror(errno) : "it is being cut short");
    }
    done += static_cast<std::size_t>(count);
  }
}

void ImageFile::load(std::uint64_t offset, std::uint64_t size, kvm::Gpa gpa,
                     kvm::GuestMemory::View& memory) const {
  if (offset > size_ || size > size_ - offset) {
    fail("it is truncated: bytes " + hex(offset) + " to " + hex(offset + size) +
         " are to be loaded, and it has " + hex(size_));
  }
  if (!memory.contains(gpa, size)) {
    fail("it does not fit into the guest's memory: it has " + hex(size) + " bytes for address " +
         hex(gpa.value));
  }
  if (offset < head_.size()) {  // This part has been read already.
    const std::uint64_t known = std::min<std::uint64_t>(size, head_.size() - offset);
    store(memory, gpa, head().subspan(offset, known));
    offset += known;
    size -= known;
    gpa = gpa + known;
  }
  const kvm::Transfer loaded = memory.read_from(file_.get(), gpa, size, offset);
  if (!loaded) {
    fail(std::strerror(loaded.error_number));
  }
  if (loaded.bytes != size) {
    fail("it is being cut short");
  }
}

std::string hex(std::uint64_t value) {
  char digits[19];
  std::snprintf(digits, sizeof digits, "0x%llx", static_cast<unsigned long long>(value));
  return digits;
}

void store(kvm::GuestMemory::View& memory, kvm::Gpa gpa, std::span<const std::byte> bytes) {
  if (!memory.write(gpa, bytes)) {
    throw BadImage("the guest's memory is too small for the tables that it needs");
  }
}

}  // namespace tinyvmm
