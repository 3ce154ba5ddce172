// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_DETAIL_BARRIERS_HPP
#define KVM_HPP_DETAIL_BARRIERS_HPP

#include <kvm/detail/config.hpp>
#include <kvm/detail/syscalls.hpp>

#include <atomic>
#include <cerrno>

/// @file
/// Fences between two sides of which one is in a hurry. The hot side has a
/// light_fence(), which costs nothing at run time; the other a heavy_fence(),
/// which lets the kernel run a full fence on every CPU that runs a thread of
/// this process. Together they order like two full fences: of
///
///     hot side          other side
///     a = 1             b = 1
///     light_fence()     heavy_fence()
///     read b            read a
///
/// at least one reads 1. Where the kernel refuses membarrier (an old sandbox's
/// seccomp filter), both sides need a full_fence().
///
/// a and b are to be atomics, be it relaxed ones: thread sanitizer sees no
/// fence, and no race either in accesses that are atomic.

KVM_HPP_BEGIN
namespace detail {

/// Orders all accesses before it against all after it, those of this CPU only.
/// Not atomic_thread_fence, which thread sanitizer does not know.
inline void full_fence() noexcept {
#if KVM_HPP_ARCH_X86
  asm volatile("mfence" ::: "memory");
#elif KVM_HPP_ARCH_ARM64
  asm volatile("dmb ish" ::: "memory");
#else
  asm volatile("fence rw, rw" ::: "memory");
#endif
}

/// The hot side's half of a heavy_fence(): the compiler keeps the order of the
/// accesses around it. No instruction.
inline void light_fence() noexcept { std::atomic_signal_fence(std::memory_order_seq_cst); }

/// Makes heavy_fence() possible (MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED).
/// Costs a system call even when repeated, so whoever has a hot side keeps the
/// answer. Remembering it here would be wrong in both directions: the kernel
/// forgets a registration when a process is checkpointed and restored, and a
/// seccomp filter can come and go with a thread. A forked child inherits it:
/// the kernel copies it with the rest of the address space's description.
/// @return whether the process is registered; if not, hot sides have to fence.
///         errno is kept.
[[gnu::cold]] inline bool register_membarrier() noexcept {
  constexpr int register_private_expedited = 1 << 4;
  const int saved_errno = errno;
  const bool registered = sys::membarrier(register_private_expedited) == 0;
  errno = saved_errno;
  return registered;
}

/// Orders all accesses of this thread before it against all after it, and does
/// the same to every other thread of the process, wherever that is at some
/// moment during the call (MEMBARRIER_CMD_PRIVATE_EXPEDITED). About 15 us if
/// another thread runs on another CPU, else a system call. From any thread,
/// and in a signal handler. errno is kept.
///
/// Refused in spite of a registration (no memory, a filter that came later), it
/// is a full_fence() and a sleep of a millisecond, by when what other threads
/// had stored has long left their store buffers.
/// @return whether membarrier did it
inline bool heavy_fence() noexcept {
  constexpr int private_expedited = 1 << 3;
  const int saved_errno = errno;
  for (int attempts = 3; attempts > 0; --attempts) {
    if (sys::membarrier(private_expedited) == 0) {
      errno = saved_errno;
      return true;
    }
    // ENOMEM: for its CPU mask. EPERM: the registration was lost by a checkpoint.
    if (errno != ENOMEM && (errno != EPERM || !register_membarrier())) {
      break;
    }
  }
  full_fence();
  sys::sleep_nanoseconds(1'000'000);
  errno = saved_errno;
  return false;
}

}  // namespace detail
KVM_HPP_END

#endif
