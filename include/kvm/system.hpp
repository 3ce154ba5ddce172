// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_SYSTEM_HPP
#define KVM_HPP_SYSTEM_HPP

#include <kvm/detail/kernel_header.hpp>
#if !KVM_HPP_REFUSED

#include <kvm/detail/capability_handle.hpp>
#include <kvm/detail/device_file.hpp>
#include <kvm/fd.hpp>
#include <kvm/vm.hpp>
#if KVM_HPP_ARCH_X86
#include <kvm/x86/system.hpp>
#endif

#include <cstddef>
#include <memory>
#include <utility>

KVM_HPP_BEGIN

namespace detail {
#if KVM_HPP_ARCH_X86
using ArchSystem = x86::SystemCalls<>;
#else
using ArchSystem = CapabilityHandle<uapi::Scope::system>;
#endif
}  // namespace detail

/// The host's KVM: /dev/kvm, opened and known to speak API version 12. Any
/// thread may use it.
class [[nodiscard]] System : public detail::ArchSystem {
 public:
  /// The version that every KVM since Linux 2.6.22 has.
  static constexpr int api_version = 12;

  /// Opens KVM's device file.
  explicit System(const char* path = "/dev/kvm") : System(try_open(path).value()) {}

  /// Opens KVM's device file. The error says what is missing: the module, the
  /// permission and the group that has it, or that the file is not KVM's.
  static Result<System> try_open(const char* path = "/dev/kvm") {
    Fd fd(detail::sys::open(path, O_RDWR));
    if (!fd) {
      return detail::open_failure(errno, path);
    }
    return try_adopt(std::move(fd));
  }

  /// Takes a descriptor of /dev/kvm that somebody with more rights opened, and
  /// makes it close-on-exec. It is closed on failure.
  static Result<System> try_adopt(Fd fd) {
    if (detail::sys::set_cloexec(fd.get()) != 0) {
      return detail::make_error(errno, "fcntl", {}, "the descriptor is not open");
    }
    System system(std::move(fd));
    constexpr auto request = uapi::request::get_api_version;
    const int version = system.call(request);
    if (version < 0) {
      const int error_number = errno;
      return system.failure(
          request.name, error_number, {},
          error_number == EBADF ? "the descriptor is not open" : "the file is not a KVM device");
    }
    if (version != api_version) {
      return detail::make_error(ENOTSUP, request.name, {},
                                detail::text("this KVM speaks API version ", version,
                                             ", this library version ", api_version));
    }
    const int size = system.call(uapi::request::get_vcpu_mmap_size);
    if (size < 0) {
      return system.failure(uapi::request::get_vcpu_mmap_size.name, errno);
    }
    if (static_cast<std::size_t>(size) < sizeof(uapi::kvm_run)) {
      return detail::make_error(
          EPROTO, uapi::request::get_vcpu_mmap_size.name, {},
          detail::text("a vCPU's mapping of ", size, " bytes cannot hold the run page"));
    }
    system.vcpu_mmap_size_ = static_cast<std::size_t>(size);
    return system;
  }
  static System adopt(Fd fd) { return try_adopt(std::move(fd)).value(); }

  System(System&&) noexcept = default;
  System& operator=(System&&) noexcept = default;

  /// Makes a VM without memory and vCPUs (KVM_CREATE_VM).
  Result<Vm> try_create_vm(VmType type = {}) const {
    constexpr auto request = uapi::request::create_vm;
    const int fd = call(request, type.value);
    if (fd < 0) {
      const int error_number = errno;
      return failure(request.name, error_number, detail::text("type=", detail::Hex{type.value}),
                     error_number == EINVAL   ? "this KVM has no VMs of that type"
                     : error_number == EBUSY  ? "another hypervisor uses the CPU's virtualization"
                     : error_number == ENOMEM ? "the host is out of memory"
                                              : "");
    }
    return Vm(std::make_shared<detail::VmState>(Fd(fd), vcpu_mmap_size_));
  }
  Vm create_vm(VmType type = {}) const { return try_create_vm(type).value(); }

  /// Fails to compile: what is enabled is enabled for a VM or a vCPU.
  template <class C>
  void enable(const C&) const {
    static_assert(detail::never<C>,
                  "kvm-hpp: capabilities are enabled on a VM or a vCPU, not on the system");
  }

  /// Bytes that KVM maps per vCPU (KVM_GET_VCPU_MMAP_SIZE).
  std::size_t vcpu_mmap_size() const noexcept { return vcpu_mmap_size_; }

 private:
  explicit System(Fd fd) noexcept : detail::ArchSystem(fd.get()), owned_(std::move(fd)) {}

  Fd owned_;
  std::size_t vcpu_mmap_size_ = 0;
};

KVM_HPP_END

#endif  // !KVM_HPP_REFUSED
#endif
