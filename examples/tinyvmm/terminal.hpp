// SPDX-License-Identifier: MIT
#ifndef TINYVMM_TERMINAL_HPP
#define TINYVMM_TERMINAL_HPP

namespace tinyvmm {

/// Puts the terminal at standard input, if there is one, into raw mode: each key goes to the guest
/// as it is typed. Puts it back when dropped, and also before the process dies from a signal, be it
/// of a user or of a crash. One at a time.
class Terminal {
 public:
  Terminal();
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;
  ~Terminal();

  /// Whether standard input is a terminal.
  bool present() const { return present_; }

 private:
  bool present_;
};

}  // namespace tinyvmm

#endif
