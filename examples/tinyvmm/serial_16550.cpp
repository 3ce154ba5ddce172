// SPDX-License-Identifier: MIT
#include "serial_16550.hpp"

#include <array>
#include <utility>

namespace tinyvmm {
namespace {

enum Register : unsigned {
  data = 0,              // and the divisor's low byte
  interrupt_enable = 1,  // and its high byte
  interrupt_identity = 2,
  fifo_control = 2,
  line_control = 3,
  modem_control = 4,
  line_status = 5,
  modem_status_register = 6,
  scratch = 7,
};

constexpr std::size_t fifo_size = 16;

constexpr std::uint8_t enable_received = 0x01;
constexpr std::uint8_t enable_transmitter = 0x02;
constexpr std::uint8_t identity_none = 0x01;
constexpr std::uint8_t identity_transmitter = 0x02;
constexpr std::uint8_t identity_received = 0x04;
constexpr std::uint8_t identity_fifo = 0xc0;
constexpr std::uint8_t fifo_enable = 0x01;
constexpr std::uint8_t fifo_clear_received = 0x02;
constexpr std::uint8_t line_divisor_access = 0x80;
constexpr std::uint8_t modem_data_terminal_ready = 0x01;
constexpr std::uint8_t modem_request_to_send = 0x02;
constexpr std::uint8_t modem_loop = 0x10;
constexpr std::uint8_t status_data_ready = 0x01;
constexpr std::uint8_t status_transmitter_empty = 0x60;  // the holding register, and all of it
constexpr std::uint8_t status_connected = 0xb0;          // carrier, data set ready, clear to send

}  // namespace

void Serial16550::read(std::uint64_t offset, std::span<std::byte> bytes) {
  const std::lock_guard lock(mutex_);
  for (std::byte& byte : bytes) {
    byte = std::byte{read_register(static_cast<unsigned>(offset++))};
  }
  update_interrupt();
}

void Serial16550::write(std::uint64_t offset, std::span<const std::byte> bytes) {
  for (const std::byte byte : bytes) {
    write_register(static_cast<unsigned>(offset++), std::to_integer<std::uint8_t>(byte));
  }
}

void Serial16550::input_ready() {
  const std::lock_guard lock(mutex_);
  fetch_input();
  update_interrupt();
}

std::uint8_t Serial16550::read_register(unsigned number) {
  const bool divisor = (line_control_ & line_divisor_access) != 0;
  switch (number) {
    case data:
      return divisor ? static_cast<std::uint8_t>(divisor_) : receive();
    case interrupt_enable:
      return divisor ? static_cast<std::uint8_t>(divisor_ >> 8) : interrupt_enable_;
    case interrupt_identity: {
      const std::uint8_t identity = identify_interrupt();
      if (identity == identity_transmitter) {
        transmitter_event_ = false;  // Reading this is how it is acknowledged.
      }
      return identity | (fifo_enabled_ ? identity_fifo : std::uint8_t{0});
    }
    case line_control:
      return line_control_;
    case modem_control:
      return modem_control_;
    case line_status:
      return status_transmitter_empty | (!fifo_.empty() ? status_data_ready : std::uint8_t{0});
    case modem_status_register:
      return modem_status();
    default:
      return scratch_;
  }
}

void Serial16550::write_register(unsigned number, std::uint8_t value) {
  std::unique_lock lock(mutex_);
  const bool divisor = (line_control_ & line_divisor_access) != 0;
  switch (number) {
    case data:
      if (divisor) {
        divisor_ = static_cast<std::uint16_t>((divisor_ & 0xff00) | value);
      } else if ((modem_control_ & modem_loop) != 0) {
        if (fifo_.size() < fifo_size) {
          fifo_.push_back(std::byte{value});
        }
        transmitter_event_ = true;
      } else {
        // Without the lock: a full pipe must not keep other vCPUs from reading registers.
        lock.unlock();
        const std::byte byte{value};
        line_.send(std::span(&byte, 1));
        lock.lock();
        transmitter_event_ = true;
      }
      break;
    case interrupt_enable:
      if (divisor) {
        divisor_ = static_cast<std::uint16_t>((divisor_ & 0x00ff) | value << 8);
      } else {
        // Linux asks for this interrupt in order to be told that the transmitter is empty now.
        if ((value & ~interrupt_enable_ & enable_transmitter) != 0) {
          transmitter_event_ = true;
        }
        interrupt_enable_ = value & 0x0f;
      }
      break;
    case fifo_control:
      fifo_enabled_ = (value & fifo_enable) != 0;
      if ((value & fifo_clear_received) != 0) {
        fifo_.clear();
      }
      break;
    case line_control:
      line_control_ = value;
      break;
    case modem_control:
      modem_control_ = value & 0x1f;
      break;
    case scratch:
      scratch_ = value;
      break;
    default:  // The others only tell.
      break;
  }
  fetch_input();
  update_interrupt();
}

std::uint8_t Serial16550::receive() {
  if (fifo_.empty()) {
    return 0;
  }
  const std::byte byte = fifo_.front();
  fifo_.pop_front();
  fetch_input();
  return std::to_integer<std::uint8_t>(byte);
}

void Serial16550::fetch_input() {
  if ((modem_control_ & (modem_request_to_send | modem_loop)) != modem_request_to_send) {
    return;
  }
  const std::size_t room = fifo_enabled_ ? fifo_size : 1;
  std::array<std::byte, fifo_size> bytes;
  if (fifo_.size() < room) {
    const std::size_t count = line_.take(std::span(bytes).first(room - fifo_.size()));
    fifo_.insert(fifo_.end(), bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(count));
  }
}

/// The most urgent interrupt that there is.
std::uint8_t Serial16550::identify_interrupt() const {
  if ((interrupt_enable_ & enable_received) != 0 && !fifo_.empty()) {
    return identity_received;
  }
  if ((interrupt_enable_ & enable_transmitter) != 0 && transmitter_event_) {
    return identity_transmitter;
  }
  return identity_none;
}

std::uint8_t Serial16550::modem_status() const {
  if ((modem_control_ & modem_loop) == 0) {
    return status_connected;
  }
  // The outputs come back as inputs: RTS as clear to send, DTR as data set ready, OUT1 as ring and
  // OUT2 as carrier.
  const unsigned outputs = modem_control_;
  return static_cast<std::uint8_t>((outputs & modem_request_to_send) << 3 |
                                   (outputs & modem_data_terminal_ready) << 5 |
                                   (outputs & 0x0c) << 4);
}

void Serial16550::update_interrupt() {
  const bool level = identify_interrupt() != identity_none;
  if (std::exchange(level_, level) != level) {
    interrupt_(level);
  }
}

}  // namespace tinyvmm
