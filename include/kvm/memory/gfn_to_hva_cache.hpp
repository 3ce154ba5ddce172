// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_MEMORY_GFN_TO_HVA_CACHE_HPP
#define KVM_HPP_MEMORY_GFN_TO_HVA_CACHE_HPP

#include <kvm/detail/kernel_header.hpp>
#if !KVM_HPP_REFUSED

#include <kvm/detail/address_space.hpp>
#include <kvm/detail/guest_access.hpp>
#include <kvm/detail/memory_reader.hpp>
#include <kvm/detail/vm_state.hpp>
#include <kvm/memory/guest_memory.hpp>
#include <kvm/types.hpp>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>

KVM_HPP_BEGIN

namespace detail {

/// What a cache knows. The first cache line is all that a hot access touches
/// beside the memory itself.
struct alignas(64) CacheLine : Reader {
  std::uint64_t generation = AddressSpace::no_generation;
  const std::atomic<std::uint64_t>* published = &nothing_published;
  std::byte* host = nullptr;
  // Aligned scalars that begin below these offsets end inside the range. One
  // comparison says that an access is inside, allowed, and whether to mark it.
  std::uint64_t readable = 0;
  std::uint64_t writable = 0;  ///< without a mark; 0 if the slot is logged or read-only
  std::uint64_t logged = 0;    ///< with a mark; 0 if the slot is not logged or read-only

  std::uint64_t* marks = nullptr;  ///< DirtyWords; null if the slot is not logged
  std::uint64_t slot_offset = 0;   ///< of the range in the slot
  std::uint32_t page_shift = 0;
};

/// A moved-from cache's line: nothing is remembered, so its accesses take the
/// way round, where there is no address space.
inline constinit CacheLine no_cache_line{};

}  // namespace detail

/// A range of guest memory that is accessed again and again (a ring, a steal
/// time area), with its translation kept: gfn_to_hva_cache of the kernel. An
/// access costs a few instructions more than through a pointer, and is as safe
/// as through a GuestMemory::View: the bounds are checked first, then the
/// generation of the slots, and a translation that is out of date is made anew.
///
/// Making one never fails: the guest may have chosen the range. Where there is
/// no memory (yet, or any more) its accesses fail as values, and work again once
/// a slot is there. Reads work on a read-only slot; writes fail there. Ranges
/// inside one slot are fast; those across slots work too.
///
/// Offsets are unsigned, in bytes from the start of the range. One thread at a
/// time. An idle cache holds up nothing.
class GfnToHvaCache {
 public:
  /// @param gpa, length any numbers, in bytes
  GfnToHvaCache(const GuestMemory& memory, Gpa gpa, std::uint64_t length)
      : state_(memory.state_),
        space_(memory.space_),
        gpa_(gpa),
        length_(length),
        owned_(std::make_unique<detail::CacheLine>()),
        line_(owned_.get()) {
    line_->published = &space_->published().generation;
    line_->page_shift = state_->page_shift();
    space_->add_reader(*line_);
  }
  GfnToHvaCache(GfnToHvaCache&& other) noexcept
      : state_(std::move(other.state_)),
        space_(std::exchange(other.space_, nullptr)),
        gpa_(other.gpa_),
        length_(std::exchange(other.length_, 0)),
        owned_(std::move(other.owned_)),
        line_(std::exchange(other.line_, &detail::no_cache_line)) {}
  GfnToHvaCache& operator=(GfnToHvaCache&& other) noexcept {
    if (this != &other) {
      end();
      state_ = std::move(other.state_);
      space_ = std::exchange(other.space_, nullptr);
      gpa_ = other.gpa_;
      length_ = std::exchange(other.length_, 0);
      owned_ = std::move(other.owned_);
      line_ = std::exchange(other.line_, &detail::no_cache_line);
    }
    return *this;
  }
  ~GfnToHvaCache() { end(); }

  /// Where the range begins.
  Gpa gpa() const noexcept { return gpa_; }
  /// In bytes.
  std::uint64_t length() const noexcept { return length_; }
  /// Whether all of the range is guest memory now.
  bool valid() noexcept {
    return with_table([&](const detail::SlotTable& table) noexcept {
      return detail::covered(table, gpa_.value, length_, detail::Access::read);
    });
  }

  /// The value at `offset`; nothing if it is not all inside the range, or not
  /// all guest memory.
  template <GuestValue T>
  [[gnu::always_inline]] std::optional<T> read(std::uint64_t offset) noexcept {
    T value;
    bool done = read_fast<T>(offset, value);
    if (!done) [[unlikely]] {
      T other{};  // Not `value`, which so can stay in a register.
      done = read_slowly<T>(offset, other);
      value = other;
    }
    // Not two returns: g++ 12 would build the optional in memory.
    return done ? std::optional<T>(value) : std::nullopt;
  }

  /// Fails to compile: T is to be named, since a literal's type is seldom meant.
  template <int = 0, class V>
  requires(std::is_integral_v<V>) bool write(std::uint64_t, V) {
    static_assert(sizeof(V) == 0,
                  "kvm-hpp: name the type that is stored: write<std::uint32_t>(offset, value)");
    return false;
  }
  /// Stores a value. T is named: `write<std::uint32_t>(offset, 8)`.
  template <GuestValue T>
  [[nodiscard, gnu::always_inline]] bool write(std::uint64_t offset,
                                               const std::type_identity_t<T>& value) noexcept {
    if constexpr (GuestScalar<T>) {
      detail::CacheLine& line = *line_;
      if (announce(line)) [[likely]] {
        // Not a pointer's sum, as the offset is not known to be inside yet.
        auto* const at =
            reinterpret_cast<std::byte*>(reinterpret_cast<std::uintptr_t>(line.host) + offset);
        if (detail::is_aligned<T>(at)) [[likely]] {
          if (offset < line.writable) [[likely]] {
            detail::store<T>(at, value);
            detail::AddressSpace::leave(line);
            return true;
          }
          if (offset < line.logged) {
            detail::store<T>(at, value);
            detail::light_fence();
            // After the store. A page that is marked already may be skipped, as
            // a harvest fences all threads after it took the marks.
            detail::DirtyWords::mark(line.marks, (line.slot_offset + offset) >> line.page_shift);
            detail::AddressSpace::leave(line);
            return true;
          }
        }
      }
    }
    return write_slowly<T>(offset, value);
  }

  /// Copies bytes out of the range. False, and `out` is untouched, unless all
  /// of [offset, offset + out.size()) is inside it and guest memory.
  [[nodiscard]] bool read(std::uint64_t offset, std::span<std::byte> out) noexcept {
    return inside(offset, out.size()) && with_table([&](const detail::SlotTable& table) noexcept {
             return detail::read_range(table, gpa_.value + offset, out);
           });
  }
  /// Copies bytes into the range. False, and nothing is written, unless all of
  /// them go inside it, to guest memory that may be written.
  [[nodiscard]] bool write(std::uint64_t offset, std::span<const std::byte> bytes) noexcept {
    return inside(offset, bytes.size()) && with_table([&](const detail::SlotTable& table) noexcept {
             return detail::write_range(table, gpa_.value + offset, bytes, space_->asymmetric());
           });
  }

 private:
  void end() noexcept {
    if (owned_) {
      space_->remove_reader(*owned_);
      owned_.reset();
    }
  }

  static bool announce(detail::CacheLine& line) noexcept {
    const std::uint64_t known = line.generation;
    line.announced.store(known, std::memory_order_release);
    detail::light_fence();
    return line.published->load(std::memory_order_acquire) == known;
  }

  /// Whether [offset, offset + size) is inside the range and does not begin
  /// beyond the last guest physical address, which the range may pass.
  bool inside(std::uint64_t offset, std::uint64_t size) const noexcept {
    return detail::in_bounds(offset, size, length_) && offset <= ~gpa_.value;
  }

  /// Announces, fetches the current table, translates anew if it is another, and
  /// lets `operation` use it. False if there is none.
  template <class Operation>
  bool with_table(Operation operation) noexcept {
    if (space_ == nullptr) {
      return false;
    }
    const auto [table, generation] = space_->enter(*line_);
    bool done = false;
    if (table == nullptr) {  // In a forked child.
      line_->generation = detail::AddressSpace::no_generation;
    } else {
      if (generation != line_->generation) {
        line_->generation = generation;
        translate(*table);
      }
      done = operation(*table);
    }
    detail::AddressSpace::leave(*line_);
    return done;
  }

  void translate(const detail::SlotTable& table) noexcept {
    detail::CacheLine& line = *line_;
    line.readable = line.writable = line.logged = 0;
    const detail::SlotRecord* record =
        length_ == 0 ? nullptr : detail::find_whole(table, gpa_.value, length_);
    if (record == nullptr) {
      return;
    }
    line.slot_offset = gpa_.value - record->gpa;
    line.host = record->host + line.slot_offset;
    // Aligned scalars that begin below the last multiple of 8 end below it. The
    // bytes behind that take the slow way.
    const auto end = (reinterpret_cast<std::uintptr_t>(line.host) + length_) & ~std::uintptr_t{7};
    const auto begin = reinterpret_cast<std::uintptr_t>(line.host);
    line.readable = end > begin ? end - begin : 0;
    line.writable = record->writable != 0 ? line.readable : 0;
    line.logged = record->logged != 0 ? line.readable : 0;
    line.marks = record->marks;
  }

  template <GuestValue T>
  [[gnu::always_inline]] bool read_fast(std::uint64_t offset, T& out) noexcept {
    if constexpr (GuestScalar<T>) {
      detail::CacheLine& line = *line_;
      if (announce(line) && offset < line.readable) [[likely]] {
        const std::byte* at = line.host + offset;
        if (detail::is_aligned<T>(at)) [[likely]] {
          out = detail::load<T>(at);
          detail::AddressSpace::leave(line);
          return true;
        }
      }
    }
    return false;
  }
  // No optional in and out of these, and scalars by value: compilers would keep
  // them in memory on the fast path as well.
  template <GuestValue T>
  [[gnu::noinline]] bool read_slowly(std::uint64_t offset, T& out) noexcept {
    if (!inside(offset, sizeof(T))) {
      detail::AddressSpace::leave(*line_);
      return false;
    }
    return with_table([&](const detail::SlotTable& table) noexcept {
      return detail::read_value<T>(table, gpa_.value + offset, out);
    });
  }
  template <GuestValue T>
  [[gnu::noinline]] bool write_slowly(std::uint64_t offset, detail::Argument<T> value) noexcept {
    if (!inside(offset, sizeof(T))) {
      detail::AddressSpace::leave(*line_);
      return false;
    }
    return with_table([&](const detail::SlotTable& table) noexcept {
      return detail::write_value<T>(table, gpa_.value + offset, value, space_->asymmetric());
    });
  }

  std::shared_ptr<detail::VmState> state_;
  detail::AddressSpace* space_;
  Gpa gpa_;
  std::uint64_t length_;
  std::unique_ptr<detail::CacheLine> owned_;
  detail::CacheLine* line_;
};

KVM_HPP_END

#endif  // !KVM_HPP_REFUSED
#endif
