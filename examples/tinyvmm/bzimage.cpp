// SPDX-License-Identifier: MIT
#if defined(__x86_64__)

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "boot_x86.hpp"
#include "pc.hpp"

namespace tinyvmm {
namespace {

/// Offsets in the file's first sectors and in boot_params alike.
namespace field {
constexpr std::size_t acpi_rsdp = 0x070;
constexpr std::size_t e820_entries = 0x1e8;
constexpr std::size_t setup_sectors = 0x1f1;
constexpr std::size_t system_size = 0x1f4;
constexpr std::size_t video_mode = 0x1fa;
constexpr std::size_t boot_flag = 0x1fe;
constexpr std::size_t header_length = 0x201;
constexpr std::size_t header_magic = 0x202;
constexpr std::size_t version = 0x206;
constexpr std::size_t loader_type = 0x210;
constexpr std::size_t load_flags = 0x211;
constexpr std::size_t initrd_address = 0x218;
constexpr std::size_t initrd_size = 0x21c;
constexpr std::size_t command_line = 0x228;
constexpr std::size_t initrd_most_address = 0x22c;
constexpr std::size_t extended_flags = 0x236;
constexpr std::size_t command_line_size = 0x238;
constexpr std::size_t preferred_address = 0x258;
constexpr std::size_t init_size = 0x260;
constexpr std::size_t e820 = 0x2d0;
}  // namespace field

constexpr std::uint32_t magic = 0x53726448;  // "HdrS"
constexpr std::uint16_t version_with_64_bit_entry = 0x20c;
constexpr std::uint16_t has_64_bit_entry = 1;
constexpr std::uint8_t is_loaded_high = 1;
constexpr std::uint64_t entry_64_bit = 0x200;  // behind the kernel's beginning
constexpr std::uint64_t sector = 512;
constexpr std::uint64_t page = 4096;
constexpr std::size_t header_begin = field::setup_sectors;
constexpr std::size_t header_most_end = 0x290;

/// What the setup header says, checked.
struct Header {
  std::uint64_t kernel_offset;
  std::uint64_t kernel_size;
  std::uint64_t address;
  std::uint64_t init_size;
};

Header parse(const ImageFile& image) {
  if (const auto version = image.get<std::uint16_t>(field::version);
      version < version_with_64_bit_entry ||
      (image.get<std::uint16_t>(field::extended_flags) & has_64_bit_entry) == 0) {
    image.fail("this Linux kernel has no 64-bit entry (boot protocol " +
               std::to_string(version >> 8) + "." + std::to_string(version & 0xff) + ")");
  }
  if ((image.get<std::uint8_t>(field::load_flags) & is_loaded_high) == 0) {
    image.fail("this Linux kernel is a zImage, for low memory: it must be a bzImage");
  }
  Header header{};
  const auto sectors = image.get<std::uint8_t>(field::setup_sectors);
  header.kernel_offset = (std::uint64_t{sectors == 0 ? std::uint8_t{4} : sectors} + 1) * sector;
  header.kernel_size = std::uint64_t{image.get<std::uint32_t>(field::system_size)} * 16;
  const std::uint64_t there =
      image.size() > header.kernel_offset ? image.size() - header.kernel_offset : 0;
  if (header.kernel_size == 0 || there + 15 < header.kernel_size) {
    image.fail("it is truncated: its header promises " +
               std::to_string(header.kernel_offset + header.kernel_size) + " bytes, and it has " +
               std::to_string(image.size()));
  }
  header.kernel_size = std::min(header.kernel_size, there);  // The size is rounded up to 16.
  header.address = image.get<std::uint64_t>(field::preferred_address);
  header.init_size =
      std::max<std::uint64_t>(image.get<std::uint32_t>(field::init_size), header.kernel_size);
  return header;
}

/// As high as it may be: kernels unpack themselves in the memory behind their image.
std::uint64_t place_initrd(const ImageFile& image, const BootOptions& options,
                           std::uint64_t kernel_end) {
  const std::uint64_t size = options.initrd->size();
  const std::uint64_t end = std::min<std::uint64_t>(
      options.ram[0].size, image.get<std::uint32_t>(field::initrd_most_address) + std::uint64_t{1});
  if (size > end || (end - size) / page * page < kernel_end) {
    options.initrd->fail("the initrd does not fit into the guest's memory: it has " +
                         std::to_string(size) + " bytes, and from " + hex(kernel_end) + " to " +
                         hex(end) + " there is room");
  }
  return (end - size) / page * page;
}

/// Maps the first 4 GiB to themselves, in pages of 2 MiB.
void store_page_tables(kvm::GuestMemory::View& memory) {
  constexpr std::uint64_t present_writable = 3;
  constexpr std::uint64_t large = 0x80;
  constexpr std::size_t entries = page / sizeof(std::uint64_t);
  std::vector<std::uint64_t> tables(6 * entries);
  const std::uint64_t at = pc::page_tables.value;
  tables[0] = (at + page) | present_writable;
  for (std::size_t i = 0; i < 4; ++i) {
    tables[entries + i] = (at + (2 + i) * page) | present_writable;
  }
  for (std::size_t i = 0; i < 4 * entries; ++i) {
    tables[2 * entries + i] = (std::uint64_t{i} << 21) | large | present_writable;
  }
  store(memory, pc::page_tables, std::as_bytes(std::span(tables)));
}

}  // namespace

bool is_bzimage(const ImageFile& image) {
  return image.head().size() >= field::header_magic + sizeof magic &&
         image.get<std::uint16_t>(field::boot_flag) == 0xaa55 &&
         image.get<std::uint32_t>(field::header_magic) == magic;
}

EntryPoint load_bzimage(const ImageFile& image, const BootOptions& options,
                        kvm::GuestMemory::View& memory) {
  const Header header = parse(image);
  if (header.address < pc::high_memory.value ||
      !pc::is_free(options.ram.first(1), header.address, header.init_size)) {
    image.fail("this kernel needs memory from " + hex(header.address) + " to " +
               hex(header.address + header.init_size) + ", and the guest's ends at " +
               hex(options.ram[0].size) + ": give it more with --memory");
  }
  const std::size_t most_text = std::min<std::size_t>(
      image.get<std::uint32_t>(field::command_line_size), pc::command_line_room - 1);
  if (options.cmdline.size() > most_text) {
    image.fail("the command line has " + std::to_string(options.cmdline.size()) +
               " characters, and this kernel takes " + std::to_string(most_text));
  }

  image.load(header.kernel_offset, header.kernel_size, kvm::Gpa{header.address}, memory);
  store(memory, pc::command_line,
        std::as_bytes(std::span(options.cmdline.c_str(), options.cmdline.size() + 1)));
  store_page_tables(memory);

  std::array<std::byte, page> parameters{};
  const std::size_t header_end =
      std::min({field::header_magic + image.get<std::uint8_t>(field::header_length),
                header_most_end, image.head().size()});
  std::copy(image.head().begin() + header_begin,
            image.head().begin() + static_cast<std::ptrdiff_t>(header_end),
            parameters.begin() + header_begin);
  put(parameters, field::loader_type, std::uint8_t{0xff});
  put(parameters, field::video_mode, std::uint16_t{0xffff});
  put(parameters, field::acpi_rsdp, pc::acpi.value);
  put(parameters, field::command_line, static_cast<std::uint32_t>(pc::command_line.value));
  if (options.initrd != nullptr) {
    const std::uint64_t at = place_initrd(image, options, header.address + header.init_size);
    options.initrd->load(0, options.initrd->size(), kvm::Gpa{at}, memory);
    put(parameters, field::initrd_address, static_cast<std::uint32_t>(at));
    put(parameters, field::initrd_size, static_cast<std::uint32_t>(options.initrd->size()));
  }
  std::size_t next = field::e820;
  for (const pc::MemoryArea& area : pc::memory_map(options.ram)) {
    put(parameters, next, area.first);
    put(parameters, next + 8, area.size);
    put(parameters, next + 16, area.type);
    next += 20;
    put(parameters, field::e820_entries, static_cast<std::uint8_t>((next - field::e820) / 20));
  }
  store(memory, pc::boot_information, parameters);
  return {
      .long_mode = true, .rip = header.address + entry_64_bit, .rsi = pc::boot_information.value};
}

}  // namespace tinyvmm

#endif
