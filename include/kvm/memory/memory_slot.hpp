// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_MEMORY_MEMORY_SLOT_HPP
#define KVM_HPP_MEMORY_MEMORY_SLOT_HPP

#include <kvm/detail/kernel_header.hpp>
#if !KVM_HPP_REFUSED

#include <kvm/detail/backoff.hpp>
#include <kvm/detail/guest_access.hpp>
#include <kvm/detail/vm_state.hpp>
#include <kvm/memory/guest_memfd.hpp>
#include <kvm/memory/mapping.hpp>
#include <kvm/types.hpp>
#include <kvm/uapi/constants.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <type_traits>
#include <utility>

KVM_HPP_BEGIN

/// How a slot behaves.
struct MemoryOptions {
  /// Record which pages the guest writes (KVM_MEM_LOG_DIRTY_PAGES), and which
  /// ones the VMM writes through the library.
  bool log_dirty = false;
  /// Guest writes become MMIO exits (KVM_MEM_READONLY, R45).
  bool read_only = false;
  /// 1 is what x86 sees in system management mode, where the host has it.
  std::uint16_t address_space = 0;
  /// Memory that this process need not be able to see, for the slot's private
  /// pages (KVM_MEM_GUEST_MEMFD, R44). Excludes the first two; the slot can
  /// only be deleted again. KVM keeps a reference of its own.
  const GuestMemfd* guest_memfd = nullptr;
  /// Where the slot begins in it, in bytes: a multiple of the page size.
  std::uint64_t guest_memfd_offset = 0;
};

/// Memory of a slot that was deleted, which accesses that began before, or
/// pins, may still use. Dropping it leaves the memory to the VM, which unmaps
/// it when nobody uses it any more. One thread at a time.
class [[nodiscard]] RemovedMemory {
 public:
  RemovedMemory(RemovedMemory&&) noexcept = default;
  RemovedMemory& operator=(RemovedMemory&& other) noexcept {
    if (this != &other) {
      drop();
      state_ = std::move(other.state_);
      slot_ = std::move(other.slot_);
      generation_ = other.generation_;
      over_ = other.over_;
    }
    return *this;
  }
  ~RemovedMemory() { drop(); }

  /// Whether an access or a pin still uses the memory. Never waits, and once it
  /// has said no, it says no.
  bool in_use() const noexcept {
    // Remembered: a reader that has not looked for long announces an old
    // generation for a moment, and then sees that the slot is gone.
    if (slot_ && !over_) {
      over_ = !state_->in_use(*slot_, generation_);
    }
    return slot_ && !over_;
  }

  /// The memory, unless it is still in use: EBUSY. Never waits.
  Result<Mapping> try_take() {
    if (!slot_) {
      return detail::make_error(EBADF, "RemovedMemory::take", {}, "the memory was taken already");
    }
    if (in_use()) {
      return detail::make_error(EBUSY, "RemovedMemory::take", detail::text("slot=", slot_->id.id),
                                slot_->pinned() ? "a pin is held" : "an access is in flight");
    }
    return hand_over();
  }
  Mapping take() { return try_take().value(); }

  /// The memory, once nobody uses it. Accesses end by themselves; pins must be
  /// dropped by other threads: EDEADLK if this one made one of them.
  Result<Mapping> try_wait() {
    detail::Backoff backoff;
    while (in_use()) {
      if (slot_->pinned_by(detail::this_thread())) {
        return detail::make_error(EDEADLK, "RemovedMemory::wait",
                                  detail::text("slot=", slot_->id.id),
                                  "this thread made a pin of it that is still held");
      }
      backoff.sleep();
    }
    return try_take();
  }
  Mapping wait() { return try_wait().value(); }

 private:
  friend class MemorySlot;

  RemovedMemory(std::shared_ptr<detail::VmState> state, std::shared_ptr<detail::SlotState> slot,
                std::uint64_t generation) noexcept
      : state_(std::move(state)), slot_(std::move(slot)), generation_(generation) {}

  Mapping hand_over() noexcept {
    Mapping memory = std::move(slot_->mapping);
    slot_.reset();
    state_.reset();
    return memory;
  }
  void drop() noexcept {
    if (slot_) {
      state_->retire(std::move(slot_), generation_);
      state_->reclaim();
    }
    state_.reset();
  }

  std::shared_ptr<detail::VmState> state_;
  std::shared_ptr<detail::SlotState> slot_;
  std::uint64_t generation_ = 0;
  mutable bool over_ = false;
};

/// A range of guest physical memory and the host memory behind it. Dropping it
/// deletes the slot and never waits: the memory is unmapped when the last access
/// that began before has ended. A running guest never reaches freed memory: it
/// gets MMIO exits for the range instead, and exits::InternalError where it
/// fetches code from there. Should KVM refuse the deletion, the slot and its
/// memory stay with the VM (Vm::parked_mappings).
///
/// Made by Vm::add_memory. May outlive the Vm object. Any thread, but changes of
/// one slot by one thread at a time.
class [[nodiscard]] MemorySlot {
 public:
  MemorySlot(MemorySlot&&) noexcept = default;
  MemorySlot& operator=(MemorySlot&& other) noexcept {
    if (this != &other) {
      drop();
      state_ = std::move(other.state_);
      slot_ = std::move(other.slot_);
    }
    return *this;
  }
  ~MemorySlot() { drop(); }

  /// The slot's number, which KVM's dirty log and rings use. Not given to
  /// another slot while a dirty log or a harvest names this one, or before the
  /// dirty rings were drained.
  SlotId id() const noexcept { return slot_ ? slot_->id : SlotId(); }
  /// Where the guest sees it.
  Gpa gpa() const noexcept { return slot_ ? slot_->gpa() : Gpa(); }
  /// Its size in bytes.
  std::size_t size() const noexcept { return slot_ ? slot_->size : 0; }
  /// Its size in pages of the host.
  std::size_t pages() const noexcept { return slot_ ? slot_->pages() : 0; }
  /// Whether writes are logged now.
  bool logs_dirty() const noexcept { return slot_ && slot_->logged(); }
  /// Whether guest writes become MMIO exits.
  bool read_only() const noexcept { return slot_ && slot_->read_only(); }
  /// The host memory behind it. share() of it backs an alias of this slot.
  const Mapping& mapping() const noexcept {
    static const Mapping none;
    return slot_ ? slot_->mapping : none;
  }

  /// Copies bytes to guest memory and marks the pages as dirty. False, and
  /// nothing is written, unless all of [gpa, gpa + bytes.size()) lies in this
  /// slot, and always in a forked child. Writes to a read-only slot too: that is
  /// how firmware gets there. GuestMemory::View is what devices use: this one
  /// must not run while another thread changes this slot.
  [[nodiscard]] bool load(Gpa gpa, std::span<const std::byte> bytes) const noexcept {
    if (!contains(gpa, bytes.size())) {
      return false;
    }
    const std::uint64_t offset = gpa - slot_->gpa();
    detail::copy_to_guest(slot_->data + offset, bytes.data(), bytes.size());
    slot_->mark(offset, bytes.size(), state_->asymmetric());
    return true;
  }

  /// The same for an array, a vector or a span of whatever can be copied as
  /// bytes: `ram.load(gpa, code)`.
  template <class Range>
  requires requires(const Range& range) { std::as_bytes(std::span(range)); }
  [[nodiscard]] bool load(Gpa gpa, const Range& range) const noexcept {
    static_assert(std::is_trivially_copyable_v<typename decltype(std::span(range))::value_type>,
                  "kvm-hpp: only what is trivially copyable can be copied to a guest as bytes");
    return load(gpa, std::span<const std::byte>(std::as_bytes(std::span(range))));
  }

  /// Copies bytes from guest memory. False, and `out` is untouched, unless all
  /// of [gpa, gpa + out.size()) lies in this slot, and always in a forked child.
  [[nodiscard]] bool fetch(Gpa gpa, std::span<std::byte> out) const noexcept {
    if (!contains(gpa, out.size())) {
      return false;
    }
    detail::copy_from_guest(out.data(), slot_->data + (gpa - slot_->gpa()), out.size());
    return true;
  }

  /// Moves the slot to another gpa; all of it is dirty afterwards. The kernel
  /// takes it away first: a vCPU that runs meanwhile gets MMIO exits for the old
  /// range, which is RAM to the guest. Stop the vCPUs before (Kicker), or serve
  /// such an exit by reading or writing the same gpa through a View once this
  /// has returned. Refused for a slot with guest_memfd.
  Result<void> try_move_to(Gpa gpa) {
    if (!slot_) {
      return empty();
    }
    return state_->move(*slot_, gpa);
  }
  void move_to(Gpa gpa) { try_move_to(gpa).value(); }

  /// Turns logging of writes on or off, also while the guest runs. On: all of
  /// the slot counts as dirty first. Off: what was logged is lost. Waits for
  /// accesses in flight through views and caches, for as long as they copy.
  Result<void> try_log_dirty(bool enable) {
    if (!slot_) {
      return empty();
    }
    return state_->set_logging(*slot_, enable);
  }
  void log_dirty(bool enable) { try_log_dirty(enable).value(); }

  /// Gives [offset, offset + size) of the slot's memory back to the host, which
  /// is what a balloon does: it reads as zero from then on, and counts as dirty.
  /// Mapping::discard, which does the work, knows no slots and marks nothing.
  /// @param offset, size in bytes, multiples of the page size
  Result<void> try_discard(std::uint64_t offset, std::uint64_t size) {
    if (!slot_) {
      return empty();
    }
    auto discarded = slot_->mapping.try_discard(offset, size);
    if (detail::in_bounds(offset, size, slot_->size)) {
      slot_->mark(offset, size, state_->asymmetric());  // A failure may have come half way.
    }
    return discarded;
  }
  void discard(std::uint64_t offset, std::uint64_t size) { try_discard(offset, size).value(); }

  /// Deletes the slot, waits for accesses and pins of other threads to end, and
  /// hands the memory back. On failure nothing has changed, in particular with
  /// EDEADLK: if this thread made a pin of the slot that still lives, whoever
  /// holds it, or is in an observer. It waits for pins that others made: should
  /// this thread hold one of those, use try_remove(). A
  /// vCPU may be running: from then on it gets MMIO exits for the range.
  Mapping remove() {
    // In a forked child the lock of the pins may be taken for ever.
    if (slot_ && !state_->foreign() && slot_->pinned_by(detail::this_thread())) {
      detail::raise(failure(EDEADLK, "this thread made a pin of the slot that is still held"));
    }
    return try_remove().value().wait();
  }
  /// Deletes the slot without waiting, and hands back its memory with whoever
  /// still uses that. On failure nothing has changed.
  Result<RemovedMemory> try_remove() {
    if (!slot_) {
      return empty();
    }
    const std::uint64_t generation = state_->remove(*slot_);
    if (generation == 0) {
      return failure(errno, errno == EDEADLK
                                ? "slots cannot be changed from within an observer of them"
                                : "the slot is still there");
    }
    state_->fence_readers(*slot_);
    return RemovedMemory(std::move(state_), std::move(slot_), generation);
  }

 private:
  friend class Vm;
  friend class DirtyBitmap;
  friend class DirtyLog;
  friend class DirtyTracker;

  MemorySlot(std::shared_ptr<detail::VmState> state,
             std::shared_ptr<detail::SlotState> slot) noexcept
      : state_(std::move(state)), slot_(std::move(slot)) {}

  static constexpr auto request = uapi::request::set_user_memory_region;

  static Error empty() {
    return detail::make_error(EBADF, request.name, {},
                              "this slot is empty: it was moved from or removed");
  }
  Error failure(int error_number, std::string_view cause) const {
    return state_->failure(
        request.name, error_number,
        detail::text("slot=", slot_->id.id, ", address_space=", slot_->id.address_space,
                     ", gpa=", detail::Hex{slot_->gpa().value}, ", size=0"),
        cause);
  }

  bool contains(Gpa gpa, std::size_t size) const noexcept {
    return slot_ && gpa >= slot_->gpa() &&
           detail::in_bounds(gpa - slot_->gpa(), size, slot_->size) && slot_->mapping.accessible();
  }

  void drop() noexcept {
    if (slot_) {
      state_->abandon(std::move(slot_));
    }
    state_.reset();
  }

  std::shared_ptr<detail::VmState> state_;
  std::shared_ptr<detail::SlotState> slot_;
};

KVM_HPP_END

#endif  // !KVM_HPP_REFUSED
#endif
