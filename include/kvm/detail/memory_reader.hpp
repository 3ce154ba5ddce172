// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_DETAIL_MEMORY_READER_HPP
#define KVM_HPP_DETAIL_MEMORY_READER_HPP

#include <kvm/detail/address_space.hpp>
#include <kvm/detail/guest_access.hpp>
#include <kvm/detail/slot_table.hpp>

#include <cstddef>
#include <cstdint>
#include <span>

/// @file
/// The ways through a table of slots that are not hot: any range, across slots.
/// Views and caches share them. The caller is an announced reader.

KVM_HPP_BEGIN
namespace detail {

enum class Access { read, write };

/// Whether all of [gpa, gpa + size) is in slots, which the guest's VMM may write
/// for Access::write. An empty range is.
inline bool covered(const SlotTable& table, std::uint64_t gpa, std::uint64_t size,
                    Access access) noexcept {
  if (size == 0) {
    return true;
  }
  const std::uint64_t last = gpa + (size - 1);
  if (last < gpa) {
    return false;
  }
  for (const SlotRecord* record; (record = table.find(gpa)) != nullptr;) {
    if (access == Access::write && table.write_record(*record).size == 0) {
      return false;
    }
    const std::uint64_t slot_last = record->gpa + (record->size - 1);
    if (slot_last >= last) {
      return true;
    }
    gpa = slot_last + 1;  // At most `last`.
  }
  return false;
}

/// Calls `operation(record, offset in the slot, bytes)` for each slot's part of
/// a range that is covered().
template <class Operation>
void for_each_part(const SlotTable& table, std::uint64_t gpa, std::uint64_t size,
                   Operation operation) {
  while (size != 0) {
    const SlotRecord& record = *table.find(gpa);
    const std::uint64_t offset = gpa - record.gpa;
    const std::uint64_t room = record.size - offset;
    const std::uint64_t part = size < room ? size : room;
    operation(record, offset, part);
    size -= part;
    gpa += part;
  }
}

/// Marks what was written through a record; a slot that is not logged has
/// nothing to mark.
inline void mark_part(const SlotTable& table, const SlotRecord& record, std::uint64_t offset,
                      std::uint64_t size, bool asymmetric) noexcept {
  if (table.write_record(record).marks != nullptr) {
    record.slot->mark(offset, size, asymmetric);
  }
}

/// @return false, and nothing was copied, unless all of the range is there
inline bool read_range(const SlotTable& table, std::uint64_t gpa,
                       std::span<std::byte> out) noexcept {
  if (!covered(table, gpa, out.size(), Access::read)) {
    return false;
  }
  std::byte* to = out.data();
  for_each_part(table, gpa, out.size(),
                [&](const SlotRecord& record, std::uint64_t offset, std::uint64_t size) {
                  copy_from_guest(to, record.host + offset, size);
                  to += size;
                });
  return true;
}

/// @return false, and nothing was written, unless all of the range is there and
///         may be written
inline bool write_range(const SlotTable& table, std::uint64_t gpa, std::span<const std::byte> bytes,
                        bool asymmetric) noexcept {
  if (!covered(table, gpa, bytes.size(), Access::write)) {
    return false;
  }
  const std::byte* from = bytes.data();
  for_each_part(table, gpa, bytes.size(),
                [&](const SlotRecord& record, std::uint64_t offset, std::uint64_t size) {
                  copy_to_guest(record.host + offset, from, size);
                  mark_part(table, record, offset, size, asymmetric);  // Store, then mark.
                  from += size;
                });
  return true;
}

inline bool fill_range(const SlotTable& table, std::uint64_t gpa, std::uint64_t size,
                       std::byte value, bool asymmetric) noexcept {
  if (!covered(table, gpa, size, Access::write)) {
    return false;
  }
  for_each_part(table, gpa, size,
                [&](const SlotRecord& record, std::uint64_t offset, std::uint64_t part) {
                  fill(record.host + offset, value, part);
                  mark_part(table, record, offset, part, asymmetric);
                });
  return true;
}

inline bool mark_range(const SlotTable& table, std::uint64_t gpa, std::uint64_t size,
                       bool asymmetric) noexcept {
  if (!covered(table, gpa, size, Access::read)) {
    return false;
  }
  for_each_part(table, gpa, size,
                [&](const SlotRecord& record, std::uint64_t offset, std::uint64_t part) {
                  mark_part(table, record, offset, part, asymmetric);
                });
  return true;
}

/// The slot that holds all of [gpa, gpa + size), or null. `size` is not 0.
inline const SlotRecord* find_whole(const SlotTable& table, std::uint64_t gpa,
                                    std::uint64_t size) noexcept {
  const SlotRecord* record = table.find(gpa);
  return record != nullptr && in_bounds(gpa - record->gpa, size, record->size) ? record : nullptr;
}

/// A value, torn nowhere if it is an aligned scalar.
/// @param out untouched on failure
template <GuestValue T>
bool read_value(const SlotTable& table, std::uint64_t gpa, T& out) noexcept {
  if (const SlotRecord* record = find_whole(table, gpa, sizeof(T))) {
    const std::byte* at = record->host + (gpa - record->gpa);
    if constexpr (GuestScalar<T>) {
      if (is_aligned<T>(at)) {
        out = load<T>(at);
        return true;
      }
    }
    out = load_any<T>(at);
    return true;
  }
  struct alignas(T) {
    std::byte bytes[sizeof(T)];
  } copied;
  if (!read_range(table, gpa, copied.bytes)) {
    return false;
  }
  out = std::bit_cast<T>(copied);
  return true;
}

template <GuestValue T>
bool write_value(const SlotTable& table, std::uint64_t gpa, const T& value,
                 bool asymmetric) noexcept {
  const SlotRecord* record = find_whole(table, gpa, sizeof(T));
  if (record == nullptr) {
    return write_range(table, gpa, std::as_bytes(std::span<const T, 1>(&value, 1)), asymmetric);
  }
  if (table.write_record(*record).size == 0) {
    return false;
  }
  const std::uint64_t offset = gpa - record->gpa;
  std::byte* at = record->host + offset;
  bool stored = false;
  if constexpr (GuestScalar<T>) {
    if (is_aligned<T>(at)) {
      store<T>(at, value);
      stored = true;
    }
  }
  if (!stored) {
    store_any<T>(at, value);
  }
  mark_part(table, *record, offset, sizeof(T), asymmetric);
  return true;
}

}  // namespace detail
KVM_HPP_END

#endif
