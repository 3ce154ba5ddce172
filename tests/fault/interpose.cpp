// SPDX-License-Identifier: MIT
#include "interpose.hpp"

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdarg>
#include <cstdlib>
#include <map>
#include <mutex>
#include <type_traits>
#include <utility>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

namespace fault {
namespace {

struct Recording {
  std::vector<Rule> rules;
  std::vector<Call> calls;
  std::size_t injected = 0;
};

constinit thread_local Recording* recording = nullptr;
constinit thread_local std::size_t last_injected = 0;
std::array<std::atomic<std::size_t>, function_count> counters;

// Never destroyed: handles may outlive this file's statics.
std::mutex& mappings_mutex() {
  static auto& mutex = *new std::mutex;
  return mutex;
}
std::map<const void*, std::size_t>& mappings() {
  static auto& map = *new std::map<const void*, std::size_t>;
  return map;
}

/// The rule that is to change this call, if any.
const Rule* record(const Call& call) {
  counters[static_cast<std::size_t>(call.function)].fetch_add(1, std::memory_order_relaxed);
  Recording* const current = recording;
  if (current == nullptr) {
    return nullptr;
  }
  const int saved = errno;
  const std::size_t index = current->calls.size();
  current->calls.push_back(call);
  const Rule* found = nullptr;
  for (Rule& rule : current->rules) {
    if (rule.times > 0 && rule.matches(call, index)) {
      --rule.times;
      ++current->injected;
      found = &rule;
      break;
    }
  }
  errno = saved;
  return found;
}

/// Makes the call, or fails it.
template <class F>
auto intercept(const Call& call, F&& real) -> decltype(real()) {
  using R = decltype(real());
  const Rule* const rule = record(call);
  if (rule == nullptr) {
    return real();
  }
  const bool works_anyway = call.function == Function::close || call.function == Function::munmap;
  if (works_anyway) {
    real();
  }
  if (rule->error_number == 0) {
    if constexpr (std::is_pointer_v<R>) {
      return reinterpret_cast<R>(rule->result);
    } else {
      return static_cast<R>(rule->result);
    }
  }
  if constexpr (std::is_integral_v<R>) {
    if (call.function == Function::pthread_sigmask) {  // It returns the errno.
      return static_cast<R>(rule->error_number);
    }
  }
  errno = rule->error_number;
  if constexpr (std::is_pointer_v<R>) {
    return reinterpret_cast<R>(MAP_FAILED);
  } else {
    return static_cast<R>(-1);
  }
}

}  // namespace

const char* name(Function function) {
  constexpr const char* names[function_count] = {
      "open",      "close",           "read",      "stat",      "ioctl",   "fcntl",
      "mmap",      "munmap",          "madvise",   "getpid",    "syscall", "sysconf",
      "sigaction", "pthread_sigmask", "readv",     "writev",    "preadv",  "pwritev",
      "fstat",     "fstatfs",         "ftruncate", "fallocate", "mprotect"};
  return names[static_cast<std::size_t>(function)];
}

void arm(std::vector<Rule> rules) {
  if (recording != nullptr) {
    std::abort();
  }
  auto* const fresh = new Recording;
  fresh->rules = std::move(rules);
  fresh->calls.reserve(64);
  recording = fresh;
}

std::vector<Call> disarm() {
  Recording* const done = std::exchange(recording, nullptr);
  if (done == nullptr) {
    std::abort();
  }
  last_injected = done->injected;
  std::vector<Call> calls = std::move(done->calls);
  delete done;
  return calls;
}

Unobserved::Unobserved() : recording_(std::exchange(recording, nullptr)) {}
Unobserved::~Unobserved() { recording = static_cast<Recording*>(recording_); }

std::size_t injected() { return recording != nullptr ? recording->injected : last_injected; }

std::size_t calls(Function function) {
  return counters[static_cast<std::size_t>(function)].load(std::memory_order_relaxed);
}

std::size_t live_mappings() {
  const std::lock_guard lock(mappings_mutex());
  return mappings().size();
}

bool is_mapped(const void* address) {
  const std::lock_guard lock(mappings_mutex());
  return mappings().contains(address);
}

namespace {

template <class F>
void* map(void* address, std::size_t size, F&& real) {
  void* const result = intercept(Call{Function::mmap, size, 0}, real);
  if (result != MAP_FAILED && address == nullptr) {
    const std::lock_guard lock(mappings_mutex());
    mappings()[result] = size;
  }
  return result;
}

// An argument of open is only there with these flags.
bool takes_mode(int flags) { return (flags & O_CREAT) != 0 || (flags & O_TMPFILE) == O_TMPFILE; }

}  // namespace
}  // namespace fault

// The linker gives every call of x() to __wrap_x(), and __real_x() is x().
// A spelling that the C library lacks stays unresolved and is never called.
#define KVM_HPP_REAL(result, function, ...) \
  extern "C" __attribute__((weak)) result real_##function(__VA_ARGS__) asm("__real_" #function);
#define KVM_HPP_WRAP(result, function, ...)                                         \
  extern "C" result wrap_##function(__VA_ARGS__) noexcept asm("__wrap_" #function); \
  extern "C" result wrap_##function(__VA_ARGS__) noexcept

using fault::Call;
using fault::Function;
using fault::intercept;

#define KVM_HPP_OPEN(function)                                            \
  KVM_HPP_REAL(int, function, const char*, int, ...)                      \
  KVM_HPP_WRAP(int, function, const char* path, int flags, ...) {         \
    mode_t mode = 0;                                                      \
    if (fault::takes_mode(flags)) {                                       \
      va_list arguments;                                                  \
      va_start(arguments, flags);                                         \
      mode = va_arg(arguments, mode_t);                                   \
      va_end(arguments);                                                  \
    }                                                                     \
    return intercept(Call{Function::open, 0, 0},                          \
                     [&] { return real_##function(path, flags, mode); }); \
  }
KVM_HPP_OPEN(open)
KVM_HPP_OPEN(open64)

#define KVM_HPP_OPEN_2(function)                                                                \
  KVM_HPP_REAL(int, function, const char*, int)                                                 \
  KVM_HPP_WRAP(int, function, const char* path, int flags) {                                    \
    return intercept(Call{Function::open, 0, 0}, [&] { return real_##function(path, flags); }); \
  }
KVM_HPP_OPEN_2(__open_2)
KVM_HPP_OPEN_2(__open64_2)

KVM_HPP_REAL(int, close, int)
KVM_HPP_WRAP(int, close, int fd) {
  return intercept(Call{Function::close, static_cast<unsigned long>(fd), 0},
                   [&] { return real_close(fd); });
}

KVM_HPP_REAL(ssize_t, read, int, void*, std::size_t)
KVM_HPP_WRAP(ssize_t, read, int fd, void* buffer, std::size_t size) {
  return intercept(Call{Function::read, size, 0}, [&] { return real_read(fd, buffer, size); });
}
KVM_HPP_REAL(ssize_t, __read_chk, int, void*, std::size_t, std::size_t)
KVM_HPP_WRAP(ssize_t, __read_chk, int fd, void* buffer, std::size_t size, std::size_t room) {
  return intercept(Call{Function::read, size, 0},
                   [&] { return real___read_chk(fd, buffer, size, room); });
}

#define KVM_HPP_VECTOR(function)                                                  \
  KVM_HPP_REAL(ssize_t, function, int, const void*, int)                          \
  KVM_HPP_WRAP(ssize_t, function, int fd, const void* parts, int count) {         \
    return intercept(Call{Function::function, static_cast<unsigned long>(fd), 0}, \
                     [&] { return real_##function(fd, parts, count); });          \
  }
KVM_HPP_VECTOR(readv)
KVM_HPP_VECTOR(writev)

#define KVM_HPP_VECTOR_AT(function, which)                                                \
  KVM_HPP_REAL(ssize_t, function, int, const void*, int, off64_t)                         \
  KVM_HPP_WRAP(ssize_t, function, int fd, const void* parts, int count, off64_t offset) { \
    return intercept(Call{Function::which, static_cast<unsigned long>(fd), 0},            \
                     [&] { return real_##function(fd, parts, count, offset); });          \
  }
KVM_HPP_VECTOR_AT(preadv, preadv)
KVM_HPP_VECTOR_AT(preadv64, preadv)
KVM_HPP_VECTOR_AT(pwritev, pwritev)
KVM_HPP_VECTOR_AT(pwritev64, pwritev)

#define KVM_HPP_STAT(function)                                                                \
  KVM_HPP_REAL(int, function, const char*, void*)                                             \
  KVM_HPP_WRAP(int, function, const char* path, void* out) {                                  \
    return intercept(Call{Function::stat, 0, 0}, [&] { return real_##function(path, out); }); \
  }
KVM_HPP_STAT(stat)
KVM_HPP_STAT(stat64)

#define KVM_HPP_XSTAT(function)                                            \
  KVM_HPP_REAL(int, function, int, const char*, void*)                     \
  KVM_HPP_WRAP(int, function, int version, const char* path, void* out) {  \
    return intercept(Call{Function::stat, 0, 0},                           \
                     [&] { return real_##function(version, path, out); }); \
  }
KVM_HPP_XSTAT(__xstat)
KVM_HPP_XSTAT(__xstat64)

#define KVM_HPP_FSTAT(function, which)                                                       \
  KVM_HPP_REAL(int, function, int, void*)                                                    \
  KVM_HPP_WRAP(int, function, int fd, void* out) {                                           \
    return intercept(Call{Function::which, 0, 0}, [&] { return real_##function(fd, out); }); \
  }
KVM_HPP_FSTAT(fstat, fstat)
KVM_HPP_FSTAT(fstat64, fstat)
KVM_HPP_FSTAT(fstatfs, fstatfs)
KVM_HPP_FSTAT(fstatfs64, fstatfs)

#define KVM_HPP_FXSTAT(function)                                         \
  KVM_HPP_REAL(int, function, int, int, void*)                           \
  KVM_HPP_WRAP(int, function, int version, int fd, void* out) {          \
    return intercept(Call{Function::fstat, 0, 0},                        \
                     [&] { return real_##function(version, fd, out); }); \
  }
KVM_HPP_FXSTAT(__fxstat)
KVM_HPP_FXSTAT(__fxstat64)

#define KVM_HPP_FTRUNCATE(function)                                                  \
  KVM_HPP_REAL(int, function, int, off64_t)                                          \
  KVM_HPP_WRAP(int, function, int fd, off64_t size) {                                \
    return intercept(Call{Function::ftruncate, static_cast<unsigned long>(size), 0}, \
                     [&] { return real_##function(fd, size); });                     \
  }
KVM_HPP_FTRUNCATE(ftruncate)
KVM_HPP_FTRUNCATE(ftruncate64)

#define KVM_HPP_FALLOCATE(function)                                                  \
  KVM_HPP_REAL(int, function, int, int, off64_t, off64_t)                            \
  KVM_HPP_WRAP(int, function, int fd, int mode, off64_t offset, off64_t size) {      \
    return intercept(Call{Function::fallocate, static_cast<unsigned long>(mode), 0}, \
                     [&] { return real_##function(fd, mode, offset, size); });       \
  }
KVM_HPP_FALLOCATE(fallocate)
KVM_HPP_FALLOCATE(fallocate64)

KVM_HPP_REAL(int, ioctl, int, unsigned long, ...)
KVM_HPP_WRAP(int, ioctl, int fd, unsigned long request, ...) {
  va_list arguments;
  va_start(arguments, request);
  const auto argument = va_arg(arguments, unsigned long);
  va_end(arguments);
  return intercept(Call{Function::ioctl, request, argument},
                   [&] { return real_ioctl(fd, request, argument); });
}

#define KVM_HPP_FCNTL(function)                                                            \
  KVM_HPP_REAL(int, function, int, int, ...)                                               \
  KVM_HPP_WRAP(int, function, int fd, int command, ...) {                                  \
    va_list arguments;                                                                     \
    va_start(arguments, command);                                                          \
    const auto argument = va_arg(arguments, unsigned long);                                \
    va_end(arguments);                                                                     \
    return intercept(Call{Function::fcntl, static_cast<unsigned long>(command), argument}, \
                     [&] { return real_##function(fd, command, argument); });              \
  }
KVM_HPP_FCNTL(fcntl)
KVM_HPP_FCNTL(fcntl64)

#define KVM_HPP_MMAP(function)                                                              \
  KVM_HPP_REAL(void*, function, void*, std::size_t, int, int, int, off64_t)                 \
  KVM_HPP_WRAP(void*, function, void* address, std::size_t size, int protection, int flags, \
               int fd, off64_t offset) {                                                    \
    return fault::map(address, size, [&] {                                                  \
      return real_##function(address, size, protection, flags, fd, offset);                 \
    });                                                                                     \
  }
KVM_HPP_MMAP(mmap)
KVM_HPP_MMAP(mmap64)

KVM_HPP_REAL(int, munmap, void*, std::size_t)
KVM_HPP_WRAP(int, munmap, void* address, std::size_t size) {
  {
    const std::lock_guard lock(fault::mappings_mutex());
    const auto found = fault::mappings().find(address);
    if (found != fault::mappings().end() && found->second == size) {
      fault::mappings().erase(found);
    }
  }
  return intercept(Call{Function::munmap, size, 0}, [&] { return real_munmap(address, size); });
}

KVM_HPP_REAL(int, madvise, void*, std::size_t, int)
KVM_HPP_WRAP(int, madvise, void* address, std::size_t size, int advice) {
  return intercept(Call{Function::madvise, static_cast<unsigned long>(advice), 0},
                   [&] { return real_madvise(address, size, advice); });
}

KVM_HPP_REAL(int, mprotect, void*, std::size_t, int)
KVM_HPP_WRAP(int, mprotect, void* address, std::size_t size, int protection) {
  return intercept(Call{Function::mprotect, static_cast<unsigned long>(protection), 0},
                   [&] { return real_mprotect(address, size, protection); });
}

KVM_HPP_REAL(pid_t, getpid)
KVM_HPP_WRAP(pid_t, getpid) {
  return intercept(Call{Function::getpid, 0, 0}, [] { return real_getpid(); });
}

KVM_HPP_REAL(long, syscall, long, ...)
KVM_HPP_WRAP(long, syscall, long number, ...) {
  va_list arguments;
  va_start(arguments, number);
  unsigned long a[6];
  for (unsigned long& argument : a) {
    argument = va_arg(arguments, unsigned long);
  }
  va_end(arguments);
  return intercept(Call{Function::syscall, static_cast<unsigned long>(number), a[0], a[1]},
                   [&] { return real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]); });
}

KVM_HPP_REAL(long, sysconf, int)
KVM_HPP_WRAP(long, sysconf, int which) {
  return intercept(Call{Function::sysconf, static_cast<unsigned long>(which), 0},
                   [&] { return real_sysconf(which); });
}

KVM_HPP_REAL(int, sigaction, int, const void*, void*)
KVM_HPP_WRAP(int, sigaction, int signal, const void* action, void* old) {
  return intercept(Call{Function::sigaction, static_cast<unsigned long>(signal), 0},
                   [&] { return real_sigaction(signal, action, old); });
}

KVM_HPP_REAL(int, pthread_sigmask, int, const void*, void*)
KVM_HPP_WRAP(int, pthread_sigmask, int how, const void* set, void* old) {
  return intercept(Call{Function::pthread_sigmask, static_cast<unsigned long>(how), 0},
                   [&] { return real_pthread_sigmask(how, set, old); });
}
