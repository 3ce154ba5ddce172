// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_DETAIL_DIRTY_COLLECTOR_HPP
#define KVM_HPP_DETAIL_DIRTY_COLLECTOR_HPP

#include <kvm/detail/barriers.hpp>
#include <kvm/detail/dirty_rings.hpp>
#include <kvm/detail/dirty_words.hpp>
#include <kvm/detail/slot_state.hpp>
#include <kvm/detail/thread_token.hpp>
#include <kvm/detail/vectors.hpp>
#include <kvm/detail/vm_state.hpp>
#include <kvm/error.hpp>
#include <kvm/memory/dirty_bitmap.hpp>
#include <kvm/types.hpp>
#include <kvm/uapi/requests.hpp>
#include <kvm/uapi/structs.hpp>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

KVM_HPP_BEGIN

/// Why a slot's writes are not tracked.
enum class UntrackedReason {
  not_logged,   ///< its logging is off: MemorySlot::log_dirty(true)
  guest_memfd,  ///< KVM logs no slot with guest_memfd
  log_in_use,   ///< a DirtyLog reads its log
};

/// A slot that a DirtyTracker knows nothing of.
struct UntrackedSlot {
  /// Its number.
  SlotId slot;
  /// Where the guest sees it.
  Gpa gpa;
  /// In bytes.
  std::uint64_t size = 0;
  /// Why nothing is known of it.
  UntrackedReason reason = UntrackedReason::not_logged;
};

namespace detail {

/// What a subscriber has yet to be given of one slot.
struct PendingPages {
  PendingPages(std::shared_ptr<SlotState> of, bool all)
      : slot(std::move(of)), words(slot->pages()) {
    if (all) {
      words.mark_all_always();
    }
  }

  /// The first run of pending pages from `from` on; nothing beyond the slot.
  PageRange next_run(std::uint64_t from) const noexcept {
    const std::uint64_t pages = words.pages();
    const std::uint64_t first = find(from, 0);
    return {first, first == pages ? 0 : find(first, ~std::uint64_t{0}) - first};
  }
  /// Takes a run: what is collected from now on counts anew.
  void take(PageRange run) const noexcept {
    for_each_word(run, [&](std::uint64_t* word, std::uint64_t bits) {
      __atomic_fetch_and(word, ~bits, __ATOMIC_ACQ_REL);
    });
  }
  void give_back(PageRange run) const noexcept { words.mark_range_always(run.first, run.count); }

  /// The slot keeps its number while this is about.
  const std::shared_ptr<SlotState> slot;
  /// Collecting sets bits, the subscriber clears them.
  const DirtyWords words;

 private:
  /// The first page from `from` on whose bit differs from `skip`'s.
  std::uint64_t find(std::uint64_t from, std::uint64_t skip) const noexcept {
    const std::uint64_t pages = words.pages();
    if (from >= pages) {
      return pages;
    }
    std::uint64_t mask = ~std::uint64_t{0} << from % 64;
    for (std::uint64_t i = from / 64; i < words.words(); ++i, mask = ~std::uint64_t{0}) {
      const std::uint64_t word =
          (__atomic_load_n(words.data() + i, __ATOMIC_RELAXED) ^ skip) & mask;
      if (word != 0) {
        return std::min(i * 64 + static_cast<std::uint64_t>(std::countr_zero(word)), pages);
      }
    }
    return pages;
  }
  template <class F>
  void for_each_word(PageRange run, F f) const noexcept {
    std::uint64_t page = run.first;
    for (std::uint64_t left = run.count; left != 0;) {
      const std::uint64_t shift = page % 64;
      const std::uint64_t here = std::min(left, 64 - shift);
      f(words.data() + page / 64, ~std::uint64_t{0} >> (64 - here) << shift);
      page += here;
      left -= here;
    }
  }
};

/// That a slot shares pages with another of the tracked ones.
struct Alias {
  std::size_t other;  ///< its index
  PageRange pages;    ///< of this slot
  std::uint64_t first_there;
};

/// Which of the tracked slots share memory: a list per slot.
using Aliases = std::vector<std::vector<Alias>>;

/// What a subscriber is told about. Does not change: new slots make a new one.
struct PendingSet {
  /// One per tracked slot; null where the subscriber does not want it.
  std::vector<std::shared_ptr<PendingPages>> slots;
  std::shared_ptr<const Aliases> aliases;
};

/// One who is told which pages are dirty.
struct DirtySubscriber {
  /// The one slot that it wants; null for all.
  std::shared_ptr<SlotState> only;
  /// Held while it harvests, its function included.
  std::mutex harvesting;
  /// The thread that does.
  std::atomic<std::uint64_t> harvester{0};
  /// Under the collector's lock.
  std::shared_ptr<const PendingSet> pending;
};

/// Brings together what the guest and the VMM wrote, for all subscribers. Its
/// lock is held while it does, never while a subscriber's function runs. Any
/// thread.
class DirtyCollector {
 public:
  /// @param rings whether the guest's writes are in dirty rings; the caller has
  ///              claimed them, and the VM's one tracker
  DirtyCollector(std::shared_ptr<VmState> state, bool rings)
      : state_(std::move(state)), rings_(rings) {}
  DirtyCollector(const DirtyCollector&) = delete;
  DirtyCollector& operator=(const DirtyCollector&) = delete;
  ~DirtyCollector() {
    if (!state_->foreign()) {  // In a child, another thread may have held the lock.
      if (rings_) {
        const std::lock_guard lock(state_->rings.mutex);
        state_->rings.tracked = false;
      }
      give_back_marks();
    }
    slots_.clear();
    state_->tracked = false;
  }

  VmState& state() const noexcept { return *state_; }

  /// Takes all there is and adds it to what the subscribers have pending.
  Result<void> try_collect() {
    if (state_->foreign()) {
      return failure(uapi::request::get_dirty_log.name, EIO);
    }
    const std::unique_lock lock = lock_current();
    return collect();
  }

  /// What a subscriber harvests.
  struct Harvest {
    std::shared_ptr<const PendingSet> pending;
    std::size_t untracked;  ///< how many slots it hears nothing of
  };
  Result<Harvest> try_collect_for(const DirtySubscriber& subscriber) {
    if (state_->foreign()) {
      return failure(uapi::request::get_dirty_log.name, EIO);
    }
    const std::unique_lock lock = lock_current();
    if (auto collected = collect(); !collected) {
      return collected.error();
    }
    return Harvest{subscriber.pending, count_untracked(subscriber.only.get())};
  }

  /// @param only the one slot it wants, or null
  /// @param all  whether it has seen nothing yet
  Result<std::shared_ptr<DirtySubscriber>> try_subscribe(std::shared_ptr<SlotState> only,
                                                         bool all) {
    if (state_->foreign()) {
      return failure("DirtyTracker::subscribe", EIO);
    }
    auto subscriber = std::make_shared<DirtySubscriber>();
    subscriber->only = std::move(only);
    const std::unique_lock lock = lock_current();
    if (!all) {  // What was dirty until now is none of its business.
      if (auto collected = collect(); !collected) {
        return collected.error();
      }
    }
    subscriber->pending = make_pending(slots_, aliases_, *subscriber, all);
    subscribers_.push_back(subscriber);
    return subscriber;
  }
  void unsubscribe(const std::shared_ptr<DirtySubscriber>& subscriber) noexcept {
    if (!state_->foreign()) {
      const std::lock_guard lock(mutex_);
      remove(subscribers_, subscriber);
    }
  }

  /// The slots of which it knows nothing.
  std::vector<UntrackedSlot> untracked() {
    std::vector<UntrackedSlot> result;
    if (!state_->foreign()) {
      const std::unique_lock lock = lock_current();
      result = untracked_;
      for (const auto& tracked : slots_) {
        if (tracked->refused) {
          result.push_back(describe(*tracked->slot, UntrackedReason::not_logged));
        }
      }
    }
    return result;
  }

  Error failure(const char* operation, int error_number, std::string_view arguments = {},
                std::string_view cause = {}) const {
    return state_->failure(operation, error_number, arguments, cause);
  }

 private:
  /// A slot whose log is ours.
  struct Tracked {
    explicit Tracked(std::shared_ptr<SlotState> of)
        : slot(std::move(of)), staging(slot->pages()), snapshot(slot->pages()) {}
    Tracked(const Tracked&) = delete;
    Tracked& operator=(const Tracked&) = delete;
    ~Tracked() {
      if (claimed) {
        slot->release_log();
      }
    }
    bool claim() noexcept { return claimed = slot->claim_log(); }

    const std::shared_ptr<SlotState> slot;
    /// What was taken and is in no subscriber's pages yet: a failure in between
    /// leaves it here.
    DirtyBitmap staging;
    /// KVM's log as it was last read.
    DirtyBitmap snapshot;
    bool any = false;      ///< whether `staging` may have pages
    bool read = false;     ///< whether `snapshot` has pages of this round
    bool refused = false;  ///< KVM says that it does not log the slot
    bool claimed = false;
  };
  using Slots = std::vector<std::shared_ptr<Tracked>>;

  /// Takes the lock, with all slots known that there are now. The registry is
  /// asked without it: one of the registry's observers may want to collect.
  std::unique_lock<std::mutex> lock_current() {
    state_->settle_departed();
    std::unique_lock lock(mutex_);
    if (seen_ == state_->changes() && !log_released()) {
      return lock;
    }
    lock.unlock();
    const std::uint64_t changes = state_->changes();  // Before the slots.
    const auto all = state_->all();
    lock.lock();
    if (seen_ == not_seen || changes >= seen_) {
      adopt(all);
      seen_ = changes;
    }
    return lock;
  }

  /// Whether a DirtyLog that had a slot is gone.
  bool log_released() const noexcept {
    for (const auto& slot : others_) {
      if (!slot->log_in_use()) {
        return true;
      }
    }
    return false;
  }

  /// Takes over the slots that there are, by number. Changes nothing if memory
  /// runs out.
  void adopt(const std::vector<std::shared_ptr<SlotState>>& all) {
    Slots slots;
    slots.reserve(all.size());
    std::vector<UntrackedSlot> untracked;
    std::vector<std::shared_ptr<SlotState>> others;
    for (const auto& slot : all) {
      if (!slot->exists()) {
        continue;
      }
      const bool logged = slot->logged();
      if (const std::size_t known = index_of(slot->id.raw());
          known < slots_.size() && slots_[known]->slot == slot) {
        slots.push_back(slots_[known]);
      } else if (logged) {
        auto tracked = std::make_shared<Tracked>(slot);
        if (tracked->claim()) {
          slots.push_back(std::move(tracked));
        } else {
          others.push_back(slot);
          untracked.push_back(describe(*slot, UntrackedReason::log_in_use));
        }
      }
      if (!logged) {
        untracked.push_back(describe(*slot, (slot->flags() & uapi::mem::guest_memfd) != 0
                                                ? UntrackedReason::guest_memfd
                                                : UntrackedReason::not_logged));
      }
    }
    if (slots != slots_) {
      auto aliases = find_aliases(slots);
      std::vector<std::shared_ptr<const PendingSet>> pending;
      pending.reserve(subscribers_.size());
      for (const auto& subscriber : subscribers_) {
        pending.push_back(make_pending(slots, aliases, *subscriber, true));
      }
      // From here on nothing fails.
      for (std::size_t i = 0; i < pending.size(); ++i) {
        subscribers_[i]->pending = std::move(pending[i]);
      }
      slots_ = std::move(slots);
      aliases_ = std::move(aliases);
    }
    untracked_ = std::move(untracked);
    others_ = std::move(others);
  }

  /// What a subscriber has pending of `slots`: what it had, and for each slot
  /// that is new to it all pages, or none.
  static std::shared_ptr<const PendingSet> make_pending(
      const Slots& slots, const std::shared_ptr<const Aliases>& aliases,
      const DirtySubscriber& subscriber, bool all) {
    auto result = std::make_shared<PendingSet>();
    result->aliases = aliases;
    result->slots.resize(slots.size());
    std::size_t before = 0;  // Both are sorted by number.
    for (std::size_t i = 0; i < slots.size(); ++i) {
      const std::shared_ptr<SlotState>& slot = slots[i]->slot;
      if (subscriber.only && subscriber.only != slot) {
        continue;
      }
      if (subscriber.pending) {
        const auto& known = subscriber.pending->slots;
        while (before < known.size() &&
               (!known[before] || known[before]->slot->id.raw() < slot->id.raw())) {
          ++before;
        }
        if (before < known.size() && known[before]->slot == slot) {
          result->slots[i] = known[before];
          continue;
        }
      }
      result->slots[i] = std::make_shared<PendingPages>(slot, all);
    }
    return result;
  }

  static std::shared_ptr<const Aliases> find_aliases(const Slots& slots) {
    auto result = std::make_shared<Aliases>(slots.size());
    std::vector<std::size_t> order(slots.size());
    for (std::size_t i = 0; i < order.size(); ++i) {
      order[i] = i;
    }
    const auto slot = [&](std::size_t i) -> const SlotState& { return *slots[order[i]]->slot; };
    std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
      const SlotState& left = *slots[a]->slot;
      const SlotState& right = *slots[b]->slot;
      return left.backing != right.backing ? left.backing < right.backing
                                           : left.backing_offset < right.backing_offset;
    });
    for (std::size_t i = 0; i < order.size(); ++i) {
      for (std::size_t j = i + 1; j < order.size(); ++j) {
        const PageRange here = shared_pages(slot(i), slot(j));
        if (here.count == 0) {
          break;  // The next ones begin even later.
        }
        const PageRange there = shared_pages(slot(j), slot(i));
        (*result)[order[i]].push_back({order[j], here, there.first});
        (*result)[order[j]].push_back({order[i], there, here.first});
      }
    }
    return result;
  }

  /// Where the slot of that number is, if it is tracked; else anywhere.
  std::size_t index_of(std::uint32_t raw) const noexcept {
    std::size_t low = 0;
    for (std::size_t high = slots_.size(); low < high;) {
      const std::size_t middle = low + (high - low) / 2;
      if (slots_[middle]->slot->id.raw() < raw) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }

  std::size_t count_untracked(const SlotState* only) const noexcept {
    const auto counts = [only](SlotId id) { return only == nullptr || only->id == id; };
    std::size_t count = 0;
    for (const UntrackedSlot& slot : untracked_) {
      count += counts(slot.slot) ? 1u : 0u;
    }
    for (const auto& tracked : slots_) {
      count += tracked->refused && counts(tracked->slot->id) ? 1u : 0u;
    }
    return count;
  }
  static UntrackedSlot describe(const SlotState& slot, UntrackedReason reason) noexcept {
    return {.slot = slot.id, .gpa = slot.gpa(), .size = slot.size, .reason = reason};
  }

  // Under the lock.

  /// The VMM's marks, then what KVM has, a fence, KVM's protection again, and
  /// only then is any of it a subscriber's: it could read a page before the next
  /// write to it is noticed.
  Result<void> collect() {
    for (const auto& tracked : slots_) {
      if (const DirtyWords* marks = tracked->slot->marks()) {
        tracked->any |= marks->take(tracked->staging.data());
      }
    }
    if (rings_) {
      if (const int error_number = take_rings(); error_number != 0) {
        return failure(uapi::request::reset_dirty_rings.name, error_number);
      }
    }
    const bool logs = !rings_ || state_->ring_with_bitmap;
    // Before the logs are read: if it is changed meanwhile, clearing once too
    // often does no harm, and what is not cleared stays in KVM's log.
    const bool manual = state_->manual_protect;
    if (logs) {
      if (auto got = get_logs(); !got) {
        return got;
      }
    }
    if (state_->asymmetric()) {
      heavy_fence();
    } else {
      full_fence();  // Who marks does so with a read-modify-write.
    }
    if (logs && manual) {
      if (auto cleared = clear_logs(); !cleared) {
        return cleared;
      }
    }
    merge();
    return {};
  }

  Result<void> get_logs() {
    constexpr auto request = uapi::request::get_dirty_log;
    for (const auto& tracked : slots_) {
      SlotState& slot = *tracked->slot;
      tracked->read = false;
      tracked->refused = false;
      if (!slot.exists() || !slot.logged()) {
        continue;
      }
      uapi::kvm_dirty_log log{};
      log.slot = slot.id.raw();
      log.dirty_bitmap = tracked->snapshot.data();
      if (state_->call(request, &log) < 0) {
        const int error_number = errno;
        if (error_number == ENOENT) {  // Deleted or no longer logged, a moment ago.
          tracked->refused = slot.exists() && slot.logged();
          continue;
        }
        return failure(request.name, error_number, describe(slot));
      }
      const std::uint64_t words = tracked->snapshot.words();
      std::uint64_t* const snapshot = tracked->snapshot.data();
      if (bitmap::find_word<0>(snapshot, 0, words) != words) {
        bitmap::combine<bitmap::Operation::merge>(tracked->staging.data(), snapshot, words);
        tracked->any = tracked->read = true;
      }
    }
    return {};
  }

  Result<void> clear_logs() {
    constexpr auto request = uapi::request::clear_dirty_log;
    for (const auto& tracked : slots_) {
      if (!tracked->read) {
        continue;
      }
      uapi::kvm_clear_dirty_log log{};
      log.slot = tracked->slot->id.raw();
      log.num_pages = static_cast<std::uint32_t>(tracked->slot->pages());
      log.dirty_bitmap = tracked->snapshot.data();
      if (state_->call(request, &log) < 0 && errno != ENOENT) {
        const int error_number = errno;
        return failure(request.name, error_number, describe(*tracked->slot));
      }
    }
    return {};
  }

  int take_rings() noexcept {
    DirtyRings& rings = state_->rings;
    const std::lock_guard lock(rings.mutex);
    for (const auto& ring : rings.all()) {
      for (; ring->first != ring->taken.size(); ++ring->first) {  // A DirtyRing's leftovers.
        stage(ring->taken[ring->first]);
      }
      ring->taken.clear();
      ring->first = 0;
      // Once around: a guest that goes on writing must not hold us up.
      ring->drain(ring->capacity(), [&](const VcpuRing::Entry& entry) { stage(entry); });
    }
    const int error_number = rings.reset(*state_);
    rings.settle(*state_->ids());
    return error_number;
  }
  /// An entry of a slot that is not known here, because it was deleted, or is so
  /// new that all of it will be pending, says nothing.
  void stage(const VcpuRing::Entry& entry) noexcept {
    const std::size_t index = index_of(entry.slot);
    if (index < slots_.size() && slots_[index]->slot->id.raw() == entry.slot) {
      if (slots_[index]->staging.try_set(entry.page)) {
        slots_[index]->any = true;
      }
      return;
    }
    for (const auto& slot : others_) {
      if (slot->id.raw() == entry.slot && entry.page < slot->pages() && slot->marks() != nullptr) {
        slot->marks()->mark_always(entry.page);  // Its DirtyLog finds it there.
      }
    }
  }

  /// Gives the subscribers what was staged, by the memory that it is about.
  void merge() noexcept {
    for (std::size_t i = 0; i < slots_.size(); ++i) {
      Tracked& tracked = *slots_[i];
      if (!std::exchange(tracked.any, false)) {
        continue;
      }
      for (const auto& subscriber : subscribers_) {
        const PendingSet& set = *subscriber->pending;
        if (const auto& pending = set.slots[i]) {
          merge(tracked.staging, pending->words);
        }
        for (const Alias& alias : (*aliases_)[i]) {
          if (const auto& pending = set.slots[alias.other]) {
            merge(tracked.staging, alias, pending->words);
          }
        }
      }
      tracked.staging.clear();
    }
  }
  static void merge(const DirtyBitmap& from, const DirtyWords& to) noexcept {
    for (std::uint64_t i = 0; i < from.words(); ++i) {
      if (const std::uint64_t word = from.data()[i]; word != 0) {
        __atomic_fetch_or(to.data() + i, word, __ATOMIC_RELEASE);
      }
    }
  }
  static void merge(const DirtyBitmap& from, const Alias& alias, const DirtyWords& to) noexcept {
    const std::uint64_t end = alias.pages.first + alias.pages.count;
    for (std::uint64_t page = alias.pages.first;;) {
      const std::optional<PageRange> run = from.next_run(page);
      if (!run || run->first >= end) {
        return;
      }
      page = std::min(run->first + run->count, end);
      to.mark_range_always(run->first - alias.pages.first + alias.first_there, page - run->first);
    }
  }

  /// What a failed collection left goes back to the slots.
  void give_back_marks() noexcept {
    for (const auto& tracked : slots_) {
      if (const DirtyWords* marks = tracked->slot->marks(); marks != nullptr && tracked->any) {
        merge(tracked->staging, *marks);
      }
    }
  }

  static std::string describe(const SlotState& slot) {
    return text("slot=", slot.id.id, ", address_space=", slot.id.address_space);
  }

  static constexpr std::uint64_t not_seen = ~std::uint64_t{0};

  std::shared_ptr<VmState> state_;
  const bool rings_;
  std::mutex mutex_;
  std::uint64_t seen_ = not_seen;  // SlotRegistry::changes()
  Slots slots_;                    // by number
  std::shared_ptr<const Aliases> aliases_ = std::make_shared<Aliases>();
  std::vector<UntrackedSlot> untracked_;
  std::vector<std::shared_ptr<SlotState>> others_;  // whose log a DirtyLog has
  std::vector<std::shared_ptr<DirtySubscriber>> subscribers_;
};

}  // namespace detail
KVM_HPP_END

#endif
