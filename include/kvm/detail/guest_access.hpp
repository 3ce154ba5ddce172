// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_DETAIL_GUEST_ACCESS_HPP
#define KVM_HPP_DETAIL_GUEST_ACCESS_HPP

#include <kvm/detail/config.hpp>

#include <atomic>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <type_traits>

/// @file
/// All access to memory that a running, possibly hostile guest shares. No other
/// file may dereference a pointer into it.
///
/// What was read is a copy that the compiler cannot fetch a second time: it
/// either comes out of inline assembly or passes through one. So a value that
/// was checked is the value that is used. Nothing here is a data race to thread
/// sanitizer, whichever buffers a guest makes overlap.
///
/// Nothing here checks bounds; callers use in_bounds() first. A plain access
/// orders nothing, for the CPU or for the compiler: detail/barriers.hpp has the
/// fences. A bulk copy is a compiler barrier.

KVM_HPP_BEGIN

/// Specialise as true to read and write a struct as a value although it has
/// padding or floating-point members: `template <> inline constexpr bool
/// kvm::is_guest_layout<Header> = true;`. Padding bytes that are written reach
/// the guest with whatever was in them.
template <class T>
inline constexpr bool is_guest_layout = false;

namespace detail {

/// Whether T is an enum for which every bit pattern is a value.
template <class T>
consteval bool has_fixed_underlying_type() {
  if constexpr (std::is_enum_v<T>) {
    return !std::same_as<std::underlying_type_t<T>, bool> && requires { T{0}; };
  } else {
    return false;
  }
}

}  // namespace detail

/// What one access moves: an integer (not bool, of which a guest could store a
/// third value), std::byte, or an enum with a fixed underlying type.
template <class T>
concept GuestScalar = std::same_as<T, std::remove_cv_t<T>> &&
                      ((std::integral<T> && !std::same_as<T, bool>) ||
                       detail::has_fixed_underlying_type<T>()) &&
                      (sizeof(T) == 1 || sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8);

/// What can be copied out of guest memory as a value: a scalar, or a trivially
/// copyable struct without padding, or with is_guest_layout. A bool or an enum
/// of few values has no place in such a struct: the guest chooses the bytes; nor
/// has a pointer. That cannot be checked, but for spans and string views, which
/// are refused: pass their bytes.
template <class T>
concept GuestValue = GuestScalar<T> ||(
    std::same_as<T, std::remove_cv_t<T>> &&
    (std::is_class_v<T> || std::is_union_v<T>)&&std::is_trivially_copyable_v<T> &&
    (std::has_unique_object_representations_v<T> || is_guest_layout<T>)&&!requires {
      typename T::element_type;
    } &&
    !requires { typename T::traits_type; });

/// What a compare-exchange found.
template <class T>
struct CompareExchange {
  /// Whether the new value was stored.
  bool exchanged = false;
  /// What was there before; the expected value if it was exchanged.
  T observed{};
};

namespace detail {

/// Whether [offset, offset + size) lies inside [0, limit), for any numbers.
constexpr bool in_bounds(std::uint64_t offset, std::uint64_t size, std::uint64_t limit) noexcept {
  std::uint64_t room = 0;
  return !__builtin_sub_overflow(limit, size, &room) && offset <= room;
}

/// Whether a T at this address can be read in one access that is never torn.
template <GuestScalar T>
inline bool is_aligned(const std::byte* at) noexcept {
  return (reinterpret_cast<std::uintptr_t>(at) & (sizeof(T) - 1)) == 0;
}

/// The integer that carries `size` bytes: in a register, in memory that is
/// typed otherwise, and there at any address.
template <std::size_t size>
struct Carrier;
template <>
struct Carrier<1> {
  using Value = std::uint8_t;
  using Aliasing [[gnu::may_alias]] = std::uint8_t;
};
template <>
struct Carrier<2> {
  using Value = std::uint16_t;
  using Aliasing [[gnu::may_alias]] = std::uint16_t;
};
template <>
struct Carrier<4> {
  using Value = std::uint32_t;
  using Aliasing [[gnu::may_alias]] = std::uint32_t;
};
template <>
struct Carrier<8> {
  using Value = std::uint64_t;
  using Aliasing [[gnu::may_alias]] = std::uint64_t;
};
template <class T>
struct [[gnu::packed, gnu::may_alias]] Unaligned {
  T value;
};

template <class T>
using Word = typename Carrier<sizeof(T)>::Value;

template <class T>
inline auto* aliasing(const std::byte* at) noexcept {
  return reinterpret_cast<const typename Carrier<sizeof(T)>::Aliasing*>(at);
}
template <class T>
inline auto* aliasing(std::byte* at) noexcept {
  return reinterpret_cast<typename Carrier<sizeof(T)>::Aliasing*>(at);
}

/// The same value, of which the compiler no longer knows where it is from.
template <class Integer>
inline Integer launder_value(Integer value) noexcept {
  asm volatile("" : "+r"(value));
  return value;
}

// --- scalars, at addresses that are multiples of their size ---

/// One load, never torn. Relaxed.
template <GuestScalar T>
inline T load(const std::byte* at) noexcept {
  const Word<T> value = __atomic_load_n(aliasing<T>(at), __ATOMIC_RELAXED);
  return std::bit_cast<T>(launder_value(value));
}

/// One store, never torn. Relaxed.
template <GuestScalar T>
inline void store(std::byte* at, T value) noexcept {
  __atomic_store_n(aliasing<T>(at), std::bit_cast<Word<T>>(value), __ATOMIC_RELAXED);
}

// --- scalars, at any address ---

/// One load where the CPU loads from any address; elsewhere one if the address
/// is aligned, else a load per byte. So an aligned one is never torn. Relaxed.
template <GuestScalar T>
inline T load_any(const std::byte* at) noexcept {
  if constexpr (sizeof(T) == 1) {
    return load<T>(at);
  } else {
#if KVM_HPP_ARCH_RISCV
    if (is_aligned<T>(at)) [[likely]] {
      return load<T>(at);
    }
    Word<T> value = 0;
    for (std::size_t i = sizeof(T); i-- > 0;) {
      value = static_cast<Word<T>>(std::uint64_t{value} << 8 | load<std::uint8_t>(at + i));
    }
    return std::bit_cast<T>(value);
#else
    const auto* const memory = reinterpret_cast<const Unaligned<Word<T>>*>(at);
    Word<T> value;
    if constexpr (sizeof(T) == 2) {
#if KVM_HPP_ARCH_X86
      asm volatile("{movzwl %1, %k0|mov %w0, %1}" : "=r"(value) : "m"(memory->value));
#else
      asm volatile("ldrh %w0, %1" : "=r"(value) : "Q"(memory->value));
#endif
    } else if constexpr (sizeof(T) == 4) {
#if KVM_HPP_ARCH_X86
      asm volatile("{movl %1, %0|mov %0, %1}" : "=r"(value) : "m"(memory->value));
#else
      asm volatile("ldr %w0, %1" : "=r"(value) : "Q"(memory->value));
#endif
    } else {
#if KVM_HPP_ARCH_X86
      asm volatile("{movq %1, %0|mov %0, %1}" : "=r"(value) : "m"(memory->value));
#else
      asm volatile("ldr %x0, %1" : "=r"(value) : "Q"(memory->value));
#endif
    }
    return std::bit_cast<T>(value);
#endif
  }
}

/// One store where load_any() is one load.
template <GuestScalar T>
inline void store_any(std::byte* at, T scalar) noexcept {
  if constexpr (sizeof(T) == 1) {
    store<T>(at, scalar);
  } else {
    const Word<T> value = std::bit_cast<Word<T>>(scalar);
#if KVM_HPP_ARCH_RISCV
    if (is_aligned<T>(at)) [[likely]] {
      store<T>(at, scalar);
      return;
    }
    for (std::size_t i = 0; i < sizeof(T); ++i) {
      store<std::uint8_t>(at + i, static_cast<std::uint8_t>(value >> (8 * i)));
    }
#else
    auto* const memory = reinterpret_cast<Unaligned<Word<T>>*>(at);
    if constexpr (sizeof(T) == 2) {
#if KVM_HPP_ARCH_X86
      asm volatile("{movw %1, %0|mov %0, %1}" : "=m"(memory->value) : "r"(value));
#else
      asm volatile("strh %w1, %0" : "=Q"(memory->value) : "r"(value));
#endif
    } else if constexpr (sizeof(T) == 4) {
#if KVM_HPP_ARCH_X86
      asm volatile("{movl %1, %0|mov %0, %1}" : "=m"(memory->value) : "r"(value));
#else
      asm volatile("str %w1, %0" : "=Q"(memory->value) : "r"(value));
#endif
    } else {
#if KVM_HPP_ARCH_X86
      asm volatile("{movq %1, %0|mov %0, %1}" : "=m"(memory->value) : "r"(value));
#else
      asm volatile("str %x1, %0" : "=Q"(memory->value) : "r"(value));
#endif
    }
#endif
  }
}

// --- bulk ---

#if KVM_HPP_ARCH_X86
/// From here on the CPU's own copy loop is the faster one (measured, aligned
/// or not, with and without FSRM in mind: without it, rep movsb starts slowly).
inline constexpr std::size_t string_instructions_from = 1024;
#endif

#if !KVM_HPP_ARCH_RISCV
using Vector [[gnu::vector_size(16)]] = unsigned char;
inline constexpr std::size_t vector_size = sizeof(Vector);
inline constexpr std::size_t block_size = 4 * vector_size;

inline Vector load_vector(const std::byte* at) noexcept {
  const auto* const memory = reinterpret_cast<const Unaligned<Vector>*>(at);
  Vector value;
#if KVM_HPP_ARCH_X86
  asm volatile("{movdqu %1, %0|movdqu %0, %1}" : "=x"(value) : "m"(memory->value));
#else
  asm volatile("ldr %q0, %1" : "=w"(value) : "Q"(memory->value));
#endif
  return value;
}

inline void store_vector(std::byte* at, Vector value) noexcept {
  auto* const memory = reinterpret_cast<Unaligned<Vector>*>(at);
#if KVM_HPP_ARCH_X86
  asm volatile("{movdqu %1, %0|movdqu %0, %1}" : "=m"(memory->value) : "x"(value));
#else
  asm volatile("str %q1, %0" : "=Q"(memory->value) : "w"(value));
#endif
}

inline void copy_block(std::byte* to, const std::byte* from) noexcept {
#if KVM_HPP_ARCH_ARM64
  Vector a, b, c, d;
  asm volatile(
      "ldp %q0, %q1, [%5]\n\t"
      "ldp %q2, %q3, [%5, #32]\n\t"
      "stp %q0, %q1, [%4]\n\t"
      "stp %q2, %q3, [%4, #32]"
      : "=&w"(a), "=&w"(b), "=&w"(c), "=&w"(d)
      : "r"(to), "r"(from)
      : "memory");
#else
  const Vector a = load_vector(from);
  const Vector b = load_vector(from + vector_size);
  const Vector c = load_vector(from + 2 * vector_size);
  const Vector d = load_vector(from + 3 * vector_size);
  store_vector(to, a);
  store_vector(to + vector_size, b);
  store_vector(to + 2 * vector_size, c);
  store_vector(to + 3 * vector_size, d);
#endif
}

/// sizeof(T) to twice that many bytes.
template <GuestScalar T>
inline void copy_ends(std::byte* to, const std::byte* from, std::size_t size) noexcept {
  const std::size_t last = size - sizeof(T);
  const T head = load_any<T>(from);
  const T tail = load_any<T>(from + last);
  store_any<T>(to, head);
  store_any<T>(to + last, tail);
}

/// Fewer bytes than a vector has.
inline void copy_few(std::byte* to, const std::byte* from, std::size_t size) noexcept {
  if (size >= 8) {
    copy_ends<std::uint64_t>(to, from, size);
  } else if (size >= 4) {
    copy_ends<std::uint32_t>(to, from, size);
  } else if (size >= 2) {
    copy_ends<std::uint16_t>(to, from, size);
  } else if (size == 1) {
    store<std::byte>(to, load<std::byte>(from));
  }
}

/// As many bytes as a vector has, or more. The last piece overlaps the one
/// before it, so that there is no loop over what is left.
inline void copy_vectors(std::byte* to, const std::byte* from, std::size_t size) noexcept {
  if (size > block_size) {
    std::byte* const last_to = to + (size - block_size);
    const std::byte* const last_from = from + (size - block_size);
    do {
      copy_block(to, from);
      to += block_size;
      from += block_size;
    } while (to < last_to);
    copy_block(last_to, last_from);
    return;
  }
  const std::size_t last = size - vector_size;
  const Vector head = load_vector(from);
  const Vector tail = load_vector(from + last);
  if (size > 2 * vector_size) {
    const Vector second = load_vector(from + vector_size);
    const Vector third = load_vector(from + last - vector_size);
    store_vector(to + vector_size, second);
    store_vector(to + last - vector_size, third);
  }
  store_vector(to, head);
  store_vector(to + last, tail);
}

/// Fewer bytes than a vector has; `word` is one byte repeated.
inline void fill_few(std::byte* to, std::uint64_t word, std::size_t size) noexcept {
  if (size >= 8) {
    store_any(to, word);
    store_any(to + size - 8, word);
  } else if (size >= 4) {
    store_any(to, static_cast<std::uint32_t>(word));
    store_any(to + size - 4, static_cast<std::uint32_t>(word));
  } else if (size >= 2) {
    store_any(to, static_cast<std::uint16_t>(word));
    store_any(to + size - 2, static_cast<std::uint16_t>(word));
  } else if (size == 1) {
    store(to, static_cast<std::uint8_t>(word));
  }
}

/// As many bytes as a vector has, or more.
inline void fill_vectors(std::byte* to, std::byte value, std::size_t size) noexcept {
  const Vector vector = Vector{} | std::to_integer<unsigned char>(value);
  std::byte* const last = to + (size - vector_size);
  while (to < last) {
    store_vector(to, vector);
    to += vector_size;
  }
  store_vector(last, vector);
}
#endif

/// Copies bytes from guest memory, or to it, or both. About as fast as memcpy,
/// which thread sanitizer would report: two devices may be made to copy to one
/// place. Nothing is promised about tearing: a word may arrive in pieces of
/// different age. A byte may be read twice, and one of the two is what arrives. Where source and
/// destination overlap, as a guest may arrange, what ends up there is some mixture of the source's
/// bytes. A size of 0 needs no address. A compiler barrier.
inline void copy(std::byte* to, const std::byte* from, std::size_t size) noexcept {
  asm volatile("" ::: "memory");
#if KVM_HPP_ARCH_RISCV
  constexpr std::size_t word = sizeof(std::uint64_t);
  const auto together =
      reinterpret_cast<std::uintptr_t>(to) ^ reinterpret_cast<std::uintptr_t>(from);
  if (together % word == 0) {
    for (; size != 0 && !is_aligned<std::uint64_t>(to); --size) {
      store<std::byte>(to++, load<std::byte>(from++));
    }
    for (; size >= word; size -= word) {
      store<std::uint64_t>(to, load<std::uint64_t>(from));
      to += word;
      from += word;
    }
  }
  for (; size != 0; --size) {
    store<std::byte>(to++, load<std::byte>(from++));
  }
#else
#if KVM_HPP_ARCH_X86
  if (size >= string_instructions_from) {
    asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size)::"memory");
    return;
  }
#endif
  if (size < vector_size) {
    copy_few(to, from, size);
  } else {
    copy_vectors(to, from, size);
  }
#endif
  asm volatile("" ::: "memory");
}

inline void copy_to_guest(std::byte* guest, const std::byte* from, std::size_t size) noexcept {
  copy(guest, from, size);
}
inline void copy_from_guest(std::byte* to, const std::byte* guest, std::size_t size) noexcept {
  copy(to, guest, size);
}

/// Sets every byte to `value`. As copy() does it.
inline void fill(std::byte* to, std::byte value, std::size_t size) noexcept {
  asm volatile("" ::: "memory");
  const std::uint64_t word = std::to_integer<std::uint64_t>(value) * 0x0101010101010101;
#if KVM_HPP_ARCH_RISCV
  for (; size != 0 && !is_aligned<std::uint64_t>(to); --size) {
    store(to++, value);
  }
  for (; size >= sizeof(word); size -= sizeof(word)) {
    store(to, word);
    to += sizeof(word);
  }
  for (; size != 0; --size) {
    store(to++, value);
  }
#else
#if KVM_HPP_ARCH_X86
  if (size >= string_instructions_from) {
    asm volatile("rep stosb" : "+D"(to), "+c"(size) : "a"(value) : "memory");
    return;
  }
#endif
  if (size < vector_size) {
    fill_few(to, word, size);
  } else {
    fill_vectors(to, value, size);
  }
#endif
  asm volatile("" ::: "memory");
}

// --- structs, at any address ---

/// Up to here a struct is copied by instructions in line.
inline constexpr std::size_t largest_inline_value = 64;

/// Calls `operation(offset, T{})` for the words that make up `size` bytes,
/// none of which overlap.
template <std::size_t size, std::size_t offset = 0, class Operation>
inline void for_each_word(const Operation& operation) {
  constexpr std::size_t left = size - offset;
  if constexpr (left >= 8) {
    operation(offset, std::uint64_t{});
    for_each_word<size, offset + 8>(operation);
  } else if constexpr (left >= 4) {
    operation(offset, std::uint32_t{});
    for_each_word<size, offset + 4>(operation);
  } else if constexpr (left >= 2) {
    operation(offset, std::uint16_t{});
    for_each_word<size, offset + 2>(operation);
  } else if constexpr (left == 1) {
    operation(offset, std::uint8_t{});
  }
}

/// Each byte is read once. Its words may be of different age.
template <GuestValue T>
requires(!GuestScalar<T>) inline T load_any(const std::byte* at) noexcept {
  struct alignas(T) {
    std::byte bytes[sizeof(T)];
  } read;
  if constexpr (sizeof(T) <= largest_inline_value) {
    for_each_word<sizeof(T)>([&]<class U>(std::size_t offset, U) {
      const U word = load_any<U>(at + offset);
      __builtin_memcpy(read.bytes + offset, &word, sizeof(word));
    });
  } else {
    copy(read.bytes, at, sizeof(T));
  }
  return std::bit_cast<T>(read);
}

template <GuestValue T>
requires(!GuestScalar<T>) inline void store_any(std::byte* at, const T& value) noexcept {
  const auto* const bytes = reinterpret_cast<const std::byte*>(&value);
  if constexpr (sizeof(T) <= largest_inline_value) {
    for_each_word<sizeof(T)>([&]<class U>(std::size_t offset, U word) {
      __builtin_memcpy(&word, bytes + offset, sizeof(word));
      store_any<U>(at + offset, word);
    });
  } else {
    copy(at, bytes, sizeof(T));
  }
}

// --- atomics, at addresses that are multiples of their size ---
//
// An order that C++ does not have for an operation (a release load, or a number
// that is no order) is taken as seq_cst, never as less than what was asked for.

template <int value>
struct BuiltinOrder {
  static constexpr int builtin = value;
};

/// Calls `operation` with the order as a constant: the builtins take others for
/// seq_cst, or warn.
template <class Operation>
inline auto with_order(std::memory_order order, Operation operation) noexcept {
  switch (order) {
    case std::memory_order_relaxed:
      return operation(BuiltinOrder<__ATOMIC_RELAXED>{});
    case std::memory_order_consume:
    case std::memory_order_acquire:
      return operation(BuiltinOrder<__ATOMIC_ACQUIRE>{});
    case std::memory_order_release:
      return operation(BuiltinOrder<__ATOMIC_RELEASE>{});
    case std::memory_order_acq_rel:
      return operation(BuiltinOrder<__ATOMIC_ACQ_REL>{});
    default:
      return operation(BuiltinOrder<__ATOMIC_SEQ_CST>{});
  }
}

template <GuestScalar T>
inline T atomic_load(const std::byte* at, std::memory_order order) noexcept {
  Word<T> value;
  switch (order) {
    case std::memory_order_relaxed:
      value = __atomic_load_n(aliasing<T>(at), __ATOMIC_RELAXED);
      break;
    case std::memory_order_consume:
    case std::memory_order_acquire:
      value = __atomic_load_n(aliasing<T>(at), __ATOMIC_ACQUIRE);
      break;
    default:
      value = __atomic_load_n(aliasing<T>(at), __ATOMIC_SEQ_CST);
      break;
  }
  return std::bit_cast<T>(launder_value(value));
}

template <GuestScalar T>
inline void atomic_store(std::byte* at, T value, std::memory_order order) noexcept {
  const auto word = std::bit_cast<Word<T>>(value);
  switch (order) {
    case std::memory_order_relaxed:
      return __atomic_store_n(aliasing<T>(at), word, __ATOMIC_RELAXED);
    case std::memory_order_release:
      return __atomic_store_n(aliasing<T>(at), word, __ATOMIC_RELEASE);
    default:
      return __atomic_store_n(aliasing<T>(at), word, __ATOMIC_SEQ_CST);
  }
}

template <class T, int order>
inline CompareExchange<T> compare_exchange_word(std::byte* at, T expected, T desired) noexcept {
  constexpr int failure = order == __ATOMIC_RELEASE   ? __ATOMIC_RELAXED
                          : order == __ATOMIC_ACQ_REL ? __ATOMIC_ACQUIRE
                                                      : order;
  auto observed = std::bit_cast<Word<T>>(expected);
  const bool exchanged =
      __atomic_compare_exchange_n(aliasing<T>(at), &observed, std::bit_cast<Word<T>>(desired),
                                  /*weak=*/false, order, failure);
  return {.exchanged = exchanged, .observed = std::bit_cast<T>(launder_value(observed))};
}

/// A read-modify-write of 1 or 2 bytes by exchanging the 4 that they lie in:
/// for CPUs that have none, where GCC 12 would call into libatomic.
/// @param change called with the old value, returns the new one; or the old
///               one again, which ends it without a store
/// @return the old value
template <class T, int order, class Change>
inline T change_within_word(std::byte* at, Change change) noexcept {
  static_assert(sizeof(T) < sizeof(std::uint32_t));
  using Bits = Word<T>;
  const auto offset = reinterpret_cast<std::uintptr_t>(at) % sizeof(std::uint32_t);
  std::byte* const container = at - offset;
  const auto shift = static_cast<unsigned>(8 * offset);
  const std::uint32_t mask = std::uint32_t{static_cast<Bits>(-1)} << shift;
  std::uint32_t seen = atomic_load<std::uint32_t>(
      container, order == __ATOMIC_RELAXED ? std::memory_order_relaxed : std::memory_order_acquire);
  for (;;) {
    const auto before = static_cast<Bits>(seen >> shift);
    const Bits after = change(before);
    const std::uint32_t next = (seen & ~mask) | std::uint32_t{after} << shift;
    const auto result = compare_exchange_word<std::uint32_t, order>(container, seen, next);
    if (result.exchanged) {
      return std::bit_cast<T>(before);
    }
    seen = result.observed;
  }
}

/// Whether the CPU has read-modify-writes of this many bytes.
template <class T>
inline constexpr bool changes_in_place = !KVM_HPP_ARCH_RISCV || sizeof(T) >= 4;

/// @return what was there before
template <GuestScalar T>
inline T atomic_exchange(std::byte* at, T value, std::memory_order order) noexcept {
  const auto word = std::bit_cast<Word<T>>(value);
  return with_order(order, [&]<int builtin>(BuiltinOrder<builtin>) {
    if constexpr (changes_in_place<T>) {
      return std::bit_cast<T>(launder_value(__atomic_exchange_n(aliasing<T>(at), word, builtin)));
    } else {
      return change_within_word<T, builtin>(at, [&](Word<T>) { return word; });
    }
  });
}

/// Strong: it only fails where another value was observed, and then stores
/// nothing. That read is ordered as `order` says for a load.
template <GuestScalar T>
inline CompareExchange<T> atomic_compare_exchange(std::byte* at, T expected, T desired,
                                                  std::memory_order order) noexcept {
  return with_order(order, [&]<int builtin>(BuiltinOrder<builtin>) -> CompareExchange<T> {
    if constexpr (changes_in_place<T>) {
      return compare_exchange_word<T, builtin>(at, expected, desired);
    } else {
      const auto wanted = std::bit_cast<Word<T>>(expected);
      const auto next = std::bit_cast<Word<T>>(desired);
      const T observed = change_within_word<T, builtin>(
          at, [&](Word<T> seen) { return seen == wanted ? next : seen; });
      return {.exchanged = std::bit_cast<Word<T>>(observed) == wanted, .observed = observed};
    }
  });
}

/// @return what was there before
template <GuestScalar T>
inline T atomic_fetch_or(std::byte* at, T value, std::memory_order order) noexcept {
  const auto word = std::bit_cast<Word<T>>(value);
  return with_order(order, [&]<int builtin>(BuiltinOrder<builtin>) {
    if constexpr (changes_in_place<T>) {
      return std::bit_cast<T>(launder_value(__atomic_fetch_or(aliasing<T>(at), word, builtin)));
    } else {
      return change_within_word<T, builtin>(
          at, [&](Word<T> seen) { return static_cast<Word<T>>(seen | word); });
    }
  });
}

/// @return what was there before
template <GuestScalar T>
inline T atomic_fetch_and(std::byte* at, T value, std::memory_order order) noexcept {
  const auto word = std::bit_cast<Word<T>>(value);
  return with_order(order, [&]<int builtin>(BuiltinOrder<builtin>) {
    if constexpr (changes_in_place<T>) {
      return std::bit_cast<T>(launder_value(__atomic_fetch_and(aliasing<T>(at), word, builtin)));
    } else {
      return change_within_word<T, builtin>(
          at, [&](Word<T> seen) { return static_cast<Word<T>>(seen & word); });
    }
  });
}

/// Wraps around.
/// @return what was there before
template <GuestScalar T>
inline T atomic_fetch_add(std::byte* at, T value, std::memory_order order) noexcept {
  const auto word = std::bit_cast<Word<T>>(value);
  return with_order(order, [&]<int builtin>(BuiltinOrder<builtin>) {
    if constexpr (changes_in_place<T>) {
      return std::bit_cast<T>(launder_value(__atomic_fetch_add(aliasing<T>(at), word, builtin)));
    } else {
      return change_within_word<T, builtin>(
          at, [&](Word<T> seen) { return static_cast<Word<T>>(seen + word); });
    }
  });
}

}  // namespace detail
KVM_HPP_END

#endif
