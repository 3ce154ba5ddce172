// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_MEMORY_MAPPING_HPP
#define KVM_HPP_MEMORY_MAPPING_HPP

#include <kvm/detail/config.hpp>
#if !KVM_HPP_REFUSED

#include <kvm/detail/process.hpp>
#include <kvm/detail/syscalls.hpp>
#include <kvm/error.hpp>
#include <kvm/fd.hpp>
#include <kvm/types.hpp>

#include <array>
#include <atomic>
#include <cerrno>
#include <climits>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

KVM_HPP_BEGIN

/// The size of the huge pages to take from the host's pool of them (hugetlb),
/// in bytes. Any size that the host has pages of can be given as a number:
/// /sys/kernel/mm/hugepages lists them.
enum class HugePages : std::uint64_t {
  none = 0,                            ///< pages of the usual size
  size_2MiB = std::uint64_t{2} << 20,  ///< 2 MiB
  size_1GiB = std::uint64_t{1} << 30,  ///< 1 GiB
};

/// What to do when the host's pool has not enough huge pages, or none of the
/// size.
enum class HugePageFallback {
  none,         ///< fail
  transparent,  ///< use pages of the usual size, with MADV_HUGEPAGE
};

/// From which NUMA nodes memory is taken: the kernel's MPOL_* numbers.
enum class NumaMode : int {
  none = 0,       ///< as the thread that touches it first would have it
  preferred = 1,  ///< from the first of the nodes, from others when it is full
  bind = 2,       ///< from these nodes only
  interleave = 3  ///< from these nodes in turn
};

/// Which NUMA nodes memory is taken from (mbind):
/// `.numa = {NumaMode::bind, {0, 1}}`.
struct NumaPolicy {
  /// What the nodes are to it.
  NumaMode mode = NumaMode::none;
  /// Node numbers, below 1024. Linux leaves out those that the host lacks, and
  /// refuses only if none is left.
  std::vector<unsigned> nodes = {};
};

/// How a Mapping's memory is made. Every field can be left out.
struct MappingOptions {
  /// Take huge pages from the host's pool. They are set aside when the mapping
  /// is made, whatever `reserve` says: a shortage is an error now, not a SIGBUS
  /// later. The size must be a multiple of theirs. Anonymous memory and memfds
  /// only: a file has the pages of its file system.
  HugePages huge_pages = HugePages::none;
  /// What to do when the pool has too few. Mapping::page_size() tells.
  HugePageFallback fallback = HugePageFallback::none;
  /// Advise the kernel to use huge pages where it can (MADV_HUGEPAGE), and
  /// place the memory so that it and the guest's view of it can share them. On
  /// a memfd it needs /sys/kernel/mm/transparent_hugepage/shmem_enabled.
  bool transparent_huge_pages = false;
  /// Where the guest is to see the memory. A huge page serves the guest only if
  /// its host and guest address are congruent modulo its size: with
  /// `transparent_huge_pages` the memory is placed so, with `huge_pages` this
  /// must be a multiple of their size. The default suits every gpa that is.
  Gpa gpa = {};
  /// Have all of the memory now, not when it is first touched.
  bool populate = false;
  /// Count the memory against the host's commit limit, so that it is there when
  /// it is touched (no MAP_NORESERVE). Memory files are counted page by page as
  /// they fill, so there it means nothing: see `populate`.
  bool reserve = false;
  /// The NUMA nodes that the memory comes from. On a file it applies to memory
  /// files only: others are in the page cache already, or go there as usual.
  NumaPolicy numa = {};
  /// Inaccessible pages before and after the memory, so that running off its
  /// end faults at once.
  bool guard_pages = false;
};

/// How a file's pages are mapped.
enum class FileSharing {
  shared,        ///< writes go to the file, and to all who have it mapped
  private_copy,  ///< writes stay with this mapping (copy on write)
};

/// Which part of a file, and how.
struct FileOptions {
  /// Where in the file the memory begins, in bytes: a multiple of the page size.
  std::uint64_t offset = 0;
  /// Where writes go.
  FileSharing sharing = FileSharing::shared;
};

/// Which part of another process's memory file, and what of it is trusted.
struct ReceivedOptions {
  /// Where in it the memory begins, in bytes: a multiple of the page size.
  std::uint64_t offset = 0;
  /// Take it although whoever else has it may cut it short, which turns the
  /// next access into a SIGBUS.
  bool accept_unsealed = false;
};

namespace detail {

// The kernel's numbers, which old C libraries and headers lack.
inline constexpr int madv_populate_write = 23;                            // 5.14
inline constexpr unsigned mfd_cloexec = 1;                                // 3.17
inline constexpr unsigned mfd_allow_sealing = 2;                          // 3.17
inline constexpr unsigned mfd_hugetlb = 4;                                // 4.14
inline constexpr unsigned mfd_noexec_seal = 8;                            // 6.3
inline constexpr unsigned huge_page_size_shift = 26;                      // MAP_HUGE_SHIFT, MFD_…
inline constexpr int seal_shrink = 2;                                     // F_SEAL_SHRINK
inline constexpr int seal_grow = 4;                                       // F_SEAL_GROW
inline constexpr int fallocate_keep_size = 1;                             // FALLOC_FL_KEEP_SIZE
inline constexpr int fallocate_punch_hole = 2;                            // FALLOC_FL_PUNCH_HOLE
inline constexpr unsigned long hugetlbfs_magic = 0x958458f6;              // statfs.f_type
inline constexpr std::uint64_t largest_offset = ~std::uint64_t{0} >> 1u;  // of off_t

/// Which memory a mapping shows. Two mappings of one memory file, or of one
/// file shared, have the same; two anonymous ones never do.
struct BackingId {
  std::uint64_t device = 0;
  std::uint64_t object = 0;

  auto operator<=>(const BackingId&) const = default;
};

inline std::atomic<std::uint64_t> last_own_backing{0};

/// Of memory that nothing else shows.
inline BackingId new_backing() noexcept {
  return {~std::uint64_t{0}, last_own_backing.fetch_add(1, std::memory_order_relaxed) + 1};
}

/// Of an open file. Descriptors without an inode of their own (a vCPU's, an
/// eventfd's) share one among all of them: those are taken as different.
inline BackingId backing_of(const struct ::stat& status) noexcept {
  if (S_ISREG(status.st_mode)) {
    return {status.st_dev, status.st_ino};
  }
  if (S_ISCHR(status.st_mode) || S_ISBLK(status.st_mode)) {
    // One device can have several names. Device numbers leave the top bit free.
    return {std::uint64_t{1} << 63 | status.st_rdev, 0};
  }
  return new_backing();
}

/// What a mapping can do with its pages.
enum class MappingKind {
  device,        ///< what KVM or a driver provides
  anonymous,     ///< private, zero at first
  private_file,  ///< a file's, copied on write
  shared_file,   ///< a file's or memory file's
};

/// Mapped memory, shared by the Mappings that show it; unmapped with the last.
struct MappedRegion {
  MappedRegion() = default;
  MappedRegion(const MappedRegion&) = delete;
  MappedRegion& operator=(const MappedRegion&) = delete;
  ~MappedRegion() {
    // In a forked child the addresses belong to whatever the child put there.
    if (reserved != nullptr && this_process() == owner) {
      sys::munmap(reserved, reserved_size);
    }
  }

  Fd fd;  ///< of shared files
  std::uint64_t file_offset = 0;
  BackingId backing{};
  std::uint64_t backing_offset = 0;
  std::byte* data = nullptr;
  std::size_t size = 0;
  /// All that is mapped, with the guard pages and what alignment cost.
  void* reserved = nullptr;
  std::size_t reserved_size = 0;
  std::size_t page_size = 0;
  MappingKind kind = MappingKind::device;
  ProcessToken owner = this_process();
};

/// The first address from `low` on that is congruent to `gpa` modulo
/// `alignment`, a power of two.
constexpr std::uint64_t first_congruent(std::uint64_t low, Gpa gpa,
                                        std::uint64_t alignment) noexcept {
  return low + ((gpa.value - low) & (alignment - 1));
}

/// Whether [offset, offset + size) lies in [0, limit), without overflow.
constexpr bool part_fits(std::uint64_t offset, std::uint64_t size, std::uint64_t limit) noexcept {
  return offset <= limit && size <= limit - offset;
}

/// The size of what a last-level table of page tables maps: the usual
/// transparent huge page. 2 MiB where pages are 4 KiB.
constexpr std::size_t transparent_huge_page_size(std::size_t page) noexcept {
  return page * (page / sizeof(std::uint64_t));
}

}  // namespace detail

/// Host memory, mapped and owned: the backing of a memory slot. Unmapped when
/// the last of its handles is dropped. A forked child does not inherit it.
///
/// Threads may share a handle that none of them moves or drops; handles to the
/// same memory are independent of each other.
class [[nodiscard]] Mapping {
 public:
  /// An empty mapping: no address, size 0.
  Mapping() noexcept = default;

  /// Zeroed private memory, allocated when it is first touched.
  /// @param size in bytes, a multiple of the host's page size, and of that of
  ///             the huge pages that are asked for
  static Result<Mapping> try_anonymous(std::size_t size, const MappingOptions& options = {});
  static Mapping anonymous(std::size_t size, const MappingOptions& options = {}) {
    return try_anonymous(size, options).value();
  }

  /// Zeroed memory in a file of its own without a name (memfd_create), which
  /// other processes can map: hand them fd(). It is sealed against shrinking
  /// and growing, so that nobody can take memory away from under a mapping.
  /// @param size as that of anonymous()
  static Result<Mapping> try_memfd(std::size_t size, const MappingOptions& options = {});
  static Mapping memfd(std::size_t size, const MappingOptions& options = {}) {
    return try_memfd(size, options).value();
  }

  /// A part of a file: opened for reading and writing, for reading alone if the
  /// mapping is a private copy. Refused if the file ends before the part does
  /// (a last page that is not full counts). Should somebody cut the file short
  /// later, the next access is a SIGBUS: share files with nobody who might.
  /// @param size in bytes, a multiple of the page size
  static Result<Mapping> try_file(const char* path, std::size_t size, const FileOptions& file = {},
                                  const MappingOptions& options = {});
  static Mapping file(const char* path, std::size_t size, const FileOptions& file = {},
                      const MappingOptions& options = {}) {
    return try_file(path, size, file, options).value();
  }
  /// The same of an open file; the descriptor is duplicated, not taken.
  static Result<Mapping> try_file(int fd, std::size_t size, const FileOptions& file = {},
                                  const MappingOptions& options = {});
  static Mapping file(int fd, std::size_t size, const FileOptions& file = {},
                      const MappingOptions& options = {}) {
    return try_file(fd, size, file, options).value();
  }

  /// A memory file that another process made and sent. Refused unless it is as
  /// large as it must be and sealed against shrinking (F_SEAL_SHRINK): else its
  /// sender could cut it short, and the next access here would be a SIGBUS.
  /// @param fd   duplicated, not taken
  /// @param size in bytes, a multiple of the page size
  static Result<Mapping> try_from_fd(int fd, std::size_t size, const ReceivedOptions& received = {},
                                     const MappingOptions& options = {});
  static Mapping from_fd(int fd, std::size_t size, const ReceivedOptions& received = {},
                         const MappingOptions& options = {}) {
    return try_from_fd(fd, size, received, options).value();
  }

  /// Maps what KVM or a driver provides, shared. `operation` names the call in
  /// an error's message. The descriptor is not kept.
  static Result<Mapping> try_shared(const char* operation, int fd, std::size_t size,
                                    off_t offset = 0);

  Mapping(Mapping&& other) noexcept
      : region_(std::move(other.region_)),
        address_(std::exchange(other.address_, nullptr)),
        size_(std::exchange(other.size_, 0)),
        owner_(other.owner_) {}
  Mapping& operator=(Mapping&& other) noexcept {
    if (this != &other) {
      region_ = std::move(other.region_);
      address_ = std::exchange(other.address_, nullptr);
      size_ = std::exchange(other.size_, 0);
      owner_ = other.owner_;
    }
    return *this;
  }
  ~Mapping() = default;

  /// Where the memory begins, or null. Another thread or a running guest may
  /// write to it at any time: don't keep references to objects in it.
  std::byte* data() const noexcept { return address_; }
  /// Its size in bytes.
  std::size_t size() const noexcept { return size_; }

  /// Whether the memory is this process's: not in a forked child, where
  /// something else may be at its address.
  bool accessible() const noexcept { return detail::this_process() == owner_; }

  /// The size of the pages behind it, in bytes: that of huge pages where it is
  /// made of them, else the host's page size. What the kernel merges by itself
  /// (transparent huge pages) does not count. 0 if the mapping is empty.
  std::size_t page_size() const noexcept { return region_ ? region_->page_size : 0; }

  /// The descriptor of the file that shares this memory, owned by the mapping,
  /// or -1: anonymous memory and a file's private copy have none.
  int fd() const noexcept { return region_ ? region_->fd.get() : -1; }
  /// Where data() lies in fd(), in bytes.
  std::uint64_t file_offset() const noexcept {
    return region_ ? region_->file_offset + part_offset() : 0;
  }

  /// Which memory this is: the same for all mappings that show the same.
  detail::BackingId backing() const noexcept {
    return region_ ? region_->backing : detail::BackingId{};
  }
  /// Where data() lies in it, in bytes.
  std::uint64_t backing_offset() const noexcept {
    return region_ ? region_->backing_offset + part_offset() : 0;
  }

  /// A second handle to the same memory, at the same address.
  Mapping share() const noexcept { return Mapping(region_, address_, size_, owner_); }

  /// A handle to a part of the memory, at the part's address. The whole stays
  /// mapped while a handle to any part is left.
  /// @param offset in bytes from data(), a multiple of the host's page size
  /// @param size   in bytes, positive, a multiple of it too
  Result<Mapping> try_part(std::uint64_t offset, std::uint64_t size) const;
  Mapping part(std::uint64_t offset, std::uint64_t size) const {
    return try_part(offset, size).value();
  }

  /// Gives the pages back to the host, as a balloon does. Afterwards they read
  /// as zero, here and for everybody who shares them, and are allocated anew
  /// when they are touched. A guest may be running: what it writes meanwhile
  /// may or may not be lost. Refused for a file's private copy, which would
  /// show the file again, and for what KVM or a driver provides.
  /// (MADV_DONTNEED for anonymous memory, else fallocate with PUNCH_HOLE.)
  /// Marks no page as dirty: MemorySlot::discard does, or mark_dirty() in a View.
  /// @param offset in bytes from data(), a multiple of page_size()
  /// @param size   in bytes, a multiple of it too
  Result<void> try_discard(std::uint64_t offset, std::uint64_t size) const;
  void discard(std::uint64_t offset, std::uint64_t size) const {
    try_discard(offset, size).value();
  }

 private:
  friend class GuestMemfd;

  struct Request;

  Mapping(std::shared_ptr<detail::MappedRegion> region, std::byte* address, std::size_t size,
          detail::ProcessToken owner) noexcept
      : region_(std::move(region)), address_(address), size_(size), owner_(owner) {}

  std::uint64_t part_offset() const noexcept {
    return static_cast<std::uint64_t>(address_ - region_->data);
  }

  static Result<void> try_place_memfd(const Request& request, detail::MappedRegion& region,
                                      bool huge);
  static Result<Mapping> try_descriptor(const Request& request, Fd fd);
  static Result<Mapping> try_finish(const Request& request,
                                    std::shared_ptr<detail::MappedRegion> region);

  std::shared_ptr<detail::MappedRegion> region_;
  std::byte* address_ = nullptr;
  std::size_t size_ = 0;
  detail::ProcessToken owner_ = 0;
};

/// What is to be mapped, and how an error speaks of it.
struct Mapping::Request {
  const char* operation;
  std::size_t size;
  const MappingOptions& options;
  detail::MappingKind kind = detail::MappingKind::anonymous;
  std::uint64_t offset = 0;
  int fd = -1;
  const char* path = nullptr;

  std::string arguments() const {
    std::string out = path != nullptr ? detail::text("path=", path, ", ")
                      : fd >= 0       ? detail::text("fd=", fd, ", ")
                                      : std::string();
    out += detail::text("size=", size);
    if (offset != 0) {
      out += detail::text(", offset=", detail::Hex{offset});
    }
    if (huge()) {
      out += detail::text(", huge_pages=", size_name(huge_page_size()));
    }
    if (options.gpa != Gpa{}) {
      out += detail::text(", gpa=", detail::Hex{options.gpa.value});
    }
    return out;
  }
  Error failure(const char* what, int error_number, std::string_view cause = {}) const {
    return detail::make_error(error_number, what, arguments(), cause);
  }
  Error failure(int error_number, std::string_view cause = {}) const {
    return failure(operation, error_number, cause);
  }

  bool huge() const noexcept { return options.huge_pages != HugePages::none; }
  std::size_t huge_page_size() const noexcept {
    return static_cast<std::size_t>(options.huge_pages);
  }
  /// How the kernel's flags of mmap and memfd_create say it.
  unsigned huge_page_bits() const noexcept {
    return static_cast<unsigned>(__builtin_ctzll(huge_page_size())) << detail::huge_page_size_shift;
  }
  bool may_fall_back(int error_number) const noexcept {
    // Too few, none of this size, or no such pages at all.
    return options.fallback == HugePageFallback::transparent &&
           (error_number == ENOMEM || error_number == EINVAL || error_number == ENODEV ||
            error_number == ENOENT || error_number == ENOSYS || error_number == EOPNOTSUPP);
  }

  /// "2 MiB".
  static std::string size_name(std::size_t bytes) {
    constexpr std::array<const char*, 4> units{" bytes", " KiB", " MiB", " GiB"};
    std::size_t unit = 0;
    while (unit + 1 < units.size() && bytes != 0 && bytes % 1024 == 0) {
      bytes /= 1024;
      ++unit;
    }
    return detail::text(bytes, units[unit]);
  }

  /// What can be said before anything is mapped.
  Result<void> check() const {
    const std::size_t page = detail::sys::page_size();
    if (size > std::size_t{1} << 63) {
      return failure(EINVAL,
                     "the size is negative as a signed number: 2 << 30 overflows an int, "
                     "2_GiB does not");
    }
    if (size == 0 || size % page != 0) {
      return failure(EINVAL,
                     detail::text("the size must be a positive multiple of the page size, ", page));
    }
    if (offset % page != 0) {
      return failure(EINVAL,
                     detail::text("the offset must be a multiple of the page size, ", page));
    }
    if (kind != detail::MappingKind::anonymous &&
        !detail::part_fits(offset, size, detail::largest_offset)) {
      return failure(EINVAL, "no file is that large: offset and size go beyond 2^63 bytes");
    }
    if (options.gpa.value % page != 0) {
      return failure(EINVAL, detail::text("the gpa must be a multiple of the page size, ", page));
    }
    if (huge()) {
      const std::size_t bytes = huge_page_size();
      if ((bytes & (bytes - 1)) != 0 || bytes < page) {
        return failure(EINVAL, "the size of huge pages is a power of two, in bytes");
      }
      return check_page_size(bytes);
    }
    return {};
  }

  Result<void> check_page_size(std::size_t bytes) const {
    if (size % bytes != 0) {
      return failure(EINVAL, detail::text("the size must be a multiple of the huge pages' size, ",
                                          size_name(bytes)));
    }
    if (offset % bytes != 0) {
      return failure(EINVAL, detail::text("the offset must be a multiple of the huge pages' size, ",
                                          size_name(bytes)));
    }
    if (options.gpa.value % bytes != 0) {
      return failure(EINVAL,
                     detail::text("huge pages begin at multiples of their size, ", size_name(bytes),
                                  ", on the host: the gpa must be such a multiple too"));
    }
    return {};
  }

  std::string explain_mmap(int error_number, bool huge_pages, std::size_t page) const {
    if (huge_pages) {
      const std::string pages = size_name(page);
      const std::string pool =
          detail::text("/sys/kernel/mm/hugepages/hugepages-", page >> 10u, "kB/nr_hugepages");
      if (error_number == ENOMEM) {
        return detail::text("the host's pool of ", pages, " pages has fewer than ", size / page,
                            " free: raise ", pool,
                            ", or set .fallback = HugePageFallback::transparent");
      }
      if (error_number == EINVAL || error_number == ENODEV || error_number == ENOENT) {
        return detail::text("the host may have no huge pages of ", pages, ": is there a ", pool,
                            "? Or set .fallback = HugePageFallback::transparent");
      }
      return {};
    }
    switch (error_number) {
      case ENOMEM:
        return "the host has no room for it, or its limits forbid it";
      case EACCES:
        return "the descriptor is not open for reading, or, for a shared mapping, for writing";
      case EPERM:
        return "the file is sealed against writing (F_SEAL_WRITE or F_SEAL_FUTURE_WRITE), or the "
               "host forbids it";
      case ENODEV:
        return "what is behind the descriptor cannot be mapped";
      default:
        return {};
    }
  }

  /// Maps the region's memory: where the kernel likes, or in a larger stretch of
  /// addresses that holds guard pages and makes room to align.
  /// @return 0 or an errno value
  int map(detail::MappedRegion& region, int flags, int descriptor, std::size_t alignment) const {
    namespace sys = detail::sys;
    const std::size_t page = sys::page_size();
    const auto file_offset = static_cast<off_t>(offset);
    constexpr int access = PROT_READ | PROT_WRITE;
    if (!options.guard_pages && alignment <= region.page_size) {
      void* const address = sys::mmap(size, access, flags, descriptor, file_offset);
      if (address == MAP_FAILED) {
        return errno;
      }
      region.reserved = address;
      region.reserved_size = size;
      region.data = static_cast<std::byte*>(address);
      return 0;
    }
    const std::size_t guard = options.guard_pages ? page : 0;
    const std::size_t slack = alignment > page ? alignment : 0;
    std::size_t total = 0;
    if (__builtin_add_overflow(size, slack + 2 * guard, &total)) {
      return ENOMEM;
    }
    void* const reserved =
        sys::mmap(total, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (reserved == MAP_FAILED) {
      return errno;
    }
    region.reserved = reserved;
    region.reserved_size = total;
    auto* const low = static_cast<std::byte*>(reserved) + guard;
    const auto from = reinterpret_cast<std::uint64_t>(low);
    std::byte* const data = low + (detail::first_congruent(from, options.gpa, alignment) - from);
    // The rest of the stretch stays: it is addresses only, and cutting it off
    // could fail.
    if (sys::mmap_at(data, size, access, flags, descriptor, file_offset) == MAP_FAILED) {
      const int error_number = errno;
      release(region);
      return error_number;
    }
    region.data = data;
    return 0;
  }
  static void release(detail::MappedRegion& region) noexcept {
    detail::sys::munmap(region.reserved, region.reserved_size);
    region.reserved = nullptr;
  }

  Result<void> bind_nodes(const detail::MappedRegion& region) const {
    constexpr std::size_t most = 1024;
    constexpr std::size_t word_bits = sizeof(unsigned long) * CHAR_BIT;
    std::array<unsigned long, most / word_bits> bits{};
    std::string arguments =
        detail::text(this->arguments(), ", numa=", mode_name(options.numa.mode), " {");
    const char* separator = "";
    bool too_large = false;
    for (const unsigned node : options.numa.nodes) {
      arguments += detail::text(separator, node);
      separator = ", ";
      too_large = too_large || node >= most;
      if (!too_large) {
        bits[node / word_bits] |= 1ul << (node % word_bits);
      }
    }
    arguments += '}';
    if (too_large) {
      return detail::make_error(EINVAL, "mbind", arguments, "NUMA nodes are below 1024");
    }
    if (detail::sys::mbind(region.data, size, static_cast<int>(options.numa.mode), bits.data(),
                           most) != 0) {
      const int error_number = errno;
      return detail::make_error(
          error_number, "mbind", arguments,
          error_number == EINVAL
              ? "a node that does not exist, has no memory or is closed to this process, or none "
                "given: /sys/devices/system/node/has_memory lists them"
          : error_number == ENOSYS ? "this kernel knows no NUMA policies"
          : error_number == EPERM  ? "the host forbids it (a seccomp filter, perhaps)"
                                   : "");
    }
    return {};
  }
  static std::string mode_name(NumaMode mode) {
    switch (mode) {
      case NumaMode::none:
        return "none";
      case NumaMode::preferred:
        return "preferred";
      case NumaMode::bind:
        return "bind";
      case NumaMode::interleave:
        return "interleave";
    }
    return std::to_string(static_cast<int>(mode));
  }

  Result<void> populate(const detail::MappedRegion& region) const {
    int result = 0;
    do {
      result = detail::sys::madvise(region.data, size, detail::madv_populate_write);
    } while (result != 0 && errno == EINTR);
    if (result == 0) {
      return {};
    }
    const int error_number = errno;
    if (error_number != EINVAL) {
      return failure("MADV_POPULATE_WRITE", error_number,
                     error_number == ENOMEM   ? "the host has not enough memory"
                     : error_number == EFAULT ? "the memory is not there: the NUMA nodes have too "
                                                "few huge pages, or a file was cut short"
                                              : "");
    }
    // Before 5.14. Others may have the memory mapped: what is there must stay.
    const std::size_t step = detail::sys::page_size();
    for (std::size_t at = 0; at < size; at += step) {
      auto* const byte = reinterpret_cast<unsigned char*>(region.data + at);
      unsigned char seen = __atomic_load_n(byte, __ATOMIC_RELAXED);
      while (!__atomic_compare_exchange_n(byte, &seen, seen, true, __ATOMIC_RELAXED,
                                          __ATOMIC_RELAXED)) {
      }
    }
    return {};
  }
};

inline Result<Mapping> Mapping::try_finish(const Request& request,
                                           std::shared_ptr<detail::MappedRegion> region) {
  namespace sys = detail::sys;
  const MappingOptions& options = request.options;
  region->size = request.size;
  region->kind = request.kind;
  // A child must neither write to the guest nor copy its memory on write.
  if (sys::madvise(region->reserved, region->reserved_size, MADV_DONTFORK) != 0) {
    return request.failure(errno, "MADV_DONTFORK was refused");
  }
  const bool fell_back = request.huge() && region->page_size != request.huge_page_size();
  if ((options.transparent_huge_pages && region->page_size == sys::page_size()) || fell_back) {
    if (sys::madvise(region->data, request.size, MADV_HUGEPAGE) != 0) {
      const int error_number = errno;
      return request.failure(
          "MADV_HUGEPAGE", error_number,
          error_number == EINVAL
              ? "this kernel has no transparent huge pages, or not for this kind "
                "of memory"
              : "");
    }
  }
  if (options.numa.mode != NumaMode::none) {
    if (auto bound = request.bind_nodes(*region); !bound) {
      return bound.error();
    }
  }
  if (options.populate) {
    if (auto populated = request.populate(*region); !populated) {
      return populated.error();
    }
  }
  std::byte* const data = region->data;
  const detail::ProcessToken owner = region->owner;
  return Mapping(std::move(region), data, request.size, owner);
}

inline Result<Mapping> Mapping::try_anonymous(std::size_t size, const MappingOptions& options) {
  const Request request{.operation = "mmap", .size = size, .options = options};
  if (auto checked = request.check(); !checked) {
    return checked.error();
  }
  const std::size_t page = detail::sys::page_size();
  auto region = std::make_shared<detail::MappedRegion>();
  region->backing = detail::new_backing();
  constexpr int flags = MAP_PRIVATE | MAP_ANONYMOUS;
  if (request.huge()) {
    region->page_size = request.huge_page_size();
    const int error_number =
        request.map(*region, flags | MAP_HUGETLB | static_cast<int>(request.huge_page_bits()), -1,
                    region->page_size);
    if (error_number == 0) {
      return try_finish(request, std::move(region));
    }
    if (!request.may_fall_back(error_number)) {
      return request.failure(error_number,
                             request.explain_mmap(error_number, true, region->page_size));
    }
  }
  region->page_size = page;
  const bool aligned = options.transparent_huge_pages || request.huge();
  const int error_number = request.map(*region, options.reserve ? flags : flags | MAP_NORESERVE, -1,
                                       aligned ? detail::transparent_huge_page_size(page) : page);
  if (error_number != 0) {
    return request.failure(error_number, request.explain_mmap(error_number, false, page));
  }
  return try_finish(request, std::move(region));
}

/// Makes a sealed memory file and maps it.
inline Result<void> Mapping::try_place_memfd(const Request& request, detail::MappedRegion& region,
                                             bool huge) {
  namespace sys = detail::sys;
  const std::size_t page = sys::page_size();
  unsigned flags = detail::mfd_cloexec | detail::mfd_allow_sealing;
  if (huge) {
    flags |= detail::mfd_hugetlb | request.huge_page_bits();
  }
  region.page_size = huge ? request.huge_page_size() : page;
  constexpr const char* name = "kvm-guest-memory";
  int fd = sys::memfd_create(name, flags | detail::mfd_noexec_seal);
  if (fd < 0 && errno == EINVAL) {  // Before 6.3, which knows no such flag.
    fd = sys::memfd_create(name, flags);
  }
  if (fd < 0) {
    const int error_number = errno;
    return request.failure(error_number,
                           huge ? request.explain_mmap(error_number, true, region.page_size) : "");
  }
  region.fd.reset(fd);
  if (sys::ftruncate(fd, static_cast<off_t>(request.size)) != 0) {
    return request.failure("ftruncate of a memfd", errno);
  }
  if (sys::add_seals(fd, detail::seal_shrink | detail::seal_grow) != 0) {
    return request.failure("fcntl(F_ADD_SEALS)", errno);
  }
  struct ::stat status {};
  if (sys::fstat(fd, &status) != 0) {
    return request.failure("fstat of a memfd", errno);
  }
  region.backing = detail::backing_of(status);
  const bool aligned = request.options.transparent_huge_pages || request.huge();
  const int error_number = request.map(region, MAP_SHARED | (huge ? 0 : MAP_NORESERVE), fd,
                                       huge      ? region.page_size
                                       : aligned ? detail::transparent_huge_page_size(page)
                                                 : page);
  if (error_number != 0) {
    return request.failure("mmap of a memfd", error_number,
                           request.explain_mmap(error_number, huge, region.page_size));
  }
  return {};
}

inline Result<Mapping> Mapping::try_memfd(std::size_t size, const MappingOptions& options) {
  const Request request{.operation = "memfd_create",
                        .size = size,
                        .options = options,
                        .kind = detail::MappingKind::shared_file};
  if (auto checked = request.check(); !checked) {
    return checked.error();
  }
  auto region = std::make_shared<detail::MappedRegion>();
  auto placed = try_place_memfd(request, *region, request.huge());
  if (!placed && request.huge() && request.may_fall_back(placed.error().error_number())) {
    placed = try_place_memfd(request, *region, false);
  }
  if (!placed) {
    return placed.error();
  }
  return try_finish(request, std::move(region));
}

/// Maps an open file.
inline Result<Mapping> Mapping::try_descriptor(const Request& request, Fd fd) {
  namespace sys = detail::sys;
  const bool shared = request.kind == detail::MappingKind::shared_file;
  auto region = std::make_shared<detail::MappedRegion>();
  struct ::stat status {};
  if (sys::fstat(fd.get(), &status) != 0) {
    return request.failure("fstat", errno);
  }
  struct ::statfs file_system {};
  if (sys::fstatfs(fd.get(), &file_system) != 0) {
    return request.failure("fstatfs", errno);
  }
  const bool huge = static_cast<unsigned long>(file_system.f_type) == detail::hugetlbfs_magic;
  const std::size_t page = sys::page_size();
  region->page_size = huge ? static_cast<std::size_t>(file_system.f_bsize) : page;
  if (request.huge() && request.huge_page_size() != region->page_size) {
    return request.failure(
        EINVAL, detail::text("this file's pages are of ", Request::size_name(region->page_size),
                             ": huge pages come with a file on a hugetlbfs"));
  }
  if (huge) {
    if (auto checked = request.check_page_size(region->page_size); !checked) {
      return checked.error();
    }
  }
  if (S_ISREG(status.st_mode)) {
    const auto bytes = static_cast<std::uint64_t>(status.st_size);
    const std::uint64_t whole_pages = (bytes + page - 1) / page * page;
    if (!detail::part_fits(request.offset, request.size, whole_pages)) {
      return request.failure(EINVAL, detail::text("the file has ", bytes,
                                                  " bytes: what lies beyond would be a SIGBUS"));
    }
  }
  region->backing = shared ? detail::backing_of(status) : detail::new_backing();
  region->backing_offset = shared ? request.offset : 0;
  region->file_offset = shared ? request.offset : 0;
  const bool reserve = request.options.reserve || huge;
  const int error_number = request.map(
      *region, (shared ? MAP_SHARED : MAP_PRIVATE) | (reserve ? 0 : MAP_NORESERVE), fd.get(),
      huge                                     ? region->page_size
      : request.options.transparent_huge_pages ? detail::transparent_huge_page_size(page)
                                               : page);
  if (error_number != 0) {
    return request.failure("mmap", error_number,
                           request.explain_mmap(error_number, huge, region->page_size));
  }
  if (shared) {
    region->fd = std::move(fd);
  }
  return try_finish(request, std::move(region));
}

inline Result<Mapping> Mapping::try_file(const char* path, std::size_t size,
                                         const FileOptions& file, const MappingOptions& options) {
  const bool shared = file.sharing == FileSharing::shared;
  const Request request{
      .operation = "open",
      .size = size,
      .options = options,
      .kind = shared ? detail::MappingKind::shared_file : detail::MappingKind::private_file,
      .offset = file.offset,
      .path = path};
  if (auto checked = request.check(); !checked) {
    return checked.error();
  }
  Fd fd(detail::sys::open(path, shared ? O_RDWR : O_RDONLY));
  if (!fd) {
    return request.failure(errno);
  }
  return try_descriptor(request, std::move(fd));
}

inline Result<Mapping> Mapping::try_file(int fd, std::size_t size, const FileOptions& file,
                                         const MappingOptions& options) {
  const bool shared = file.sharing == FileSharing::shared;
  const Request request{
      .operation = "fcntl(F_DUPFD_CLOEXEC)",
      .size = size,
      .options = options,
      .kind = shared ? detail::MappingKind::shared_file : detail::MappingKind::private_file,
      .offset = file.offset,
      .fd = fd};
  if (auto checked = request.check(); !checked) {
    return checked.error();
  }
  Fd own(detail::sys::duplicate(fd));
  if (!own) {
    return request.failure(errno);
  }
  return try_descriptor(request, std::move(own));
}

inline Result<Mapping> Mapping::try_from_fd(int fd, std::size_t size,
                                            const ReceivedOptions& received,
                                            const MappingOptions& options) {
  const Request request{.operation = "fcntl(F_DUPFD_CLOEXEC)",
                        .size = size,
                        .options = options,
                        .kind = detail::MappingKind::shared_file,
                        .offset = received.offset,
                        .fd = fd};
  if (auto checked = request.check(); !checked) {
    return checked.error();
  }
  Fd own(detail::sys::duplicate(fd));
  if (!own) {
    return request.failure(errno);
  }
  if (!received.accept_unsealed) {
    // Before its size is looked at: from then on it cannot shrink.
    constexpr const char* get_seals = "fcntl(F_GET_SEALS)";
    const int seals = detail::sys::get_seals(own.get());
    if (seals < 0) {
      const int error_number = errno;
      return request.failure(get_seals, error_number,
                             error_number == EINVAL
                                 ? "this kind of file has no seals, so that it could be cut short "
                                   "under the mapping: .accept_unsealed takes it all the same"
                                 : "");
    }
    if ((seals & detail::seal_shrink) == 0) {
      return request.failure(get_seals, EPERM,
                             "the file is not sealed against shrinking (F_SEAL_SHRINK), so that it "
                             "could be cut short under the mapping: .accept_unsealed takes it all "
                             "the same");
    }
  }
  return try_descriptor(request, std::move(own));
}

inline Result<Mapping> Mapping::try_shared(const char* operation, int fd, std::size_t size,
                                           off_t offset) {
  const MappingOptions options;
  const Request request{.operation = operation,
                        .size = size,
                        .options = options,
                        .kind = detail::MappingKind::device,
                        .offset = static_cast<std::uint64_t>(offset)};
  if (auto checked = request.check(); !checked) {
    return checked.error();
  }
  auto region = std::make_shared<detail::MappedRegion>();
  region->page_size = detail::sys::page_size();
  region->backing = detail::new_backing();
  const int error_number = request.map(*region, MAP_SHARED, fd, region->page_size);
  if (error_number != 0) {
    return request.failure(error_number,
                           request.explain_mmap(error_number, false, region->page_size));
  }
  return try_finish(request, std::move(region));
}

inline Result<Mapping> Mapping::try_part(std::uint64_t offset, std::uint64_t size) const {
  const auto fail = [&](int error_number, std::string_view cause) {
    return detail::make_error(
        error_number, "Mapping::part",
        detail::text("offset=", detail::Hex{offset}, ", size=", detail::Hex{size}), cause);
  };
  if (address_ == nullptr) {
    return fail(EBADF, "the mapping is empty");
  }
  const std::size_t page = detail::sys::page_size();
  if (size == 0 || size % page != 0 || offset % page != 0) {
    return fail(EINVAL, detail::text("a part begins at a multiple of the page size, ", page,
                                     ", and is a positive multiple of it long"));
  }
  if (!detail::part_fits(offset, size, size_)) {
    return fail(EINVAL, detail::text("it does not lie within the mapping's ", detail::Hex{size_},
                                     " bytes"));
  }
  return Mapping(region_, address_ + offset, size, owner_);
}

inline Result<void> Mapping::try_discard(std::uint64_t offset, std::uint64_t size) const {
  using detail::MappingKind;
  const bool file = region_ && region_->kind == MappingKind::shared_file;
  const char* const operation = file ? "fallocate" : "MADV_DONTNEED";
  const auto fail = [&](int error_number, std::string_view cause) {
    return detail::make_error(
        error_number, operation,
        detail::text("offset=", detail::Hex{offset}, ", size=", detail::Hex{size}), cause);
  };
  if (address_ == nullptr) {
    return fail(EBADF, "the mapping is empty");
  }
  if (!accessible()) {
    return fail(EIO, "the memory is that of the process which this one was forked from");
  }
  if (region_->kind == MappingKind::private_file || region_->kind == MappingKind::device) {
    return fail(EOPNOTSUPP, region_->kind == MappingKind::device
                                ? "this memory is KVM's or a driver's"
                                : "a file's private copy would not read as zero but as the file");
  }
  // In the backing: a part of huge pages may begin in the middle of one.
  const std::uint64_t page = region_->page_size;
  if (size % page != 0 || (part_offset() + offset) % page != 0) {
    return fail(EINVAL, detail::text("pages are given back whole: offset and size must be "
                                     "multiples of ",
                                     Request::size_name(page)));
  }
  if (!detail::part_fits(offset, size, size_)) {
    return fail(EINVAL, detail::text("it does not lie within the mapping's ", detail::Hex{size_},
                                     " bytes"));
  }
  if (size == 0) {
    return {};
  }
  if (file) {
    if (detail::sys::fallocate(fd(), detail::fallocate_punch_hole | detail::fallocate_keep_size,
                               static_cast<off_t>(file_offset() + offset),
                               static_cast<off_t>(size)) != 0) {
      const int error_number = errno;
      return fail(error_number, error_number == EOPNOTSUPP
                                    ? "this file system cannot free a file's pages"
                                : error_number == EPERM ? "the file is sealed against writing"
                                                        : "");
    }
    return {};
  }
  if (detail::sys::madvise(address_ + offset, size, MADV_DONTNEED) != 0) {
    const int error_number = errno;
    return fail(error_number,
                error_number == EINVAL
                    ? "the memory is locked (mlock), or it is huge pages and the kernel older than "
                      "5.18"
                    : "");
  }
  return {};
}

KVM_HPP_END

#endif  // !KVM_HPP_REFUSED
#endif
