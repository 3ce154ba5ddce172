// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_TESTS_MUTATION_WATCH_HPP
#define KVM_HPP_TESTS_MUTATION_WATCH_HPP

#include <cstddef>

#include "fault/interpose.hpp"

/// @file
/// What another thread could see between two steps.

namespace fault {

/// Calls `look` before each such call that `body` makes.
/// @return how often
template <class Wanted, class Look, class Body>
int watch(Wanted wanted, Look look, Body body) {
  int times = 0;
  arm({{.matches = [&](const Call& call, std::size_t) {
    if (wanted(call)) {
      const Unobserved ours;
      ++times;
      look();
    }
    return false;
  }}});
  body();
  disarm();
  return times;
}

}  // namespace fault

#endif
