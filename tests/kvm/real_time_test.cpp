// SPDX-License-Identifier: MIT
// Threads of different priority on one CPU: the one that waits must let the other run.
#include <kvm/kvm.hpp>

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstring>
#include <span>
#include <thread>
#include <vector>

#include <pthread.h>
#include <sched.h>

namespace {

using namespace kvm::literals;

/// Keeps the process's threads that begin while it lives on the CPU that this one is on.
class OneCpu {
 public:
  OneCpu() {
    EXPECT_EQ(::sched_getaffinity(0, sizeof before_, &before_), 0);
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(static_cast<std::size_t>(::sched_getcpu()), &one);
    EXPECT_EQ(::sched_setaffinity(0, sizeof one, &one), 0);
  }
  ~OneCpu() { EXPECT_EQ(::sched_setaffinity(0, sizeof before_, &before_), 0); }
  OneCpu(const OneCpu&) = delete;
  OneCpu& operator=(const OneCpu&) = delete;

 private:
  cpu_set_t before_{};
};

/// Makes this thread a real-time one, or an ordinary one again.
int set_real_time(bool real_time) {
  const ::sched_param priority{.sched_priority = real_time ? 1 : 0};
  return ::pthread_setschedparam(::pthread_self(), real_time ? SCHED_FIFO : SCHED_OTHER, &priority);
}

// Turning the log on waits for accesses that began before. They are another thread's, which only
// gets to run while this one sleeps for long enough.
TEST(RealTimeSerial, AWaiterLetsAReaderFinish) {
  constexpr std::size_t size = 16_MiB;
  const kvm::System system;
  kvm::Vm vm = system.create_vm();
  kvm::MemorySlot ram =
      vm.add_memory(kvm::Gpa{0}, kvm::Mapping::anonymous(size, {.populate = true}));
  const OneCpu one;
  std::atomic<bool> stop{false};
  std::atomic<unsigned> reads{0};
  std::thread reader([&] {
    kvm::GuestMemory::View view = vm.memory().view();
    std::vector<std::byte> copy(size);
    while (!stop) {
      EXPECT_TRUE(view.read(kvm::Gpa{0}, std::span(copy)));
      ++reads;
    }
  });
  while (reads < 2) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  const int refused = set_real_time(true);
  for (int i = 0; refused == 0 && i < 10; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(3));  // Into the middle of a read.
    ram.log_dirty(i % 2 == 0);
  }
  static_cast<void>(set_real_time(false));
  stop = true;
  reader.join();
  if (refused != 0) {
    GTEST_SKIP() << "CAP_SYS_NICE: real-time scheduling is refused: " << std::strerror(refused);
  }
}

}  // namespace
