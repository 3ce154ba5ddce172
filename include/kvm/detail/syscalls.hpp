// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_DETAIL_SYSCALLS_HPP
#define KVM_HPP_DETAIL_SYSCALLS_HPP

#include <kvm/detail/config.hpp>

#include <cerrno>
#include <csignal>
#include <cstddef>
#include <ctime>

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/// @file
/// Every system call that the library makes, and nothing else. The fault tests
/// replace the C library's functions under these at link time.
///
/// They return what the C library returns; -1 means that errno is set.

KVM_HPP_BEGIN
namespace detail::sys {

inline int open(const char* path, int flags) noexcept { return ::open(path, flags | O_CLOEXEC); }

inline int close(int fd) noexcept { return ::close(fd); }

inline int ioctl(int fd, unsigned long request, unsigned long argument) noexcept {
  return ::ioctl(fd, request, argument);
}

inline ssize_t read(int fd, void* buffer, std::size_t size) noexcept {
  return ::read(fd, buffer, size);
}

inline int stat(const char* path, struct ::stat* out) noexcept { return ::stat(path, out); }

/// MAP_FAILED on failure.
inline void* mmap(std::size_t size, int protection, int flags, int fd, off_t offset) noexcept {
  return ::mmap(nullptr, size, protection, flags, fd, offset);
}

inline int munmap(void* address, std::size_t size) noexcept { return ::munmap(address, size); }

inline int madvise(void* address, std::size_t size, int advice) noexcept {
  return ::madvise(address, size, advice);
}

inline int set_cloexec(int fd) noexcept { return ::fcntl(fd, F_SETFD, FD_CLOEXEC); }

inline pid_t getpid() noexcept { return ::getpid(); }

inline pid_t gettid() noexcept { return static_cast<pid_t>(::syscall(SYS_gettid)); }

inline int tgkill(pid_t process, pid_t thread, int signal) noexcept {
  return static_cast<int>(::syscall(SYS_tgkill, process, thread, signal));
}

/// @param command the kernel's MEMBARRIER_CMD_* number
inline int membarrier(int command) noexcept {
  return static_cast<int>(::syscall(SYS_membarrier, command, 0, 0));
}

inline int get_signal_action(int signal, struct ::sigaction* out) noexcept {
  return ::sigaction(signal, nullptr, out);
}

/// The calling thread's blocked signals. Returns 0 or an errno value.
inline int get_signal_mask(::sigset_t* out) noexcept {
  return ::pthread_sigmask(SIG_BLOCK, nullptr, out);
}

// The next two are not the C library's, which are cancellation points: a thread
// cancelled there would unwind through run(), which is noexcept.

/// Takes one pending signal of the set without waiting; -1 if there is none.
inline int take_signal(const ::sigset_t* set) noexcept {
  const struct ::timespec now {};
  constexpr std::size_t kernel_set_size = 8;
  return static_cast<int>(::syscall(SYS_rt_sigtimedwait, set, nullptr, &now, kernel_set_size));
}

inline void sleep_nanoseconds(long nanoseconds) noexcept {
  const struct ::timespec duration { .tv_sec = 0, .tv_nsec = nanoseconds };
  ::syscall(SYS_nanosleep, &duration, nullptr);
}

inline std::size_t page_size() noexcept {
  return static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
}

}  // namespace detail::sys
KVM_HPP_END

#endif
