// SPDX-License-Identifier: MIT
// tinyvmm's loaders against any file: it is refused, or loaded to where images may be, and what is
// there afterwards is what the file has.
//
// KVM is played by this program: nothing runs here.
#include <kvm/kvm.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <span>
#include <string>
#include <vector>

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "support/fake_kvm.hpp"
#include "support/fuzzing.hpp"
#include "tinyvmm/boot_arm64.hpp"
#include "tinyvmm/boot_x86.hpp"
#include "tinyvmm/pc.hpp"

namespace {

using kvm::Gpa;

constexpr std::uint64_t ram_size = 0x140000;

using kvm_test::require;

/// What is made once.
struct Host {
  kvm::System system = kvm::System::try_open("/dev/null").value();
  kvm::Vm vm = system.create_vm();
  kvm::Mapping backing = kvm::Mapping::anonymous(ram_size);
  kvm::MemorySlot slot = vm.add_memory(Gpa{0}, backing.share());
  kvm::GuestMemory::View memory = vm.memory().view();
  std::vector<tinyvmm::RamRange> ram{{Gpa{0}, ram_size}};
};

/// A file in memory.
kvm::Fd make_file(std::span<const std::uint8_t> bytes) {
  kvm::Fd file(static_cast<int>(::syscall(SYS_memfd_create, "image", 0u)));
  require(::write(file.get(), bytes.data(), bytes.size()) == static_cast<::ssize_t>(bytes.size()));
  return file;
}

void check_untouched(const Host& host, std::uint64_t from, std::uint64_t to) {
  require(std::all_of(host.backing.data() + from, host.backing.data() + to,
                      [](std::byte byte) { return byte == std::byte{0x5a}; }));
}

/// Unless segments overlap, each has its bytes.
void check_segments(const Host& host, std::span<const std::uint8_t> file,
                    const tinyvmm::MultibootImage& image) {
  if (image.segments.size() != 1) {
    return;
  }
  const tinyvmm::Segment& segment = image.segments[0];
  require(segment.offset <= file.size() && segment.file_size <= file.size() - segment.offset);
  require(segment.gpa + segment.memory_size <= ram_size);
  require(std::memcmp(host.backing.data() + segment.gpa, file.data() + segment.offset,
                      segment.file_size) == 0);
}

void load_for_x86(Host& host, std::span<const std::uint8_t> file, const tinyvmm::ImageFile& image,
                  const tinyvmm::BootOptions& options) {
  try {
    if (tinyvmm::is_bzimage(image)) {
      const auto entry = tinyvmm::load_bzimage(image, options, host.memory);
      require(entry.rip >= tinyvmm::pc::high_memory.value && entry.rip < ram_size + 0x200);
    } else {
      const auto entry = tinyvmm::load_multiboot(image, options, host.memory);
      const auto parsed = tinyvmm::parse_multiboot(image);
      require(entry.rip == parsed.entry);
      check_segments(host, file, parsed);
    }
  } catch (const tinyvmm::BadImage&) {
    // Whatever was loaded before, it is in its place.
  }
  check_untouched(host, 0, tinyvmm::pc::boot_information.value);
  check_untouched(host, tinyvmm::pc::low_memory_end.value, tinyvmm::pc::high_memory.value);
}

void load_for_arm64(Host& host, std::span<const std::uint8_t> file, const tinyvmm::ImageFile& image,
                    const tinyvmm::BootOptions& options) {
  try {
    const auto entry = tinyvmm::load_arm64_image(image, options.initrd,
                                                 {.cpus = 2,
                                                  .ram = host.ram[0],
                                                  .has_disk = true,
                                                  .cmdline = std::string(options.cmdline),
                                                  .initrd = {}},
                                                 host.memory);
    check_untouched(host, 0, entry.pc);
    require(std::memcmp(host.backing.data() + entry.pc, file.data(), file.size()) == 0);
    require(entry.device_tree >= entry.pc + file.size() && entry.device_tree < ram_size);
    const std::uint8_t magic[] = {0xd0, 0x0d, 0xfe, 0xed};
    require(std::memcmp(host.backing.data() + entry.device_tree, magic, sizeof magic) == 0);
  } catch (const tinyvmm::BadImage&) {
    check_untouched(host, 0, ram_size);  // All is looked at before anything is loaded.
  }
}

}  // namespace

/// The first byte says for which architecture it is, and how long a command line and an initrd go
/// with it.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static Host host;
  if (size == 0) {
    return 0;
  }
  const std::span file(data + 1, size - 1);
  std::memset(host.backing.data(), 0x5a, host.backing.size());
  const std::string cmdline(data[0] % 16u * 20u, 'c');
  const std::vector<std::uint8_t> initrd_bytes(data[0] / 16u % 8u * 140'000u, 'i');
  const tinyvmm::ImageFile image(make_file(file), "image");
  const tinyvmm::ImageFile initrd(make_file(initrd_bytes), "initrd");
  const tinyvmm::BootOptions options{
      .initrd = initrd_bytes.empty() ? nullptr : &initrd, .cmdline = cmdline, .ram = host.ram};
  if ((data[0] & 0x80) != 0) {
    load_for_arm64(host, file, image, options);
  } else {
    load_for_x86(host, file, image, options);
  }
  return 0;
}
