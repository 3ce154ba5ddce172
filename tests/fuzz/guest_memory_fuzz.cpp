// SPDX-License-Identifier: MIT
// Slots come, go, move and fail to, and views and caches read and write at any numbers: what they
// get, and which pages they mark, is what a plain array says.
//
// KVM is played by this program: the rules for slots are few, and thousands of runs in a second
// need no guest.
#include <kvm/kvm.hpp>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include <sys/syscall.h>
#include <unistd.h>

#include "support/fake_kvm.hpp"
#include "support/fuzzing.hpp"
#include "support/slot_access.hpp"

namespace {

using kvm::Gpa;
using kvm::Mapping;
using kvm::MemorySlot;
using View = kvm::GuestMemory::View;

constexpr std::uint64_t max64 = ~std::uint64_t{0};
const std::size_t page = kvm::detail::sys::page_size();

using kvm_test::Input;
using kvm_test::require;

/// KVM's rules for slots.
struct FakeKvm {
  struct Region {
    std::uint64_t gpa, size, host;
    std::uint32_t flags;
  };
  std::map<std::uint32_t, Region> regions;
  int next_error = 0;  ///< with which the next change fails

  int set(const kvm::uapi::kvm_userspace_memory_region& region) {
    if (next_error != 0) {
      return std::exchange(next_error, 0);
    }
    const auto old = regions.find(region.slot);
    if (region.memory_size == 0) {
      if (old == regions.end()) {
        return EINVAL;
      }
      regions.erase(old);
      return 0;
    }
    if ((region.guest_phys_addr | region.memory_size | region.userspace_addr) % page != 0 ||
        region.guest_phys_addr + region.memory_size < region.guest_phys_addr ||
        region.memory_size / page > 0x7fff'ffff || region.slot >= 512 ||
        (region.flags & ~(kvm::uapi::mem::log_dirty_pages | kvm::uapi::mem::readonly)) != 0) {
      return EINVAL;
    }
    if (old != regions.end() &&
        (old->second.size != region.memory_size || old->second.host != region.userspace_addr ||
         ((old->second.flags ^ region.flags) & kvm::uapi::mem::readonly))) {
      return EINVAL;
    }
    for (const auto& [slot, other] : regions) {
      if (slot != region.slot && other.gpa < region.guest_phys_addr + region.memory_size &&
          region.guest_phys_addr < other.gpa + other.size) {
        return EEXIST;
      }
    }
    regions[region.slot] = {region.guest_phys_addr, region.memory_size, region.userspace_addr,
                            region.flags};
    return 0;
  }
};
FakeKvm fake;

/// The padding-free kind that is copied word by word.
struct Triple {
  std::uint64_t a;
  std::uint32_t b, c;
};

constexpr std::size_t backing_pages = 96;

/// What is made once.
struct Machine {
  Machine() {
    kvm_test::set_region = [](const auto& region) { return fake.set(region); };
  }
  kvm::System system = kvm::System::try_open("/dev/null").value();
  kvm::Vm vm = system.create_vm();
  Mapping backing = Mapping::anonymous(backing_pages * page);
};

/// One VM, with slots that are parts of one memory: aliases included.
class World {
 public:
  explicit World(Machine& machine)
      : vm_(machine.vm),
        backing_(machine.backing),
        memory_(vm_.memory()),
        view_(memory_.view()),
        bytes_(backing_.size()) {
    std::memset(backing_.data(), 0, backing_.size());
  }
  World(const World&) = delete;
  World& operator=(const World&) = delete;
  ~World() {
    drop_pin();
    slots_.clear();
    forget_departed();
  }

  void step(Input& input) {
    const std::uint64_t operation = input.bytes(1);
    switch (operation % 16) {
      case 0:
      case 1:
        return add(input);
      case 2:
        return remove(input);
      case 3:
        return move(input);
      case 4:
        return toggle(input);
      case 5:
        return scalar<std::uint8_t>(input);
      case 6:
        return scalar<std::uint16_t>(input);
      case 7:
        return scalar<std::uint32_t>(input);
      case 8:
        return scalar<std::uint64_t>(input);
      case 9:
        return scalar<Triple>(input);
      case 10:
        return span(input);
      case 11:
        return fill(input);
      case 12:
        return make_cache(input);
      case 13:
        return in_cache(input);
      case 14:
        return atomic(input);
      default:
        return misc(input);
    }
  }
  /// What is in memory.
  void check_memory() { require(std::memcmp(backing_.data(), bytes_.data(), bytes_.size()) == 0); }
  /// The marks of all slots.
  void check() {
    for (const auto& slot : slots_) {
      check_marks(*slot);
    }
    require(memory_.slots().size() == slots_.size() && memory_.reclaim() == pinned_removed());
    require((memory_.generation() & kvm::GuestMemory::update_in_progress) == 0);
  }

 private:
  struct Slot {
    MemorySlot handle;
    std::uint64_t gpa, size, offset;
    bool read_only, logged;
    std::uint64_t serial;
    std::set<std::uint64_t> marked{};
  };

  // --- numbers ---

  Slot* pick(Input& input) {
    return slots_.empty() ? nullptr : slots_[input.bytes(1) % slots_.size()].get();
  }
  std::uint64_t gpa(Input& input) {
    const std::uint64_t form = input.bytes(1);
    const Slot* const slot = pick(input);
    const std::uint64_t begin = slot == nullptr ? 0 : slot->gpa;
    const std::uint64_t end = slot == nullptr ? 0 : slot->gpa + slot->size;
    switch (form % 8) {
      case 0:
        return begin + form / 8;
      case 1:
        return end - form / 8;
      case 2:
        return begin - form / 8;
      case 3:
        return begin + input.bytes(2);
      case 4:
        return begin + page * (form / 8) - input.bytes(1) % 16;
      case 5:
        return max64 - form / 8;
      case 6:
        return input.bytes(3);
      default:
        return input.bytes(8);
    }
  }
  std::uint64_t length(Input& input) {
    const std::uint64_t form = input.bytes(1);
    switch (form % 8) {
      case 0:
      case 1:
      case 2:
        return form / 8;
      case 3:
        return page * (form / 64) + form / 8 % 8;
      case 4:
      case 5:
        return input.bytes(2);
      case 6:
        return max64 - form / 8;
      default:
        return input.bytes(8);
    }
  }

  // --- the model ---

  Slot* slot_at(std::uint64_t gpa) {
    for (const auto& slot : slots_) {
      if (gpa - slot->gpa < slot->size) {
        return slot.get();
      }
    }
    return nullptr;
  }
  bool covers(std::uint64_t gpa, std::uint64_t size, bool to_write) {
    while (size != 0) {
      const Slot* const slot = slot_at(gpa);
      if (slot == nullptr || (to_write && slot->read_only)) {
        return false;
      }
      const std::uint64_t room = slot->size - (gpa - slot->gpa);
      if (size <= room) {
        return true;
      }
      size -= room;
      gpa += room;
      if (gpa == 0) {
        return false;
      }
    }
    return true;
  }
  /// Calls `piece(slot, offset in it, bytes done before, bytes)` for each slot's
  /// part of a range that is covered.
  template <class Piece>
  void for_each_piece(std::uint64_t gpa, std::uint64_t size, Piece piece) {
    for (std::uint64_t done = 0; done < size;) {
      Slot& slot = *slot_at(gpa + done);
      const std::uint64_t offset = gpa + done - slot.gpa;
      const std::uint64_t part = std::min(size - done, slot.size - offset);
      piece(slot, offset, done, part);
      done += part;
    }
  }
  std::vector<std::byte> get(std::uint64_t gpa, std::uint64_t size) {
    std::vector<std::byte> out(size);
    for_each_piece(
        gpa, size,
        [&](const Slot& slot, std::uint64_t offset, std::uint64_t done, std::uint64_t part) {
          std::memcpy(out.data() + done, bytes_.data() + slot.offset + offset, part);
        });
    return out;
  }
  void put(std::uint64_t gpa, std::span<const std::byte> bytes) {
    for_each_piece(gpa, bytes.size(),
                   [&](Slot& slot, std::uint64_t offset, std::uint64_t done, std::uint64_t part) {
                     std::memcpy(bytes_.data() + slot.offset + offset, bytes.data() + done, part);
                     mark(slot, offset, part);
                   });
  }
  static void add_pages(std::set<std::uint64_t>& pages, std::uint64_t offset, std::uint64_t size) {
    for (std::uint64_t number = offset / page; size != 0 && number <= (offset + size - 1) / page;
         ++number) {
      pages.insert(number);
    }
  }
  static void mark(Slot& slot, std::uint64_t offset, std::uint64_t size) {
    if (slot.logged) {
      add_pages(slot.marked, offset, size);
    }
  }
  static void check_marks(Slot& slot) {
    const auto marks = kvm_test::take_marks(slot.handle);
    if (slot.logged) {
      require(std::equal(marks.begin(), marks.end(), slot.marked.begin(), slot.marked.end()));
    }
    slot.marked.clear();
  }
  static void mark_all(Slot& slot) {
    for (std::uint64_t i = 0; slot.logged && i < slot.size / page; ++i) {
      slot.marked.insert(i);
    }
  }
  /// Logged slots show it: they are dirty when the log of another one is lost.
  struct Memory {
    std::uint64_t offset, size, serial;
  };
  static Memory memory_of(const Slot& slot) { return {slot.offset, slot.size, slot.serial}; }
  void mark_aliases(const Memory& gone) {
    for (const auto& slot : slots_) {
      for (std::uint64_t i = 0; slot->serial != gone.serial && slot->logged && i < slot->size;
           i += page) {
        const std::uint64_t at = slot->offset + i;
        if (at >= gone.offset && at < gone.offset + gone.size) {
          slot->marked.insert(i / page);
        }
      }
    }
  }
  /// A logged slot was deleted. Those that went before it are looked at again:
  /// someone may have written through them since, by a pin.
  void depart(const Slot& slot) {
    mark_aliases(memory_of(slot));
    for (const Memory& gone : departed_) {
      mark_aliases(gone);
    }
    std::erase_if(departed_, [&](const Memory& gone) { return !pins(gone.serial); });
    departed_.push_back(memory_of(slot));
  }
  /// So that what departed here is not looked at in the next world.
  void forget_departed() {
    const MemorySlot last = vm_.add_memory(Gpa{0}, Mapping::anonymous(page), {.log_dirty = true});
  }

  // --- slots ---

  int maybe_fail(Input& input) {
    const std::uint64_t form = input.bytes(1);
    fake.next_error = form % 8 == 7 ? ENOMEM : 0;
    return fake.next_error;
  }
  bool place_is_free(std::uint64_t gpa, std::uint64_t size, const Slot* self) {
    return gpa % page == 0 && gpa + size >= gpa &&
           std::none_of(slots_.begin(), slots_.end(), [&](const auto& slot) {
             return slot.get() != self && slot->gpa < gpa + size && gpa < slot->gpa + slot->size;
           });
  }
  std::uint64_t place(Input& input) {
    const std::uint64_t at = gpa(input);
    return input.bytes(1) % 8 == 0 ? at : at & ~(page - 1);
  }
  void add(Input& input) {
    if (slots_.size() >= 24) {
      return;
    }
    const std::uint64_t at = place(input);
    const std::uint64_t shape = input.bytes(2);
    const std::uint64_t offset = shape % backing_pages;
    const std::uint64_t pages =
        std::min<std::uint64_t>(backing_pages - offset, 1 + (shape >> 8) % 70);
    const std::uint64_t flags = input.bytes(1);
    const kvm::MemoryOptions options{.log_dirty = (flags & 1) != 0, .read_only = (flags & 6) == 6};
    const int error_number = maybe_fail(input);
    Mapping part = backing_.try_part(offset * page, pages * page).value();
    auto added = vm_.try_add_memory(Gpa{at}, std::move(part), options);
    fake.next_error = 0;
    require(added.has_value() == (error_number == 0 && place_is_free(at, pages * page, nullptr)));
    if (added) {
      require(part.data() == nullptr);
      slots_.push_back(
          std::make_unique<Slot>(Slot{std::move(*added), at, pages * page, offset * page,
                                      options.read_only, options.log_dirty, ++last_serial_}));
    } else {
      require(part.size() == pages * page);
    }
  }
  void remove(Input& input) {
    Slot* const slot = pick(input);
    if (slot == nullptr) {
      return;
    }
    const std::uint64_t how = input.bytes(1);
    if (how % 4 == 3) {
      fake.next_error = ENOMEM;
      require(!slot->handle.try_remove());
      require(slot->handle.size() == slot->size);
      return;
    }
    if (how % 2 == 0) {
      auto removed = slot->handle.try_remove();
      require(removed.has_value());
      const bool pinned = pins(slot->serial);
      require(removed->in_use() == pinned);
      const auto taken = removed->try_take();
      require(taken.has_value() == !pinned);
    } else {
      const MemorySlot dropped = std::move(slot->handle);
    }
    if (slot->logged) {
      depart(*slot);
    }
    removed_with_pin_ += pins(slot->serial) ? 1 : 0;
    slots_.erase(std::find_if(slots_.begin(), slots_.end(),
                              [&](const auto& one) { return one.get() == slot; }));
  }
  void move(Input& input) {
    Slot* const slot = pick(input);
    if (slot == nullptr) {
      return;
    }
    const std::uint64_t to = place(input);
    const int error_number = maybe_fail(input);
    const auto moved = slot->handle.try_move_to(Gpa{to});
    fake.next_error = 0;
    require(moved.has_value() == (error_number == 0 && place_is_free(to, slot->size, slot)));
    if (moved) {
      slot->gpa = to;
      mark_all(*slot);
    }
    require(slot->handle.gpa().value == slot->gpa);
  }
  void toggle(Input& input) {
    Slot* const slot = pick(input);
    if (slot == nullptr) {
      return;
    }
    const int error_number = maybe_fail(input);
    const auto changed = slot->handle.try_log_dirty(!slot->logged);
    fake.next_error = 0;
    require(changed.has_value() == (error_number == 0));
    if (changed) {
      if (slot->logged) {
        mark_aliases(memory_of(*slot));
      }
      slot->logged = !slot->logged;
      slot->marked.clear();
      mark_all(*slot);
    }
    require(slot->handle.logs_dirty() == slot->logged);
  }

  // --- accesses ---

  template <class T>
  void scalar(Input& input) {
    const std::uint64_t at = gpa(input);
    check_read<T>(view_.read<T>(Gpa{at}), at, covers(at, sizeof(T), false));
    const auto value = make<T>(input.bytes(sizeof(T)));
    check_write<T>(view_.write<T>(Gpa{at}, value), value, at, covers(at, sizeof(T), true));
  }
  template <class T>
  static T make(std::uint64_t number) {
    if constexpr (std::is_integral_v<T>) {
      return static_cast<T>(number);
    } else {
      return {number, static_cast<std::uint32_t>(number * 3), static_cast<std::uint32_t>(number)};
    }
  }
  template <class T>
  void check_read(const std::optional<T>& read, std::uint64_t at, bool there) {
    require(read.has_value() == there);
    require(!there || std::memcmp(&*read, get(at, sizeof(T)).data(), sizeof(T)) == 0);
  }
  template <class T>
  void check_write(bool written, const T& value, std::uint64_t at, bool there) {
    require(written == there);
    if (there) {
      put(at, std::as_bytes(std::span(&value, 1)));
    }
  }
  void span(Input& input) {
    const std::uint64_t at = gpa(input);
    const std::uint64_t size = input.bytes(2) % (3 * page);
    std::vector<std::byte> out(size + 1, std::byte{0xc3});
    const bool there = covers(at, size, false);
    require(view_.read(Gpa{at}, std::span(out).first(size)) == there);
    require(out.back() == std::byte{0xc3});
    out.pop_back();
    require(out == (there ? get(at, size) : std::vector<std::byte>(size, std::byte{0xc3})));
    const std::uint64_t seed = input.bytes(1);
    for (std::size_t i = 0; i < size; ++i) {
      out[i] = static_cast<std::byte>(seed + i * 7);
    }
    const bool writable = covers(at, size, true);
    require(view_.write(Gpa{at}, out) == writable);
    if (writable) {
      put(at, out);
    }
  }
  void fill(Input& input) {
    const std::uint64_t at = gpa(input);
    const std::uint64_t size = length(input);
    const auto value = static_cast<std::byte>(input.bytes(1));
    const bool writable = covers(at, size, true);
    require(view_.fill(Gpa{at}, size, value) == writable);
    if (writable) {
      put(at, std::vector<std::byte>(size, value));
    }
    const bool there = covers(at, size, false);
    require(view_.contains(Gpa{at}, size) == there);
    require(view_.mark_dirty(Gpa{at}, size) == there);
    if (there) {
      for_each_piece(at, size,
                     [](Slot& slot, std::uint64_t offset, std::uint64_t, std::uint64_t part) {
                       mark(slot, offset, part);
                     });
    }
  }
  void atomic(Input& input) {
    const std::uint64_t at = gpa(input);
    const auto number = static_cast<std::uint32_t>(input.bytes(4));
    const bool aligned = at % 4 == 0;
    const bool writable = aligned && covers(at, 4, true);
    check_read<std::uint32_t>(view_.atomic_load<std::uint32_t>(Gpa{at}), at,
                              aligned && covers(at, 4, false));
    const std::uint32_t before = writable ? load32(at) : 0;
    std::optional<std::uint32_t> result;
    std::uint32_t after = number;
    switch (input.bytes(1) % 6) {
      case 0:
        result = view_.atomic_exchange<std::uint32_t>(Gpa{at}, number);
        break;
      case 1:
        result = view_.atomic_fetch_or<std::uint32_t>(Gpa{at}, number);
        after = before | number;
        break;
      case 2:
        result = view_.atomic_fetch_and<std::uint32_t>(Gpa{at}, number);
        after = before & number;
        break;
      case 3:
        result = view_.atomic_fetch_add<std::uint32_t>(Gpa{at}, number);
        after = before + number;
        break;
      case 4: {
        const auto swapped = view_.atomic_compare_exchange<std::uint32_t>(Gpa{at}, before, number);
        require(swapped.has_value() == writable && (!swapped || swapped->exchanged));
        result = swapped ? std::optional(swapped->observed) : std::nullopt;
        break;
      }
      default:
        if (view_.atomic_store<std::uint32_t>(Gpa{at}, number)) {
          result = before;
        }
        break;
    }
    require(result.has_value() == writable && (!writable || *result == before));
    if (writable) {
      put(at, std::as_bytes(std::span(&after, 1)));
    }
  }
  std::uint32_t load32(std::uint64_t at) {
    std::uint32_t value;
    std::memcpy(&value, get(at, 4).data(), 4);
    return value;
  }

  // --- caches ---

  void make_cache(Input& input) {
    const std::uint64_t at = gpa(input);
    const std::uint64_t size = length(input);
    kvm::GfnToHvaCache made(memory_, Gpa{at}, size);
    if (caches_.size() < 4) {
      caches_.push_back(std::move(made));
    } else {
      caches_[input.bytes(1) % 4] = std::move(made);
    }
  }
  void in_cache(Input& input) {
    if (caches_.empty()) {
      return;
    }
    kvm::GfnToHvaCache& cache = caches_[input.bytes(1) % caches_.size()];
    const std::uint64_t offset = length(input);
    const std::uint64_t number = input.bytes(8);
    switch (input.bytes(1) % 5) {
      case 0:
        return cached<std::uint8_t>(cache, offset, number);
      case 1:
        return cached<std::uint16_t>(cache, offset, number);
      case 2:
        return cached<std::uint32_t>(cache, offset, number);
      case 3:
        return cached<std::uint64_t>(cache, offset, number);
      default:
        return cached<Triple>(cache, offset, number);
    }
  }
  template <class T>
  void cached(kvm::GfnToHvaCache& cache, std::uint64_t offset, std::uint64_t number) {
    const std::uint64_t at = cache.gpa().value + offset;
    const bool inside =
        sizeof(T) <= cache.length() && offset <= cache.length() - sizeof(T) && at >= offset;
    check_read<T>(cache.read<T>(offset), at, inside && covers(at, sizeof(T), false));
    const auto value = make<T>(number);
    const bool writable = inside && covers(at, sizeof(T), true);
    check_write<T>(cache.write<T>(offset, value), value, at, writable);
    std::array<std::byte, sizeof(T)> bytes{};
    require(cache.read(offset, bytes) == (inside && covers(at, sizeof(T), false)));
    require(cache.write(offset, bytes) == writable);
    if (writable) {
      put(at, bytes);
    }
    require(cache.valid() == covers(cache.gpa().value, cache.length(), false));
  }

  // --- pins, and what else there is ---

  bool pins(std::uint64_t serial) const { return pinned_pages_.contains(serial); }
  std::size_t pinned_removed() const { return removed_with_pin_; }
  void drop_pin() {
    pin_.reset();
    for (const auto& slot : slots_) {
      if (pin_for_writing_ && slot->logged && pins(slot->serial)) {
        slot->marked.merge(pinned_pages_[slot->serial]);
      }
    }
    pinned_pages_.clear();
    removed_with_pin_ = 0;
  }
  void misc(Input& input) {
    const std::uint64_t what = input.bytes(1);
    switch (what % 6) {
      case 0:
        view_ = memory_.view();
        return;
      case 1: {
        View moved = std::move(view_);
        require(!view_.read<std::uint8_t>(Gpa{gpa(input)}));
        view_ = std::move(moved);
        return;
      }
      case 2: {
        drop_pin();
        const std::uint64_t at = gpa(input);
        const std::uint64_t size = length(input);
        pin_for_writing_ = what / 8 % 2 == 0;
        pin_ = view_.pin(Gpa{at}, size,
                         pin_for_writing_ ? kvm::PinFor::writing : kvm::PinFor::reading);
        require(pin_.has_value() == covers(at, size, pin_for_writing_));
        if (pin_) {
          std::uint64_t total = 0;
          for (const ::iovec& part : pin_->iovecs()) {
            const Slot* const slot = slot_at(at + total);
            require(part.iov_base == backing_.data() + slot->offset + (at + total - slot->gpa));
            total += part.iov_len;
          }
          require(total == size);
          for_each_piece(
              at, size,
              [&](const Slot& slot, std::uint64_t offset, std::uint64_t, std::uint64_t part) {
                add_pages(pinned_pages_[slot.serial], offset, part);
              });
        }
        return;
      }
      case 3:
        return drop_pin();
      default:
        return check();
    }
  }

  kvm::Vm& vm_;
  const Mapping& backing_;
  kvm::GuestMemory memory_;
  View view_;
  std::vector<std::byte> bytes_;
  std::vector<std::unique_ptr<Slot>> slots_;
  std::vector<kvm::GfnToHvaCache> caches_;
  std::optional<kvm::Pin> pin_;
  bool pin_for_writing_ = false;
  std::map<std::uint64_t, std::set<std::uint64_t>> pinned_pages_;  // by the slots' serials
  std::vector<Memory> departed_;
  std::uint64_t last_serial_ = 0;
  std::size_t removed_with_pin_ = 0;
};

}  // namespace

/// The input: an operation in each byte, with its numbers behind it.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input input(data, size);
  static Machine machine;
  {
    World world(machine);
    for (int steps = 0; steps < 100 && !input.empty(); ++steps) {
      world.step(input);
    }
    world.check();
    world.check_memory();
  }
  require(machine.vm.memory().reclaim() == 0 && machine.vm.memory().slots().empty());
  require(fake.regions.empty());
  return 0;
}
