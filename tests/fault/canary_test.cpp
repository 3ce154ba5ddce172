// SPDX-License-Identifier: MIT
#include "interpose.hpp"

#include <kvm/detail/syscalls.hpp>

#include <gtest/gtest.h>

#include <csignal>
#include <cstddef>
#include <cstdint>
#include <set>

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/stat.h>

// That the library's system calls are really replaced: each function of detail::sys moves the
// counter of the one that it stands for. The symbol check beside this proves that there are no
// others.

namespace {

namespace sys = kvm::detail::sys;
using fault::Function;

std::set<Function>& seen() {
  static std::set<Function> functions;
  return functions;
}

template <class F>
void expect_counted(Function function, F&& call) {
  const std::size_t before = fault::calls(function);
  fault::arm();
  call();
  const auto calls = fault::disarm();
  EXPECT_EQ(fault::calls(function), before + 1) << fault::name(function) << " is not intercepted";
  ASSERT_EQ(calls.size(), 1u) << fault::name(function);
  EXPECT_EQ(calls.front().function, function);
  seen().insert(function);
}

TEST(Canary, EveryCallIsIntercepted) {
  int fd = -1;
  expect_counted(Function::open, [&] { fd = sys::open("/dev/null", O_RDONLY); });
  ASSERT_GE(fd, 0);
  char byte = 0;
  expect_counted(Function::read, [&] { EXPECT_EQ(sys::read(fd, &byte, 1), 0); });
  expect_counted(Function::ioctl, [&] { EXPECT_EQ(sys::ioctl(fd, 0, 0), -1); });
  expect_counted(Function::fcntl, [&] { EXPECT_EQ(sys::set_cloexec(fd), 0); });
  expect_counted(Function::close, [&] { EXPECT_EQ(sys::close(fd), 0); });
  struct ::stat status {};
  expect_counted(Function::stat, [&] { EXPECT_EQ(sys::stat("/dev/null", &status), 0); });
  EXPECT_TRUE(S_ISCHR(status.st_mode));

  int memory = -1;
  expect_counted(Function::syscall, [&] { memory = sys::memfd_create("canary", 3); });
  ASSERT_GE(memory, 0);
  expect_counted(Function::ftruncate, [&] { EXPECT_EQ(sys::ftruncate(memory, 1 << 16), 0); });
  expect_counted(Function::fallocate, [&] { EXPECT_EQ(sys::fallocate(memory, 0, 0, 1), 0); });
  status = {};
  expect_counted(Function::fstat, [&] { EXPECT_EQ(sys::fstat(memory, &status), 0); });
  EXPECT_EQ(status.st_size, 1 << 16);
  struct ::statfs file_system {};
  expect_counted(Function::fstatfs, [&] { EXPECT_EQ(sys::fstatfs(memory, &file_system), 0); });
  EXPECT_NE(file_system.f_type, 0);
  char bytes[2] = {1, 2};
  const struct ::iovec parts[2] = {{.iov_base = &bytes[0], .iov_len = 1},
                                   {.iov_base = &bytes[1], .iov_len = 1}};
  expect_counted(Function::writev, [&] { EXPECT_EQ(sys::writev(memory, parts, 2), 2); });
  expect_counted(Function::pwritev, [&] { EXPECT_EQ(sys::pwritev(memory, parts, 2, 2), 2); });
  expect_counted(Function::readv, [&] { EXPECT_EQ(sys::readv(memory, parts, 2), 2); });
  EXPECT_EQ(bytes[0], 1);
  expect_counted(Function::preadv, [&] { EXPECT_EQ(sys::preadv(memory, parts, 2, 1), 2); });
  EXPECT_EQ(bytes[0], 2);
  EXPECT_EQ(bytes[1], 1);
  int copy = -1;
  expect_counted(Function::fcntl, [&] { copy = sys::duplicate(memory); });
  EXPECT_EQ(::fcntl(copy, F_GETFD), FD_CLOEXEC);
  constexpr int seal_shrink = 2;
  expect_counted(Function::fcntl, [&] { EXPECT_EQ(sys::add_seals(memory, seal_shrink), 0); });
  expect_counted(Function::fcntl, [&] { EXPECT_EQ(sys::get_seals(copy), seal_shrink); });
  ::close(copy);
  ::close(memory);

  std::size_t page = 0;
  expect_counted(Function::sysconf, [&] { page = sys::page_size(); });
  void* address = nullptr;
  expect_counted(Function::mmap, [&] {
    address = sys::mmap(page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  });
  ASSERT_NE(address, MAP_FAILED);
  EXPECT_TRUE(fault::is_mapped(address));
  expect_counted(Function::madvise,
                 [&] { EXPECT_EQ(sys::madvise(address, page, MADV_DONTFORK), 0); });
  expect_counted(Function::mmap, [&] {
    EXPECT_EQ(
        sys::mmap_at(address, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
        address);
  });
  expect_counted(Function::mprotect,
                 [&] { EXPECT_EQ(sys::mprotect(address, page, PROT_READ), 0); });
  const unsigned long nodes[1] = {0};
  constexpr int mpol_default = 0;
  expect_counted(Function::syscall, [&] { sys::mbind(address, page, mpol_default, nodes, 64); });
  expect_counted(Function::munmap, [&] { EXPECT_EQ(sys::munmap(address, page), 0); });
  EXPECT_FALSE(fault::is_mapped(address));

  pid_t process = 0;
  pid_t thread = 0;
  expect_counted(Function::getpid, [&] { process = sys::getpid(); });
  expect_counted(Function::syscall, [&] { thread = sys::gettid(); });
  EXPECT_EQ(process, thread);
  expect_counted(Function::syscall, [&] { EXPECT_EQ(sys::tgkill(process, thread, 0), 0); });
  expect_counted(Function::syscall, [&] { sys::membarrier(0); });

  struct ::sigaction action {};
  expect_counted(Function::sigaction,
                 [&] { EXPECT_EQ(sys::get_signal_action(SIGUSR2, &action), 0); });
  ::sigset_t set;
  expect_counted(Function::pthread_sigmask, [&] { EXPECT_EQ(sys::get_signal_mask(&set), 0); });
  ::sigemptyset(&set);
  expect_counted(Function::syscall, [&] { EXPECT_EQ(sys::take_signal(&set), -1); });
  expect_counted(Function::syscall, [&] { sys::sleep_nanoseconds(1); });
  int event = -1;
  expect_counted(Function::syscall, [&] { event = sys::eventfd(0, O_CLOEXEC | O_NONBLOCK); });
  ASSERT_GE(event, 0);
  EXPECT_EQ(::fcntl(event, F_GETFD), FD_CLOEXEC);
  const std::uint64_t one = 1;
  expect_counted(Function::syscall, [&] { EXPECT_EQ(sys::write(event, &one, sizeof one), 8); });
  struct ::pollfd waited {
    .fd = event, .events = POLLIN, .revents = 0
  };
  expect_counted(Function::syscall, [&] { EXPECT_EQ(sys::poll(&waited, 1, nullptr), 1); });
  ::close(event);

  EXPECT_EQ(seen().size(), fault::function_count);
}

TEST(Canary, FailuresReachOnlyTheirThread) {
  fault::arm(
      {{.matches = [](const fault::Call&, std::size_t) { return true; }, .error_number = EMFILE}});
  EXPECT_EQ(sys::open("/dev/null", O_RDONLY), -1);
  EXPECT_EQ(errno, EMFILE);
  fault::disarm();
  const int fd = sys::open("/dev/null", O_RDONLY);
  EXPECT_GE(fd, 0);
  // A close that fails has closed.
  fault::arm(
      {{.matches = [](const fault::Call&, std::size_t) { return true; }, .error_number = EIO}});
  EXPECT_EQ(sys::close(fd), -1);
  fault::disarm();
  EXPECT_EQ(::fcntl(fd, F_GETFD), -1);
}

}  // namespace
