// SPDX-License-Identifier: MIT
// One guest, one mode: runs it round by round, and compares what was written
// with what was reported.
#if !defined(__x86_64__)
#error "this example's guest is x86 machine code; kvm-info is the one that runs everywhere"
#endif

#include "watch.hpp"

#include <kvm/kvm.hpp>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <optional>
#include <random>
#include <span>
#include <stdexcept>
#include <string_view>
#include <utility>
#include <vector>

#include <unistd.h>

namespace dirty_watch {

std::uint64_t page_size() { return static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE)); }

namespace {

using namespace kvm::literals;
using Clock = std::chrono::steady_clock;

// The guest's memory begins with its code and its page tables, and the pages of
// the pattern follow. The list of addresses to write to is in a slot of its own
// that is not logged.
constexpr std::uint64_t code_at = 0x1000;
constexpr std::uint64_t tables_at = 0x2000;

constexpr std::uint64_t gib(std::uint64_t bytes) { return (bytes + 1_GiB - 1) / 1_GiB; }

std::uint64_t reserved_pages(std::uint64_t memory) {
  constexpr std::uint64_t list = 2;  // GiB, of 8 bytes per page of most_pages
  return tables_at / page_size() + 2 + gib(memory) + list;
}

// clang-format off
constexpr std::uint8_t code[] = {
    0x48, 0xad,        // 1: lods rax, [rsi]
    0x48, 0x89, 0x10,  //    mov [rax], rdx
    0x48, 0xff, 0xc9,  //    dec rcx
    0x75, 0xf6,        //    jnz 1b
    0xe6, 0xff,        //    out 0xff, al
};
// clang-format on

double median(std::vector<double> values) {
  if (values.empty()) {
    return 0;
  }
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// The pages of each round, numbered from the first that is not reserved.
class Pages {
 public:
  explicit Pages(const Plan& plan) : plan_(plan), there_(usable_pages(plan.memory)) {}

  std::vector<std::uint64_t> next_round() {
    std::vector<std::uint64_t> round(plan_.pages);
    for (std::uint64_t& page : round) {
      page = next();
    }
    return round;
  }

 private:
  std::uint64_t next() {
    if (plan_.pattern == Pattern::random) {
      return random_() % there_;
    }
    const std::uint64_t page = next_;
    next_ += plan_.pattern == Pattern::sparse ? plan_.stride : 1;
    if (next_ >= there_) {  // The next time around it takes the ones beside them.
      next_ = plan_.pattern == Pattern::sparse ? (page + 1) % std::min(plan_.stride, there_) : 0;
    }
    return page;
  }

  Plan plan_;
  std::uint64_t there_;
  std::uint64_t next_ = 0;
  std::mt19937_64 random_{1};  // The same for each mode.
};

/// A guest that writes to the pages of a list.
class Guest {
 public:
  Guest(kvm::Vm& vm, const Plan& plan)
      : list_(kvm::Mapping::anonymous(round_up(plan.pages * 8, page_size()))),
        list_at_(gib(plan.memory) * 1_GiB),
        ram_(vm.add_memory(kvm::Gpa{0}, kvm::Mapping::anonymous(plan.memory), {.log_dirty = true})),
        list_slot_(vm.add_memory(kvm::Gpa{list_at_}, list_.share())),
        vcpu_(vm.create_vcpu(0)) {
    load(code_at, std::as_bytes(std::span(code)));
    make_tables(gib(plan.memory) + gib(list_.size()));
    enter_long_mode();
  }

  const kvm::MemorySlot& ram() const { return ram_; }

  /// Writes to one word of each page.
  /// @param full is called when the vCPU's dirty ring is
  /// @return how often it was
  template <class F>
  std::uint64_t write(std::span<const std::uint64_t> gpas, std::uint64_t value, F&& full) {
    std::memcpy(list_.data(), gpas.data(), gpas.size_bytes());
    auto regs = vcpu_.get_regs();
    regs.rip = code_at;
    regs.rsi = list_at_;
    regs.rcx = gpas.size();
    regs.rdx = value;
    vcpu_.set_regs(regs);
    std::uint64_t stops = 0;
    bool running = true;
    while (running) {
      const kvm::Exit exit = vcpu_.run();
      exit.visit(
          [&](kvm::exits::IoOut) { running = false; },
          [&](kvm::exits::DirtyRingFull) {
            ++stops;
            full();
          },
          [](kvm::exits::Interrupted) {},
          [&](kvm::exits::Failed failed) {
            throw std::runtime_error(std::string("the run failed: ") + failed.cause + " (" +
                                     std::strerror(failed.error_number) + ")");
          },
          [&](auto&&) {
            throw std::runtime_error(std::string("not expected of this guest: ") + exit.name());
          });
    }
    vcpu_.complete();
    return stops;
  }

 private:
  static std::uint64_t round_up(std::uint64_t value, std::uint64_t to) {
    return (value + to - 1) / to * to;
  }
  void load(std::uint64_t gpa, std::span<const std::byte> bytes) {
    if (!ram_.load(kvm::Gpa{gpa}, bytes)) {
      throw std::logic_error("the guest is larger than its memory");
    }
  }

  /// Maps addresses to themselves, in pages of 2 MiB. All entries are marked as
  /// accessed and dirty, so that no CPU has a reason to write to the tables.
  void make_tables(std::uint64_t gibs) {
    constexpr std::uint64_t table = 0x67;       // dirty, accessed, user, writable, present
    constexpr std::uint64_t large_page = 0xe7;  // the same, large
    std::vector<std::uint64_t> entries((2 + gibs) * 512);
    entries[0] = (tables_at + 0x1000) | table;
    for (std::uint64_t i = 0; i < gibs; ++i) {
      entries[512 + i] = (tables_at + 0x2000 + i * 0x1000) | table;
    }
    for (std::uint64_t i = 0; i < gibs * 512; ++i) {
      entries[1024 + i] = i << 21 | large_page;
    }
    load(tables_at, std::as_bytes(std::span(entries)));
  }

  /// 64-bit mode, in ring 3 with the right to use ports.
  void enter_long_mode() {
    auto sregs = vcpu_.get_sregs();
    sregs.cr3 = tables_at;
    sregs.cr4 = 1u << 5;                                       // PAE
    sregs.cr0 = 1u << 31 | 1u << 16 | 1u << 5 | 1u << 4 | 1u;  // PG WP NE ET PE
    sregs.efer = 1u << 8 | 1u << 10;                           // LME LMA
    auto segment = sregs.cs;
    segment.base = 0;
    segment.limit = 0xffffffff;
    segment.present = segment.s = segment.g = 1;
    segment.dpl = 3;
    segment.unusable = 0;
    sregs.cs = segment;
    sregs.cs.selector = 0x8 | 3;
    sregs.cs.type = 11;  // code, readable, accessed
    sregs.cs.l = 1;
    sregs.cs.db = 0;
    segment.selector = 0x10 | 3;
    segment.type = 3;  // data, writable, accessed
    segment.l = 0;
    segment.db = 1;
    sregs.ss = sregs.ds = sregs.es = sregs.fs = sregs.gs = segment;
    vcpu_.set_sregs(sregs);
    auto regs = vcpu_.get_regs();
    regs.rflags = 2 | 3u << 12;
    vcpu_.set_regs(regs);
  }

  kvm::Mapping list_;
  std::uint64_t list_at_;
  kvm::MemorySlot ram_;
  kvm::MemorySlot list_slot_;
  kvm::Vcpu vcpu_;
};

/// Which pages of the guest's memory were written, by one of the modes.
class Watcher {
 public:
  /// What must be enabled before the first vCPU.
  Watcher(kvm::Vm& vm, std::string_view mode, std::string& unavailable) {
    if (mode == "manual-64") {
      if (!vm.check<kvm::cap::ManualDirtyLogProtect2>().contains(
              kvm::cap::ManualDirtyLogFlag::enable)) {
        unavailable = "this host offers no manual clearing of its logs";
        return;
      }
      vm.enable(kvm::cap::ManualDirtyLogProtect2{});
      return;
    }
    auto tracker = vm.try_track_dirty(mode == "ring"     ? kvm::DirtyMode::ring
                                      : mode == "manual" ? kvm::DirtyMode::manual
                                                         : kvm::DirtyMode::log);
    if (!tracker) {
      if (tracker.error().error_number() != EOPNOTSUPP) {
        throw kvm::Error(tracker.error());
      }
      unavailable = tracker.error().what();
      return;
    }
    tracker_ = std::move(*tracker);
  }

  void begin(const kvm::MemorySlot& ram) {
    if (tracker_) {
      subscription_ = tracker_->subscribe({.slot = &ram});
    } else {
      log_.emplace(ram, kvm::DirtyLogOptions{.clear_pages = 64});
    }
  }
  void collect() {
    if (tracker_) {
      tracker_->collect();
    }
  }
  /// Sets the dirty pages in `pages`.
  /// @return how many there were
  std::uint64_t harvest(kvm::DirtyBitmap& pages) {
    if (log_) {  // The slot begins at 0, where frames and pages have the same numbers.
      return log_->harvest([&](kvm::GfnRange range) { pages.set(range.first, range.count); });
    }
    return subscription_
        ->harvest(
            [&](const kvm::DirtyPages& dirty) { pages.set(dirty.pages.first, dirty.pages.count); })
        .pages;
  }

 private:
  std::optional<kvm::DirtyTracker> tracker_;
  std::optional<kvm::DirtySubscription> subscription_;
  std::optional<kvm::DirtyLog> log_;
};

}  // namespace

std::uint64_t usable_pages(std::uint64_t memory) {
  const std::uint64_t pages = memory / page_size();
  const std::uint64_t reserved = reserved_pages(memory);
  return pages > reserved ? pages - reserved : 0;
}

Outcome watch(const Mode& mode, const Plan& plan) {
  Outcome outcome;
  const kvm::System system;
  kvm::Vm vm = system.create_vm();
  Watcher watcher(vm, mode.name, outcome.unavailable);
  if (!outcome.unavailable.empty()) {
    return outcome;
  }
  Guest guest(vm, plan);
  watcher.begin(guest.ram());

  Pages pages(plan);
  std::vector<double> guest_times;
  std::vector<double> harvest_times;
  kvm::DirtyBitmap written(guest.ram());
  kvm::DirtyBitmap seen(guest.ram());
  watcher.harvest(seen);  // Loading the guest is not what is watched.
  // The first round is not counted: memory is allocated in it.
  for (std::uint64_t round = 0; round <= plan.rounds; ++round) {
    written.clear();
    seen.clear();
    std::vector<std::uint64_t> gpas = pages.next_round();
    for (std::uint64_t& gpa : gpas) {
      gpa += reserved_pages(plan.memory);
      written.set(gpa, 1);
      gpa *= page_size();
    }
    const auto start = Clock::now();
    const std::uint64_t stops = guest.write(gpas, round + 1, [&] { watcher.collect(); });
    const double guest_time = seconds_since(start);
    const auto stopped = Clock::now();
    const std::uint64_t reported = watcher.harvest(seen);
    const double harvest_time = seconds_since(stopped);
    if (round == 0) {
      continue;
    }
    guest_times.push_back(guest_time);
    harvest_times.push_back(harvest_time);
    outcome.stops += stops;
    outcome.written += written.count();
    outcome.seen += reported;
    kvm::DirtyBitmap missed = written;
    missed.subtract(seen);
    outcome.missed += missed.count();
    seen.subtract(written);
    outcome.not_written += seen.count();
  }
  outcome.guest_seconds = median(std::move(guest_times));
  outcome.harvest_seconds = median(std::move(harvest_times));
  return outcome;
}

}  // namespace dirty_watch
