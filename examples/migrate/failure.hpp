// SPDX-License-Identifier: MIT
#ifndef MIGRATE_FAILURE_HPP
#define MIGRATE_FAILURE_HPP

#include <stdexcept>

/// @file
/// What can go wrong, by what it means for the guest.

namespace migrate {

/// How the program ends.
namespace status {
inline constexpr int done = 0;          ///< the guest has moved, and the proof holds
inline constexpr int failed = 1;        ///< it has not moved: the source still has it
inline constexpr int wrong_usage = 2;   ///< the command line makes no sense
inline constexpr int not_equal = 3;     ///< what arrived differs, or the guest found a fault in it
inline constexpr int unknown = 4;       ///< contact was lost while it was handed over
inline constexpr int unsupported = 77;  ///< this host lacks what was asked for
}  // namespace status

/// The migration failed; the guest stays where it was.
struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// The other side closed the connection, or does nothing any more.
struct PeerGone : Failure {
  using Failure::Failure;
};

/// The other side says that it failed, and why.
struct PeerFailed : Failure {
  using Failure::Failure;
};

/// What arrived is not what was sent, or the guest noticed something wrong.
struct NotEqual : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Whether the other side runs the guest cannot be known.
struct UnknownOutcome : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// This host lacks a capability.
struct Unsupported : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace migrate

#endif
