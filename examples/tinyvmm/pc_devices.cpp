// SPDX-License-Identifier: MIT
#include "pc_devices.hpp"

#include <algorithm>
#include <cstring>

#include "acpi.hpp"

namespace tinyvmm {
namespace {

constexpr std::uint64_t enable_offset = 2;  // Of ACPI's power management registers.
constexpr std::uint64_t control_offset = 4;

std::uint32_t little_endian(std::span<const std::byte> data) {
  std::uint32_t value = 0;
  std::memcpy(&value, data.data(), std::min(data.size(), sizeof value));
  return value;
}
void answer(std::span<std::byte> data, std::uint64_t value) {
  for (std::byte& byte : data) {
    byte = static_cast<std::byte>(value & 0xff);
    value >>= 8;
  }
}

}  // namespace

// Neither input nor output is waiting: guests look at this before they write a command.
void KeyboardController::read(std::uint64_t, std::span<std::byte> data) { answer(data, 0); }

void KeyboardController::write(std::uint64_t, std::span<const std::byte> data) {
  constexpr std::byte pulse_reset_line{0xfe};
  if (data[0] == pulse_reset_line) {
    reset_();
  }
}

void ResetControl::read(std::uint64_t, std::span<std::byte> data) { answer(data, 0); }

void ResetControl::write(std::uint64_t, std::span<const std::byte> data) {
  constexpr std::byte reset_cpu{4};
  if ((data[0] & reset_cpu) != std::byte{0}) {
    reset_();
  }
}

void DebugExit::read(std::uint64_t, std::span<std::byte> data) { answer(data, 0); }

void DebugExit::write(std::uint64_t, std::span<const std::byte> data) {
  exit_(static_cast<int>((little_endian(data) << 1 | 1) & 0xff));
}

void AcpiPower::read(std::uint64_t offset, std::span<std::byte> data) {
  constexpr std::uint64_t acpi_is_on = 1;
  // Status, which is 0, enable and control as one number.
  const std::uint64_t registers =
      std::uint64_t{enabled_} << 8 * enable_offset | acpi_is_on << 8 * control_offset;
  answer(data, registers >> 8 * offset);
}

void AcpiPower::write(std::uint64_t offset, std::span<const std::byte> data) {
  constexpr std::uint32_t sleep_enable = 1u << 13;
  const std::uint32_t value = little_endian(data);
  if (offset == enable_offset) {
    enabled_ = static_cast<std::uint16_t>(value);
  }
  if (offset == control_offset && (value & sleep_enable) != 0 &&
      (value >> 10 & 7) == acpi_power_off_type) {
    power_off_();
  }
}

void FirmwareConfiguration::read(std::uint64_t offset, std::span<std::byte> data) {
  const std::lock_guard lock(mutex_);
  if (offset == 0) {
    return;  // The selector is only written.
  }
  for (std::byte& byte : data) {
    byte = next_ < sizeof(std::uint64_t) ? static_cast<std::byte>(item() >> 8 * next_ & 0xff)
                                         : std::byte{0};
    next_ += next_ < sizeof(std::uint64_t) ? 1 : 0;
  }
}

void FirmwareConfiguration::write(std::uint64_t offset, std::span<const std::byte> data) {
  const std::lock_guard lock(mutex_);
  if (offset == 0 && data.size() == sizeof selector_) {
    std::memcpy(&selector_, data.data(), sizeof selector_);
    next_ = 0;
  }
}

std::uint64_t FirmwareConfiguration::item() const {
  switch (selector_) {
    case 0x00:
      return 0x554d4551;  // The signature, "QEMU".
    case 0x01:
      return 1;  // There are these ports, and no DMA.
    case 0x03:
      return memory_;
    case 0x05:
    case 0x0f:  // How many there are, and how many there could be.
      return cpus_;
    default:  // Among them the directory of files: it has no entries.
      return 0;
  }
}

}  // namespace tinyvmm
