// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_TESTS_FAULT_ERRNOS_HPP
#define KVM_HPP_TESTS_FAULT_ERRNOS_HPP

#include "interpose.hpp"

#include <string>
#include <vector>

/// @file
/// What each call can fail with.

namespace fault {

/// How the library speaks of a call: the ioctl's name, or the system call's.
std::string operation_of(const Call& call);

/// The errnos that this call can give; empty if it can't fail.
std::vector<int> errnos_of(const Call& call);

/// "KVM_CREATE_VM fails with ENOMEM".
std::string describe(const Call& call, int error_number);

}  // namespace fault

#endif
