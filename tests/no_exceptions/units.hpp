// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_TESTS_NO_EXCEPTIONS_UNITS_HPP
#define KVM_HPP_TESTS_NO_EXCEPTIONS_UNITS_HPP

#include <string>

/// @file
/// Two translation units with the same text (unit.inc), one compiled with
/// exceptions and one without, and what a third makes of them. Their interface
/// has none of kvm-hpp's types: those differ between the modes.

namespace units {

/// What a unit saw of an operation: "" for success, otherwise the message.
struct Seen {
  std::string message;
  std::string operation;
  int error_number = 0;
};

/// A unit's own names of types, which include the mode.
#define KVM_HPP_UNIT_INTERFACE                                            \
  bool exceptions();                                                      \
  /* Runs a guest that writes "ok" to a port. */                          \
  std::string run_guest();                                                \
  /* try_open of a file that is no KVM device. */                         \
  Seen try_open(const char* path);                                        \
  /* The same with what throws or aborts: caught where it can be. */      \
  Seen open(const char* path);                                            \
  /* Reads the value of a Result that has none. */                        \
  Seen value_of_failure();                                                \
  /* Makes a kicker in this unit stop a vCPU of it. */                    \
  bool kick();                                                            \
  /* From now on a failing x() writes "unit:MESSAGE" to the descriptor. */ \
  void set_handler(int fd);                                               \
  /* Back to the default. */                                              \
  void reset_handler();                                                   \
  const char* type_name();

namespace throwing {
KVM_HPP_UNIT_INTERFACE
}
namespace aborting {
KVM_HPP_UNIT_INTERFACE
}

}  // namespace units

#endif
