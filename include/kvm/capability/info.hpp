// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_CAPABILITY_INFO_HPP
#define KVM_HPP_CAPABILITY_INFO_HPP

#include <kvm/detail/config.hpp>
#if !KVM_HPP_REFUSED

#include <kvm/capability/flags.hpp>
#include <kvm/uapi/capabilities.hpp>
#include <kvm/uapi/request.hpp>

#include <array>
#include <concepts>
#include <cstdint>

/// @file
/// What is known of each capability, and the sentences that a compiler prints
/// when one is used where it does not belong.

KVM_HPP_BEGIN

/// A set of architectures.
struct Arches {
  /// A bit for each, as in Arch.
  unsigned bits = 0;

  constexpr Arches() = default;
  /// The set of one.
  constexpr Arches(Arch arch) : bits(static_cast<unsigned>(arch)) {}

  /// Whether `arch` is in the set.
  constexpr bool contains(Arch arch) const { return (bits & static_cast<unsigned>(arch)) != 0; }
  /// Whether none is.
  constexpr bool empty() const { return bits == 0; }
  constexpr bool operator==(const Arches&) const = default;
  friend constexpr Arches operator|(Arches a, Arches b) {
    Arches both;
    both.bits = a.bits | b.bits;
    return both;
  }
};
/// The set of two architectures.
constexpr Arches operator|(Arch a, Arch b) { return Arches(a) | Arches(b); }

/// All that the library supports.
inline constexpr Arches all_arches = Arch::x86 | Arch::arm64 | Arch::riscv;

namespace detail {

/// On which kind of descriptor KVM_ENABLE_CAP takes a capability.
enum class EnableScope : unsigned { none, vm, vcpu };

/// When in a VM's set-up a capability can be enabled.
enum class Order : unsigned {
  any,
  before_vcpus,                ///< before the first vCPU
  before_slots,                ///< before the first memory slot
  before_vcpus_and_slots,      ///< before either
  after_irqchip,               ///< once the local APIC is in the kernel
  after_irqchip_before_vcpus,  ///< in between
  after_ring_before_slots,     ///< once a dirty ring is on, before the first slot
};

/// The facts of one capability. `constraint` is a sentence fragment that says
/// what enabling asks for, or null.
struct CapInfo {
  unsigned number;
  const char* name;
  Arches check_arches;
  const char* summary;
  EnableScope scope = EnableScope::none;
  Arches enable_arches = {};
  Order order = Order::any;
  const char* constraint = nullptr;
};

constexpr bool wants_no_vcpus(Order order) {
  return order == Order::before_vcpus || order == Order::before_vcpus_and_slots ||
         order == Order::after_irqchip_before_vcpus;
}
constexpr bool wants_no_slots(Order order) {
  return order == Order::before_slots || order == Order::before_vcpus_and_slots ||
         order == Order::after_ring_before_slots;
}

/// The value of KVM_CHECK_EXTENSION in its own type. For `raw` >= 0; a negative
/// one (R16) is "no" where the type is bool, and the caller's error elsewhere.
template <class T>
constexpr T decode_value(int raw) {
  if constexpr (std::same_as<T, bool>) {
    return raw > 0;
  } else if constexpr (std::integral<T>) {
    return static_cast<T>(raw);
  } else {
    return T::from_raw(static_cast<unsigned>(raw));
  }
}

/// What capabilities that are only reported share.
template <class T>
struct Reported {
  using Value = T;
  static constexpr Value decode(int raw) { return decode_value<T>(raw); }
};
using Yes = Reported<bool>;
using Count = Reported<std::uint32_t>;

using CapArgs = std::array<std::uint64_t, 4>;

/// One of kvm::cap's types.
template <class C>
concept Capability = requires {
  { C::info } -> std::same_as<const CapInfo&>;
  typename C::Value;
};

/// What check() gives: the capability's Value, and something harmless for a type
/// that is none, so that require_checkable() can say so.
template <class C>
struct CheckedValueOf {
  using type = int;
};
template <Capability C>
struct CheckedValueOf<C> {
  using type = typename C::Value;
};
template <class C>
using CheckedValue = typename CheckedValueOf<C>::type;

/// A capability that KVM can be asked for on this architecture.
template <class C>
concept Checkable = Capability<C> && C::info.check_arches.contains(host_arch);

constexpr EnableScope enable_scope(uapi::Scope scope) {
  return scope == uapi::Scope::vm     ? EnableScope::vm
         : scope == uapi::Scope::vcpu ? EnableScope::vcpu
                                      : EnableScope::none;
}

/// A capability that can be enabled on this architecture on that descriptor.
template <class C, uapi::Scope S>
concept Enableable = Capability<C> && C::info.enable_arches.contains(host_arch) &&
                     C::info.scope != EnableScope::none&& C::info.scope == enable_scope(S);

/// Fails to compile, with one sentence, unless Enableable.
template <class C, uapi::Scope S>
consteval void require_enableable() {
  if constexpr (!Capability<C>) {
    static_assert(never<C>,
                  "this is not a capability: pass one of kvm::cap's types, or use enable_raw() "
                  "for a bare number");
  } else if constexpr (!(C::info.check_arches | C::info.enable_arches).contains(host_arch)) {
    static_assert(never<C>, "this capability belongs to another architecture");
  } else if constexpr (C::info.scope == EnableScope::none) {
    static_assert(never<C>, "KVM only reports this capability; it cannot be enabled");
  } else if constexpr (!C::info.enable_arches.contains(host_arch)) {
    static_assert(never<C>,
                  "on this architecture KVM only reports this capability; it cannot be enabled");
  } else if constexpr (C::info.scope != enable_scope(S)) {
    if constexpr (C::info.scope == EnableScope::vcpu) {
      static_assert(never<C>, "this capability is enabled on a vCPU, not on a VM");
    } else {
      static_assert(never<C>, "this capability is enabled on a VM, not on a vCPU");
    }
  }
}

/// Fails to compile, with one sentence, unless Checkable.
template <class C>
consteval void require_checkable() {
  if constexpr (!Capability<C>) {
    static_assert(never<C>,
                  "this is not a capability: name one of kvm::cap's types, or use check_raw() for "
                  "a bare number");
  } else if constexpr (!Checkable<C>) {
    static_assert(never<C>, "this capability belongs to another architecture");
  }
}

}  // namespace detail
KVM_HPP_END

#endif  // !KVM_HPP_REFUSED
#endif
