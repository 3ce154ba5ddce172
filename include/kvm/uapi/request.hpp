// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_UAPI_REQUEST_HPP
#define KVM_HPP_UAPI_REQUEST_HPP

#include <kvm/detail/config.hpp>
#if !KVM_HPP_REFUSED

/// @file
/// The shape of a request code. The codes themselves are in requests.hpp.

KVM_HPP_BEGIN
namespace uapi {

/// The kinds of descriptor that a request can be sent to. The same number
/// means different things on different descriptors (0x67, 0x9f, 0xa0 to 0xa7,
/// 0xd0), so the scope is part of a request's type.
enum class Scope : unsigned { system = 1, vm = 2, vcpu = 4, device = 8 };

/// A set of scopes.
struct Scopes {
  unsigned bits;
  constexpr Scopes(Scope scope) : bits(static_cast<unsigned>(scope)) {}
  constexpr explicit Scopes(unsigned raw) : bits(raw) {}
  constexpr bool contains(Scope scope) const { return (bits & static_cast<unsigned>(scope)) != 0; }
  bool operator==(const Scopes&) const = default;
};
constexpr Scopes operator|(Scopes a, Scopes b) { return Scopes(a.bits | b.bits); }
constexpr Scopes operator|(Scope a, Scope b) { return Scopes(a) | Scopes(b); }

/// One ioctl: its request code on this architecture, its name as the kernel
/// spells it, and the descriptors that take it.
template <Scopes S>
struct Request {
  static constexpr Scopes scopes = S;
  unsigned long code;
  const char* name;
};

/// Picks a value by the architecture compiled for.
template <class T>
constexpr T per_arch(T x86, T arm64, T riscv) {
  return host_arch == Arch::x86 ? x86 : host_arch == Arch::arm64 ? arm64 : riscv;
}

}  // namespace uapi
KVM_HPP_END

#endif  // !KVM_HPP_REFUSED
#endif
