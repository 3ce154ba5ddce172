// SPDX-License-Identifier: MIT
// Two units that include the library under different settings, in one program.
#ifndef KVM_HPP_TEST_COMPILERS_MIXED_HPP
#define KVM_HPP_TEST_COMPILERS_MIXED_HPP

#include <cstddef>
#include <string>
#include <vector>

namespace mixed {

/// A public type as one unit sees it.
struct Type {
  const char* name;
  std::size_t size;
  std::size_t alignment;
};

struct Report {
  bool exceptions = false;
  std::vector<Type> types;
  std::string settings;    ///< as the unit's macros have them
  std::string open_error;  ///< the message of an open that fails
  std::string bitmap;      ///< what a dirty bitmap has to say
  std::string guest;       ///< what a guest wrote; empty where there is no KVM
  std::string no_guest;    ///< why there was none
};

struct Machine;  // Made in one unit, used and destroyed in the other.

namespace a {
Report report();
Machine* make();
std::string use(Machine* machine);
}  // namespace a

namespace b {
Report report();
Machine* make();
std::string use(Machine* machine);
}  // namespace b

}  // namespace mixed

#endif
