// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_TESTS_FACTS_FACTS_HPP
#define KVM_HPP_TESTS_FACTS_FACTS_HPP

#include <cstddef>
#include <span>
#include <string_view>

/// What generate.awk's output is made of.
namespace facts {

/// A row of a table, and what the library says.
struct Fact {
  const char* name;
  unsigned long table;
  unsigned long ours;
};

/// The requests of this architecture.
std::span<const Fact> requests();
/// The exit reasons.
std::span<const Fact> exits();
/// The capabilities.
std::span<const Fact> capabilities();

constexpr std::string_view text(const char* string) { return string; }

/// Bytes of the argument, as a request's code encodes it.
constexpr std::size_t argument_size(unsigned long code) { return (code >> 16) & 0x3fff; }

/// Whether a macro has a constant's value, in the constant's type.
template <class Ours, class Macro>
constexpr bool same(Ours ours, Macro macro) {
  return static_cast<Ours>(macro) == ours;
}

}  // namespace facts

#endif
