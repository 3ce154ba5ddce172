// SPDX-License-Identifier: MIT
// A reader's announcement may still sit in its store buffer when it looks at the
// generation. The updater fences all threads before it looks for announcements,
// so it waits for that reader all the same. Memory that it was told to be free
// is never read.
//
// usage: readers_store_buffer SECONDS
#include <kvm/detail/address_space.hpp>
#include <kvm/detail/guest_access.hpp>

#include <cstdio>
#include <cstdlib>
#include <vector>

#include "two_threads.hpp"

namespace detail = kvm::detail;

int main(int argc, char** argv) {
  const double seconds = argc > 1 ? std::atof(argv[1]) : 5;
  if (!detail::register_membarrier()) {
    std::puts("membarrier is refused here");
    return 2;
  }
  constexpr std::uint64_t right = 0x600df00d600df00d;
  constexpr std::uint64_t poison = 0xbdbdbdbdbdbdbdbd;
  const auto page = detail::sys::page_size();
  auto ids = std::make_shared<detail::SlotIds>();
  auto slot = std::make_shared<detail::SlotState>(ids, *ids->take(0, 10), kvm::Gpa{0},
                                                  kvm::Mapping::anonymous(page), 0);
  auto made = detail::AddressSpace::try_make(0, 1, true);
  detail::AddressSpace& space = **made;
  if (!space.reserve(1)) {
    return 2;
  }
  std::vector<std::uint64_t> cold(std::size_t{64} << 20 >> 3);
  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> wrong{0};
  std::uint64_t reads = 0;
  detail::Reader line;
  space.add_reader(line);

  std::uint64_t rounds = 0;
  {
    kvm_litmus::Other reader([&] {
      std::uint64_t position = 1;
      while (!stop.load(std::memory_order_relaxed)) {
        for (int i = 0; i < 4; ++i) {  // To keep the store buffer busy.
          position = position * 6364136223846793005 + 1442695040888963407;
          __atomic_store_n(&cold[position >> 41], position, __ATOMIC_RELAXED);
        }
        const auto [table, generation] = space.enter(line);
        if (const detail::SlotRecord* record = table->find(64)) {
          ++reads;
          if (detail::load<std::uint64_t>(record->host + 64) != right) {
            wrong.fetch_add(1, std::memory_order_relaxed);
          }
        }
        detail::AddressSpace::leave(line);
      }
    });
    std::byte* const word = slot->data + 64;
    kvm_litmus::Deadline deadline(seconds);
    while (!deadline.passed() && wrong.load(std::memory_order_relaxed) == 0) {
      ++rounds;
      detail::store<std::uint64_t>(word, right);
      if (!space.reserve(1)) {
        return 2;
      }
      space.begin_update(1);
      space.publish(nullptr, slot.get());
      space.end_update();
      // For different times, so that the two threads do not fall into step.
      for (std::uint64_t i = rounds * 7919 % 1024; i != 0; --i) {
        detail::light_fence();
      }
      if (!space.reserve(1)) {
        return 2;
      }
      space.begin_update(2);
      space.publish(slot.get(), nullptr);
      const std::uint64_t generation = space.end_update();
      space.fence_readers();
      space.await(generation);
      space.reclaim();
      // Free now: to be unmapped, or another's.
      detail::store<std::uint64_t>(word, poison);
    }
    stop = true;
  }
  space.remove_reader(line);
  std::printf("%llu rounds, %llu reads, %llu of freed memory\n",
              static_cast<unsigned long long>(rounds), static_cast<unsigned long long>(reads),
              static_cast<unsigned long long>(wrong.load()));
  return wrong.load() == 0 ? 0 : 1;
}
