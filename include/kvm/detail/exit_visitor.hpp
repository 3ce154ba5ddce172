// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_DETAIL_EXIT_VISITOR_HPP
#define KVM_HPP_DETAIL_EXIT_VISITOR_HPP

#include <kvm/exits.hpp>

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
  static constexpr bool contains = (__is_same(T, Ts) || ...);
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

template <class... A, class... B>
auto operator+(TypeList<A...>, TypeList<B...>) -> TypeList<A..., B...>;

// Compilers print the whole name of what an assertion found false: which types it is about.
template <class Missing>
struct ExitsWithoutHandler {
  static constexpr bool are_none = __is_same(Missing, TypeList<>);
};
template <class Twice>
struct ExitsWithTwoHandlers {
  static constexpr bool are_none = __is_same(Twice, TypeList<>);
};
template <class Others>
struct ExitsOfOtherArchitectures {
  static constexpr bool are_none = __is_same(Others, TypeList<>);
};
template <class Others>
struct ParametersThatAreNoExit {
  static constexpr bool are_none = __is_same(Others, TypeList<>);
};

template <class F, class E>
concept TakesLvalue = requires(F& handler, E& exit) {
  handler(exit);
};
template <class F, class E>
concept TakesRvalue = requires(F& handler, E& exit) {
  handler(static_cast<E&&>(exit));
};

/// The handlers of one visit. What is known here of one exit is looked up once,
/// in builtins and folds: standard traits would be a class each, for each exit
/// and each handler of each visit.
template <class Exits, class... Fs>
struct HandlerSet;
template <class... Es, class... Fs>
struct HandlerSet<TypeList<Es...>, Fs...> {
  static constexpr std::size_t none = sizeof...(Fs);

  template <class F>
  static constexpr bool generic = __is_same(parameter_t<F>, void);

  /// How many handlers name the exit.
  template <class E>
  static constexpr std::size_t naming = (std::size_t{0} + ... +
                                         (__is_same(parameter_t<Fs>, E) ? 1u : 0u));

  /// The first place that is true; the last one always is.
  static constexpr std::size_t first(const bool (&places)[sizeof...(Fs) + 1]) {
    std::size_t place = 0;
    while (!places[place]) {
      ++place;
    }
    return place;
  }
  static constexpr std::size_t catch_all = first({generic<Fs>..., true});
  static constexpr std::size_t or_catch_all(std::size_t place) {
    return place != none ? place : catch_all;
  }
  /// The place of the handler for the exit, or `none`.
  template <class E>
  static constexpr std::size_t chosen = or_catch_all(first({__is_same(parameter_t<Fs>, E)...,
                                                            true}));

  template <std::size_t I, class F, class... Rest>
  static constexpr auto& pick(F& handler, Rest&... rest) {
    if constexpr (I == 0) {
      return handler;
    } else {
      return pick<I - 1>(rest...);
    }
  }
  template <std::size_t I>
  static auto at() -> std::remove_reference<decltype(pick<I>(std::declval<Fs&>()...))>;
  template <class E>
  using handler_for = typename decltype(at<chosen<E>>())::type;

  template <class E>
  static constexpr bool handled() {
    if constexpr (chosen<E> == none) {
      return false;
    } else {
      return TakesLvalue<handler_for<E>, E> || TakesRvalue<handler_for<E>, E>;
    }
  }

  template <class F>
  static constexpr bool names_exit = generic<F> || AllExits::contains<parameter_t<F>>;
  template <class F>
  static constexpr bool can_occur =
      generic<F> || !names_exit<F> || TypeList<Es...>::template contains<parameter_t<F>>;

  static constexpr bool all_name_exits = (names_exit<Fs> && ...);
  static constexpr bool all_of_this_architecture = (can_occur<Fs> && ...);
  static constexpr bool one_each = ((generic<Fs> || naming<parameter_t<Fs>> <= 1) && ...);
  static constexpr bool one_generic = (std::size_t{0} + ... + (generic<Fs> ? 1u : 0u)) <= 1;

  static constexpr bool find_valid() {
    if constexpr (sizeof...(Fs) == 0) {
      return false;
    } else if constexpr (all_name_exits && all_of_this_architecture && one_each && one_generic) {
      return (handled<Es>() && ...);
    } else {
      return false;
    }
  }
  static constexpr bool valid = find_valid();

  /// T unless it is all right, in a list.
  template <bool right, class T>
  using unless = std::conditional_t<right, TypeList<>, TypeList<T>>;

  /// Says in a sentence what is wrong with the handlers, and only that.
  static consteval void check() {
    if constexpr (!all_name_exits) {
      using Others = decltype((TypeList<>{} + ... + unless<names_exit<Fs>, parameter_t<Fs>>{}));
      static_assert(ParametersThatAreNoExit<Others>::are_none,
                    "kvm-hpp: a handler's parameter must be one of kvm::exits's types, or auto&& "
                    "for all the rest");
    } else {
      if constexpr (!all_of_this_architecture) {
        using Others = decltype((TypeList<>{} + ... + unless<can_occur<Fs>, parameter_t<Fs>>{}));
        static_assert(ExitsOfOtherArchitectures<Others>::are_none,
                      "kvm-hpp: a handler names an exit that cannot occur on this architecture");
      } else if constexpr (!one_each) {
        using Twice = decltype((TypeList<>{} + ... + unless<naming<Es> <= 1, Es>{}));
        static_assert(ExitsWithTwoHandlers<Twice>::are_none,
                      "kvm-hpp: two handlers name the same exit");
      }
      static_assert(one_generic, "kvm-hpp: more than one handler is for all the rest");
      if constexpr (all_of_this_architecture && one_each && one_generic) {
        if constexpr (!valid) {
          using Missing = decltype((TypeList<>{} + ... + unless<handled<Es>(), Es>{}));
          static_assert(ExitsWithoutHandler<Missing>::are_none,
                        "kvm-hpp: not every exit has a handler: add the missing ones, or one with "
                        "auto&& for all the rest");
        }
        static_assert(!valid || have_common_result,
                      "kvm-hpp: the handlers return types that have no common type; one that only "
                      "throws needs a return type, too: [](auto&&) -> T { throw error; }");
      }
    }
  }

  template <class E>
  static decltype(auto) call_chosen(E& exit, Fs&... handlers) {
    if constexpr (TakesLvalue<handler_for<E>, E>) {
      return pick<chosen<E>>(handlers...)(exit);
    } else {
      return pick<chosen<E>>(handlers...)(std::move(exit));
    }
  }

  // Most handlers of a visit return the same type, for which the common type
  // need not be searched.
  template <class R, class... Rs>
  static auto common(std::type_identity<R>, std::type_identity<Rs>...) {
    if constexpr ((__is_same(R, Rs) && ...)) {
      return std::type_identity<std::decay_t<R>>{};
    } else if constexpr (requires { typename std::common_type_t<R, Rs...>; }) {
      return std::type_identity<std::common_type_t<R, Rs...>>{};
    } else {
      return NoCommonResult{};
    }
  }
  struct NoCommonResult {
    using type = void;
  };
  static constexpr auto find_result() {
    if constexpr (valid) {
      return common(std::type_identity<decltype(call_chosen(std::declval<Es&>(),
                                                            std::declval<Fs&>()...))>{}...);
    } else {
      return NoCommonResult{};
    }
  }
  using Found = decltype(find_result());
  static constexpr bool have_common_result = !__is_same(Found, NoCommonResult);

  /// What the visit returns. void where the handlers are wrong, so that
  /// check()'s sentence is all that the compiler prints.
  using result = typename Found::type;

  template <class E>
  static result call(E& exit, Fs&... handlers) {
    if constexpr (have_common_result) {
      return static_cast<result>(call_chosen(exit, handlers...));
    }
  }
};

}  // namespace detail
KVM_HPP_END

#endif
