// SPDX-License-Identifier: MIT
// Random sequences of everything that changes or reads guest memory, run against
// the library and against a plain model of what must hold: which accesses
// succeed, what memory holds, and that every written page is handed over by the
// next harvest.
//
// KVM_HPP_MODEL_SEED repeats a run, KVM_HPP_MODEL_STEPS sets its length.
// needs: x86
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <unistd.h>

#include "support/guest.hpp"
#include "support/kicking.hpp"
#include "support/require.hpp"
#include "support/rounds.hpp"

namespace kvm_test {
namespace {

const std::uint64_t page = static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));

constexpr std::uint64_t arena_at = 0x10000000;
constexpr std::uint64_t arena_pages = 2500;
constexpr std::size_t most_slots = 10;
constexpr std::uint64_t highest = ~std::uint64_t{0};

std::uint64_t environment(const char* name, std::uint64_t otherwise) {
  const char* value = std::getenv(name);
  return value == nullptr || *value == '\0' ? otherwise : std::strtoull(value, nullptr, 0);
}

/// Host memory, and what the model says that it holds.
struct Backing {
  kvm::Mapping memory;
  std::vector<std::byte> bytes;

  std::uint64_t pages() const { return bytes.size() / page; }
};

/// A memory slot, and what the model knows of it.
struct Slot {
  std::optional<kvm::MemorySlot> handle;
  std::shared_ptr<Backing> backing;
  std::uint64_t first = 0;  ///< where it begins in its backing, in pages
  std::uint64_t pages = 0;
  std::uint64_t gpa = 0;
  std::uint16_t space = 0;
  bool logged = false;
  bool read_only = false;

  std::uint64_t size() const { return pages * page; }
  std::byte* expected(std::uint64_t offset) const {
    return backing->bytes.data() + first * page + offset;
  }
};
using SlotPtr = std::shared_ptr<Slot>;

/// A part of a range of guest memory.
struct Piece {
  SlotPtr slot;
  std::uint64_t offset;
  std::uint64_t size;
};
using Pieces = std::vector<Piece>;

/// What somebody who is told of dirty pages has seen of one backing.
struct Seen {
  explicit Seen(const Backing& backing)
      : copy(backing.bytes.size()), owed(backing.pages()), current(backing.pages()) {}
  std::vector<std::byte> copy;
  /// Pages that a harvest must hand over: this one, or, if they were written
  /// while it was under way, the next.
  std::vector<char> owed;
  static constexpr char this_time = 1;
  static constexpr char next_time = 2;
  /// Pages of which `copy` is what memory holds, unless they are owed.
  std::vector<char> current;
};

/// Somebody who is told of dirty pages.
struct Listener {
  SlotPtr only;  ///< null for all slots
  std::optional<kvm::DirtySubscription> subscription;
  /// Of a slot that has a DirtyLog now and then instead.
  bool by_log = false;
  std::optional<kvm::DirtyLog> log;
  std::map<std::shared_ptr<Backing>, Seen> seen;

  Seen& of(const std::shared_ptr<Backing>& backing) {
    return seen.try_emplace(backing, *backing).first->second;
  }
};

struct HeldPin {
  kvm::Pin pin;
  Pieces pieces;
  bool writing;
};

struct HeldCache {
  kvm::GfnToHvaCache cache;
  std::uint64_t gpa;
  std::uint64_t length;
  std::uint16_t space;
};

enum class Tool { dirty_log, subscriptions };

struct Setup {
  const char* name;
  Tool tool;
  kvm::DirtyMode mode;
  bool initially_set;
};

class Model {
 public:
  Model(const Setup& setup, std::uint64_t seed) : setup_(setup), random_(seed) {}

  /// @return why this host cannot
  std::string start() {
    if (setup_.tool == Tool::subscriptions) {
      auto tracker = machine_.vm.try_track_dirty(
          setup_.mode, {.initially_set = setup_.initially_set, .ring_bytes = 4096});
      if (!tracker) {
        EXPECT_EQ(tracker.error().error_number(), EOPNOTSUPP) << tracker.error().what();
        return tracker.error().what();
      }
      tracker_ = std::move(*tracker);
      EXPECT_EQ(tracker_->mode(), setup_.mode);
    } else if (setup_.mode == kvm::DirtyMode::manual) {
      if (!offers<kvm::cap::ManualDirtyLogProtect2>(machine_.vm)) {
        return "KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 is not offered by this host";
      }
      machine_.vm.enable(kvm::cap::ManualDirtyLogProtect2{.initially_set = setup_.initially_set});
    }
    if (offers<kvm::cap::MultiAddressSpace>(machine_.vm) &&
        machine_.vm.check_raw(kvm::cap::MultiAddressSpace::info.number) > 1) {
      spaces_ = 2;
    }
    read_only_ = offers<kvm::cap::ReadonlyMem>(machine_.vm);
    for (std::uint16_t space = 0; space < spaces_; ++space) {
      views_.push_back(machine_.vm.memory(space).view());
      generations_.push_back(machine_.vm.memory(space).generation());
    }
    vcpu_ = machine_.vm.create_vcpu(0);
    enter_long_mode(machine_, *vcpu_, 3);
    machine_.load(write_at, {0x48, 0x89, 0x07, 0xe6, 0xff});  // mov [rdi], rax; out
    machine_.load(fill_at, {0xf3, 0xaa, 0xe6, 0xff});         // rep stosb; out
    machine_.load(read_at, {0x48, 0x8b, 0x07, 0xe6, 0xff});   // mov rax, [rdi]; out
    // 1: mov [rdi], al; add rdi, rdx; dec rcx; jnz 1b; out
    machine_.load(sweep_at,
                  {0x88, 0x07, 0x48, 0x01, 0xd7, 0x48, 0xff, 0xc9, 0x75, 0xf6, 0xe6, 0xff});
    return {};
  }

  void run(std::uint64_t steps) {
    for (std::uint64_t i = 0; i < steps && !::testing::Test::HasFailure(); ++i) {
      doing_ = "";
      step();
      check_generations();
      if (i % 64 == 63) {
        check_memory();
        check_copies();
      }
      if (::testing::Test::HasFailure()) {
        ADD_FAILURE() << "in step " << i << ": " << doing_;
      }
    }
    if (!::testing::Test::HasFailure()) {
      doing_ = "the last harvest";
      for (const auto& listener : listeners_) {
        harvest(*listener, false, false);
      }
      check_memory();
      check_copies();
    }
  }

  std::string summary() const {
    std::string text;
    for (const auto& [name, count] : counts_) {
      text += " " + name + " " + std::to_string(count);
    }
    return text;
  }

 private:
  static constexpr std::uint64_t write_at = code_at + 0x100;
  static constexpr std::uint64_t fill_at = code_at + 0x200;
  static constexpr std::uint64_t read_at = code_at + 0x300;
  static constexpr std::uint64_t sweep_at = code_at + 0x400;

  // Choices.

  std::uint64_t below(std::uint64_t limit) { return limit == 0 ? 0 : random_() % limit; }
  bool one_in(std::uint64_t n) { return below(n) == 0; }
  template <class Container>
  auto& any(Container& container) {
    return container[below(container.size())];
  }
  SlotPtr any_slot() { return slots_.empty() ? nullptr : any(slots_); }
  std::uint16_t any_space() { return static_cast<std::uint16_t>(spaces_ > 1 && one_in(6) ? 1 : 0); }
  std::uint64_t any_pages() {
    static constexpr std::array<std::uint64_t, 9> sizes{1, 2, 3, 63, 64, 65, 67, 131, 195};
    return sizes[below(sizes.size())];
  }
  /// An address in the arena: often inside a slot, often near one's border.
  std::uint64_t arena_address() {
    if (const SlotPtr slot = any_slot(); slot && !one_in(5)) {
      const std::uint64_t inside = below(slot->size());
      const std::uint64_t border = slot->gpa + (one_in(2)   ? 0
                                                : one_in(2) ? slot->size()
                                                            : inside / page * page);
      return one_in(2) ? slot->gpa + inside : border - 12 + below(24);
    }
    return arena_at + below((arena_pages + 2) * page);
  }
  /// Any address at all.
  std::uint64_t any_address() {
    return one_in(20) ? random_() : one_in(20) ? highest - below(20) : arena_address();
  }
  std::uint64_t any_size() {
    return one_in(3) ? below(9) : one_in(2) ? below(200) : below(3 * page);
  }

  // What the model says.

  SlotPtr at(std::uint16_t space, std::uint64_t gpa) const {
    for (const SlotPtr& slot : slots_) {
      if (slot->space == space && gpa - slot->gpa < slot->size()) {
        return slot;
      }
    }
    return nullptr;
  }
  /// The range, slot by slot; nothing if it is not all there.
  std::optional<Pieces> pieces(std::uint16_t space, std::uint64_t gpa, std::uint64_t size,
                               bool write) const {
    Pieces result;
    while (size != 0) {
      const SlotPtr slot = at(space, gpa);
      if (!slot || (write && slot->read_only)) {
        return std::nullopt;
      }
      const std::uint64_t offset = gpa - slot->gpa;
      const std::uint64_t here = std::min(size, slot->size() - offset);
      result.push_back({slot, offset, here});
      gpa += here;
      size -= here;
      if (gpa == 0 && size != 0) {
        return std::nullopt;
      }
    }
    return result;
  }
  bool overlaps(std::uint16_t space, std::uint64_t gpa, std::uint64_t size,
                const Slot* except = nullptr) const {
    return std::any_of(slots_.begin(), slots_.end(), [&](const SlotPtr& slot) {
      return slot.get() != except && slot->space == space && gpa < slot->gpa + slot->size() &&
             slot->gpa < gpa + size;
    });
  }
  /// Whether the listener is to hear of a page.
  bool listens(const Listener& listener, const std::shared_ptr<Backing>& backing,
               std::uint64_t number) const {
    return std::any_of(slots_.begin(), slots_.end(), [&](const SlotPtr& slot) {
      return slot->logged && slot->backing == backing && number - slot->first < slot->pages &&
             (!listener.only || listener.only == slot);
    });
  }
  void owe(Listener& listener, const Slot& slot) {
    Seen& seen = listener.of(slot.backing);
    std::fill_n(seen.owed.begin() + static_cast<std::ptrdiff_t>(slot.first), slot.pages,
                Seen::this_time);
  }
  /// A slot is logged anew or has moved: all of it is dirty.
  void all_dirty(const SlotPtr& slot) {
    for (const auto& listener : listeners_) {
      if (!listener->only || listener->only == slot) {
        owe(*listener, *slot);
      }
    }
  }
  /// A slot went or is not logged any more: what no other slot shows is nobody's
  /// business.
  void forget(const Slot& slot) {
    for (const auto& listener : listeners_) {
      Seen& seen = listener->of(slot.backing);
      for (std::uint64_t i = slot.first; i < slot.first + slot.pages; ++i) {
        if (!listens(*listener, slot.backing, i)) {
          seen.owed[i] = seen.current[i] = 0;
        }
      }
    }
  }
  /// Bytes of a slot's memory were written, in a way that is noticed or not.
  void wrote(const SlotPtr& slot, std::uint64_t offset, std::uint64_t size, bool noticed) {
    const std::uint64_t begin = slot->first * page + offset;
    for (const auto& listener : listeners_) {
      Seen& seen = listener->of(slot->backing);
      for (std::uint64_t i = begin / page; size != 0 && i <= (begin + size - 1) / page; ++i) {
        if (noticed && slot->logged && (!listener->by_log || listener->only == slot) &&
            listens(*listener, slot->backing, i)) {
          if (seen.owed[i] == 0) {
            seen.owed[i] = harvested_ == listener.get() ? Seen::next_time : Seen::this_time;
          }
        } else {
          seen.current[i] = 0;
        }
      }
    }
  }
  void write(const Pieces& range, std::span<const std::byte> bytes) {
    for (const Piece& piece : range) {
      if (piece.size == 0) {
        continue;  // An empty span may have no address.
      }
      std::memcpy(piece.slot->expected(piece.offset), bytes.data(), piece.size);
      bytes = bytes.subspan(piece.size);
      wrote(piece.slot, piece.offset, piece.size, true);
    }
  }
  static std::vector<std::byte> read(const Pieces& range) {
    std::vector<std::byte> bytes;
    for (const Piece& piece : range) {
      const std::byte* from = piece.slot->expected(piece.offset);
      bytes.insert(bytes.end(), from, from + piece.size);
    }
    return bytes;
  }

  // Steps.

  struct Kind {
    const char* name;
    unsigned weight;
    void (Model::*what)();
  };
  static std::span<const Kind> kinds() {
    static constexpr Kind all[] = {
        {"add", 2, &Model::add},
        {"remove", 1, &Model::remove},
        {"move", 1, &Model::move},
        {"toggle", 1, &Model::toggle},
        {"guest write", 4, &Model::guest_write},
        {"guest fill", 2, &Model::guest_fill},
        {"guest sweep", 1, &Model::guest_sweep},
        {"guest read", 2, &Model::guest_read},
        {"scalar", 3, &Model::view_scalar},
        {"span", 2, &Model::view_span},
        {"fill", 1, &Model::view_fill},
        {"atomic", 2, &Model::view_atomic},
        {"transfer", 1, &Model::view_transfer},
        {"dma", 1, &Model::dma},
        {"load", 1, &Model::load},
        {"make cache", 1, &Model::make_cache},
        {"cache", 5, &Model::use_cache},
        {"pin", 1, &Model::make_pin},
        {"use pin", 1, &Model::use_pin},
        {"drop pin", 1, &Model::drop_pin},
        {"listen", 1, &Model::listen},
        {"harvest", 6, &Model::harvest_any},
    };
    return all;
  }
  void step() {
    std::uint64_t total = 0;
    for (const Kind& kind : kinds()) {
      total += kind.weight;
    }
    std::uint64_t choice = below(total);
    for (const Kind& kind : kinds()) {
      if (choice < kind.weight) {
        doing_ = kind.name;
        ++counts_[kind.name];
        return (this->*kind.what)();
      }
      choice -= kind.weight;
    }
  }

  void add() {
    if (slots_.size() >= most_slots) {
      return remove();
    }
    auto slot = std::make_shared<Slot>();
    kvm::Mapping memory = take_backing(*slot);
    slot->space = any_space();
    slot->gpa = arena_at + below(arena_pages - slot->pages) * page;
    slot->logged = !one_in(6);
    slot->read_only = read_only_ && one_in(8);
    const bool fits = !overlaps(slot->space, slot->gpa, slot->size());
    const bool aligned = !one_in(30);
    auto added = machine_.vm.try_add_memory(
        kvm::Gpa{slot->gpa + (aligned ? 0 : 8)}, std::move(memory),
        {.log_dirty = slot->logged, .read_only = slot->read_only, .address_space = slot->space});
    ASSERT_EQ(bool(added), fits && aligned) << (added ? "" : added.error().what());
    if (!added) {
      EXPECT_EQ(added.error().error_number(), aligned ? EEXIST : EINVAL);
      return;
    }
    slot->handle = std::move(*added);
    ASSERT_EQ(slot->handle->pages(), slot->pages);
    slots_.push_back(slot);
    if (setup_.tool == Tool::dirty_log) {
      auto listener = std::make_unique<Listener>();
      listener->only = slot;
      listener->by_log = true;
      see_now(*listener, *slot);
      listeners_.push_back(std::move(listener));
    } else if (slot->logged) {
      all_dirty(slot);
    }
  }
  /// What a listener who has not missed anything has seen.
  void see_now(Listener& listener, const Slot& slot) {
    Seen& seen = listener.of(slot.backing);
    std::memcpy(seen.copy.data() + slot.first * page, slot.expected(0), slot.size());
    for (std::uint64_t i = slot.first; i < slot.first + slot.pages; ++i) {
      seen.current[i] = slot.logged ? 1 : 0;
    }
  }

  /// Memory of a kind that is new, known, or shown by other slots too.
  kvm::Mapping take_backing(Slot& slot) {
    const bool fresh = backings_.empty() || one_in(2);
    if (fresh) {
      auto backing = std::make_shared<Backing>();
      const std::uint64_t size = any_pages() * page;
      backing->memory = one_in(2) ? kvm::Mapping::anonymous(size) : kvm::Mapping::memfd(size);
      backing->bytes.resize(size);
      backings_.push_back(std::move(backing));
    }
    slot.backing = fresh ? backings_.back() : any(backings_);
    const kvm::Mapping& memory = slot.backing->memory;
    slot.pages = slot.backing->pages();
    if (one_in(2)) {
      slot.first = below(slot.pages);
      slot.pages = 1 + below(slot.pages - slot.first);
    }
    if (memory.fd() >= 0 && one_in(2)) {  // Elsewhere in this process, the same memory.
      return kvm::Mapping::from_fd(memory.fd(), slot.size(), {.offset = slot.first * page});
    }
    return slot.size() == memory.size() ? memory.share()
                                        : memory.part(slot.first * page, slot.size());
  }

  void remove() {
    if (slots_.empty()) {
      return;
    }
    const std::size_t index = below(slots_.size());
    const SlotPtr slot = slots_[index];
    const bool pinned = std::any_of(pins_.begin(), pins_.end(), [&](const HeldPin& held) {
      return std::any_of(held.pieces.begin(), held.pieces.end(),
                         [&](const Piece& piece) { return piece.slot == slot; });
    });
    if (one_in(3)) {
      slot->handle.reset();
    } else if (!pinned && one_in(2)) {
      const kvm::Mapping memory = slot->handle->remove();
      EXPECT_EQ(memory.size(), slot->size());
    } else {
      auto removed = slot->handle->try_remove();
      ASSERT_TRUE(removed) << removed.error().what();
      EXPECT_EQ(removed->in_use(), pinned);
      if (one_in(2)) {
        EXPECT_EQ(bool(removed->try_take()), !pinned);
      }
    }
    slot->handle.reset();
    slots_.erase(slots_.begin() + static_cast<std::ptrdiff_t>(index));
    forget(*slot);
    std::erase_if(listeners_, [&](const auto& listener) {
      if (listener->only != slot) {
        return false;
      }
      expect_gone(*listener);
      return true;
    });
    slot->logged = false;
    drop_unused_backings();
  }
  void expect_gone(Listener& listener) {
    if (listener.log) {
      EXPECT_FALSE(listener.log->exists());
      auto result = listener.log->try_harvest([](kvm::GfnRange) { ADD_FAILURE(); });
      ASSERT_FALSE(result);
      EXPECT_EQ(result.error().error_number(), ENOENT);
    } else if (listener.subscription) {
      auto result =
          listener.subscription->try_harvest([](const kvm::DirtyPages&) { ADD_FAILURE(); });
      ASSERT_FALSE(result);
      EXPECT_EQ(result.error().error_number(), ENOENT);
    }
  }
  void drop_unused_backings() {
    std::erase_if(backings_, [&](const std::shared_ptr<Backing>& backing) {
      const bool used =
          std::any_of(slots_.begin(), slots_.end(),
                      [&](const SlotPtr& slot) { return slot->backing == backing; }) ||
          std::any_of(pins_.begin(), pins_.end(), [&](const HeldPin& held) {
            return std::any_of(held.pieces.begin(), held.pieces.end(),
                               [&](const Piece& piece) { return piece.slot->backing == backing; });
          });
      if (used || (backings_.size() < 8 && !one_in(3))) {
        return false;
      }
      for (const auto& listener : listeners_) {
        listener->seen.erase(backing);
      }
      return true;
    });
  }

  void move() {
    const SlotPtr slot = any_slot();
    if (!slot) {
      return;
    }
    const std::uint64_t to = arena_at + below(arena_pages - slot->pages) * page;
    const bool fits = !overlaps(slot->space, to, slot->size(), slot.get());
    auto moved = slot->handle->try_move_to(kvm::Gpa{to});
    ASSERT_EQ(bool(moved), fits) << (moved ? "" : moved.error().what());
    if (moved) {
      slot->gpa = to;
      if (slot->logged) {
        all_dirty(slot);
      }
    } else {
      EXPECT_EQ(moved.error().error_number(), EEXIST);
    }
    EXPECT_EQ(slot->handle->gpa(), kvm::Gpa{slot->gpa});
  }

  void toggle() {
    const SlotPtr slot = any_slot();
    if (!slot) {
      return;
    }
    auto set = slot->handle->try_log_dirty(!slot->logged);
    ASSERT_TRUE(set) << set.error().what();
    slot->logged = !slot->logged;
    EXPECT_EQ(slot->handle->logs_dirty(), slot->logged);
    if (slot->logged) {
      all_dirty(slot);
    } else {
      forget(*slot);
    }
  }

  // The guest, in address space 0.

  void run_guest(std::uint64_t code, std::uint64_t rdi, std::uint64_t rax, std::uint64_t rcx) {
    auto regs = vcpu_->get_regs();
    regs.rip = code;
    regs.rdi = rdi;
    regs.rax = rax;
    regs.rcx = rcx;
    regs.rdx = page;
    vcpu_->set_regs(regs);
    devices_.written.clear();
    std::string end = "too many exits";
    for (int i = 0; i < 10'000; ++i) {
      const kvm::Exit exit = vcpu_->run();
      if (tracker_ && exit.visit([](kvm::exits::DirtyRingFull) { return true; },
                                 [](auto&&) { return false; })) {
        ++counts_["ring full"];
        auto collected = tracker_->try_collect();
        ASSERT_TRUE(collected) << collected.error().what();
        continue;
      }
      if (!devices_.serve(exit)) {
        end = devices_.ended_by;
        break;
      }
    }
    ASSERT_EQ(end, "done");
    ASSERT_FALSE(vcpu_->complete());
  }
  /// What the guest stores goes to memory where there is some, else to devices.
  void guest_stores(std::uint64_t gpa, std::span<const std::byte> bytes) {
    std::map<std::uint64_t, std::uint8_t> to_devices;
    for (std::uint64_t i = 0; i < bytes.size(); ++i) {
      const SlotPtr slot = at(0, gpa + i);
      if (slot && !slot->read_only) {
        const std::uint64_t offset = gpa + i - slot->gpa;
        *slot->expected(offset) = bytes[i];
        if (i == 0 || offset % page == 0 || offset == 0) {
          wrote(slot, offset, 1, true);
        }
      } else {
        to_devices[gpa + i] = std::to_integer<std::uint8_t>(bytes[i]);
      }
    }
    EXPECT_EQ(devices_.written, to_devices) << std::hex << gpa;
  }
  void guest_write() {
    const std::uint64_t gpa = one_in(2) ? arena_address() : arena_address() & ~std::uint64_t{7};
    const std::uint64_t value = random_();
    run_guest(write_at, gpa, value, 0);
    guest_stores(gpa, bytes_of(value));
  }
  void guest_fill() {
    const std::uint64_t gpa = arena_address();
    std::uint64_t size = 1 + below(3 * page);
    if (!pieces(0, gpa, size, true)) {
      size = 1 + size % 40;  // One exit for each byte.
    }
    const auto value = static_cast<std::uint8_t>(random_());
    run_guest(fill_at, gpa, value, size);
    guest_stores(gpa, std::vector<std::byte>(size, std::byte{value}));
  }
  /// A byte in each page of a slot: more than the ring holds, after a few times.
  void guest_sweep() {
    const SlotPtr slot = any_slot();
    if (!slot || slot->space != 0 || slot->read_only) {
      return;
    }
    const auto value = static_cast<std::uint8_t>(random_());
    const std::uint64_t offset = below(page);
    run_guest(sweep_at, slot->gpa + offset, value, slot->pages);
    for (std::uint64_t i = 0; i < slot->pages; ++i) {
      *slot->expected(i * page + offset) = std::byte{value};
    }
    wrote(slot, 0, slot->size(), true);
    EXPECT_TRUE(devices_.written.empty());
  }
  void guest_read() {
    const std::uint64_t gpa = arena_address();
    run_guest(read_at, gpa, 0, 0);
    std::uint64_t expected = 0;
    for (unsigned i = 0; i < 8; ++i) {
      const SlotPtr slot = at(0, gpa + i);
      const std::uint8_t byte =
          slot ? std::to_integer<std::uint8_t>(*slot->expected(gpa + i - slot->gpa))
               : Devices::mmio_byte(gpa + i);
      expected |= std::uint64_t{byte} << (8 * i);
    }
    EXPECT_EQ(vcpu_->get_regs().rax, expected) << std::hex << gpa;
  }

  // The VMM.

  std::vector<std::byte> random_bytes(std::uint64_t size) {
    std::vector<std::byte> bytes(size);
    for (std::byte& byte : bytes) {
      byte = static_cast<std::byte>(random_());
    }
    return bytes;
  }
  template <class T>
  static std::span<const std::byte> bytes_of(const T& value) {
    return std::as_bytes(std::span<const T, 1>(&value, 1));
  }
  template <class T>
  static T value_of(const Pieces& range) {
    T value;
    const auto bytes = read(range);
    std::memcpy(&value, bytes.data(), sizeof value);
    return value;
  }
  /// Calls `use` with a type of 1, 2, 4 or 8 bytes.
  template <class F>
  void with_scalar(F&& use) {
    switch (below(4)) {
      case 0:
        return use(std::uint8_t{});
      case 1:
        return use(std::uint16_t{});
      case 2:
        return use(std::uint32_t{});
      default:
        return use(std::uint64_t{});
    }
  }

  void view_scalar() {
    with_scalar([&]<class T>(T) {
      const std::uint16_t space = any_space();
      const std::uint64_t gpa = one_in(2) ? any_address() : any_address() / sizeof(T) * sizeof(T);
      const bool writing = one_in(2);
      const auto range = pieces(space, gpa, sizeof(T), writing);
      if (writing) {
        const T value = static_cast<T>(random_());
        EXPECT_EQ(views_[space].write<T>(kvm::Gpa{gpa}, value), bool(range)) << std::hex << gpa;
        if (range) {
          write(*range, bytes_of(value));
        }
      } else {
        const std::optional<T> value = views_[space].read<T>(kvm::Gpa{gpa});
        ASSERT_EQ(bool(value), bool(range)) << std::hex << gpa;
        EXPECT_TRUE(!range || *value == value_of<T>(*range)) << std::hex << gpa;
      }
    });
  }
  void view_span() {
    const std::uint16_t space = any_space();
    const std::uint64_t gpa = any_address();
    const std::uint64_t size = any_size();
    const bool writing = one_in(2);
    const auto range = pieces(space, gpa, size, writing);
    if (writing) {
      const auto bytes = random_bytes(size);
      EXPECT_EQ(views_[space].write(kvm::Gpa{gpa}, bytes), bool(range)) << std::hex << gpa;
      if (range) {
        write(*range, bytes);
      }
    } else {
      std::vector<std::byte> bytes(size, std::byte{0x5a});
      EXPECT_EQ(views_[space].contains(kvm::Gpa{gpa}, size), bool(range));
      ASSERT_EQ(views_[space].read(kvm::Gpa{gpa}, bytes), bool(range)) << std::hex << gpa;
      EXPECT_EQ(bytes, range ? read(*range) : std::vector<std::byte>(size, std::byte{0x5a}));
    }
  }
  void view_fill() {
    const std::uint16_t space = any_space();
    const std::uint64_t gpa = any_address();
    const std::uint64_t size = one_in(10) ? random_() : any_size();
    const auto value = static_cast<std::byte>(random_());
    const auto range = pieces(space, gpa, size, true);
    EXPECT_EQ(views_[space].fill(kvm::Gpa{gpa}, size, value), bool(range)) << std::hex << gpa;
    if (range) {
      write(*range, std::vector<std::byte>(size, value));
    }
  }
  void view_atomic() {
    with_scalar([&]<class T>(T) {
      const std::uint16_t space = any_space();
      const kvm::Gpa gpa{one_in(3) ? any_address() : any_address() / sizeof(T) * sizeof(T)};
      const bool aligned = gpa.value % sizeof(T) == 0;
      const auto value = static_cast<T>(random_());
      kvm::GuestMemory::View& view = views_[space];
      const auto operation = below(7);
      const auto range = pieces(space, gpa.value, sizeof(T), operation != 0);
      const bool works = range && aligned;
      const T before = works ? value_of<T>(*range) : T{};
      const auto check = [&](std::optional<T> observed, T after) {
        ASSERT_EQ(bool(observed), works) << std::hex << gpa.value;
        if (works) {
          EXPECT_EQ(*observed, before);
          write(*range, bytes_of(after));
        }
      };
      switch (operation) {
        case 0: {
          const auto observed = view.atomic_load<T>(gpa);
          ASSERT_EQ(bool(observed), works);
          EXPECT_EQ(observed.value_or(before), before);
          return;
        }
        case 1:
          return check(view.atomic_store<T>(gpa, value) ? std::optional<T>(before) : std::nullopt,
                       value);
        case 2:
          return check(view.atomic_exchange<T>(gpa, value), value);
        case 3:
          return check(view.atomic_fetch_or<T>(gpa, value), static_cast<T>(before | value));
        case 4:
          return check(view.atomic_fetch_and<T>(gpa, value), static_cast<T>(before & value));
        case 5:
          return check(view.atomic_fetch_add<T>(gpa, value), static_cast<T>(before + value));
        default: {
          const T expected = one_in(2) ? before : static_cast<T>(~before);
          const auto result = view.atomic_compare_exchange<T>(gpa, expected, value);
          const bool same = expected == before;
          EXPECT_EQ(result ? result->exchanged : same && works, same && works);
          return check(result ? std::optional<T>(result->observed) : std::nullopt,
                       same ? value : before);
        }
      }
    });
  }
  /// From and to a file.
  void view_transfer() {
    const std::uint16_t space = any_space();
    const std::uint64_t gpa = any_address();
    const std::uint64_t size = any_size();
    const bool writing = one_in(2);
    const auto range = pieces(space, gpa, size, writing);
    std::byte* const content = file_.data();
    if (writing) {
      const std::uint64_t position = one_in(3) ? file_.size() - size / 2 : below(page);
      const std::uint64_t there = std::min(size, file_.size() - position);
      const auto bytes = random_bytes(there);
      std::copy(bytes.begin(), bytes.end(), content + position);
      const auto moved = views_[space].read_from(file_.fd(), kvm::Gpa{gpa}, size, position);
      EXPECT_EQ(moved.error_number, range ? 0 : EFAULT);
      EXPECT_EQ(moved.bytes, range ? there : 0);
      if (range) {
        write(*pieces(space, gpa, there, true), bytes);
      }
    } else {
      const auto moved = views_[space].write_to(file_.fd(), kvm::Gpa{gpa}, size, 0);
      EXPECT_EQ(moved.error_number, range ? 0 : EFAULT);
      EXPECT_EQ(moved.bytes, range ? size : 0);
      EXPECT_TRUE(!range || read(*range) == std::vector<std::byte>(content, content + size));
    }
  }
  /// Somebody else writes to the memory, and says so afterwards.
  void dma() {
    const std::uint16_t space = any_space();
    const std::uint64_t gpa = any_address();
    const std::uint64_t size = any_size();
    const auto range = pieces(space, gpa, size, false);
    if (!range) {
      EXPECT_FALSE(views_[space].mark_dirty(kvm::Gpa{gpa}, size));
      return;
    }
    const auto bytes = random_bytes(size);
    auto from = bytes.begin();
    for (const Piece& piece : *range) {
      const auto part = static_cast<std::ptrdiff_t>(piece.size);
      std::copy(from, from + part,
                piece.slot->backing->memory.data() + piece.slot->first * page + piece.offset);
      from += part;
    }
    write(*range, bytes);
    EXPECT_TRUE(views_[space].mark_dirty(kvm::Gpa{gpa}, size));
  }
  /// Through the slot's handle, read-only ones too.
  void load() {
    const SlotPtr slot = any_slot();
    if (!slot) {
      return;
    }
    const std::uint64_t size = any_size();
    const std::uint64_t offset = below(slot->size() + 2 * page) - (one_in(8) ? page : 0);
    const bool inside = offset <= slot->size() && size <= slot->size() - offset;
    const auto bytes = random_bytes(size);
    ASSERT_EQ(slot->handle->load(kvm::Gpa{slot->gpa + offset}, bytes), inside);
    if (inside) {
      write({{slot, offset, size}}, bytes);
      std::vector<std::byte> back(size);
      EXPECT_TRUE(slot->handle->fetch(kvm::Gpa{slot->gpa + offset}, back));
      EXPECT_EQ(back, bytes);
    }
  }

  void make_cache() {
    if (caches_.size() >= 6) {
      caches_.erase(caches_.begin() + static_cast<std::ptrdiff_t>(below(caches_.size())));
    }
    const std::uint16_t space = any_space();
    const std::uint64_t gpa = any_address();
    const std::uint64_t length = one_in(12) ? highest - below(3) : any_size();
    caches_.push_back(
        {kvm::GfnToHvaCache(machine_.vm.memory(space), kvm::Gpa{gpa}, length), gpa, length, space});
  }
  void use_cache() {
    if (caches_.empty()) {
      return make_cache();
    }
    HeldCache& held = any(caches_);
    const std::uint64_t offset = one_in(12)  ? random_()
                                 : one_in(8) ? highest - below(12)
                                 : one_in(4)
                                     ? held.length - below(10)
                                     : below(std::min<std::uint64_t>(held.length, 4 * page));
    if (one_in(8)) {
      EXPECT_EQ(held.cache.valid(), bool(pieces(held.space, held.gpa, held.length, false)));
    }
    if (one_in(3)) {
      return cache_span(held, offset);
    }
    with_scalar([&]<class T>(T) {
      const bool writing = one_in(2);
      const auto range = cache_pieces(held, offset, sizeof(T), writing);
      if (writing) {
        const auto value = static_cast<T>(random_());
        EXPECT_EQ(held.cache.write<T>(offset, value), bool(range)) << describe(held, offset);
        if (range) {
          write(*range, bytes_of(value));
        }
      } else {
        const auto value = held.cache.read<T>(offset);
        ASSERT_EQ(bool(value), bool(range)) << describe(held, offset);
        EXPECT_TRUE(!range || *value == value_of<T>(*range)) << describe(held, offset);
      }
    });
  }
  void cache_span(HeldCache& held, std::uint64_t offset) {
    const std::uint64_t size = any_size();
    const bool writing = one_in(2);
    const auto range = cache_pieces(held, offset, size, writing);
    if (writing) {
      const auto bytes = random_bytes(size);
      EXPECT_EQ(held.cache.write(offset, bytes), bool(range)) << describe(held, offset);
      if (range) {
        write(*range, bytes);
      }
    } else {
      std::vector<std::byte> bytes(size);
      ASSERT_EQ(held.cache.read(offset, bytes), bool(range)) << describe(held, offset);
      EXPECT_TRUE(!range || bytes == read(*range)) << describe(held, offset);
    }
  }
  std::optional<Pieces> cache_pieces(const HeldCache& held, std::uint64_t offset,
                                     std::uint64_t size, bool writing) const {
    if (offset > held.length || size > held.length - offset || held.gpa + offset < held.gpa) {
      return std::nullopt;
    }
    return pieces(held.space, held.gpa + offset, size, writing);
  }
  static std::string describe(const HeldCache& held, std::uint64_t offset) {
    return "cache of " + std::to_string(held.length) + " bytes at " + std::to_string(held.gpa) +
           ", offset " + std::to_string(offset);
  }

  void make_pin() {
    const std::uint16_t space = any_space();
    const std::uint64_t gpa = any_address();
    const std::uint64_t size = 1 + any_size();
    const bool writing = one_in(2);
    const auto range = pieces(space, gpa, size, writing);
    auto pin = views_[space].pin(kvm::Gpa{gpa}, size,
                                 writing ? kvm::PinFor::writing : kvm::PinFor::reading);
    ASSERT_EQ(bool(pin), bool(range)) << std::hex << gpa;
    if (!pin || pins_.size() > 3) {
      return;
    }
    ASSERT_EQ(pin->iovecs().size(), range->size());
    for (std::size_t i = 0; i < range->size(); ++i) {
      EXPECT_EQ(pin->iovecs()[i].iov_len, (*range)[i].size);
    }
    pins_.push_back({std::move(*pin), *range, writing});
  }
  void use_pin() {
    if (pins_.empty()) {
      return;
    }
    const HeldPin& held = any(pins_);
    if (!held.writing) {
      std::vector<std::byte> bytes;
      for (const ::iovec& part : held.pin.iovecs()) {
        const auto* from = static_cast<const std::byte*>(part.iov_base);
        bytes.insert(bytes.end(), from, from + part.iov_len);
      }
      EXPECT_EQ(bytes, read(held.pieces));
      return;
    }
    std::uint64_t before = 0;
    for (std::size_t i = 0; i < held.pieces.size(); ++i) {
      const Piece& piece = held.pieces[i];
      const std::uint64_t offset = below(piece.size);
      const std::uint64_t size = 1 + below(piece.size - offset);
      const auto bytes = random_bytes(size);
      std::copy(bytes.begin(), bytes.end(),
                static_cast<std::byte*>(held.pin.iovecs()[i].iov_base) + offset);
      std::copy(bytes.begin(), bytes.end(), piece.slot->expected(piece.offset + offset));
      const bool mark = one_in(2);  // If not, dropping it does.
      if (mark) {
        held.pin.mark_dirty(before + offset, size);
      }
      wrote(piece.slot, piece.offset + offset, size, mark && piece.slot->handle.has_value());
      before += piece.size;
    }
  }
  void drop_pin() {
    if (pins_.empty()) {
      return;
    }
    const std::size_t index = below(pins_.size());
    const HeldPin held = std::move(pins_[index]);
    pins_.erase(pins_.begin() + static_cast<std::ptrdiff_t>(index));
    for (const Piece& piece : held.pieces) {
      if (held.writing && piece.slot->handle) {
        wrote(piece.slot, piece.offset, piece.size, true);
      }
    }
    drop_unused_backings();
  }

  // Those who are told.

  void listen() {
    if (setup_.tool == Tool::dirty_log) {
      if (!listeners_.empty()) {
        any(listeners_)->log.reset();
      }
      return;
    }
    if (listeners_.size() >= 3) {
      listeners_.erase(listeners_.begin() + static_cast<std::ptrdiff_t>(below(listeners_.size())));
    }
    auto listener = std::make_unique<Listener>();
    listener->only = one_in(2) ? any_slot() : nullptr;
    const bool all = one_in(2);
    auto subscription = tracker_->try_subscribe(
        {.slot = listener->only ? &*listener->only->handle : nullptr, .all_pending = all});
    ASSERT_TRUE(subscription) << subscription.error().what();
    listener->subscription = std::move(*subscription);
    for (const SlotPtr& slot : slots_) {
      if (slot->logged && (!listener->only || listener->only == slot)) {
        if (all) {
          owe(*listener, *slot);
        } else {
          see_now(*listener, *slot);
        }
      }
    }
    listeners_.push_back(std::move(listener));
  }
  void harvest_any() {
    if (!listeners_.empty()) {
      harvest(*any(listeners_), one_in(3));
    }
  }
  void harvest(Listener& listener, bool decline, bool write_meanwhile = true) {
    const std::uint64_t runs = decline ? below(4) : highest;
    harvested_ = &listener;
    write_meanwhile_ = write_meanwhile;
    if (listener.by_log) {
      harvest_log(listener, runs);
    } else {
      harvest_subscription(listener, runs);
    }
    harvested_ = nullptr;
    for (auto& [backing, seen] : listener.seen) {
      const auto lost = std::find(seen.owed.begin(), seen.owed.end(), Seen::this_time);
      ASSERT_TRUE(!complete_ || lost == seen.owed.end())
          << "lost: page " << lost - seen.owed.begin() << where(backing);
      std::replace(seen.owed.begin(), seen.owed.end(), Seen::next_time, Seen::this_time);
    }
  }
  std::string where(const std::shared_ptr<Backing>& backing) const {
    std::string text;
    for (const SlotPtr& slot : slots_) {
      if (slot->backing == backing) {
        text += "\n  slot " + std::to_string(slot->handle->id().id) + " of space " +
                std::to_string(slot->space) + " has [" + std::to_string(slot->first) + ", " +
                std::to_string(slot->first + slot->pages) + ")" + (slot->logged ? ", logged" : "") +
                (slot->read_only ? ", read-only" : "");
      }
    }
    return text;
  }
  /// Pages of a slot were handed over: now they are looked at.
  void take(Listener& listener, const Slot& slot, std::uint64_t first, std::uint64_t pages) {
    ASSERT_TRUE(first < slot.pages && pages - 1 < slot.pages - first);
    Seen& seen = listener.of(slot.backing);
    const std::uint64_t at = slot.first + first;
    std::memcpy(seen.copy.data() + at * page, slot.backing->memory.data() + at * page,
                pages * page);
    for (std::uint64_t i = at; i < at + pages; ++i) {
      seen.owed[i] = 0;
      seen.current[i] = 1;
    }
    counts_["pages"] += pages;
    if (write_meanwhile_ && one_in(8)) {
      write_to(slot, (first + below(pages)) * page + below(page / 8) * 8);
    }
  }
  /// A write to a page that was just looked at.
  void write_to(const Slot& slot, std::uint64_t offset) {
    const std::uint64_t gpa = slot.gpa + offset;
    const std::uint64_t value = random_();
    if (one_in(2) || slot.space != 0) {
      const auto range = pieces(slot.space, gpa, sizeof value, true);
      EXPECT_EQ(views_[slot.space].write<std::uint64_t>(kvm::Gpa{gpa}, value), bool(range));
      if (range) {
        write(*range, bytes_of(value));
      }
    } else {
      run_guest(write_at, gpa, value, 0);
      guest_stores(gpa, bytes_of(value));
    }
    if (tracker_ && one_in(2)) {
      EXPECT_TRUE(tracker_->try_collect());
    }
  }
  void harvest_log(Listener& listener, std::uint64_t runs) {
    const Slot& slot = *listener.only;
    if (!listener.log) {
      auto log = kvm::DirtyLog::try_open(*slot.handle, {.clear_pages = below(3) * 64});
      ASSERT_TRUE(log) << log.error().what();
      listener.log = std::move(*log);
    }
    complete_ = slot.logged;
    auto harvested = listener.log->try_harvest([&](kvm::GfnRange range) {
      if (runs-- == 0) {
        return complete_ = false;
      }
      take(listener, slot, range.first - slot.gpa / page, range.count);
      return true;
    });
    ASSERT_EQ(bool(harvested), slot.logged);
    if (!harvested) {
      EXPECT_EQ(harvested.error().error_number(), ENOENT);
    }
  }
  void harvest_subscription(Listener& listener, std::uint64_t runs) {
    std::uint64_t pages = 0;
    complete_ = true;
    auto harvested = listener.subscription->try_harvest([&](const kvm::DirtyPages& dirty) {
      if (runs-- == 0) {
        return complete_ = false;
      }
      const auto slot = std::find_if(slots_.begin(), slots_.end(), [&](const SlotPtr& candidate) {
        return candidate->handle->id() == dirty.slot;
      });
      if (slot == slots_.end()) {
        if (dirty.slot == machine_.ram.id()) {
          return true;  // Not logged: all that was pending since the beginning.
        }
        ADD_FAILURE() << "pages of a slot that is not there: " << dirty.slot.raw();
        return true;
      }
      const std::uint64_t offset = dirty.pages.first * page;
      EXPECT_EQ(dirty.gpa.value, (*slot)->gpa + offset);
      EXPECT_EQ(dirty.gfns.first, dirty.gpa.value / page);
      EXPECT_EQ(dirty.gfns.count, dirty.pages.count);
      EXPECT_EQ(dirty.size, dirty.pages.count * page);
      EXPECT_EQ(dirty.backing_offset, (*slot)->first * page + offset);
      EXPECT_TRUE(!listener.only || listener.only == *slot);
      take(listener, **slot, dirty.pages.first, dirty.pages.count);
      pages += dirty.pages.count;
      return true;
    });
    ASSERT_TRUE(harvested) << harvested.error().what();
    EXPECT_EQ(harvested->complete, complete_);
    EXPECT_EQ(harvested->pages, pages);
    const auto logged = std::count_if(slots_.begin(), slots_.end(),
                                      [](const SlotPtr& slot) { return slot->logged; });
    EXPECT_EQ(tracker_->untracked().size(), slots_.size() + 1 - static_cast<std::size_t>(logged));
    EXPECT_EQ(harvested->untracked,
              listener.only ? (listener.only->logged ? 0u : 1u) : tracker_->untracked().size());
  }

  // What must hold at any time.

  void check_generations() {
    for (std::uint16_t space = 0; space < spaces_; ++space) {
      const std::uint64_t now = machine_.vm.memory(space).generation();
      EXPECT_GE(now, generations_[space]);
      EXPECT_EQ(now & kvm::GuestMemory::update_in_progress, 0u);
      generations_[space] = now;
    }
  }
  void check_memory() const {
    for (const auto& backing : backings_) {
      EXPECT_EQ(std::memcmp(backing->memory.data(), backing->bytes.data(), backing->bytes.size()),
                0)
          << "memory holds what nobody wrote" << where(backing);
    }
    EXPECT_EQ(machine_.vm.memory().slots().size(),
              1 + static_cast<std::size_t>(
                      std::count_if(slots_.begin(), slots_.end(),
                                    [](const SlotPtr& slot) { return slot->space == 0; })));
  }
  void check_copies() {
    for (const auto& listener : listeners_) {
      for (const auto& [backing, seen] : listener->seen) {
        for (std::uint64_t i = 0; i < backing->pages(); ++i) {
          if (seen.current[i] == 0 || seen.owed[i] != 0) {
            continue;
          }
          ++counts_["compared"];
          EXPECT_EQ(
              std::memcmp(seen.copy.data() + i * page, backing->memory.data() + i * page, page), 0)
              << "page " << i << " was written since it was handed over" << where(backing);
        }
      }
    }
  }

  const Setup setup_;
  std::mt19937_64 random_;
  Machine machine_;
  kvm::Mapping file_ = kvm::Mapping::memfd(8 * page);
  std::optional<kvm::DirtyTracker> tracker_;
  std::optional<kvm::Vcpu> vcpu_;
  Devices devices_;
  std::uint16_t spaces_ = 1;
  bool read_only_ = false;
  std::vector<kvm::GuestMemory::View> views_;
  std::vector<std::uint64_t> generations_;
  std::vector<std::shared_ptr<Backing>> backings_;
  std::vector<SlotPtr> slots_;
  std::vector<HeldCache> caches_;
  std::vector<HeldPin> pins_;
  std::vector<std::unique_ptr<Listener>> listeners_;
  Listener* harvested_ = nullptr;  ///< who is just being told
  bool write_meanwhile_ = true;
  bool complete_ = true;  ///< whether the last harvest was not declined
  const char* doing_ = "";
  std::map<std::string, std::uint64_t> counts_;
};

class DirtyModel : public ::testing::TestWithParam<Setup> {};

TEST_P(DirtyModel, HoldsForRandomSequences) {
  const std::uint64_t seed =
      environment("KVM_HPP_MODEL_SEED", std::random_device()() & 0xffffffffu);
  const std::uint64_t steps =
      environment("KVM_HPP_MODEL_STEPS", rounds(thread_sanitizer ? 2000 : 8000));
  RecordProperty("seed", std::to_string(seed));
  std::printf("KVM_HPP_MODEL_SEED=%llu KVM_HPP_MODEL_STEPS=%llu\n",
              static_cast<unsigned long long>(seed), static_cast<unsigned long long>(steps));
  SCOPED_TRACE("repeat with KVM_HPP_MODEL_SEED=" + std::to_string(seed) +
               " KVM_HPP_MODEL_STEPS=" + std::to_string(steps));
  Model model(GetParam(), seed);
  if (const std::string reason = model.start(); !reason.empty()) {
    GTEST_SKIP() << reason;
  }
  model.run(steps);
  std::printf("%s\n", model.summary().c_str());
}

INSTANTIATE_TEST_SUITE_P(
    Modes, DirtyModel,
    ::testing::Values(Setup{"LogOfEachSlot", Tool::dirty_log, kvm::DirtyMode::log, false},
                      Setup{"ManualLogOfEachSlot", Tool::dirty_log, kvm::DirtyMode::manual, false},
                      Setup{"InitiallySetLogOfEachSlot", Tool::dirty_log, kvm::DirtyMode::manual,
                            true},
                      Setup{"Log", Tool::subscriptions, kvm::DirtyMode::log, false},
                      Setup{"Manual", Tool::subscriptions, kvm::DirtyMode::manual, false},
                      Setup{"InitiallySet", Tool::subscriptions, kvm::DirtyMode::manual, true},
                      Setup{"Ring", Tool::subscriptions, kvm::DirtyMode::ring, false}),
    [](const auto& parameter) { return std::string(parameter.param.name); });

}  // namespace
}  // namespace kvm_test
