// SPDX-License-Identifier: MIT
#include "pl011.hpp"

#include <algorithm>
#include <array>
#include <cstring>

namespace tinyvmm {
namespace {

enum Register : std::uint64_t {
  data = 0x00,
  receive_status = 0x04,
  flags = 0x18,
  integer_divisor = 0x24,
  fractional_divisor = 0x28,
  line_control = 0x2c,
  control = 0x30,
  fifo_levels = 0x34,
  interrupt_mask = 0x38,
  interrupt_raw = 0x3c,
  interrupt_masked = 0x40,
  interrupt_clear = 0x44,
  identification = 0xfe0,  ///< eight registers of a byte each
};

constexpr std::size_t fifo_size = 32;

constexpr std::uint32_t flag_connected = 0x007;  // clear to send, data set ready, carrier
constexpr std::uint32_t flag_receiver_empty = 0x010;
constexpr std::uint32_t flag_receiver_full = 0x040;
constexpr std::uint32_t flag_transmitter_empty = 0x080;
constexpr std::uint32_t line_fifo_enabled = 0x010;
constexpr std::uint32_t control_enabled = 0x001;
constexpr std::uint32_t control_receive = 0x200;
constexpr std::uint32_t control_request_to_send = 0x800;
constexpr std::uint32_t interrupt_receive = 0x010;
constexpr std::uint32_t interrupt_transmit = 0x020;
constexpr std::uint32_t interrupt_receive_timeout = 0x040;
constexpr std::uint32_t all_interrupts = 0x7ff;

/// Part 0x011, designed by Arm, revision 1 (whose FIFOs have 32 bytes), and what all "PrimeCells"
/// end with.
constexpr std::array<std::uint8_t, 8> identity = {0x11, 0x10, 0x34, 0x00, 0x0d, 0xf0, 0x05, 0xb1};

}  // namespace

void Pl011::read(std::uint64_t offset, std::span<std::byte> bytes) {
  if (offset % 4 != 0) {
    return;
  }
  const std::lock_guard lock(mutex_);
  const std::uint64_t value = read_register(offset);
  update_interrupt();
  std::memcpy(bytes.data(), &value, std::min(bytes.size(), sizeof value));
}

void Pl011::write(std::uint64_t offset, std::span<const std::byte> bytes) {
  if (offset % 4 == 0) {
    std::uint32_t value = 0;
    std::memcpy(&value, bytes.data(), std::min(bytes.size(), sizeof value));
    write_register(offset, value);
  }
}

void Pl011::input_ready() {
  const std::lock_guard lock(mutex_);
  fetch_input();
  update_interrupt();
}

std::uint32_t Pl011::read_register(std::uint64_t offset) {
  if (offset >= identification) {
    return identity[(offset - identification) / 4 % identity.size()];
  }
  switch (offset) {
    case data:
      return receive();
    case receive_status:
      return 0;  // no errors
    case flags:
      return flag_connected | flag_transmitter_empty | (fifo_.empty() ? flag_receiver_empty : 0) |
             (fifo_.size() >= fifo_size ? flag_receiver_full : 0);
    case integer_divisor:
      return integer_divisor_;
    case fractional_divisor:
      return fractional_divisor_;
    case line_control:
      return line_control_;
    case control:
      return control_;
    case fifo_levels:
      return fifo_levels_;
    case interrupt_mask:
      return interrupt_mask_;
    case interrupt_raw:
      return raw_interrupts();
    case interrupt_masked:
      return raw_interrupts() & interrupt_mask_;
    default:
      return 0;
  }
}

void Pl011::write_register(std::uint64_t offset, std::uint32_t value) {
  std::unique_lock lock(mutex_);
  switch (offset) {
    case data: {
      // Without the lock: a full pipe must not keep other vCPUs from reading registers.
      lock.unlock();
      const auto byte = static_cast<std::byte>(value);
      line_.send(std::span(&byte, 1));
      lock.lock();
      sent_ = true;
      break;
    }
    case integer_divisor:
      integer_divisor_ = value & 0xffff;
      break;
    case fractional_divisor:
      fractional_divisor_ = value & 0x3f;
      break;
    case line_control:
      line_control_ = value & 0xff;
      break;
    case control:
      control_ = value & 0xffff;
      break;
    case fifo_levels:
      fifo_levels_ = value & 0x3f;
      break;
    case interrupt_mask:
      interrupt_mask_ = value & all_interrupts;
      break;
    case interrupt_clear:
      // Those for input last as long as there is some.
      sent_ = sent_ && (value & interrupt_transmit) == 0;
      break;
    default:  // The others only tell.
      break;
  }
  fetch_input();
  update_interrupt();
}

std::uint32_t Pl011::receive() {
  if (fifo_.empty()) {
    return 0;
  }
  const std::byte byte = fifo_.front();
  fifo_.pop_front();
  fetch_input();
  return std::to_integer<std::uint32_t>(byte);
}

void Pl011::fetch_input() {
  constexpr std::uint32_t ready = control_enabled | control_receive | control_request_to_send;
  if ((control_ & ready) != ready) {
    return;
  }
  const std::size_t room = (line_control_ & line_fifo_enabled) != 0 ? fifo_size : 1;
  std::array<std::byte, fifo_size> bytes;
  if (fifo_.size() < room) {
    const std::size_t count = line_.take(std::span(bytes).first(room - fifo_.size()));
    fifo_.insert(fifo_.end(), bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(count));
  }
}

std::uint32_t Pl011::raw_interrupts() const {
  // No more comes soon, so whatever there is has waited long enough.
  return (fifo_.empty() ? 0 : interrupt_receive | interrupt_receive_timeout) |
         (sent_ ? interrupt_transmit : 0);
}

void Pl011::update_interrupt() {
  const bool level = (raw_interrupts() & interrupt_mask_) != 0;
  if (std::exchange(level_, level) != level) {
    interrupt_(level);
  }
}

}  // namespace tinyvmm
