// SPDX-License-Identifier: MIT
#ifndef TINYVMM_SERIAL_16550_HPP
#define TINYVMM_SERIAL_16550_HPP

#include <cstddef>
#include <cstdint>
#include <deque>
#include <mutex>
#include <span>
#include <utility>

#include "bus.hpp"
#include "serial_line.hpp"

namespace tinyvmm {

/// A 16550A serial port. What the guest sends has left at once, so its transmitter is always empty.
/// The far end honours RTS: input waits until the driver raises it, and none is lost while the
/// driver sets up the port.
class Serial16550 final : public Device {
 public:
  static constexpr std::uint64_t size = 8;

  Serial16550(SerialLine& line, InterruptLine interrupt)
      : line_(line), interrupt_(std::move(interrupt)) {}

  void read(std::uint64_t offset, std::span<std::byte> data) override;
  void write(std::uint64_t offset, std::span<const std::byte> data) override;
  /// There is something to take from the line. Any thread.
  void input_ready();

 private:
  std::uint8_t read_register(unsigned number);
  void write_register(unsigned number, std::uint8_t value);
  std::uint8_t receive();
  void fetch_input();
  std::uint8_t identify_interrupt() const;
  std::uint8_t modem_status() const;
  void update_interrupt();

  SerialLine& line_;
  const InterruptLine interrupt_;
  std::mutex mutex_{};
  std::uint16_t divisor_ = 12;  // 9600 baud, after a reset of a PC
  std::uint8_t interrupt_enable_ = 0;
  std::uint8_t line_control_ = 0;
  std::uint8_t modem_control_ = 0;
  std::uint8_t scratch_ = 0;
  bool fifo_enabled_ = false;
  bool transmitter_event_ = false;  // The transmitter became empty, and nobody has been told.
  bool level_ = false;
  std::deque<std::byte> fifo_{};  // What the guest has not read.
};

}  // namespace tinyvmm

#endif
