// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_DETAIL_EVENT_BINDING_HPP
#define KVM_HPP_DETAIL_EVENT_BINDING_HPP

#include <kvm/detail/vm_handle.hpp>
#include <kvm/error.hpp>
#include <kvm/fd.hpp>
#include <kvm/irq/event_fd.hpp>

#include <cerrno>
#include <memory>
#include <string_view>
#include <utility>

KVM_HPP_BEGIN
namespace detail {

/// An eventfd that a VM is bound to, until this is dropped. KVM finds a binding
/// by the eventfd behind a descriptor, so a descriptor of our own is kept for
/// taking it back: the caller's may be closed by then, and its number another's,
/// through which KVM would undo nothing, or what is not ours (R73).
///
/// @tparam Traits Arguments, what the request takes; request(); deassign(), which
///                turns the arguments that bound into those that unbind;
///                describe() and explain() for errors
template <class Traits>
class EventBinding {
 public:
  /// What the request takes.
  using Arguments = typename Traits::Arguments;

  EventBinding(EventBinding&&) noexcept = default;
  EventBinding& operator=(EventBinding&& other) noexcept {
    if (this != &other) {
      drop();
      vm_ = std::move(other.vm_);
      event_ = std::move(other.event_);
      arguments_ = other.arguments_;
    }
    return *this;
  }
  ~EventBinding() { drop(); }

  /// Ends the binding before the object does, and tells whether that worked. On
  /// failure it stays. Once it has ended, this does nothing.
  Result<void> try_deassign() {
    if (!event_) {
      return {};
    }
    if (const int error_number = unbind(); error_number != 0) {
      return failure(*vm_, arguments_, error_number, "the binding is still there");
    }
    event_.reset();
    vm_.reset();
    return {};
  }
  void deassign() { try_deassign().value(); }

 protected:
  static Result<EventBinding> try_bind(const std::shared_ptr<VmHandle>& vm, const EventFd& event,
                                       Arguments arguments) {
    constexpr auto request = Traits::request();
    if (!vm) {
      return make_error(EBADF, request.name, Traits::describe(arguments),
                        "this handle is empty: it was moved from");
    }
    Fd own(sys::duplicate(event.fd()));
    if (!own) {
      const int error_number = errno;
      return make_error(error_number, "fcntl(F_DUPFD_CLOEXEC)", Traits::describe(arguments),
                        error_number == EBADF ? "the eventfd is empty, or was closed" : "");
    }
    arguments.fd = static_cast<decltype(arguments.fd)>(own.get());
    if (vm->call(request, &arguments) < 0) {
      const int error_number = errno;
      return failure(*vm, arguments, error_number, Traits::explain(error_number, arguments));
    }
    return EventBinding(vm, std::move(own), arguments);
  }

  const Arguments& arguments() const noexcept { return arguments_; }

 private:
  EventBinding(std::shared_ptr<VmHandle> vm, Fd event, const Arguments& arguments) noexcept
      : vm_(std::move(vm)), event_(std::move(event)), arguments_(arguments) {}

  int unbind() const noexcept {
    const Arguments arguments = Traits::deassign(arguments_);
    return vm_->call(Traits::request(), &arguments) < 0 ? errno : 0;
  }
  void drop() noexcept {
    if (event_ && !vm_->foreign()) {
      unbind();
    }
    event_.reset();
    vm_.reset();
  }

  static Error failure(const VmHandle& vm, const Arguments& arguments, int error_number,
                       std::string_view cause) {
    return vm.failure(Traits::request().name, error_number, Traits::describe(arguments), cause);
  }

  std::shared_ptr<VmHandle> vm_;
  Fd event_;
  Arguments arguments_{};
};

}  // namespace detail
KVM_HPP_END

#endif
