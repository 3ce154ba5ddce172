// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_DETAIL_BACKOFF_HPP
#define KVM_HPP_DETAIL_BACKOFF_HPP

#include <kvm/detail/syscalls.hpp>

KVM_HPP_BEGIN
namespace detail {

/// Sleeps between two looks at what another thread is about to do. Longer each
/// time, up to a quarter of a millisecond: a real-time thread that woke up every
/// few microseconds would keep one of lower priority from its CPU for ever.
class Backoff {
 public:
  void sleep() noexcept {
    sys::sleep_nanoseconds(next_);
    slept_ += next_;
    if (next_ < longest) {
      next_ *= 2;
    }
  }
  /// For how long so far, at least, in nanoseconds.
  long slept() const noexcept { return slept_; }

 private:
  static constexpr long longest = 256'000;
  long next_ = 2'000;
  long slept_ = 0;
};

}  // namespace detail
KVM_HPP_END

#endif
