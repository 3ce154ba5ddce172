// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_TESTS_SUPPORT_FAKE_KVM_HPP
#define KVM_HPP_TESTS_SUPPORT_FAKE_KVM_HPP

#include <kvm/kvm.hpp>

#include <cerrno>
#include <cstdarg>
#include <cstdint>

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

/// @file
/// KVM played by the program that includes this, in one of its sources: enough
/// for a VM with memory that nothing runs in. Other requests go to the kernel.

namespace kvm_test {

/// What KVM_SET_USER_MEMORY_REGION answers: 0 or an errno.
inline int (*set_region)(const kvm::uapi::kvm_userspace_memory_region&) = [](const auto&) {
  return 0;
};

}  // namespace kvm_test

extern "C" int ioctl(int fd, unsigned long code, ...) noexcept {
  namespace request = kvm::uapi::request;
  va_list list;
  va_start(list, code);
  void* const argument = va_arg(list, void*);
  va_end(list);
  if (code == request::get_api_version.code) {
    return 12;
  }
  if (code == request::check_extension.code) {
    return reinterpret_cast<std::uintptr_t>(argument) == kvm::uapi::cap::nr_memslots ? 512 : 0;
  }
  if (code == request::get_vcpu_mmap_size.code) {
    return static_cast<int>(kvm::detail::sys::page_size());
  }
  if (code == request::create_vm.code) {
    return ::open("/dev/null", O_RDWR | O_CLOEXEC);
  }
  if (code == request::set_user_memory_region.code) {
    const int error_number =
        kvm_test::set_region(*static_cast<const kvm::uapi::kvm_userspace_memory_region*>(argument));
    if (error_number == 0) {
      return 0;
    }
    errno = error_number;
    return -1;
  }
  return static_cast<int>(::syscall(SYS_ioctl, fd, code, argument));
}

#endif
