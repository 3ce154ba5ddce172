// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_X86_SYSTEM_HPP
#define KVM_HPP_X86_SYSTEM_HPP

#include <kvm/detail/kernel_header.hpp>
#if !KVM_HPP_REFUSED && KVM_HPP_ARCH_X86

#include <kvm/detail/capability_handle.hpp>
#include <kvm/x86/cpuid.hpp>
#include <kvm/x86/msr.hpp>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

KVM_HPP_BEGIN
namespace x86 {

/// What the system has on this architecture only. Any thread may use it.
template <class = void>
class SystemCalls : public detail::CapabilityHandle<uapi::Scope::system> {
 public:
  /// What a guest's CPUID can offer on this host (KVM_GET_SUPPORTED_CPUID): what
  /// to start a guest's table from. Some bits need more than the table, an
  /// in-kernel APIC or an enabled capability: see the kernel's documentation.
  Result<Cpuid> try_supported_cpuid() const {
    return table(uapi::request::get_supported_cpuid, nullptr);
  }
  Cpuid supported_cpuid() const { return try_supported_cpuid().value(); }

  /// What KVM emulates in software, slowly, though the host's CPU lacks it
  /// (KVM_GET_EMULATED_CPUID).
  Result<Cpuid> try_emulated_cpuid() const {
    return table(uapi::request::get_emulated_cpuid, nullptr);
  }
  Cpuid emulated_cpuid() const { return try_emulated_cpuid().value(); }

  /// The Hyper-V leaves that a guest can be offered (KVM_GET_SUPPORTED_HV_CPUID),
  /// where cap::SysHypervCpuid is.
  Result<Cpuid> try_supported_hv_cpuid() const {
    return table(uapi::request::get_supported_hv_cpuid,
                 "this KVM has no Hyper-V support, or only lists it for a vCPU");
  }
  Cpuid supported_hv_cpuid() const { return try_supported_hv_cpuid().value(); }

  /// The MSRs that a guest's state is made of (KVM_GET_MSR_INDEX_LIST): what
  /// Vcpu::save_state() wants. A vCPU need not have all of them.
  Result<std::vector<std::uint32_t>> try_msr_index_list() const {
    return list(uapi::request::get_msr_index_list);
  }
  std::vector<std::uint32_t> msr_index_list() const { return try_msr_index_list().value(); }

  /// The MSRs that describe features, for get_msrs()
  /// (KVM_GET_MSR_FEATURE_INDEX_LIST).
  Result<std::vector<std::uint32_t>> try_msr_feature_index_list() const {
    return list(uapi::request::get_msr_feature_index_list);
  }
  std::vector<std::uint32_t> msr_feature_index_list() const {
    return try_msr_feature_index_list().value();
  }

  /// Reads MSRs that describe features, what this KVM can offer a guest in them
  /// (KVM_GET_MSRS on the system).
  /// @return how many were read; if less than all, it is the index of the first
  ///         that KVM refused (R80)
  Result<std::size_t> try_get_msrs(std::span<uapi::kvm_msr_entry> msrs) const {
    constexpr auto request = uapi::request::get_msrs;
    const auto transfer =
        detail::transfer_msrs(msrs, [&](void* block) { return call(request, block); });
    if (transfer.failed) {
      const int error_number = errno;
      return failure(request.name, error_number,
                     detail::text("nmsrs=", msrs.size(), ", processed=", transfer.done));
    }
    return transfer.done;
  }
  std::size_t get_msrs(std::span<uapi::kvm_msr_entry> msrs) const {
    return try_get_msrs(msrs).value();
  }

  /// The bits of IA32_MCG_CAP that Vcpu::setup_mce() takes
  /// (KVM_X86_GET_MCE_CAP_SUPPORTED).
  Result<std::uint64_t> try_mce_cap_supported() const {
    constexpr auto request = uapi::request::x86_get_mce_cap_supported;
    std::uint64_t bits = 0;
    if (call(request, &bits) < 0) {
      return failure(request.name, errno);
    }
    return bits;
  }
  std::uint64_t mce_cap_supported() const { return try_mce_cap_supported().value(); }

 protected:
  using CapabilityHandle::CapabilityHandle;

 private:
  template <uapi::Scopes R>
  Result<Cpuid> table(uapi::Request<R> request, const char* invalid) const {
    return detail::fetch_cpuid([&](void* buffer) { return call(request, buffer); },
                               [&](int error_number) {
                                 return failure(
                                     request.name, error_number, {},
                                     error_number == EINVAL && invalid != nullptr ? invalid : "");
                               });
  }
  template <uapi::Scopes R>
  Result<std::vector<std::uint32_t>> list(uapi::Request<R> request) const {
    return detail::fetch_msr_list(
        [&](void* buffer) { return call(request, buffer); },
        [&](int error_number) { return failure(request.name, error_number); });
  }
};

}  // namespace x86
KVM_HPP_END

#endif
#endif
