// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_DETAIL_EXIT_VISITOR_HPP
#define KVM_HPP_DETAIL_EXIT_VISITOR_HPP

#include <kvm/exits.hpp>

#include <concepts>
#include <cstddef>
#include <type_traits>
#include <utility>

/// @file
/// Which handler is for which exit, decided at compile time.

KVM_HPP_BEGIN
namespace detail {

class VcpuCore;

template <class... Ts>
struct TypeList {
  template <class T>
  static constexpr bool contains = (std::same_as<T, Ts> || ...);
};

/// Every type that names an exit.
using AllExits =
    TypeList<exits::Interrupted, exits::Failed, exits::Raw, exits::Unknown, exits::Exception,
             exits::IoIn, exits::IoOut, exits::MmioRead, exits::MmioWrite, exits::Hypercall,
             exits::Debug, exits::Hlt, exits::IrqWindowOpen, exits::Shutdown, exits::FailEntry,
             exits::SetTpr, exits::TprAccess, exits::InternalError, exits::SystemEvent,
             exits::IoapicEoi, exits::HypervSynic, exits::HypervHypercall, exits::HypervSyndbg,
             exits::ArmNisv, exits::X86Rdmsr, exits::X86Wrmsr, exits::DirtyRingFull,
             exits::ApResetHold, exits::X86BusLock, exits::XenHypercall, exits::RiscvSbi,
             exits::RiscvCsr, exits::Notify, exits::MemoryFault, exits::Tdx, exits::ArmSea,
             exits::ArmLdst64b, exits::SnpReqCerts>;

template <class Found, class... Rest>
struct FilterHostExits {
  using type = Found;
};
template <class... Found, class T, class... Rest>
struct FilterHostExits<TypeList<Found...>, T, Rest...>
    : FilterHostExits<std::conditional_t<(T::arches & static_cast<unsigned>(host_arch)) != 0,
                                         TypeList<Found..., T>, TypeList<Found...>>,
                      Rest...> {};
template <class... Ts>
auto filter_host_exits(TypeList<Ts...>) -> typename FilterHostExits<TypeList<>, Ts...>::type;

/// Those that can occur on this architecture.
using HostExits = decltype(filter_host_exits(AllExits{}));

/// What a handler's parameter is declared as: void for a generic handler (its
/// call operator is a template or overloaded).
template <class F>
struct Parameter {
  using type = void;
};
template <class R, class... A>
struct SignatureParameter {
  struct NotOneParameter {};
  using type = NotOneParameter;
};
template <class R, class A>
struct SignatureParameter<R, A> {
  using type = std::remove_cvref_t<A>;
};
/// Whatever has no single parameter to name an exit: C variadics and the like.
template <class F>
struct MemberParameter : SignatureParameter<void> {};
template <class R, class C, class... A>
struct MemberParameter<R (C::*)(A...)> : SignatureParameter<R, A...> {};
template <class R, class C, class... A>
struct MemberParameter<R (C::*)(A...) const> : SignatureParameter<R, A...> {};
template <class R, class C, class... A>
struct MemberParameter<R (C::*)(A...) noexcept> : SignatureParameter<R, A...> {};
template <class R, class C, class... A>
struct MemberParameter<R (C::*)(A...) const noexcept> : SignatureParameter<R, A...> {};
template <class R, class C, class... A>
struct MemberParameter<R (C::*)(A...)&> : SignatureParameter<R, A...> {};
template <class R, class C, class... A>
struct MemberParameter<R (C::*)(A...) const&> : SignatureParameter<R, A...> {};
template <class R, class C, class... A>
struct MemberParameter<R (C::*)(A...)& noexcept> : SignatureParameter<R, A...> {};
template <class R, class C, class... A>
struct MemberParameter<R (C::*)(A...) const& noexcept> : SignatureParameter<R, A...> {};
template <class R, class... A>  // A static call operator.
struct MemberParameter<R (*)(A...)> : SignatureParameter<R, A...> {};
template <class R, class... A>
struct MemberParameter<R (*)(A...) noexcept> : SignatureParameter<R, A...> {};
template <class F>
requires requires { &F::operator(); }
struct Parameter<F> : MemberParameter<decltype(&F::operator())> {};
template <class M, class C>  // A pointer to member: wrap it in a lambda.
struct Parameter<M C::*> : SignatureParameter<void> {};
template <class R, class... A>
struct Parameter<R (*)(A...)> : SignatureParameter<R, A...> {};
template <class R, class... A>
struct Parameter<R (*)(A...) noexcept> : SignatureParameter<R, A...> {};
template <class R, class... A>
struct Parameter<R(A...)> : SignatureParameter<R, A...> {};
template <class R, class... A>
struct Parameter<R(A...) noexcept> : SignatureParameter<R, A...> {};

template <class F>
using parameter_t = typename Parameter<std::remove_cv_t<F>>::type;

/// The handlers of one visit.
template <class Exits, class... Fs>
struct HandlerSet;
template <class... Es, class... Fs>
struct HandlerSet<TypeList<Es...>, Fs...> {
  static constexpr std::size_t none = sizeof...(Fs);

  template <class F>
  static constexpr bool generic = std::is_void_v<parameter_t<F>>;

  /// How many handlers name the exit.
  template <class E>
  static constexpr std::size_t naming = (std::size_t{0} + ... +
                                         (std::same_as<parameter_t<Fs>, E> ? 1u : 0u));

  /// The place of the handler for the exit, or `none`.
  template <class E>
  static constexpr std::size_t chosen() {
    constexpr bool specific[] = {std::same_as<parameter_t<Fs>, E>...};
    constexpr bool catch_all[] = {generic<Fs>...};
    for (std::size_t i = 0; i < none; ++i) {
      if (specific[i]) {
        return i;
      }
    }
    for (std::size_t i = 0; i < none; ++i) {
      if (catch_all[i]) {
        return i;
      }
    }
    return none;
  }

  template <class E, class F>
  static constexpr bool takes = std::is_invocable_v<F&, E&> || std::is_invocable_v<F&, E>;

  template <class E>
  static constexpr bool handled() {
    constexpr std::size_t place = chosen<E>();
    if constexpr (place == none) {
      return false;
    } else {
      return [&]<std::size_t... I>(std::index_sequence<I...>) {
        return ((I != place || takes<E, Fs>)&&...);
      }
      (std::index_sequence_for<Fs...>{});
    }
  }

  static constexpr bool all_name_exits =
      ((generic<Fs> || AllExits::contains<parameter_t<Fs>>)&&...);
  static constexpr bool all_of_this_architecture =
      ((generic<Fs> || !AllExits::contains<parameter_t<Fs>> ||
        TypeList<Es...>::template contains<parameter_t<Fs>>)&&...);
  static constexpr bool one_each = ((naming<Es> <= 1) && ...);
  static constexpr bool one_generic = (std::size_t{0} + ... + (generic<Fs> ? 1u : 0u)) <= 1;

  static constexpr bool valid() {
    if constexpr (sizeof...(Fs) == 0) {
      return false;
    } else if constexpr (all_name_exits && all_of_this_architecture && one_each && one_generic) {
      return (handled<Es>() && ...);
    } else {
      return false;
    }
  }

  /// Says in a sentence what is wrong with the handlers, and only that.
  static consteval void check() {
    static_assert(all_name_exits,
                  "kvm-hpp: a handler's parameter must be one of kvm::exits's types, or auto&& "
                  "for all the rest");
    if constexpr (all_name_exits) {
      static_assert(all_of_this_architecture,
                    "kvm-hpp: a handler names an exit that cannot occur on this architecture");
      static_assert(one_each, "kvm-hpp: two handlers name the same exit");
      static_assert(one_generic, "kvm-hpp: more than one handler is for all the rest");
      if constexpr (all_of_this_architecture && one_each && one_generic) {
        static_assert(valid(),
                      "kvm-hpp: not every exit has a handler: add the missing ones, or one with "
                      "auto&& for all the rest");
        static_assert(have_common_result(),
                      "kvm-hpp: the handlers return types that have no common type; one that only "
                      "throws needs a return type, too: [](auto&&) -> T { throw error; }");
      }
    }
  }

  template <class E, class F>
  static decltype(auto) invoke(E& exit, F& handler) {
    if constexpr (std::is_invocable_v<F&, E&>) {
      return handler(exit);
    } else {
      return handler(std::move(exit));
    }
  }

  template <std::size_t I, class F, class... Rest>
  static auto& pick(F& first, Rest&... rest) {
    if constexpr (I == 0) {
      return first;
    } else {
      return pick<I - 1>(rest...);
    }
  }

  template <class E>
  static decltype(auto) call_chosen(E& exit, Fs&... handlers) {
    return invoke(exit, pick<chosen<E>()>(handlers...));
  }

  static constexpr bool have_common_result() {
    if constexpr (valid()) {
      return requires {
        typename std::common_type_t<decltype(call_chosen(std::declval<Es&>(),
                                                         std::declval<Fs&>()...))...>;
      };
    } else {
      return true;
    }
  }

  /// What the visit returns. void where the handlers are wrong, so that
  /// check()'s sentence is all that the compiler prints.
  static constexpr auto find_result() {
    if constexpr (valid() && have_common_result()) {
      return std::type_identity<std::common_type_t<decltype(call_chosen(
          std::declval<Es&>(), std::declval<Fs&>()...))...>>{};
    } else {
      return std::type_identity<void>{};
    }
  }
  using result = typename decltype(find_result())::type;

  template <class E>
  static result call(E& exit, Fs&... handlers) {
    if constexpr (valid() && have_common_result()) {
      return static_cast<result>(call_chosen(exit, handlers...));
    }
  }
};

}  // namespace detail
KVM_HPP_END

#endif
