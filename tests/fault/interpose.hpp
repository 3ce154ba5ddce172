// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_TESTS_FAULT_INTERPOSE_HPP
#define KVM_HPP_TESTS_FAULT_INTERPOSE_HPP

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

/// @file
/// The C library's functions that the library calls, replaced at link time:
/// they count, and fail when told to. Only the thread that armed them sees
/// failures. Knows nothing of kvm-hpp.

namespace fault {

enum class Function {
  open,
  close,
  read,
  stat,
  ioctl,
  fcntl,
  mmap,
  munmap,
  madvise,
  getpid,
  syscall,
  sysconf,
  sigaction,
  pthread_sigmask,
  readv,
  writev,
  preadv,
  pwritev,
  fstat,
  fstatfs,
  ftruncate,
  fallocate,
  mprotect,
};
inline constexpr std::size_t function_count = 23;

const char* name(Function function);

/// One call that was made.
struct Call {
  Function function;
  /// The ioctl's request, the system call's number, the madvise's advice, the
  /// fcntl's command, the mmap's and munmap's size.
  unsigned long detail = 0;
  /// The ioctl's argument, the system call's first one.
  unsigned long argument = 0;
  /// The system call's second one.
  unsigned long second = 0;

  bool is_ioctl(unsigned long request) const {
    return function == Function::ioctl && detail == request;
  }
};

/// Which calls fail, and how.
struct Rule {
  /// Asked for each call, with its place in the order of calls since arm().
  std::function<bool(const Call&, std::size_t)> matches;
  /// What errno becomes. A close or munmap that fails does its work all the
  /// same, as the kernel's do.
  int error_number = 0;
  /// How many matching calls are affected.
  int times = 1;
  /// With no errno: what the call returns instead of being made.
  long result = 0;
};

/// From now on this thread's calls are recorded, and fail as the rules say.
void arm(std::vector<Rule> rules = {});
/// Ends that. Returns the calls made since arm().
std::vector<Call> disarm();
/// How many calls the rules changed between the last arm() and disarm().
std::size_t injected();

/// While one lives, this thread's calls are neither recorded nor failed: for
/// what a test itself does between arm() and disarm().
class Unobserved {
 public:
  Unobserved();
  ~Unobserved();
  Unobserved(const Unobserved&) = delete;
  Unobserved& operator=(const Unobserved&) = delete;

 private:
  void* recording_;
};

/// The calls of a function by any thread since the program began.
std::size_t calls(Function function);

/// The mappings that were made and are not unmapped yet.
std::size_t live_mappings();
/// Whether a mapping begins at this address.
bool is_mapped(const void* address);

}  // namespace fault

#endif
