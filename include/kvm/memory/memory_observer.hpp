// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_MEMORY_MEMORY_OBSERVER_HPP
#define KVM_HPP_MEMORY_MEMORY_OBSERVER_HPP

#include <kvm/detail/config.hpp>
#if !KVM_HPP_REFUSED

#include <kvm/types.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>

KVM_HPP_BEGIN

/// How the memory that a guest sees changes: what VFIO or vhost must map or
/// unmap.
struct MemoryChange {
  /// What happens to the slot.
  enum class Kind {
    /// The range at `old_gpa` is about to go. It still can be read. If KVM then
    /// refuses, `added` follows with the same `new_gpa`.
    removing,
    /// The range at `new_gpa` is there.
    added,
  };
  /// Which of them.
  Kind kind = Kind::added;
  /// The slot that it happens to.
  SlotId slot;
  /// Where the slot was, if it was anywhere.
  std::optional<Gpa> old_gpa;
  /// Where it is or will be, if it stays.
  std::optional<Gpa> new_gpa;
  /// In bytes.
  std::size_t size = 0;
  /// The memory behind it in this process.
  std::byte* address = nullptr;
  /// The file behind it and where the slot begins there, or -1.
  int fd = -1;
  /// Where the slot begins in that file, in bytes.
  std::uint64_t offset = 0;
  /// Whether the guest cannot write there.
  bool read_only = false;
};

/// Whom GuestMemory tells of changes. Called in the thread that makes the
/// change, under the lock that serialises them: reading guest memory is fine,
/// changing slots is refused with EDEADLK.
class MemoryObserver {
 public:
  /// Called for each change, one at a time.
  virtual void changed(const MemoryChange& change) noexcept = 0;

 protected:
  ~MemoryObserver() = default;
};

KVM_HPP_END

#endif  // !KVM_HPP_REFUSED
#endif
