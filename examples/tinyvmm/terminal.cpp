// SPDX-License-Identifier: MIT
#include "terminal.hpp"

#include <array>
#include <atomic>
#include <csignal>

#include <termios.h>
#include <unistd.h>

namespace tinyvmm {
namespace {

/// What ends a process unless it is caught, from outside or by a mistake inside.
constexpr std::array fatal_signals = {
    SIGHUP,  SIGINT, SIGQUIT, SIGTERM, SIGPIPE, SIGALRM,   SIGILL,  SIGABRT, SIGBUS, SIGFPE,
    SIGSEGV, SIGSYS, SIGTRAP, SIGXCPU, SIGUSR2, SIGVTALRM, SIGPROF, SIGIO,   SIGPWR};

// A signal handler can only reach what is global.
::termios saved;  // Never changes while `raw`.
std::atomic<bool> raw{false};
static_assert(std::atomic<bool>::is_always_lock_free);

/// Safe in a signal handler, and in several threads at once: whoever returns finds it done.
void restore() {
  if (!raw) {
    return;
  }
  // A background process that sets the terminal is stopped, unless it blocks this.
  ::sigset_t background;
  ::sigset_t before;
  ::sigemptyset(&background);
  ::sigaddset(&background, SIGTTOU);
  ::pthread_sigmask(SIG_BLOCK, &background, &before);
  ::tcsetattr(STDIN_FILENO, TCSANOW, &saved);
  raw = false;
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

extern "C" void restore_and_die(int signal) {
  restore();
  // Now it ends the process, once this handler has returned. Not earlier (SA_RESETHAND): a second
  // one to another thread would not wait for the terminal.
  ::signal(signal, SIG_DFL);
  ::raise(signal);
}

}  // namespace

Terminal::Terminal() : present_(::isatty(STDIN_FILENO) == 1) {
  if (!present_ || ::tcgetattr(STDIN_FILENO, &saved) != 0) {
    return;
  }
  ::sigset_t all_fatal;
  ::sigemptyset(&all_fatal);
  for (const int signal : fatal_signals) {
    ::sigaddset(&all_fatal, signal);
  }
  for (const int signal : fatal_signals) {
    struct ::sigaction action {};
    ::sigaction(signal, nullptr, &action);
    if (action.sa_handler == SIG_DFL) {  // nohup ignores SIGHUP, main SIGPIPE: so be it.
      action.sa_handler = restore_and_die;
      action.sa_flags = 0;
      action.sa_mask = all_fatal;
      ::sigaction(signal, &action, nullptr);
    }
  }
  ::termios mode = saved;
  ::cfmakeraw(&mode);
  raw = true;  // First: a signal between the two restores what is there already.
  ::tcsetattr(STDIN_FILENO, TCSANOW, &mode);
}

Terminal::~Terminal() { restore(); }

}  // namespace tinyvmm
