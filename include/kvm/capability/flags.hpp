// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_CAPABILITY_FLAGS_HPP
#define KVM_HPP_CAPABILITY_FLAGS_HPP

#include <kvm/detail/config.hpp>
#if !KVM_HPP_REFUSED

#include <concepts>
#include <cstdint>
#include <string>
#include <type_traits>

/// @file
/// Sets of typed bits, and how values are written in messages and reports.

KVM_HPP_BEGIN

/// The name of one bit of a flag enumeration, for messages.
template <class Bit>
struct FlagName {
  /// The bit.
  Bit bit;
  /// Its name here.
  const char* text;
};

namespace detail {

/// An enumeration of single bits that names them through `flag_names(Bit)`.
template <class Bit>
concept FlagEnum = std::is_enum_v<Bit> && requires(Bit bit) {
  flag_names(bit);
};

template <class>
inline constexpr bool never = false;

std::string hexadecimal(std::uint64_t value);

}  // namespace detail

/// A set of bits of one meaning: `Quirk::lint0_reenabled | Quirk::cd_nw_cleared`.
/// A bit that has no name here yet is passed with from_raw(), or as `Quirk{0x1000}`.
template <class Bit>
class Flags {
 public:
  /// The empty set.
  constexpr Flags() = default;
  /// The set of one bit.
  constexpr Flags(Bit bit) : raw_(static_cast<std::uint64_t>(bit)) {}
  /// Always a compile error, to say what is wrong.
  template <class Other>
  requires(detail::FlagEnum<Other> && !std::same_as<Other, Bit>) constexpr Flags(Other) {
    static_assert(detail::never<Other>, "these flags belong to another capability");
  }
  template <class Other>
  requires(!std::same_as<Other, Bit>) constexpr Flags(Flags<Other>) {
    static_assert(detail::never<Other>, "these flags belong to another capability");
  }
  template <std::integral Number>
  constexpr Flags(Number) {
    static_assert(detail::never<Number>,
                  "a bare number is not a set of flags; name the bits, or use from_raw(bits)");
  }

  /// The set with exactly these bits, named or not.
  static constexpr Flags from_raw(std::uint64_t bits) {
    Flags flags;
    flags.raw_ = bits;
    return flags;
  }
  /// The bits as KVM has them.
  constexpr std::uint64_t raw() const { return raw_; }
  /// Whether no bit is set.
  constexpr bool empty() const { return raw_ == 0; }
  /// Whether there is any: `if (vm.check<cap::X86DisableExits>() & cap::DisabledExit::hlt)`.
  constexpr explicit operator bool() const { return raw_ != 0; }
  /// Whether all of `other` is in the set.
  constexpr bool contains(Flags other) const { return (raw_ & other.raw_) == other.raw_; }
  /// The set without the bits of `other`.
  constexpr Flags without(Flags other) const { return from_raw(raw_ & ~other.raw_); }

  friend constexpr Flags operator|(Flags a, Flags b) { return from_raw(a.raw_ | b.raw_); }
  friend constexpr Flags operator&(Flags a, Flags b) { return from_raw(a.raw_ & b.raw_); }
  /// Adds the bits of `other`.
  constexpr Flags& operator|=(Flags other) { return *this = *this | other; }
  constexpr bool operator==(const Flags&) const = default;

 private:
  std::uint64_t raw_ = 0;
};

namespace cap {
/// The set of two bits. (Here, where argument-dependent lookup finds it.)
template <detail::FlagEnum Bit>
constexpr Flags<Bit> operator|(Bit a, Bit b) {
  return Flags<Bit>(a) | Flags<Bit>(b);
}
}  // namespace cap

/// The names of the bits, and the number of those that have none:
/// "hlt|pause|0x100". "none" if empty.
template <class Bit>
std::string to_string(Flags<Bit> flags) {
  std::string text;
  std::uint64_t rest = flags.raw();
  for (const FlagName<Bit>& name : flag_names(Bit{})) {
    const auto bit = static_cast<std::uint64_t>(name.bit);
    if ((rest & bit) == 0) continue;
    if (!text.empty()) text += '|';
    text += name.text;
    rest &= ~bit;
  }
  if (rest != 0) {
    if (!text.empty()) text += '|';
    text += detail::hexadecimal(rest);
  }
  return text.empty() ? "none" : text;
}

namespace detail {

inline std::string hexadecimal(std::uint64_t value) {
  std::string text;
  do text.insert(text.begin(), "0123456789abcdef"[value & 15]);
  while ((value >>= 4) != 0);
  return "0x" + text;
}

// One argument of a capability as the caller wrote it: "bytes=65536".
inline std::string argument(const char* name, std::uint64_t value) {
  return std::string(name) + '=' + std::to_string(value);
}
inline std::string argument(const char* name, std::uint32_t value) {
  return argument(name, std::uint64_t{value});
}
inline std::string argument(const char* name, int value) {
  return std::string(name) + '=' + std::to_string(value);
}
inline std::string argument(const char* name, bool value) {
  return std::string(name) + (value ? "=true" : "=false");
}
template <class Bit>
std::string argument(const char* name, Flags<Bit> value) {
  return std::string(name) + '=' + to_string(value);
}

}  // namespace detail
KVM_HPP_END

#endif  // !KVM_HPP_REFUSED
#endif
