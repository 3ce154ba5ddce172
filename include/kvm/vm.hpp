// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_VM_HPP
#define KVM_HPP_VM_HPP

#include <kvm/detail/kernel_header.hpp>
#if !KVM_HPP_REFUSED

#include <kvm/capability.hpp>
#include <kvm/detail/capability_handle.hpp>
#include <kvm/detail/vm_capabilities.hpp>
#include <kvm/detail/vm_state.hpp>
#include <kvm/device.hpp>
#include <kvm/irq/coalesced.hpp>
#include <kvm/irq/event_fd.hpp>
#include <kvm/irq/ioeventfd.hpp>
#include <kvm/irq/irqfd.hpp>
#include <kvm/irq/routing.hpp>
#include <kvm/memory/dirty_tracker.hpp>
#include <kvm/memory/guest_memfd.hpp>
#include <kvm/memory/guest_memory.hpp>
#include <kvm/memory/mapping.hpp>
#include <kvm/memory/memory_slot.hpp>
#include <kvm/types.hpp>
#include <kvm/vcpu.hpp>
#if KVM_HPP_ARCH_X86
#include <kvm/x86/vm.hpp>
#elif KVM_HPP_ARCH_ARM64
#include <kvm/arm64/vm.hpp>
#else
#include <kvm/riscv/vm.hpp>
#endif

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <type_traits>
#include <utility>

KVM_HPP_BEGIN

namespace detail {
#if KVM_HPP_ARCH_X86
using ArchVm = x86::VmCalls<>;
#elif KVM_HPP_ARCH_ARM64
using ArchVm = arm64::VmCalls<>;
#else
using ArchVm = riscv::VmCalls<>;
#endif
}  // namespace detail

/// The kind of VM that KVM_CREATE_VM makes: 0 is the ordinary one.
/// KVM_CAP_VM_TYPES says which others x86 has; any number can be given.
struct VmType {
  /// The argument of KVM_CREATE_VM.
  std::uint64_t value = 0;

  constexpr VmType() = default;
  /// Any number.
  constexpr explicit VmType(std::uint64_t raw) : value(raw) {}

#if KVM_HPP_ARCH_X86
  /// Guest memory can be private, guarded by software only: to develop with.
  static constexpr VmType sw_protected() { return VmType(uapi::vm_type::sw_protected_vm); }
  /// AMD SEV: the guest's memory is encrypted.
  static constexpr VmType sev() { return VmType(uapi::vm_type::sev_vm); }
  /// AMD SEV-ES: its registers as well.
  static constexpr VmType sev_es() { return VmType(uapi::vm_type::sev_es_vm); }
  /// AMD SEV-SNP: and its memory cannot be remapped unseen.
  static constexpr VmType snp() { return VmType(uapi::vm_type::snp_vm); }
  /// Intel TDX.
  static constexpr VmType tdx() { return VmType(uapi::vm_type::tdx_vm); }
#elif KVM_HPP_ARCH_ARM64
  /// Guest physical addresses of `bits` bits: 32 to what
  /// system.check<cap::ArmVmIpaSize>() gives. The ordinary VM has 40.
  static constexpr VmType ipa_bits(unsigned bits) {
    return VmType(bits & uapi::vm_type::arm_ipa_size_mask);
  }
#endif
};

/// A virtual machine: its memory, vCPUs and devices. What is made from it keeps
/// it alive and may outlive this handle. Any thread may use it.
class [[nodiscard]] Vm : public detail::ArchVm {
 public:
  Vm(Vm&&) noexcept = default;
  Vm& operator=(Vm&&) noexcept = default;

  /// Adds memory to the guest (KVM_SET_USER_MEMORY_REGION) under a free slot
  /// id. On failure `memory` is untouched, still the caller's.
  /// @param gpa    where the guest sees it, a multiple of the page size
  /// @param memory what backs it, from then on owned by the slot
  Result<MemorySlot> try_add_memory(Gpa gpa, Mapping&& memory, const MemoryOptions& options = {}) {
    constexpr auto request = uapi::request::set_user_memory_region;
    if (!state_) {
      return failure(request.name, EBADF);
    }
    if (memory.data() == nullptr) {
      return detail::make_error(EINVAL, request.name, detail::text("gpa=", detail::Hex{gpa.value}),
                                "the mapping is empty");
    }
    const std::uint32_t flags = (options.log_dirty ? uapi::mem::log_dirty_pages : 0u) |
                                (options.read_only ? uapi::mem::readonly : 0u) |
                                (options.guest_memfd != nullptr ? uapi::mem::guest_memfd : 0u);
    auto slot =
        state_->add({.address_space = options.address_space,
                     .gpa = gpa,
                     .flags = flags,
                     .guest_memfd = options.guest_memfd != nullptr ? options.guest_memfd->fd() : -1,
                     .guest_memfd_offset = options.guest_memfd_offset},
                    memory);
    if (!slot) {
      return slot.error();
    }
    return MemorySlot(state_, std::move(slot).value());
  }
  [[nodiscard("dropping the slot takes the memory from the guest")]] MemorySlot add_memory(
      Gpa gpa, Mapping&& memory, const MemoryOptions& options = {}) {
    return try_add_memory(gpa, std::move(memory), options).value();
  }

  /// Makes guest memory that lives in a file of KVM's own
  /// (KVM_CREATE_GUEST_MEMFD), for MemoryOptions::guest_memfd. Needs
  /// cap::GuestMemfd.
  /// @param size  in bytes, a positive multiple of the page size
  /// @param flags of those that check<cap::GuestMemfdFlags>() gives
  Result<GuestMemfd> try_create_guest_memfd(std::uint64_t size,
                                            Flags<cap::GuestMemfdFlag> flags = {}) {
    if (!state_) {
      return failure(uapi::request::create_guest_memfd.name, EBADF);
    }
    return GuestMemfd::try_create(state_, size, flags);
  }
  GuestMemfd create_guest_memfd(std::uint64_t size, Flags<cap::GuestMemfdFlag> flags = {}) {
    return try_create_guest_memfd(size, flags).value();
  }

  /// Makes a vCPU (KVM_CREATE_VCPU). On x86 with an in-kernel irqchip the first
  /// one is runnable and the others wait to be started.
  ///
  /// KVM never gives an id back: it stays taken when the handle is dropped, and
  /// also when the vCPU was made but mapping its run page or its dirty ring failed.
  Result<Vcpu> try_create_vcpu(VcpuId id) {
    constexpr auto request = uapi::request::create_vcpu;
    const auto arguments = [&] { return detail::text("id=", id.value); };
    if (!state_) {
      return failure(request.name, EBADF, arguments());
    }
    const int fd = call(request, std::uint64_t{id.value});
    if (fd < 0) {
      const int error_number = errno;
      return failure(request.name, error_number, arguments(), explain_create(error_number, id));
    }
    state_->vcpus_exist = true;
    Fd owned(fd);
    auto pages =
        detail::VcpuPages::try_map("mmap of the vCPU's run page", fd, state_->vcpu_mmap_size());
    if (!pages) {
      return pages.error();
    }
    auto control = std::make_shared<detail::RunControl>(std::move(*pages));
    if (state_->rings.bytes() != 0) {
      auto ring = state_->rings.try_add(fd, id, control, *state_->ids());
      if (!ring) {
        return ring.error();
      }
    }
    return Vcpu(state_, std::move(owned), std::move(control), id);
  }
  Vcpu create_vcpu(VcpuId id) { return try_create_vcpu(id).value(); }

  /// Makes an in-kernel device (KVM_CREATE_DEVICE).
  Result<Device> try_create_device(DeviceType type, std::uint32_t flags = 0) {
    constexpr auto request = uapi::request::create_device;
    if ((flags & uapi::create_device_flag::test) != 0) {
      return detail::make_error(
          EINVAL, request.name,
          detail::text("type=", static_cast<std::uint32_t>(type), ", flags=", flags),
          "a test makes no device: use has_device()");
    }
    // Not 0, which is a descriptor, should KVM leave the field alone.
    uapi::kvm_create_device arguments{
        .type = static_cast<std::uint32_t>(type), .fd = ~std::uint32_t{0}, .flags = flags};
    if (call(request, &arguments) < 0) {
      const int error_number = errno;
      return failure(request.name, error_number,
                     detail::text("type=", static_cast<std::uint32_t>(type), ", flags=", flags),
                     error_number == ENODEV   ? "this KVM has no such kind of device"
                     : error_number == EBUSY  ? "the VM has its one device of this kind already"
                     : error_number == EEXIST ? "the VM has a device of this kind already"
                                              : "");
    }
    return Device(state_, Fd(static_cast<int>(arguments.fd)));
  }
  Device create_device(DeviceType type, std::uint32_t flags = 0) {
    return try_create_device(type, flags).value();
  }

  /// Whether this KVM has that kind of device (KVM_CREATE_DEVICE_TEST).
  Result<bool> try_has_device(DeviceType type) const {
    constexpr auto request = uapi::request::create_device;
    const uapi::kvm_create_device arguments{
        .type = static_cast<std::uint32_t>(type), .fd = 0, .flags = uapi::create_device_flag::test};
    if (call(request, &arguments) == 0) {
      return true;
    }
    const int error_number = errno;
    if (error_number == ENODEV) {
      return false;
    }
    return failure(request.name, error_number,
                   detail::text("type=", static_cast<std::uint32_t>(type)));
  }
  bool has_device(DeviceType type) const { return try_has_device(type).value(); }

  /// Has an eventfd raise an interrupt (KVM_IRQFD), until the Irqfd is dropped.
  /// KVM raises it at once if the eventfd counts something already. Needs an
  /// interrupt controller in the kernel, on arm64 an initialised one.
  /// @param gsi   which, by the routing table; one that goes nowhere is raised
  ///              in vain
  /// @param event without an Irqfd of this VM yet, or on recent kernels of any:
  ///              EBUSY. Need not outlive this call
  Result<Irqfd> try_create_irqfd(std::uint32_t gsi, const EventFd& event) {
    return Irqfd::try_create(state_, gsi, event, nullptr);
  }
  Irqfd create_irqfd(std::uint32_t gsi, const EventFd& event) {
    return try_create_irqfd(gsi, event).value();
  }
  /// The same for an interrupt that is a level, where cap::IrqfdResample is: it
  /// stays raised until the guest has acknowledged it, which `resample` then
  /// tells. All Irqfds of one gsi must be such.
  /// @param resample may be shared by several; KVM holds on to it as well
  Result<Irqfd> try_create_irqfd(std::uint32_t gsi, const EventFd& event, const EventFd& resample) {
    return Irqfd::try_create(state_, gsi, event, &resample);
  }
  Irqfd create_irqfd(std::uint32_t gsi, const EventFd& event, const EventFd& resample) {
    return try_create_irqfd(gsi, event, resample).value();
  }

  /// Has the guest's writes to one address signal an eventfd, rather than be
  /// exits, until the Ioeventfd is dropped (KVM_IOEVENTFD):
  ///
  ///     vm.create_ioeventfd(kvm::IoeventfdAddress::mmio<std::uint32_t>(notify), event);
  ///
  /// EEXIST if there is one that takes some of the same writes.
  /// @param event need not outlive this call
  template <class T>
  Result<Ioeventfd> try_create_ioeventfd(IoeventfdAt<T> at, const EventFd& event) {
    return Ioeventfd::try_create(state_, event, Ioeventfd::arguments_for(at));
  }
  template <class T>
  Ioeventfd create_ioeventfd(IoeventfdAt<T> at, const EventFd& event) {
    return try_create_ioeventfd(at, event).value();
  }
  /// The same for writes of one value; others go on being exits. Several values
  /// of one address may have an Ioeventfd each.
  /// @param datamatch the value, of the type that names the width
  template <class T, class Value>
  Result<Ioeventfd> try_create_ioeventfd(IoeventfdAt<T> at, const EventFd& event, Value datamatch) {
    static_assert(!std::is_void_v<T>,
                  "kvm-hpp: where writes of any width count, their value cannot");
    static_assert(std::is_void_v<T> || std::same_as<T, Value>,
                  "kvm-hpp: datamatch must have the type that names the address's width, such as "
                  "std::uint16_t{1}");
    auto arguments = Ioeventfd::arguments_for(at);
    arguments.flags |= uapi::ioeventfd_flag::datamatch;
    arguments.datamatch = static_cast<std::uint64_t>(datamatch);
    return Ioeventfd::try_create(state_, event, arguments);
  }
  template <class T, class Value>
  Ioeventfd create_ioeventfd(IoeventfdAt<T> at, const EventFd& event, Value datamatch) {
    return try_create_ioeventfd(at, event, datamatch).value();
  }

  /// Says where each interrupt goes (KVM_SET_GSI_ROUTING), in place of all that
  /// was said before: what the table leaves out goes nowhere. Irqfds follow at
  /// once, also while the guest runs; so lower a level that is raised before its
  /// gsi goes elsewhere, or it stays raised where it was. Needs an interrupt
  /// controller in the kernel. On arm64 and riscv an initialised one:
  /// initialising it sets the table that KVM begins with.
  Result<void> try_set_gsi_routing(const IrqRouting& routing) {
    constexpr auto request = uapi::request::set_gsi_routing;
    const auto arguments = [&] { return detail::text("entries=", routing.entries().size()); };
    if (routing.entries().size() > IrqRouting::max_entries) {
      return failure(request.name, EINVAL, arguments(), routing.problem());
    }
    const auto message = routing.message();
    if (call(request, message.data()) < 0) {
      const int error_number = errno;
      return failure(request.name, error_number, arguments(),
                     error_number == EINVAL ? explain_routing(routing) : std::string());
    }
    return {};
  }
  void set_gsi_routing(const IrqRouting& routing) { try_set_gsi_routing(routing).value(); }

  /// Takes charge of the VM's ring of coalesced writes, from which zones are
  /// made. EBUSY while somebody else is: it has one consumer.
  /// @param vcpu any of this VM's, through which the ring is mapped; need not
  ///             outlive this call
  Result<CoalescedRing> try_create_coalesced_ring(const Vcpu& vcpu) {
    constexpr const char* operation = "Vm::create_coalesced_ring";
    if (!state_ || !vcpu.vm()) {
      return detail::make_error(EBADF, operation, {}, "this handle is empty: it was moved from");
    }
    if (vcpu.vm() != state_) {
      return failure(operation, EINVAL, detail::text("vcpu=", vcpu.id().value),
                     "the vCPU is another VM's");
    }
    return CoalescedRing::try_open(state_, vcpu.fd());
  }
  CoalescedRing create_coalesced_ring(const Vcpu& vcpu) {
    return try_create_coalesced_ring(vcpu).value();
  }

  /// Enables a capability on this VM (KVM_ENABLE_CAP). One that is enabled on a
  /// vCPU, belongs to another architecture or can only be checked does not
  /// compile. KVM decides about the arguments; refused beforehand is only a
  /// dirty ring together with initially_set, which loses dirty pages.
  template <class C>
  Result<void> try_enable(const C& capability) {
    detail::require_enableable<C, uapi::Scope::vm>();
    if constexpr (detail::Enableable<C, uapi::Scope::vm>) {
      constexpr auto request = uapi::request::enable_cap;
      if (!state_) {
        return failure(request.name, EBADF, C::info.name);
      }
      if (foreign()) {  // Another thread may have held the lock at the fork.
        return failure(request.name, EIO, detail::describe_enabling(capability));
      }
      const std::lock_guard lock(state_->enabling);
      if (const char* loss = detail::data_loss(*state_, capability)) {
        return failure(request.name, EINVAL, detail::describe_enabling(capability), loss);
      }
      auto result = enable_typed(capability, state_->vcpus_exist, state_->slots_exist());
      if (result) {
        detail::note_enabled(*state_, capability);
      }
      return result;
    } else {
      return {};
    }
  }
  template <class C>
  void enable(const C& capability) {
    try_enable(capability).value();
  }

  /// All memory slots of one address space as their readers see them.
  /// @param address_space 1 is what x86 sees in system management mode; EINVAL
  ///                      where the host has no such one
  Result<GuestMemory> try_memory(std::uint16_t address_space = 0) const {
    if (!state_) {
      return failure("Vm::memory", EBADF);
    }
    auto space = state_->try_address_space(address_space);
    if (!space) {
      return space.error();
    }
    return GuestMemory(state_, *space, address_space);
  }
  GuestMemory memory(std::uint16_t address_space = 0) const {
    return try_memory(address_space).value();
  }

  /// Begins to track which pages are written (see DirtyTracker), and enables
  /// what that takes. DirtyMode::ring comes before the first vCPU, and on arm64
  /// before the first slot; the others come any time.
  ///
  /// Fails with EBUSY if the VM has a tracker, or a ring has a DirtyRing;
  /// EOPNOTSUPP if KVM does not offer the mode; EINVAL if the mode and what is
  /// enabled exclude each other.
  Result<DirtyTracker> try_track_dirty(DirtyMode mode = DirtyMode::automatic,
                                       const DirtyTrackerOptions& options = {});
  DirtyTracker track_dirty(DirtyMode mode = DirtyMode::automatic,
                           const DirtyTrackerOptions& options = {}) {
    return try_track_dirty(mode, options).value();
  }

  /// How many mappings are kept, with their slots, because KVM refused to delete
  /// those or because they were dropped within an observer.
  std::size_t parked_mappings() const noexcept { return state_ ? state_->parked() : 0; }

 private:
  friend class System;

  explicit Vm(std::shared_ptr<detail::VmState> state) noexcept
      : detail::ArchVm(state->fd()), state_(std::move(state)) {}

  /// Enables what a mode needs.
  Result<void> try_enable_tracking(DirtyMode mode, const DirtyTrackerOptions& options);
  Result<void> try_enable_rings(const DirtyTrackerOptions& options);

  std::string explain_create(int error_number, VcpuId id) const {
    switch (error_number) {
      case EEXIST:
        return detail::text("the VM has had a vCPU ", id.value,
                            " already: ids stay taken when the handle is dropped");
      case EINVAL: {
        int limit = call(uapi::request::check_extension, uapi::cap::max_vcpu_id);
        if (const int set = state_->vcpu_id_limit; set != 0 && set < limit) {
          limit = set;  // KVM goes on reporting what could have been set.
        }
        if (limit > 0 && id.value >= static_cast<std::uint32_t>(limit)) {
          return detail::text("the id is too large: this VM's are below ", limit);
        }
        return "the VM has as many vCPUs as it can have, or its interrupt controller takes no "
               "vCPU with this id";
      }
      case EBUSY:
        return "too late: the interrupt controller is initialised already";
      case ENOMEM:
        return "the host is out of memory";
      default:
        return {};
    }
  }

  static std::string explain_routing(const IrqRouting& routing) {
    std::string problem = routing.problem();
    return !problem.empty() ? std::move(problem)
                            : "the VM has no interrupt controller in the kernel, or an entry names "
                              "a chip, a pin or a kind of target that it does not have";
  }

  std::shared_ptr<detail::VmState> state_;
};

inline Result<DirtyTracker> Vm::try_track_dirty(DirtyMode mode,
                                                const DirtyTrackerOptions& options) {
  constexpr const char* operation = "Vm::track_dirty";
  if (!state_) {
    return failure(operation, EBADF);
  }
  if (foreign()) {
    return failure(operation, EIO);
  }
  if (mode < DirtyMode::log || mode > DirtyMode::automatic) {
    return failure(operation, EINVAL, detail::text("mode=", static_cast<int>(mode)),
                   "there is no such mode");
  }
  if (mode == DirtyMode::automatic) {
    using Manual = cap::ManualDirtyLogProtect2;
    mode = state_->dirty_ring                                              ? DirtyMode::ring
           : call(uapi::request::check_extension, Manual::info.number) > 0 ? DirtyMode::manual
                                                                           : DirtyMode::log;
  }
  if (state_->tracked.exchange(true)) {
    return failure(operation, EBUSY, {},
                   "the VM has a DirtyTracker, or subscriptions of one are left");
  }
  struct Unclaim {
    detail::VmState* state;
    ~Unclaim() {
      if (state != nullptr) {
        state->tracked = false;
      }
    }
  } unclaim{state_.get()};
  if (auto enabled = try_enable_tracking(mode, options); !enabled) {
    return enabled.error();
  }
  const bool rings = mode == DirtyMode::ring;
  auto collector = std::make_shared<detail::DirtyCollector>(state_, rings);
  unclaim.state = nullptr;  // The collector has it now.
  if (rings) {
    const std::lock_guard lock(state_->rings.mutex);
    for (const auto& ring : state_->rings.all()) {
      if (ring->claimed) {
        return failure(operation, EBUSY, {}, "a DirtyRing harvests a vCPU's ring");
      }
    }
    state_->rings.tracked = true;
  }
  return DirtyTracker(std::move(collector), mode);
}

inline Result<void> Vm::try_enable_tracking(DirtyMode mode, const DirtyTrackerOptions& options) {
  if (mode == DirtyMode::ring) {
    return state_->dirty_ring ? Result<void>() : try_enable_rings(options);
  }
  if (state_->dirty_ring) {
    return failure("Vm::track_dirty", EINVAL, {},
                   "the VM has dirty rings, so that the guest's writes are in no log: use "
                   "DirtyMode::ring");
  }
  const bool manual = mode == DirtyMode::manual;
  if (!manual && !state_->manual_protect) {
    return {};
  }
  return try_enable(cap::ManualDirtyLogProtect2{.enabled = manual,
                                                .initially_set = manual && options.initially_set});
}

inline Result<void> Vm::try_enable_rings(const DirtyTrackerOptions& options) {
  const auto offers = [this](unsigned number) {
    return call(uapi::request::check_extension, number) > 0;
  };
#if KVM_HPP_ARCH_ARM64
  const bool with_bitmap = offers(uapi::cap::dirty_log_ring_with_bitmap);
  if (with_bitmap && state_->slots_exist()) {
    return failure("Vm::track_dirty", EINVAL, {},
                   "on arm64 dirty rings come with a bitmap, which must be enabled before the "
                   "first memory slot");
  }
#endif
  if (offers(uapi::cap::dirty_log_ring_acq_rel)) {
    if (auto enabled = try_enable(cap::DirtyLogRingAcqRel{.bytes = options.ring_bytes}); !enabled) {
      return enabled;
    }
#if KVM_HPP_ARCH_ARM64
    return with_bitmap ? try_enable(cap::DirtyLogRingWithBitmap{}) : Result<void>();
#else
    return {};
#endif
  }
#if KVM_HPP_ARCH_X86
  if (offers(uapi::cap::dirty_log_ring)) {  // Before 6.1.
    return try_enable(cap::DirtyLogRing{.bytes = options.ring_bytes});
  }
#endif
  return failure("Vm::track_dirty", EOPNOTSUPP, {},
                 "this host offers no dirty rings (KVM_CAP_DIRTY_LOG_RING)");
}

KVM_HPP_END

#endif  // !KVM_HPP_REFUSED
#endif
