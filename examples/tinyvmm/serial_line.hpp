// SPDX-License-Identifier: MIT
#ifndef TINYVMM_SERIAL_LINE_HPP
#define TINYVMM_SERIAL_LINE_HPP

#include <cstddef>
#include <functional>
#include <span>

namespace tinyvmm {

/// What a serial port is connected to: the console, or a test. Any thread may call it.
class SerialLine {
 public:
  virtual ~SerialLine() = default;
  /// Passes on what the guest sent, and waits while it cannot.
  virtual void send(std::span<const std::byte> bytes) = 0;
  /// From now on send() does not wait any more: it drops what cannot be passed on at once.
  virtual void close() {}
  /// Takes what has come for the guest, oldest first, as much as there is and `bytes` has room for.
  /// @return how many bytes it was; never waits
  virtual std::size_t take(std::span<std::byte> bytes) = 0;
};

/// A wire to the interrupt controller: called with the level that a device gives it.
using InterruptLine = std::function<void(bool level)>;

}  // namespace tinyvmm

#endif
