// SPDX-License-Identifier: MIT
// Take the marks, read KVM's log, fence, clear, and only then hand over. What
// could happen between two steps of a harvest is made to happen there: its
// system calls are replaced at link time.
//
//   - A store that another thread's CPU still keeps in its store buffer, with its
//     mark found set: it reaches memory at the latest when the harvester fences.
//   - The guest writes to a page just before KVM is told to watch it again.
//
// In the end the harvester's copy must be as the memory is, once a last harvest
// has come after the last write.
#include <kvm/kvm.hpp>

#include <atomic>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <optional>
#include <thread>
#include <vector>

#include <sys/syscall.h>

#include "support/guest.hpp"

using namespace kvm::literals;

namespace {

/// What is to happen beside a system call, once.
std::function<void()> before_fence;
std::function<void()> after_fence;
std::function<void()> before_clearing;

void happen(std::function<void()>& event) {
  if (event) {
    std::exchange(event, nullptr)();
  }
}

}  // namespace

extern "C" {
// The names that the linker's --wrap gives.
int __real_ioctl(int fd, unsigned long request, void* argument);
long __real_syscall(long number, ...);

int __wrap_ioctl(int fd, unsigned long request, void* argument) {
  if (request == kvm::uapi::request::clear_dirty_log.code ||
      request == kvm::uapi::request::reset_dirty_rings.code) {
    happen(before_clearing);
  }
  return __real_ioctl(fd, request, argument);
}
long __wrap_syscall(long number, ...) {
  va_list list;
  va_start(list, number);
  long arguments[4];
  for (long& argument : arguments) {
    argument = va_arg(list, long);
  }
  va_end(list);
  if (number == SYS_membarrier) {
    happen(before_fence);
  }
  const long result =
      __real_syscall(number, arguments[0], arguments[1], arguments[2], arguments[3]);
  if (number == SYS_membarrier) {
    happen(after_fence);
  }
  return result;
}
}

namespace {

/// Lets this test look whether a page is marked, which decides what a writer
/// does next. An explicit instantiation may name what is private.
template <auto member>
struct Look {
  friend std::shared_ptr<kvm::detail::SlotState>& state_of(kvm::MemorySlot& slot) {
    return slot.*member;
  }
};
std::shared_ptr<kvm::detail::SlotState>& state_of(kvm::MemorySlot& slot);
template struct Look<&kvm::MemorySlot::slot_>;

constexpr std::uint64_t logged_at = 0x10000000;
constexpr std::size_t logged_size = 67 * 4096;

/// A guest in ring 3, where hosts with shadow paging run it natively and watch
/// its writes by write protection.
/// `1: mov %rax, (%rdi); out %al, $0x10; jmp 1b`
constexpr kvm_test::Code write_and_exit = {0x48, 0x89, 0x07, 0xe6, 0x10, 0xeb, 0xf9};

struct Setup {
  kvm_test::Machine machine;
  std::optional<kvm::DirtyTracker> tracker;
  std::optional<kvm::MemorySlot> slot;
  std::optional<kvm::Vcpu> vcpu;
  std::optional<kvm::GuestMemory::View> view;
  std::optional<kvm::DirtySubscription> subscription;
  std::optional<kvm::DirtyLog> log;
  std::vector<std::byte> copy = std::vector<std::byte>(logged_size);
  std::uint64_t number = 0;

  explicit Setup(std::optional<kvm::DirtyMode> mode, bool with_tracker) {
    if (mode == kvm::DirtyMode::manual && !with_tracker) {
      machine.vm.enable(kvm::cap::ManualDirtyLogProtect2{.initially_set = false});
    }
    if (with_tracker) {
      tracker = machine.vm.track_dirty(*mode);
    }
    slot = machine.vm.add_memory(kvm::Gpa{logged_at}, kvm::Mapping::anonymous(logged_size),
                                 {.log_dirty = true});
    vcpu = machine.vm.create_vcpu(0);
    machine.load(kvm_test::code_at, write_and_exit);
    kvm_test::enter_long_mode(machine, *vcpu, 3);
    view = machine.vm.memory().view();
    if (with_tracker) {
      subscription = tracker->subscribe({.slot = nullptr, .all_pending = true});
    } else {
      log.emplace(*slot);
    }
  }

  void guest_writes(std::uint64_t page, std::uint64_t value) {
    auto regs = vcpu->get_regs();
    regs.rdi = logged_at + page * 4096;
    regs.rax = value;
    regs.rip = kvm_test::code_at;
    vcpu->set_regs(regs);
    if (!vcpu->run().visit([](kvm::exits::IoOut) { return true; }, [](auto&&) { return false; })) {
      std::puts("the guest did not write");
      std::exit(2);
    }
    (void)vcpu->complete();
  }
  std::uint64_t* word(std::uint64_t page) {
    return reinterpret_cast<std::uint64_t*>(slot->mapping().data() + page * 4096);
  }
  void copy_pages(std::uint64_t gpa, std::uint64_t bytes) {
    std::memcpy(copy.data() + (gpa - logged_at), slot->mapping().data() + (gpa - logged_at), bytes);
  }
  void harvest() {
    if (log) {
      log->harvest([&](kvm::GfnRange run) { copy_pages(run.first * 4096, run.count * 4096); });
    } else {
      subscription->harvest([&](const kvm::DirtyPages& run) {
        if (run.slot == slot->id()) {
          copy_pages(run.gpa.value, run.size);
        }
      });
    }
  }
  bool equal() { return std::memcmp(copy.data(), slot->mapping().data(), logged_size) == 0; }

  /// A write of another thread, as far as it got: if the page is marked, its
  /// store may stay in the store buffer until somebody fences. If not, marking
  /// is a locked instruction, which empties the buffer.
  void other_thread_writes(std::uint64_t page, std::function<void()>& kept) {
    const std::uint64_t value = ++number;
    const std::uint64_t* marks = state_of(*slot)->marks()->data();
    if ((__atomic_load_n(marks + page / 64, __ATOMIC_RELAXED) >> page % 64 & 1) != 0) {
      kept = [this, page, value] { *word(page) = value; };
    } else if (!view->write<std::uint64_t>(kvm::Gpa{logged_at + page * 4096}, value)) {
      std::exit(2);
    }
  }
};

bool check(const char* name, Setup& setup) {
  bool held = true;
  const auto expect = [&](const char* what) {
    if (!setup.equal()) {
      std::printf("%s: %s: a write is lost\n", name, what);
      held = false;
      setup.copy.assign(setup.slot->mapping().data(), setup.slot->mapping().data() + logged_size);
    }
  };
  for (const std::uint64_t page : {0, 5, 63, 64, 66}) {
    setup.harvest();
    setup.harvest();
    // A store that the writer's CPU keeps until the fence.
    std::function<void()> kept;
    setup.other_thread_writes(page, kept);  // Marks.
    setup.other_thread_writes(page, kept);  // Finds the mark.
    before_fence = kept;
    setup.harvest();
    happen(before_fence);  // Without a fence it leaves the buffer some day.
    setup.harvest();
    expect("a store in the store buffer");

    // The same, if the writer comes just after the fence: its mark is gone by
    // then, or the harvest is yet to take it.
    kept = nullptr;
    setup.other_thread_writes(page, kept);
    after_fence = [&] { setup.other_thread_writes(page, kept); };
    setup.harvest();
    after_fence = nullptr;
    happen(kept);
    setup.harvest();
    expect("a store after the fence");

    // The guest writes twice, the second time when KVM is about to be told.
    setup.guest_writes(page, ++setup.number);
    before_clearing = [&] { setup.guest_writes(page, ++setup.number); };
    setup.harvest();
    if (before_clearing) {
      before_clearing = nullptr;
      if (std::strstr(name, "log") == nullptr) {
        std::printf("%s: nothing was cleared\n", name);
        held = false;
      }
    }
    setup.harvest();
    expect("a guest's write before its page is watched again");
  }
  std::printf("%s: %s\n", name, held ? "held" : "broken");
  return held;
}

/// A second subscriber's thread is handing over while this one collects: just
/// before KVM is told to watch the pages again, the other may go on, and then
/// the guest writes. What is not watched yet must not be the other's yet.
bool check_two_threads(const char* name, Setup& setup) {
  constexpr std::uint64_t first = 3;
  constexpr std::uint64_t second = 40;
  setup.harvest();
  setup.harvest();
  std::atomic<int> stage{0};
  const auto reach = [&](int wanted) {
    stage = wanted;
    stage.notify_all();
  };
  const auto await = [&](int wanted) {
    for (int now = stage; now < wanted; now = stage) {
      stage.wait(now);
    }
  };
  setup.guest_writes(first, ++setup.number);
  std::thread other([&] {
    setup.subscription->harvest([&](const kvm::DirtyPages& run) {
      if (run.slot != setup.slot->id()) {
        return;
      }
      if (run.pages.first <= first) {
        reach(1);
        await(2);
      }
      setup.copy_pages(run.gpa.value, run.size);
    });
    reach(3);
  });
  await(1);
  setup.guest_writes(second, ++setup.number);
  before_clearing = [&] {
    reach(2);
    await(3);
    setup.guest_writes(second, ++setup.number);
  };
  setup.tracker->collect();
  const bool cleared = !before_clearing;
  before_clearing = nullptr;
  reach(3);
  other.join();
  setup.harvest();
  const bool held = cleared && setup.equal();
  std::printf("%s, two threads: %s\n", name, held ? "held" : "broken");
  return held;
}

}  // namespace

int main() {
  bool held = true;
  {
    Setup setup(kvm::DirtyMode::log, false);
    held = check("DirtyLog, log", setup) && held;
  }
  {
    Setup setup(kvm::DirtyMode::manual, false);
    held = check("DirtyLog, manual", setup) && held;
  }
  for (const auto mode : {kvm::DirtyMode::log, kvm::DirtyMode::manual, kvm::DirtyMode::ring}) {
    if (mode == kvm::DirtyMode::ring &&
        kvm_test::Machine().vm.check_raw(kvm::cap::DirtyLogRingAcqRel::info.number) <= 0) {
      std::puts("tracker, ring: KVM_CAP_DIRTY_LOG_RING_ACQ_REL is not offered by this host");
      continue;
    }
    Setup setup(mode, true);
    const char* name = mode == kvm::DirtyMode::log      ? "tracker, log"
                       : mode == kvm::DirtyMode::manual ? "tracker, manual"
                                                        : "tracker, ring";
    held = check(name, setup) && held;
    if (mode != kvm::DirtyMode::log) {  // There, reading the log clears it.
      held = check_two_threads(name, setup) && held;
    }
  }
  return held ? 0 : 1;
}
