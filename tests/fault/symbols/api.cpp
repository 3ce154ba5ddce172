// SPDX-License-Identifier: MIT
// Every public template of the library, instantiated. What is no template, the compiler is told to
// emit (-fkeep-inline-functions, -femit-all-decls).
#include <kvm/kvm.hpp>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <type_traits>
#include <utility>

namespace {

using Scope = kvm::uapi::Scope;

template <class T>
void result(kvm::Result<T>&& one) {
  kvm::Result<T> other(std::move(one));
  other = std::move(one);
  if (!other || !other.has_value()) {
    static_cast<void>(other.error());
  }
  static_cast<void>(std::as_const(other).value());
  static_cast<void>(*other);
  static_cast<void>(*std::as_const(other));
  static_cast<void>(*std::move(other));
  static_cast<void>(std::move(other).value());
  static_cast<void>(std::move(other).value_or(std::move(one).value()));
}

template <class H>
void any_handle(H& handle) {
  std::uint64_t value = 0;
  result(handle.try_ioctl(0));
  result(handle.try_ioctl(0, &value));
  static_cast<void>(handle.ioctl(0));
  static_cast<void>(handle.ioctl(0, &value));
  static_cast<void>(handle.try_has_device_attr(0, 0));
  static_cast<void>(handle.has_device_attr(0, 0));
  static_cast<void>(handle.try_get_device_attr(0, 0, value));
  handle.get_device_attr(0, 0, value);
  if constexpr (!std::is_base_of_v<kvm::detail::Handle<Scope::system>, H>) {
    static_cast<void>(handle.try_set_device_attr(0, 0, value));
    handle.set_device_attr(0, 0, value);
    static_cast<void>(handle.try_set_device_attr(0, 0));
    handle.set_device_attr(0, 0);
  }
}

void capabilities(kvm::System& system, kvm::Vm& vm, kvm::Vcpu& vcpu) {
  kvm::for_each_capability([&]<class C>(std::type_identity<C>) {
    static_cast<void>(system.try_check<C>());
    static_cast<void>(system.check<C>());
    static_cast<void>(vm.try_check<C>());
    static_cast<void>(kvm::cap::to_string(vm.check<C>()));
    if constexpr (kvm::detail::Enableable<C, Scope::vm>) {
      static_cast<void>(vm.try_enable(C{}));
      vm.enable(C{});
    }
    if constexpr (kvm::detail::Enableable<C, Scope::vcpu>) {
      static_cast<void>(vcpu.try_enable(C{}));
      vcpu.enable(C{});
    }
  });
}

template <class... Ts>
int visit_each(const kvm::Exit& exit, kvm::detail::TypeList<Ts...>) {
  return exit.visit([](Ts) { return 1; }...);
}

}  // namespace

/// Never called: it only has to compile and to be emitted.
int kvm_hpp_every_template(kvm::System& system, kvm::Vm& vm, kvm::Vcpu& vcpu, kvm::Device& device) {
  any_handle(system);
  any_handle(vm);
  any_handle(vcpu);
  any_handle(device);
  capabilities(system, vm, vcpu);
  static_cast<void>(system.check_raw(0));
  static_cast<void>(vm.check_raw(0));
  vm.enable_raw(0);
  vcpu.enable_raw(0);
  result(system.try_create_vm());
  result(vm.try_create_vcpu(0));
  result(vm.try_create_device(kvm::DeviceType::vfio));
  result(kvm::Mapping::try_anonymous(4096));
  result(vm.try_create_guest_memfd(4096));
  result(vm.try_add_memory(kvm::Gpa{0}, kvm::Mapping::anonymous(4096)));
  result(vcpu.try_entry_kicker());
  result(kvm::System::try_open());
  static_cast<void>(vcpu.try_get_one_reg<std::uint64_t>(0));
  static_cast<void>(vcpu.get_one_reg<std::uint64_t>(0));
  static_cast<void>(vcpu.try_set_one_reg(0, std::uint64_t{0}));
  vcpu.set_one_reg(0, std::uint64_t{0});
  const kvm::Exit exit = vcpu.run();
  return visit_each(exit, kvm::detail::HostExits{}) + exit.visit([](auto&&) { return 0; });
}
