// SPDX-License-Identifier: MIT
#ifndef TINYVMM_CONSOLE_HPP
#define TINYVMM_CONSOLE_HPP

#include <kvm/irq/event_fd.hpp>

#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <span>
#include <string>
#include <thread>

#include "serial_line.hpp"

namespace tinyvmm {

/// Standard input and output as the far end of the guest's serial port.
class Console final : public SerialLine {
 public:
  /// What the console asks of the machine. Called by its own thread, `failed` by any.
  struct Events {
    std::function<void()> input;                         ///< there is something to take()
    std::function<void()> leave;                         ///< the user typed Ctrl-A x
    std::function<void(const std::string& why)> failed;  ///< the console cannot go on
  };

  /// @param interactive input comes from a terminal: Ctrl-A is special, and what is typed while
  ///                    nobody reads is dropped at some point rather than kept waiting
  Console(int input, int output, bool interactive)
      : input_(input), output_(output), interactive_(interactive) {}
  ~Console() override { stop(); }

  /// Begins to read input.
  void start(Events events);
  /// Ends the thread, and waits for it.
  void stop();

  void send(std::span<const std::byte> bytes) override;
  /// Ends reading as well.
  void close() override { closed_.signal(); }
  std::size_t take(std::span<std::byte> bytes) override;

 private:
  static constexpr std::size_t most_waiting = 4096;

  void work() noexcept;
  void read_input();
  /// False if the user wants to leave.
  bool accept(std::span<const std::byte> bytes);
  std::size_t waiting();

  const int input_;
  const int output_;
  const bool interactive_;
  Events events_{};
  bool escaped_ = false;  // The last byte was Ctrl-A.
  kvm::EventFd closed_{};
  kvm::EventFd room_{};  // There is room in the queue again.
  std::mutex output_mutex_{};
  std::mutex mutex_{};
  std::deque<std::byte> queue_{};  // under the mutex
  std::thread thread_{};
};

}  // namespace tinyvmm

#endif
