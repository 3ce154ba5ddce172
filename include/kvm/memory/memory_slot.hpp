// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_MEMORY_MEMORY_SLOT_HPP
#define KVM_HPP_MEMORY_MEMORY_SLOT_HPP

#include <kvm/detail/guest_access.hpp>
#include <kvm/detail/vm_state.hpp>
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
  /// Record which pages the guest writes (KVM_MEM_LOG_DIRTY_PAGES).
  bool log_dirty = false;
  /// Guest writes become MMIO exits (KVM_MEM_READONLY, R45).
  bool read_only = false;
  /// 1 is what x86 sees in system management mode, where the host has it.
  std::uint16_t address_space = 0;
};

/// A range of guest physical memory and the host memory behind it. Dropping it
/// deletes the slot first and unmaps afterwards, so a running guest never
/// reaches freed memory: it gets MMIO exits for the range instead, and
/// exits::InternalError where it fetches code from there. Should KVM refuse the deletion, the
/// memory stays with the VM (Vm::parked_mappings).
///
/// Made by Vm::add_memory. May outlive the Vm object.
class [[nodiscard]] MemorySlot {
 public:
  MemorySlot(MemorySlot&&) noexcept = default;
  MemorySlot& operator=(MemorySlot&& other) noexcept {
    if (this != &other) {
      drop();
      state_ = std::move(other.state_);
      mapping_ = std::move(other.mapping_);
      id_ = other.id_;
      gpa_ = other.gpa_;
    }
    return *this;
  }
  ~MemorySlot() { drop(); }

  /// The slot's number, which KVM's dirty log and rings use.
  SlotId id() const noexcept { return id_; }
  /// Where the guest sees it.
  Gpa gpa() const noexcept { return gpa_; }
  /// Its size in bytes.
  std::size_t size() const noexcept { return mapping_.size(); }
  /// The host memory behind it.
  const Mapping& mapping() const noexcept { return mapping_; }

  /// Copies bytes to guest memory. False, and nothing is written, unless all
  /// of [gpa, gpa + bytes.size()) lies in this slot, and always in a forked
  /// child. Writes to a read-only slot too: that is how firmware gets there.
  [[nodiscard]] bool load(Gpa gpa, std::span<const std::byte> bytes) const noexcept {
    if (!contains(gpa, bytes.size())) {
      return false;
    }
    detail::copy_to_guest(mapping_.data() + (gpa - gpa_), bytes.data(), bytes.size());
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
    detail::copy_from_guest(out.data(), mapping_.data() + (gpa - gpa_), out.size());
    return true;
  }

  /// Deletes the slot and hands its memory back. On failure the slot is as it
  /// was. A vCPU may be running: from then on it gets MMIO exits for the range.
  Result<Mapping> try_remove() {
    constexpr auto request = uapi::request::set_user_memory_region;
    if (!state_) {
      return detail::make_error(EBADF, request.name, {},
                                "this slot is empty: it was moved from or removed");
    }
    if (!state_->delete_slot(id_, gpa_)) {
      return state_->failure(
          request.name, errno,
          detail::text("slot=", id_.id, ", gpa=", detail::Hex{gpa_.value}, ", size=0"),
          "the slot is still there");
    }
    state_.reset();
    return std::move(mapping_);
  }
  Mapping remove() { return try_remove().value(); }

 private:
  friend class Vm;

  MemorySlot(std::shared_ptr<detail::VmState> state, SlotId id, Gpa gpa, Mapping mapping) noexcept
      : state_(std::move(state)), mapping_(std::move(mapping)), id_(id), gpa_(gpa) {}

  bool contains(Gpa gpa, std::size_t size) const noexcept {
    return gpa >= gpa_ && detail::in_bounds(gpa - gpa_, size, mapping_.size()) &&
           mapping_.accessible();
  }

  void drop() noexcept {
    if (!state_) {
      return;
    }
    // A forked child has no say in its parent's VM; its Mapping knows that too.
    if (!state_->foreign() && !state_->delete_slot(id_, gpa_)) {
      state_->park(std::move(mapping_));
    }
    state_.reset();
  }

  std::shared_ptr<detail::VmState> state_;
  Mapping mapping_;
  SlotId id_;
  Gpa gpa_;
};

KVM_HPP_END

#endif
