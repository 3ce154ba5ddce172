// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_DETAIL_SYSCALLS_HPP
#define KVM_HPP_DETAIL_SYSCALLS_HPP

#include <kvm/detail/config.hpp>

#include <csignal>
#include <cstddef>
#include <ctime>

#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/vfs.h>
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

// These four may transfer less than was asked for, as their namesakes do.
inline ssize_t readv(int fd, const struct ::iovec* parts, int count) noexcept {
  return ::readv(fd, parts, count);
}
inline ssize_t writev(int fd, const struct ::iovec* parts, int count) noexcept {
  return ::writev(fd, parts, count);
}
inline ssize_t preadv(int fd, const struct ::iovec* parts, int count, off_t offset) noexcept {
  return ::preadv(fd, parts, count, offset);
}
inline ssize_t pwritev(int fd, const struct ::iovec* parts, int count, off_t offset) noexcept {
  return ::pwritev(fd, parts, count, offset);
}

inline int stat(const char* path, struct ::stat* out) noexcept { return ::stat(path, out); }

inline int fstat(int fd, struct ::stat* out) noexcept { return ::fstat(fd, out); }

inline int fstatfs(int fd, struct ::statfs* out) noexcept { return ::fstatfs(fd, out); }

inline int ftruncate(int fd, off_t size) noexcept { return ::ftruncate(fd, size); }

/// @param mode the kernel's FALLOC_FL_* bits
inline int fallocate(int fd, int mode, off_t offset, off_t size) noexcept {
  return ::fallocate(fd, mode, offset, size);
}

/// A memory file. Not the C library's function, which old ones lack.
/// @param flags the kernel's MFD_* bits
inline int memfd_create(const char* name, unsigned flags) noexcept {
  return static_cast<int>(::syscall(SYS_memfd_create, name, flags));
}

/// MAP_FAILED on failure.
inline void* mmap(std::size_t size, int protection, int flags, int fd, off_t offset) noexcept {
  return ::mmap(nullptr, size, protection, flags, fd, offset);
}
/// At `address` in place of whatever is mapped there (MAP_FIXED).
inline void* mmap_at(void* address, std::size_t size, int protection, int flags, int fd,
                     off_t offset) noexcept {
  return ::mmap(address, size, protection, flags | MAP_FIXED, fd, offset);
}

inline int munmap(void* address, std::size_t size) noexcept { return ::munmap(address, size); }

inline int madvise(void* address, std::size_t size, int advice) noexcept {
  return ::madvise(address, size, advice);
}

inline int mprotect(void* address, std::size_t size, int protection) noexcept {
  return ::mprotect(address, size, protection);
}

/// Where the pages of a mapping are to come from.
/// @param mode  the kernel's MPOL_* number
/// @param nodes one bit per NUMA node
/// @param bits  how many of them count
inline int mbind(void* address, std::size_t size, int mode, const unsigned long* nodes,
                 std::size_t bits) noexcept {
  // The kernel takes one bit less than it is told.
  return static_cast<int>(
      ::syscall(SYS_mbind, address, size, static_cast<unsigned long>(mode), nodes, bits + 1, 0ul));
}

/// A second descriptor of the same file, close-on-exec.
inline int duplicate(int fd) noexcept { return ::fcntl(fd, F_DUPFD_CLOEXEC, 0); }

/// @param seals the kernel's F_SEAL_* bits
inline int add_seals(int fd, int seals) noexcept { return ::fcntl(fd, F_ADD_SEALS, seals); }
/// The file's F_SEAL_* bits, or -1, with EINVAL where it cannot be sealed.
inline int get_seals(int fd) noexcept { return ::fcntl(fd, F_GET_SEALS); }

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

/// Blocks the signals of `blocked` and no others in the calling thread, and says
/// which ones were. Returns 0 or an errno value.
inline int set_signal_mask(const ::sigset_t* blocked, ::sigset_t* before) noexcept {
  return ::pthread_sigmask(SIG_SETMASK, blocked, before);
}

/// The calling thread's blocked signals. Returns 0 or an errno value.
inline int get_signal_mask(::sigset_t* out) noexcept {
  return ::pthread_sigmask(SIG_BLOCK, nullptr, out);
}

// The rest are not the C library's, which are cancellation points: a thread
// cancelled there would unwind through what is noexcept, such as run().

/// An event counter (eventfd).
/// @param flags O_CLOEXEC and O_NONBLOCK, which are what EFD_* stand for
inline int eventfd(unsigned initial, int flags) noexcept {
  return static_cast<int>(::syscall(SYS_eventfd2, initial, flags));
}

inline ssize_t write(int fd, const void* buffer, std::size_t size) noexcept {
  return static_cast<ssize_t>(::syscall(SYS_write, fd, buffer, size));
}

/// Waits until one of the descriptors is ready. The kernel takes off `timeout`
/// what has passed (which the C library hides); null waits for ever.
inline int poll(struct ::pollfd* descriptors, std::size_t count,
                struct ::timespec* timeout) noexcept {
  return static_cast<int>(
      ::syscall(SYS_ppoll, descriptors, count, timeout, nullptr, std::size_t{0}));
}

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
