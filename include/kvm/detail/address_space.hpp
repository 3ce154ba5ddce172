// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_DETAIL_ADDRESS_SPACE_HPP
#define KVM_HPP_DETAIL_ADDRESS_SPACE_HPP

#include <kvm/detail/backoff.hpp>
#include <kvm/detail/barriers.hpp>
#include <kvm/detail/process.hpp>
#include <kvm/detail/slot_table.hpp>
#include <kvm/detail/syscalls.hpp>
#include <kvm/error.hpp>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

/// @file
/// How readers and the updater of a table of slots meet, without a fence in the
/// reader:
///
///     reader                             updater (one at a time)
///     line = the generation it knows     generation = flagged
///     (compiler barrier)                 KVM's ioctl
///     generation still that one?         table = the new one
///       no: line = the new one,          generation = the next
///       (barrier), load the table        membarrier
///     access                             wait for each line that is neither 0
///     line = 0                             nor at least the new generation
///                                        unmap, free
///
/// Whichever point of the reader the membarrier hits, one of these holds:
///   - its line was set before: the updater sees it and waits;
///   - it looks at the generation, or loads the table, after: it sees the new.
/// What a table has was there from its first generation to that of the table that
/// replaces it, and so for each of its slots. A line holds up what was there at
/// its generation and nothing else: a thread that is stopped within an access
/// keeps its own table and memory, not all that comes and goes after. Only while
/// a reader loads the current table, its line says that it may be any from its
/// generation on.
///
/// A reader never uses what it remembers unless the generation is the one that
/// it announced, and generations only move forward, after failures as well. A
/// flagged one (bit 63: an update is in progress) is never remembered.
///
/// Where the kernel refuses membarrier, a reader remembers nothing and puts a
/// fence of its own between the two.

KVM_HPP_BEGIN
namespace detail {

/// One who reads the table: announces the generation that its access in flight
/// relies on; 0 while there is none.
struct Reader {
  std::atomic<std::uint64_t> announced{0};
  std::size_t index = 0;  // the address space's
};

/// What readers look at. On a page that the kernel wipes in a forked child,
/// where the guest's memory is gone: generation 0 is no reader's.
struct Published {
  std::atomic<std::uint64_t> generation{0};
  std::atomic<const SlotTable*> table{nullptr};
};

/// The slots that a vCPU sees, in one of its modes: on x86 there may be a second
/// set for system management mode.
class AddressSpace {
 public:
  /// Set while an update is in progress.
  static constexpr std::uint64_t update_in_progress = std::uint64_t{1} << 63;
  /// What a reader has that knows no generation.
  static constexpr std::uint64_t no_generation = ~std::uint64_t{0};
  /// Announced with a generation by a reader who may find any table from that
  /// one on.
  static constexpr std::uint64_t or_later = std::uint64_t{1} << 62;

  /// @param count how many address spaces the VM has
  static Result<std::unique_ptr<AddressSpace>> try_make(std::uint16_t number, std::uint16_t count,
                                                        bool asymmetric) {
    const std::size_t size = sys::page_size() + records_size;
    void* address =
        sys::mmap(size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (address == MAP_FAILED) {
      const int error_number = errno;
      return make_error(error_number, "mmap", text("size=", size), "for the table of memory slots");
    }
    if (sys::madvise(address, size, MADV_WIPEONFORK) != 0) {
      const int error_number = errno;
      sys::munmap(address, size);
      return make_error(error_number, "madvise", "MADV_WIPEONFORK",
                        "for the table of memory slots");
    }
    // Zero pages: the first record is one that no address is in.
    auto* records =
        reinterpret_cast<SlotRecord*>(static_cast<std::byte*>(address) + sys::page_size());
    auto table = SlotTable::try_make(records, 0);
    auto spare = SlotTable::try_make(records, 0);
    if (!table || !spare) {
      sys::munmap(address, size);
      return make_error(ENOMEM, "malloc", {}, "for the table of memory slots");
    }
    return std::unique_ptr<AddressSpace>(new AddressSpace(new (address) Published, records, number,
                                                          count, asymmetric, std::move(table),
                                                          std::move(spare)));
  }
  AddressSpace(const AddressSpace&) = delete;
  AddressSpace& operator=(const AddressSpace&) = delete;
  ~AddressSpace() {
    if (owner_ == this_process()) {
      sys::munmap(published_, sys::page_size() + records_size);
    }
  }

  /// Whether membarrier pairs with the readers; if not, they fence.
  bool asymmetric() const noexcept { return asymmetric_; }

  // The reader's side.

  const Published& published() const noexcept { return *published_; }
  /// The generation now, perhaps flagged; 0 in a forked child.
  std::uint64_t generation() const noexcept {
    return published_->generation.load(std::memory_order_acquire);
  }

  /// What an announced reader works with.
  struct Snapshot {
    const SlotTable* table;    ///< null in a forked child
    std::uint64_t generation;  ///< may be remembered with the table, or no_generation
  };
  /// Announces the reader, until leave(), and gives it the current table.
  Snapshot enter(Reader& reader) const noexcept {
    const std::uint64_t generation = published_->generation.load(std::memory_order_acquire);
    // Release: what an earlier access did is over for who sees this one's line.
    reader.announced.store((generation & ~update_in_progress) | or_later,
                           std::memory_order_release);
    if (asymmetric_) {
      light_fence();
    } else {
      full_fence();
    }
    const SlotTable* table = published_->table.load(std::memory_order_acquire);
    if (table != nullptr) {
      reader.announced.store(table->since, std::memory_order_release);
    }
    const bool lasting = asymmetric_ && (generation & update_in_progress) == 0;
    return {table, lasting ? generation : no_generation};
  }
  static void leave(Reader& reader) noexcept {
    reader.announced.store(0, std::memory_order_release);
  }

  void add_reader(Reader& reader) {
    if (owner_ != this_process()) {
      return;  // Another thread may have held the lock at the fork.
    }
    const std::lock_guard lock(readers_mutex_);
    reader.index = readers_.size();
    readers_.push_back(&reader);
  }
  void remove_reader(Reader& reader) noexcept {
    if (owner_ != this_process()) {
      return;
    }
    const std::lock_guard lock(readers_mutex_);
    readers_.back()->index = reader.index;
    readers_[reader.index] = readers_.back();
    readers_.pop_back();
  }

  // The updater's side: one thread at a time, the registry sees to that.

  const SlotTable& table() const noexcept { return *table_; }

  /// Makes sure that the next publish() finds a table to fill. Never waits.
  bool reserve(std::size_t slots) noexcept {
    remove_if(spares_, [slots](const auto& table) { return table->capacity() < slots; });
    // Room to grow, so that adding a slot does not allocate each time.
    const std::size_t capacity = slots + slots / 4 + 8;
    if (spares_.empty()) {
      auto table = SlotTable::try_make(records_, capacity);
      if (!table || !try_reserve(spares_, spares_.size() + 1)) {
        return false;
      }
      spares_.push_back(std::move(table));
    }
    if (free_records_.empty()) {
      if (next_record_ == records_size) {
        return false;
      }
      if (!try_reserve(free_records_, next_record_ / sizeof(SlotRecord) + 1)) {
        return false;
      }
      free_records_.push_back(next_record_);
      next_record_ += sizeof(SlotRecord);
    }
    // What publish() and reclaim() append.
    return try_reserve(retired_, retired_.size() + 1) && try_reserve(spares_, most_spares + 1);
  }

  /// Raises the flag: from now on nothing is remembered.
  /// @param swaps how often the kernel swaps its tables for this update
  void begin_update(unsigned swaps) noexcept {
    const std::uint64_t now = generation();
    next_generation_ = now + swaps * step_;
    published_->generation.store(now | update_in_progress, std::memory_order_seq_cst);
  }
  /// Replaces the table by one without a slot and with another; either may be
  /// null. A slot that changed is both. After reserve(), between begin_update() and
  /// end_update().
  void publish(SlotState* without, SlotState* with) noexcept {
    std::unique_ptr<SlotTable> next = std::move(spares_.back());
    spares_.pop_back();
    Retired old{.table = nullptr,
                .table_since = table_->since,
                .record = without != nullptr ? std::exchange(without->record, 0) : 0,
                .record_since = without != nullptr ? without->record_since : 0,
                .until = next_generation_};
    if (with != nullptr) {
      with->record = free_records_.back();  // reserve() made sure.
      free_records_.pop_back();
      with->record_since = next_generation_;
      if (with != without) {
        with->since = next_generation_;
      }
      std::construct_at(&record_at(with->record), make_record(*with));
    }
    next->assign(*table_, old.record, with != nullptr ? with->record : 0);
    next->since = next_generation_;
    published_->table.store(next.get(), std::memory_order_release);
    old.table = std::exchange(table_, std::move(next));
    retired_.push_back(std::move(old));
  }
  /// Lowers the flag and moves the generation forward.
  /// @return the new generation
  std::uint64_t end_update() noexcept {
    published_->generation.store(next_generation_, std::memory_order_seq_cst);
    return next_generation_;
  }

  /// Has every reader look again, or be seen.
  void fence_readers() const noexcept {
    if (asymmetric_) {
      heavy_fence();
    } else {
      full_fence();
    }
  }
  /// Whether no access relies on a generation from `since` on that comes before
  /// `until`. Exact for accesses that began before the last fence_readers().
  bool passed(std::uint64_t until, std::uint64_t since = 0) const noexcept {
    const std::lock_guard lock(readers_mutex_);
    for (const Reader* reader : readers_) {
      if (relies(reader->announced.load(std::memory_order_acquire), since, until)) {
        return false;
      }
    }
    return true;
  }
  /// Waits until the accesses that began before `generation` are over: for as
  /// long as it takes to copy.
  void await(std::uint64_t generation) const noexcept {
    Backoff backoff;
    for (unsigned turn = 0; !passed(generation); ++turn) {
      if (turn > 100) {
        backoff.sleep();
      }
    }
  }
  /// How many tables wait for their last readers.
  std::size_t retired_tables() const noexcept { return retired_.size(); }
  /// After fence_readers(): takes back the tables that nobody reads any more.
  void reclaim() noexcept {
    const Announcements announced(*this);
    auto keep = retired_.begin();
    for (auto& retired : retired_) {
      if (retired.table && !announced.rely(retired.table_since, retired.until)) {
        if (spares_.size() < most_spares && retired.table->capacity() >= table_->count()) {
          spares_.push_back(std::move(retired.table));  // reserve() made the room.
        }
        retired.table.reset();
      }
      if (retired.record != 0 && !announced.rely(retired.record_since, retired.until)) {
        free_records_.push_back(std::exchange(retired.record, 0));  // As above.
      }
      if (retired.table || retired.record != 0) {
        if (&*keep != &retired) {
          *keep = std::move(retired);
        }
        ++keep;
      }
    }
    retired_.erase(keep, retired_.end());
  }

 private:
  /// A table, and a record that only it and older ones have. Nobody reads them
  /// who announces no generation from `since` on and before `until`.
  struct Retired {
    std::unique_ptr<SlotTable> table;
    std::uint64_t table_since;
    std::uint32_t record;
    std::uint64_t record_since;
    std::uint64_t until;
  };

  AddressSpace(Published* published, SlotRecord* records, std::uint16_t number, std::uint16_t count,
               bool asymmetric, std::unique_ptr<SlotTable> table, std::unique_ptr<SlotTable> spare)
      : published_(published),
        records_(records),
        step_(count),
        asymmetric_(asymmetric),
        table_(std::move(table)) {
    spares_.push_back(std::move(spare));
    // The kernel begins with the number itself (G1); 0 is nobody's here.
    next_generation_ = std::uint64_t{number} + step_;
    table_->since = next_generation_;
    published_->table.store(table_.get(), std::memory_order_relaxed);
    published_->generation.store(next_generation_, std::memory_order_release);
  }

  static bool relies(std::uint64_t announced, std::uint64_t since, std::uint64_t until) noexcept {
    const std::uint64_t generation = announced & ~(update_in_progress | or_later);
    return announced != 0 && generation < until &&
           (generation >= since || (announced & or_later) != 0);
  }

  /// What all readers announce, looked at once. If there are many, all that is
  /// known is the oldest.
  class Announcements {
   public:
    explicit Announcements(const AddressSpace& space) noexcept {
      const std::lock_guard lock(space.readers_mutex_);
      for (const Reader* reader : space.readers_) {
        const std::uint64_t announced = reader->announced.load(std::memory_order_acquire);
        if (announced == 0) {
          continue;
        }
        if (count_ < std::size(announced_)) {
          announced_[count_++] = announced;
        } else {
          oldest_ = std::min(oldest_, announced & ~(update_in_progress | or_later));
        }
      }
    }
    bool rely(std::uint64_t since, std::uint64_t until) const noexcept {
      for (std::size_t i = 0; i < count_; ++i) {
        if (relies(announced_[i], since, until)) {
          return true;
        }
      }
      return oldest_ < until;
    }

   private:
    std::uint64_t announced_[32];
    std::size_t count_ = 0;
    std::uint64_t oldest_ = no_generation;
  };

  SlotRecord& record_at(std::uint32_t offset) const noexcept {
    return *reinterpret_cast<SlotRecord*>(reinterpret_cast<std::byte*>(records_) + offset);
  }

  /// The records that there can be: as many as numbers of slots, twice, since a
  /// record may wait for its last reader. Only what was used takes memory.
  static constexpr std::uint32_t records_size = 65536 * sizeof(SlotRecord);
  static constexpr std::size_t most_spares = 4;

  template <class T>
  static bool try_reserve(std::vector<T>& vector, std::size_t size) noexcept {
    if (vector.capacity() >= size) {
      return true;
    }
#if KVM_HPP_EXCEPTIONS
    try {
      vector.reserve(std::max(size, 2 * vector.capacity()));
    } catch (...) {
      return false;
    }
#else
    vector.reserve(std::max(size, 2 * vector.capacity()));
#endif
    return true;
  }

  Published* published_;
  SlotRecord* records_;
  std::uint32_t next_record_ = sizeof(SlotRecord);  // never used from here on
  std::vector<std::uint32_t> free_records_;
  std::uint64_t next_generation_ = 0;  // when the update in progress is done
  std::uint64_t step_;
  bool asymmetric_;
  ProcessToken owner_ = this_process();
  std::unique_ptr<SlotTable> table_;
  std::vector<std::unique_ptr<SlotTable>> spares_;  // each with room for what is there
  std::vector<Retired> retired_;
  mutable std::mutex readers_mutex_;
  std::vector<Reader*> readers_;
};

}  // namespace detail
KVM_HPP_END

#endif
