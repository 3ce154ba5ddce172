// SPDX-License-Identifier: MIT
#include <kvm/memory/mapping.hpp>

#include <gtest/gtest.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <initializer_list>
#include <optional>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/kicking.hpp"

namespace {

using kvm::FileSharing;
using kvm::Gpa;
using kvm::HugePageFallback;
using kvm::HugePages;
using kvm::Mapping;
using kvm::MappingOptions;
using kvm::NumaMode;
using namespace kvm::literals;

const std::size_t page = kvm::detail::sys::page_size();
constexpr std::uint64_t max64 = ~std::uint64_t{0};

template <class T>
void expect_error(const kvm::Result<T>& result, int error_number,
                  std::initializer_list<const char*> fragments) {
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().error_number(), error_number) << result.error().what();
  for (const char* const fragment : fragments) {
    EXPECT_NE(std::string(result.error().what()).find(fragment), std::string::npos)
        << "no \"" << fragment << "\" in: " << result.error().what();
  }
}

/// The mapping; or a failure that says why there is none, and another one, so that the test goes on
/// and cleans up after itself.
Mapping made(kvm::Result<Mapping> result) {
  if (!result) {
    ADD_FAILURE() << result.error().what();
    return Mapping::try_anonymous(16_MiB).value();
  }
  return std::move(result).value();
}

void put(const Mapping& mapping, std::size_t offset, unsigned value) {
  std::memset(mapping.data() + offset, static_cast<int>(value), 1);
}
unsigned get(const Mapping& mapping, std::size_t offset) {
  return std::to_integer<unsigned>(mapping.data()[offset]);
}
bool all_zero(const Mapping& mapping, std::size_t offset, std::size_t size) {
  for (std::size_t i = 0; i < size; ++i) {
    if (get(mapping, offset + i) != 0) {
      return false;
    }
  }
  return true;
}

/// Whether the kernel can read, or write, a byte of ours there.
bool reachable(std::byte* address, bool writing) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) {
    std::abort();
  }
  const char byte = 0;
  const ssize_t moved = writing
                            ? (::write(ends[1], &byte, 1) == 1 ? ::read(ends[0], address, 1) : -2)
                            : ::write(ends[1], address, 1);
  ::close(ends[0]);
  ::close(ends[1]);
  return moved == 1;
}

/// What /proc/self/`file` says of the area that has this address; smaps has
/// lines beneath.
std::string area(const std::byte* address, const char* file = "maps") {
  std::ifstream in(std::string("/proc/self/") + file);
  std::string found;
  bool inside = false;
  for (std::string line; std::getline(in, line);) {
    unsigned long long from = 0;
    unsigned long long to = 0;
    if (std::sscanf(line.c_str(), "%llx-%llx ", &from, &to) == 2) {
      const auto at = reinterpret_cast<unsigned long long>(address);
      inside = from <= at && at < to;
    }
    if (inside) {
      found += line + '\n';
    }
  }
  return found;
}

std::size_t resident(const Mapping& mapping) {
  std::vector<unsigned char> pages(mapping.size() / page);
  EXPECT_EQ(::mincore(mapping.data(), mapping.size(), pages.data()), 0);
  std::size_t count = 0;
  for (const unsigned char one : pages) {
    count += one & 1u;
  }
  return count;
}

std::size_t open_descriptors() {
  std::size_t count = 0;
  for (int fd = 0; fd < 1024; ++fd) {
    count += ::fcntl(fd, F_GETFD) >= 0 ? 1u : 0u;
  }
  return count;
}

std::vector<Mapping> all_kinds() {
  std::vector<Mapping> kinds;
  kinds.push_back(made(Mapping::try_anonymous(8 * page)));
  kinds.push_back(made(Mapping::try_memfd(8 * page)));
  return kinds;
}

/// A file of `pages` pages; each byte of a page is the page's number + 1.
class TemporaryFile {
 public:
  explicit TemporaryFile(std::size_t pages, std::size_t cut = 0)
      : path_(testing::TempDir() + "kvm_hpp_mapping_XXXXXX"), fd_(::mkstemp(path_.data())) {
    for (std::size_t i = 0; i < pages; ++i) {
      const std::string bytes(page, static_cast<char>(i + 1));
      EXPECT_EQ(::write(fd_.get(), bytes.data(), page), static_cast<ssize_t>(page));
    }
    EXPECT_EQ(::ftruncate(fd_.get(), static_cast<off_t>(pages * page - cut)), 0);
  }
  ~TemporaryFile() { ::unlink(path_.c_str()); }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  const char* path() const { return path_.c_str(); }
  int fd() const { return fd_.get(); }
  unsigned byte(std::size_t offset) const {
    unsigned char value = 0;
    EXPECT_EQ(::pread(fd_.get(), &value, 1, static_cast<off_t>(offset)), 1);
    return value;
  }

 private:
  std::string path_;
  kvm::Fd fd_;
};

/// What a forked child says: 0 if all of `checks` held, else the number of the
/// first that did not.
template <class F>
int in_child(F&& checks) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::_exit(checks());
  }
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + status;
}

// ---- sizes

TEST(Mapping, EmptyHasNothing) {
  const Mapping none;
  EXPECT_EQ(none.data(), nullptr);
  EXPECT_EQ(none.size(), 0u);
  EXPECT_EQ(none.fd(), -1);
  EXPECT_EQ(none.page_size(), 0u);
  EXPECT_EQ(none.file_offset(), 0u);
  EXPECT_EQ(none.share().data(), nullptr);
  expect_error(none.try_part(0, page), EBADF, {"empty"});
  expect_error(none.try_discard(0, page), EBADF, {"empty"});
}

TEST(Mapping, SizesThatAreRefused) {
  const TemporaryFile file(1);
  const auto each = [&](std::size_t size) {
    std::vector<kvm::Result<Mapping>> results;
    results.push_back(Mapping::try_anonymous(size));
    results.push_back(Mapping::try_memfd(size));
    results.push_back(Mapping::try_file(file.path(), size));
    results.push_back(Mapping::try_file(file.fd(), size));
    results.push_back(Mapping::try_from_fd(file.fd(), size));
    results.push_back(Mapping::try_shared("mmap", file.fd(), size));
    return results;
  };
  for (const std::size_t size :
       {std::size_t{0}, std::size_t{1}, page - 1, page + 1, 3 * page - 8}) {
    for (const auto& result : each(size)) {
      expect_error(result, EINVAL, {"multiple of the page size", "size="});
    }
  }
  for (const auto& result : each(static_cast<std::size_t>(2 << 30))) {  // NOLINT: negative
    expect_error(result, EINVAL, {"negative"});
  }
  expect_error(Mapping::try_anonymous(std::size_t{1} << 62), ENOMEM, {"mmap(", "no room"});
  expect_error(Mapping::try_anonymous(std::size_t{1} << 63), ENOMEM, {"mmap("});
  expect_error(Mapping::try_anonymous(std::size_t{1} << 63,
                                      {.transparent_huge_pages = true, .guard_pages = true}),
               ENOMEM, {"mmap("});
  expect_error(Mapping::try_memfd(std::size_t{1} << 63), EINVAL, {"2^63"});
}

TEST(Mapping, OptionsThatAreRefused) {
  expect_error(Mapping::try_anonymous(page, {.gpa = Gpa{1}}), EINVAL, {"gpa=0x1", "page size"});
  expect_error(Mapping::try_anonymous(6_MiB, {.huge_pages = HugePages{3_MiB}}), EINVAL,
               {"power of two", "3 MiB"});
  expect_error(Mapping::try_anonymous(6_MiB, {.huge_pages = HugePages{page / 2}}), EINVAL,
               {"power of two"});
  expect_error(Mapping::try_anonymous(3_MiB, {.huge_pages = HugePages::size_2MiB}), EINVAL,
               {"multiple of the huge pages' size, 2 MiB"});
  expect_error(Mapping::try_memfd(4_MiB, {.huge_pages = HugePages::size_2MiB, .gpa = Gpa{1_MiB}}),
               EINVAL, {"gpa=0x100000", "multiple", "2 MiB"});
  const TemporaryFile file(4);
  expect_error(Mapping::try_file(file.path(), page, {.offset = 8}), EINVAL, {"offset=0x8"});
  expect_error(Mapping::try_file(file.path(), page, {.offset = max64 - page + 1}), EINVAL,
               {"2^63"});
  expect_error(Mapping::try_file(file.path(), 4_MiB, {}, {.huge_pages = HugePages::size_2MiB}),
               EINVAL, {"hugetlbfs", file.path()});
}

// ---- where it is put

TEST(Mapping, CongruenceArithmetic) {
  using kvm::detail::first_congruent;
  for (const std::uint64_t alignment : {std::uint64_t{1}, std::uint64_t{8}, std::uint64_t{64}}) {
    for (std::uint64_t low = 0; low < 130; low += 13) {
      for (std::uint64_t gpa = 0; gpa < 140; gpa += 7) {
        std::uint64_t expected = low;
        while (expected % alignment != gpa % alignment) {
          ++expected;
        }
        EXPECT_EQ(first_congruent(low, Gpa{gpa}, alignment), expected);
      }
    }
  }
  EXPECT_EQ(first_congruent(0x7f00'0000'1000, Gpa{max64 - 0xfff}, 2_MiB), 0x7f00'001f'f000u);
}

TEST(Mapping, BoundsArithmetic) {
  using kvm::detail::part_fits;
  EXPECT_TRUE(part_fits(0, 0, 0));
  EXPECT_TRUE(part_fits(0, 8, 8));
  EXPECT_TRUE(part_fits(8, 0, 8));
  EXPECT_FALSE(part_fits(8, 1, 8));
  EXPECT_FALSE(part_fits(9, 0, 8));
  EXPECT_FALSE(part_fits(1, max64, 8));
  EXPECT_FALSE(part_fits(max64, 1, 8));
  EXPECT_FALSE(part_fits(max64, max64, max64 - 1));
  EXPECT_TRUE(part_fits(0, max64, max64));
}

TEST(Mapping, IsCongruentToTheGpa) {
  const std::size_t huge = kvm::detail::transparent_huge_page_size(page);
  for (const std::uint64_t gpa : {std::uint64_t{0}, std::uint64_t{page}, std::uint64_t{5 * page},
                                  huge - page, 4_GiB + page, ~std::uint64_t{0} - page + 1}) {
    for (const bool guards : {false, true}) {
      const MappingOptions options{
          .transparent_huge_pages = true, .gpa = Gpa{gpa}, .guard_pages = guards};
      const Mapping anonymous = made(Mapping::try_anonymous(2 * page, options));
      EXPECT_EQ((reinterpret_cast<std::uint64_t>(anonymous.data()) - gpa) % huge, 0u);
      const Mapping memory_file = made(Mapping::try_memfd(2 * page, options));
      EXPECT_EQ((reinterpret_cast<std::uint64_t>(memory_file.data()) - gpa) % huge, 0u);
      for (const Mapping* mapping : {&anonymous, &memory_file}) {
        put(*mapping, 0, 1);
        put(*mapping, 2 * page - 1, 2);
      }
    }
  }
}

TEST(Mapping, GuardPagesSurroundIt) {
  for (const bool transparent : {false, true}) {
    const MappingOptions options{.transparent_huge_pages = transparent, .guard_pages = true};
    for (const Mapping& mapping : {made(Mapping::try_anonymous(3 * page, options)),
                                   made(Mapping::try_memfd(3 * page, options))}) {
      std::byte* const data = mapping.data();
      for (const bool writing : {false, true}) {
        EXPECT_TRUE(reachable(data, writing));
        EXPECT_TRUE(reachable(data + 3 * page - 1, writing));
        EXPECT_FALSE(reachable(data - 1, writing));
        EXPECT_FALSE(reachable(data - page, writing));
        EXPECT_FALSE(reachable(data + 3 * page, writing));
        EXPECT_FALSE(reachable(data + 4 * page - 1, writing));
      }
      // Taken, so that nothing else comes to be there.
      EXPECT_NE(area(data - 1).find("---p"), std::string::npos) << area(data - 1);
      EXPECT_NE(area(data + 3 * page).find("---p"), std::string::npos) << area(data + 3 * page);
    }
  }
}

TEST(Mapping, UnmapsItsGuardsToo) {
  std::byte* data = nullptr;
  {
    const Mapping mapping =
        made(Mapping::try_anonymous(page, {.transparent_huge_pages = true, .guard_pages = true}));
    data = mapping.data();
    EXPECT_FALSE(area(data).empty());
  }
  for (std::byte* const at : {data - page, data, data + page}) {
    EXPECT_EQ(area(at), "") << "still mapped";
  }
}

// ---- what it is made of

TEST(Mapping, PopulateMakesItResident) {
  for (const bool populate : {false, true}) {
    const MappingOptions options{.populate = populate};
    const Mapping anonymous = made(Mapping::try_anonymous(64 * page, options));
    EXPECT_EQ(resident(anonymous), populate ? 64u : 0u);
    const Mapping memory_file = made(Mapping::try_memfd(64 * page, options));
    EXPECT_EQ(resident(memory_file), populate ? 64u : 0u);
    EXPECT_TRUE(all_zero(anonymous, 0, 64 * page));
    EXPECT_TRUE(all_zero(memory_file, 0, 64 * page));
  }
}

TEST(Mapping, PopulateKeepsWhatIsThere) {
  const TemporaryFile file(4);
  for (const FileSharing sharing : {FileSharing::shared, FileSharing::private_copy}) {
    const Mapping mapping =
        made(Mapping::try_file(file.path(), 4 * page, {.sharing = sharing}, {.populate = true}));
    for (std::size_t i = 0; i < 4; ++i) {
      EXPECT_EQ(get(mapping, i * page), i + 1);
      EXPECT_EQ(get(mapping, i * page + page - 1), i + 1);
    }
  }
}

TEST(Mapping, ReserveIsCountedByTheHost) {
  // "ac": accountable; without MAP_NORESERVE only.
  const Mapping reserved = made(Mapping::try_anonymous(4 * page, {.reserve = true}));
  const Mapping unreserved = made(Mapping::try_anonymous(4 * page));
  EXPECT_NE(area(reserved.data(), "smaps").find(" ac"), std::string::npos);
  std::ifstream in("/proc/sys/vm/overcommit_memory");
  int overcommit = 0;
  in >> overcommit;
  if (overcommit != 2) {  // Where never overcommitting, MAP_NORESERVE means nothing.
    EXPECT_NE(area(unreserved.data(), "smaps").find(" nr"), std::string::npos);
    EXPECT_EQ(area(unreserved.data(), "smaps").find(" ac"), std::string::npos);
  }
}

TEST(Mapping, TransparentHugePagesAreAdvised) {
  if (::access("/sys/kernel/mm/transparent_hugepage", F_OK) != 0) {
    GTEST_SKIP() << "this kernel has no transparent huge pages";
  }
  const std::size_t huge = kvm::detail::transparent_huge_page_size(page);
  const Mapping advised =
      made(Mapping::try_anonymous(2 * huge, {.transparent_huge_pages = true, .populate = true}));
  const Mapping memory_file = made(Mapping::try_memfd(huge, {.transparent_huge_pages = true}));
  const Mapping plain = made(Mapping::try_anonymous(2 * huge));
  EXPECT_NE(area(advised.data(), "smaps").find(" hg"), std::string::npos);
  EXPECT_NE(area(memory_file.data(), "smaps").find(" hg"), std::string::npos);
  EXPECT_EQ(area(plain.data(), "smaps").find(" hg"), std::string::npos);
  EXPECT_EQ(advised.page_size(), page);
}

TEST(Mapping, NumaNodes) {
  const auto bound =
      Mapping::try_anonymous(4 * page, {.populate = true, .numa = {NumaMode::bind, {0}}});
  if (!bound && bound.error().error_number() == ENOSYS) {
    GTEST_SKIP() << "this kernel has no NUMA policies";
  }
  ASSERT_TRUE(bound) << bound.error().what();
  const auto policy = [](const Mapping& mapping, unsigned long& nodes) {
    int mode = -1;
    std::array<unsigned long, 64> mask{};
    constexpr unsigned long mpol_f_addr = 2;
    EXPECT_EQ(::syscall(SYS_get_mempolicy, &mode, mask.data(), 4096ul,
                        mapping.data() + mapping.size() - 1, mpol_f_addr),
              0);
    nodes = mask[0];
    return mode;
  };
  unsigned long nodes = 0;
  EXPECT_EQ(policy(*bound, nodes), 2);
  EXPECT_EQ(nodes, 1u);
  const Mapping memory_file =
      made(Mapping::try_memfd(4 * page, {.numa = {NumaMode::interleave, {0}}}));
  EXPECT_EQ(policy(memory_file, nodes), 3);
  const Mapping preferred =
      made(Mapping::try_anonymous(4 * page, {.numa = {NumaMode::preferred, {0}}}));
  EXPECT_EQ(policy(preferred, nodes), 1);
  EXPECT_EQ(policy(made(Mapping::try_anonymous(page)), nodes), 0);

  expect_error(Mapping::try_anonymous(page, {.numa = {NumaMode::bind, {999, 1000}}}), EINVAL,
               {"mbind(", "bind {999, 1000}", "has_memory"});
  expect_error(Mapping::try_memfd(page, {.numa = {NumaMode::bind, {1024}}}), EINVAL,
               {"mbind(", "{1024}", "below 1024"});
  expect_error(Mapping::try_anonymous(page, {.numa = {NumaMode::interleave, {}}}), EINVAL,
               {"mbind(", "interleave {}"});
  std::ifstream online("/sys/devices/system/node/online");
  std::string text;
  online >> text;
  if (text == "0") {
    expect_error(Mapping::try_anonymous(page, {.numa = {NumaMode::bind, {63}}}), EINVAL,
                 {"mbind(", "bind {63}", "does not exist"});
  }
}

// A terabyte of them, which no pool has.
TEST(Mapping, TooFewHugePages) {
  for (const HugePages size : {HugePages::size_2MiB, HugePages::size_1GiB}) {
    const char* const name = size == HugePages::size_2MiB ? "2 MiB" : "1 GiB";
    for (const auto& result : {Mapping::try_anonymous(1024_GiB, {.huge_pages = size}),
                               Mapping::try_memfd(1024_GiB, {.huge_pages = size})}) {
      ASSERT_FALSE(result);
      expect_error(result, result.error().error_number(),
                   {name, "nr_hugepages", "HugePageFallback::transparent"});
    }
    const MappingOptions fallback{.huge_pages = size, .fallback = HugePageFallback::transparent};
    for (const Mapping& mapping : {made(Mapping::try_anonymous(1024_GiB, fallback)),
                                   made(Mapping::try_memfd(1024_GiB, fallback))}) {
      EXPECT_EQ(mapping.page_size(), page);
      EXPECT_EQ(mapping.size(), 1024_GiB);
      EXPECT_EQ(reinterpret_cast<std::uint64_t>(mapping.data()) %
                    kvm::detail::transparent_huge_page_size(page),
                0u);
      EXPECT_NE(area(mapping.data(), "smaps").find(" hg"), std::string::npos);
      put(mapping, 0, 1);
      put(mapping, 1024_GiB - 1, 1);
    }
  }
  // No host has pages of half a gigabyte and of 256 MiB.
  expect_error(Mapping::try_anonymous(1_GiB, {.huge_pages = HugePages{page * 2}}), EINVAL,
               {"may have no huge pages"});
}

/// Four pages of 2 MiB in the host's pool, given back afterwards.
class MappingHugePagesSerial : public testing::Test {
 protected:
  static constexpr const char* pool = "/sys/kernel/mm/hugepages/hugepages-2048kB/";

  static long read(const char* name) {
    std::ifstream in(std::string(pool) + name);
    long value = -1;
    in >> value;
    return value;
  }
  static void resize(long pages) {
    std::string file(pool);  // By +=: GCC 12 sees + overrun itself, where headers are precompiled.
    file += "nr_hugepages";
    std::ofstream out(file);
    out << pages << std::flush;
  }
  void SetUp() override {
    before_ = read("nr_hugepages");
    if (before_ < 0) {
      GTEST_SKIP() << "this kernel has no pool of 2 MiB pages";
    }
    if (::access((std::string(pool) + "nr_hugepages").c_str(), W_OK) != 0) {
      before_ = -1;
      GTEST_SKIP() << "only root can put huge pages into the pool";
    }
    resize(before_ + 4);
    if (read("free_hugepages") < 4) {
      GTEST_SKIP() << "the host has no 4 free pages of 2 MiB";
    }
    free_ = read("free_hugepages") - read("resv_hugepages");
  }
  void TearDown() override {
    if (before_ >= 0) {
      EXPECT_EQ(read("free_hugepages") - read("resv_hugepages"), free_) << "huge pages leaked";
      resize(before_);
      EXPECT_EQ(read("nr_hugepages"), before_);
    }
  }

  long before_ = -1;
  long free_ = 0;
};

TEST_F(MappingHugePagesSerial, AreReservedAndGivenBack) {
  for (const bool guards : {false, true}) {
    for (const bool memfd : {false, true}) {
      const MappingOptions options{.huge_pages = HugePages::size_2MiB, .guard_pages = guards};
      const Mapping mapping =
          made(memfd ? Mapping::try_memfd(8_MiB, options) : Mapping::try_anonymous(8_MiB, options));
      EXPECT_EQ(mapping.page_size(), 2_MiB);
      EXPECT_EQ(reinterpret_cast<std::uint64_t>(mapping.data()) % 2_MiB, 0u);
      EXPECT_EQ(read("free_hugepages") - read("resv_hugepages"), free_ - 4);
      EXPECT_NE(area(mapping.data(), "smaps").find(" ht"), std::string::npos);
      put(mapping, 0, 1);
      put(mapping, 8_MiB - 1, 1);
      if (guards) {
        EXPECT_FALSE(reachable(mapping.data() - 1, false));
        EXPECT_FALSE(reachable(mapping.data() + 8_MiB, false));
      }
      if (free_ == 4) {
        expect_error(Mapping::try_anonymous(2_MiB, options), ENOMEM,
                     {"2 MiB", "hugepages-2048kB/nr_hugepages"});
      }
    }
  }
}

bool kernel_is_older_than(unsigned major, unsigned minor) {
  struct ::utsname name {};
  unsigned has_major = 0;
  unsigned has_minor = 0;
  EXPECT_EQ(::uname(&name), 0);
  EXPECT_EQ(std::sscanf(name.release, "%u.%u", &has_major, &has_minor), 2);
  return has_major < major || (has_major == major && has_minor < minor);
}

TEST_F(MappingHugePagesSerial, AreDiscardedWhole) {
  for (const bool memfd : {false, true}) {
    const MappingOptions options{.huge_pages = HugePages::size_2MiB, .populate = true};
    const Mapping mapping =
        made(memfd ? Mapping::try_memfd(8_MiB, options) : Mapping::try_anonymous(8_MiB, options));
    for (std::size_t at = 0; at < 8_MiB; at += page) {
      put(mapping, at, 7);
    }
    expect_error(mapping.try_discard(page, 2_MiB), EINVAL, {"multiples of 2 MiB"});
    expect_error(mapping.try_discard(2_MiB, page), EINVAL, {"multiples of 2 MiB"});
    const auto discarded = mapping.try_discard(2_MiB, 4_MiB);
    if (!memfd && kernel_is_older_than(5, 18)) {  // It cannot, and the message says so.
      expect_error(discarded, EINVAL, {"huge pages and the kernel older than 5.18"});
      continue;
    }
    ASSERT_TRUE(discarded) << discarded.error().what();
    EXPECT_EQ(get(mapping, 2_MiB - page), 7u);
    EXPECT_TRUE(all_zero(mapping, 2_MiB, 4_MiB));
    EXPECT_EQ(get(mapping, 6_MiB), 7u);
    // A part that begins within a huge page knows where the next one begins.
    put(mapping, 4_MiB, 7);
    const Mapping part = made(mapping.try_part(page, 6_MiB));
    expect_error(part.try_discard(0, 2_MiB), EINVAL, {"multiples of 2 MiB"});
    ASSERT_TRUE(part.try_discard(4_MiB - page, 2_MiB));
    EXPECT_EQ(get(mapping, 4_MiB), 0u);
  }
}

TEST_F(MappingHugePagesSerial, OfAMemfdAreKnownToWhoReceivesIt) {
  const Mapping mapping = made(Mapping::try_memfd(8_MiB, {.huge_pages = HugePages::size_2MiB}));
  const Mapping received = made(Mapping::try_from_fd(mapping.fd(), 4_MiB, {.offset = 4_MiB}));
  EXPECT_EQ(received.page_size(), 2_MiB);
  put(mapping, 4_MiB, 9);
  EXPECT_EQ(get(received, 0), 9u);
  expect_error(Mapping::try_from_fd(mapping.fd(), page), EINVAL, {"huge pages' size, 2 MiB"});
  expect_error(Mapping::try_from_fd(mapping.fd(), 2_MiB, {.offset = page}), EINVAL,
               {"huge pages' size, 2 MiB"});
  EXPECT_EQ(
      made(Mapping::try_from_fd(mapping.fd(), 4_MiB, {}, {.huge_pages = HugePages::size_2MiB}))
          .page_size(),
      2_MiB);
  expect_error(Mapping::try_from_fd(mapping.fd(), 4_MiB, {}, {.huge_pages = HugePages{4_MiB}}),
               EINVAL, {"pages are of 2 MiB"});
}

// ---- handles

TEST(Mapping, IsUnmappedWithItsLastHandle) {
  std::vector<Mapping> kinds = all_kinds();
  for (Mapping& first : kinds) {
    std::byte* const data = first.data();
    put(first, 3 * page, 5);
    std::optional<Mapping> second = first.share();
    std::optional<Mapping> part = made(first.try_part(3 * page, 2 * page));
    EXPECT_EQ(second->data(), data);
    EXPECT_EQ(second->size(), 8 * page);
    EXPECT_EQ(part->data(), data + 3 * page);
    EXPECT_EQ(part->size(), 2 * page);
    first = Mapping();
    EXPECT_EQ(first.data(), nullptr);
    EXPECT_EQ(get(*second, 3 * page), 5u);
    second.reset();
    EXPECT_EQ(get(*part, 0), 5u);
    part.reset();
    EXPECT_EQ(area(data), "") << "still mapped";
  }
}

TEST(Mapping, MovesLeaveNothing) {
  Mapping first = made(Mapping::try_memfd(page));
  std::byte* const data = first.data();
  const int fd = first.fd();
  Mapping second = std::move(first);
  EXPECT_EQ(first.data(), nullptr);  // NOLINT: moved from
  EXPECT_EQ(first.size(), 0u);
  EXPECT_EQ(first.fd(), -1);
  EXPECT_EQ(second.data(), data);
  Mapping& itself = second;
  second = std::move(itself);
  EXPECT_EQ(second.data(), data);
  second = made(Mapping::try_anonymous(page));
  EXPECT_EQ(::fcntl(fd, F_GETFD), -1) << "the descriptor outlived its mapping";
}

TEST(Mapping, PartsStayInBounds) {
  const std::vector<Mapping> kinds = all_kinds();
  for (const Mapping& mapping : kinds) {
    EXPECT_EQ(made(mapping.try_part(0, 8 * page)).data(), mapping.data());
    EXPECT_EQ(made(mapping.try_part(7 * page, page)).data(), mapping.data() + 7 * page);
    const std::uint64_t high = max64 - page + 1;
    const std::pair<std::uint64_t, std::uint64_t> outside[] = {
        {8 * page, page}, {7 * page, 2 * page},
        {0, 9 * page},    {high, page},
        {page, high},     {high, high},
        {high, 9 * page}, {0, high},
        {8 * page, high}, {std::uint64_t{1} << 63, std::uint64_t{1} << 63}};
    for (const auto& [offset, size] : outside) {
      expect_error(mapping.try_part(offset, size), EINVAL, {"offset=", "size=", "within"});
      expect_error(mapping.try_discard(offset, size), EINVAL, {"offset=", "size=", "within"});
    }
    const std::pair<std::uint64_t, std::uint64_t> odd[] = {
        {1, page}, {0, page + 1}, {max64, page}, {0, max64}, {max64, max64}, {page / 2, page / 2}};
    for (const auto& [offset, size] : odd) {
      expect_error(mapping.try_part(offset, size), EINVAL, {"multiple"});
      expect_error(mapping.try_discard(offset, size), EINVAL, {"multiple"});
    }
    expect_error(mapping.try_part(0, 0), EINVAL, {"multiple"});
    // A part's bounds are its own.
    const Mapping part = made(mapping.try_part(2 * page, 2 * page));
    expect_error(part.try_part(page, 2 * page), EINVAL, {"within"});
    expect_error(part.try_discard(page, 2 * page), EINVAL, {"within"});
    EXPECT_EQ(made(part.try_part(page, page)).data(), mapping.data() + 3 * page);
  }
}

TEST(Mapping, SaysWhichMemoryItIs) {
  const Mapping one = made(Mapping::try_anonymous(8 * page));
  const Mapping two = made(Mapping::try_anonymous(8 * page));
  const Mapping three = made(Mapping::try_memfd(8 * page));
  const Mapping four = made(Mapping::try_memfd(8 * page));
  EXPECT_NE(one.backing(), two.backing());
  EXPECT_NE(three.backing(), four.backing());
  EXPECT_NE(one.backing(), three.backing());
  EXPECT_EQ(one.share().backing(), one.backing());
  const Mapping part = made(made(one.try_part(2 * page, 4 * page)).try_part(page, page));
  EXPECT_EQ(part.backing(), one.backing());
  EXPECT_EQ(part.backing_offset(), 3 * page);
  EXPECT_EQ(part.fd(), -1);

  const Mapping again = made(Mapping::try_from_fd(three.fd(), 4 * page, {.offset = 2 * page}));
  EXPECT_EQ(again.backing(), three.backing());
  EXPECT_NE(again.data(), three.data());
  EXPECT_EQ(again.backing_offset(), 2 * page);
  EXPECT_EQ(again.file_offset(), 2 * page);
  EXPECT_EQ(made(again.try_part(page, page)).backing_offset(), 3 * page);
  EXPECT_EQ(made(again.try_part(page, page)).file_offset(), 3 * page);

  const TemporaryFile file(4);
  const Mapping shared = made(Mapping::try_file(file.path(), 2 * page, {.offset = page}));
  const Mapping by_fd = made(Mapping::try_file(file.fd(), 2 * page));
  const FileSharing own = FileSharing::private_copy;
  const Mapping copy = made(Mapping::try_file(file.path(), 2 * page, {.sharing = own}));
  const Mapping copy_two = made(Mapping::try_file(file.path(), 2 * page, {.sharing = own}));
  EXPECT_EQ(shared.backing(), by_fd.backing());
  EXPECT_EQ(shared.backing_offset(), page);
  EXPECT_EQ(by_fd.backing_offset(), 0u);
  EXPECT_NE(copy.backing(), shared.backing());
  EXPECT_NE(copy.backing(), copy_two.backing());
  EXPECT_EQ(copy.fd(), -1);
}

TEST(Mapping, AliasesSeeEachOthersWrites) {
  const Mapping one = made(Mapping::try_memfd(8 * page));
  const Mapping two = made(Mapping::try_from_fd(one.fd(), 8 * page));
  const Mapping three = made(made(one.share()).try_part(4 * page, page));
  put(one, 4 * page + 3, 11);
  EXPECT_EQ(get(two, 4 * page + 3), 11u);
  EXPECT_EQ(get(three, 3), 11u);
  put(two, 4 * page + 3, 12);
  EXPECT_EQ(get(one, 4 * page + 3), 12u);
}

// ---- discard

TEST(Mapping, DiscardedPagesReadAsZero) {
  const TemporaryFile file(8);
  std::vector<Mapping> kinds = all_kinds();
  kinds.push_back(made(Mapping::try_file(file.path(), 8 * page)));
  for (const Mapping& mapping : kinds) {
    std::memset(mapping.data(), 7, 8 * page);
    ASSERT_TRUE(mapping.try_discard(0, 0));
    ASSERT_TRUE(mapping.try_discard(8 * page, 0));
    EXPECT_EQ(get(mapping, 0), 7u);
    const Mapping part = made(mapping.try_part(page, 6 * page));
    const auto discarded = part.try_discard(2 * page, 2 * page);
    ASSERT_TRUE(discarded) << discarded.error().what();
    EXPECT_TRUE(all_zero(mapping, 3 * page, 2 * page));
    for (std::size_t i = 0; i < 8 * page; ++i) {
      if (i < 3 * page || i >= 5 * page) {
        ASSERT_EQ(get(mapping, i), 7u) << i;
      }
    }
    put(mapping, 3 * page, 9);
    EXPECT_EQ(get(part, 2 * page), 9u);
  }
  EXPECT_EQ(file.byte(3 * page), 9u);
  EXPECT_EQ(file.byte(4 * page), 0u);
  EXPECT_EQ(file.byte(5 * page), 7u);
}

TEST(Mapping, DiscardedPagesAreGivenBack) {
  for (const bool memfd : {false, true}) {
    const MappingOptions options{.populate = true};
    const Mapping mapping = made(memfd ? Mapping::try_memfd(64 * page, options)
                                       : Mapping::try_anonymous(64 * page, options));
    ASSERT_EQ(resident(mapping), 64u);
    ASSERT_TRUE(mapping.try_discard(16 * page, 32 * page));
    EXPECT_EQ(resident(mapping), 32u);
  }
}

TEST(Mapping, DiscardReachesWhoSharesTheMemory) {
  const Mapping one = made(Mapping::try_memfd(4 * page));
  const Mapping two = made(Mapping::try_from_fd(one.fd(), 2 * page, {.offset = 2 * page}));
  std::memset(one.data(), 7, 4 * page);
  ASSERT_TRUE(two.try_discard(page, page));
  EXPECT_EQ(get(one, 2 * page), 7u);
  EXPECT_TRUE(all_zero(one, 3 * page, page));
}

TEST(Mapping, DiscardThatCannotWork) {
  const TemporaryFile file(2);
  const Mapping copy =
      made(Mapping::try_file(file.path(), 2 * page, {.sharing = FileSharing::private_copy}));
  expect_error(copy.try_discard(0, page), EOPNOTSUPP, {"not read as zero"});
  const Mapping given = made(Mapping::try_shared("mmap", file.fd(), page));
  expect_error(given.try_discard(0, page), EOPNOTSUPP, {"driver's"});
  const Mapping locked = made(Mapping::try_anonymous(page));
  // Not mlock(), which sanitizers turn off.
  if (::syscall(SYS_mlock, locked.data(), page) == 0) {
    expect_error(locked.try_discard(0, page), EINVAL, {"MADV_DONTNEED", "locked"});
  }
}

// ---- files

TEST(Mapping, SharedFileIsWrittenThrough) {
  const TemporaryFile file(4);
  const Mapping mapping = made(Mapping::try_file(file.path(), 2 * page, {.offset = page}));
  EXPECT_EQ(get(mapping, 0), 2u);
  EXPECT_EQ(get(mapping, 2 * page - 1), 3u);
  put(mapping, 0, 0x55);
  EXPECT_EQ(file.byte(page), 0x55u);
  EXPECT_EQ(file.byte(page + 1), 2u);
  EXPECT_GE(mapping.fd(), 0);
  EXPECT_NE(mapping.fd(), file.fd());
  EXPECT_EQ(mapping.file_offset(), page);
  EXPECT_EQ(::fcntl(mapping.fd(), F_GETFD), FD_CLOEXEC);
}

TEST(Mapping, PrivateCopyKeepsItsWrites) {
  const TemporaryFile file(4);
  ::chmod(file.path(), 0400);  // Reading is enough.
  const kvm::Fd reader(::open(file.path(), O_RDONLY | O_CLOEXEC));
  for (const bool by_path : {false, true}) {
    const kvm::FileOptions options{.offset = 2 * page, .sharing = FileSharing::private_copy};
    const Mapping mapping = made(by_path ? Mapping::try_file(file.path(), 2 * page, options)
                                         : Mapping::try_file(reader.get(), 2 * page, options));
    EXPECT_EQ(get(mapping, 0), 3u);
    put(mapping, 0, 0x55);
    EXPECT_EQ(get(mapping, 0), 0x55u);
    EXPECT_EQ(file.byte(2 * page), 3u);
  }
  expect_error(Mapping::try_file(reader.get(), page), EACCES, {"fd=", "writing"});
}

TEST(Mapping, FileMustBeLongEnough) {
  const TemporaryFile file(3, 100);  // The last page is not full.
  const Mapping whole = made(Mapping::try_file(file.path(), 3 * page));
  EXPECT_EQ(get(whole, 3 * page - 101), 3u);
  EXPECT_EQ(get(whole, 3 * page - 1), 0u);
  expect_error(Mapping::try_file(file.path(), 4 * page), EINVAL, {file.path(), "SIGBUS"});
  expect_error(Mapping::try_file(file.fd(), page, {.offset = 3 * page}), EINVAL, {"SIGBUS"});
  expect_error(Mapping::try_file("/nonexistent/file", page), ENOENT,
               {"open(", "path=/nonexistent/file"});
  expect_error(Mapping::try_file(-1, page), EBADF, {"fcntl"});
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  const kvm::Fd in(ends[0]);
  const kvm::Fd out(ends[1]);
  ASSERT_FALSE(Mapping::try_file(in.get(), page));
}

// ---- memory files

TEST(Mapping, MemfdIsSealed) {
  const Mapping mapping = made(Mapping::try_memfd(4 * page));
  ASSERT_GE(mapping.fd(), 0);
  EXPECT_EQ(::ftruncate(mapping.fd(), static_cast<off_t>(page)), -1);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(::ftruncate(mapping.fd(), static_cast<off_t>(8 * page)), -1);
  EXPECT_EQ(errno, EPERM);
  put(mapping, 4 * page - 1, 1);
  EXPECT_EQ(::fcntl(mapping.fd(), F_GETFD), FD_CLOEXEC);
}

/// A memory file made by hand.
kvm::Fd raw_memfd(std::size_t size, int seals) {
  constexpr unsigned cloexec_and_sealing = 3;
  kvm::Fd fd(static_cast<int>(::syscall(SYS_memfd_create, "raw", cloexec_and_sealing)));
  EXPECT_EQ(::ftruncate(fd.get(), static_cast<off_t>(size)), 0);
  EXPECT_EQ(::fcntl(fd.get(), F_ADD_SEALS, seals), 0);
  return fd;
}

TEST(Mapping, ReceivedMemfdMustBeSealedAndLargeEnough) {
  const kvm::Fd open = raw_memfd(4 * page, F_SEAL_GROW);
  expect_error(Mapping::try_from_fd(open.get(), page), EPERM,
               {"F_SEAL_SHRINK", "accept_unsealed", "fd="});
  EXPECT_EQ(made(Mapping::try_from_fd(open.get(), page, {.accept_unsealed = true})).size(), page);
  expect_error(Mapping::try_from_fd(open.get(), 5 * page, {.accept_unsealed = true}), EINVAL,
               {"SIGBUS"});

  const kvm::Fd sealed = raw_memfd(4 * page, F_SEAL_SHRINK);
  EXPECT_EQ(made(Mapping::try_from_fd(sealed.get(), 4 * page)).size(), 4 * page);
  expect_error(Mapping::try_from_fd(sealed.get(), 5 * page), EINVAL, {"SIGBUS"});
  expect_error(Mapping::try_from_fd(sealed.get(), page, {.offset = 4 * page}), EINVAL, {"SIGBUS"});
  expect_error(Mapping::try_from_fd(sealed.get(), page, {.offset = page / 2}), EINVAL, {"offset"});
  expect_error(Mapping::try_from_fd(sealed.get(), page, {.offset = max64 - page + 1}), EINVAL,
               {"2^63"});
  expect_error(Mapping::try_from_fd(-1, page), EBADF, {"fcntl"});

  const kvm::Fd unwritable = raw_memfd(4 * page, F_SEAL_SHRINK | F_SEAL_WRITE);
  expect_error(Mapping::try_from_fd(unwritable.get(), page), EPERM, {"mmap(", "F_SEAL_WRITE"});

  const TemporaryFile file(1);  // On a tmpfs it has seals, but not this one.
  const auto refused = Mapping::try_from_fd(file.fd(), page);
  ASSERT_FALSE(refused);
  expect_error(refused, refused.error().error_number(), {"fcntl(F_GET_SEALS)", "accept_unsealed"});
  EXPECT_TRUE(Mapping::try_from_fd(file.fd(), page, {.accept_unsealed = true}));
}

TEST(Mapping, KeepsItsOwnDescriptor) {
  Mapping received = Mapping();
  {
    const Mapping sender = made(Mapping::try_memfd(page));
    put(sender, 0, 3);
    received = made(Mapping::try_from_fd(sender.fd(), page));
    EXPECT_NE(received.fd(), sender.fd());
  }
  EXPECT_EQ(get(received, 0), 3u);
  struct ::stat status {};
  EXPECT_EQ(::fstat(received.fd(), &status), 0);
}

// ---- processes

#if KVM_HPP_TESTS_TSAN
#define KVM_HPP_SKIP_FORK() GTEST_SKIP() << "thread sanitizer does not follow a fork"
#else
#define KVM_HPP_SKIP_FORK()
#endif

/// Sends a descriptor over a socket, or takes one from it.
void send_descriptor(int socket, int fd) {
  char byte = 0;
  ::iovec part{.iov_base = &byte, .iov_len = 1};
  alignas(::cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  ::msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  ::cmsghdr* const header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
  ::sendmsg(socket, &message, 0);
}
int receive_descriptor(int socket) {
  char byte = 0;
  ::iovec part{.iov_base = &byte, .iov_len = 1};
  alignas(::cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  ::msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  int fd = -1;
  if (::recvmsg(socket, &message, MSG_CMSG_CLOEXEC) == 1 && CMSG_FIRSTHDR(&message) != nullptr) {
    std::memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
  }
  return fd;
}

// The child makes the memory, so that nothing but the descriptor connects the two.
TEST(MappingFork, TwoProcessesShareAMemfd) {
  KVM_HPP_SKIP_FORK();
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
  const kvm::Fd ours(ends[0]);
  kvm::Fd theirs(ends[1]);
  const pid_t child = ::fork();
  if (child == 0) {
    auto memory = Mapping::try_memfd(16 * page);
    if (!memory) {
      ::_exit(1);
    }
    put(*memory, 9 * page, 0x21);
    send_descriptor(theirs.get(), memory->fd());
    char byte = 0;
    if (::read(theirs.get(), &byte, 1) != 1) {
      ::_exit(2);
    }
    ::_exit(get(*memory, 9 * page + 1) == 0x22 ? 0 : 3);
  }
  theirs.reset();
  const kvm::Fd fd(receive_descriptor(ours.get()));
  ASSERT_TRUE(fd);
  const Mapping memory = made(Mapping::try_from_fd(fd.get(), 8 * page, {.offset = 8 * page}));
  EXPECT_EQ(get(memory, page), 0x21u);
  put(memory, page + 1, 0x22);
  EXPECT_EQ(::ftruncate(fd.get(), 0), -1);
  EXPECT_EQ(::write(ours.get(), "", 1), 1);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST(MappingFork, AChildHasNoneOfIt) {
  KVM_HPP_SKIP_FORK();
  const MappingOptions options{.transparent_huge_pages = true, .guard_pages = true};
  for (const bool memfd : {false, true}) {
    std::optional<Mapping> mapping = made(memfd ? Mapping::try_memfd(4 * page, options)
                                                : Mapping::try_anonymous(4 * page, options));
    put(*mapping, 0, 5);
    std::byte* const data = mapping->data();
    EXPECT_EQ(in_child([&] {
                if (mapping->accessible() || mapping->share().accessible()) {
                  return 1;
                }
                // The addresses are free, those of the guards too.
                void* const own = ::mmap(data - page, 6 * page, PROT_READ | PROT_WRITE,
                                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
                if (own != data - page) {
                  return 2;
                }
                put(*mapping, 0, 6);
                auto discarded = mapping->try_discard(0, page);
                if (discarded || discarded.error().error_number() != EIO) {
                  return 3;
                }
                Mapping part = std::move(mapping->try_part(0, page)).value();
                if (part.accessible()) {
                  return 4;
                }
                part = Mapping();
                mapping.reset();
                return data[0] == std::byte{6} ? 0 : 5;
              }),
              0);
    EXPECT_EQ(get(*mapping, 0), 5u);
  }
}

TEST(Mapping, FailuresLeaveNoDescriptor) {
  const TemporaryFile file(1);
  const std::size_t before = open_descriptors();
  EXPECT_FALSE(Mapping::try_file(file.path(), 2 * page));
  EXPECT_FALSE(Mapping::try_file(file.fd(), 2 * page));
  EXPECT_FALSE(Mapping::try_from_fd(file.fd(), page));
  EXPECT_FALSE(Mapping::try_memfd(1024_GiB, {.huge_pages = HugePages::size_1GiB}));
  EXPECT_FALSE(Mapping::try_memfd(page, {.numa = {NumaMode::bind, {1000}}}));
  EXPECT_EQ(open_descriptors(), before);
}

}  // namespace
