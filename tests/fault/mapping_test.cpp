// SPDX-License-Identifier: MIT
#include "driver.hpp"

#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace {

using fault::Call;
using fault::FaultTest;
using fault::Function;
using fault::Guest;
using fault::Operation;
using kvm::HugePageFallback;
using kvm::HugePages;
using kvm::Mapping;
using kvm::MappingOptions;
using kvm::NumaMode;
using namespace kvm::literals;

class MappingFaults : public FaultTest {};

constexpr unsigned long madv_populate_write = 23;
constexpr unsigned long mfd_noexec_seal = 8;

/// Without MADV_POPULATE_WRITE (before Linux 5.14) pages are touched one by one.
/// A signal has it done again. A memfd_create that knows no MFD_NOEXEC_SEAL
/// (before Linux 6.3) is called without.
bool has_another_way(const Call& call, int error_number) {
  if (call.function == Function::madvise && call.detail == madv_populate_write) {
    return error_number == EINVAL || error_number == EINTR;
  }
  return call.function == Function::syscall && call.detail == SYS_memfd_create &&
         error_number == EINVAL && (call.second & mfd_noexec_seal) != 0;
}

/// Everything at once: each call that can fail half-way.
MappingOptions all_options() {
  MappingOptions options{
      .transparent_huge_pages = true, .populate = true, .reserve = true, .guard_pages = true};
  const fault::Unobserved ours;
  // Where the kernel has no NUMA policies, none.
  if (Mapping::try_anonymous(64_KiB, {.numa = {NumaMode::bind, {0}}})) {
    options.numa = {NumaMode::bind, {0}};
  }
  return options;
}

/// A file of 128 KiB.
class File {
 public:
  File() : path_(testing::TempDir() + "kvm_hpp_fault_XXXXXX"), fd_(::mkstemp(path_.data())) {
    if (::ftruncate(fd_.get(), 128 << 10) != 0) {
      std::abort();
    }
  }
  ~File() { ::unlink(path_.c_str()); }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  const char* path() const { return path_.c_str(); }
  int fd() const { return fd_.get(); }

 private:
  std::string path_;
  kvm::Fd fd_;
};

TEST_F(MappingFaults, Anonymous) {
  const MappingOptions options = all_options();
  fault::expect_pair_withstands(
      {.name = "anonymous", .survives = has_another_way},
      [&](Guest&) { return Mapping::try_anonymous(64_KiB, options); },
      [&](Guest&) { return Mapping::anonymous(64_KiB, options); });
}

TEST_F(MappingFaults, Memfd) {
  const MappingOptions options = all_options();
  fault::expect_pair_withstands(
      {.name = "memfd", .survives = has_another_way},
      [&](Guest&) { return Mapping::try_memfd(64_KiB, options); },
      [&](Guest&) { return Mapping::memfd(64_KiB, options); });
  fault::expect_pair_withstands(
      {.name = "memfd, plain", .survives = has_another_way},
      [](Guest&) { return Mapping::try_memfd(64_KiB); },
      [](Guest&) { return Mapping::memfd(64_KiB); });
}

TEST_F(MappingFaults, File) {
  const File file;
  MappingOptions options = all_options();
  options.transparent_huge_pages = false;  // Not every file system has them.
  for (const kvm::FileSharing sharing :
       {kvm::FileSharing::shared, kvm::FileSharing::private_copy}) {
    const kvm::FileOptions how{.offset = 64_KiB, .sharing = sharing};
    fault::expect_pair_withstands(
        {.name = "file by path", .survives = has_another_way},
        [&](Guest&) { return Mapping::try_file(file.path(), 64_KiB, how, options); },
        [&](Guest&) { return Mapping::file(file.path(), 64_KiB, how, options); });
    fault::expect_pair_withstands(
        {.name = "file by descriptor", .survives = has_another_way},
        [&](Guest&) { return Mapping::try_file(file.fd(), 64_KiB, how, options); },
        [&](Guest&) { return Mapping::file(file.fd(), 64_KiB, how, options); });
  }
}

TEST_F(MappingFaults, Received) {
  const Mapping sender = Mapping::memfd(128_KiB);
  const MappingOptions options = all_options();
  fault::expect_pair_withstands(
      {.name = "from_fd", .survives = has_another_way},
      [&](Guest&) {
        return Mapping::try_from_fd(sender.fd(), 64_KiB, {.offset = 64_KiB}, options);
      },
      [&](Guest&) { return Mapping::from_fd(sender.fd(), 64_KiB, {.offset = 64_KiB}, options); });
}

// More of them than any host has: the first attempt always fails, and the second may, too.
TEST_F(MappingFaults, HugePagesWithFallback) {
  constexpr std::size_t size = 1024_GiB;
  const MappingOptions options{.huge_pages = HugePages::size_1GiB,
                               .fallback = HugePageFallback::transparent};
  fault::arm();
  { const Mapping mapping = Mapping::anonymous(size, options); }
  std::size_t maps = 0;
  for (const Call& call : fault::disarm()) {
    maps += call.function == Function::mmap ? 1u : 0u;
  }
  ASSERT_EQ(maps, 3u) << "huge pages, the reservation, the memory in it";

  for (const bool memfd : {false, true}) {
    const auto make = [&] {
      return memfd ? Mapping::try_memfd(size, options) : Mapping::try_anonymous(size, options);
    };
    const auto before = fault::Resources::now();
    for (std::size_t nth = 0; nth < 3; ++nth) {
      for (const int error_number : {ENOMEM, EINVAL, EPERM, EAGAIN}) {
        std::size_t seen = 0;
        fault::arm({{.matches =
                         [&](const Call& call, std::size_t) {
                           return call.function == Function::mmap && seen++ == nth;
                         },
                     .error_number = error_number}});
        const auto outcome = fault::attempt(make);
        fault::disarm();
        EXPECT_EQ(fault::injected(), 1u);
        const bool falls_back = nth == 0 && (error_number == ENOMEM || error_number == EINVAL);
        EXPECT_EQ(outcome.succeeded, falls_back) << outcome.what;
        if (!falls_back) {
          EXPECT_EQ(outcome.error_number, error_number) << outcome.what;
        }
        EXPECT_EQ(fault::Resources::now(), before);
      }
    }
  }
}

// Without MADV_POPULATE_WRITE, each page is touched and none is changed.
TEST_F(MappingFaults, PopulateOfOldKernels) {
  const File file;
  ASSERT_EQ(::pwrite(file.fd(), "abc", 3, off_t{64_KiB}), 3);
  std::optional<Mapping> mappings[3];
  std::optional<Mapping> guarded;  // Not a byte beyond it is touched.
  fault::arm({{.matches =
                   [](const Call& call, std::size_t) {
                     return call.function == Function::madvise &&
                            call.detail == madv_populate_write;
                   },
               .error_number = EINVAL,
               .times = 4}});
  mappings[0] = Mapping::file(file.fd(), 128_KiB, {}, {.populate = true});
  mappings[1] = Mapping::file(file.fd(), 128_KiB, {.sharing = kvm::FileSharing::private_copy},
                              {.populate = true});
  mappings[2] = Mapping::anonymous(128_KiB, {.populate = true});
  guarded = Mapping::anonymous(128_KiB, {.populate = true, .guard_pages = true});
  fault::disarm();
  EXPECT_EQ(fault::injected(), 4u);
  for (const auto& mapping : mappings) {
    std::vector<unsigned char> pages(128_KiB / kvm::detail::sys::page_size());
    ASSERT_EQ(::mincore(mapping->data(), 128_KiB, pages.data()), 0);
    for (const unsigned char page : pages) {
      EXPECT_EQ(page & 1, 1);
    }
    if (&mapping != &mappings[2]) {
      EXPECT_EQ(std::memcmp(mapping->data() + 64_KiB, "abc", 3), 0);
    }
  }
}

TEST_F(MappingFaults, Discard) {
  const Mapping anonymous = Mapping::anonymous(64_KiB);
  const Mapping memory_file = Mapping::memfd(64_KiB);
  for (const Mapping* mapping : {&anonymous, &memory_file}) {
    fault::expect_pair_withstands(
        {.name = "discard"}, [&](Guest&) { return mapping->try_discard(16_KiB, 32_KiB); },
        [&](Guest&) { mapping->discard(16_KiB, 32_KiB); });
  }
}

TEST_F(MappingFaults, ShareAndPartMakeNoCall) {
  const Mapping mapping = Mapping::memfd(64_KiB);
  fault::arm();
  { const Mapping other = mapping.share().part(16_KiB, 32_KiB); }
  std::size_t real = 0;
  for (const Call& call : fault::disarm()) {
    real += call.function != Function::sysconf ? 1u : 0u;
  }
  EXPECT_EQ(real, 0u);
}

TEST_F(MappingFaults, GuestMemfd) {
  const Guest probe = fault::make_guest();
  if (probe.vm.check_raw(kvm::uapi::cap::guest_memfd) <= 0) {
    GTEST_SKIP() << "KVM_CAP_GUEST_MEMFD is not offered by this host";
  }
  const auto explains = [](const Call& call, int) {  // Asked for a failure's cause.
    return call.is_ioctl(kvm::uapi::request::check_extension.code);
  };
  const Operation create{.name = "create_guest_memfd", .survives = explains};
  fault::expect_pair_withstands(
      create, [](Guest& g) { return g.vm.try_create_guest_memfd(64_KiB); },
      [](Guest& g) { return g.vm.create_guest_memfd(64_KiB); });

  constexpr auto mappable = kvm::cap::GuestMemfdFlag::mmap | kvm::cap::GuestMemfdFlag::init_shared;
  const int flags = probe.vm.check_raw(kvm::uapi::cap::guest_memfd_flags);
  const bool can_map = flags > 0 && (flags & 3) == 3;
  std::optional<kvm::GuestMemfd> memory;
  Operation operation{.name = "GuestMemfd::discard"};
  operation.prepare = [&](Guest& g) {
    memory = can_map ? g.vm.create_guest_memfd(64_KiB, mappable) : g.vm.create_guest_memfd(64_KiB);
  };
  operation.finish = [&] { memory.reset(); };
  fault::expect_pair_withstands(
      operation, [&](Guest&) { return memory->try_discard(16_KiB, 16_KiB); },
      [&](Guest&) { memory->discard(16_KiB, 16_KiB); });
  if (can_map) {
    operation.name = "GuestMemfd::map";
    operation.survives = has_another_way;
    const MappingOptions options{.populate = true, .guard_pages = true};
    fault::expect_pair_withstands(
        operation, [&](Guest&) { return memory->try_map(options); },
        [&](Guest&) { return memory->map(options); });
  }
}

}  // namespace
