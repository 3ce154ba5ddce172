// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_IRQ_IRQFD_HPP
#define KVM_HPP_IRQ_IRQFD_HPP

#include <kvm/detail/kernel_header.hpp>
#if !KVM_HPP_REFUSED

#include <kvm/detail/event_binding.hpp>
#include <kvm/irq/event_fd.hpp>
#include <kvm/irq/routing.hpp>

#include <cerrno>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

KVM_HPP_BEGIN
namespace detail {

struct IrqfdTraits {
  using Arguments = uapi::kvm_irqfd;

  static constexpr auto request() { return uapi::request::irqfd; }
  static bool resamples(const Arguments& irqfd) noexcept {
    return (irqfd.flags & uapi::irqfd_flag::resample) != 0;
  }
  static Arguments deassign(Arguments irqfd) noexcept {
    irqfd.flags = uapi::irqfd_flag::deassign;
    return irqfd;
  }
  static std::string describe(const Arguments& irqfd) {
    return text("gsi=", std::uint32_t{irqfd.gsi}, resamples(irqfd) ? ", resample" : "");
  }
  static std::string_view explain(int error_number, const Arguments& irqfd) {
    switch (error_number) {
      case EBUSY:
        return "the eventfd has an Irqfd already, of this VM or, on recent kernels, of any: each "
               "can be on one gsi";
      case EINVAL:
        return resamples(irqfd) ? "one of the two is no eventfd, or the VM has no interrupt "
                                  "controller in the kernel (a split one does not resample)"
                                : "it is no eventfd, or the VM has no interrupt controller in the "
                                  "kernel yet";
      case EBADF:
        return resamples(irqfd) ? "the eventfd for resampling is empty, or was closed" : "";
      case EAGAIN:
        return "the interrupt controller is not initialised yet";
      default:
        return {};
    }
  }
};

}  // namespace detail

/// An interrupt that is raised by signalling an eventfd, from any thread or
/// process and without a call to KVM (KVM_IRQFD). Made by Vm::create_irqfd, and
/// bound until it is dropped; after that the eventfd raises nothing more.
///
/// KVM takes what the eventfd counts (Linux 5.10 leaves it): nobody else should
/// read it. An interrupt without resampling is an edge, with it a level: it
/// stays raised until the guest has acknowledged it (the end of the interrupt,
/// or a change of masks), then KVM lowers it and signals the eventfd for
/// resampling; a device that still wants its interrupt signals again.
///
/// The VM and the eventfds may be dropped before it. Any thread, but one at a
/// time for try_deassign().
class [[nodiscard]] Irqfd : public detail::EventBinding<detail::IrqfdTraits> {
 public:
  /// The interrupt that it raises, as the routing table names it (IrqRouting).
  std::uint32_t gsi() const noexcept { return arguments().gsi; }
  /// Whether KVM tells when the guest has acknowledged the interrupt.
  bool resamples() const noexcept { return detail::IrqfdTraits::resamples(arguments()); }

 private:
  friend class Vm;

  explicit Irqfd(EventBinding binding) noexcept : EventBinding(std::move(binding)) {}

  static Result<Irqfd> try_create(const std::shared_ptr<detail::VmHandle>& vm, std::uint32_t gsi,
                                  const EventFd& event, const EventFd* resample) {
    uapi::kvm_irqfd irqfd{};
    irqfd.gsi = gsi;
    if (resample != nullptr) {
      irqfd.flags = uapi::irqfd_flag::resample;
      irqfd.resamplefd = static_cast<std::uint32_t>(resample->fd());
    }
    if (gsi >= IrqRouting::gsi_limit) {  // KVM would take it, and lose the events.
      return detail::make_error(EINVAL, detail::IrqfdTraits::request().name,
                                detail::IrqfdTraits::describe(irqfd),
                                detail::text("gsis are below ", IrqRouting::gsi_limit));
    }
    if (resample != nullptr && resample->fd() == event.fd()) {
      return detail::make_error(EINVAL, detail::IrqfdTraits::request().name,
                                detail::IrqfdTraits::describe(irqfd),
                                "each acknowledgement would raise the interrupt again: the two "
                                "eventfds must be different ones");
    }
    auto binding = try_bind(vm, event, irqfd);
    if (!binding) {
      return binding.error();
    }
    return Irqfd(std::move(*binding));
  }
};

KVM_HPP_END

#endif  // !KVM_HPP_REFUSED
#endif
