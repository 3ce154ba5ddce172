// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_MEMORY_GUEST_MEMFD_HPP
#define KVM_HPP_MEMORY_GUEST_MEMFD_HPP

#include <kvm/detail/kernel_header.hpp>
#if !KVM_HPP_REFUSED

#include <kvm/capability/common.hpp>
#include <kvm/capability/flags.hpp>
#include <kvm/detail/syscalls.hpp>
#include <kvm/detail/vm_handle.hpp>
#include <kvm/error.hpp>
#include <kvm/fd.hpp>
#include <kvm/memory/mapping.hpp>
#include <kvm/uapi/requests.hpp>
#include <kvm/uapi/structs.hpp>

#include <cerrno>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

KVM_HPP_BEGIN

/// Guest memory that lives in a file of KVM's own (KVM_CREATE_GUEST_MEMFD,
/// Linux 6.8): the guest reaches it through a slot that names it, the VMM only
/// if it was made to be mapped. It belongs to the VM that it was made from;
/// other VMs' slots cannot have it.
///
/// A slot with it cannot log dirty pages nor be read-only (R44). It cannot
/// shrink. Made by Vm::create_guest_memfd; may outlive the Vm object. The slots
/// that have it keep the memory, not this handle.
class [[nodiscard]] GuestMemfd {
 public:
  GuestMemfd(GuestMemfd&& other) noexcept
      : vm_(std::move(other.vm_)),
        fd_(std::move(other.fd_)),
        size_(std::exchange(other.size_, 0)),
        flags_(std::exchange(other.flags_, {})),
        owner_(other.owner_) {}
  GuestMemfd& operator=(GuestMemfd&& other) noexcept {
    if (this != &other) {
      fd_ = std::move(other.fd_);
      vm_ = std::move(other.vm_);
      size_ = std::exchange(other.size_, 0);
      flags_ = std::exchange(other.flags_, {});
      owner_ = other.owner_;
    }
    return *this;
  }
  ~GuestMemfd() = default;

  /// The descriptor's number, still owned by this object; -1 after a move.
  int fd() const noexcept { return fd_.get(); }
  /// Its size in bytes.
  std::uint64_t size() const noexcept { return size_; }
  /// What it was made with.
  Flags<cap::GuestMemfdFlag> flags() const noexcept { return flags_; }

  /// Maps a part of it into this process, for a VMM that is to see what the
  /// guest has there; slots take such a Mapping as any other. Refused unless it
  /// was made with GuestMemfdFlag::mmap.
  ///
  /// Memory that is private to the guest is a SIGBUS when touched: all of it
  /// unless it was made with GuestMemfdFlag::init_shared.
  /// @param offset in bytes, a multiple of the page size
  /// @param size   in bytes, a positive multiple of it
  Result<Mapping> try_map(std::uint64_t offset, std::uint64_t size,
                          const MappingOptions& options = {}) const {
    const Mapping::Request request{.operation = "mmap of a guest_memfd",
                                   .size = size,
                                   .options = options,
                                   .kind = detail::MappingKind::shared_file,
                                   .offset = offset,
                                   .fd = fd_.get()};
    if (!fd_) {
      return request.failure(EBADF, empty);
    }
    if (auto checked = request.check(); !checked) {
      return checked.error();
    }
    if (!flags_.contains(cap::GuestMemfdFlag::mmap)) {
      return request.failure(ENODEV,
                             "only one that was made with GuestMemfdFlag::mmap can be mapped");
    }
    Fd own(detail::sys::duplicate(fd_.get()));
    if (!own) {
      return request.failure("fcntl(F_DUPFD_CLOEXEC)", errno);
    }
    return Mapping::try_descriptor(request, std::move(own));
  }
  Mapping map(std::uint64_t offset, std::uint64_t size, const MappingOptions& options = {}) const {
    return try_map(offset, size, options).value();
  }
  /// All of it.
  Result<Mapping> try_map(const MappingOptions& options = {}) const {
    return try_map(0, size_, options);
  }
  Mapping map(const MappingOptions& options = {}) const { return try_map(options).value(); }

  /// Gives pages back to the host (fallocate with PUNCH_HOLE). Afterwards they
  /// read as zero and are allocated anew when they are touched.
  /// @param offset in bytes, a multiple of the page size
  /// @param size   in bytes, a multiple of it too
  Result<void> try_discard(std::uint64_t offset, std::uint64_t size) const {
    const auto fail = [&](int error_number, std::string_view cause) {
      return detail::make_error(
          error_number, "fallocate",
          detail::text("offset=", detail::Hex{offset}, ", size=", detail::Hex{size}), cause);
    };
    if (!fd_) {
      return fail(EBADF, empty);
    }
    if (detail::this_process() != owner_) {
      return fail(EIO, "the memory is that of the process which this one was forked from");
    }
    const std::size_t page = detail::sys::page_size();
    if (size % page != 0 || offset % page != 0) {
      return fail(EINVAL, detail::text("pages are given back whole: offset and size must be "
                                       "multiples of ",
                                       page));
    }
    if (!detail::part_fits(offset, size, size_)) {
      return fail(EINVAL, detail::text("it does not lie within the guest_memfd's ",
                                       detail::Hex{size_}, " bytes"));
    }
    if (size == 0) {
      return {};
    }
    if (detail::sys::fallocate(fd_.get(),
                               detail::fallocate_punch_hole | detail::fallocate_keep_size,
                               static_cast<off_t>(offset), static_cast<off_t>(size)) != 0) {
      return fail(errno, {});
    }
    return {};
  }
  void discard(std::uint64_t offset, std::uint64_t size) const {
    try_discard(offset, size).value();
  }

 private:
  friend class Vm;

  static constexpr std::string_view empty = "this handle is empty: it was moved from";

  GuestMemfd(std::shared_ptr<detail::VmHandle> vm, Fd fd, std::uint64_t size,
             Flags<cap::GuestMemfdFlag> flags) noexcept
      : vm_(std::move(vm)), fd_(std::move(fd)), size_(size), flags_(flags) {}

  static Result<GuestMemfd> try_create(std::shared_ptr<detail::VmHandle> vm, std::uint64_t size,
                                       Flags<cap::GuestMemfdFlag> flags) {
    constexpr auto request = uapi::request::create_guest_memfd;
    const uapi::kvm_create_guest_memfd arguments{
        .size = size, .flags = flags.raw(), .reserved = {}};
    const int fd = vm->call(request, &arguments);
    if (fd < 0) {
      const int error_number = errno;
      return vm->failure(request.name, error_number,
                         detail::text("size=", size, ", flags=", detail::Hex{flags.raw()}),
                         explain(*vm, error_number, size, flags));
    }
    Fd owned(fd);
    // The kernel leaves it open across an exec, unlike all others of KVM's (R12).
    if (detail::sys::set_cloexec(fd) != 0) {
      const int error_number = errno;
      return vm->failure("fcntl(F_SETFD)", error_number,
                         detail::text("of a guest_memfd, size=", size));
    }
    return GuestMemfd(std::move(vm), std::move(owned), size, flags);
  }

  static std::string explain(const detail::VmHandle& vm, int error_number, std::uint64_t size,
                             Flags<cap::GuestMemfdFlag> flags) {
    const std::size_t page = detail::sys::page_size();
    if (error_number == ENOTTY || error_number == ENODEV) {
      return "this KVM has no guest_memfd, or not for this type of VM: "
             "check<cap::GuestMemfd>() tells";
    }
    if (error_number != EINVAL) {
      return {};
    }
    if (size == 0 || size % page != 0 || size > detail::largest_offset) {
      return detail::text("the size must be a positive multiple of the page size, ", page);
    }
    const int known = vm.call(uapi::request::check_extension, uapi::cap::guest_memfd_flags);
    if (!flags.empty() &&
        (known < 0 || !Flags<cap::GuestMemfdFlag>::from_raw(static_cast<std::uint64_t>(known))
                           .contains(flags))) {
      return "this KVM does not know all of the flags: check<cap::GuestMemfdFlags>() tells which "
             "it does";
    }
    return "this type of VM may have none: check<cap::GuestMemfd>() tells";
  }

  std::shared_ptr<detail::VmHandle> vm_;
  Fd fd_;
  std::uint64_t size_ = 0;
  Flags<cap::GuestMemfdFlag> flags_;
  detail::ProcessToken owner_ = detail::this_process();
};

KVM_HPP_END

#endif  // !KVM_HPP_REFUSED
#endif
