// SPDX-License-Identifier: MIT
// Every public template of the library, instantiated. What is no template, the compiler is told to
// emit (-fkeep-inline-functions, -femit-all-decls).
#include <kvm/kvm.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <type_traits>
#include <utility>

namespace {

using Scope = kvm::uapi::Scope;

// NOLINTBEGIN(bugprone-use-after-move,clang-analyzer-cplusplus.Move): it is not run
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
// NOLINTEND(bugprone-use-after-move,clang-analyzer-cplusplus.Move)

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

template <class T, class Reader, class At>
void accesses(Reader& reader, At at) {
  static_cast<void>(reader.template read<T>(at));
  static_cast<void>(reader.template write<T>(at, T{}));
}

void memory(kvm::Vm& vm, kvm::Vcpu& vcpu, kvm::MemorySlot& slot) {
  using kvm::Gpa;
  kvm::GuestMemory::View view = vm.memory().view();
  kvm::GfnToHvaCache cache(vm.memory(), Gpa{0}, 64);
  accesses<std::uint8_t>(view, Gpa{0});
  accesses<std::uint16_t>(view, Gpa{0});
  accesses<std::uint32_t>(view, Gpa{0});
  accesses<std::uint64_t>(view, Gpa{0});
  accesses<kvm::uapi::kvm_dirty_gfn>(view, Gpa{0});
  accesses<std::uint8_t>(cache, std::uint64_t{0});
  accesses<std::uint16_t>(cache, std::uint64_t{0});
  accesses<std::uint32_t>(cache, std::uint64_t{0});
  accesses<std::uint64_t>(cache, std::uint64_t{0});
  accesses<kvm::uapi::kvm_dirty_gfn>(cache, std::uint64_t{0});
  static_cast<void>(view.atomic_load<std::uint64_t>(Gpa{0}));
  static_cast<void>(view.atomic_store<std::uint64_t>(Gpa{0}, 0));
  static_cast<void>(view.atomic_exchange<std::uint64_t>(Gpa{0}, 0));
  static_cast<void>(view.atomic_compare_exchange<std::uint64_t>(Gpa{0}, 0, 0));
  static_cast<void>(view.atomic_fetch_or<std::uint64_t>(Gpa{0}, 0));
  static_cast<void>(view.atomic_fetch_and<std::uint64_t>(Gpa{0}, 0));
  static_cast<void>(view.atomic_fetch_add<std::uint64_t>(Gpa{0}, 0));
  const auto observation = vm.memory().observe([](const kvm::MemoryChange&) noexcept {});
  result(slot.try_remove());
  kvm::DirtyBitmap bitmap(slot);
  bitmap.for_each_run([](std::uint64_t, std::uint64_t) {});
  kvm::DirtyLog log(slot);
  log.harvest([](kvm::GfnRange) {});
  static_cast<void>(log.try_harvest([](kvm::GfnRange) { return true; }));
  kvm::DirtyRing ring(vcpu);
  ring.harvest([](kvm::SlotId, std::uint64_t) {});
  static_cast<void>(ring.try_harvest([](kvm::SlotId, std::uint64_t) { return true; }));
  kvm::DirtyTracker tracker = vm.track_dirty();
  kvm::DirtySubscription subscription = tracker.subscribe();
  subscription.harvest([](const kvm::DirtyPages&) {});
  static_cast<void>(subscription.try_harvest([](const kvm::DirtyPages&) { return true; }));
}

void interrupts(kvm::Vm& vm, kvm::Vcpu& vcpu) {
  using At = kvm::IoeventfdAddress;
  const kvm::EventFd event;
  result(kvm::EventFd::try_create());
  result(event.try_duplicate());
  static_cast<void>(event.read());
  event.signal();
  event.wait();
  static_cast<void>(event.wait(std::chrono::nanoseconds(1)));
  result(vm.try_create_irqfd(5, event));
  result(vm.try_create_irqfd(5, event, event));
  static_cast<void>(vm.create_irqfd(5, event));
  vm.create_irqfd(5, event, event).deassign();
  result(vm.try_create_ioeventfd(At::mmio<std::uint8_t>(kvm::Gpa{0}), event));
  result(vm.try_create_ioeventfd(At::mmio_any(kvm::Gpa{0}), event));
  vm.create_ioeventfd(At::mmio<std::uint32_t>(kvm::Gpa{0}), event, 1u).deassign();
  vm.set_gsi_routing(kvm::IrqRouting::x86_default().msi(24, 0, 0, 0).hv_sint(25, 0, 0).remove(1));
  vm.set_gsi_routing(kvm::IrqRouting::arm64_default(1));
  kvm::CoalescedRing ring = vm.create_coalesced_ring(vcpu);
  kvm::CoalescedZone zone = ring.create_zone(kvm::CoalescedRange::mmio(kvm::Gpa{0}, 1));
  zone.unregister();
  result(ring.try_create_zone(kvm::CoalescedRange::mmio(kvm::Gpa{1}, 1)));
  result(vm.try_create_coalesced_ring(vcpu));
  static_cast<void>(ring.try_drain([](auto&&) {}));
  static_cast<void>(ring.drain([](auto&&) {}));
  static_cast<void>(ring.run(vcpu, [](auto&&) {}));
}

}  // namespace

/// Never called: it only has to compile and to be emitted.
int kvm_hpp_every_template(kvm::System& system, kvm::Vm& vm, kvm::Vcpu& vcpu, kvm::Device& device,
                           kvm::MemorySlot& slot) {
  any_handle(system);
  any_handle(vm);
  any_handle(vcpu);
  any_handle(device);
  capabilities(system, vm, vcpu);
  memory(vm, vcpu, slot);
  interrupts(vm, vcpu);
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
