// SPDX-License-Identifier: MIT
// Whatever ends tinyvmm, the terminal is left as it was found: driven through a pseudo-terminal.
#include <gtest/gtest.h>

#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstring>
#include <string>

#include "program.hpp"
#include "tinyvmm_images.hpp"

#if defined(__x86_64__)

namespace {

using images::Code;

/// tinyvmm with a terminal of its own, of which the test has both ends: so it stays what it is when
/// the program is gone.
class Session {
 public:
  explicit Session(const Code& code) {
    const std::string kernel = folder_.write("kernel", images::elf32(code));
    EXPECT_EQ(::openpty(&user_, &terminal_, nullptr, nullptr, nullptr), 0);
    EXPECT_EQ(::tcgetattr(terminal_, &before_), 0);
    process_ = ::fork();
    if (process_ == 0) {
      const ::rlimit no_core{0, 0};
      ::setrlimit(RLIMIT_CORE, &no_core);
      ::setsid();
      ::ioctl(terminal_, TIOCSCTTY, 0);
      for (const int fd : {0, 1, 2}) {
        ::dup2(terminal_, fd);
      }
      ::close(user_);
      ::close(terminal_);
      ::execl(EXAMPLE_TINYVMM, "tinyvmm", "--kernel", kernel.c_str(), nullptr);
      ::_exit(99);
    }
  }
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;
  ~Session() {
    if (process_ > 0) {
      ::kill(process_, SIGKILL);
      ::waitpid(process_, nullptr, 0);
    }
    ::close(user_);
    ::close(terminal_);
  }

  /// Reads until the text has come.
  bool wait_for(const std::string& text) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (seen_.find(text) == seen_.npos) {
      ::pollfd readable{user_, POLLIN, 0};
      if (std::chrono::steady_clock::now() > deadline) {
        ADD_FAILURE() << "it printed: " << seen_;
        return false;
      }
      if (::poll(&readable, 1, 100) > 0) {
        std::array<char, 256> buffer;
        const auto count = ::read(user_, buffer.data(), buffer.size());
        seen_.append(buffer.data(), count > 0 ? static_cast<std::size_t>(count) : 0);
      }
    }
    return true;
  }
  void type(const std::string& text) {
    EXPECT_EQ(::write(user_, text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }
  void send_signal(int signal) { EXPECT_EQ(::kill(process_, signal), 0); }
  /// Its exit status, or 128 and the signal that ended it; -1 if it does not end.
  int wait() {
    for (int tries = 0; tries < 3000; ++tries) {
      int raw = 0;
      if (::waitpid(process_, &raw, WNOHANG) == process_) {
        process_ = -1;
        return WIFEXITED(raw) ? WEXITSTATUS(raw) : 128 + WTERMSIG(raw);
      }
      ::usleep(10'000);
    }
    ADD_FAILURE() << "it does not end; it printed: " << seen_;
    return -1;
  }
  bool is_raw() const {
    ::termios now{};
    EXPECT_EQ(::tcgetattr(terminal_, &now), 0);
    return (now.c_lflag & (ICANON | ECHO | ISIG)) == 0 && (now.c_oflag & OPOST) == 0;
  }
  bool is_as_before() const {
    ::termios now{};
    EXPECT_EQ(::tcgetattr(terminal_, &now), 0);
    return now.c_iflag == before_.c_iflag && now.c_oflag == before_.c_oflag &&
           now.c_cflag == before_.c_cflag && now.c_lflag == before_.c_lflag &&
           std::memcmp(now.c_cc, before_.c_cc, sizeof now.c_cc) == 0;
  }

 private:
  images::Folder folder_;
  int user_ = -1;
  int terminal_ = -1;
  ::termios before_{};
  ::pid_t process_ = -1;
  std::string seen_;
};

class TinyvmmTerminal : public testing::Test {
 protected:
  void SetUp() override { SKIP_WITHOUT_KVM(EXAMPLE_TINYVMM); }

  /// Says that it is there, and waits for ever.
  static Code waits() { return Code().print("ready").halt(); }
};

TEST_F(TinyvmmTerminal, IsRestoredAfterASignal) {
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGSEGV, SIGABRT, SIGBUS, SIGUSR2,
                           SIGXCPU, SIGVTALRM, SIGPROF, SIGIO, SIGPWR}) {
    Session session(waits());
    ASSERT_TRUE(session.wait_for("ready"));
    EXPECT_TRUE(session.is_raw());
    session.send_signal(signal);
    EXPECT_EQ(session.wait(), 128 + signal);
    EXPECT_TRUE(session.is_as_before()) << "after signal " << signal;
  }
}

TEST_F(TinyvmmTerminal, IsRestoredWhenTheUserLeaves) {
  Session session(waits());
  ASSERT_TRUE(session.wait_for("ready"));
  EXPECT_TRUE(session.is_raw());
  session.type(
      "\x03\x1c\x1a more \x01y \x01");  // Keys that mean something to a terminal, not here.
  session.type("x");
  EXPECT_EQ(session.wait(), 0);
  EXPECT_TRUE(session.is_as_before());
}

TEST_F(TinyvmmTerminal, IsRestoredHoweverTheGuestEnds) {
  struct Case {
    Code code;
    int status;
  };
  for (const auto& [code, status] :
       {Case{Code().out16(0x604, 0x2000).halt(), 0}, Case{Code().out8(0x64, 0xfe).halt(), 8},
        Case{Code().exit(1), 3}}) {
    Session session(code);
    EXPECT_EQ(session.wait(), status);
    EXPECT_TRUE(session.is_as_before());
  }
  Session crash(Code().raw({0x0f, 0x0b}));
  const int status = crash.wait();
  EXPECT_TRUE(status == 10 || status == 12) << status;
  EXPECT_TRUE(crash.is_as_before());
  EXPECT_TRUE(crash.wait_for("cannot go on"));
}

TEST_F(TinyvmmTerminal, ControlATwiceIsForTheGuest) {
  // Echoes one higher, until it gets Ctrl-A.
  Session session(Code()
                      .out8(0x3fc, 3)
                      .print("ready")
                      .edx(0x3fd)
                      .raw({0xec, 0xa8, 0x01, 0x74, 0xf6})  // wait for input
                      .edx(0x3f8)
                      .raw({0xec, 0xfe, 0xc0, 0xee, 0xfe, 0xc8})  // in; inc al; out; dec al
                      .raw({0x3c, 0x01, 0x75, 0xe7})              // cmp al, 1; jne wait
                      .exit(2));
  ASSERT_TRUE(session.wait_for("ready"));
  session.type("a");
  EXPECT_TRUE(session.wait_for("b"));
  session.type("\x01\x01");
  EXPECT_EQ(session.wait(), 5);
}

TEST_F(TinyvmmTerminal, AUserWhoTypesAheadCanStillLeave) {
  Session session(waits());
  ASSERT_TRUE(session.wait_for("ready"));
  for (int i = 0; i < 20; ++i) {
    session.type(std::string(1000, 'k'));  // More than anybody keeps.
  }
  session.type("\x01x");
  EXPECT_EQ(session.wait(), 0);
}

}  // namespace

#endif
