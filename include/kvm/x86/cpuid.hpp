// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_X86_CPUID_HPP
#define KVM_HPP_X86_CPUID_HPP

#include <kvm/detail/kernel_header.hpp>
#if !KVM_HPP_REFUSED && KVM_HPP_ARCH_X86

#include <kvm/detail/vectors.hpp>
#include <kvm/error.hpp>
#include <kvm/uapi/constants.hpp>
#include <kvm/uapi/structs.hpp>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

KVM_HPP_BEGIN
namespace x86 {

/// The four registers that CPUID answers in.
enum class CpuidRegister {
  eax,  ///< the first
  ebx,  ///< the second
  ecx,  ///< the third
  edx   ///< the fourth
};

/// One bit of a CPUID table: what the manuals call a feature flag.
struct CpuidBit {
  std::uint32_t function;  ///< EAX before the instruction
  std::uint32_t index;     ///< ECX before it, for functions that look at it
  /// The register of the answer.
  CpuidRegister reg;
  unsigned bit;  ///< 0 to 31

  constexpr bool operator==(const CpuidBit&) const = default;
};

/// A CPUID table, by value: what a guest sees of its processor.
///
/// Start from System::supported_cpuid(), change what the guest shall see, and
/// give it to Vcpu::set_cpuid2():
///
///     kvm::x86::Cpuid table = system.supported_cpuid();
///     table.clear_bit(hypervisor);
///     table.set({.function = 0x40000100, .eax = 0x1234});
///     vcpu.set_cpuid2(table);
///
/// Plain data: one thread at a time, as with any container.
class Cpuid {
 public:
  /// Entries that KVM takes (R81). A table can hold more; setting it then fails.
  static constexpr std::size_t max_entries = 256;

  /// One row: function, index and what the four registers hold.
  using Entry = uapi::kvm_cpuid_entry2;

  /// An empty table: the guest sees zeroes.
  Cpuid() = default;
  /// A table of these entries, in this order.
  explicit Cpuid(std::vector<Entry> entries) noexcept : entries_(std::move(entries)) {}

  /// The entry that answers CPUID with EAX = function and ECX = index, or null.
  /// For a function that ignores ECX any index finds it. Writable: change the
  /// registers through it. Valid until an entry is added or removed.
  Entry* find(std::uint32_t function, std::uint32_t index = 0) noexcept {
    for (Entry& entry : entries_) {
      if (answers(entry, function, index)) {
        return &entry;
      }
    }
    return nullptr;
  }
  const Entry* find(std::uint32_t function, std::uint32_t index = 0) const noexcept {
    return const_cast<Cpuid*>(this)->find(function, index);
  }

  /// Puts an entry in, in the place of those that answer the same. One whose
  /// function looks at ECX needs uapi::cpuid_flag::significant_index.
  void set(const Entry& entry) {
    const bool indexed = (entry.flags & uapi::cpuid_flag::significant_index) != 0;
    detail::remove_if(entries_, [&](const Entry& other) {
      return indexed ? answers(other, entry.function, entry.index)
                     : other.function == entry.function;
    });
    entries_.push_back(entry);
  }

  /// Takes out all entries of a function, or the one that answers an index.
  /// @return how many there were
  std::size_t remove(std::uint32_t function) {
    return detail::remove_if(entries_,
                             [&](const Entry& entry) { return entry.function == function; });
  }
  std::size_t remove(std::uint32_t function, std::uint32_t index) {
    return detail::remove_if(entries_,
                             [&](const Entry& entry) { return answers(entry, function, index); });
  }

  /// Whether a bit is set; not if there is no such entry.
  bool test_bit(const CpuidBit& which) const noexcept {
    const Entry* const entry = find(which.function, which.index);
    return entry != nullptr && (value(*entry, which.reg) & mask(which)) != 0;
  }
  /// Sets or clears a bit. False, and nothing is changed, if there is no such
  /// entry or bit.
  bool set_bit(const CpuidBit& which, bool value_of_bit = true) noexcept {
    Entry* const entry = find(which.function, which.index);
    if (entry == nullptr || which.bit > 31) {
      return false;
    }
    std::uint32_t& reg = const_cast<std::uint32_t&>(value(*entry, which.reg));
    reg = value_of_bit ? reg | mask(which) : reg & ~mask(which);
    return true;
  }
  /// Clears a bit. False, and nothing is changed, if there is no such entry or bit.
  bool clear_bit(const CpuidBit& which) noexcept { return set_bit(which, false); }

  /// All entries, in KVM's order. Valid until one is added or removed.
  std::span<Entry> entries() noexcept { return {entries_.data(), size()}; }
  std::span<const Entry> entries() const noexcept { return {entries_.data(), size()}; }

  /// How many entries there are.
  std::size_t size() const noexcept { return entries_.size(); }
  /// Whether there is none.
  bool empty() const noexcept { return entries_.empty(); }
  /// The entries, for a range-based for.
  auto begin() noexcept { return entries_.begin(); }
  /// Behind the last entry.
  auto end() noexcept { return entries_.end(); }
  /// The entries, for a range-based for.
  auto begin() const noexcept { return entries_.begin(); }
  /// Behind the last entry.
  auto end() const noexcept { return entries_.end(); }

  /// Whether both hold the same entries in the same order, padding aside.
  friend bool operator==(const Cpuid& a, const Cpuid& b) noexcept {
    if (a.size() != b.size()) {
      return false;
    }
    for (std::size_t i = 0; i < a.size(); ++i) {
      const Entry& x = a.entries_[i];
      const Entry& y = b.entries_[i];
      if (x.function != y.function || x.index != y.index || x.flags != y.flags || x.eax != y.eax ||
          x.ebx != y.ebx || x.ecx != y.ecx || x.edx != y.edx) {
        return false;
      }
    }
    return true;
  }

 private:
  static bool answers(const Entry& entry, std::uint32_t function, std::uint32_t index) noexcept {
    return entry.function == function &&
           ((entry.flags & uapi::cpuid_flag::significant_index) == 0 || entry.index == index);
  }
  static const std::uint32_t& value(const Entry& entry, CpuidRegister reg) noexcept {
    switch (reg) {
      case CpuidRegister::eax:
        return entry.eax;
      case CpuidRegister::ebx:
        return entry.ebx;
      case CpuidRegister::ecx:
        return entry.ecx;
      default:
        return entry.edx;
    }
  }
  static constexpr std::uint32_t mask(const CpuidBit& which) noexcept {
    return which.bit > 31 ? 0 : std::uint32_t{1} << which.bit;
  }

  std::vector<Entry> entries_;
};

}  // namespace x86

namespace detail {

/// The bytes of a kvm_cpuid2 with room for `count` entries.
inline std::vector<std::byte> cpuid_buffer(std::size_t count) {
  std::vector<std::byte> buffer(uapi::flexible_size<uapi::kvm_cpuid2>(count));
  const uapi::kvm_cpuid2 header{.nent = static_cast<std::uint32_t>(count), .padding = 0};
  std::memcpy(buffer.data(), &header, sizeof header);
  return buffer;
}

/// Fetches a table of unknown length. A buffer that is too short gives E2BIG
/// without the length that it should have: grow and try again (R80). Before
/// Linux 6.3, KVM_GET_CPUID2 leaves `nent` as it was: what it did not write
/// tells where the table ends.
/// @param send sends the request with a buffer; returns what the ioctl returns
/// @param fail makes the Error of an errno value
template <class Send, class Fail>
Result<x86::Cpuid> fetch_cpuid(Send&& send, Fail&& fail) {
  constexpr std::size_t limit = 1 << 16;
  constexpr std::uint32_t none = ~std::uint32_t{0};
  // The padding has to be empty for KVM_GET_EMULATED_CPUID.
  constexpr uapi::kvm_cpuid_entry2 untouched{.function = none,
                                             .index = none,
                                             .flags = none,
                                             .eax = none,
                                             .ebx = none,
                                             .ecx = none,
                                             .edx = none,
                                             .padding = {}};
  for (std::size_t room = 128;; room *= 2) {
    std::vector<std::byte> buffer = cpuid_buffer(room);
    for (std::size_t i = 0; i < room; ++i) {
      std::memcpy(buffer.data() + uapi::kvm_cpuid2::array_offset + i * sizeof untouched, &untouched,
                  sizeof untouched);
    }
    if (send(buffer.data()) < 0) {
      const int error_number = errno;
      if (error_number == E2BIG && room < limit) {
        continue;
      }
      return fail(error_number);
    }
    uapi::kvm_cpuid2 header;
    std::memcpy(&header, buffer.data(), sizeof header);
    std::vector<uapi::kvm_cpuid_entry2> entries(header.nent < room ? header.nent : room);
    if (!entries.empty()) {
      std::memcpy(entries.data(), buffer.data() + uapi::kvm_cpuid2::array_offset,
                  entries.size() * sizeof entries[0]);
    }
    while (!entries.empty() && std::memcmp(&entries.back(), &untouched, sizeof untouched) == 0) {
      entries.pop_back();
    }
    return x86::Cpuid(std::move(entries));
  }
}

}  // namespace detail
KVM_HPP_END

#endif
#endif
