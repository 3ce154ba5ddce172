// SPDX-License-Identifier: MIT
#ifndef TINYVMM_VIRTIO_BLK_HPP
#define TINYVMM_VIRTIO_BLK_HPP

#include <kvm/kvm.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "virtio_mmio.hpp"

namespace tinyvmm {

/// A disk whose sectors are those of a file or block device. Virtio 1.x, section 5.2.
class VirtioBlk final : public VirtioFunction {
 public:
  static constexpr std::uint64_t sector = 512;

  /// Opens the file and takes a lock on it (flock), shared by those who only read it. Throws
  /// BadImage if that fails, and if it is empty or not a multiple of 512 bytes: rounding
  /// would hide its end from the guest.
  VirtioBlk(const std::string& path, bool writable);

  std::uint32_t id() const override { return 2; }
  std::uint64_t features() const override;
  std::span<const std::byte> config() const override { return config_; }
  std::optional<std::uint32_t> serve(const Chain& request, std::uint64_t features,
                                     kvm::GuestMemory::View& memory) override;

 private:
  /// What came of a request, as its last byte tells the driver.
  enum class Status : std::uint8_t { ok = 0, io_error = 1, unsupported = 2 };
  struct Outcome {
    Status status = Status::ok;
    std::uint64_t written = 0;  ///< to the buffers before the status
    bool outside = false;  ///< a buffer was not in memory, or to be written in read-only memory
  };

  Outcome transfer(std::uint32_t type, std::uint64_t first_sector, const Chain& request,
                   std::uint64_t size, kvm::GuestMemory::View& memory);
  Outcome identify(const Chain& request, std::uint64_t room, kvm::GuestMemory::View& memory);
  Outcome flush();

  bool writable_;
  kvm::Fd file_;
  std::uint64_t sectors_ = 0;
  std::array<std::byte, 24> config_{};
};

}  // namespace tinyvmm

#endif
