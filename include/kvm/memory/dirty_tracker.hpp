// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_MEMORY_DIRTY_TRACKER_HPP
#define KVM_HPP_MEMORY_DIRTY_TRACKER_HPP

#include <kvm/detail/kernel_header.hpp>
#if !KVM_HPP_REFUSED

#include <kvm/detail/dirty_collector.hpp>
#include <kvm/detail/thread_token.hpp>
#include <kvm/detail/vm_state.hpp>
#include <kvm/error.hpp>
#include <kvm/memory/memory_slot.hpp>
#include <kvm/types.hpp>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <type_traits>
#include <utility>
#include <vector>

KVM_HPP_BEGIN

/// Where KVM records which pages a guest writes.
enum class DirtyMode {
  /// In a log per slot, which is cleared as a whole when it is read.
  log,
  /// In a log per slot; only what was dirty is cleared, after it was read
  /// (cap::ManualDirtyLogProtect2).
  manual,
  /// In a ring per vCPU: a harvest costs as much as was written, not as much as
  /// there is memory. vCPUs stop with exits::DirtyRingFull now and then, so
  /// this must be asked for.
  ring,
  /// `manual` where KVM offers it, since it protects fewer pages again; else
  /// `log`. `ring` on a VM whose rings are enabled already.
  automatic,
};

/// What a DirtyTracker enables.
struct DirtyTrackerOptions {
  /// With DirtyMode::manual: logs start with all pages dirty, which spares KVM
  /// write-protecting all of a slot at once. For logging that starts later.
  bool initially_set = false;
  /// With DirtyMode::ring: the size of each vCPU's ring in bytes, 16 per page
  /// that it holds: a power of two, at least a page, at most what
  /// check<cap::DirtyLogRingAcqRel>() gives.
  std::uint32_t ring_bytes = 65536;
};

/// What a subscriber of a DirtyTracker wants to know.
struct DirtySubscriptionOptions {
  /// The one slot that it is about, wherever its memory is written; null for all
  /// slots, those of other address spaces and those to come included.
  const MemorySlot* slot = nullptr;
  /// Whether it has seen nothing yet, so that its first harvest hands over all
  /// pages. Slots that come later start so in any case.
  bool all_pending = true;
};

/// A run of dirty pages of one slot, as a harvest hands it over.
struct DirtyPages {
  /// Does not become another slot's number before the next harvest.
  SlotId slot;
  /// The same pages three times: within the slot,
  PageRange pages;
  /// in guest frames,
  GfnRange gfns;
  /// and in bytes from here on. Where they lie is read at the hand-over; a move
  /// after that makes all of the slot dirty.
  Gpa gpa;
  /// How many bytes from there on.
  std::uint64_t size = 0;
  /// Where they lie in the memory behind the slot, in bytes: for a memfd or file
  /// the offset in it, for anonymous memory that from its mapping's start.
  std::uint64_t backing_offset = 0;
};

/// What a harvest came to.
struct DirtyHarvest {
  /// Pages that were handed over and taken.
  std::uint64_t pages = 0;
  /// How many slots it could say nothing of: DirtyTracker::untracked() lists
  /// them. Whoever must not miss anything looks at this.
  std::size_t untracked = 0;
  /// False if the function declined a run: that and more are pending.
  bool complete = true;
};

/// One who is told by a DirtyTracker which pages were written since it was last
/// told, whatever other subscribers do. May outlive the tracker and the VM
/// handle. Any thread; of two that harvest it at once, one waits.
class [[nodiscard]] DirtySubscription {
 public:
  DirtySubscription(DirtySubscription&&) noexcept = default;
  DirtySubscription& operator=(DirtySubscription&& other) noexcept {
    if (this != &other) {
      close();
      collector_ = std::move(other.collector_);
      subscriber_ = std::move(other.subscriber_);
    }
    return *this;
  }
  ~DirtySubscription() { close(); }

  /// Collects, then hands over all pending pages: f(const DirtyPages&) for each
  /// run of them. Before `f` is called, KVM notices the next write to the pages,
  /// and so does the library: what is written from then on is handed over again.
  /// What `f` reads of them holds
  ///   - each write by the VMM through the library (View, cache, Pin that was
  ///     dropped, MemorySlot::load) that returned before the harvest began,
  ///   - each write by a guest that was executed before it; with rings, before
  ///     the vCPU last left the guest, as CPUs may keep such pages to themselves
  ///     until then.
  /// Pages with such a write are handed over by this harvest, unless they were
  /// by an earlier one that read them after the write. So the last harvest is to
  /// come after all vCPUs were kicked and have returned from run(), and after
  /// whoever else writes has stopped.
  ///
  /// A page of memory that several slots show is handed over once, by one of
  /// them, whichever it was written through; to a subscriber of one slot, as
  /// that slot's. A deleted slot's pages are not handed over; other slots with
  /// the same memory are dirty then. A slot made anew is all pending.
  ///
  /// `f` may return nothing, or whether it took the run. If it returns false or
  /// throws, this run and all after it stay pending. No lock but this
  /// subscription's own is held meanwhile: `f` may collect, change and delete
  /// slots, harvest another subscription (not two each other's); this one is
  /// EDEADLK. Allocates nothing, unless there are slots that are new to it.
  ///
  /// On failure nothing is handed over and all stays pending: EIO in a forked
  /// child, ENOENT if its one slot was deleted, or what KVM said.
  template <class F>
  Result<DirtyHarvest> try_harvest(F&& f) {
    static_assert(std::is_invocable_v<F&, const DirtyPages&>,
                  "kvm-hpp: harvest calls its function with a const DirtyPages&");
    using Returned = std::invoke_result_t<F&, const DirtyPages&>;
    static_assert(std::is_void_v<Returned> || std::is_same_v<Returned, bool>,
                  "kvm-hpp: harvest's function returns nothing, or whether it took the pages");
    // `f` may drop or move this object.
    const std::shared_ptr<detail::DirtyCollector> collector = collector_;
    const std::shared_ptr<detail::DirtySubscriber> subscriber = subscriber_;
    if (!collector || !subscriber) {  // By itself, so that GCC does not warn of what follows.
      return failure(EBADF);
    }
    if (const int error_number = unusable(); error_number != 0) [[unlikely]] {
      return failure(error_number);
    }
    const Harvesting harvesting(*subscriber);
    auto collected = collector->try_collect_for(*subscriber);
    if (!collected) {
      return collected.error();
    }
    const detail::PendingSet& set = *collected->pending;
    DirtyHarvest result{.pages = 0, .untracked = collected->untracked, .complete = true};
    for (std::size_t i = 0; i < set.slots.size() && result.complete; ++i) {
      if (const detail::PendingPages* pending = set.slots[i].get()) {
        result.complete = hand_over(set, i, *pending, result.pages, f);
      }
    }
    return result;
  }
  template <class F>
  DirtyHarvest harvest(F&& f) {
    return try_harvest(std::forward<F>(f)).value();
  }

 private:
  friend class DirtyTracker;

  DirtySubscription(std::shared_ptr<detail::DirtyCollector> collector,
                    std::shared_ptr<detail::DirtySubscriber> subscriber) noexcept
      : collector_(std::move(collector)), subscriber_(std::move(subscriber)) {}

  struct Harvesting {
    explicit Harvesting(detail::DirtySubscriber& harvested) : subscriber(harvested) {
      subscriber.harvesting.lock();
      subscriber.harvester.store(detail::this_thread(), std::memory_order_relaxed);
    }
    Harvesting(const Harvesting&) = delete;
    Harvesting& operator=(const Harvesting&) = delete;
    ~Harvesting() {
      subscriber.harvester.store(0, std::memory_order_relaxed);
      subscriber.harvesting.unlock();
    }
    detail::DirtySubscriber& subscriber;
  };
  /// Takes a run, and the same memory as other slots show it, before `f` sees
  /// it: what is collected while `f` runs counts anew, in all of them. Puts it
  /// back if it was not taken.
  class Offer {
   public:
    Offer(const detail::PendingSet& set, std::size_t index, PageRange run) noexcept
        : set_(set), index_(index), run_(run) {
      set_.slots[index_]->take(run_);
      for_each_alias([](const detail::PendingPages& other, PageRange pages) { other.take(pages); });
    }
    Offer(const Offer&) = delete;
    Offer& operator=(const Offer&) = delete;
    ~Offer() {
      if (!taken) {
        set_.slots[index_]->give_back(run_);
        for_each_alias(
            [](const detail::PendingPages& other, PageRange pages) { other.give_back(pages); });
      }
    }
    bool taken = false;

   private:
    template <class F>
    void for_each_alias(F call) const noexcept {
      for (const detail::Alias& alias : (*set_.aliases)[index_]) {
        const std::uint64_t first = std::max(run_.first, alias.pages.first);
        const std::uint64_t end =
            std::min(run_.first + run_.count, alias.pages.first + alias.pages.count);
        if (const auto& other = set_.slots[alias.other]; other && first < end) {
          call(*other, PageRange{first - alias.pages.first + alias.first_there, end - first});
        }
      }
    }
    const detail::PendingSet& set_;
    const std::size_t index_;
    const PageRange run_;
  };

  /// @return whether `f` took them all
  template <class F>
  static bool hand_over(const detail::PendingSet& set, std::size_t index,
                        const detail::PendingPages& pending, std::uint64_t& pages, F& f) {
    const detail::SlotState& slot = *pending.slot;
    PageRange run = pending.next_run(0);
    for (; run.count != 0; run = pending.next_run(run.first + run.count)) {
      if (!slot.exists()) {
        return true;
      }
      Offer offer(set, index, run);
      const Gpa gpa = slot.gpa() + (run.first << slot.page_shift);
      const DirtyPages dirty{
          .slot = slot.id,
          .pages = run,
          .gfns = {gpa.value >> slot.page_shift, run.count},
          .gpa = gpa,
          .size = run.count << slot.page_shift,
          .backing_offset = slot.backing_offset + (run.first << slot.page_shift)};
      if constexpr (std::is_void_v<std::invoke_result_t<F&, const DirtyPages&>>) {
        f(dirty);
      } else if (!f(dirty)) {
        return false;
      }
      offer.taken = true;
      pages += run.count;
    }
    return true;
  }
  int unusable() const noexcept {
    return !subscriber_                    ? EBADF
           : collector_->state().foreign() ? EIO
           : subscriber_->harvester.load(std::memory_order_relaxed) == detail::this_thread()
               ? EDEADLK
           : subscriber_->only && !subscriber_->only->exists() ? ENOENT
                                                               : 0;
  }
  [[gnu::noinline, gnu::cold]] Error failure(int error_number) const {
    constexpr const char* operation = "DirtySubscription::harvest";
    switch (error_number) {
      case EBADF:
        return detail::make_error(EBADF, operation, {}, "this subscription was moved from");
      case EDEADLK:
        return detail::make_error(EDEADLK, operation, {},
                                  "called from within a harvest's own function");
      case ENOENT:
        return detail::make_error(
            ENOENT, operation,
            detail::text("slot=", subscriber_->only->id.id,
                         ", address_space=", subscriber_->only->id.address_space),
            "the slot was deleted");
      default:
        return collector_->failure(operation, error_number);
    }
  }

  void close() noexcept {
    if (collector_) {
      collector_->unsubscribe(subscriber_);
    }
    subscriber_.reset();
    collector_.reset();
  }

  std::shared_ptr<detail::DirtyCollector> collector_;
  std::shared_ptr<detail::DirtySubscriber> subscriber_;
};

/// Which pages of a VM's memory are written, by the guest and by the VMM, in
/// all slots that log and all address spaces: made by Vm::track_dirty, one per
/// VM at a time. Each subscriber is told by itself.
///
/// A slot counts from when its logging is on; all of its pages are pending then.
/// It has the slots' logs, so a DirtyLog on one of them is refused, and a slot
/// with a DirtyLog is untracked. It ends when the last of this object and its
/// subscriptions goes; what a subscription had pending then is forgotten. Any
/// thread.
class [[nodiscard]] DirtyTracker {
 public:
  DirtyTracker(DirtyTracker&&) noexcept = default;
  DirtyTracker& operator=(DirtyTracker&&) noexcept = default;
  ~DirtyTracker() = default;

  /// How KVM records the guest's writes: never DirtyMode::automatic.
  DirtyMode mode() const noexcept { return mode_; }

  /// Adds one who wants to know.
  Result<DirtySubscription> try_subscribe(const DirtySubscriptionOptions& options = {}) {
    constexpr const char* operation = "DirtyTracker::subscribe";
    if (!collector_) {
      return empty(operation);
    }
    std::shared_ptr<detail::SlotState> only;
    if (options.slot != nullptr) {
      only = options.slot->slot_;
      if (!only || options.slot->state_.get() != &collector_->state()) {
        return detail::make_error(
            EINVAL, operation, {},
            only ? "the slot is another VM's" : "the slot is empty: it was moved from or removed");
      }
    }
    auto subscriber = collector_->try_subscribe(std::move(only), options.all_pending);
    if (!subscriber) {
      return subscriber.error();
    }
    return DirtySubscription(collector_, std::move(*subscriber));
  }
  DirtySubscription subscribe(const DirtySubscriptionOptions& options = {}) {
    return try_subscribe(options).value();
  }

  /// Takes what there is from KVM and from the VMM's marks, for all subscribers.
  /// Harvests do so by themselves. It is what a vCPU's thread does about
  /// exits::DirtyRingFull: then it can run again. Waits for no subscriber's
  /// function. On failure nothing is lost: what was taken is given to the
  /// subscribers by the next one.
  Result<void> try_collect() {
    return collector_ ? collector_->try_collect() : empty("DirtyTracker::collect");
  }
  void collect() { try_collect().value(); }

  /// The slots of which it knows nothing now, and why. Made with raw ioctls,
  /// they are not even here.
  std::vector<UntrackedSlot> untracked() const {
    return collector_ ? collector_->untracked() : std::vector<UntrackedSlot>();
  }

  /// Turns logging on or off for all slots that can log; those that come later
  /// are MemoryOptions::log_dirty's. The guest may run. After a failure some are
  /// changed.
  Result<void> try_log_all(bool enable) {
    if (!collector_) {
      return empty("DirtyTracker::log_all");
    }
    detail::VmState& state = collector_->state();
    if (state.foreign()) {
      return collector_->failure(uapi::request::set_user_memory_region.name, EIO);
    }
    for (const auto& slot : state.all()) {
      if ((slot->flags() & uapi::mem::guest_memfd) != 0) {
        continue;
      }
      auto set = state.set_logging(*slot, enable);
      if (!set && slot->exists()) {
        return set;
      }
    }
    return {};
  }
  void log_all(bool enable) { try_log_all(enable).value(); }

 private:
  friend class Vm;

  DirtyTracker(std::shared_ptr<detail::DirtyCollector> collector, DirtyMode mode) noexcept
      : collector_(std::move(collector)), mode_(mode) {}

  static Error empty(const char* operation) {
    return detail::make_error(EBADF, operation, {}, "this tracker is empty: it was moved from");
  }

  std::shared_ptr<detail::DirtyCollector> collector_;
  DirtyMode mode_;
};

KVM_HPP_END

#endif  // !KVM_HPP_REFUSED
#endif
