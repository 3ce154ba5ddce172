// SPDX-License-Identifier: MIT
// usage: memory_cost LOOP ACCESSES
//
// Makes that many accesses to guest memory: LOOP is raw_read or raw_write
// through a plain pointer; cache_read, cache_write, view_read or view_write
// through the library; or one of the last four with _logged, where the slot is
// logged and its pages are dirty already. callgrind.sh counts the instructions
// of the function of that name (without _logged), and looks at its code.
#include <kvm/kvm.hpp>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string>
#include <vector>

namespace {

using namespace kvm::literals;

constexpr kvm::Gpa first_gpa{1_MiB};
constexpr std::size_t size = 64_KiB;

/// A loop ends early where there is no memory.
struct Tally {
  std::uint64_t sum = 0;
  bool failed = false;
};

/// Where the accesses go: pointers for a raw loop, offsets or guest physical
/// addresses for the library's.
struct Addresses {
  const std::uint64_t* begin;
  const std::uint64_t* end;
};

}  // namespace

extern "C" {

__attribute__((noinline)) void raw_read(Addresses addresses, Tally& tally) {
  std::uint64_t sum = 0;
  for (const std::uint64_t* at = addresses.begin; at != addresses.end; ++at) {
    std::uint64_t value =
        __atomic_load_n(reinterpret_cast<const std::uint64_t*>(*at), __ATOMIC_RELAXED);
    asm volatile("" : "+r"(value));
    sum += value;
  }
  tally.sum = sum;
}

__attribute__((noinline)) void raw_write(Addresses addresses, Tally& tally) {
  std::uint64_t value = 0;
  for (const std::uint64_t* at = addresses.begin; at != addresses.end; ++at) {
    __atomic_store_n(reinterpret_cast<std::uint64_t*>(*at), value, __ATOMIC_RELAXED);
    asm volatile("" ::: "memory");
    ++value;
  }
  tally.sum = value;
}

__attribute__((noinline)) void cache_read(kvm::GfnToHvaCache& cache, Addresses addresses,
                                          Tally& tally) {
  std::uint64_t sum = 0;
  for (const std::uint64_t* at = addresses.begin; at != addresses.end; ++at) {
    std::optional<std::uint64_t> value = cache.read<std::uint64_t>(*at);
    if (!value) {
      tally.failed = true;
      break;
    }
    sum += *value;
  }
  tally.sum = sum;
}

__attribute__((noinline)) void cache_write(kvm::GfnToHvaCache& cache, Addresses addresses,
                                           Tally& tally) {
  std::uint64_t value = 0;
  for (const std::uint64_t* at = addresses.begin; at != addresses.end; ++at) {
    if (!cache.write<std::uint64_t>(*at, value)) {
      tally.failed = true;
      break;
    }
    ++value;
  }
  tally.sum = value;
}

__attribute__((noinline)) void view_read(kvm::GuestMemory::View& view, Addresses addresses,
                                         Tally& tally) {
  std::uint64_t sum = 0;
  for (const std::uint64_t* at = addresses.begin; at != addresses.end; ++at) {
    std::optional<std::uint64_t> value = view.read<std::uint64_t>(kvm::Gpa{*at});
    if (!value) {
      tally.failed = true;
      break;
    }
    sum += *value;
  }
  tally.sum = sum;
}

__attribute__((noinline)) void view_write(kvm::GuestMemory::View& view, Addresses addresses,
                                          Tally& tally) {
  std::uint64_t value = 0;
  for (const std::uint64_t* at = addresses.begin; at != addresses.end; ++at) {
    if (!view.write<std::uint64_t>(kvm::Gpa{*at}, value)) {
      tally.failed = true;
      break;
    }
    ++value;
  }
  tally.sum = value;
}

}  // extern "C"

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: memory_cost LOOP ACCESSES\n");
    return 2;
  }
  std::string loop = argv[1];
  const std::size_t count = std::strtoul(argv[2], nullptr, 10);
  const std::size_t suffix = loop.find("_logged");
  const bool logged = suffix != std::string::npos;
  if (logged) {
    loop.resize(suffix);
  }

  const kvm::System system;
  kvm::Vm vm = system.create_vm();
  const kvm::MemorySlot ram =
      vm.add_memory(first_gpa, kvm::Mapping::anonymous(size), {.log_dirty = logged});
  kvm::GuestMemory::View view = vm.memory().view();
  kvm::GfnToHvaCache cache(vm.memory(), first_gpa, size);
  // Each word is 1. Both know the slot afterwards, and its pages are dirty where
  // they are logged.
  bool failed = false;
  for (std::uint64_t offset = 0; offset < size; offset += sizeof(std::uint64_t)) {
    failed |= !view.write<std::uint64_t>(first_gpa + offset, 1);
    failed |= !cache.write<std::uint64_t>(offset, 1);
  }

  const bool raw = loop.starts_with("raw");
  const std::uint64_t first = raw ? reinterpret_cast<std::uint64_t>(ram.mapping().data())
                              : loop.starts_with("cache") ? 0
                                                          : first_gpa.value;
  std::vector<std::uint64_t> list;
  list.reserve(count);
  for (std::size_t i = 0; i < count; ++i) {
    list.push_back(first + i * sizeof(std::uint64_t) % size);
  }
  const Addresses addresses{list.data(), list.data() + list.size()};
  Tally tally;
  if (loop == "raw_read") {
    raw_read(addresses, tally);
  } else if (loop == "raw_write") {
    raw_write(addresses, tally);
  } else if (loop == "cache_read") {
    cache_read(cache, addresses, tally);
  } else if (loop == "cache_write") {
    cache_write(cache, addresses, tally);
  } else if (loop == "view_read") {
    view_read(view, addresses, tally);
  } else if (loop == "view_write") {
    view_write(view, addresses, tally);
  }
  // Ones were read, or a counter was written.
  if (failed || tally.failed || tally.sum != count) {
    std::fprintf(stderr, "not all accesses were made\n");
    return 1;
  }
  return 0;
}
