// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_MEMORY_GUEST_MEMORY_HPP
#define KVM_HPP_MEMORY_GUEST_MEMORY_HPP

#include <kvm/detail/kernel_header.hpp>
#if !KVM_HPP_REFUSED

#include <kvm/detail/address_space.hpp>
#include <kvm/detail/guest_access.hpp>
#include <kvm/detail/memory_reader.hpp>
#include <kvm/detail/vm_state.hpp>
#include <kvm/memory/memory_observer.hpp>
#include <kvm/memory/pin.hpp>
#include <kvm/types.hpp>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

KVM_HPP_BEGIN

namespace detail {

inline constinit std::atomic<std::uint64_t> nothing_published{0};

/// How a value is passed on: a scalar in a register.
template <class T>
using Argument = std::conditional_t<GuestScalar<T>, T, const T&>;

/// What a View knows, in the one cache line that its accesses touch beside the
/// memory itself.
struct alignas(64) ViewLine : Reader {
  std::uint64_t generation = AddressSpace::no_generation;
  const std::atomic<std::uint64_t>* published = &nothing_published;
  const SlotRecord* records = nullptr;
  const std::uint32_t* hint = nullptr;
  std::uint32_t granule_shift = 0;
  std::uint32_t page_shift = 0;
};
static_assert(sizeof(ViewLine) == 64);

/// A moved-from view's line: nothing is remembered, so its accesses take the
/// way round, where there is no address space.
inline constinit ViewLine no_view_line{};

}  // namespace detail

/// The outcome of moving bytes between a file descriptor and guest memory.
struct Transfer {
  /// How many bytes arrived. Less than asked for at the end of the file, or with
  /// an error.
  std::uint64_t bytes = 0;
  /// 0, or why it ended early: an errno value. EFAULT if not all of the range is
  /// guest memory (or, to be written, is read-only): then nothing was moved.
  int error_number = 0;

  /// Whether all of it was moved.
  explicit operator bool() const noexcept { return error_number == 0; }
};

/// One of a VM's slots, as GuestMemory::slots() lists it.
struct SlotInfo {
  /// Its number.
  SlotId id;
  /// Where the guest sees it.
  Gpa gpa;
  /// In bytes.
  std::size_t size = 0;
  /// Whether writes to it are logged.
  bool logs_dirty = false;
  /// Whether the guest's writes become MMIO exits.
  bool read_only = false;
  /// Whether its private pages are in a guest_memfd.
  bool has_guest_memfd = false;
};

/// Says on destruction that an observer wants no more calls.
class [[nodiscard("dropping it ends the observation")]] Observation {
 public:
  Observation(Observation &&) noexcept = default;
  Observation& operator=(Observation&& other) noexcept {
    if (this != &other) {
      end();
      state_ = std::move(other.state_);
      observer_ = std::move(other.observer_);
    }
    return *this;
  }
  ~Observation() { end(); }

 private:
  friend class GuestMemory;

  struct Observer : MemoryObserver {
    virtual ~Observer() = default;
  };
  template <class F>
  struct Calls final : Observer {
    explicit Calls(F f) : call(std::move(f)) {}
    void changed(const MemoryChange& change) noexcept override { call(change); }
    F call;
  };

  Observation(std::shared_ptr<detail::VmState> state, std::unique_ptr<Observer> observer)
      : state_(std::move(state)), observer_(std::move(observer)) {
    state_->add_observer(*observer_);
  }
  void end() noexcept {
    if (observer_) {
      state_->remove_observer(*observer_);
      observer_.reset();
    }
    state_.reset();
  }

  std::shared_ptr<detail::VmState> state_;
  std::unique_ptr<Observer> observer_;
};

/// All memory slots of one address space of a VM. Keeps the VM alive, copies
/// freely, any thread.
///
///     kvm::GuestMemory::View memory = vm.memory().view();  // one per thread
///     bool written = memory.write<std::uint32_t>(kvm::Gpa{0x1000}, 42);
///     std::optional<std::uint64_t> word = memory.read<std::uint64_t>(kvm::Gpa{0x2000});
class GuestMemory {
 public:
  class View;

  // No move of its own: what was moved from would be empty.
  GuestMemory(const GuestMemory&) noexcept = default;
  GuestMemory& operator=(const GuestMemory&) noexcept = default;

  /// Bit 63 of a generation: an update is in progress.
  static constexpr std::uint64_t update_in_progress = detail::AddressSpace::update_in_progress;

  /// Counts changes of the slots as the kernel does (kvm_memslots::generation):
  /// it only moves forward, by one (or by two where there are two address
  /// spaces) for each exchange of the kernel's table, of which a deletion and a
  /// move take two, and for an update that failed as well. 0 in a forked child.
  std::uint64_t generation() const noexcept { return space_->generation(); }
  /// Which address space this is.
  std::uint16_t address_space() const noexcept { return number_; }

  /// A reader and writer for one thread at a time.
  View view() const;

  /// The slots that there are now, by gpa.
  std::vector<SlotInfo> slots() const;

  /// Has `observer(const MemoryChange&)` called for each slot of the VM that is
  /// there already, and for every change, in any address space, until the
  /// Observation is dropped. It is called in the thread that makes the change,
  /// while other changes wait; it must be noexcept. It may read guest memory;
  /// changing slots from it fails with EDEADLK.
  template <class F>
  Observation observe(F observer) const {
    static_assert(std::is_nothrow_invocable_v<F&, const MemoryChange&>,
                  "kvm-hpp: an observer is called as observer(const kvm::MemoryChange&) and must "
                  "be noexcept");
    return Observation(state_, std::make_unique<Observation::Calls<F>>(std::move(observer)));
  }

  /// Unmaps the memory of deleted slots that nobody uses any more, which every
  /// deletion does as well. Never waits.
  /// @return how many slots' memory is still used by accesses or pins
  std::size_t reclaim() const noexcept { return state_->reclaim(); }

 private:
  friend class Vm;
  friend class GfnToHvaCache;

  GuestMemory(std::shared_ptr<detail::VmState> state, detail::AddressSpace* space,
              std::uint16_t number) noexcept
      : state_(std::move(state)), space_(space), number_(number) {}

  std::shared_ptr<detail::VmState> state_;
  detail::AddressSpace* space_;
  std::uint16_t number_;
};

/// Reads and writes guest memory at the speed of a pointer: no lock, no
/// reference count, no fence, one comparison for the bounds. Whatever happens to
/// the slots meanwhile, an access reaches the memory that was there when it
/// began, or fails as a value. What it writes is marked as dirty where the slot
/// is logged.
///
/// One thread at a time; make one per thread. An idle view holds up nothing.
/// Every address is the guest's business: those without memory, and writes to
/// read-only slots, give false or nothing.
///
/// Scalars at addresses that are multiples of their size are one access and
/// never torn. Everything else is copied bytewise, all of it or nothing; a guest
/// that writes meanwhile may tear it. Accesses are relaxed: atomic_load and
/// atomic_store order them.
class GuestMemory::View {
 public:
  /// Takes over what the other one holds, which reaches no memory then.
  View(View&& other) noexcept
      : state_(std::move(other.state_)),
        space_(std::exchange(other.space_, nullptr)),
        owned_(std::move(other.owned_)),
        line_(std::exchange(other.line_, &detail::no_view_line)) {}
  View& operator=(View&& other) noexcept {
    if (this != &other) {
      end();
      state_ = std::move(other.state_);
      space_ = std::exchange(other.space_, nullptr);
      owned_ = std::move(other.owned_);
      line_ = std::exchange(other.line_, &detail::no_view_line);
    }
    return *this;
  }
  ~View() { end(); }

  /// The value at `gpa`; nothing if not all of it is guest memory.
  template <GuestValue T>
  [[gnu::always_inline]] std::optional<T> read(Gpa gpa) noexcept {
    T value;
    bool done = read_fast<T>(gpa, value);
    if (!done) [[unlikely]] {
      T other{};  // Not `value`, which so can stay in a register.
      done = read_slowly<T>(gpa, other);
      value = other;
    }
    // Not two returns: g++ 12 would build the optional in memory.
    return done ? std::optional<T>(value) : std::nullopt;
  }

  /// Fails to compile: T is to be named, since a literal's type is seldom meant.
  template <int = 0, class V>
  requires(std::is_integral_v<V>) bool write(Gpa, V) {
    static_assert(sizeof(V) == 0,
                  "kvm-hpp: name the type that is stored: write<std::uint32_t>(gpa, value)");
    return false;
  }
  /// Stores a value. T is named: `write<std::uint32_t>(gpa, 8)`.
  template <GuestValue T>
  [[nodiscard, gnu::always_inline]] bool write(Gpa gpa,
                                               const std::type_identity_t<T>& value) noexcept {
    if constexpr (GuestScalar<T>) {
      detail::ViewLine& line = *line_;
      if (announce(line)) [[likely]] {
        const detail::SlotRecord& record = hinted(line, gpa);
        const std::uint64_t offset = gpa.value - record.gpa;
        if (offset < record.writable) [[likely]] {  // Not logged.
          detail::store_any<T>(record.host + offset, value);
          detail::AddressSpace::leave(line);
          return true;
        }
        // An aligned scalar that begins in a page ends there.
        if (offset < record.logged && gpa.value % sizeof(T) == 0) {
          detail::store<T>(record.host + offset, value);
          detail::light_fence();
          // After the store. A page that is marked already may be skipped, as a
          // harvest fences all threads after it took the marks.
          detail::DirtyWords::mark(record.marks, offset >> line.page_shift);
          detail::AddressSpace::leave(line);
          return true;
        }
      }
    }
    return write_slowly<T>(gpa, value);
  }

  /// Copies bytes out of guest memory. False, and `out` is untouched, unless all
  /// of [gpa, gpa + out.size()) is guest memory, of one slot or of several.
  [[nodiscard]] bool read(Gpa gpa, std::span<std::byte> out) noexcept {
    detail::ViewLine& line = *line_;
    if (announce(line)) [[likely]] {
      const detail::SlotRecord& record = hinted(line, gpa);
      const std::uint64_t offset = gpa.value - record.gpa;
      if (detail::in_bounds(offset, out.size(), record.size)) [[likely]] {
        detail::copy_from_guest(out.data(), record.host + offset, out.size());
        detail::AddressSpace::leave(line);
        return true;
      }
    }
    return with_table(
        [&](const detail::SlotTable& table) { return detail::read_range(table, gpa.value, out); });
  }
  /// Copies bytes to guest memory. False, and nothing is written, unless all of
  /// the range is guest memory that may be written.
  [[nodiscard]] bool write(Gpa gpa, std::span<const std::byte> bytes) noexcept {
    detail::ViewLine& line = *line_;
    if (announce(line)) [[likely]] {
      const detail::SlotRecord& record = hinted(line, gpa);
      const std::uint64_t offset = gpa.value - record.gpa;
      if (record.writable != 0 && detail::in_bounds(offset, bytes.size(), record.size))
          [[likely]] {  // Not logged.
        detail::copy_to_guest(record.host + offset, bytes.data(), bytes.size());
        detail::AddressSpace::leave(line);
        return true;
      }
    }
    return with_table([&](const detail::SlotTable& table) {
      return detail::write_range(table, gpa.value, bytes, space_->asymmetric());
    });
  }
  /// Sets `size` bytes to `value`, all or none.
  [[nodiscard]] bool fill(Gpa gpa, std::uint64_t size, std::byte value) noexcept {
    return with_table([&](const detail::SlotTable& table) {
      return detail::fill_range(table, gpa.value, size, value, space_->asymmetric());
    });
  }
  /// Whether all of [gpa, gpa + size) is guest memory now.
  [[nodiscard]] bool contains(Gpa gpa, std::uint64_t size) noexcept {
    return with_table([&](const detail::SlotTable& table) {
      return detail::covered(table, gpa.value, size, detail::Access::read);
    });
  }

  // Atomics, also against the guest's. Nothing if not all of the value is guest
  // memory, or if `gpa` is not a multiple of its size. An order that C++ does
  // not have for the operation is taken as seq_cst.

  /// The value, in one access.
  template <GuestScalar T>
  std::optional<T> atomic_load(Gpa gpa,
                               std::memory_order order = std::memory_order_seq_cst) noexcept {
    return atomically<T, detail::Access::read>(
        gpa, [&](std::byte* at) { return detail::atomic_load<T>(at, order); });
  }
  /// Stores a value, in one access. False if it cannot.
  template <GuestScalar T>
  [[nodiscard]] bool atomic_store(Gpa gpa, std::type_identity_t<T> value,
                                  std::memory_order order = std::memory_order_seq_cst) noexcept {
    return atomically<T, detail::Access::write>(gpa,
                                                [&](std::byte* at) {
                                                  detail::atomic_store<T>(at, value, order);
                                                  return true;
                                                })
        .has_value();
  }
  /// @return what was there before
  template <GuestScalar T>
  std::optional<T> atomic_exchange(Gpa gpa, std::type_identity_t<T> value,
                                   std::memory_order order = std::memory_order_seq_cst) noexcept {
    return atomically<T, detail::Access::write>(
        gpa, [&](std::byte* at) { return detail::atomic_exchange<T>(at, value, order); });
  }
  /// Stores `desired` if `expected` is there.
  /// @return whether it was, and what was there
  template <GuestScalar T>
  std::optional<CompareExchange<T>> atomic_compare_exchange(
      Gpa gpa, std::type_identity_t<T> expected, std::type_identity_t<T> desired,
      std::memory_order order = std::memory_order_seq_cst) noexcept {
    return atomically<T, detail::Access::write>(gpa, [&](std::byte* at) {
      return detail::atomic_compare_exchange<T>(at, expected, desired, order);
    });
  }
  /// @return what was there before
  template <GuestScalar T>
  std::optional<T> atomic_fetch_or(Gpa gpa, std::type_identity_t<T> bits,
                                   std::memory_order order = std::memory_order_seq_cst) noexcept {
    return atomically<T, detail::Access::write>(
        gpa, [&](std::byte* at) { return detail::atomic_fetch_or<T>(at, bits, order); });
  }
  /// Clears the bits that are not in `bits`.
  /// @return what was there before
  template <GuestScalar T>
  std::optional<T> atomic_fetch_and(Gpa gpa, std::type_identity_t<T> bits,
                                    std::memory_order order = std::memory_order_seq_cst) noexcept {
    return atomically<T, detail::Access::write>(
        gpa, [&](std::byte* at) { return detail::atomic_fetch_and<T>(at, bits, order); });
  }
  /// Adds, modulo 2 to the power of the type's bits.
  /// @return what was there before
  template <GuestScalar T>
  std::optional<T> atomic_fetch_add(Gpa gpa, std::type_identity_t<T> value,
                                    std::memory_order order = std::memory_order_seq_cst) noexcept {
    return atomically<T, detail::Access::write>(
        gpa, [&](std::byte* at) { return detail::atomic_fetch_add<T>(at, value, order); });
  }

  /// Marks pages as dirty that others wrote: a device by DMA, a process that
  /// shares the memory. After their write. False if not all of the range is
  /// guest memory.
  [[nodiscard]] bool mark_dirty(Gpa gpa, std::uint64_t size) noexcept {
    return with_table([&](const detail::SlotTable& table) {
      return detail::mark_range(table, gpa.value, size, space_->asymmetric());
    });
  }

  /// Takes addresses for what blocks: system calls, io_uring, vhost, VFIO. The
  /// memory stays mapped, and MemorySlot::remove() waits, until it is dropped.
  /// Nothing if not all of the range is guest memory, or may be written for
  /// PinFor::writing. An empty range is everywhere.
  std::optional<Pin> pin(Gpa gpa, std::uint64_t size, PinFor purpose);

  /// Reads from a file descriptor into guest memory, without a buffer between,
  /// until `size` bytes came or the file ends. The pages are marked as dirty
  /// afterwards, after an error as well.
  /// @param position where in the file; else its own position is used and moved
  Transfer read_from(int fd, Gpa gpa, std::uint64_t size,
                     std::optional<std::uint64_t> position = std::nullopt);
  /// Writes guest memory to a file descriptor.
  Transfer write_to(int fd, Gpa gpa, std::uint64_t size,
                    std::optional<std::uint64_t> position = std::nullopt);

 private:
  friend class GuestMemory;

  View(std::shared_ptr<detail::VmState> state, detail::AddressSpace* space)
      : state_(std::move(state)),
        space_(space),
        owned_(std::make_unique<detail::ViewLine>()),
        line_(owned_.get()) {
    line_->published = &space_->published().generation;
    space_->add_reader(*line_);
  }
  void end() noexcept {
    if (owned_) {
      space_->remove_reader(*owned_);
      owned_.reset();
    }
  }

  /// Announces that what the line remembers is about to be used.
  /// @return whether it may be; if not, the announcement protects nothing
  static bool announce(detail::ViewLine& line) noexcept {
    const std::uint64_t known = line.generation;
    line.announced.store(known, std::memory_order_release);
    detail::light_fence();
    return line.published->load(std::memory_order_acquire) == known;
  }
  /// The record to try for this address.
  static const detail::SlotRecord& hinted(const detail::ViewLine& line, Gpa gpa) noexcept {
    const std::uint32_t hash = detail::SlotTable::hash(gpa.value >> line.granule_shift);
    return detail::SlotTable::hinted(line.records, line.hint[hash]);
  }

  /// Announces, fetches the current table, remembers it if that is right, and
  /// lets `operation` use it. False if there is none.
  template <class Operation>
  bool with_table(Operation operation) noexcept(
      noexcept(operation(std::declval<const detail::SlotTable&>()))) {
    if (space_ == nullptr) {
      return false;
    }
    struct Announced {
      detail::ViewLine& line;
      ~Announced() { detail::AddressSpace::leave(line); }
    } const announced{*line_};
    const auto [table, generation] = space_->enter(*line_);
    if (table == nullptr) {  // In a forked child.
      line_->generation = detail::AddressSpace::no_generation;
      return false;
    }
    if (generation != line_->generation) {
      line_->generation = generation;
      line_->records = table->records();
      line_->hint = table->hint();
      line_->granule_shift = table->granule_shift();
      line_->page_shift = state_->page_shift();
    }
    return operation(*table);
  }

  template <GuestValue T>
  [[gnu::always_inline]] bool read_fast(Gpa gpa, T& out) noexcept {
    if constexpr (GuestScalar<T>) {
      detail::ViewLine& line = *line_;
      if (announce(line)) [[likely]] {
        const detail::SlotRecord& record = hinted(line, gpa);
        const std::uint64_t offset = gpa.value - record.gpa;
        if (offset < record.readable) [[likely]] {
          out = detail::load_any<T>(record.host + offset);
          detail::AddressSpace::leave(line);
          return true;
        }
      }
    }
    return false;
  }
  // No optional in and out of these, and scalars by value: compilers would keep
  // them in memory on the fast path as well.
  template <GuestValue T>
  [[gnu::noinline]] bool read_slowly(Gpa gpa, T& out) noexcept {
    return with_table([&](const detail::SlotTable& table) noexcept {
      return detail::read_value<T>(table, gpa.value, out);
    });
  }
  template <GuestValue T>
  [[gnu::noinline]] bool write_slowly(Gpa gpa, detail::Argument<T> value) noexcept {
    return with_table([&](const detail::SlotTable& table) noexcept {
      return detail::write_value<T>(table, gpa.value, value, space_->asymmetric());
    });
  }

  template <GuestScalar T, detail::Access access, class Operation>
  auto atomically(Gpa gpa, Operation operation) noexcept
      -> std::optional<decltype(operation(nullptr))> {
    std::optional<decltype(operation(nullptr))> result;
    if (gpa.value % sizeof(T) != 0) {
      return result;
    }
    with_table([&](const detail::SlotTable& table) noexcept {
      const detail::SlotRecord* record = table.find(gpa.value);
      if (record == nullptr ||
          (access == detail::Access::write && table.write_record(*record).size == 0)) {
        return false;
      }
      const std::uint64_t offset = gpa.value - record->gpa;
      result = operation(record->host + offset);
      if constexpr (access == detail::Access::write) {
        detail::mark_part(table, *record, offset, sizeof(T), space_->asymmetric());
      }
      return true;
    });
    return result;
  }

  template <class Move>
  Transfer transfer(Gpa gpa, std::uint64_t size, PinFor purpose, Move move);

  std::shared_ptr<detail::VmState> state_;
  detail::AddressSpace* space_;
  std::unique_ptr<detail::ViewLine> owned_;
  detail::ViewLine* line_;
};

inline GuestMemory::View GuestMemory::view() const { return View(state_, space_); }

inline std::vector<SlotInfo> GuestMemory::slots() const {
  std::vector<SlotInfo> result;
  for (const auto& slot : state_->all()) {
    if (slot->id.address_space == number_) {
      result.push_back({.id = slot->id,
                        .gpa = slot->gpa(),
                        .size = slot->size,
                        .logs_dirty = slot->logged(),
                        .read_only = slot->read_only(),
                        .has_guest_memfd = (slot->flags() & uapi::mem::guest_memfd) != 0});
    }
  }
  std::sort(result.begin(), result.end(),
            [](const SlotInfo& a, const SlotInfo& b) { return a.gpa < b.gpa; });
  return result;
}

inline std::optional<Pin> GuestMemory::View::pin(Gpa gpa, std::uint64_t size, PinFor purpose) {
  std::optional<Pin> result;
  const auto access = purpose == PinFor::writing ? detail::Access::write : detail::Access::read;
  with_table([&](const detail::SlotTable& table) {
    if (!detail::covered(table, gpa.value, size, access)) {
      return false;
    }
    Pin pin(gpa, size, purpose, space_->asymmetric());
    detail::for_each_part(table, gpa.value, size,
                          [&](const detail::SlotRecord& record, std::uint64_t offset,
                              std::uint64_t part) { pin.add(*record.slot, offset, part); });
    result = std::move(pin);
    return true;
  });
  return result;
}

template <class Move>
Transfer GuestMemory::View::transfer(Gpa gpa, std::uint64_t size, PinFor purpose, Move move) {
  const std::optional<Pin> pinned = pin(gpa, size, purpose);
  if (!pinned) {
    return {.bytes = 0, .error_number = EFAULT};
  }
  constexpr std::size_t most_parts = 64;
  std::uint64_t done = 0;
  std::size_t part = 0;
  std::uint64_t part_done = 0;
  const std::span<const ::iovec> parts = pinned->iovecs();
  while (done < size) {
    ::iovec vectors[most_parts];
    std::size_t count = 0;
    // The kernel takes at most 2 GiB at once, and says so by a short count.
    for (std::size_t i = part; i < parts.size() && count < most_parts; ++i, ++count) {
      const std::uint64_t skip = i == part ? part_done : 0;
      vectors[count] = {static_cast<std::byte*>(parts[i].iov_base) + skip, parts[i].iov_len - skip};
    }
    const ssize_t moved = move(vectors, static_cast<int>(count), done);
    if (moved < 0) {
      if (errno == EINTR) {
        continue;
      }
      return {.bytes = done, .error_number = errno};
    }
    if (moved == 0) {
      break;
    }
    done += static_cast<std::uint64_t>(moved);
    part_done += static_cast<std::uint64_t>(moved);
    while (part < parts.size() && part_done >= parts[part].iov_len) {
      part_done -= parts[part].iov_len;
      ++part;
    }
  }
  return {.bytes = done, .error_number = 0};
}

inline Transfer GuestMemory::View::read_from(int fd, Gpa gpa, std::uint64_t size,
                                             std::optional<std::uint64_t> position) {
  // The pin marks the pages when it is dropped, whatever came.
  return transfer(
      gpa, size, PinFor::writing, [&](const ::iovec* vectors, int count, std::uint64_t done) {
        return position
                   ? detail::sys::preadv(fd, vectors, count, static_cast<off_t>(*position + done))
                   : detail::sys::readv(fd, vectors, count);
      });
}

inline Transfer GuestMemory::View::write_to(int fd, Gpa gpa, std::uint64_t size,
                                            std::optional<std::uint64_t> position) {
  return transfer(
      gpa, size, PinFor::reading, [&](const ::iovec* vectors, int count, std::uint64_t done) {
        return position
                   ? detail::sys::pwritev(fd, vectors, count, static_cast<off_t>(*position + done))
                   : detail::sys::writev(fd, vectors, count);
      });
}

KVM_HPP_END

#endif  // !KVM_HPP_REFUSED
#endif
