// SPDX-License-Identifier: MIT
// What errors of mapping memory say, word for word, cause by cause; and what is done about each
// errno that has another way. Calls fail, or seem to succeed, as the test wants.
#include <kvm/kvm.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "fault/interpose.hpp"
#include "support/child.hpp"
#include "support/slot_access.hpp"

namespace kvm_test {
struct SizeName {
  using Member = std::string (*)(std::size_t);
  friend Member reach(SizeName);
};
template struct Reach<SizeName, &kvm::Mapping::Request::size_name>;
}  // namespace kvm_test

namespace {

using fault::Call;
using fault::Function;
using kvm::FileSharing;
using kvm::Gpa;
using kvm::HugePageFallback;
using kvm::HugePages;
using kvm::Mapping;
using kvm::MappingOptions;
using kvm::NumaMode;
namespace request = kvm::uapi::request;
using namespace kvm::literals;

const std::size_t page = kvm::detail::sys::page_size();
/// Asked for here, so that no test that counts calls is the first to have the page mapped for it.
const auto process = kvm::detail::this_process();
const std::string page_text = std::to_string(page);
constexpr unsigned long membarrier_expedited = 8;
constexpr unsigned long membarrier_register = 16;
constexpr unsigned long populate_write = 23;

using Matches = std::function<bool(const Call&)>;
Matches of(Function function) {
  return [function](const Call& call) { return call.function == function; };
}
Matches of(Function function, unsigned long detail) {
  return [=](const Call& call) { return call.function == function && call.detail == detail; };
}
fault::Rule failing(Matches matches, int error_number, int times = 1) {
  return {.matches = [=](const Call& call, std::size_t) { return matches(call); },
          .error_number = error_number,
          .times = times};
}
fault::Rule answering(Matches matches, long result, int times = 1) {
  return {.matches = [=](const Call& call, std::size_t) { return matches(call); },
          .times = times,
          .result = result};
}

/// What an operation's error says besides the operation and its arguments; "-" if it succeeds.
struct Said {
  int error_number = 0;
  std::string cause = "-";
  std::string all;
  std::vector<Call> calls;

  std::size_t count(const Matches& matches) const {
    return static_cast<std::size_t>(std::count_if(calls.begin(), calls.end(), matches));
  }
};
template <class F>
Said said(std::vector<fault::Rule> rules, F make) {
  Said said;
  fault::arm(std::move(rules));
  const auto result = make();
  said.calls = fault::disarm();
  if (!result) {
    said.error_number = result.error().error_number();
    said.all = result.error().what();
    const std::size_t arguments_end = said.all.find("): ") + 1;
    const std::string about = std::string(": ") + std::strerror(said.error_number);
    EXPECT_TRUE(said.all.ends_with(about)) << said.all;
    const std::size_t end = said.all.size() - about.size();
    said.cause =
        end == arguments_end ? "" : said.all.substr(arguments_end + 2, end - arguments_end - 2);
  }
  return said;
}
template <class F>
std::string cause(fault::Rule rule, F make) {
  return said({std::move(rule)}, make).cause;
}
template <class F>
std::string cause(F make) {
  return said({}, make).cause;
}

/// Memory of huge pages without any: the mapping that was asked for is this one.
class Imagined {
 public:
  static constexpr std::size_t size = 4_MiB;
  Imagined() {
    whole_ = ::mmap(nullptr, 2 * size, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    const auto from = reinterpret_cast<std::uintptr_t>(whole_);
    at_ = reinterpret_cast<std::byte*>((from + size - 1) / size * size);
  }
  // What the library unmapped is gone; this does no harm to it.
  ~Imagined() { ::munmap(whole_, 2 * size); }
  Imagined(const Imagined&) = delete;
  Imagined& operator=(const Imagined&) = delete;
  fault::Rule rule() const {
    return answering(of(Function::mmap, size),
                     static_cast<long>(reinterpret_cast<std::intptr_t>(at_)));
  }
  std::byte* at() const { return at_; }

 private:
  void* whole_;
  std::byte* at_;
};
/// A memory file of huge pages: making one takes none.
int huge_file(std::size_t size) {
  const int fd = static_cast<int>(
      ::syscall(SYS_memfd_create, "huge", MFD_HUGETLB | MFD_ALLOW_SEALING | MFD_CLOEXEC));
  if (fd >= 0 && (::ftruncate(fd, static_cast<off_t>(size)) != 0 ||
                  ::fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) != 0)) {
    ADD_FAILURE() << errno;
  }
  return fd;
}

// --- before anything is mapped ---

TEST(Causes, OfWhatCannotBeMapped) {
  const std::string positive =
      "the size must be a positive multiple of the page size, " + page_text;
  const kvm::Fd file(::memfd_create("file", 0));
  const auto anonymous = [](std::size_t size, MappingOptions options = {}) {
    return cause([&] { return Mapping::try_anonymous(size, options); });
  };
  const auto of_file = [&](std::size_t size, std::uint64_t offset, MappingOptions options = {}) {
    return cause([&] { return Mapping::try_file(file.get(), size, {.offset = offset}, options); });
  };
  EXPECT_EQ(anonymous(0), positive);
  EXPECT_EQ(anonymous(page + 1), positive);
  EXPECT_EQ(anonymous((std::size_t{1} << 63) + page),
            "the size is negative as a signed number: 2 << 30 overflows an int, 2_GiB does not");
  EXPECT_EQ(anonymous(std::size_t{1} << 63),
            "the host has no room for it, or its limits forbid it");
  EXPECT_EQ(of_file(page, 100), "the offset must be a multiple of the page size, " + page_text);
  EXPECT_EQ(of_file(page, (std::uint64_t{1} << 63) - page),
            "no file is that large: offset and size go beyond 2^63 bytes");
  EXPECT_EQ(anonymous(page, {.gpa = Gpa{100}}),
            "the gpa must be a multiple of the page size, " + page_text);

  const std::string power = "the size of huge pages is a power of two, in bytes";
  EXPECT_EQ(anonymous(6_MiB, {.huge_pages = HugePages{3_MiB}}), power);
  EXPECT_EQ(anonymous(page, {.huge_pages = HugePages{page / 2}}), power);
  EXPECT_NE(anonymous(page, {.huge_pages = HugePages{page}}), power);
  EXPECT_EQ(anonymous(page, {.huge_pages = HugePages::size_2MiB}),
            "the size must be a multiple of the huge pages' size, 2 MiB");
  EXPECT_EQ(of_file(2_MiB, page, {.huge_pages = HugePages::size_2MiB}),
            "the offset must be a multiple of the huge pages' size, 2 MiB");
  EXPECT_EQ(anonymous(2_MiB, {.huge_pages = HugePages::size_2MiB, .gpa = Gpa{page}}),
            "huge pages begin at multiples of their size, 2 MiB, on the host: the gpa must be such "
            "a multiple too");
}
TEST(Causes, ArgumentsAreAllThere) {
  const auto all = [](auto make) { return said({}, make).all; };
  EXPECT_TRUE(all([] {
                return Mapping::try_file(0, 1, {.offset = 0x100}, {.gpa = Gpa{0x10}});
              }).starts_with("fcntl(F_DUPFD_CLOEXEC)(fd=0, size=1, offset=0x100, gpa=0x10): "));
  EXPECT_TRUE(all([] { return Mapping::try_anonymous(1); }).starts_with("mmap(size=1): "));
  EXPECT_TRUE(all([] {
                return Mapping::try_file("/nowhere", 1);
              }).starts_with("open(path=/nowhere, size=1): "));
  EXPECT_TRUE(all([] {
                return Mapping::try_anonymous(0, {.huge_pages = HugePages{1024_GiB}});
              }).starts_with("mmap(size=0, huge_pages=1024 GiB): "));
  const auto name = reach(kvm_test::SizeName{});
  EXPECT_EQ(name(0), "0 bytes");
  EXPECT_EQ(name(1000), "1000 bytes");
  EXPECT_EQ(name(64_KiB), "64 KiB");
  EXPECT_EQ(name(1_GiB), "1 GiB");
  EXPECT_EQ(name(4096_GiB), "4096 GiB");
}
TEST(Causes, BackingsAreTheFilesOwn) {
  const auto backing = [](mode_t mode, dev_t device, ino_t inode, dev_t is = 0) {
    struct ::stat status {};
    status.st_mode = mode;
    status.st_dev = device;
    status.st_ino = inode;
    status.st_rdev = is;
    return kvm::detail::backing_of(status);
  };
  EXPECT_EQ(backing(S_IFREG, 1, 2), backing(S_IFREG, 1, 2));
  EXPECT_NE(backing(S_IFREG, 1, 2), backing(S_IFREG, 1, 3));
  EXPECT_NE(backing(S_IFREG, 1, 2), backing(S_IFREG, 2, 2));
  for (const mode_t mode : {mode_t{S_IFCHR}, mode_t{S_IFBLK}}) {
    EXPECT_EQ(backing(mode, 1, 2, 7), backing(mode, 1, 3, 7)) << "two names of a device";
    EXPECT_NE(backing(mode, 1, 2, 7), backing(mode, 1, 2, 8));
  }
  EXPECT_NE(backing(S_IFIFO, 1, 2, 7), backing(S_IFIFO, 1, 2, 7));
  EXPECT_NE(backing(0, 1, 2, 7), backing(0, 1, 2, 7));
}

// --- mmap ---

TEST(Causes, OfMmap) {
  const kvm::Fd file(::memfd_create("file", 0));
  ASSERT_EQ(::ftruncate(file.get(), static_cast<off_t>(page)), 0);
  const auto refused = [&](int error_number) {
    const std::string one = cause(failing(of(Function::mmap), error_number),
                                  [] { return Mapping::try_anonymous(page); });
    EXPECT_EQ(
        cause(failing(of(Function::mmap), error_number), [] { return Mapping::try_memfd(page); }),
        one);
    EXPECT_EQ(cause(failing(of(Function::mmap), error_number),
                    [&] { return Mapping::try_file(file.get(), page); }),
              one);
    EXPECT_EQ(cause(failing(of(Function::mmap), error_number),
                    [&] { return Mapping::try_shared("x", file.get(), page); }),
              one);
    return one;
  };
  EXPECT_EQ(refused(ENOMEM), "the host has no room for it, or its limits forbid it");
  EXPECT_EQ(refused(EACCES),
            "the descriptor is not open for reading, or, for a shared mapping, for writing");
  EXPECT_EQ(refused(EPERM),
            "the file is sealed against writing (F_SEAL_WRITE or F_SEAL_FUTURE_WRITE), or the host "
            "forbids it");
  EXPECT_EQ(refused(ENODEV), "what is behind the descriptor cannot be mapped");
  EXPECT_EQ(refused(EAGAIN), "");
}
TEST(Causes, OfPagesOfAVcpu) {
  const kvm::Fd zero(::open("/dev/zero", O_RDWR | O_CLOEXEC));
  const auto refused = [&](Function function, int error_number) {
    return cause(failing(of(function), error_number),
                 [&] { return kvm::detail::VcpuPages::try_map("x", zero.get(), page); });
  };
  EXPECT_EQ(refused(Function::mmap, ENOMEM),
            "the host has no room for it, or its limits forbid it");
  EXPECT_EQ(refused(Function::mmap, EACCES), "");
  EXPECT_EQ(refused(Function::madvise, EINVAL), "MADV_DONTFORK was refused");
  EXPECT_EQ(said({}, [&] { return kvm::detail::VcpuPages::try_map("x", zero.get(), page); })
                .count(of(Function::munmap)),
            0u)
      << "what was moved from has nothing to unmap";
}
TEST(Causes, OfHugePages) {
  const std::string none =
      "the host may have no huge pages of 2 MiB: is there a "
      "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages? Or set .fallback = "
      "HugePageFallback::transparent";
  const std::string few =
      "the host's pool of 2 MiB pages has fewer than 3 free: raise "
      "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages, or set .fallback = "
      "HugePageFallback::transparent";
  const auto refused = [&](int error_number) {
    const MappingOptions options{.huge_pages = HugePages::size_2MiB};
    const std::string one = cause(failing(of(Function::mmap), error_number),
                                  [&] { return Mapping::try_anonymous(6_MiB, options); });
    EXPECT_EQ(cause(failing(of(Function::mmap), error_number),
                    [&] { return Mapping::try_memfd(6_MiB, options); }),
              one);
    EXPECT_EQ(cause(failing(of(Function::syscall, SYS_memfd_create), error_number, 2),
                    [&] { return Mapping::try_memfd(6_MiB, options); }),
              one);
    return one;
  };
  EXPECT_EQ(refused(ENOMEM), few);
  EXPECT_EQ(refused(EINVAL), none);
  EXPECT_EQ(refused(ENODEV), none);
  EXPECT_EQ(refused(ENOENT), none);
  EXPECT_EQ(refused(EPERM), "");
  EXPECT_EQ(refused(EAGAIN), "");
  EXPECT_EQ(cause(failing(of(Function::syscall, SYS_memfd_create), ENOMEM),
                  [] { return Mapping::try_memfd(page); }),
            "");
}
TEST(Causes, UsualPagesWhereThereAreNoHugeOnes) {
  const MappingOptions options{.huge_pages = HugePages::size_2MiB,
                               .fallback = HugePageFallback::transparent};
  const MappingOptions strict{.huge_pages = HugePages::size_2MiB};
  for (const auto& [error_number, falls_back] : {std::pair{ENOMEM, true},
                                                 {EINVAL, true},
                                                 {ENODEV, true},
                                                 {ENOENT, true},
                                                 {ENOSYS, true},
                                                 {EOPNOTSUPP, true},
                                                 {EPERM, false},
                                                 {EAGAIN, false}}) {
    const auto check = [wanted = falls_back ? 0 : error_number](const Said& outcome) {
      EXPECT_EQ(outcome.error_number, wanted);
      EXPECT_EQ(outcome.count(of(Function::madvise, MADV_HUGEPAGE)), wanted == 0 ? 1u : 0u);
    };
    check(said({failing(of(Function::mmap), error_number)},
               [&] { return Mapping::try_anonymous(4_MiB, options); }));
    check(said({failing(of(Function::mmap), error_number)},
               [&] { return Mapping::try_memfd(4_MiB, options); }));
    check(said({failing(of(Function::syscall, SYS_memfd_create), error_number,
                        error_number == EINVAL ? 2 : 1)},
               [&] { return Mapping::try_memfd(4_MiB, options); }));
    EXPECT_EQ(said({failing(of(Function::mmap), error_number)},
                   [&] { return Mapping::try_anonymous(4_MiB, strict); })
                  .error_number,
              error_number);
  }
  // What fails both times is told of the second one.
  EXPECT_EQ(cause(failing(of(Function::mmap), ENOMEM, 2),
                  [&] { return Mapping::try_anonymous(4_MiB, options); }),
            "the host has no room for it, or its limits forbid it");
  EXPECT_EQ(cause(failing(of(Function::mmap), ENOMEM, 2),
                  [&] { return Mapping::try_memfd(4_MiB, options); }),
            "the host has no room for it, or its limits forbid it");
}
TEST(Causes, HugePagesThatAreThereAreTaken) {
  for (const HugePageFallback fallback : {HugePageFallback::none, HugePageFallback::transparent}) {
    for (const bool memfd : {false, true}) {
      const Imagined memory;
      std::optional<Mapping> made;
      const Said outcome = said({memory.rule()}, [&] {
        const MappingOptions options{.huge_pages = HugePages::size_2MiB,
                                     .fallback = fallback,
                                     .transparent_huge_pages = true};
        auto result = memfd ? Mapping::try_memfd(Imagined::size, options)
                            : Mapping::try_anonymous(Imagined::size, options);
        if (result) {
          made = result->share();
        }
        return result;
      });
      EXPECT_EQ(outcome.error_number, 0) << outcome.all;
      ASSERT_TRUE(made);
      EXPECT_EQ(made->data(), memory.at());
      EXPECT_EQ(made->page_size(), 2_MiB);
      EXPECT_EQ(outcome.count(of(Function::mmap)), 1u);
      EXPECT_EQ(outcome.count(of(Function::madvise, MADV_HUGEPAGE)), 0u)
          << "these are for pages of the usual size";
    }
  }
  // Between guard pages they begin at a multiple of their size.
  fault::arm({answering(of(Function::mmap, Imagined::size), 1)});
  const auto guarded = Mapping::try_anonymous(
      Imagined::size, {.huge_pages = HugePages::size_2MiB, .guard_pages = true});
  fault::disarm();
  ASSERT_TRUE(guarded) << guarded.error().what();
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(guarded->data()) % 2_MiB, 0u);
}
TEST(Causes, FilesOfHugePages) {
  const kvm::Fd file(huge_file(8_MiB));
  if (!file) {
    GTEST_SKIP() << "this kernel makes no memory files of huge pages";
  }
  {
    const Imagined memory;
    EXPECT_EQ(said({memory.rule()},
                   [&] {
                     return Mapping::try_from_fd(file.get(), Imagined::size, {},
                                                 {.huge_pages = HugePages::size_2MiB});
                   })
                  .all,
              "");
  }
  EXPECT_EQ(cause([&] {
              return Mapping::try_from_fd(file.get(), 4_MiB, {}, {.huge_pages = HugePages{4_MiB}});
            }),
            "this file's pages are of 2 MiB: huge pages come with a file on a hugetlbfs");
  EXPECT_EQ(cause([&] { return Mapping::try_from_fd(file.get(), page); }),
            "the size must be a multiple of the huge pages' size, 2 MiB");
  EXPECT_EQ(cause([&] { return Mapping::try_from_fd(file.get(), 2_MiB, {.offset = page}); }),
            "the offset must be a multiple of the huge pages' size, 2 MiB");
  const kvm::Fd usual(::memfd_create("usual", MFD_ALLOW_SEALING));
  ASSERT_EQ(::ftruncate(usual.get(), 4 << 20), 0);
  EXPECT_EQ(cause([&] {
              return Mapping::try_file(usual.get(), 4_MiB, {},
                                       {.huge_pages = HugePages::size_2MiB});
            }),
            "this file's pages are of " + reach(kvm_test::SizeName{})(page) +
                ": huge pages come with a file on a hugetlbfs");
  // They are set aside now, whatever was asked for: no host has as many.
  const kvm::Fd large(huge_file(std::size_t{1} << 45));
  EXPECT_EQ(said({}, [&] { return Mapping::try_from_fd(large.get(), std::size_t{1} << 45); })
                .error_number,
            ENOMEM);
}
TEST(Causes, AFileIsCountedIfThatIsWanted) {
  const kvm::Fd file(::memfd_create("file", 0));
  ASSERT_EQ(::ftruncate(file.get(), static_cast<off_t>(page)), 0);
  int overcommit = 2;
  std::ifstream("/proc/sys/vm/overcommit_memory") >> overcommit;
  if (overcommit == 2) {
    GTEST_SKIP() << "this host counts all memory";
  }
  for (const bool reserve : {false, true}) {
    const Mapping mapping = Mapping::file(file.get(), page, {.sharing = FileSharing::private_copy},
                                          {.reserve = reserve});
    std::ifstream in("/proc/self/smaps");
    std::string flags;
    bool inside = false;
    const auto at = reinterpret_cast<unsigned long long>(mapping.data());
    for (std::string line; std::getline(in, line);) {
      unsigned long long from = 0;
      unsigned long long to = 0;
      if (std::sscanf(line.c_str(), "%llx-%llx ", &from, &to) == 2) {
        inside = from <= at && at < to;
      } else if (inside && line.starts_with("VmFlags")) {
        flags = line + ' ';
      }
    }
    ASSERT_NE(flags, "");
    EXPECT_EQ(flags.find(" nr ") == std::string::npos, reserve) << flags;
  }
}
TEST(Causes, OnlyWhatIsMappedIsUnmapped) {
  const auto unmaps = [](fault::Rule rule, MappingOptions options) {
    return said({std::move(rule)}, [&] { return Mapping::try_anonymous(page, options); })
        .count(of(Function::munmap));
  };
  EXPECT_EQ(unmaps(failing(of(Function::mmap), ENOMEM), {}), 0u);
  EXPECT_EQ(unmaps(failing(of(Function::mmap), ENOMEM), {.guard_pages = true}), 0u);
  EXPECT_EQ(unmaps(failing(of(Function::mmap, page), ENOMEM), {.guard_pages = true}), 1u);
}
TEST(Causes, TheStretchIsAsLargeAsItMustBe) {
  const Said guarded = said({}, [] { return Mapping::try_anonymous(page, {.guard_pages = true}); });
  EXPECT_EQ(guarded.count(of(Function::mmap, 3 * page)), 1u);
  EXPECT_EQ(guarded.count(of(Function::mmap)), 2u);
  const Said beyond = said({}, [] {
    return Mapping::try_anonymous(
        std::size_t{1} << 63,
        {.huge_pages = HugePages{std::uint64_t{1} << 63}, .guard_pages = true});
  });
  EXPECT_EQ(beyond.error_number, ENOMEM);
  EXPECT_EQ(beyond.count(of(Function::mmap)), 0u);
}

// --- what is done with mapped memory ---

TEST(Causes, OfAdvice) {
  EXPECT_EQ(cause(failing(of(Function::madvise, MADV_DONTFORK), EINVAL),
                  [] { return Mapping::try_anonymous(page); }),
            "MADV_DONTFORK was refused");
  const auto huge = [](int error_number) {
    return cause(failing(of(Function::madvise, MADV_HUGEPAGE), error_number),
                 [] { return Mapping::try_anonymous(page, {.transparent_huge_pages = true}); });
  };
  EXPECT_EQ(huge(EINVAL),
            "this kernel has no transparent huge pages, or not for this kind of memory");
  EXPECT_EQ(huge(ENOMEM), "");
  const auto populate = [](int error_number) {
    return cause(failing(of(Function::madvise, populate_write), error_number),
                 [] { return Mapping::try_anonymous(page, {.populate = true}); });
  };
  EXPECT_EQ(populate(ENOMEM), "the host has not enough memory");
  EXPECT_EQ(populate(EFAULT),
            "the memory is not there: the NUMA nodes have too few huge pages, or a file was cut "
            "short");
  EXPECT_EQ(populate(EAGAIN), "");
  EXPECT_EQ(populate(EINVAL), "-");
  EXPECT_EQ(populate(EINTR), "-");
}
TEST(Causes, OfNumaNodes) {
  const auto bind = [](int error_number) {
    return cause(failing(of(Function::syscall, SYS_mbind), error_number), [] {
      return Mapping::try_anonymous(page, {.numa = {NumaMode::bind, {0}}});
    });
  };
  EXPECT_EQ(
      bind(EINVAL),
      "a node that does not exist, has no memory or is closed to this process, or none given: "
      "/sys/devices/system/node/has_memory lists them");
  EXPECT_EQ(bind(ENOSYS), "this kernel knows no NUMA policies");
  EXPECT_EQ(bind(EPERM), "the host forbids it (a seccomp filter, perhaps)");
  EXPECT_EQ(bind(ENOMEM), "");
  const Said beyond = said({}, [] {
    return Mapping::try_anonymous(page, {.numa = {NumaMode::interleave, {0, 1024, 1}}});
  });
  EXPECT_EQ(beyond.cause, "NUMA nodes are below 1024");
  EXPECT_EQ(beyond.count(of(Function::syscall, SYS_mbind)), 0u);
  EXPECT_NE(beyond.all.find("numa=interleave {0, 1024, 1}"), std::string::npos) << beyond.all;
}
TEST(Causes, OfDiscarding) {
  const Mapping memory = Mapping::anonymous(2 * page);
  const Mapping file = Mapping::memfd(2 * page);
  const auto discard = [](const Mapping& mapping, int error_number) {
    return cause({.matches =
                      [](const Call& call, std::size_t) {
                        return call.function == Function::fallocate ||
                               call.function == Function::madvise;
                      },
                  .error_number = error_number},
                 [&] { return mapping.try_discard(0, page); });
  };
  EXPECT_EQ(discard(file, EOPNOTSUPP), "this file system cannot free a file's pages");
  EXPECT_EQ(discard(file, EPERM), "the file is sealed against writing");
  EXPECT_EQ(discard(file, EIO), "");
  EXPECT_EQ(discard(memory, EINVAL),
            "the memory is locked (mlock), or it is huge pages and the kernel older than 5.18");
  EXPECT_EQ(discard(memory, EIO), "");
  EXPECT_EQ(cause([&] { return memory.try_discard(0, page + 1); }),
            "pages are given back whole: offset and size must be multiples of " +
                reach(kvm_test::SizeName{})(page));
  EXPECT_EQ(cause([&] { return memory.try_discard(page, 2 * page); }),
            "it does not lie within the mapping's " +
                kvm::detail::text(kvm::detail::Hex{2 * page}) + " bytes");
  EXPECT_EQ(cause([] { return Mapping().try_discard(0, page); }), "the mapping is empty");
}

// --- memory files ---

TEST(Causes, OfMemoryFiles) {
  const auto memfd = [] { return Mapping::try_memfd(page); };
  const Said old = said({{.matches =
                              [](const Call& call, std::size_t) {
                                return call.function == Function::syscall &&
                                       call.detail == SYS_memfd_create && (call.second & 8) != 0;
                              },
                          .error_number = EINVAL}},
                        memfd);
  EXPECT_EQ(old.error_number, 0) << "kernels before 6.3 know no MFD_NOEXEC_SEAL";
  EXPECT_EQ(old.count(of(Function::syscall, SYS_memfd_create)), 2u);
  EXPECT_EQ(said({failing(of(Function::syscall, SYS_memfd_create), ENFILE)}, memfd)
                .count(of(Function::syscall, SYS_memfd_create)),
            1u);
  kvm_test::expect_in_child([] {
    ::close(0);
    errno = EINVAL;  // Left by somebody else.
    const auto memory = Mapping::try_memfd(page);
    ASSERT_TRUE(memory);
    EXPECT_EQ(memory->fd(), 0);
  });
  const kvm::Fd file(::memfd_create("file", MFD_ALLOW_SEALING));
  ASSERT_EQ(::ftruncate(file.get(), static_cast<off_t>(page)), 0);
  const auto receive = [&] { return Mapping::try_from_fd(file.get(), page); };
  EXPECT_EQ(cause(receive),
            "the file is not sealed against shrinking (F_SEAL_SHRINK), so that it could be cut "
            "short under the mapping: .accept_unsealed takes it all the same");
  EXPECT_EQ(cause(failing(of(Function::fcntl, F_GET_SEALS), EINVAL), receive),
            "this kind of file has no seals, so that it could be cut short under the mapping: "
            ".accept_unsealed takes it all the same");
  EXPECT_EQ(cause(failing(of(Function::fcntl, F_GET_SEALS), EBADF), receive), "");
  EXPECT_EQ(cause([&] { return Mapping::try_file(file.get(), 2 * page); }),
            "the file has " + page_text + " bytes: what lies beyond would be a SIGBUS");
}

// --- guest_memfd, whether or not this host has it ---

struct GuestMemfdCauses : testing::Test {
  using Flag = kvm::cap::GuestMemfdFlag;
  std::string refused(int error_number, std::uint64_t size, kvm::Flags<Flag> flags = {},
                      long known = 0) {
    return said({failing(of(Function::ioctl, request::create_guest_memfd.code), error_number),
                 {.matches =
                      [](const Call& call, std::size_t) {
                        return call.is_ioctl(request::check_extension.code);
                      },
                  .error_number = known < 0 ? EINVAL : 0,
                  .times = 10,
                  .result = known}},
                [&] { return vm.try_create_guest_memfd(size, flags); })
        .cause;
  }
  /// One that is an ordinary memory file.
  kvm::GuestMemfd pretended(kvm::Flags<Flag> flags = {}) {
    const int fd = ::memfd_create("guest_memfd", 0);
    EXPECT_EQ(::ftruncate(fd, static_cast<off_t>(4 * page)), 0);
    fault::arm({answering(of(Function::ioctl, request::create_guest_memfd.code), fd)});
    auto made = vm.try_create_guest_memfd(4 * page, flags);
    fault::disarm();
    return std::move(made).value();
  }
  kvm::Vm vm = kvm::System().create_vm();
};

TEST_F(GuestMemfdCauses, OfNotMakingOne) {
  const std::string lacks =
      "this KVM has no guest_memfd, or not for this type of VM: check<cap::GuestMemfd>() tells";
  const std::string size = "the size must be a positive multiple of the page size, " + page_text;
  const std::string unknown =
      "this KVM does not know all of the flags: check<cap::GuestMemfdFlags>() tells which it does";
  const std::string type = "this type of VM may have none: check<cap::GuestMemfd>() tells";
  EXPECT_EQ(refused(ENOTTY, page), lacks);
  EXPECT_EQ(refused(ENODEV, page), lacks);
  EXPECT_EQ(refused(ENOMEM, page), "");
  EXPECT_EQ(refused(ENOMEM, 0), "");
  EXPECT_EQ(refused(EINVAL, 0), size);
  EXPECT_EQ(refused(EINVAL, page + 1), size);
  EXPECT_EQ(refused(EINVAL, std::uint64_t{1} << 63), size);
  EXPECT_EQ(refused(EINVAL, page), type);
  EXPECT_EQ(refused(EINVAL, page, {}, -1), type);
  EXPECT_EQ(refused(EINVAL, page, Flag::mmap, 1), type);
  EXPECT_EQ(refused(EINVAL, page, Flag::mmap, 3), type);
  EXPECT_EQ(refused(EINVAL, page, Flag::mmap, 2), unknown);
  EXPECT_EQ(refused(EINVAL, page, Flag::mmap, 0), unknown);
  EXPECT_EQ(refused(EINVAL, page, Flag::mmap, -1), unknown);
  EXPECT_EQ(refused(EINVAL, page, Flag::mmap | Flag::init_shared, 1), unknown);
}
TEST_F(GuestMemfdCauses, OfUsingOne) {
  const kvm::GuestMemfd memory = pretended();
  EXPECT_EQ(cause([&] { return memory.try_map(); }),
            "only one that was made with GuestMemfdFlag::mmap can be mapped");
  EXPECT_EQ(cause([&] { return memory.try_discard(0, page + 1); }),
            "pages are given back whole: offset and size must be multiples of " + page_text);
  EXPECT_EQ(cause([&] { return memory.try_discard(page, page + 1); }),
            "pages are given back whole: offset and size must be multiples of " + page_text);
  EXPECT_EQ(cause([&] { return memory.try_discard(page / 2, page); }),
            "pages are given back whole: offset and size must be multiples of " + page_text);
  EXPECT_EQ(cause([&] { return memory.try_discard(page, 4 * page); }),
            "it does not lie within the guest_memfd's " +
                kvm::detail::text(kvm::detail::Hex{4 * page}) + " bytes");
  EXPECT_EQ(said({}, [&] { return memory.try_discard(page, 0); }).count(of(Function::fallocate)),
            0u);
  EXPECT_EQ(cause([&] { return memory.try_discard(page, 3 * page); }), "-");
  EXPECT_EQ(
      said({failing(of(Function::fallocate), EIO)}, [&] { return memory.try_discard(0, page); })
          .error_number,
      EIO);
  const kvm::GuestMemfd seen = pretended(Flag::mmap);
  EXPECT_EQ(cause([&] { return seen.try_map(page, page); }), "-");
  kvm_test::expect_in_child([&] {
    const auto discarded = memory.try_discard(0, page);
    ASSERT_FALSE(discarded);
    EXPECT_EQ(discarded.error().error_number(), EIO);
  });
  kvm::GuestMemfd moved = pretended(Flag::mmap);
  const kvm::GuestMemfd taken = std::move(moved);
  EXPECT_EQ(cause([&] { return moved.try_map(0, page); }),
            "this handle is empty: it was moved from");
  EXPECT_EQ(cause([&] { return moved.try_discard(0, page); }),
            "this handle is empty: it was moved from");
  EXPECT_EQ(taken.size(), 4 * page);
}
TEST_F(GuestMemfdCauses, TheFirstDescriptorIsOne) {
  kvm_test::expect_in_child([&] {
    const int file = ::memfd_create("guest_memfd", 0);
    ASSERT_EQ(::dup2(file, 0), 0);
    fault::arm({answering(of(Function::ioctl, request::create_guest_memfd.code), 0)});
    const auto made = vm.try_create_guest_memfd(page);
    fault::disarm();
    ASSERT_TRUE(made) << made.error().what();
    EXPECT_EQ(made->fd(), 0);
  });
}

// --- membarrier ---

/// How often membarrier was called, and whether the fence says that it worked.
struct Fence {
  bool worked;
  std::size_t fences, registrations, sleeps;
  bool operator==(const Fence&) const = default;
  friend void PrintTo(const Fence& fence, std::ostream* out) {
    *out << fence.worked << ' ' << fence.fences << ' ' << fence.registrations << ' '
         << fence.sleeps;
  }
};
Fence fence(std::vector<fault::Rule> rules) {
  errno = E2BIG;
  fault::arm(std::move(rules));
  const bool worked = kvm::detail::heavy_fence();
  EXPECT_EQ(errno, E2BIG);
  Fence result{worked, 0, 0, 0};
  for (const Call& call : fault::disarm()) {
    if (call.function == Function::syscall) {
      const bool barrier = call.detail == SYS_membarrier;
      result.fences += barrier && call.argument == membarrier_expedited ? 1u : 0u;
      result.registrations += barrier && call.argument == membarrier_register ? 1u : 0u;
      result.sleeps += call.detail == SYS_nanosleep ? 1u : 0u;
    }
  }
  return result;
}
TEST(Barriers, AFenceThatFailsIsTriedAgainWhereThatHelps) {
  const auto barrier = [](unsigned long command) {
    return Matches([command](const Call& call) {
      return call.function == Function::syscall && call.detail == SYS_membarrier &&
             call.argument == command;
    });
  };
  const auto fails = [&](int error_number, int times) {
    return failing(barrier(membarrier_expedited), error_number, times);
  };
  const auto registers = answering(barrier(membarrier_register), 0, 9);
  const auto refuses = failing(barrier(membarrier_register), EINVAL, 9);
  // That it succeeds is made up as well: a host without it shows the same.
  const auto then = answering(barrier(membarrier_expedited), 0, 9);
  EXPECT_EQ(fence({then}), (Fence{true, 1, 0, 0}));
  EXPECT_EQ(fence({fails(ENOMEM, 1), then}), (Fence{true, 2, 0, 0}));
  EXPECT_EQ(fence({fails(ENOMEM, 2), then}), (Fence{true, 3, 0, 0}));
  EXPECT_EQ(fence({fails(ENOMEM, 9), then}), (Fence{false, 3, 0, 1}));
  EXPECT_EQ(fence({fails(EPERM, 1), registers, then}), (Fence{true, 2, 1, 0}));
  EXPECT_EQ(fence({fails(EPERM, 9), registers}), (Fence{false, 3, 3, 1}));
  EXPECT_EQ(fence({fails(EPERM, 9), refuses}), (Fence{false, 1, 1, 1}));
  EXPECT_EQ(fence({fails(EINVAL, 9), registers}), (Fence{false, 1, 0, 1}));
  EXPECT_EQ(fence({fails(ENOSYS, 9), registers}), (Fence{false, 1, 0, 1}));
}

}  // namespace
