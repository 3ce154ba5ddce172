// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_TESTS_SUPPORT_ZEROED_PAGES_HPP
#define KVM_HPP_TESTS_SUPPORT_ZEROED_PAGES_HPP

#include <kvm/detail/vcpu_pages.hpp>
#include <kvm/fd.hpp>

#include <cstddef>

#include <fcntl.h>

/// @file
/// What a test gives out as pages that KVM shares.

namespace kvm_test {

inline kvm::detail::VcpuPages zeroed_pages(std::size_t size) {
  const kvm::Fd zero(::open("/dev/zero", O_RDWR | O_CLOEXEC));
  return kvm::detail::VcpuPages::try_map("mmap of zeroes", zero.get(), size).value();
}

}  // namespace kvm_test

#endif
