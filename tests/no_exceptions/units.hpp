// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_TESTS_NO_EXCEPTIONS_UNITS_HPP
#define KVM_HPP_TESTS_NO_EXCEPTIONS_UNITS_HPP

#include <string>

/// @file
/// Translation units with the same text (unit.inc), compiled with and without
/// exceptions and run-time type information, and linked into one program. Their
/// interface has none of kvm-hpp's types: those differ between the modes.

namespace units {

/// What a unit saw of an operation: no message means success.
struct Seen {
  std::string message;
  std::string operation;
  int error_number = 0;
};

/// What each unit can do.
#define KVM_HPP_UNIT_INTERFACE                                             \
  bool exceptions();                                                       \
  /* Runs a guest that writes "ok" to a port. */                           \
  std::string run_guest();                                                 \
  /* try_open of a file that is no KVM device. */                          \
  Seen try_open(const char* path);                                         \
  /* The same with what throws or aborts: caught where it can be. */       \
  Seen open(const char* path);                                             \
  /* Reads the value of a Result that has none. */                         \
  Seen value_of_failure();                                                 \
  /* Makes a kicker in this unit stop a vCPU of it. */                     \
  bool kick();                                                             \
  /* From now on a failing x() writes "unit:MESSAGE" to the descriptor. */ \
  void set_handler(int fd);                                                \
  /* Back to the default. */                                               \
  void reset_handler();                                                    \
  /* The inline namespace that this unit's kvm::Error is in. */            \
  const char* mode();

namespace throwing {
KVM_HPP_UNIT_INTERFACE
}
namespace aborting {
KVM_HPP_UNIT_INTERFACE
}
namespace throwing_no_rtti {
KVM_HPP_UNIT_INTERFACE
}
namespace aborting_no_rtti {
KVM_HPP_UNIT_INTERFACE
}

}  // namespace units

#endif
