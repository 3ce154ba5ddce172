// SPDX-License-Identifier: MIT
#ifndef TINYVMM_PC_DEVICES_HPP
#define TINYVMM_PC_DEVICES_HPP

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <span>
#include <utility>

#include "bus.hpp"

/// @file
/// The small devices of a PC, a few lines each.

namespace tinyvmm {

/// The keyboard controller's command port, without a keyboard: the way to reset a PC.
class KeyboardController final : public Device {
 public:
  explicit KeyboardController(std::function<void()> reset) : reset_(std::move(reset)) {}
  void read(std::uint64_t offset, std::span<std::byte> data) override;
  void write(std::uint64_t offset, std::span<const std::byte> data) override;

 private:
  const std::function<void()> reset_;
};

/// The reset port of later chip sets, which ACPI names.
class ResetControl final : public Device {
 public:
  /// Resets the machine when written.
  static constexpr std::uint8_t reset_value = 6;

  explicit ResetControl(std::function<void()> reset) : reset_(std::move(reset)) {}
  void read(std::uint64_t offset, std::span<std::byte> data) override;
  void write(std::uint64_t offset, std::span<const std::byte> data) override;

 private:
  const std::function<void()> reset_;
};

/// QEMU's isa-debug-exit: what is written ends the machine with the status value * 2 + 1.
class DebugExit final : public Device {
 public:
  static constexpr std::uint64_t size = 4;

  explicit DebugExit(std::function<void(int status)> exit) : exit_(std::move(exit)) {}
  void read(std::uint64_t offset, std::span<std::byte> data) override;
  void write(std::uint64_t offset, std::span<const std::byte> data) override;

 private:
  const std::function<void(int status)> exit_;
};

/// ACPI's PM1a registers. Of the events, which can be enabled, none ever comes; of the controls,
/// one powers off.
class AcpiPower final : public Device {
 public:
  static constexpr std::uint64_t size = 6;

  explicit AcpiPower(std::function<void()> power_off) : power_off_(std::move(power_off)) {}
  void read(std::uint64_t offset, std::span<std::byte> data) override;
  void write(std::uint64_t offset, std::span<const std::byte> data) override;

 private:
  const std::function<void()> power_off_;
  std::atomic<std::uint16_t> enabled_{0};
};

/// QEMU's fw_cfg, as far as small kernels ask: a word written to the first port chooses an item,
/// whose bytes the second one gives, and zeroes after its end.
class FirmwareConfiguration final : public Device {
 public:
  static constexpr std::uint64_t size = 2;

  FirmwareConfiguration(unsigned cpus, std::uint64_t memory) : cpus_(cpus), memory_(memory) {}
  void read(std::uint64_t offset, std::span<std::byte> data) override;
  void write(std::uint64_t offset, std::span<const std::byte> data) override;

 private:
  std::uint64_t item() const;

  const std::uint64_t cpus_;
  const std::uint64_t memory_;
  std::mutex mutex_{};
  std::uint16_t selector_ = 0;
  unsigned next_ = 0;  ///< byte of the item
};

}  // namespace tinyvmm

#endif
