// SPDX-License-Identifier: MIT
#ifndef TINYVMM_PL011_HPP
#define TINYVMM_PL011_HPP

#include <cstddef>
#include <cstdint>
#include <deque>
#include <mutex>
#include <span>
#include <utility>

#include "bus.hpp"
#include "serial_line.hpp"

namespace tinyvmm {

/// A PL011, the serial port of Arm's boards. What the guest sends has left at once, so its
/// transmitter is always empty. The far end honours RTS: input waits until the driver raises it,
/// and none is lost while the driver sets up the port.
class Pl011 final : public Device {
 public:
  static constexpr std::uint64_t size = 0x1000;

  Pl011(SerialLine& line, InterruptLine interrupt)
      : line_(line), interrupt_(std::move(interrupt)) {}

  void read(std::uint64_t offset, std::span<std::byte> data) override;
  void write(std::uint64_t offset, std::span<const std::byte> data) override;
  /// There is something to take from the line. Any thread.
  void input_ready();

 private:
  std::uint32_t read_register(std::uint64_t offset);
  void write_register(std::uint64_t offset, std::uint32_t value);
  std::uint32_t receive();
  void fetch_input();
  std::uint32_t raw_interrupts() const;
  void update_interrupt();

  SerialLine& line_;
  const InterruptLine interrupt_;
  std::mutex mutex_{};
  // Speed and format mean nothing here, but are read back.
  std::uint32_t integer_divisor_ = 0;
  std::uint32_t fractional_divisor_ = 0;
  std::uint32_t line_control_ = 0;
  std::uint32_t control_ = 0x300;  // After a reset: sends and receives once it is enabled.
  std::uint32_t fifo_levels_ = 0x12;
  std::uint32_t interrupt_mask_ = 0;
  bool sent_ = false;  // The transmitter became empty, and this was not acknowledged.
  bool level_ = false;
  std::deque<std::byte> fifo_{};  // What the guest has not read.
};

}  // namespace tinyvmm

#endif
