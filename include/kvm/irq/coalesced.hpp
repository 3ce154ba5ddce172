// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_IRQ_COALESCED_HPP
#define KVM_HPP_IRQ_COALESCED_HPP

#include <kvm/detail/kernel_header.hpp>
#if !KVM_HPP_REFUSED

#include <kvm/detail/coalesced.hpp>
#include <kvm/detail/exit_visitor.hpp>
#include <kvm/detail/thread_token.hpp>
#include <kvm/detail/vm_state.hpp>
#include <kvm/error.hpp>
#include <kvm/exits.hpp>
#include <kvm/types.hpp>
#include <kvm/vcpu.hpp>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <type_traits>
#include <utility>

KVM_HPP_BEGIN

/// A range of guest addresses whose writes are to be collected.
struct CoalescedRange {
  /// Where it begins: a gpa, or a port.
  std::uint64_t address = 0;
  std::uint32_t size = 0;  ///< bytes, fewer than 2 GiB
  /// Whether the addresses are ports.
  bool port = false;

  /// Of guest physical memory.
  static constexpr CoalescedRange mmio(Gpa gpa, std::uint32_t size) {
    return {.address = gpa.value, .size = size, .port = false};
  }
#if KVM_HPP_ARCH_X86
  /// Of ports, where cap::CoalescedPio is.
  static constexpr CoalescedRange pio(std::uint16_t port, std::uint32_t count) {
    return {.address = port, .size = count, .port = true};
  }
#endif
};

namespace detail {

#if KVM_HPP_ARCH_X86
using CoalescedWrites = TypeList<exits::MmioWrite, exits::IoOut>;
#else
using CoalescedWrites = TypeList<exits::MmioWrite>;
#endif

}  // namespace detail

/// A range whose writes don't stop the guest but wait in the VM's CoalescedRing
/// (KVM_REGISTER_COALESCED_MMIO). For registers that only take data, such as a
/// frame buffer or a port for messages, since the write is seen late. Reads,
/// writes that pass the range's end and writes while the ring is full are
/// ordinary exits.
///
/// Made by CoalescedRing::create_zone; ends when it or the ring is dropped. What
/// was written until then is still handed over. Any thread.
class [[nodiscard]] CoalescedZone {
 public:
  CoalescedZone(CoalescedZone&&) noexcept = default;
  CoalescedZone& operator=(CoalescedZone&& other) noexcept {
    if (this != &other) {
      drop();
      state_ = std::move(other.state_);
      zone_ = other.zone_;
    }
    return *this;
  }
  ~CoalescedZone() { drop(); }

  /// Which writes it collects.
  CoalescedRange range() const noexcept {
    return {.address = zone_.address, .size = zone_.size, .port = zone_.port};
  }

  /// Ends it before the object does, and tells whether that worked
  /// (KVM_UNREGISTER_COALESCED_MMIO). On failure it stays. Once it has ended,
  /// this does nothing.
  Result<void> try_unregister() {
    constexpr auto request = uapi::request::unregister_coalesced_mmio;
    if (!state_) {
      return {};
    }
    const int error_number = state_->foreign() ? EIO : state_->coalesced.remove(*state_, zone_.id);
    if (error_number != 0) {
      return state_->failure(request.name, error_number, describe(range()),
                             "the range is still coalesced");
    }
    state_.reset();
    return {};
  }
  void unregister() { try_unregister().value(); }

 private:
  friend class CoalescedRing;

  CoalescedZone(std::shared_ptr<detail::VmState> state,
                const detail::CoalescedZones::Zone& zone) noexcept
      : state_(std::move(state)), zone_(zone) {}

  static std::string describe(const CoalescedRange& range) {
    return detail::text(range.port ? "port=" : "gpa=", detail::Hex{range.address},
                        ", size=", range.size);
  }
  void drop() noexcept {
    if (state_ && !state_->foreign()) {
      state_->coalesced.remove(*state_, zone_.id);
    }
    state_.reset();
  }

  std::shared_ptr<detail::VmState> state_;
  detail::CoalescedZones::Zone zone_{};
};

/// The writes to a VM's coalesced zones, in the order in which the guest made
/// them. A VM has one such ring, for all its vCPUs, and so one consumer: made by
/// Vm::create_coalesced_ring, a second one is refused. Zones are made from it,
/// so that there are none whose writes nobody takes.
///
/// What the guest wrote before an exit must be dealt with before the exit is:
/// run vCPUs through run(), which does, or call drain() first thing after
/// Vcpu::run(), whatever the exit and whichever vCPU's. Then a device sees all
/// accesses in the guest's order.
///
/// Any thread, several at once: handlers run one at a time, and drain() returns
/// when the handlers for all that came before have returned, whoever called
/// them. So don't hold a lock across drain() that a handler takes.
class [[nodiscard]] CoalescedRing {
 public:
  CoalescedRing(CoalescedRing&&) noexcept = default;
  CoalescedRing& operator=(CoalescedRing&& other) noexcept {
    if (this != &other) {
      close();
      state_ = std::move(other.state_);
      pages_ = std::move(other.pages_);
      page_ = other.page_;
    }
    return *this;
  }
  /// Ends all zones. What was not drained stays for the VM's next ring.
  ~CoalescedRing() { close(); }

  /// How many writes it can hold; those beyond are exits. Kernels before 6.12
  /// miscount and call it full earlier, down to half of that.
  std::size_t capacity() const noexcept { return state_ ? page_.capacity() - 1 : 0; }

  /// Collects writes to a range from now on (KVM_REGISTER_COALESCED_MMIO). Leave
  /// out what an Ioeventfd listens to: which of the two KVM asks first depends on
  /// which was made first.
  /// EEXIST if another zone of the VM has a part of it: KVM would take it, and
  /// end both with either.
  Result<CoalescedZone> try_create_zone(const CoalescedRange& range) {
    constexpr auto request = uapi::request::register_coalesced_mmio;
    const auto arguments = [&] { return CoalescedZone::describe(range); };
    if (!state_) {
      return empty(request.name);
    }
    if (state_->foreign()) {  // Another thread may have held the lock at the fork.
      return state_->failure(request.name, EIO, arguments());
    }
    if (range.size > 0x7fff'ffff) {  // KVM would take it, and never find it again.
      return detail::make_error(EINVAL, request.name, arguments(), "a range is smaller than 2 GiB");
    }
    const std::uint64_t limit = range.port ? 0x10000 : ~std::uint64_t{0};
    if (range.size == 0 || range.address >= limit || range.size > limit - range.address) {
      return detail::make_error(EINVAL, request.name, arguments(),
                                "the range is empty or passes the end of the addresses");
    }
    detail::CoalescedZones::Zone zone{
        .address = range.address, .size = range.size, .port = range.port, .id = 0};
    if (const int error_number = state_->coalesced.add(*state_, zone); error_number != 0) {
      return state_->failure(request.name, error_number, arguments(),
                             error_number == EEXIST   ? "it overlaps another zone of this VM"
                             : error_number == ENOSPC ? "the VM has as many devices in the kernel "
                                                        "as KVM takes"
                                                      : "");
    }
    return CoalescedZone(state_, zone);
  }
  [[nodiscard("dropping the zone ends it")]] CoalescedZone create_zone(
      const CoalescedRange& range) {
    return try_create_zone(range).value();
  }

  /// Hands over what was written until now, each write to the handler for its
  /// exit, chosen as by Exit::visit: exits::MmioWrite, and on x86 exits::IoOut,
  /// with a handler for each or one with auto&&. The data is the handler's only
  /// while it runs.
  ///
  /// A write for which the handler throws is handed over again the next time.
  /// Takes a few loads if there is nothing, and never more than capacity()
  /// writes, whatever the guest goes on doing. Allocates nothing.
  ///
  /// EDEADLK from within a handler; EPROTO if the ring's page says what KVM
  /// would not: then someone else wrote to it.
  /// @return how many writes were handed over
  template <class... Handlers>
  Result<std::size_t> try_drain(Handlers&&... handlers) {
    check_handlers<Handlers...>();
    std::size_t count = 0;
    if (const int error_number = drain_into(count, handlers...); error_number != 0) [[unlikely]] {
      return failure(error_number);
    }
    return count;
  }
  template <class... Handlers>
  std::size_t drain(Handlers&&... handlers) {
    check_handlers<Handlers...>();
    std::size_t count = 0;
    if (const int error_number = drain_into(count, handlers...); error_number != 0) [[unlikely]] {
      detail::raise(failure(error_number));
    }
    return count;
  }

  /// Runs a vCPU of the VM and drains: what the guest wrote before the exit is
  /// dealt with when this returns it. A handler must not throw, or the exit is
  /// lost. Does not enter the guest if it could not drain: EDEADLK from within a
  /// handler, EINVAL for another VM's vCPU.
  template <class... Handlers>
  Exit run(Vcpu& vcpu, Handlers&&... handlers) {
    if (const int error_number = unusable(vcpu); error_number != 0) [[unlikely]] {
      detail::raise(failure(error_number));
    }
    const Exit exit = vcpu.run();
    drain(handlers...);
    return exit;
  }

 private:
  friend class Vm;

  using Entry = detail::CoalescedPage::Entry;

  CoalescedRing(std::shared_ptr<detail::VmState> state, detail::VcpuPages pages) noexcept
      : state_(std::move(state)), pages_(std::move(pages)), page_(pages_.data(), pages_.size()) {}

  /// For a VM that nobody has claimed the ring of.
  /// @param vcpu_fd of any of the VM's vCPUs
  static Result<CoalescedRing> try_open(const std::shared_ptr<detail::VmState>& state,
                                        int vcpu_fd) {
    constexpr const char* operation = "Vm::create_coalesced_ring";
    if (state->foreign()) {
      return state->failure(operation, EIO);
    }
    const int offset = state->call(uapi::request::check_extension, uapi::cap::coalesced_mmio);
    if (offset <= 0) {
      return offset < 0 ? state->failure(uapi::request::check_extension.name, errno,
                                         "KVM_CAP_COALESCED_MMIO")
                        : detail::make_error(EOPNOTSUPP, operation, {},
                                             "this KVM does not coalesce writes");
    }
    const std::size_t page = detail::sys::page_size();
    auto pages = detail::VcpuPages::try_map("mmap of the coalesced ring", vcpu_fd, page,
                                            static_cast<off_t>(page) * offset);
    if (!pages) {
      return pages.error();
    }
    if (!state->coalesced.claim()) {
      return detail::make_error(EBUSY, operation, {},
                                "the VM has a CoalescedRing already, and a ring has one consumer");
    }
    return CoalescedRing(state, std::move(*pages));
  }

  template <class... Handlers>
  static consteval void check_handlers() {
    using Set = detail::HandlerSet<detail::CoalescedWrites, std::remove_reference_t<Handlers>...>;
    static_assert(!Set::all_name_exits || Set::all_of_this_architecture,
                  "kvm-hpp: only writes are coalesced: exits::MmioWrite, and on x86 exits::IoOut");
    if constexpr (!Set::all_name_exits || Set::all_of_this_architecture) {
      Set::check();
    }
  }

  int unusable(const Vcpu& vcpu) const noexcept {
    return !state_               ? EBADF
           : state_->foreign()   ? EIO
           : vcpu.vm() != state_ ? EINVAL
           : state_->coalesced.consumer.load(std::memory_order_relaxed) == detail::this_thread()
               ? EDEADLK
               : 0;
  }

  /// @return 0, or an errno
  template <class... Handlers>
  int drain_into(std::size_t& count, Handlers&... handlers) {
    using Set = detail::HandlerSet<detail::CoalescedWrites, Handlers...>;
    if (!state_ || state_->foreign()) [[unlikely]] {
      return state_ ? EIO : EBADF;
    }
    if (page_.empty()) [[likely]] {
      return 0;
    }
    detail::CoalescedZones& shared = state_->coalesced;
    const std::uint64_t me = detail::this_thread();
    if (shared.consumer.load(std::memory_order_relaxed) == me) {
      return EDEADLK;
    }
    const Consuming consuming(shared, me);
    return page_.drain(count, [&](const Entry& entry) { call<Set>(entry, handlers...); });
  }

  template <class Set, class... Handlers>
  static void call(const Entry& entry, Handlers&... handlers) {
    const std::span<const std::byte> data =
        std::as_bytes(std::span(entry.data)).first(std::size_t{entry.len});
#if KVM_HPP_ARCH_X86
    if (entry.pio != 0) {
      exits::IoOut out{.port = static_cast<std::uint16_t>(entry.phys_addr),
                       .size = static_cast<std::uint8_t>(entry.len),
                       .count = 1,
                       .data = data};
      static_cast<void>(Set::call(out, handlers...));
      return;
    }
#endif
    exits::MmioWrite write{.gpa = Gpa(entry.phys_addr), .data = data};
    static_cast<void>(Set::call(write, handlers...));
  }

  /// While entries are handed over.
  struct Consuming {
    Consuming(detail::CoalescedZones& zones, std::uint64_t thread) : shared(zones) {
      shared.consuming.lock();
      shared.consumer.store(thread, std::memory_order_relaxed);
    }
    Consuming(const Consuming&) = delete;
    Consuming& operator=(const Consuming&) = delete;
    ~Consuming() {
      shared.consumer.store(0, std::memory_order_relaxed);
      shared.consuming.unlock();
    }
    detail::CoalescedZones& shared;
  };

  static Error empty(const char* operation) {
    return detail::make_error(EBADF, operation, {}, "this ring is empty: it was moved from");
  }
  [[gnu::noinline, gnu::cold]] Error failure(int error_number) const {
    constexpr const char* operation = "CoalescedRing::drain";
    if (!state_) {
      return empty(operation);
    }
    return state_->failure(operation, error_number, {},
                           error_number == EDEADLK  ? "called from within a handler of its own"
                           : error_number == EINVAL ? "the vCPU is another VM's"
                           : error_number == EPROTO
                               ? "the ring holds what KVM would not write: its page was "
                                 "overwritten"
                               : "");
  }

  void close() noexcept {
    if (state_ && !state_->foreign()) {
      state_->coalesced.unclaim(*state_);
    }
    pages_ = detail::VcpuPages();
    state_.reset();
  }

  std::shared_ptr<detail::VmState> state_;
  detail::VcpuPages pages_;
  detail::CoalescedPage page_;
};

KVM_HPP_END

#endif  // !KVM_HPP_REFUSED
#endif
