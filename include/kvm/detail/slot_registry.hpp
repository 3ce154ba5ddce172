// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_DETAIL_SLOT_REGISTRY_HPP
#define KVM_HPP_DETAIL_SLOT_REGISTRY_HPP

#include <kvm/detail/address_space.hpp>
#include <kvm/detail/slot_ids.hpp>
#include <kvm/detail/slot_state.hpp>
#include <kvm/detail/vectors.hpp>
#include <kvm/detail/vm_handle.hpp>
#include <kvm/memory/memory_observer.hpp>
#include <kvm/uapi/capabilities.hpp>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

KVM_HPP_BEGIN
namespace detail {

/// All memory slots of a VM: tells KVM, the readers and the observers of each
/// change, in the order that none of them ever uses what is gone. Any thread;
/// one change at a time.
class SlotRegistry : public VmHandle {
 public:
  explicit SlotRegistry(int fd) : VmHandle(fd), ids_(std::make_shared<SlotIds>()) {}

  /// What makes a slot, beside its memory.
  struct NewSlot {
    std::uint16_t address_space = 0;
    Gpa gpa;
    std::uint32_t flags = 0;  ///< KVM_MEM_*
    int guest_memfd = -1;     ///< with KVM_MEM_GUEST_MEMFD
    std::uint64_t guest_memfd_offset = 0;
  };

  /// Creates a slot under a free number. On failure `memory` is untouched and
  /// nothing has changed, except that the generation may have moved forward.
  Result<std::shared_ptr<SlotState>> add(const NewSlot& request, Mapping& memory) {
    const std::size_t size = memory.size();
    const auto fail = [&](int error_number, std::string_view cause) {
      return failure(request_name(request), error_number,
                     text("gpa=", Hex{request.gpa.value}, ", size=", Hex{size}, ", address_space=",
                          request.address_space, ", flags=", Hex{request.flags}),
                     cause);
    };
    Update update(*this);
    if (!update) {
      return fail(update.error_number(), update.cause());
    }
    const std::size_t page = sys::page_size();
    if (request.gpa.value % page != 0) {
      return fail(EINVAL, text("the gpa is not a multiple of the page size, ", page));
    }
    if (request.gpa.value + size < request.gpa.value) {
      return fail(EINVAL, "the range passes the end of the address space");
    }
    auto space = find_or_make_space(request.address_space);
    if (!space) {
      return space.error();
    }
    if (slot_limit_ == 0) {
      const int limit = call(uapi::request::check_extension, uapi::cap::nr_memslots);
      slot_limit_ = limit > 0 ? static_cast<std::uint32_t>(limit) : default_slot_limit;
    }
    // Whatever may run out of memory does so before KVM is told, the room that
    // deleting needs included.
    make_room(parked_, ids_->taken() + 1);
    make_room(retired_, ids_->taken() + 1);
    make_room(departed_, departed_.size() + count_ + 1);
    const auto id = ids_->take(request.address_space, slot_limit_);
    if (!id) {
      const std::size_t waiting = ids_->waiting();
      return fail(EINVAL, waiting == 0 ? text("all ", slot_limit_, " slots are in use")
                                       : text("all ", slot_limit_,
                                              " slots are in use, or wait for the dirty "
                                              "rings to be harvested since they were deleted"));
    }
    // From here on a failure gives the number back by itself.
    auto slot = make_state(*id, request, memory);
    if (slot->logged()) {
      make_marks(*slot);
    }
    by_id(**space, id->id);  // makes the room
    if (!make_ready(**space, 1)) {
      return fail(ENOMEM, "the host is out of memory");
    }
    AddressSpace& table = (*space)->table;
    table.begin_update(1);
    if (!set_region(*slot, request.gpa, size, request.flags, &request)) {
      const int error_number = errno;
      table.end_update();
      return fail(error_number, explain(error_number, **space, request.gpa, size, nullptr,
                                        request.address_space));
    }
    table.publish(nullptr, slot.get());
    table.end_update();
    by_id(**space, id->id) = slot;
    ++count_;
    memory = Mapping();  // The slot has it now.
    notify(MemoryChange::Kind::added, *slot, {}, slot->gpa());
    return slot;
  }

  /// Deletes a slot in KVM and takes it from the readers. On success accesses
  /// that began before may still be in flight: until in_use() says no, the
  /// memory must stay. On failure the slot is as it was.
  /// @return the generation from which on no reader has it; 0 with errno set
  ///         if it failed
  std::uint64_t remove(SlotState& slot) noexcept {
    Update update(*this);
    if (!update) {
      errno = update.error_number();
      return 0;
    }
    return remove_locked(slot);
  }

  /// The end of a slot whose handle is dropped: deletes it and keeps the memory
  /// for as long as somebody may use it. Never waits for them.
  void abandon(std::shared_ptr<SlotState> slot) noexcept {
    if (foreign()) {
      return;  // A forked child has no say in its parent's VM.
    }
    Update update(*this);
    Space& space = *find_space(slot->id.address_space);
    std::uint64_t until = 0;
    if (update.nested() || (until = remove_locked(*slot)) == 0) {
      parked_.push_back(std::move(slot));  // add() reserved the room.
      return;
    }
    retired_.push_back({std::move(slot), until});  // add() reserved the room.
    space.table.fence_readers();
    reclaim(space);
  }
  /// Takes over what remove() took from the readers, until nobody uses it.
  void retire(std::shared_ptr<SlotState> slot, std::uint64_t until) noexcept {
    if (foreign()) {
      return;
    }
    const ObserverLock lock(*this);
    retired_.push_back({std::move(slot), until});  // add() reserved the room.
  }

  /// Whether an access that began before the slot was removed is in flight, or
  /// a pin is held.
  bool in_use(const SlotState& slot, std::uint64_t until) const noexcept {
    if (foreign()) {
      return false;  // Nobody in a forked child can use memory that it does not have.
    }
    const ObserverLock lock(*this);
    return in_use_locked(slot, until);
  }
  /// Orders in_use() after the removal.
  void fence_readers(const SlotState& slot) const noexcept {
    const ObserverLock lock(*this);
    find_space(slot.id.address_space)->table.fence_readers();
  }

  /// Moves a slot to another gpa. A vCPU that runs meanwhile gets MMIO exits
  /// for the range.
  Result<void> move(SlotState& slot, Gpa to) {
    const Gpa from = slot.gpa();
    const auto fail = [&](int error_number, std::string_view cause) {
      return failure(uapi::request::set_user_memory_region.name, error_number,
                     text("slot=", slot.id.id, ", address_space=", slot.id.address_space, ", gpa=",
                          Hex{from.value}, " to ", Hex{to.value}, ", size=", Hex{slot.size}),
                     cause);
    };
    Update update(*this);
    if (!update) {
      return fail(update.error_number(), update.cause());
    }
    if (!slot.exists()) {
      return fail(ENOENT, "the slot was deleted");
    }
    const std::size_t page = sys::page_size();
    if (to.value % page != 0) {
      return fail(EINVAL, text("the new gpa is not a multiple of the page size, ", page));
    }
    if (to.value + slot.size < to.value) {
      return fail(EINVAL, "the range passes the end of the address space");
    }
    Space& space = *find_space(slot.id.address_space);
    if (!make_ready(space, 0)) {
      return fail(ENOMEM, "the host is out of memory");
    }
    space.table.begin_update(2);
    notify(MemoryChange::Kind::removing, slot, from, to);
    if (!set_region(slot, to, slot.size, slot.flags(), nullptr)) {
      const int error_number = errno;
      space.table.end_update();
      notify(MemoryChange::Kind::added, slot, from, from);
      return fail(error_number,
                  explain(error_number, space, to, slot.size, &slot, slot.id.address_space));
    }
    slot.gpa_.store(to.value, std::memory_order_release);
    space.table.publish(&slot, &slot);
    space.table.end_update();
    if (slot.logged()) {
      slot.marks()->mark_all();
    }
    notify(MemoryChange::Kind::added, slot, from, to);
    return {};
  }

  /// Changes whether the guest's writes are logged. Waits for accesses in
  /// flight, which last as long as it takes to copy.
  Result<void> set_logging(SlotState& slot, bool logged) {
    const std::uint32_t flags = logged ? slot.flags() | uapi::mem::log_dirty_pages
                                       : slot.flags() & ~uapi::mem::log_dirty_pages;
    const auto fail = [&](int error_number, std::string_view cause) {
      return failure(uapi::request::set_user_memory_region.name, error_number,
                     text("slot=", slot.id.id, ", address_space=", slot.id.address_space, ", gpa=",
                          Hex{slot.gpa().value}, ", size=", Hex{slot.size}, ", flags=", Hex{flags}),
                     cause);
    };
    Update update(*this);
    if (!update) {
      return fail(update.error_number(), update.cause());
    }
    if (!slot.exists()) {
      return fail(ENOENT, "the slot was deleted");
    }
    if (flags == slot.flags()) {
      return {};
    }
    make_marks(slot);
    Space& space = *find_space(slot.id.address_space);
    if (!make_ready(space, 0)) {
      return fail(ENOMEM, "the host is out of memory");
    }
    space.table.begin_update(1);
    if (!set_region(slot, slot.gpa(), slot.size, flags, nullptr)) {
      const int error_number = errno;
      space.table.end_update();
      return fail(error_number, error_number == EINVAL
                                    ? "KVM cannot log this slot: guest_memfd slots cannot be logged"
                                    : "");
    }
    if (!logged) {
      mark_aliases(slot.backing_range(), &slot);
    }
    slot.flags_.store(flags, std::memory_order_release);
    space.table.publish(&slot, &slot);
    const std::uint64_t generation = space.table.end_update();
    if (logged) {
      // A write that began before does not mark. Once it is over, the whole slot
      // is dirty, and only then may a harvest take that as said.
      space.table.fence_readers();
      space.table.await(generation);
      reclaim(space);
      slot.marks()->mark_all();
    }
    return {};
  }

  /// The address space of that number, made when it is first asked for.
  Result<AddressSpace*> try_address_space(std::uint16_t number) {
    if (foreign()) {
      return failure("Vm::memory", EIO);
    }
    const ObserverLock lock(*this);
    if (const int spaces = address_spaces(); number >= spaces) {
      return failure("Vm::memory", EINVAL, text("address_space=", number),
                     spaces == 1 ? "this host's VMs have one address space, 0"
                                 : "there is no such address space");
    }
    auto space = find_or_make_space(number);
    if (!space) {
      return space.error();
    }
    return &(*space)->table;
  }

  /// All slots, by number.
  std::vector<std::shared_ptr<SlotState>> all() const {
    std::vector<std::shared_ptr<SlotState>> result;
    if (!foreign()) {
      const ObserverLock lock(*this);
      result.reserve(count_);
      for (const auto& space : spaces_) {
        for (const auto& slot : space->by_id) {
          if (slot) {
            result.push_back(slot);
          }
        }
      }
    }
    return result;
  }
  /// Before dirty pages are collected: a write that began before its slot was
  /// removed, or through a pin, may have marked that slot alone, after the others with the same
  /// memory were told. They are told again until no such write is in flight.
  void settle_departed() noexcept {
    if (departed_count_.load(std::memory_order_acquire) != 0) {
      const ObserverLock lock(*this);
      settle_departed_locked();
    }
  }

  /// Moves whenever a slot comes, goes, moves or changes, in any address space.
  std::uint64_t changes() const noexcept { return changes_.load(std::memory_order_acquire); }

  bool slots_exist() const noexcept {
    const ObserverLock lock(*this);
    return count_ != 0;
  }
  /// Memory that KVM may still reach, since it refused to delete the slot.
  std::size_t parked() const noexcept {
    if (foreign()) {
      return 0;
    }
    const ObserverLock lock(*this);
    return parked_.size();
  }
  /// Memory of deleted slots that accesses in flight or pins still use; what is
  /// no longer used is unmapped first.
  std::size_t reclaim() noexcept {
    if (foreign()) {
      return 0;
    }
    const ObserverLock lock(*this);
    for (const auto& space : spaces_) {
      space->table.fence_readers();
      reclaim(*space);
    }
    return retired_.size();
  }

  /// The host's page size is 1 << page_shift().
  unsigned page_shift() const noexcept { return page_shift_; }
  /// Whether membarrier pairs with readers and with those who mark pages.
  bool asymmetric() const noexcept { return asymmetric_; }

  const std::shared_ptr<SlotIds>& ids() const noexcept { return ids_; }

  void add_observer(MemoryObserver& observer) {
    const Update lock(*this);  // Of the kind under which observers are called.
    if (foreign()) {
      return;
    }
    // What is there already: a list, since an observer may ask for another
    // address space, made before anything changes, since memory may run out.
    const auto slots = all();
    observers_.push_back(&observer);
    for (const auto& slot : slots) {
      observer.changed(describe(MemoryChange::Kind::added, *slot, {}, slot->gpa()));
    }
  }
  void remove_observer(MemoryObserver& observer) noexcept {
    if (foreign()) {
      return;
    }
    const ObserverLock lock(*this);
    for (auto& entry : observers_) {
      if (entry == &observer) {
        entry = nullptr;  // notify() may be going through them.
      }
    }
    if (!lock.nested()) {
      remove_if(observers_, [](const MemoryObserver* each) { return each == nullptr; });
    }
  }

 private:
  struct Space {
    std::uint16_t number;
    AddressSpace& table;
    std::unique_ptr<AddressSpace> owned;
    std::vector<std::shared_ptr<SlotState>> by_id;
  };
  struct Retired {
    std::shared_ptr<SlotState> slot;
    std::uint64_t until;
  };

  /// What is left of a logged slot that was removed.
  struct Departed {
    std::weak_ptr<SlotState> slot;  // Its number may go to another slot meanwhile.
    BackingRange memory;
    std::uint16_t address_space;
    std::uint64_t since;
    std::uint64_t until;
  };

  /// Ordinary KVM_CAP_NR_MEMSLOTS, where the kernel does not say.
  static constexpr std::uint32_t default_slot_limit = 32;
  static constexpr std::size_t most_retired_tables = 8;

  /// Locks against other threads; within an observer, which runs under the
  /// lock, it is there already.
  class ObserverLock {
   public:
    explicit ObserverLock(const SlotRegistry& registry) noexcept
        : mutex_(registry.updater_.load(std::memory_order_relaxed) == this_thread()
                     ? nullptr
                     : &registry.mutex_) {
      if (mutex_ != nullptr) {
        mutex_->lock();
      }
    }
    ObserverLock(const ObserverLock&) = delete;
    ObserverLock& operator=(const ObserverLock&) = delete;
    ~ObserverLock() {
      if (mutex_ != nullptr) {
        mutex_->unlock();
      }
    }
    bool nested() const noexcept { return mutex_ == nullptr; }

   private:
    std::mutex* mutex_;
  };

  /// The right to change slots: not in a forked child, not from an observer.
  class Update {
   public:
    explicit Update(SlotRegistry& registry) noexcept
        : registry_(registry), foreign_(registry.foreign()) {
      if (foreign_) {
        return;  // Another thread may have held the lock at the fork.
      }
      nested_ = registry.updater_.load(std::memory_order_relaxed) == this_thread();
      if (!nested_) {
        registry_.mutex_.lock();
        registry_.updater_.store(this_thread(), std::memory_order_relaxed);
      }
    }
    Update(const Update&) = delete;
    Update& operator=(const Update&) = delete;
    ~Update() {
      if (!foreign_ && !nested_) {
        registry_.changes_.fetch_add(1, std::memory_order_release);
        registry_.updater_.store(0, std::memory_order_relaxed);
        registry_.mutex_.unlock();
      }
    }
    bool nested() const noexcept { return nested_; }
    explicit operator bool() const noexcept { return !foreign_ && !nested_; }
    int error_number() const noexcept { return foreign_ ? EIO : EDEADLK; }
    std::string_view cause() const noexcept {
      return foreign_ ? "" : "slots cannot be changed from within an observer of them";
    }

   private:
    SlotRegistry& registry_;
    bool foreign_;
    bool nested_ = false;
  };

  static const char* request_name(const NewSlot& request) noexcept {
    return request.guest_memfd >= 0 ? uapi::request::set_user_memory_region2.name
                                    : uapi::request::set_user_memory_region.name;
  }

  bool set_region(const SlotState& slot, Gpa gpa, std::uint64_t size, std::uint32_t flags,
                  const NewSlot* request) noexcept {
    if (request != nullptr && request->guest_memfd >= 0) {
      uapi::kvm_userspace_memory_region2 region{};
      region.slot = slot.id.raw();
      region.flags = flags;
      region.guest_phys_addr = gpa.value;
      region.memory_size = size;
      region.userspace_addr = reinterpret_cast<std::uint64_t>(slot.data);
      region.guest_memfd = static_cast<std::uint32_t>(request->guest_memfd);
      region.guest_memfd_offset = request->guest_memfd_offset;
      return call(uapi::request::set_user_memory_region2, &region) == 0;
    }
    const uapi::kvm_userspace_memory_region region{
        .slot = slot.id.raw(),
        .flags = flags,
        .guest_phys_addr = gpa.value,
        .memory_size = size,
        .userspace_addr = size == 0 ? 0 : reinterpret_cast<std::uint64_t>(slot.data)};
    return call(uapi::request::set_user_memory_region, &region) == 0;
  }

  /// From then on the number goes back by itself.
  std::shared_ptr<SlotState> make_state(SlotId id, const NewSlot& request, const Mapping& memory) {
    struct Guard {
      SlotIds& ids;
      SlotId id;
      bool armed = true;
      ~Guard() {
        if (armed) {
          ids.give_back(id);
        }
      }
    } guard{*ids_, id};
    auto slot = std::make_shared<SlotState>(ids_, id, request.gpa, memory.share(), request.flags);
    guard.armed = false;
    return slot;
  }
  /// Makes sure that a table can be published, with so many more slots. Takes
  /// back now and then what readers have left; never waits for them.
  bool make_ready(Space& space, std::size_t more) noexcept {
    if (space.table.retired_tables() > most_retired_tables) {
      space.table.fence_readers();
      reclaim(space);
    }
    return space.table.reserve(space.table.table().count() + more);
  }
  std::uint64_t remove_locked(SlotState& slot) noexcept {
    if (!slot.exists()) {
      errno = ENOENT;
      return 0;
    }
    Space& space = *find_space(slot.id.address_space);
    const Gpa gpa = slot.gpa();
    if (!make_ready(space, 0)) {
      errno = ENOMEM;
      return 0;
    }
    space.table.begin_update(2);
    notify(MemoryChange::Kind::removing, slot, gpa, {});
    if (!set_region(slot, gpa, 0, 0, nullptr)) {
      const int error_number = errno;
      space.table.end_update();
      notify(MemoryChange::Kind::added, slot, gpa, gpa);
      errno = error_number;
      return 0;
    }
    // Before a harvest can see that the slot is gone, what its log held is known
    // as the others'; and again below, when no reader finds the slot any more.
    if (slot.logged()) {
      mark_aliases(slot.backing_range(), &slot);
    }
    slot.exists_.store(false, std::memory_order_release);
    space.table.publish(&slot, nullptr);
    const std::uint64_t generation = space.table.end_update();
    if (slot.logged()) {
      settle_departed_locked();
      mark_aliases(slot.backing_range());
      departed_.push_back({.slot = slot.weak_from_this(),  // add() reserved the room.
                           .memory = slot.backing_range(),
                           .address_space = slot.id.address_space,
                           .since = slot.since,
                           .until = generation});
      departed_count_.store(departed_.size(), std::memory_order_release);
    }
    space.by_id[slot.id.id].reset();
    --count_;
    return generation;
  }

  /// What was written through another slot with this memory, which is gone or no
  /// longer logged, is in no log any more: the slots that show it are dirty there.
  void mark_aliases(const BackingRange& memory, const SlotState* except = nullptr) noexcept {
    for (const auto& space : spaces_) {
      for (const SlotRecord& record : space->table.table()) {
        const PageRange shared = shared_pages(*record.slot, memory);
        if (shared.count != 0 && record.slot != except && record.slot->logged()) {
          record.slot->marks()->mark_range(shared.first, shared.count);
        }
      }
    }
  }
  /// Under the lock.
  void settle_departed_locked() noexcept {
    if (departed_.empty()) {
      return;
    }
    for (const auto& space : spaces_) {
      space->table.fence_readers();
    }
    remove_if(departed_, [this](const Departed& slot) {
      // In this order: an access may end with a pin, and a pin ends with marks.
      bool over = find_space(slot.address_space)->table.passed(slot.until, slot.since);
      if (over) {
        const auto pins = slot.slot.lock();
        over = !pins || !pins->pinned();
      }
      mark_aliases(slot.memory);
      return over;
    });
    departed_count_.store(departed_.size(), std::memory_order_release);
  }

  void make_marks(SlotState& slot) {
    if (!slot.owned_marks_) {
      slot.owned_marks_ = std::make_unique<DirtyWords>(slot.pages());
      slot.marks_.store(slot.owned_marks_.get(), std::memory_order_release);
    }
  }

  static MemoryChange describe(MemoryChange::Kind kind, const SlotState& slot,
                               std::optional<Gpa> before, std::optional<Gpa> after) noexcept {
    return {.kind = kind,
            .slot = slot.id,
            .old_gpa = before,
            .new_gpa = after,
            .size = slot.size,
            .address = slot.data,
            .fd = slot.mapping.fd(),
            .offset = slot.mapping.file_offset(),
            .read_only = slot.read_only()};
  }
  void notify(MemoryChange::Kind kind, const SlotState& slot, std::optional<Gpa> before,
              std::optional<Gpa> after) noexcept {
    if (observers_.empty()) {
      return;
    }
    const MemoryChange change = describe(kind, slot, before, after);
    // One may add another, which is told of what is there at that moment.
    const std::size_t known = observers_.size();
    for (std::size_t i = 0; i < (kind == MemoryChange::Kind::added ? known : observers_.size());
         ++i) {
      if (observers_[i] != nullptr) {
        observers_[i]->changed(change);
      }
    }
    remove_if(observers_, [](const MemoryObserver* observer) { return observer == nullptr; });
  }

  /// Accesses first: one in flight may end with a pin.
  bool in_use_locked(const SlotState& slot, std::uint64_t until) const noexcept {
    return !find_space(slot.id.address_space)->table.passed(until, slot.since) || slot.pinned();
  }
  void reclaim(Space& space) noexcept {
    space.table.reclaim();
    remove_if(retired_, [&](const Retired& retired) {
      if (find_space(retired.slot->id.address_space) != &space ||
          in_use_locked(*retired.slot, retired.until)) {
        return false;
      }
      retired.slot->mapping = Mapping();  // Whoever still names the slot needs no memory.
      return true;
    });
  }

  Space* find_space(std::uint16_t number) const noexcept {
    for (const auto& space : spaces_) {
      if (space->number == number) {
        return space.get();
      }
    }
    return nullptr;
  }
  /// How many the VM has; at least one.
  int address_spaces() const noexcept {
    return std::max(call(uapi::request::check_extension, uapi::cap::multi_address_space), 1);
  }
  Result<Space*> find_or_make_space(std::uint16_t number) {
    if (Space* space = find_space(number)) {
      return space;
    }
    auto table =
        AddressSpace::try_make(number, static_cast<std::uint16_t>(address_spaces()), asymmetric_);
    if (!table) {
      return table.error();
    }
    AddressSpace& reference = **table;
    Space* const space = new Space{number, reference, std::move(*table), {}};
    spaces_.push_back(std::unique_ptr<Space>(space));
    for (std::size_t i = spaces_.size() - 1; i > 0 && spaces_[i - 1]->number > number; --i) {
      spaces_[i].swap(spaces_[i - 1]);
    }
    return space;
  }
  static std::shared_ptr<SlotState>& by_id(Space& space, std::uint16_t id) {
    if (space.by_id.size() <= id) {
      space.by_id.resize(std::size_t{id} + 1);
    }
    return space.by_id[id];
  }

  std::string explain(int error_number, const Space& space, Gpa gpa, std::uint64_t size,
                      const SlotState* self, std::uint16_t address_space) const {
    if (error_number == EEXIST) {
      const SlotTable& table = space.table.table();
      for (auto record = table.at_or_above(gpa.value);
           record != table.end() && (record->gpa < gpa.value || record->gpa - gpa.value < size);
           ++record) {
        if (record->slot != self) {
          return overlap(*record);
        }
      }
      return "it overlaps a slot that was made with raw ioctls, or one of KVM's own: the APIC "
             "access page, the TSS or the identity map";
    }
    if (error_number == EINVAL && address_space >= address_spaces()) {
      return text("this host's VMs have ", address_spaces(), " address space(s), from 0 on");
    }
    constexpr std::uint64_t most_pages = (std::uint64_t{1} << 31) - 1;
    if (error_number == EINVAL && size >> page_shift_ > most_pages) {
      return text("a slot has at most ", most_pages, " pages");
    }
    if (error_number == EINVAL) {
      return "KVM refused the range, the flags or the address space: the gpa may be beyond what "
             "this host can map";
    }
    if (error_number == EFAULT) {  // What arm64 says instead.
      return "the gpa may be beyond what this host can map";
    }
    return {};
  }
  static std::string overlap(const SlotRecord& record) {
    return text("it overlaps slot ", record.slot->id.id, " at [", Hex{record.gpa}, ", ",
                Hex{record.gpa + record.size}, ")");
  }

  std::vector<std::shared_ptr<SlotState>> parked_;
  std::vector<Retired> retired_;
  std::vector<Departed> departed_;
  std::atomic<std::size_t> departed_count_{0};
  std::shared_ptr<SlotIds> ids_;
  mutable std::mutex mutex_;
  std::atomic<std::uint64_t> updater_{0};  // the thread that holds mutex_ for an update
  std::atomic<std::uint64_t> changes_{0};
  std::vector<std::unique_ptr<Space>> spaces_;  // by number
  std::vector<MemoryObserver*> observers_;
  std::size_t count_ = 0;
  std::uint32_t slot_limit_ = 0;
  unsigned page_shift_ = static_cast<unsigned>(std::countr_zero(sys::page_size()));
  bool asymmetric_ = register_membarrier();
};

}  // namespace detail
KVM_HPP_END

#endif
