// SPDX-License-Identifier: MIT
// Guests, views, caches, a thread that adds, moves and deletes slots, and
// harvests, all at once and as fast as they can. In the end each copy of the
// memory that was made from what harvests handed over must equal the memory.
//
// KVM_HPP_STRESS_SECONDS sets how long each mode is tested.
// needs: x86
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <unistd.h>

#include "support/guest.hpp"
#include "support/kicking.hpp"

namespace kvm_test {
namespace {

using Random = std::minstd_rand;

constexpr std::uint64_t page = 4096;  // of x86, whose guest this is

/// A stretch of guest memory.
struct Area {
  std::uint64_t gpa;
  std::uint64_t pages;

  std::uint64_t size() const { return pages * page; }
  bool contains(kvm::Gpa address) const { return address.value - gpa < size(); }
};

/// Never changed. The first vCPU writes its first pages, views and caches the
/// others.
constexpr Area steady{0x10000000, 2 * 64 + 3};
constexpr std::uint64_t guest_pages = 64;
constexpr std::uint64_t view_pages = 100;  // from guest_pages on; then caches
/// The same memory once more.
constexpr Area mirror{0x11000000, steady.pages};
/// Never changed, nor written to: that is done through slots in `aliases`.
constexpr Area aliased{0x12000000, 64 + 3};
constexpr Area aliases{0x13000000, 400};
/// Slots that come, go and move. The second vCPU writes all over it, through
/// holes too.
constexpr Area changing{0x14000000, 300};

// Every word that is written says who did it, and how many he had written.
constexpr std::uint64_t tag_shift = 56;
enum Writer : std::uint64_t { nobody, guest, other_guest, viewer, cacher, aliaser, slot_itself };
constexpr std::uint64_t tagged(Writer writer, std::uint64_t number) {
  return std::uint64_t{writer} << tag_shift | number;
}
constexpr Writer writer_of(std::uint64_t word) { return static_cast<Writer>(word >> tag_shift); }

// Where in a page they write.
constexpr std::uint64_t first_word = 0;
constexpr std::uint64_t last_word = page - 8;
constexpr std::uint64_t changers_word = 0x800;
constexpr std::uint64_t slots_word = 0x400;

/// What memory is filled with that was taken from the guest.
constexpr std::byte poison{0xee};

constexpr Writer owner(std::uint64_t steady_page) {
  return steady_page < guest_pages ? guest : steady_page < view_pages ? viewer : cacher;
}

/// Writes rax, one more each time, to the first and the last word of rsi pages
/// from rdi on, again and again.
constexpr Code write_forever = {
    0x48, 0x89, 0xfb,                          //    mov rbx, rdi
    0x48, 0x89, 0xf1,                          //    mov rcx, rsi
    0x48, 0xff, 0xc0,                          // 1: inc rax
    0x48, 0x89, 0x03,                          //    mov [rbx], rax
    0x48, 0x89, 0x83, 0xf8, 0x0f, 0x00, 0x00,  //    mov [rbx + 0xff8], rax
    0x48, 0x81, 0xc3, 0x00, 0x10, 0x00, 0x00,  //    add rbx, 0x1000
    0x48, 0xff, 0xc9,                          //    dec rcx
    0x75, 0xe7,                                //    jnz 1b
    0xeb, 0xdf,                                //    jmp the start
};

double seconds() {
  const char* value = std::getenv("KVM_HPP_STRESS_SECONDS");
  return value == nullptr ? 2 : std::atof(value);
}

/// A copy of the guest's memory that is kept up to date by harvests.
class Copy {
 public:
  Copy() : steady_(steady.size()), aliased_(aliased.size()), changing_(changing.size()) {}

  /// Reads what was handed over.
  void take(kvm::GuestMemory::View& view, const kvm::DirtyPages& dirty) {
    if (steady_area(dirty.gpa)) {
      read(view, steady, dirty.backing_offset, dirty.size, steady_);
    } else if (aliased.contains(dirty.gpa) || aliases.contains(dirty.gpa)) {
      read(view, aliased, dirty.backing_offset, dirty.size, aliased_);
    } else if (changing.contains(dirty.gpa)) {
      for (std::uint64_t i = 0; i < dirty.size; i += page) {  // It may be gone already.
        const std::uint64_t offset = dirty.gpa.value - changing.gpa + i;
        if (offset + page <= changing.size()) {
          (void)view.read(kvm::Gpa{changing.gpa + offset},
                          std::span(changing_).subspan(offset, page));
        }
      }
    }
  }

  std::string compare_steady(kvm::GuestMemory::View& view) const {
    return compare(view, steady.gpa, steady_, "the steady slot");
  }
  std::string compare_all(kvm::GuestMemory::View& view,
                          const std::vector<std::shared_ptr<kvm::MemorySlot>>& slots) const {
    std::string result =
        compare_steady(view) + compare(view, aliased.gpa, aliased_, "the aliased slot");
    for (const auto& slot : slots) {
      if (slot->logs_dirty() && changing.contains(slot->gpa())) {
        result +=
            compare(view, slot->gpa().value,
                    std::span(changing_).subspan(slot->gpa().value - changing.gpa, slot->size()),
                    "a changing slot");
      }
    }
    return result;
  }

 private:
  static bool steady_area(kvm::Gpa gpa) { return steady.contains(gpa) || mirror.contains(gpa); }

  static void read(kvm::GuestMemory::View& view, const Area& area, std::uint64_t offset,
                   std::uint64_t size, std::span<std::byte> copy) {
    ASSERT_LE(offset + size, area.size());
    EXPECT_TRUE(view.read(kvm::Gpa{area.gpa + offset}, copy.subspan(offset, size)));
  }
  static std::string compare(kvm::GuestMemory::View& view, std::uint64_t gpa,
                             std::span<const std::byte> copy, const char* what) {
    std::vector<std::byte> memory(copy.size());
    if (!view.read(kvm::Gpa{gpa}, memory)) {
      return std::string(what) + " is gone. ";
    }
    for (std::uint64_t i = 0; i < copy.size(); i += 8) {
      if (std::memcmp(memory.data() + i, copy.data() + i, 8) != 0) {
        std::uint64_t word[2];
        std::memcpy(&word[0], memory.data() + i, 8);
        std::memcpy(&word[1], copy.data() + i, 8);
        char text[200];
        std::snprintf(text, sizeof text,
                      "page %llu + %#llx of %s is %#llx, and was %#llx when it was handed over. ",
                      static_cast<unsigned long long>(i / page),
                      static_cast<unsigned long long>(i % page), what,
                      static_cast<unsigned long long>(word[0]),
                      static_cast<unsigned long long>(word[1]));
        return text;
      }
    }
    return {};
  }

  std::vector<std::byte> steady_;
  std::vector<std::byte> aliased_;
  std::vector<std::byte> changing_;
};

class Stress {
 public:
  explicit Stress(kvm::DirtyMode mode) : mode_(mode) {}

  /// @return why this host cannot
  std::string start() {
    auto tracker = machine_.vm.try_track_dirty(mode_, {.ring_bytes = 4096});
    if (!tracker) {
      EXPECT_EQ(tracker.error().error_number(), EOPNOTSUPP) << tracker.error().what();
      return tracker.error().what();
    }
    tracker_ = std::move(*tracker);
    const kvm::Mapping memory = kvm::Mapping::memfd(steady.size());
    add_slot(steady.gpa, memory.share());
    add_slot(mirror.gpa, kvm::Mapping::from_fd(memory.fd(), memory.size()));
    add_slot(aliased.gpa, alias_memory_.share());
    all_ = tracker_->subscribe();
    display_ = tracker_->subscribe({.slot = slots_.front().get()});
    machine_.load(code_at, write_forever);
    for (std::uint32_t i = 0; i < 2; ++i) {
      vcpus_.push_back(machine_.vm.create_vcpu(i));
      enter_long_mode(machine_, vcpus_.back(), 3);
      auto regs = vcpus_.back().get_regs();
      regs.rdi = i == 0 ? steady.gpa : changing.gpa;
      regs.rsi = i == 0 ? guest_pages : changing.pages;
      regs.rax = tagged(i == 0 ? guest : other_guest, 0);
      vcpus_.back().set_regs(regs);
    }
    return {};
  }

  /// Everything runs for a while, stops, and is compared.
  void round(std::chrono::milliseconds time) {
    stop_ = false;
    std::vector<std::thread> threads;
    std::vector<kvm::Kicker> kickers;
    std::atomic<unsigned> running{0};
    for (kvm::Vcpu& vcpu : vcpus_) {
      kickers.push_back(vcpu.kicker(SIGUSR1));
      ++running;
      threads.emplace_back([&] {
        run_guest(vcpu);
        --running;
      });
    }
    const auto seed = static_cast<std::uint32_t>(random_());
    using Part = void (Stress::*)(Random&);
    for (const Part part :
         {&Stress::write_by_view, &Stress::write_by_cache, &Stress::write_by_alias,
          &Stress::read_by_view, &Stress::read_by_cache, &Stress::change_slots,
          &Stress::harvest_all, &Stress::harvest_display}) {
      threads.emplace_back([this, part, seed, number = threads.size()] {
        Random random(static_cast<std::uint32_t>(seed + 7919 * number));
        (this->*part)(random);
      });
    }
    const auto end = Clock::now() + time;
    while (Clock::now() < end && !failed_) {
      std::this_thread::sleep_for(1ms);
    }
    stop_ = true;
    while (running != 0) {
      for (const kvm::Kicker& kicker : kickers) {
        kicker.kick();
      }
      std::this_thread::sleep_for(1ms);
    }
    for (std::thread& thread : threads) {
      thread.join();
    }
    compare();
  }
  bool failed() const { return failed_; }

  std::string summary() const {
    return std::to_string(rounds_) + " rounds, " + std::to_string(harvests_) + " harvests of " +
           std::to_string(pages_) + " pages, " + std::to_string(changes_) + " changes of slots, " +
           std::to_string(accesses_) + " accesses, " + std::to_string(mmio_) + " MMIO exits, " +
           std::to_string(full_) + " full rings";
  }
  std::uint64_t least() const {
    return std::min({harvests_.load(), pages_.load(), changes_.load(), accesses_.load()});
  }

 private:
  void add_slot(std::uint64_t gpa, kvm::Mapping memory) {
    slots_.push_back(std::make_shared<kvm::MemorySlot>(
        machine_.vm.add_memory(kvm::Gpa{gpa}, std::move(memory), {.log_dirty = true})));
  }

  void fail(const std::string& why) {
    if (!failed_.exchange(true)) {
      ADD_FAILURE() << why;
    }
  }
  void expect(bool condition, const char* what) {
    if (!condition) [[unlikely]] {
      fail(what);
    }
  }
  bool going() const { return !stop_.load(std::memory_order_relaxed); }

  static std::uint64_t below(Random& random, std::uint64_t limit) { return random() % limit; }
  static void pause(Random& random) {
    if (random() % 4 == 0) {
      std::this_thread::sleep_for(std::chrono::microseconds(random() % 300));
    }
  }

  // Guests.

  void run_guest(kvm::Vcpu& vcpu) {
    while (going()) {
      inside_run = 1;
      const kvm::Exit exit = vcpu.run();
      inside_run = 0;
      exit.visit(
          [&](kvm::exits::DirtyRingFull) {
            ++full_;
            if (auto collected = tracker_->try_collect(); !collected) {
              fail(collected.error().what());
            }
          },
          [&](kvm::exits::MmioWrite) { ++mmio_; }, [](kvm::exits::Interrupted) {},
          [&](auto&&) {
            fail(std::string("the guest ended with ") + exit.name());
            stop_ = true;
          });
    }
  }

  // Writers: each has words of its own.

  void write_by_view(Random& random) {
    auto view = machine_.vm.memory().view();
    while (going()) {
      const std::uint64_t number = guest_pages + below(random, view_pages - guest_pages);
      const Area& area = random() % 2 == 0 ? steady : mirror;
      const kvm::Gpa gpa{area.gpa + number * page + (random() % 2 == 0 ? first_word : last_word)};
      const std::uint64_t word = tagged(viewer, ++view_writes_);
      const auto bytes = std::as_bytes(std::span<const std::uint64_t, 1>(&word, 1));
      switch (random() % 5) {
        case 0:
          expect(view.write<std::uint64_t>(gpa, word), "a write to a slot that nobody changes");
          break;
        case 1:
          expect(view.write(gpa, bytes), "a copy to a slot that nobody changes");
          break;
        case 2:
          expect(view.atomic_store<std::uint64_t>(gpa, word), "a store to a steady slot");
          break;
        case 3:
          expect(view.atomic_exchange<std::uint64_t>(gpa, word).has_value(),
                 "an exchange with a steady slot");
          break;
        default:
          if (const auto pin = view.pin(gpa, 8, kvm::PinFor::writing)) {
            __atomic_store_n(reinterpret_cast<std::uint64_t*>(pin->data()), word, __ATOMIC_RELAXED);
          } else {
            fail("a pin of a steady slot");
          }
      }
      ++accesses_;
    }
  }
  void write_by_cache(Random& random) {
    kvm::GfnToHvaCache whole(machine_.vm.memory(), kvm::Gpa{steady.gpa}, steady.size());
    kvm::GfnToHvaCache one_page(machine_.vm.memory(),
                                kvm::Gpa{mirror.gpa + (mirror.pages - 1) * page}, page);
    while (going()) {
      const std::uint64_t word = tagged(cacher, ++cache_writes_);
      const std::uint64_t in_page = random() % 2 == 0 ? first_word : last_word;
      if (random() % 2 == 0) {
        expect(one_page.write<std::uint64_t>(in_page, word), "a cached write of a steady page");
      } else {
        const std::uint64_t number = view_pages + below(random, steady.pages - view_pages);
        expect(whole.write<std::uint64_t>(number * page + in_page, word),
               "a cached write to a steady slot");
      }
      ++accesses_;
    }
  }
  /// Through slots that come and go.
  void write_by_alias(Random& random) {
    auto view = machine_.vm.memory().view();
    while (going()) {
      const Area& area = random() % 2 == 0 ? aliases : changing;
      const kvm::Gpa gpa{area.gpa + below(random, area.pages) * page + changers_word};
      const std::uint64_t word = tagged(aliaser, ++alias_writes_);
      if (random() % 2 == 0) {
        accesses_ += view.write<std::uint64_t>(gpa, word);
      } else {
        accesses_ += view.write(gpa, std::as_bytes(std::span<const std::uint64_t, 1>(&word, 1)));
      }
    }
  }

  // Readers: who wrote it, and not less than before.

  /// The last words that a reader saw in the steady slot.
  struct Last {
    std::array<std::array<std::uint64_t, 2>, steady.pages> words{};
  };
  void check_steady(Last& last, std::uint64_t number, bool at_end,
                    std::optional<std::uint64_t> word) {
    if (!word) {
      return fail("a read of a slot that nobody changes failed");
    }
    std::uint64_t& before = last.words[number][at_end ? 1 : 0];
    expect(*word == 0 || writer_of(*word) == owner(number), "a word of somebody else's");
    expect(*word >= before, "a word that is older than what was read before");
    before = *word;
  }
  void check_changing(std::uint64_t in_page, std::optional<std::uint64_t> word) {
    if (!word || *word == 0) {
      return;  // A new slot has not all of its words yet.
    }
    const Writer expected = in_page == slots_word      ? slot_itself
                            : in_page == changers_word ? aliaser
                                                       : other_guest;
    if (writer_of(*word) != expected) {
      char text[100];
      std::snprintf(text, sizeof text, "read %#llx, which is not of this slot's memory",
                    static_cast<unsigned long long>(*word));
      fail(text);
    }
  }
  static std::uint64_t any_word(Random& random) {
    static constexpr std::array<std::uint64_t, 4> words{first_word, slots_word, changers_word,
                                                        last_word};
    return words[random() % words.size()];
  }

  void read_by_view(Random& random) {
    auto view = machine_.vm.memory().view();
    Last last;
    while (going()) {
      const std::uint64_t number = below(random, steady.pages);
      const bool at_end = random() % 2 != 0;
      const Area& area = random() % 2 == 0 ? steady : mirror;
      check_steady(last, number, at_end,
                   view.read<std::uint64_t>(
                       kvm::Gpa{area.gpa + number * page + (at_end ? last_word : first_word)}));
      const std::uint64_t in_page = any_word(random);
      check_changing(in_page, view.read<std::uint64_t>(kvm::Gpa{
                                  changing.gpa + below(random, changing.pages) * page + in_page}));
      ++accesses_;
    }
  }
  void read_by_cache(Random& random) {
    const auto memory = machine_.vm.memory();
    kvm::GfnToHvaCache whole(memory, kvm::Gpa{steady.gpa}, steady.size());
    Last last;
    while (going()) {
      const std::uint64_t begin = below(random, changing.pages);
      kvm::GfnToHvaCache some(memory, kvm::Gpa{changing.gpa + begin * page},
                              (1 + random() % 4) * page);
      for (int i = 0; i < 1000 && going(); ++i) {
        const std::uint64_t number = below(random, steady.pages);
        const bool at_end = random() % 2 != 0;
        check_steady(last, number, at_end,
                     whole.read<std::uint64_t>(number * page + (at_end ? last_word : first_word)));
        const std::uint64_t in_page = any_word(random);
        check_changing(in_page, some.read<std::uint64_t>(
                                    below(random, some.length() / page) * page + in_page));
        ++accesses_;
      }
    }
  }

  // Slots come, go, move and are logged or not.

  void change_slots(Random& random) {
    while (going()) {
      pause(random);
      ++changes_;
      const std::size_t changeable = slots_.size() - steady_slots;
      if (changeable < 3 || (changeable < 12 && random() % 3 == 0)) {
        if (random() % 2 == 0) {
          add_alias(random);
        } else {
          add_changing(random);
        }
        continue;
      }
      const std::size_t index = steady_slots + below(random, changeable);
      kvm::MemorySlot& slot = *slots_[index];
      switch (random() % 6) {
        case 0: {  // Overlaps another one perhaps.
          const Area& area = changing.contains(slot.gpa()) ? changing : aliases;
          (void)slot.try_move_to(
              kvm::Gpa{area.gpa + below(random, area.pages - slot.pages() + 1) * page});
          break;
        }
        case 1:
          if (changing.contains(slot.gpa())) {
            if (auto set = slot.try_log_dirty(!slot.logs_dirty()); !set) {
              fail(set.error().what());
            }
          }
          break;
        default:
          remove_slot(index, random);
      }
    }
  }
  void add_alias(Random& random) {
    const std::uint64_t first = below(random, aliased.pages);
    const std::uint64_t pages = 1 + below(random, aliased.pages - first);
    auto part = alias_memory_.try_part(first * page, pages * page);
    if (!part) {
      return fail(part.error().what());
    }
    add(aliases, std::move(*part), random);
  }
  void add_changing(Random& random) {
    static constexpr std::array<std::uint64_t, 6> sizes{1, 2, 63, 64, 65, 67};
    kvm::Mapping memory = random() % 2 == 0 ? kvm::Mapping::anonymous(sizes[random() % 6] * page)
                                            : kvm::Mapping::memfd(sizes[random() % 6] * page);
    for (std::uint64_t i = 0; i < memory.size(); i += page) {
      const std::uint64_t word = tagged(slot_itself, 1);
      std::memcpy(memory.data() + i + slots_word, &word, sizeof word);
    }
    add(changing, std::move(memory), random);
  }
  void add(const Area& area, kvm::Mapping memory, Random& random) {
    const std::uint64_t at = below(random, area.pages - memory.size() / page + 1);
    // An alias that is not logged would be written to unnoticed.
    const bool logged = area.gpa == aliases.gpa || random() % 8 != 0;
    auto slot = machine_.vm.try_add_memory(kvm::Gpa{area.gpa + at * page}, std::move(memory),
                                           {.log_dirty = logged});
    if (slot) {
      slots_.push_back(std::make_shared<kvm::MemorySlot>(std::move(*slot)));
    } else if (slot.error().error_number() != EEXIST) {
      fail(slot.error().what());
    }
  }
  void remove_slot(std::size_t index, Random& random) {
    const bool own_memory = changing.contains(slots_[index]->gpa());
    if (own_memory && random() % 2 == 0) {
      kvm::Mapping memory = slots_[index]->remove();
      // Nobody may see this, nor change it.
      std::memset(memory.data(), static_cast<int>(poison), memory.size());
      pause(random);
      expect(std::all_of(memory.data(), memory.data() + memory.size(),
                         [](std::byte byte) { return byte == poison; }),
             "memory was written to after it was taken away");
    }
    slots_.erase(slots_.begin() + static_cast<std::ptrdiff_t>(index));
  }

  // Harvests.

  void harvest_all(Random& random) {
    auto view = machine_.vm.memory().view();
    while (going()) {
      harvest(*all_, all_copy_, view, random() % 3 == 0 ? random() % 5 : ~0ul);
      pause(random);
    }
  }
  void harvest_display(Random& random) {
    auto view = machine_.vm.memory().view();
    while (going()) {
      harvest(*display_, display_copy_, view, random() % 3 == 0 ? random() % 5 : ~0ul);
      pause(random);
    }
  }
  /// @param runs declines after so many
  void harvest(kvm::DirtySubscription& subscription, Copy& copy, kvm::GuestMemory::View& view,
               unsigned long runs) {
    auto harvested = subscription.try_harvest([&](const kvm::DirtyPages& dirty) {
      if (runs-- == 0) {
        return false;
      }
      copy.take(view, dirty);
      return true;
    });
    if (!harvested) {
      return fail(harvested.error().what());
    }
    ++harvests_;
    pages_ += harvested->pages;
  }

  void compare() {
    auto view = machine_.vm.memory().view();
    harvest(*all_, all_copy_, view, ~0ul);
    harvest(*display_, display_copy_, view, ~0ul);
    const std::string lost = all_copy_.compare_all(view, slots_);
    const std::string lost_display = display_copy_.compare_steady(view);
    if (!lost.empty() || !lost_display.empty()) {
      fail("in round " + std::to_string(rounds_) + ": " + lost +
           (lost_display.empty() ? "" : "One slot's: " + lost_display));
    }
    ++rounds_;
  }

  static constexpr std::size_t steady_slots = 3;

  const kvm::DirtyMode mode_;
  Machine machine_;
  const kvm::Mapping alias_memory_ = kvm::Mapping::anonymous(aliased.size());
  std::optional<kvm::DirtyTracker> tracker_;
  std::vector<kvm::Vcpu> vcpus_;
  std::vector<std::shared_ptr<kvm::MemorySlot>> slots_;  // steady ones first
  std::optional<kvm::DirtySubscription> all_;
  std::optional<kvm::DirtySubscription> display_;
  Copy all_copy_;
  Copy display_copy_;
  Random random_{std::random_device()()};
  std::uint64_t view_writes_ = 0;
  std::uint64_t cache_writes_ = 0;
  std::uint64_t alias_writes_ = 0;
  std::uint64_t rounds_ = 0;
  std::atomic<bool> stop_{false};
  std::atomic<bool> failed_{false};
  std::atomic<std::uint64_t> harvests_{0};
  std::atomic<std::uint64_t> pages_{0};
  std::atomic<std::uint64_t> changes_{0};
  alignas(64) std::atomic<std::uint64_t> accesses_{0};
  std::atomic<std::uint64_t> mmio_{0};
  std::atomic<std::uint64_t> full_{0};
};

void stress(kvm::DirtyMode mode) {
  const Handler handler(SIGUSR1);
  Stress stress(mode);
  if (const std::string reason = stress.start(); !reason.empty()) {
    GTEST_SKIP() << reason;
  }
  const auto end = Clock::now() + std::chrono::duration<double>(seconds());
  do {
    stress.round(150ms);
  } while (Clock::now() < end && !stress.failed());
  std::printf("%s\n", stress.summary().c_str());
  EXPECT_GT(stress.least(), 0u);
}

TEST(MemoryStressSerial, NothingIsLostWithALog) { stress(kvm::DirtyMode::log); }
TEST(MemoryStressSerial, NothingIsLostWithAManualLog) { stress(kvm::DirtyMode::manual); }
TEST(MemoryStressSerial, NothingIsLostWithRings) { stress(kvm::DirtyMode::ring); }

}  // namespace
}  // namespace kvm_test
