// SPDX-License-Identifier: MIT
#ifndef MIGRATE_DESTINATION_HPP
#define MIGRATE_DESTINATION_HPP

#include "connection.hpp"
#include "options.hpp"

namespace migrate {

/// Takes a guest from a connection and runs it until it has seen all of its memory again. Trusts
/// nothing that comes: every size, address and number is checked, and what it cannot judge KVM can.
void receive_guest(Connection& connection, const Options& options);

}  // namespace migrate

#endif
