// SPDX-License-Identifier: MIT
// What another thread could see and do between any two instructions of an access: the guest's
// memory is read and written only while the reader is announced, a page is marked after it was
// written and while the reader is announced, and a reader that fences does so between its
// announcement and its look at the table. Memory reads as something else wherever nobody is
// announced, as if it had been another's by then.
#include <kvm/kvm.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "interleave.hpp"
#include "support/slot_access.hpp"

namespace kvm_test {
struct LineOfView {
  using Member = kvm::detail::ViewLine* kvm::GuestMemory::View::*;
  friend Member reach(LineOfView);
};
template struct Reach<LineOfView, &kvm::GuestMemory::View::line_>;
struct LineOfCache {
  using Member = kvm::detail::CacheLine* kvm::GfnToHvaCache::*;
  friend Member reach(LineOfCache);
};
template struct Reach<LineOfCache, &kvm::GfnToHvaCache::line_>;
struct PublishedOfSpace {
  using Member = kvm::detail::Published* kvm::detail::AddressSpace::*;
  friend Member reach(PublishedOfSpace);
};
template struct Reach<PublishedOfSpace, &kvm::detail::AddressSpace::published_>;
}  // namespace kvm_test

using namespace kvm::literals;
using kvm::Gpa;

namespace {

constexpr std::uint64_t poison = 0xbdbdbdbdbdbdbdbd;
constexpr std::uint64_t at = 0x1000;  // the word that accesses are about
constexpr std::size_t words = 32;     // from there on

struct Observed {
  const kvm::detail::Reader* line = nullptr;
  std::uint64_t* memory = nullptr;
  std::uint64_t* marks = nullptr;
  std::uint64_t expected = 0;  // what a read may see, or a write leaves
  bool reads = false;
  bool announces = true;  // or it is the slot's handle that keeps it there
  std::uint64_t before = 0;
  std::uint64_t marked_before = 0;
  const char* violated = nullptr;

  bool announced() const {
    return !announces || line->announced.load(std::memory_order_relaxed) != 0;
  }
  void expect(bool holds, const char* what) {
    if (!holds && violated == nullptr) {
      violated = what;
    }
  }
  void look() {
    if (reads) {
      for (std::size_t i = 0; i < words; ++i) {
        memory[i] = announced() ? expected : poison;
      }
      return;
    }
    const std::uint64_t now = *memory;
    expect(now == before || announced(), "memory is written by who is announced");
    before = now;
    if (marks != nullptr) {
      const std::uint64_t marked = *marks;
      if (marked != marked_before) {
        expect(announced(), "a page is marked by who is announced");
        expect(now == expected, "a page is marked after it was written");
      }
      marked_before = marked;
    }
  }
};
Observed observed;

void on_step(int, siginfo_t*, void*) {
  kvm_litmus::steps = kvm_litmus::steps + 1;
  observed.look();
}

void install(void (*handler)(int, siginfo_t*, void*)) {
  struct sigaction action {};
  action.sa_sigaction = handler;
  action.sa_flags = SA_SIGINFO;
  if (sigaction(SIGTRAP, &action, nullptr) != 0) {
    std::exit(2);
  }
}

struct Setup {
  kvm::System system;
  kvm::Vm vm = system.create_vm();
  bool logged;
  kvm::MemorySlot slot =
      vm.add_memory(Gpa{0}, kvm::Mapping::anonymous(64_KiB), {.log_dirty = logged});
  kvm::GuestMemory::View view = vm.memory().view();
  kvm::GfnToHvaCache cache{vm.memory(), Gpa{at}, 8 * words};
  std::uint64_t number = 1;

  explicit Setup(bool logs) : logged(logs) {
    observed.memory = reinterpret_cast<std::uint64_t*>(slot.mapping().data() + at);
    observed.marks = logged ? kvm_test::state_of(slot)->marks()->data() : nullptr;
  }

  /// @param access returns whether it saw what it may see
  template <class Access>
  void holds(const char* name, const kvm::detail::Reader& line, bool reads, Access access) {
    for (int round = 0; round < 4; ++round) {
      static_cast<void>(kvm_test::take_marks(slot));
      if (round == 3) {  // What is remembered is not to be used.
        slot.log_dirty(!logged);
        slot.log_dirty(logged);
        static_cast<void>(kvm_test::take_marks(slot));
      }
      ++number;
      observed.line = &line;
      observed.reads = reads;
      observed.expected = number * 0x0101010101010101;
      observed.before = *observed.memory;
      observed.marked_before = observed.marks != nullptr ? *observed.marks : 0;
      observed.violated = nullptr;
      bool right = false;
      kvm_litmus::run_interrupted(
          ~0ul, [&] { right = access(observed.expected); }, [] {});
      observed.expect(right,
                      reads ? "what is read was there while it was announced" : "it is done");
      observed.expect(line.announced == 0, "nobody is announced when it is over");
      if (!reads) {
        observed.expect(*observed.memory == observed.expected, "it is written");
        observed.expect(!logged || kvm_test::take_marks(slot) == std::vector<std::uint64_t>{1},
                        "its page is marked");
      }
      if (observed.violated != nullptr) {
        std::printf("%s: violated: %s\n", name, observed.violated);
        std::exit(1);
      }
    }
    std::printf("%s: held\n", name);
  }

  void run() {
    const auto& seen = *(view.*reach(kvm_test::LineOfView{}));
    const auto& cached = *(cache.*reach(kvm_test::LineOfCache{}));
    std::array<std::uint64_t, 3> buffer{};
    const auto bytes = std::as_writable_bytes(std::span(buffer));
    struct Pair {
      std::uint64_t a, b;
      bool operator==(const Pair&) const = default;
    };
    holds("view read", seen, true,
          [&](std::uint64_t value) { return view.read<std::uint64_t>(Gpa{at}) == value; });
    holds("view read of a struct", seen, true, [&](std::uint64_t value) {
      return view.read<Pair>(Gpa{at}) == Pair{value, value};
    });
    holds("view read of bytes", seen, true, [&](std::uint64_t value) {
      return view.read(Gpa{at}, bytes) && buffer[0] == value && buffer[2] == value;
    });
    holds("view load", seen, true,
          [&](std::uint64_t value) { return view.atomic_load<std::uint64_t>(Gpa{at}) == value; });
    holds("cache read", cached, true,
          [&](std::uint64_t value) { return cache.read<std::uint64_t>(0) == value; });
    holds("cache read of a struct", cached, true, [&](std::uint64_t value) {
      return cache.read<Pair>(0) == Pair{value, value};
    });
    holds("cache read of bytes", cached, true, [&](std::uint64_t value) {
      return cache.read(0, bytes) && buffer[0] == value && buffer[2] == value;
    });
    holds("view write", seen, false,
          [&](std::uint64_t value) { return view.write<std::uint64_t>(Gpa{at}, value); });
    holds("view write of bytes", seen, false, [&](std::uint64_t value) {
      buffer.fill(value);
      return view.write(Gpa{at}, std::span<const std::byte>(bytes));
    });
    holds("view write of a struct", seen, false, [&](std::uint64_t value) {
      return view.write<Pair>(Gpa{at}, {value, value});
    });
    holds("view fill", seen, false, [&](std::uint64_t value) {
      return view.fill(Gpa{at}, 8, static_cast<std::byte>(value));
    });
    holds("view store", seen, false,
          [&](std::uint64_t value) { return view.atomic_store<std::uint64_t>(Gpa{at}, value); });
    holds("view exchange", seen, false, [&](std::uint64_t value) {
      return view.atomic_exchange<std::uint64_t>(Gpa{at}, value).has_value();
    });
    observed.announces = false;
    holds("load", seen, false, [&](std::uint64_t value) {
      buffer.fill(value);
      return slot.load(Gpa{at}, std::span<const std::byte>(bytes));
    });
    observed.announces = true;
    for (int i = 0; i < 2; ++i) {
      static_cast<void>(view.read<std::uint64_t>(Gpa{at}));
      static_cast<void>(cache.read<std::uint64_t>(0));
    }
    if (seen.generation != vm.memory().generation() ||
        cached.generation != vm.memory().generation()) {
      std::puts("what was looked up is not remembered");
      std::exit(1);
    }
    holds("cache write", cached, false,
          [&](std::uint64_t value) { return cache.write<std::uint64_t>(0, value); });
    holds("cache write of a struct", cached, false, [&](std::uint64_t value) {
      return cache.write<Pair>(0, {value, value});
    });
    holds("cache write of bytes", cached, false, [&](std::uint64_t value) {
      buffer.fill(value);
      return cache.write(0, std::span<const std::byte>(bytes));
    });
  }
};

// On a host without membarrier a mark that is there is made again, by an instruction that empties
// the store buffer.
unsigned locked = 0;

void on_step_of_marking(int, siginfo_t*, void* context) {
  const auto* const next = reinterpret_cast<const unsigned char*>(
      static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP]);
  locked += next[0] == 0xf0;  // lock
}

bool marking_holds() {
  const kvm::detail::DirtyWords marks(128);
  bool held = true;
  const auto locks = [&](const char* name, unsigned wanted, auto mark) {
    locked = 0;
    kvm_litmus::run_interrupted(~0ul, mark, [] {});
    std::printf("%s: %s\n", name, locked >= wanted ? "held" : "violated");
    held = held && locked >= wanted;
  };
  for (int round = 0; round < 2; ++round) {
    locks("a mark that is made always", 1, [&] { marks.mark_always(3); });
    locks("some marks that are made always", 1, [&] { marks.mark_range_always(3, 5); });
    locks("all marks, made always", 2, [&] { marks.mark_all_always(); });
  }
  return held;
}

// The slow way in: announce, fence, look at the table.
kvm::detail::Reader* entering = nullptr;
std::atomic<const kvm::detail::SlotTable*>* table_seen = nullptr;
const kvm::detail::SlotTable* current_table = nullptr;
bool fenced_too_early = false;
unsigned fences = 0;

void on_step_of_entering(int, siginfo_t*, void* context) {
  const bool announced = entering->announced.load(std::memory_order_relaxed) != 0;
  // What a thread loads before it is announced is not the table that is kept for it.
  table_seen->store(announced ? current_table : nullptr, std::memory_order_relaxed);
  const auto* const next = reinterpret_cast<const unsigned char*>(
      static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP]);
  if (std::memcmp(next, "\x0f\xae\xf0", 3) == 0) {  // mfence
    ++fences;
    fenced_too_early = fenced_too_early || !announced;
  }
}

bool entering_holds(bool asymmetric) {
  auto made = kvm::detail::AddressSpace::try_make(0, 1, asymmetric);
  kvm::detail::AddressSpace& space = **made;
  kvm::detail::Reader reader;
  space.add_reader(reader);
  entering = &reader;
  current_table = &space.table();
  table_seen = &(space.*reach(kvm_test::PublishedOfSpace{}))->table;
  fenced_too_early = false;
  fences = 0;
  const kvm::detail::SlotTable* entered = nullptr;
  std::uint64_t remembered = 0;
  kvm_litmus::run_interrupted(
      ~0ul,
      [&] {
        const auto snapshot = space.enter(reader);
        entered = snapshot.table;
        remembered = snapshot.generation;
      },
      [] {});
  const bool held = entered == current_table && reader.announced == space.generation() &&
                    !fenced_too_early && (fences != 0) == !asymmetric &&
                    (remembered == space.generation()) == asymmetric;
  kvm::detail::AddressSpace::leave(reader);
  space.remove_reader(reader);
  std::printf("entering%s: %s\n", asymmetric ? "" : " with a fence", held ? "held" : "violated");
  return held;
}

}  // namespace

int main() {
  install(on_step);
  for (const bool logged : {false, true}) {
    Setup(logged).run();
  }
  install(on_step_of_marking);
  if (!marking_holds()) {
    return 1;
  }
  install(on_step_of_entering);
  return entering_holds(true) && entering_holds(false) ? 0 : 1;
}
