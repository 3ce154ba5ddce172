// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_MEMORY_PIN_HPP
#define KVM_HPP_MEMORY_PIN_HPP

#include <kvm/detail/config.hpp>
#if !KVM_HPP_REFUSED

#include <kvm/detail/slot_state.hpp>
#include <kvm/detail/thread_token.hpp>
#include <kvm/memory/mapping.hpp>
#include <kvm/types.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include <sys/uio.h>

KVM_HPP_BEGIN

/// What the holder of a Pin does with the memory.
enum class PinFor {
  reading,  ///< from guest memory
  writing   ///< to guest memory: its pages count as dirty
};

/// Addresses of guest memory for what blocks or works in the background. While
/// it lives, the memory stays mapped, whatever happens to the slots;
/// MemorySlot::remove() waits for it, and try_remove() hands the slot's memory
/// back as in use. One made for writing marks its pages as dirty when it is
/// dropped; mark_dirty() does so earlier.
///
/// Made by GuestMemory::View::pin. One thread at a time, any thread; may outlive
/// the view and the VM. The guest goes on using the memory: read each byte once.
class [[nodiscard]] Pin {
 public:
  Pin(Pin&& other) noexcept
      : gpa_(other.gpa_),
        size_(std::exchange(other.size_, 0)),
        purpose_(other.purpose_),
        asymmetric_(other.asymmetric_),
        thread_(other.thread_),
        parts_(std::move(other.parts_)),
        iovecs_(std::move(other.iovecs_)) {
    other.parts_.clear();
    other.iovecs_.clear();
  }
  Pin& operator=(Pin&& other) noexcept {
    if (this != &other) {
      drop();
      gpa_ = other.gpa_;
      size_ = std::exchange(other.size_, 0);
      purpose_ = other.purpose_;
      asymmetric_ = other.asymmetric_;
      thread_ = other.thread_;
      parts_ = std::move(other.parts_);
      iovecs_ = std::move(other.iovecs_);
    }
    return *this;
  }
  ~Pin() { drop(); }

  /// What was pinned.
  Gpa gpa() const noexcept { return gpa_; }
  /// How much was pinned, in bytes.
  std::uint64_t size() const noexcept { return size_; }

  /// The addresses, in the order of the guest's: one entry per slot that the
  /// range touches. Valid while the pin lives.
  std::span<const ::iovec> iovecs() const noexcept { return {iovecs_.data(), iovecs_.size()}; }
  /// The address, if the range lies in one slot; else null.
  std::byte* data() const noexcept {
    return iovecs_.size() == 1 ? static_cast<std::byte*>(iovecs_.front().iov_base) : nullptr;
  }

  /// Marks all of the range as dirty, or a part: the bytes [offset, offset +
  /// size) of it, as far as they are inside. After the write.
  void mark_dirty() const noexcept { mark_dirty(0, size_); }
  void mark_dirty(std::uint64_t offset, std::uint64_t size) const noexcept {
    for (const Part& part : parts_) {
      if (size == 0) {
        return;
      }
      if (offset >= part.size) {
        offset -= part.size;
        continue;
      }
      const std::uint64_t here = std::min(size, part.size - offset);
      part.slot->mark(part.offset + offset, here, asymmetric_);
      size -= here;
      offset = 0;
    }
  }

 private:
  friend class GuestMemory;

  struct Part {
    std::shared_ptr<detail::SlotState> slot;
    Mapping memory;  // the same, so that it outlives the slot
    std::uint64_t offset;
    std::uint64_t size;
  };

  Pin(Gpa gpa, std::uint64_t size, PinFor purpose, bool asymmetric) noexcept
      : gpa_(gpa),
        size_(size),
        purpose_(purpose),
        asymmetric_(asymmetric),
        thread_(detail::this_thread()) {}

  /// Within an announced access.
  void add(detail::SlotState& slot, std::uint64_t offset, std::uint64_t size) {
    iovecs_.push_back({slot.data + offset, size});
    parts_.reserve(parts_.size() + 1);
    slot.pin(thread_);  // The last that can fail: drop() undoes what is in parts_.
    parts_.push_back({slot.shared_from_this(), slot.mapping.share(), offset, size});
  }
  void drop() noexcept {
    if (parts_.empty()) {
      return;
    }
    if (purpose_ == PinFor::writing) {
      mark_dirty();
    }
    for (Part& part : parts_) {
      if (part.memory.accessible()) {  // In a forked child, a lock may be taken for ever.
        part.slot->unpin(thread_);
      }
    }
    parts_.clear();
    iovecs_.clear();
  }

  Gpa gpa_;
  std::uint64_t size_;
  PinFor purpose_;
  bool asymmetric_;
  std::uint64_t thread_;
  std::vector<Part> parts_;
  std::vector<::iovec> iovecs_;
};

KVM_HPP_END

#endif  // !KVM_HPP_REFUSED
#endif
