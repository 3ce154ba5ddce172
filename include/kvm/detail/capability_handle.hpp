// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_DETAIL_CAPABILITY_HANDLE_HPP
#define KVM_HPP_DETAIL_CAPABILITY_HANDLE_HPP

#include <kvm/capability.hpp>
#include <kvm/detail/handle.hpp>

#include <cerrno>
#include <concepts>
#include <cstddef>
#include <string>

/// @file
/// Checking and enabling capabilities, for every kind of descriptor.

KVM_HPP_BEGIN
namespace detail {

inline uapi::kvm_enable_cap enable_cap(unsigned number, const CapArgs& args) {
  uapi::kvm_enable_cap cap{};
  cap.cap = number;
  for (std::size_t i = 0; i < args.size(); ++i) {
    cap.args[i] = args[i];
  }
  return cap;
}

/// A capability and the arguments it is enabled with, for messages.
template <class C>
std::string describe_enabling(const C& capability) {
  const std::string arguments = capability.describe();
  return arguments.empty() ? std::string(C::info.name) : text(C::info.name, ", ", arguments);
}

/// Checking on the system and on a VM, and the raw escape, which a VM and a
/// vCPU have.
template <uapi::Scope S>
class CapabilityHandle : public Handle<S> {
 public:
  /// What KVM offers (KVM_CHECK_EXTENSION), in the capability's own type:
  /// `vm.check<cap::NrMemslots>()` is a number, `vm.check<cap::SyncRegs>()` a
  /// set of flags. Ask the VM rather than the system where there is one: its
  /// answer is the precise one. Offered does not mean that enabling works (R16).
  template <class C>
  Result<CheckedValue<C>> try_check() const requires(S != uapi::Scope::vcpu) {
    require_checkable<C>();
    if constexpr (Checkable<C>) {
      int raw = this->call(uapi::request::check_extension, C::info.number);
      if (raw < 0) {
        // Some of arm64's are only known of a VM (R16).
        if (!std::same_as<typename C::Value, bool> || errno != EINVAL) {
          return this->failure(uapi::request::check_extension.name, errno, C::info.name);
        }
        raw = 0;
      }
      return C::decode(raw);
    } else {
      return CheckedValue<C>{};
    }
  }
  template <class C>
  CheckedValue<C> check() const requires(S != uapi::Scope::vcpu) {
    return try_check<C>().value();
  }
  /// Fails to compile: the capability goes between the angle brackets.
  template <std::integral T>
  void check(T) const requires(S != uapi::Scope::vcpu) {
    require_checkable<T>();
  }

  /// The bare answer for a bare number: 0 where KVM does not know it.
  Result<int> try_check_raw(unsigned number) const requires(S != uapi::Scope::vcpu) {
    const int raw = this->call(uapi::request::check_extension, number);
    if (raw < 0) {
      const int error_number = errno;
      return this->failure(uapi::request::check_extension.name, error_number, text("cap=", number));
    }
    return raw;
  }
  int check_raw(unsigned number) const requires(S != uapi::Scope::vcpu) {
    return try_check_raw(number).value();
  }

  /// Enables a capability by its bare number (KVM_ENABLE_CAP): the escape for
  /// what kvm::cap does not know yet. What it breaks is the caller's.
  Result<void> try_enable_raw(unsigned number, const CapArgs& args = {}) const
      requires(S != uapi::Scope::system) {
    const auto arguments = enable_cap(number, args);
    return this->try_call(uapi::request::enable_cap, &arguments, text("cap=", number));
  }
  void enable_raw(unsigned number, const CapArgs& args = {}) const
      requires(S != uapi::Scope::system) {
    try_enable_raw(number, args).value();
  }

 protected:
  using Handle<S>::Handle;

  /// Enables a capability that is known to be for this kind of descriptor.
  template <class C>
  Result<void> enable_typed(const C& capability, bool vcpus_exist, bool slots_exist) const {
    const auto arguments = enable_cap(C::info.number, capability.args());
    if (this->call(uapi::request::enable_cap, &arguments) < 0) {
      const int error_number = errno;
      const char* cause = explain_enable(C::info, error_number, vcpus_exist, slots_exist);
      return this->failure(uapi::request::enable_cap.name, error_number,
                           describe_enabling(capability), cause != nullptr ? cause : "");
    }
    return {};
  }
};

}  // namespace detail
KVM_HPP_END

#endif
