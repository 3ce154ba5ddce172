// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_MEMORY_DIRTY_RING_HPP
#define KVM_HPP_MEMORY_DIRTY_RING_HPP

#include <kvm/detail/kernel_header.hpp>
#if !KVM_HPP_REFUSED

#include <kvm/detail/dirty_rings.hpp>
#include <kvm/detail/vm_state.hpp>
#include <kvm/error.hpp>
#include <kvm/types.hpp>
#include <kvm/vcpu.hpp>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string_view>
#include <type_traits>
#include <utility>

KVM_HPP_BEGIN

/// The pages that one vCPU wrote, in the order in which it did, from the ring
/// that it shares with KVM. Rings are enabled before the first vCPU, with
/// cap::DirtyLogRingAcqRel; slots must log.
///
/// It has the guest's writes only, and only those that came through a vCPU: not
/// the VMM's, nor on arm64 those of KVM's devices, for which it has
/// cap::DirtyLogRingWithBitmap and DirtyLog. DirtyTracker brings all together.
///
/// One per vCPU, and none beside a DirtyTracker in mode ring. One thread at a
/// time, any thread, the vCPU may run meanwhile; rings of other vCPUs may be
/// harvested at the same time. May outlive the vCPU's handle.
///
/// When the ring is nearly full, the vCPU stops with exits::DirtyRingFull and
/// won't run before its ring was harvested. Do that in the vCPU's own thread,
/// then run again: it waits for no other thread's function. A function that
/// declines all the time keeps the ring full.
///
/// A deleted slot's number waits until all rings of the VM were seen empty, so
/// that no entry names a later slot: a vCPU whose ring nobody harvests keeps
/// numbers waiting.
class [[nodiscard]] DirtyRing {
 public:
  /// ENXIO if the VM has no rings, EBUSY if somebody has this one.
  static Result<DirtyRing> try_open(const Vcpu& vcpu) {
    const auto fail = [&](int error_number, std::string_view cause) {
      return detail::make_error(error_number, "DirtyRing", detail::text("vcpu=", vcpu.id().value),
                                cause);
    };
    const auto state = std::static_pointer_cast<detail::VmState>(vcpu.vm());
    if (!state) {
      return fail(EBADF, "this handle is empty: it was moved from");
    }
    if (state->foreign()) {
      return fail(EIO,
                  "this handle was made by another process: after a fork, KVM refuses the "
                  "child");
    }
    if (state->rings.bytes() == 0) {
      return fail(ENXIO,
                  "the VM has no dirty rings: enable cap::DirtyLogRingAcqRel before the "
                  "first vCPU");
    }
    const std::lock_guard lock(state->rings.mutex);
    if (state->rings.tracked) {
      return fail(EBUSY, "the VM's DirtyTracker harvests all rings");
    }
    std::shared_ptr<detail::VcpuRing> ring = state->rings.find(vcpu.id());
    if (!ring) {
      return fail(ENXIO, "this vCPU's ring was not mapped");
    }
    if (ring->claimed) {
      return fail(EBUSY, "another DirtyRing harvests this vCPU's ring");
    }
    ring->taken.reserve(ring->capacity());
    ring->claimed = true;
    return DirtyRing(state, std::move(ring));
  }
  /// The same as try_open(), but throws.
  explicit DirtyRing(const Vcpu& vcpu) : DirtyRing(try_open(vcpu).value()) {}

  DirtyRing(DirtyRing&&) noexcept = default;
  DirtyRing& operator=(DirtyRing&& other) noexcept {
    if (this != &other) {
      close();
      state_ = std::move(other.state_);
      ring_ = std::move(other.ring_);
    }
    return *this;
  }
  /// What was not handed over stays for the vCPU's next DirtyRing.
  ~DirtyRing() { close(); }

  /// Whose ring it is.
  VcpuId vcpu() const noexcept { return ring_ ? ring_->id : VcpuId(); }
  /// How many entries the ring has. KVM stops the vCPU some entries earlier.
  std::size_t capacity() const noexcept { return ring_ ? ring_->capacity() : 0; }

  /// Takes the ring's entries, has KVM write-protect their pages again
  /// (KVM_RESET_DIRTY_RINGS), and only then hands them over: f(SlotId,
  /// std::uint64_t page) for each, in the order of the guest's writes. A page
  /// can come twice. The slot may have been deleted since, or shrunk by being
  /// made again with raw ioctls: look before use.
  ///
  /// `f` may return nothing, or whether it took the entry. If it returns false
  /// or throws, this one and all after it are handed over first the next time,
  /// and so they are if KVM refuses something. `f` runs without a lock, but not
  /// within another harvest of the same ring: EDEADLK. It must not drop or move
  /// this object.
  ///
  /// The CPU may keep writes to itself until the vCPU next leaves the guest:
  /// kick it before the last harvest, and look at the ring after it returned.
  /// Allocates nothing.
  /// @return how many entries were taken
  template <class F>
  Result<std::uint64_t> try_harvest(F&& f) {
    static_assert(std::is_invocable_v<F&, SlotId, std::uint64_t>,
                  "kvm-hpp: harvest calls its function with a SlotId and a page's number");
    using Returned = std::invoke_result_t<F&, SlotId, std::uint64_t>;
    static_assert(std::is_void_v<Returned> || std::is_same_v<Returned, bool>,
                  "kvm-hpp: harvest's function returns nothing, or whether it took the page");
    if (!ring_) {
      return detail::make_error(EBADF, "DirtyRing::harvest", {},
                                "this ring is empty: it was moved from");
    }
    if (state_->foreign()) {
      return failure(EIO);
    }
    if (harvesting_) {
      return failure(EDEADLK);
    }
    if (const int error_number = take(); error_number != 0) {
      return failure(error_number);
    }
    const Busy busy(*this);
    detail::VcpuRing& ring = *ring_;
    std::uint64_t count = 0;
    for (; ring.first != ring.taken.size(); ++ring.first, ++count) {
      const auto [slot, page] = ring.taken[ring.first];
      const SlotId id(static_cast<std::uint16_t>(slot), static_cast<std::uint16_t>(slot >> 16));
      if constexpr (std::is_void_v<Returned>) {
        f(id, page);
      } else if (!f(id, page)) {
        break;
      }
    }
    return count;
  }
  template <class F>
  std::uint64_t harvest(F&& f) {
    return try_harvest(std::forward<F>(f)).value();
  }

 private:
  DirtyRing(std::shared_ptr<detail::VmState> state, std::shared_ptr<detail::VcpuRing> ring) noexcept
      : state_(std::move(state)), ring_(std::move(ring)) {}

  /// While entries are handed over; then says what is left.
  struct Busy {
    explicit Busy(DirtyRing& harvested) : ring(harvested) { ring.harvesting_ = true; }
    Busy(const Busy&) = delete;
    Busy& operator=(const Busy&) = delete;
    ~Busy() {
      ring.harvesting_ = false;
      const std::lock_guard lock(ring.state_->rings.mutex);
      ring.tidy();
      ring.state_->rings.settle(*ring.state_->ids());
    }
    DirtyRing& ring;
  };

  /// Forgets what was handed over. Under the lock.
  void tidy() noexcept {
    auto& taken = ring_->taken;
    taken.erase(taken.begin(), taken.begin() + static_cast<std::ptrdiff_t>(ring_->first));
    ring_->first = 0;
  }
  /// @return 0, or the errno; then nothing may be handed over yet
  int take() noexcept {
    const std::lock_guard lock(state_->rings.mutex);
    auto& taken = ring_->taken;
    ring_->drain(ring_->capacity() - taken.size(),
                 [&](const detail::VcpuRing::Entry& entry) { taken.push_back(entry); });
    return state_->rings.reset(*state_);
  }

  void close() noexcept {
    if (ring_ && !state_->foreign()) {
      const std::lock_guard lock(state_->rings.mutex);
      ring_->claimed = false;
    }
    ring_.reset();
    state_.reset();
  }

  [[gnu::noinline, gnu::cold]] Error failure(int error_number) const {
    constexpr auto request = uapi::request::reset_dirty_rings;
    return state_->failure(error_number == EDEADLK ? "DirtyRing::harvest" : request.name,
                           error_number, detail::text("vcpu=", ring_->id.value),
                           error_number == EDEADLK ? "called from within a harvest's own function"
                           : error_number == EAGAIN
                               ? "KVM does not reset all entries: were some taken out of order, "
                                 "past this object?"
                               : "");
  }

  std::shared_ptr<detail::VmState> state_;
  std::shared_ptr<detail::VcpuRing> ring_;
  bool harvesting_ = false;
};

KVM_HPP_END

#endif  // !KVM_HPP_REFUSED
#endif
