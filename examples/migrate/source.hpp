// SPDX-License-Identifier: MIT
#ifndef MIGRATE_SOURCE_HPP
#define MIGRATE_SOURCE_HPP

#include <memory>

#include "connection.hpp"
#include "machine.hpp"
#include "options.hpp"

namespace migrate {

/// The machine with the guest that is to be sent, booted and running.
std::unique_ptr<Machine> run_source_guest(const Options& options);

/// Sends a running guest away (pre-copy): all of its memory while it runs, then again and again
/// what became dirty meanwhile, until that is little enough; then stops it, sends the rest and its
/// state, compares what arrived, and lets the other side run it.
///
/// If anything fails before that, the guest runs on here, and a Failure says why. NotEqual: what
/// arrived was not equal, and the guest runs on here; or it found a fault over there.
/// UnknownOutcome: contact was lost after it was handed over, so that it must not run here.
void send_guest(Machine& machine, Connection& connection, const Options& options);

}  // namespace migrate

#endif
