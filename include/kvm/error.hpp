// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_ERROR_HPP
#define KVM_HPP_ERROR_HPP

#include <kvm/detail/config.hpp>
#if !KVM_HPP_REFUSED

#include <atomic>
#include <concepts>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

/// @file
/// What can go wrong, and how it is told.
///
/// Every fallible operation is a pair: `try_x()` returns a Result, `x()`
/// returns the value or throws Error. In a translation unit compiled without
/// exceptions `x()` calls the error handler and then aborts.

KVM_HPP_BEGIN

/// A failed operation: which ioctl or system call, its arguments in the
/// caller's terms, the errno, and its usual cause where one is known. All of
/// it is in what(). Copying never throws.
class __attribute__((visibility("default"))) Error : public std::system_error {
 public:
  /// @param error_number a positive errno value
  /// @param operation    the kernel's name of the call, such as
  ///                     "KVM_CREATE_VCPU"; must be a string literal
  /// @param text         the message, without the errno's own text
  Error(int error_number, const char* operation, const std::string& text)
      : std::system_error(error_number, std::generic_category(), text), operation_(operation) {}

  /// The kernel's name of the call that failed, such as "KVM_CREATE_VCPU".
  const char* operation() const noexcept { return operation_; }

  /// The errno that it failed with.
  int error_number() const noexcept { return code().value(); }

 private:
  const char* operation_;
};

/// Called by `x()` when it fails and the translation unit is compiled without
/// exceptions. The program aborts when it returns, so flush what you print. Set
/// per exceptions mode: units with and without exceptions have one each.
using ErrorHandler = void (*)(const Error&);

namespace detail {

inline void print_error(const Error& error) { std::fprintf(stderr, "kvm-hpp: %s\n", error.what()); }

/// For what can only be a mistake in the program.
[[noreturn, gnu::noinline, gnu::cold]] inline void misused(const char* sentence) {
  std::fprintf(stderr, "kvm-hpp: %s\n", sentence);
  std::abort();
}

inline std::atomic<ErrorHandler> error_handler{print_error};

[[noreturn]] inline void raise(const Error& error) {
#if KVM_HPP_EXCEPTIONS
  throw error;
#else
  error_handler.load()(error);
  std::abort();
#endif
}

/// A number that is to be read in hexadecimal.
struct Hex {
  std::uint64_t value;
};

/// A part of a message: words, a number, or whether something is so.
class Part {
 public:
  constexpr Part() = default;
  constexpr Part(const char* words) : words_(words) {}
  constexpr Part(std::string_view words) : words_(words) {}
  Part(const std::string& words) : words_(words) {}
  constexpr Part(Hex hex) : kind_(Kind::hexadecimal), value_(hex.value) {}
  template <std::same_as<bool> T>  // Or pointers, enumerators and fractions would be true.
  constexpr Part(T so) : words_(so ? "true" : "false") {}
  template <std::integral T>
  requires(!std::same_as<T, bool> && sizeof(T) <= sizeof(std::uint64_t)) constexpr Part(T number)
      : kind_(number < T{} ? Kind::negative : Kind::number),
        value_(static_cast<std::uint64_t>(number)) {}

  void append_to(std::string& out) const {
    if (kind_ == Kind::words) {
      out.append(words_.data(), words_.size());
      return;
    }
    char digits[24];
    const int size =
        kind_ == Kind::negative
            ? std::snprintf(digits, sizeof digits, "%lld", static_cast<long long>(value_))
            : std::snprintf(digits, sizeof digits, kind_ == Kind::number ? "%llu" : "0x%llx",
                            static_cast<unsigned long long>(value_));
    out.append(digits, static_cast<std::size_t>(size));
  }

 private:
  enum class Kind : unsigned char { words, number, negative, hexadecimal };

  std::string_view words_;
  Kind kind_ = Kind::words;
  std::uint64_t value_ = 0;
};
inline constexpr Part no_part;

inline void append(std::string& out, const Part& part) { part.append_to(out); }

/// Builds a message from its parts. Not a template, which would be another one
/// for each length of each word.
inline std::string text(const Part& a = no_part, const Part& b = no_part, const Part& c = no_part,
                        const Part& d = no_part, const Part& e = no_part, const Part& f = no_part,
                        const Part& g = no_part, const Part& h = no_part, const Part& i = no_part,
                        const Part& j = no_part, const Part& k = no_part, const Part& l = no_part) {
  std::string out;
  for (const Part* part : {&a, &b, &c, &d, &e, &f, &g, &h, &i, &j, &k, &l}) {
    part->append_to(out);
  }
  return out;
}

/// "KVM_X(arguments): cause"; either of the two may be empty.
inline Error make_error(int error_number, const char* operation, std::string_view arguments = {},
                        std::string_view cause = {}) {
  return Error(error_number, operation,
               cause.empty() ? text(operation, "(", arguments, ")")
                             : text(operation, "(", arguments, "): ", cause));
}

}  // namespace detail

/// Sets the handler that `x()` calls before it aborts, in programs compiled
/// without exceptions; the default prints the message to standard error.
/// Thread safe. Call it in a translation unit that is compiled without them:
/// those that use exceptions have a handler of their own, which nobody calls.
/// @return the handler that was set before
inline ErrorHandler set_error_handler(ErrorHandler handler) noexcept {
  return detail::error_handler.exchange(handler ? handler : detail::print_error);
}

/// The value of an operation, or the Error that says why there is none.
/// Reading the value of a failed one raises its error.
template <class T>
class [[nodiscard]] Result {
 public:
  /// The type of the value.
  using value_type = T;

  /// A success.
  Result(T value) noexcept(moves) : value_(std::move(value)), has_value_(true) {}
  /// A failure.
  Result(Error error) noexcept : error_(std::move(error)), has_value_(false) {}

  Result(Result&& other) noexcept(moves) : has_value_(other.has_value_) { take(std::move(other)); }
  Result(const Result& other) requires(__is_constructible(T, const T&))
      : has_value_(other.has_value_) {
    if (has_value_) {
      std::construct_at(std::addressof(value_), other.value_);
    } else {
      std::construct_at(std::addressof(error_), other.error_);
    }
  }
  Result& operator=(Result&& other) noexcept(moves) {
    if (this != &other) {
      destroy();
      has_value_ = other.has_value_;
      take(std::move(other));
    }
    return *this;
  }
  ~Result() { destroy(); }

  /// Whether the operation succeeded.
  bool has_value() const noexcept { return has_value_; }
  /// Whether the operation succeeded.
  explicit operator bool() const noexcept { return has_value_; }

  /// The value; raises the error if there is none.
  T& value() & { return check(), value_; }
  const T& value() const& { return check(), value_; }
  const T& value() const&& = delete;
  T value() && { return check(), std::move(value_); }  // By value: T&& would dangle.
  /// The value; raises the error if there is none.
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  const T& operator*() const&& = delete;
  T operator*() && { return std::move(*this).value(); }
  /// A member of the value; raises the error if there is none.
  T* operator->() & { return std::addressof(value()); }
  const T* operator->() const& { return std::addressof(value()); }
  T* operator->() && = delete;             // Give the Result a name: a temporary takes its
  const T* operator->() const&& = delete;  // value with it, and what that was asked for.

  /// The value, or `other` if there is none.
  T value_or(T other) && { return has_value_ ? std::move(value_) : std::move(other); }

  /// Why there is no value. Calling it on a success aborts the program.
  const Error& error() const& {
    if (has_value_) {
      detail::misused("Result::error() was called on a success");
    }
    return error_;
  }
  Error error() const&& { return error(); }  // By value, since the temporary goes.

 private:
  // Builtins: the library's traits would be instantiated for each T.
  static constexpr bool moves = __is_nothrow_constructible(T, T);

  void check() const {
    if (!has_value_) [[unlikely]] {
      detail::raise(error_);
    }
  }
  void take(Result&& other) {
    if (has_value_) {
      std::construct_at(std::addressof(value_), std::move(other.value_));
    } else {
      std::construct_at(std::addressof(error_), std::move(other.error_));
    }
  }
  void destroy() noexcept {
    if (has_value_) {
      std::destroy_at(std::addressof(value_));
    } else {
      std::destroy_at(std::addressof(error_));
    }
  }

  union {
    T value_;
    Error error_;
  };
  bool has_value_;
};

/// The outcome of an operation that has no value.
template <>
class [[nodiscard]] Result<void> {
 public:
  /// The type of the value.
  using value_type = void;

  Result() noexcept = default;
  /// A failure.
  Result(Error error) noexcept : error_(std::make_unique<Error>(std::move(error))) {}
  Result(Result&&) noexcept = default;
  Result& operator=(Result&&) noexcept = default;

  /// Whether the operation succeeded.
  bool has_value() const noexcept { return error_ == nullptr; }
  /// Whether the operation succeeded.
  explicit operator bool() const noexcept { return has_value(); }

  /// Raises the error if the operation failed.
  void value() const {
    if (error_) [[unlikely]] {
      detail::raise(*error_);
    }
  }

  /// Why the operation failed. Calling it on a success aborts the program.
  const Error& error() const& {
    if (!error_) {
      detail::misused("Result::error() was called on a success");
    }
    return *error_;
  }
  Error error() const&& { return error(); }  // By value, since the temporary goes.

 private:
  std::unique_ptr<Error> error_;
};

KVM_HPP_END

#endif  // !KVM_HPP_REFUSED
#endif
