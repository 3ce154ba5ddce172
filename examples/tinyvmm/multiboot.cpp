// SPDX-License-Identifier: MIT
#if defined(__x86_64__)

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include <elf.h>

#include "boot_x86.hpp"
#include "pc.hpp"

namespace tinyvmm {
namespace {

constexpr std::uint32_t header_magic = 0x1badb002;
constexpr std::uint32_t loader_magic = 0x2badb002;

// Flags of the header. Those of the lower half must be obeyed or the image refused.
constexpr std::uint32_t wants_alignment = 1u << 0;
constexpr std::uint32_t wants_memory = 1u << 1;
constexpr std::uint32_t wants_video = 1u << 2;  // An answer without a video mode is allowed.
constexpr std::uint32_t must_be_obeyed = 0xffff;
constexpr std::uint32_t has_addresses = 1u << 16;

// Flags of the information.
constexpr std::uint32_t memory_is_told = 1u << 0;
constexpr std::uint32_t command_line_is_told = 1u << 2;
constexpr std::uint32_t modules_are_told = 1u << 3;
constexpr std::uint32_t memory_map_is_told = 1u << 6;
constexpr std::uint32_t loader_is_told = 1u << 9;

// What lies where within pc::boot_information.
constexpr std::size_t module_at = 0x80;
constexpr std::size_t loader_name_at = 0xa0;
constexpr std::size_t memory_map_at = 0x100;
constexpr std::size_t module_name_at = 0x400;
constexpr std::size_t information_size = 0x2000;

constexpr std::uint64_t page = 4096;

/// The offset of the header: in the first 8 KiB, at a multiple of 4, the sum of its words 0.
std::optional<std::uint64_t> find_header(const ImageFile& image) {
  for (std::uint64_t at = 0; at + 12 <= image.head().size(); at += 4) {
    if (image.get<std::uint32_t>(at) == header_magic &&
        header_magic + image.get<std::uint32_t>(at + 4) + image.get<std::uint32_t>(at + 8) == 0) {
      return at;
    }
  }
  return std::nullopt;
}

/// Addresses in the header itself, for images that are not ELF.
MultibootImage parse_addresses(const ImageFile& image, std::uint64_t header) {
  const std::uint64_t header_address = image.get<std::uint32_t>(header + 12);
  const std::uint64_t load_address = image.get<std::uint32_t>(header + 16);
  const std::uint64_t load_end = image.get<std::uint32_t>(header + 20);
  const std::uint64_t bss_end = image.get<std::uint32_t>(header + 24);
  const std::uint64_t before = header_address - load_address;
  if (header_address < load_address || before > header) {
    image.fail("its multiboot header says that it begins before the file does");
  }
  Segment segment{.offset = header - before,
                  .file_size = image.size() - (header - before),
                  .gpa = load_address};
  if (load_end != 0) {
    if (load_end < load_address) {
      image.fail("its multiboot header says that it ends before it begins");
    }
    segment.file_size = load_end - load_address;
  }
  segment.memory_size = segment.file_size;
  if (bss_end > load_address) {
    segment.memory_size = std::max(segment.file_size, bss_end - load_address);
  }
  return {.entry = image.get<std::uint32_t>(header + 28), .segments = {segment}};
}

/// The segments of an ELF file of either class; both name their fields alike.
template <class FileHeader, class ProgramHeader>
MultibootImage parse_elf(const ImageFile& image) {
  const auto get = [&]<class T>(std::uint64_t offset, T) { return image.get<T>(offset); };
  const std::uint64_t table = get(offsetof(FileHeader, e_phoff), decltype(FileHeader::e_phoff){});
  const auto count = image.get<std::uint16_t>(offsetof(FileHeader, e_phnum));
  const auto size = image.get<std::uint16_t>(offsetof(FileHeader, e_phentsize));
  if (size != sizeof(ProgramHeader) || table > ImageFile::head_size) {
    image.fail("its ELF program headers are malformed or too far from its beginning");
  }
  MultibootImage result{.entry =
                            get(offsetof(FileHeader, e_entry), decltype(FileHeader::e_entry){})};
  for (std::uint64_t at = table; at < table + std::uint64_t{count} * size; at += size) {
    if (image.get<std::uint32_t>(at + offsetof(ProgramHeader, p_type)) != PT_LOAD) {
      continue;
    }
    const auto field = [&](std::size_t offset) {
      return std::uint64_t{get(at + offset, decltype(ProgramHeader::p_offset){})};
    };
    const Segment segment{.offset = field(offsetof(ProgramHeader, p_offset)),
                          .file_size = field(offsetof(ProgramHeader, p_filesz)),
                          .gpa = field(offsetof(ProgramHeader, p_paddr)),
                          .memory_size = field(offsetof(ProgramHeader, p_memsz))};
    if (segment.memory_size < segment.file_size) {
      image.fail("an ELF segment has more bytes in the file than in memory");
    }
    if (segment.memory_size != 0) {
      result.segments.push_back(segment);
    }
  }
  return result;
}

bool is_elf(const ImageFile& image, std::uint8_t type, std::uint16_t machine) {
  constexpr std::uint32_t elf_magic = 0x464c457f;
  return image.get<std::uint32_t>(0) == elf_magic && image.get<std::uint8_t>(EI_CLASS) == type &&
         image.get<std::uint8_t>(EI_DATA) == ELFDATA2LSB &&
         image.get<std::uint16_t>(offsetof(Elf32_Ehdr, e_machine)) == machine;
}

void check_flags(const ImageFile& image, std::uint32_t flags) {
  const std::uint32_t unknown =
      flags & must_be_obeyed & ~(wants_alignment | wants_memory | wants_video);
  if (unknown != 0) {
    image.fail("its multiboot header requires what is not known here: flags " + hex(unknown));
  }
}

/// Loads the segments. @return where the last one ends
std::uint64_t load_segments(const ImageFile& image, const MultibootImage& parsed,
                            std::span<const RamRange> ram, kvm::GuestMemory::View& memory) {
  std::uint64_t end = pc::high_memory.value;
  for (const Segment& segment : parsed.segments) {
    if (!pc::is_free(ram.first(1), segment.gpa, segment.memory_size)) {
      image.fail("it wants to be loaded to " + hex(segment.gpa) + ", " + hex(segment.memory_size) +
                 " bytes, where the guest has no free memory: that is " +
                 hex(pc::images_from.value) + " to " + hex(pc::low_memory_end.value) + " and " +
                 hex(pc::high_memory.value) + " to " + hex(ram[0].size));
    }
    // The rest is zero: memory is, and segments that overlap would be the image's own fault.
    image.load(segment.offset, segment.file_size, kvm::Gpa{segment.gpa}, memory);
    end = std::max(end, segment.gpa + segment.memory_size);
  }
  return end;
}

}  // namespace

MultibootImage parse_multiboot(const ImageFile& image) {
  const auto header = find_header(image);
  if (!header) {
    image.fail("this is neither a Linux bzImage nor a multiboot kernel: no header was found");
  }
  const auto flags = image.get<std::uint32_t>(*header + 4);
  check_flags(image, flags);
  MultibootImage parsed;
  if ((flags & has_addresses) != 0) {
    parsed = parse_addresses(image, *header);
  } else if (is_elf(image, ELFCLASS32, EM_386)) {
    parsed = parse_elf<Elf32_Ehdr, Elf32_Phdr>(image);
  } else if (is_elf(image, ELFCLASS64, EM_X86_64)) {
    parsed = parse_elf<Elf64_Ehdr, Elf64_Phdr>(image);
  } else {
    image.fail("it has a multiboot header, but no addresses there and is no ELF file for x86");
  }
  const bool enters_itself =
      std::any_of(parsed.segments.begin(), parsed.segments.end(), [&](const Segment& segment) {
        return parsed.entry >= segment.gpa && parsed.entry - segment.gpa < segment.memory_size;
      });
  if (!enters_itself || parsed.entry > 0xffffffff) {
    image.fail("its entry point, " + hex(parsed.entry) + ", is not in what it loads");
  }
  return parsed;
}

EntryPoint load_multiboot(const ImageFile& image, const BootOptions& options,
                          kvm::GuestMemory::View& memory) {
  const MultibootImage parsed = parse_multiboot(image);
  const std::uint64_t end = load_segments(image, parsed, options.ram, memory);
  if (options.cmdline.size() >= pc::command_line_room) {
    image.fail("the command line has more than " + std::to_string(pc::command_line_room - 1) +
               " characters");
  }
  store(memory, pc::command_line,
        std::as_bytes(std::span(options.cmdline.c_str(), options.cmdline.size() + 1)));

  std::array<std::byte, information_size> information{};
  const auto address = [](std::size_t offset) {
    return static_cast<std::uint32_t>(pc::boot_information.value + offset);
  };
  std::uint32_t flags = memory_is_told | command_line_is_told | memory_map_is_told | loader_is_told;
  put(information, 4, static_cast<std::uint32_t>(pc::low_memory_end.value / 1024));
  put(information, 8,
      static_cast<std::uint32_t>((options.ram[0].size - pc::high_memory.value) / 1024));
  put(information, 16, static_cast<std::uint32_t>(pc::command_line.value));
  if (options.initrd != nullptr) {
    const std::uint64_t size = options.initrd->size();
    const std::uint64_t at = (end + page - 1) / page * page;
    if (!pc::is_free(options.ram.first(1), at, size)) {
      options.initrd->fail("it does not fit into the guest's memory: it has " +
                           std::to_string(size) + " bytes, and from " + hex(at) + " to " +
                           hex(options.ram[0].size) + " there is room");
    }
    options.initrd->load(0, size, kvm::Gpa{at}, memory);
    flags |= modules_are_told;
    put(information, 20, std::uint32_t{1});
    put(information, 24, address(module_at));
    put(information, module_at, static_cast<std::uint32_t>(at));
    put(information, module_at + 4, static_cast<std::uint32_t>(at + size));
    put(information, module_at + 8, address(module_name_at));
    const std::string& name = options.initrd->name();
    put_text(information, module_name_at,
             std::string_view(name).substr(0, information_size - module_name_at - 1));
  }
  std::size_t next = memory_map_at;
  for (const pc::MemoryArea& area : pc::memory_map(options.ram)) {
    put(information, next, std::uint32_t{20});  // The size of what follows.
    put(information, next + 4, area.first);
    put(information, next + 12, area.size);
    put(information, next + 20, area.type);
    next += 24;
  }
  put(information, 44, static_cast<std::uint32_t>(next - memory_map_at));
  put(information, 48, address(memory_map_at));
  put_text(information, loader_name_at, "tinyvmm");
  put(information, 64, address(loader_name_at));
  put(information, 0, flags);
  store(memory, pc::boot_information, information);
  return {.rip = parsed.entry, .rax = loader_magic, .rbx = pc::boot_information.value};
}

}  // namespace tinyvmm

#endif
