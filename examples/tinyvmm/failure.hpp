// SPDX-License-Identifier: MIT
#ifndef TINYVMM_FAILURE_HPP
#define TINYVMM_FAILURE_HPP

#include <stdexcept>

/// @file
/// What can go wrong, and how the program ends.

namespace tinyvmm {

/// Exit statuses. All are even: odd ones are the guest's own, through isa-debug-exit.
namespace status {
inline constexpr int powered_off = 0;  ///< the guest powered off, or the user left
inline constexpr int wrong_usage = 2;  ///< the command line makes no sense
inline constexpr int bad_image = 4;    ///< a file is missing, malformed or does not fit
inline constexpr int host_failed = 6;  ///< KVM or the host refused, or the console is gone
inline constexpr int reset = 8;        ///< the guest asked for a reset
inline constexpr int crashed = 10;     ///< the guest crashed: a triple fault, or a system event
inline constexpr int stuck = 12;  ///< KVM cannot go on with the guest: internal error and alike
}  // namespace status

/// A file is missing, malformed or does not fit into the machine.
struct BadImage : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace tinyvmm

#endif
