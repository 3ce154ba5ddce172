// SPDX-License-Identifier: MIT
// Guest memory through a cache and through a view, against a plain pointer to
// the same host memory. Both sides go through the same list of addresses and
// use each value in the same way; the raw side's list has pointers, the
// library's has what a guest gives. No guest runs, and all memory is there
// beforehand, in the smallest pages.
#include <kvm/kvm.hpp>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include <sys/mman.h>

#include "compare.hpp"

namespace {

using kvm::Gpa;
using kvm::Mapping;
using kvm_bench::Effort;
using namespace kvm::literals;

constexpr std::size_t memory_size = 64_MiB;
constexpr std::uint64_t first_gpa = 1_MiB;
constexpr std::size_t copy_size = 4_KiB;

// 16 k accesses between two looks at the clock.
constexpr std::size_t accesses = 2048;
constexpr Effort effort{.rounds = 400, .batch = 8};
constexpr std::size_t copies = 16;
constexpr Effort copy_effort{.rounds = 1000, .batch = 4};

[[noreturn]] void unexpected(const char* what) {
  std::fprintf(stderr, "unexpected: %s\n", what);
  std::abort();
}

/// A VM with 64 MiB of memory in equal slots, with a hole after each.
struct Memory {
  explicit Memory(std::size_t count, kvm::MemoryOptions options = {}) {
    const std::size_t page = kvm::detail::sys::page_size();
    const std::size_t size = memory_size / count / page * page;
    if (madvise(all.data(), all.size(), MADV_NOHUGEPAGE) != 0 && errno != EINVAL) {
      unexpected("madvise failed");
    }
    std::memset(all.data(), 1, all.size());
    for (std::size_t i = 0; i < count; ++i) {
      const std::uint64_t gpa = first_gpa + 2 * size * i;
      slots.push_back(vm.add_memory(Gpa{gpa}, all.part(size * i, size), options));
    }
  }
  kvm::System system;
  kvm::Vm vm = system.create_vm();
  Mapping all = Mapping::anonymous(memory_size);
  std::vector<kvm::MemorySlot> slots;
};

/// Where accesses go.
struct Place {
  std::byte* raw;
  std::uint64_t gpa;
};

enum class Span {
  hot,      // the first page
  buffers,  // 64 pages, as many as a device may have in flight: in the second-level cache
  random,   // all of it
};

/// Random places, each a multiple of `size`.
std::vector<Place> places(const Memory& memory, Span span, std::size_t count, std::size_t size) {
  std::vector<Place> result;
  std::mt19937_64 random(1);
  for (std::size_t i = 0; i < count; ++i) {
    const auto& slot = memory.slots[span == Span::random ? random() % memory.slots.size() : 0];
    const std::uint64_t page = kvm::detail::sys::page_size();
    const std::uint64_t room = span == Span::hot       ? page
                               : span == Span::buffers ? 64 * page
                                                       : slot.size();
    const std::uint64_t offset = random() % (room / size) * size;
    result.push_back({slot.mapping().data() + offset, slot.gpa().value + offset});
  }
  return result;
}

/// Addresses of one side, in rounds.
template <class T>
struct Cursor {
  std::vector<T> addresses;
  std::size_t next = 0;
  std::uint64_t sum = 0;

  std::span<const T> take(std::size_t count) {
    if (next + count > addresses.size()) {
      next = 0;
    }
    const std::span<const T> result(addresses.data() + next, count);
    next += count;
    return result;
  }
};

/// What both sides of a comparison have. Half a round is between the sides, so
/// that none of them finds in the CPU's caches what the other just fetched.
struct Sides {
  Sides(std::shared_ptr<Memory> from, Span span, std::size_t count, std::size_t size)
      : memory(std::move(from)) {
    const std::vector<Place> list = places(*memory, span, count, size);
    for (const Place& place : list) {
      raw.addresses.push_back(place.raw);
      guest.addresses.push_back(place.gpa);
      offsets.addresses.push_back(place.gpa - first_gpa);
    }
    guest.next = offsets.next = count / 2;
  }

  std::shared_ptr<Memory> memory;
  Cursor<std::byte*> raw;
  Cursor<std::uint64_t> guest;    // for a view
  Cursor<std::uint64_t> offsets;  // for a cache of all
  kvm::GuestMemory::View view = memory->vm.memory().view();
  kvm::GfnToHvaCache cache{memory->vm.memory(), Gpa{first_gpa}, memory_size};
  alignas(4096) std::byte buffer[copy_size] = {};
};

std::shared_ptr<Sides> make_sides(std::size_t slots, Span span, kvm::MemoryOptions options = {}) {
  // Random ones over as many lines as there are.
  const std::size_t count = span == Span::hot ? 2 * accesses : memory_size / 64;
  return std::make_shared<Sides>(std::make_shared<Memory>(slots, options), span, count,
                                 sizeof(std::uint64_t));
}
std::shared_ptr<Sides> make_copy_sides(std::size_t slots) {
  return std::make_shared<Sides>(std::make_shared<Memory>(slots), Span::buffers, 4096 * copies,
                                 copy_size);
}

/// One step of a polynomial over what is read and written: each access has a
/// use, as in a device, of which the next one's depends. About a nanosecond.
inline std::uint64_t step(std::uint64_t sum, std::uint64_t value) { return sum * 31 + value; }

template <class T, class Read>
[[gnu::noinline]] void read_all(Cursor<T>& cursor, Read read) {
  std::uint64_t sum = cursor.sum;
  for (const T address : cursor.take(accesses)) {
    sum = step(sum, read(address));
  }
  cursor.sum = sum;
}
template <class T, class Write>
[[gnu::noinline]] void write_all(Cursor<T>& cursor, Write write) {
  std::uint64_t sum = cursor.sum;
  for (const T address : cursor.take(accesses)) {
    write(address, sum);
    sum = step(sum, 7);
  }
  cursor.sum = sum;
}

// One access of each kind. The raw ones have no check, but are as opaque to the
// compiler as the library's.

std::uint64_t raw_read(const std::byte* at) {
  std::uint64_t value =
      __atomic_load_n(reinterpret_cast<const std::uint64_t*>(at), __ATOMIC_RELAXED);
  asm volatile("" : "+r"(value));
  return value;
}
void raw_write(std::byte* at, std::uint64_t value) {
  __atomic_store_n(reinterpret_cast<std::uint64_t*>(at), value, __ATOMIC_RELAXED);
  asm volatile("" ::: "memory");
}
std::uint64_t cache_read(kvm::GfnToHvaCache& cache, std::uint64_t offset) {
  std::optional<std::uint64_t> value = cache.read<std::uint64_t>(offset);
  if (!value) {
    unexpected("no memory");
  }
  return *value;
}
void cache_write(kvm::GfnToHvaCache& cache, std::uint64_t offset, std::uint64_t value) {
  if (!cache.write<std::uint64_t>(offset, value)) {
    unexpected("no memory");
  }
}
std::uint64_t view_read(kvm::GuestMemory::View& view, std::uint64_t gpa) {
  std::optional<std::uint64_t> value = view.read<std::uint64_t>(Gpa{gpa});
  if (!value) {
    unexpected("no memory");
  }
  return *value;
}
void view_write(kvm::GuestMemory::View& view, std::uint64_t gpa, std::uint64_t value) {
  if (!view.write<std::uint64_t>(Gpa{gpa}, value)) {
    unexpected("no memory");
  }
}

// The loops, for one side each.

auto raw_reads(const std::shared_ptr<Sides>& sides) {
  return [sides] { read_all(sides->raw, raw_read); };
}
auto raw_writes(const std::shared_ptr<Sides>& sides) {
  return [sides] { write_all(sides->raw, raw_write); };
}
auto cache_reads(const std::shared_ptr<Sides>& sides) {
  return [sides] {
    read_all(sides->offsets,
             [&cache = sides->cache](std::uint64_t at) { return cache_read(cache, at); });
  };
}
auto cache_writes(const std::shared_ptr<Sides>& sides) {
  return [sides] {
    write_all(sides->offsets, [&cache = sides->cache](std::uint64_t at, std::uint64_t value) {
      cache_write(cache, at, value);
    });
  };
}
auto view_reads(const std::shared_ptr<Sides>& sides) {
  return [sides] {
    read_all(sides->guest, [&view = sides->view](std::uint64_t at) { return view_read(view, at); });
  };
}
auto view_writes(const std::shared_ptr<Sides>& sides) {
  return [sides] {
    write_all(sides->guest, [&view = sides->view](std::uint64_t at, std::uint64_t value) {
      view_write(view, at, value);
    });
  };
}

template <class Floor, class Library>
void compare(const char* name, double limit, std::size_t slots, Span span, Floor floor,
             Library library, kvm::MemoryOptions options = {}) {
  kvm_bench::compare(
      name, {limit},
      [=] {
        const auto sides = make_sides(slots, span, options);
        return std::pair(floor(sides), library(sides));
      },
      effort);
}

/// Many slots against few.
template <class Library>
void compare_slots(const char* name, double limit, Library library) {
  kvm_bench::compare(
      name, {limit},
      [=] {
        return std::pair(library(make_sides(8, Span::random)),
                         library(make_sides(1000, Span::random)));
      },
      effort);
}

void compare_copies(const char* name, double limit, bool write) {
  kvm_bench::compare(
      name, {limit},
      [=] {
        const auto sides = make_copy_sides(8);
        return std::pair(
            [=, &buffer = sides->buffer] {
              for (std::byte* const at : sides->raw.take(copies)) {
                std::size_t size = copy_size;
                asm volatile("" : "+r"(size));  // A call, as for sizes that a guest chooses.
                std::memcpy(write ? at : buffer, write ? buffer : at, size);
                asm volatile("" ::: "memory");
              }
            },
            [=, &buffer = sides->buffer] {
              for (const std::uint64_t at : sides->guest.take(copies)) {
                const bool done = write
                                      ? sides->view.write(Gpa{at}, std::as_bytes(std::span(buffer)))
                                      : sides->view.read(Gpa{at}, std::span<std::byte>(buffer));
                if (!done) {
                  unexpected("no memory");
                }
              }
            });
      },
      copy_effort);
}

void register_all() {
  compare("cache_read_hot", 2.0, 1, Span::hot, raw_reads, cache_reads);
  compare("cache_write_hot", 2.0, 1, Span::hot, raw_writes, cache_writes);
  compare("cache_read_random", 1.35, 1, Span::random, raw_reads, cache_reads);
  compare("cache_write_random", 1.35, 1, Span::random, raw_writes, cache_writes);

  compare("view_read_hot", 3.0, 1, Span::hot, raw_reads, view_reads);
  compare("view_write_hot", 3.0, 1, Span::hot, raw_writes, view_writes);
  compare("view_read_8_slots", 2.0, 8, Span::random, raw_reads, view_reads);
  compare("view_write_8_slots", 2.0, 8, Span::random, raw_writes, view_writes);
  compare_slots("view_read_1000_slots", 1.5, view_reads);
  compare_slots("view_write_1000_slots", 1.5, view_writes);
  compare_copies("view_copy_4k_read", 1.05, false);
  compare_copies("view_copy_4k_write", 1.05, true);

  // After the first round the page is dirty.
  const kvm::MemoryOptions logged{.log_dirty = true};
  compare("mark_dirty_page_cache", 2.5, 1, Span::hot, raw_writes, cache_writes, logged);
  compare("mark_dirty_page_view", 2.5, 1, Span::hot, raw_writes, view_writes, logged);
}

}  // namespace

int main(int argc, char** argv) {
  register_all();
  return kvm_bench::run(argc, argv);
}
