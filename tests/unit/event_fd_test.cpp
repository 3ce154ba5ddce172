// SPDX-License-Identifier: MIT
#include <kvm/irq/event_fd.hpp>

#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include <fcntl.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "support/thread_sanitizer.hpp"

namespace {

using kvm::EventFd;
using kvm::Fd;
using namespace std::chrono_literals;

template <class T>
void expect_error(const kvm::Result<T>& result, int error_number, const char* operation,
                  const std::string& words) {
  ASSERT_FALSE(result.has_value());
  EXPECT_EQ(result.error().error_number(), error_number) << result.error().what();
  EXPECT_STREQ(result.error().operation(), operation);
  EXPECT_NE(std::string(result.error().what()).find(words), std::string::npos)
      << result.error().what();
}

TEST(EventFd, CountsUntilRead) {
  const EventFd event;
  EXPECT_EQ(event.read(), std::nullopt);
  event.signal();
  event.signal(41);
  EXPECT_EQ(event.read(), 42u);
  EXPECT_EQ(event.read(), std::nullopt);
  const auto started = EventFd::try_create(7);
  ASSERT_TRUE(started);
  EXPECT_EQ(started->read(), 7u);
}

TEST(EventFd, IsCloseOnExecAndNeverBlocks) {
  const EventFd event;
  EXPECT_EQ(::fcntl(event.fd(), F_GETFD), FD_CLOEXEC);
  EXPECT_NE(::fcntl(event.fd(), F_GETFL) & O_NONBLOCK, 0);
  EXPECT_EQ(::fcntl(event.duplicate().fd(), F_GETFD), FD_CLOEXEC);
}

TEST(EventFd, ADuplicateIsTheSameCounter) {
  std::optional<EventFd> event(std::in_place);
  const EventFd other = event->duplicate();
  EXPECT_NE(other.fd(), event->fd());
  event->signal(3);
  event.reset();
  EXPECT_EQ(other.read(), 3u);
}

TEST(EventFd, AFullCounterIsSignalledAlready) {
  constexpr std::uint64_t largest = std::numeric_limits<std::uint64_t>::max() - 1;
  const EventFd event;
  event.signal(largest);
  event.signal();
  EXPECT_EQ(event.read(), largest);
  expect_error(event.try_signal(largest + 1), EINVAL, "write", "2^64 - 2");
  EXPECT_EQ(event.read(), std::nullopt);
}

TEST(EventFd, WaitLeavesTheCount) {
  const EventFd event;
  EXPECT_FALSE(event.wait(0ns));
  EXPECT_FALSE(event.wait(-5s));
  EXPECT_FALSE(event.wait(1ms));
  event.signal(2);
  EXPECT_TRUE(event.wait(0ns));
  EXPECT_TRUE(event.wait(1h));
  event.wait();
  EXPECT_EQ(event.read(), 2u);
}

TEST(EventFd, WaitSeesASignalOfAnotherThread) {
  const EventFd event;
  const EventFd answer;
  std::thread other([&] {
    event.wait();
    event.read();
    answer.signal(9);
  });
  event.signal();
  EXPECT_TRUE(answer.wait(1min));
  EXPECT_EQ(answer.read(), 9u);
  other.join();
}

std::atomic<unsigned> alarms{0};

// A signal that the thread handles neither ends a wait nor begins it anew.
TEST(EventFdSerial, SignalsDoNotEndAWait) {
  struct ::sigaction action {};
  struct ::sigaction before {};
  action.sa_handler = [](int) { ++alarms; };
  ASSERT_EQ(::sigaction(SIGALRM, &action, &before), 0);
  ::timer_t timer;
  struct ::sigevent how {};
  how.sigev_notify = SIGEV_SIGNAL;
  how.sigev_signo = SIGALRM;
  ASSERT_EQ(::timer_create(CLOCK_MONOTONIC, &how, &timer), 0);
  // For ever: if each signal began the wait anew, it would never end.
  const struct ::itimerspec often {
    .it_interval = {.tv_sec = 0, .tv_nsec = 5'000'000}, .it_value = {
      .tv_sec = 0,
      .tv_nsec = 5'000'000
    }
  };
  ASSERT_EQ(::timer_settime(timer, 0, &often, nullptr), 0);
  // On a busy machine few of them come while the thread waits: until two did in one wait. Those
  // that thread sanitizer holds back reach the handler as one.
  const unsigned enough = kvm_test::thread_sanitizer ? 1 : 2;
  for (int tries = 0; tries < 100 && alarms < enough; ++tries) {
    alarms = 0;
    const auto start = std::chrono::steady_clock::now();
    EXPECT_FALSE(EventFd().wait(100ms));
    EXPECT_GE(std::chrono::steady_clock::now() - start, 100ms) << "a signal ended it";
  }
  EXPECT_GE(alarms.load(), enough) << "no wait saw as many signals";
  ::timer_delete(timer);
  ASSERT_EQ(::sigaction(SIGALRM, &before, nullptr), 0);
}

TEST(EventFd, AnotherDescriptorIsTakenOver) {
  const EventFd event(Fd(::eventfd(5, EFD_CLOEXEC | EFD_NONBLOCK)));
  EXPECT_EQ(event.read(), 5u);
}

TEST(EventFd, AnEmptyOneSaysSo) {
  EventFd event;
  const EventFd taken = std::move(event);
  EXPECT_EQ(event.fd(), -1);  // NOLINT(bugprone-use-after-move)
  expect_error(event.try_signal(), EBADF, "write", "moved from");
  expect_error(event.try_read(), EBADF, "read", "moved from");
  expect_error(event.try_wait(), EBADF, "ppoll", "moved from");
  expect_error(event.try_wait(1ms), EBADF, "ppoll", "moved from");
  expect_error(event.try_duplicate(), EBADF, "fcntl(F_DUPFD_CLOEXEC)", "moved from");
}

TEST(EventFd, AClosedDescriptorIsAnError) {
  const EventFd event;
  ASSERT_EQ(::close(event.fd()), 0);
  expect_error(event.try_wait(1ms), EBADF, "ppoll", "");
  expect_error(event.try_signal(), EBADF, "write", "");
  expect_error(event.try_read(), EBADF, "read", "");
  EXPECT_EQ(::fcntl(event.fd(), F_GETFD), -1);
  ASSERT_GE(::fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, event.fd()), 0);  // For its destructor.
}

}  // namespace
