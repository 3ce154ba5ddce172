// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_VCPU_HPP
#define KVM_HPP_VCPU_HPP

#include <kvm/detail/kernel_header.hpp>
#if !KVM_HPP_REFUSED

#include <kvm/detail/vcpu_core.hpp>
#include <kvm/uapi/structs.hpp>
#if KVM_HPP_ARCH_X86
#include <kvm/x86/vcpu.hpp>
#elif KVM_HPP_ARCH_ARM64
#include <kvm/arm64/vcpu.hpp>
#else
#include <kvm/riscv/vcpu.hpp>
#endif

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

KVM_HPP_BEGIN

namespace detail {
#if KVM_HPP_ARCH_X86
using ArchVcpu = x86::VcpuCalls<>;
#elif KVM_HPP_ARCH_ARM64
using ArchVcpu = arm64::VcpuCalls<>;
#else
using ArchVcpu = riscv::VcpuCalls<>;
#endif
}  // namespace detail

/// A virtual CPU: made by Vm::create_vcpu, run by one thread at a time. All its
/// calls block while it runs in another thread (R14): stop it with a Kicker
/// first. Dropping it ends nothing in KVM but this handle: the VM keeps the
/// vCPU, and its id stays taken. It must not be dropped, moved or assigned to
/// while a thread is in its run(): kick, join, then drop. (Dropping it aborts
/// the program then, rather than leave a guest that nobody can stop.)
class [[nodiscard]] Vcpu : public detail::ArchVcpu {
 public:
  Vcpu(Vcpu&&) noexcept = default;
  Vcpu& operator=(Vcpu&&) noexcept = default;

  /// Enables a capability on this vCPU (KVM_ENABLE_CAP). One that is enabled
  /// on a VM, belongs to another architecture or can only be checked does not
  /// compile.
  template <class C>
  Result<void> try_enable(const C& capability) {
    detail::require_enableable<C, uapi::Scope::vcpu>();
    if constexpr (detail::Enableable<C, uapi::Scope::vcpu>) {
      return enable_typed(capability, true, false);
    } else {
      return {};
    }
  }
  template <class C>
  void enable(const C& capability) {
    try_enable(capability).value();
  }

  /// Reads one register by its id (KVM_GET_ONE_REG); the id says how wide it
  /// is, and T must be as wide. Ids are in uapi::reg and the kernel's headers.
  template <class T>
  Result<T> try_get_one_reg(std::uint64_t id) const {
    static_assert(std::is_trivially_copyable_v<T>, "a register's type must be trivially copyable");
    T value{};
    if (auto result = one_reg(uapi::request::get_one_reg, id, &value, sizeof value); !result) {
      return result.error();
    }
    return value;
  }
  template <class T>
  T get_one_reg(std::uint64_t id) const {
    return try_get_one_reg<T>(id).value();
  }

  /// Writes one register by its id (KVM_SET_ONE_REG).
  template <class T>
  Result<void> try_set_one_reg(std::uint64_t id, const T& value) {
    static_assert(std::is_trivially_copyable_v<T>, "a register's type must be trivially copyable");
    if (completion_pending()) {
      return pending_failure(uapi::request::set_one_reg.name);
    }
    return one_reg(uapi::request::set_one_reg, id, &value, sizeof value);
  }
  template <class T>
  void set_one_reg(std::uint64_t id, const T& value) {
    try_set_one_reg(id, value).value();
  }

  /// The ids of the registers that one_reg reaches (KVM_GET_REG_LIST).
  template <class = void>
  Result<std::vector<std::uint64_t>> try_get_reg_list() const {
    constexpr auto request = uapi::request::get_reg_list;
    std::vector<std::uint64_t> list(1);  // The count, then the ids.
    for (;;) {
      list[0] = list.size() - 1;
      if (call(request, list.data()) == 0) {
        break;
      }
      // KVM writes back how many there are.
      if (errno != E2BIG || list[0] <= list.size() - 1) {
        const int error_number = errno;
        return failure(request.name, error_number, detail::text("n=", list.size() - 1));
      }
      list.resize(list[0] + 1);
    }
    list.resize(list[0] + 1);
    list.erase(list.begin());
    return list;
  }
  template <class = void>
  std::vector<std::uint64_t> get_reg_list() const {
    return try_get_reg_list().value();
  }

  /// Whether it runs, is halted or waits (KVM_GET_MP_STATE), see uapi::mp_state.
  Result<uapi::kvm_mp_state> try_get_mp_state() const {
    return try_get<uapi::kvm_mp_state>(uapi::request::get_mp_state);
  }
  uapi::kvm_mp_state get_mp_state() const {
    return get<uapi::kvm_mp_state>(uapi::request::get_mp_state);
  }
  /// KVM_SET_MP_STATE. On x86 needs an in-kernel local APIC for most states.
  Result<void> try_set_mp_state(const uapi::kvm_mp_state& state) {
    auto flushed = flush_synced();
    return flushed ? try_set(uapi::request::set_mp_state, state) : std::move(flushed);
  }
  void set_mp_state(const uapi::kvm_mp_state& state) { try_set_mp_state(state).value(); }

  /// Single steps and breakpoints (KVM_SET_GUEST_DEBUG): they come as
  /// exits::Debug. KVM on x86 takes control bits that it does not know (R84);
  /// this refuses those that KVM_CAP_SET_GUEST_DEBUG2 does not list.
  Result<void> try_set_guest_debug(const uapi::kvm_guest_debug& debug) {
    constexpr auto request = uapi::request::set_guest_debug;
    if (vm()) {
      const int known = vm()->call(uapi::request::check_extension, uapi::cap::set_guest_debug2);
      if (known > 0 && (debug.control & ~static_cast<std::uint32_t>(known)) != 0) {
        return detail::make_error(EINVAL, request.name,
                                  detail::text("control=", detail::Hex{debug.control}),
                                  detail::text("this host's control bits are ",
                                               detail::Hex{static_cast<std::uint32_t>(known)}));
      }
    }
    auto flushed = flush_synced();
    return flushed ? try_set(request, debug) : std::move(flushed);
  }
  void set_guest_debug(const uapi::kvm_guest_debug& debug) { try_set_guest_debug(debug).value(); }

 private:
  friend class Vm;
  friend class CoalescedRing;
  friend class DirtyRing;

  Vcpu(std::shared_ptr<detail::VmHandle> vm, Fd fd, std::shared_ptr<detail::RunControl> control,
       VcpuId id) noexcept
      : detail::ArchVcpu(std::move(vm), std::move(fd), std::move(control), id) {}

  template <uapi::Scopes R>
  Result<void> one_reg(uapi::Request<R> request, std::uint64_t id, const void* value,
                       std::size_t size) const {
    const auto arguments = [&] { return detail::text("id=", detail::Hex{id}); };
    // Bits 52 to 55 of an id are the logarithm of the register's width.
    const std::size_t width = std::size_t{1} << (id >> 52 & 0xf);
    if (width != size) {
      return failure(request.name, EINVAL, arguments(),
                     detail::text("the register is ", width, " bytes wide, the value ", size));
    }
    if (auto flushed = flush_synced(); !flushed) {
      return flushed;
    }
    const uapi::kvm_one_reg reg{.id = id, .addr = reinterpret_cast<std::uint64_t>(value)};
    if (call(request, &reg) < 0) {
      const int error_number = errno;
      return failure(request.name, error_number, arguments(),
                     error_number == ENOENT   ? "this vCPU has no such register"
                     : error_number == EINVAL ? "no such register, or a value that it cannot take"
                                              : "");
    }
    return {};
  }
};

KVM_HPP_END

#endif  // !KVM_HPP_REFUSED
#endif
