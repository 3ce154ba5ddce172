// SPDX-License-Identifier: MIT
// Adding a slot and removing it where there are a thousand, while others read
// guest memory, against what cannot be done without: the two ioctls and one
// membarrier.
#include <linux/kvm.h>

#include <kvm/kvm.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include <sys/ioctl.h>

#include "compare.hpp"

namespace {

using kvm::Gpa;
using kvm::Mapping;
using namespace kvm::literals;

constexpr std::size_t slot_count = 1000;
constexpr std::uint64_t first_gpa = 1_MiB;
constexpr std::size_t slot_size = 64_KiB;

[[noreturn]] void unexpected(const char* what) {
  std::fprintf(stderr, "unexpected: %s\n", what);
  std::abort();
}

constexpr Gpa gpa_of(std::size_t slot) { return Gpa{first_gpa + 2 * slot_size * slot}; }

/// Both sides' memory: every slot's is the same.
Mapping make_memory() { return Mapping::anonymous(slot_size, {.populate = true}); }

/// A VM whose slots the library does not know.
struct RawVm {
  RawVm() {
    for (std::size_t i = 0; i + 1 < slot_count; ++i) {
      set(i, slot_size);
    }
  }
  void set(std::size_t slot, std::uint64_t size) {
    const kvm_userspace_memory_region region{
        .slot = static_cast<std::uint32_t>(slot),
        .flags = 0,
        .guest_phys_addr = gpa_of(slot).value,
        .memory_size = size,
        .userspace_addr = reinterpret_cast<std::uint64_t>(memory.data())};
    if (ioctl(vm.fd(), KVM_SET_USER_MEMORY_REGION, &region) != 0) {
      unexpected("KVM_SET_USER_MEMORY_REGION failed");
    }
  }
  kvm::System system;
  kvm::Vm vm = system.create_vm();
  Mapping memory = make_memory();
};

struct LibraryVm {
  LibraryVm() {
    for (std::size_t i = 0; i + 1 < slot_count; ++i) {
      slots.push_back(vm.add_memory(gpa_of(i), memory.share()));
    }
  }
  kvm::System system;
  kvm::Vm vm = system.create_vm();
  Mapping memory = make_memory();
  std::vector<kvm::MemorySlot> slots;
};

/// A thread that reads guest memory all the time.
class Reader {
 public:
  explicit Reader(const kvm::GuestMemory& memory, std::atomic<bool>& stop)
      : thread_([memory, &stop] {
          kvm::GuestMemory::View view = memory.view();
          kvm::GfnToHvaCache cache(memory, gpa_of(0), slot_size);
          for (std::size_t i = 0; !stop.load(std::memory_order_relaxed); ++i) {
            const Gpa gpa = gpa_of(i % (slot_count - 1));
            if (!view.read<std::uint64_t>(gpa) || !cache.read<std::uint64_t>(i * 8 % slot_size)) {
              unexpected("a slot that stays was not there");
            }
          }
        }) {}
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;
  ~Reader() { thread_.join(); }

 private:
  std::thread thread_;
};

struct Shared {
  RawVm raw;
  LibraryVm library;
  std::atomic<bool> stop{false};
  Reader readers[2] = {Reader(library.vm.memory(), stop), Reader(library.vm.memory(), stop)};

  // Before the readers are waited for.
  struct Stop {
    std::atomic<bool>& flag;
    ~Stop() { flag = true; }
  } stop_them{stop};
};

}  // namespace

int main(int argc, char** argv) {
  kvm_bench::compare("slot_add_remove_1000", {1.1},
                     [] {
                       auto shared = std::make_shared<Shared>();
                       return std::pair(
                           [shared] {
                             shared->raw.set(slot_count - 1, slot_size);
                             shared->raw.set(slot_count - 1, 0);
                             kvm::detail::heavy_fence();
                           },
                           [shared] {
                             LibraryVm& library = shared->library;
                             // Dropping it deletes it.
                             static_cast<void>(library.vm.add_memory(gpa_of(slot_count - 1),
                                                                     library.memory.share()));
                           });
                     },
                     {.rounds = 300, .batch = 4});
  return kvm_bench::run(argc, argv);
}
