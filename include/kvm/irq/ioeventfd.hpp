// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_IRQ_IOEVENTFD_HPP
#define KVM_HPP_IRQ_IOEVENTFD_HPP

#include <kvm/detail/kernel_header.hpp>
#if !KVM_HPP_REFUSED

#include <kvm/detail/event_binding.hpp>
#include <kvm/irq/event_fd.hpp>
#include <kvm/types.hpp>
#include <kvm/uapi/constants.hpp>

#include <cerrno>
#include <concepts>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

KVM_HPP_BEGIN

/// A guest address and how wide the writes are that count: as wide as T, or any
/// width for void. Made by IoeventfdAddress.
template <class T>
struct IoeventfdAt {
  /// A gpa, or a port.
  std::uint64_t address = 0;
  /// Whether it is a port.
  bool port = false;
};

/// Which of the guest's writes signal an Ioeventfd: those to this very address,
/// and of this width.
struct IoeventfdAddress {
  /// Writes of sizeof(T) bytes to guest physical memory.
  /// @tparam T std::uint8_t, std::uint16_t, std::uint32_t or std::uint64_t
  template <class T>
  static constexpr IoeventfdAt<T> mmio(Gpa gpa) {
    static_assert(
        std::same_as<T, std::uint8_t> || std::same_as<T, std::uint16_t> ||
            std::same_as<T, std::uint32_t> || std::same_as<T, std::uint64_t>,
        "kvm-hpp: a write's width is named by std::uint8_t, uint16_t, uint32_t or uint64_t");
    return {.address = gpa.value, .port = false};
  }
  /// Writes of any width to guest physical memory, where
  /// cap::IoeventfdAnyLength is. The fastest kind on some hosts, for registers
  /// that the guest never reads: with Intel's EPT, KVM takes a read for a write,
  /// and leaves the guest's register as it was.
  static constexpr IoeventfdAt<void> mmio_any(Gpa gpa) {
    return {.address = gpa.value, .port = false};
  }
#if KVM_HPP_ARCH_X86
  /// Writes of sizeof(T) bytes to a port.
  /// @tparam T std::uint8_t, std::uint16_t or std::uint32_t
  template <class T>
  static constexpr IoeventfdAt<T> pio(std::uint16_t port) {
    static_assert(std::same_as<T, std::uint8_t> || std::same_as<T, std::uint16_t> ||
                      std::same_as<T, std::uint32_t>,
                  "kvm-hpp: a port write's width is named by std::uint8_t, uint16_t or uint32_t");
    return {.address = port, .port = true};
  }
  /// Writes of any width to a port, where cap::IoeventfdAnyLength is.
  static constexpr IoeventfdAt<void> pio_any(std::uint16_t port) {
    return {.address = port, .port = true};
  }
#endif
};

namespace detail {

struct IoeventfdTraits {
  using Arguments = uapi::kvm_ioeventfd;

  static constexpr auto request() { return uapi::request::ioeventfd; }
  static Arguments deassign(Arguments ioeventfd) noexcept {
    ioeventfd.flags |= uapi::ioeventfd_flag::deassign;  // All the rest is repeated (R73).
    return ioeventfd;
  }
  static std::string describe(const Arguments& ioeventfd) {
    const bool port = (ioeventfd.flags & uapi::ioeventfd_flag::pio) != 0;
    std::string out = text(port ? "port=" : "gpa=", Hex{ioeventfd.addr});
    if (ioeventfd.len != 0) {
      append(out, text(", width=", std::uint32_t{ioeventfd.len}));
    }
    if ((ioeventfd.flags & uapi::ioeventfd_flag::datamatch) != 0) {
      append(out, text(", datamatch=", Hex{ioeventfd.datamatch}));
    }
    return out;
  }
  static std::string_view explain(int error_number, const Arguments& ioeventfd) {
    switch (error_number) {
      case EEXIST:
        return "the VM has an Ioeventfd there that takes some of the same writes";
      case EINVAL:
        return ioeventfd.len == 0 ? "it is no eventfd, or this KVM knows no writes of any width "
                                    "(KVM_CAP_IOEVENTFD_ANY_LENGTH)"
                                  : "it is no eventfd, or the address is too near to the end";
      case ENOSPC:
        return "the VM has as many devices in the kernel as KVM takes";
      default:
        return {};
    }
  }
};

}  // namespace detail

/// A guest's write that signals an eventfd instead of being an exit
/// (KVM_IOEVENTFD). Made by Vm::create_ioeventfd, and bound until it is dropped:
/// from then on the write is an exit again. What was written is not told; with
/// a datamatch only writes of that value count, and others go on being exits.
///
/// The VM and the eventfd may be dropped before it. Any thread, but one at a
/// time for try_deassign().
class [[nodiscard]] Ioeventfd : public detail::EventBinding<detail::IoeventfdTraits> {
 private:
  friend class Vm;

  explicit Ioeventfd(EventBinding binding) noexcept : EventBinding(std::move(binding)) {}

  template <class T>
  static uapi::kvm_ioeventfd arguments_for(IoeventfdAt<T> at) noexcept {
    uapi::kvm_ioeventfd ioeventfd{};
    ioeventfd.addr = at.address;
    if constexpr (!std::is_void_v<T>) {
      ioeventfd.len = sizeof(T);
    }
    ioeventfd.flags = at.port ? uapi::ioeventfd_flag::pio : 0u;
    return ioeventfd;
  }
  static Result<Ioeventfd> try_create(const std::shared_ptr<detail::VmHandle>& vm,
                                      const EventFd& event, const uapi::kvm_ioeventfd& ioeventfd) {
    auto binding = try_bind(vm, event, ioeventfd);
    if (!binding) {
      return binding.error();
    }
    return Ioeventfd(std::move(*binding));
  }
};

KVM_HPP_END

#endif  // !KVM_HPP_REFUSED
#endif
