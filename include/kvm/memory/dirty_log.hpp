// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_MEMORY_DIRTY_LOG_HPP
#define KVM_HPP_MEMORY_DIRTY_LOG_HPP

#include <kvm/detail/kernel_header.hpp>
#if !KVM_HPP_REFUSED

#include <kvm/detail/barriers.hpp>
#include <kvm/detail/guest_access.hpp>
#include <kvm/detail/vm_state.hpp>
#include <kvm/error.hpp>
#include <kvm/memory/dirty_bitmap.hpp>
#include <kvm/memory/memory_slot.hpp>
#include <kvm/types.hpp>
#include <kvm/uapi/requests.hpp>
#include <kvm/uapi/structs.hpp>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

KVM_HPP_BEGIN

/// How a DirtyLog works.
struct DirtyLogOptions {
  /// With cap::ManualDirtyLogProtect2: how many pages are cleared at once, and
  /// then handed over. A multiple of 64; 0 is the whole slot. Small pieces keep
  /// short the time in which KVM holds its lock, and in which a page that is
  /// clean already waits to be read.
  std::uint64_t clear_pages = 0;
};

/// Which pages of one slot were written since they were last handed over: by
/// the guest, as KVM logs it (KVM_GET_DIRTY_LOG, KVM_CLEAR_DIRTY_LOG), and by
/// the VMM through the library. The slot must log (MemoryOptions::log_dirty);
/// all of its pages are handed over first if logging was turned on later.
///
/// It knows this slot and nothing else: what was written through another slot
/// with the same memory is in that slot's log. DirtyTracker brings all together.
///
/// One per slot, and none beside a DirtyTracker. One thread at a time; the guest
/// runs and others write, change and delete the slot as they like. It holds the
/// slot's number, which no other slot gets while it lives; once the slot is
/// deleted, its calls fail with ENOENT.
class [[nodiscard]] DirtyLog {
 public:
  /// EBUSY if the slot's log is in use already; ENXIO if the VM has dirty rings
  /// and no log beside them.
  static Result<DirtyLog> try_open(const MemorySlot& slot, const DirtyLogOptions& options = {}) {
    const auto fail = [&](int error_number, std::string_view cause) {
      return detail::make_error(
          error_number, "DirtyLog",
          detail::text("slot=", slot.id().id, ", address_space=", slot.id().address_space), cause);
    };
    if (!slot.slot_) {
      return fail(EBADF, "the slot is empty: it was moved from or removed");
    }
    if (options.clear_pages % 64 != 0) {
      return fail(EINVAL,
                  detail::text("clear_pages=", options.clear_pages, " is not a multiple of 64"));
    }
    const detail::VmState& state = *slot.state_;
    if (state.dirty_ring && !state.ring_with_bitmap) {
      return fail(ENXIO, no_log_beside_rings);
    }
    // First what may run out of memory.
    DirtyLog log(slot.state_, slot.slot_, options);
    if (!slot.slot_->claim_log()) {
      return fail(EBUSY, state.tracked
                             ? "the VM's DirtyTracker reads this slot's log, or another DirtyLog"
                             : "another DirtyLog reads this slot's log");
    }
    log.claimed_ = true;
    return log;
  }
  /// The same as try_open(), but throws.
  explicit DirtyLog(const MemorySlot& slot, const DirtyLogOptions& options = {})
      : DirtyLog(try_open(slot, options).value()) {}

  DirtyLog(DirtyLog&& other) noexcept
      : state_(std::move(other.state_)),
        slot_(std::move(other.slot_)),
        pending_(std::move(other.pending_)),
        snapshot_(std::move(other.snapshot_)),
        window_(std::exchange(other.window_, Window())),
        clear_pages_(other.clear_pages_),
        claimed_(std::exchange(other.claimed_, false)) {}
  DirtyLog& operator=(DirtyLog&& other) noexcept {
    if (this != &other) {
      close();
      state_ = std::move(other.state_);
      slot_ = std::move(other.slot_);
      pending_ = std::move(other.pending_);
      snapshot_ = std::move(other.snapshot_);
      window_ = std::exchange(other.window_, Window());
      clear_pages_ = other.clear_pages_;
      claimed_ = std::exchange(other.claimed_, false);
    }
    return *this;
  }
  /// What was not handed over stays with the slot, for its next DirtyLog or
  /// DirtyTracker.
  ~DirtyLog() { close(); }

  /// The slot's number.
  SlotId slot() const noexcept { return slot_ ? slot_->id : SlotId(); }
  /// How many pages the slot has.
  std::size_t pages() const noexcept { return pending_.pages(); }
  /// Whether the slot is still there.
  bool exists() const noexcept { return slot_ && slot_->exists(); }

  /// Hands over each page that was written since it was last handed over:
  /// f(GfnRange) for each run of them, from the lowest, as long as the slot (or
  /// the piece that is cleared at once) allows. KVM logs the next write to a
  /// page before `f` is called with it: so what `f` reads there, or anybody
  /// later, is at least what was there when the harvest began, and what is
  /// written after that is handed over by the next one.
  ///
  /// `f` may return nothing, or whether it took the run. If it returns false or
  /// throws, this run and all after it stay for the next harvest, and so they do
  /// if KVM refuses something half way. Frames are numbered as the slot lies
  /// now: a move makes all of it dirty.
  ///
  /// A write that returned before is handed over, if it was made by this thread
  /// or the harvest is known to come after it; so is a guest's write that was
  /// executed before. Pages are reported more often than needed on some hosts,
  /// never less often. For the last harvest of all, stop the vCPUs and whoever
  /// else writes first: else there is always a later write.
  ///
  /// Allocates nothing. Fails with ENOENT if the slot is deleted or does not log
  /// now, EDEADLK from within `f`, which must not drop or move this object.
  /// @return how many pages were taken
  template <class F>
  Result<std::uint64_t> try_harvest(F&& f) {
    static_assert(std::is_invocable_v<F&, GfnRange>,
                  "kvm-hpp: harvest calls its function with a GfnRange");
    using Returned = std::invoke_result_t<F&, GfnRange>;
    static_assert(std::is_void_v<Returned> || std::is_same_v<Returned, bool>,
                  "kvm-hpp: harvest's function returns nothing, or whether it took the pages");
    if (!state_) {  // By itself, so that GCC does not warn of what follows.
      return failure("DirtyLog::harvest", EBADF);
    }
    if (const int error_number = unusable(); error_number != 0) [[unlikely]] {
      return failure("DirtyLog::harvest", error_number);
    }
    const Busy busy(*this);
    const std::uint64_t pages = this->pages();
    const bool manual = state_->manual_protect.load(std::memory_order_acquire);
    // The VMM's marks, then KVM's log, a fence, and only then clear and hand over.
    bool marked = false;
    if (const detail::DirtyWords* marks = slot_->marks()) {
      marked = marks->take(pending_.data());
      if (marked) {
        window_ = {0, pending_.words()};
      }
    }
    // Where nothing waits, KVM writes straight to where pages wait to be handed
    // over: a second buffer would be as much memory again that is not in the
    // CPU's caches.
    const bool direct = window_.first > window_.end;
    DirtyBitmap& log = direct ? pending_ : snapshot_;
    if (direct) {
      window_ = {0, pending_.words()};  // Also if KVM fails half way.
    }
    if (send_get(log) < 0) [[unlikely]] {
      return failure(get_request.name, errno);
    }
    if (!direct) {
      keep(0, snapshot_.words());
    }
    // For who wrote to a page and left its mark alone, because it was set. Where
    // none was taken, nobody can have.
    if (marked) {
      fence();
    }
    // After the marks: a move gives the slot its gpa, then marks all of it.
    const std::uint64_t gfn = slot_->gpa().value >> slot_->page_shift;
    std::uint64_t taken = 0;
    if (!manual) {
      if (hand_over(gfn, 0, pages, taken, f)) {
        window_ = {};
      }
      return taken;
    }
    const std::uint64_t piece = clear_pages_ == 0 ? pages : clear_pages_;
    for (std::uint64_t first = 0; first < pages;) {
      const std::uint64_t end = piece < pages - first ? first + piece : pages;
      const std::uint64_t end_word = (end - 1) / 64 + 1;
      if (find_word<0>(log.data(), first / 64, end_word) != end_word) {
        if (send_clear(log, first, end - first) < 0) [[unlikely]] {
          return failure(clear_request.name, errno);
        }
      }
      if (!hand_over(gfn, first, end, taken, f)) {
        return taken;
      }
      first = end;
    }
    window_ = {};  // Nothing is left.
    return taken;
  }
  template <class F>
  std::uint64_t harvest(F&& f) {
    return try_harvest(std::forward<F>(f)).value();
  }

  // The two ioctls by themselves, for who wants to do the rest: the VMM's own
  // writes are in neither.

  /// Reads which pages the guest wrote (KVM_GET_DIRTY_LOG). With
  /// cap::ManualDirtyLogProtect2 KVM's log stays as it is; else it is cleared,
  /// and the pages in `out` are the caller's to remember: no harvest hands them
  /// over.
  /// @param out has as many pages as the slot, DirtyBitmap(slot) for instance;
  ///            EINVAL if not
  Result<void> try_get(DirtyBitmap& out) {
    if (const int error_number = unusable(); error_number != 0) [[unlikely]] {
      return failure(get_request.name, error_number);
    }
    if (out.pages() != pages()) {
      return detail::make_error(
          EINVAL, get_request.name, arguments(),
          detail::text("the bitmap has ", out.pages(), " pages, the slot ", pages()));
    }
    if (send_get(out) < 0) {
      return failure(get_request.name, errno);
    }
    return {};
  }

  void get(DirtyBitmap& out) { try_get(out).value(); }

  /// Makes KVM log the next write to those of the pages [first, first + count)
  /// that are set in `pages` (KVM_CLEAR_DIRTY_LOG). Read the pages after that,
  /// and clear nothing that try_get() did not give: it would be lost.
  /// @param pages has as many pages as the slot
  /// @param first a multiple of 64
  /// @param count a multiple of 64, or up to the slot's end
  Result<void> try_clear(const DirtyBitmap& pages, std::uint64_t first, std::uint64_t count) {
    const auto refuse = [&](std::string_view cause) {
      return detail::make_error(
          EINVAL, clear_request.name,
          detail::text(arguments(), ", first_page=", first, ", num_pages=", count), cause);
    };
    if (const int error_number = unusable(); error_number != 0) [[unlikely]] {
      return failure(clear_request.name, error_number);
    }
    const std::uint64_t size = this->pages();
    if (pages.pages() != size) {
      return refuse(detail::text("the bitmap has ", pages.pages(), " pages, the slot ", size));
    }
    if (!detail::in_bounds(first, count, size)) {
      return refuse(detail::text("the slot has ", size, " pages"));
    }
    if (first % 64 != 0) {
      return refuse("first_page must be a multiple of 64");
    }
    if (count % 64 != 0 && first + count != size) {
      return refuse(detail::text("num_pages must be a multiple of 64, or reach the slot's end: ",
                                 size - first, " from first_page"));
    }
    if (send_clear(pages, first, count) < 0) {
      return failure(clear_request.name, errno);
    }
    return {};
  }
  void clear(const DirtyBitmap& pages, std::uint64_t first, std::uint64_t count) {
    try_clear(pages, first, count).value();
  }

 private:
  static constexpr auto get_request = uapi::request::get_dirty_log;
  static constexpr auto clear_request = uapi::request::clear_dirty_log;
  static constexpr const char* no_log_beside_rings =
      "the VM has dirty rings, so KVM keeps no log per slot: use DirtyTracker or DirtyRing";

  template <std::uint64_t skip>
  static std::uint64_t find_word(const std::uint64_t* words, std::uint64_t from,
                                 std::uint64_t end) noexcept {
    return detail::bitmap::find_word<skip>(words, from, end);
  }

  DirtyLog(std::shared_ptr<detail::VmState> state, std::shared_ptr<detail::SlotState> slot,
           const DirtyLogOptions& options)
      : state_(std::move(state)),
        slot_(std::move(slot)),
        pending_(slot_->pages()),
        snapshot_(slot_->pages()),
        clear_pages_(options.clear_pages) {}

  void close() noexcept {
    if (std::exchange(claimed_, false)) {
      if (const detail::DirtyWords* marks = slot_->marks()) {
        pending_.for_each_run([&](std::uint64_t first, std::uint64_t count) {
          marks->mark_range_always(first, count);
        });
      }
      slot_->release_log();
    }
    slot_.reset();
    state_.reset();
  }

  /// While a harvest is running.
  struct Busy {
    explicit Busy(DirtyLog& harvested) : log(harvested) { log.harvesting_ = true; }
    Busy(const Busy&) = delete;
    Busy& operator=(const Busy&) = delete;
    ~Busy() { log.harvesting_ = false; }
    DirtyLog& log;
  };

  int unusable() const noexcept {
    return !state_                                ? EBADF
           : harvesting_                          ? EDEADLK
           : state_->foreign()                    ? EIO
           : !slot_->exists() || !slot_->logged() ? ENOENT
                                                  : 0;
  }

  int send_get(DirtyBitmap& out) noexcept {
    uapi::kvm_dirty_log log{};
    log.slot = slot_->id.raw();
    log.dirty_bitmap = out.data();
    return state_->call(get_request, &log);
  }
  int send_clear(const DirtyBitmap& pages, std::uint64_t first, std::uint64_t count) noexcept {
    uapi::kvm_clear_dirty_log log{};
    log.slot = slot_->id.raw();
    log.num_pages = static_cast<std::uint32_t>(count);
    log.first_page = first;
    log.dirty_bitmap = const_cast<std::uint64_t*>(pages.data() + first / 64);  // KVM only reads it.
    return state_->call(clear_request, &log);
  }
  void fence() const noexcept {
    if (state_->asymmetric()) {
      detail::heavy_fence();
    } else {
      detail::full_fence();  // Who marks does so with a read-modify-write.
    }
  }
  /// Adds words of KVM's log to what is to be handed over. Touches no more of
  /// that than it must: the caches are cold after the guest ran.
  void keep(std::uint64_t word, std::uint64_t end) noexcept {
    const std::uint64_t* const from = snapshot_.data();
    std::uint64_t* const to = pending_.data();
    word = find_word<0>(from, word, end);
    if (word == end) {
      return;
    }
    window_.first = std::min(window_.first, word);
    while (word != end) {
      for (; word != end && from[word] != 0; ++word) {
        to[word] |= from[word];
      }
      window_.end = std::max(window_.end, word);
      word = find_word<0>(from, word, end);
    }
  }

  /// @return whether `f` took them all
  template <class F>
  bool hand_over(std::uint64_t gfn, std::uint64_t first, std::uint64_t end, std::uint64_t& taken,
                 F& f) {
    namespace bitmap = detail::bitmap;
    std::uint64_t* const words = pending_.data();
    first = std::max(first, window_.first * 64);
    end = std::min(end, window_.end * 64);
    for (;;) {
      first = bitmap::find_page<0>(words, first, end);
      if (first >= end) {
        return true;
      }
      const std::uint64_t run_end = bitmap::find_page<bitmap::all_ones>(words, first, end);
      const GfnRange run{gfn + first, run_end - first};
      if constexpr (std::is_void_v<std::invoke_result_t<F&, GfnRange>>) {
        f(run);
      } else if (!f(run)) {
        return false;
      }
      static_cast<void>(pending_.try_clear(first, run.count));
      taken += run.count;
      first = run_end;
    }
  }

  std::string arguments() const {
    return slot_ ? detail::text("slot=", slot_->id.id, ", address_space=", slot_->id.address_space)
                 : std::string();
  }
  [[gnu::noinline, gnu::cold]] Error failure(const char* operation, int error_number) const {
    if (!slot_) {
      return detail::make_error(EBADF, operation, {}, "this log is empty: it was moved from");
    }
    return state_->failure(operation, error_number, arguments(),
                           error_number == EDEADLK  ? "called from within a harvest's own function"
                           : error_number == ENXIO  ? no_log_beside_rings
                           : error_number != ENOENT ? ""
                           : !slot_->exists()
                               ? "the slot was deleted"
                               : "the slot is not logged: MemorySlot::log_dirty(true)");
  }

  std::shared_ptr<detail::VmState> state_;
  std::shared_ptr<detail::SlotState> slot_;
  DirtyBitmap pending_;   // to be handed over
  DirtyBitmap snapshot_;  // KVM's log as it was last read
  /// The words of `pending_` that may not be 0; `first` above `end` for none.
  struct Window {
    std::uint64_t first = ~std::uint64_t{0} / 64;
    std::uint64_t end = 0;
  };
  Window window_;
  std::uint64_t clear_pages_;
  bool claimed_ = false;
  bool harvesting_ = false;
};

KVM_HPP_END

#endif  // !KVM_HPP_REFUSED
#endif
