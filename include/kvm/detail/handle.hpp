// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_DETAIL_HANDLE_HPP
#define KVM_HPP_DETAIL_HANDLE_HPP

#include <kvm/detail/process.hpp>
#include <kvm/detail/syscalls.hpp>
#include <kvm/error.hpp>
#include <kvm/uapi/requests.hpp>
#include <kvm/uapi/structs.hpp>

#include <cstdint>
#include <string_view>
#include <type_traits>
#include <utility>

KVM_HPP_BEGIN
namespace detail {

/// What every kind of KVM descriptor can do. Refers to the descriptor; whoever
/// derives from it owns it. Empty (fd() is -1) after a move.
template <uapi::Scope S>
class Handle {
 public:
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;

  /// The descriptor's number, still owned by this object; -1 after a move.
  int fd() const noexcept { return fd_; }

  /// Sends any request, without retrying. The escape to what the library does
  /// not wrap; what it breaks is the caller's.
  /// @return what the ioctl returned
  Result<int> try_ioctl(unsigned long request, unsigned long argument = 0) const {
    const int result = sys::ioctl(fd_, request, argument);
    if (result < 0) {
      const int error_number = errno;
      return failure("ioctl", error_number, text("request=", Hex{request}));
    }
    return result;
  }
  Result<int> try_ioctl(unsigned long request, const void* argument) const {
    return try_ioctl(request, reinterpret_cast<unsigned long>(argument));
  }
  /// The same with a request of uapi::request: one that is not for this kind of
  /// descriptor does not compile, and an error names it.
  template <uapi::Scopes R>
  Result<int> try_ioctl(uapi::Request<R> request, unsigned long argument = 0) const {
    static_assert(R.contains(S), "kvm-hpp: this request is not for this kind of descriptor");
    const int result = sys::ioctl(fd_, request.code, argument);
    if (result < 0) {
      return failure(request.name, errno);
    }
    return result;
  }
  template <uapi::Scopes R>
  Result<int> try_ioctl(uapi::Request<R> request, const void* argument) const {
    return try_ioctl(request, reinterpret_cast<unsigned long>(argument));
  }
  template <uapi::Scopes R>
  int ioctl(uapi::Request<R> request, unsigned long argument = 0) const {
    return try_ioctl(request, argument).value();
  }
  template <uapi::Scopes R>
  int ioctl(uapi::Request<R> request, const void* argument) const {
    return try_ioctl(request, argument).value();
  }
  int ioctl(unsigned long request, unsigned long argument = 0) const {
    return try_ioctl(request, argument).value();
  }
  int ioctl(unsigned long request, const void* argument) const {
    return try_ioctl(request, argument).value();
  }

  /// Whether KVM knows the attribute here (KVM_HAS_DEVICE_ATTR). False too
  /// where this kind of descriptor has no attributes at all.
  Result<bool> try_has_device_attr(std::uint32_t group, std::uint64_t attribute) const {
    const uapi::kvm_device_attr arguments{.flags = 0, .group = group, .attr = attribute, .addr = 0};
    if (call(uapi::request::has_device_attr, &arguments) == 0) {
      return true;
    }
    // Whether a kind of descriptor without attributes says ENOTTY or EINVAL
    // depends on the kind and the architecture (R13).
    if (errno == ENXIO || errno == ENOTTY || errno == EPERM ||
        (errno == EINVAL && S != uapi::Scope::device)) {
      return false;
    }
    return attribute_failure(uapi::request::has_device_attr, group, attribute);
  }
  bool has_device_attr(std::uint32_t group, std::uint64_t attribute) const {
    return try_has_device_attr(group, attribute).value();
  }

  /// Reads an attribute into `value` (KVM_GET_DEVICE_ATTR). Some attributes
  /// read it too, to learn what is asked for. T must be what the attribute's
  /// documentation says: KVM writes as much as it says there.
  template <class T>
  Result<void> try_get_device_attr(std::uint32_t group, std::uint64_t attribute, T& value) const {
    return attribute_call(uapi::request::get_device_attr, group, attribute, &value);
  }
  template <class T>
  void get_device_attr(std::uint32_t group, std::uint64_t attribute, T& value) const {
    try_get_device_attr(group, attribute, value).value();
  }

  /// Writes an attribute (KVM_SET_DEVICE_ATTR). Not on the system descriptor.
  template <class T>
  Result<void> try_set_device_attr(std::uint32_t group, std::uint64_t attribute,
                                   const T& value) const {
    return attribute_call(uapi::request::set_device_attr, group, attribute, &value);
  }
  template <class T>
  void set_device_attr(std::uint32_t group, std::uint64_t attribute, const T& value) const {
    try_set_device_attr(group, attribute, value).value();
  }
  /// Triggers an attribute that takes no value, such as an "initialise".
  Result<void> try_set_device_attr(std::uint32_t group, std::uint64_t attribute) const {
    return attribute_call<void>(uapi::request::set_device_attr, group, attribute, nullptr);
  }
  void set_device_attr(std::uint32_t group, std::uint64_t attribute) const {
    try_set_device_attr(group, attribute).value();
  }

 protected:
  Handle() noexcept = default;
  explicit Handle(int fd) noexcept : fd_(fd), owner_(this_process()) {}
  Handle(Handle&& other) noexcept : fd_(std::exchange(other.fd_, -1)), owner_(other.owner_) {}
  Handle& operator=(Handle&& other) noexcept {
    fd_ = std::exchange(other.fd_, -1);
    owner_ = other.owner_;
    return *this;
  }
  ~Handle() = default;

  /// Whether another process made the handle: this one was forked from it.
  bool foreign() const noexcept { return this_process() != owner_; }

  /// Sends a request, again if a signal interrupted it (KVM_CREATE_VM can be).
  /// Returns -1 and sets errno on failure.
  template <uapi::Scopes R>
  int call(uapi::Request<R> request, unsigned long argument = 0) const noexcept {
    static_assert(R.contains(S), "kvm-hpp: this request is not for this kind of descriptor");
    for (;;) {
      const int result = sys::ioctl(fd_, request.code, argument);
      if (result >= 0 || errno != EINTR) [[likely]] {
        return result;
      }
    }
  }
  template <uapi::Scopes R>
  int call(uapi::Request<R> request, const void* argument) const noexcept {
    return call(request, reinterpret_cast<unsigned long>(argument));
  }
  /// The same for what KVM fills: a compiler must not take it for unset memory
  /// that is read.
  template <uapi::Scopes R>
  int call(uapi::Request<R> request, void* argument) const noexcept {
    return call(request, reinterpret_cast<unsigned long>(argument));
  }

  /// Sends a request that only succeeds or fails.
  template <uapi::Scopes R>
  Result<void> try_call(uapi::Request<R> request, unsigned long argument = 0,
                        std::string_view arguments = {}, std::string_view cause = {}) const {
    if (call(request, argument) < 0) {
      return failure(request.name, errno, arguments, cause);
    }
    return {};
  }
  template <uapi::Scopes R>
  Result<void> try_call(uapi::Request<R> request, const void* argument,
                        std::string_view arguments = {}, std::string_view cause = {}) const {
    return try_call(request, reinterpret_cast<unsigned long>(argument), arguments, cause);
  }

  /// Reads a struct that KVM fills.
  template <class T, uapi::Scopes R>
  Result<T> try_get(uapi::Request<R> request) const {
    T value;  // GCC takes a pointer to const for a read of it: hence the number.
    if (call(request, reinterpret_cast<unsigned long>(&value)) < 0) {
      return failure(request.name, errno);
    }
    return value;
  }
  template <class T, uapi::Scopes R>
  T get(uapi::Request<R> request) const {
    T value;  // Not try_get().value(): this is copied nowhere.
    if (call(request, reinterpret_cast<unsigned long>(&value)) < 0) [[unlikely]] {
      raise(failure(request.name, errno));
    }
    return value;
  }

  /// The error for a failed call on this descriptor, with the causes that all
  /// of them share.
  Error failure(const char* operation, int error_number, std::string_view arguments = {},
                std::string_view cause = {}) const {
    if (fd_ < 0) {
      cause = "this handle is empty: it was moved from";
      error_number = EBADF;
    } else if (error_number == EIO && S != uapi::Scope::system && foreign()) {
      cause = "this handle was made by another process: after a fork, KVM refuses the child";
    } else if (error_number == EIO && S != uapi::Scope::system && cause.empty()) {
      cause = "KVM may have marked this VM as dead";
    }
    return make_error(error_number, operation, arguments, cause);
  }

 private:
  template <uapi::Scopes R>
  Error attribute_failure(uapi::Request<R> request, std::uint32_t group,
                          std::uint64_t attribute) const {
    const int error_number = errno;
    std::string_view cause;
    switch (error_number) {
      case ENXIO:
        cause = "this device has no such attribute";
        break;
      case EPERM:
        cause = "this kind of device cannot be asked that way";
        break;
      case ENOTTY:
        cause = "this kind of descriptor has no attributes on this architecture";
        break;
      case EBUSY:
        cause = "too late: the device or a vCPU is in use already";
        break;
      default:
        break;
    }
    return failure(request.name, error_number, text("group=", group, ", attribute=", attribute),
                   cause);
  }
  template <class T, uapi::Scopes R>
  Result<void> attribute_call(uapi::Request<R> request, std::uint32_t group,
                              std::uint64_t attribute, T* value) const {
    static_assert(std::is_void_v<T> || std::is_trivially_copyable_v<T>,
                  "KVM reads and writes an attribute's bytes: its type must be trivially copyable");
    const uapi::kvm_device_attr arguments{.flags = 0,
                                          .group = group,
                                          .attr = attribute,
                                          .addr = reinterpret_cast<std::uint64_t>(value)};
    if (call(request, &arguments) < 0) {
      return attribute_failure(request, group, attribute);
    }
    return {};
  }

  int fd_ = -1;
  ProcessToken owner_ = 0;
};

}  // namespace detail
KVM_HPP_END

#endif
