// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_TESTS_EXAMPLES_TINYVMM_IMAGES_HPP
#define KVM_HPP_TESTS_EXAMPLES_TINYVMM_IMAGES_HPP

#include <elf.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <string>
#include <string_view>

/// @file
/// Small kernels, made by the test itself: machine code of protected mode, and the headers that
/// tinyvmm's loaders look for.

namespace images {

/// Bytes that grow.
struct Blob : std::string {
  using std::string::string;
  Blob(std::string&& text) : std::string(std::move(text)) {}

  template <class T>
  void put(std::size_t offset, const T& value) {
    if (size() < offset + sizeof value) {
      resize(offset + sizeof value);
    }
    std::memcpy(data() + offset, &value, sizeof value);
  }
  template <class T>
  T get(std::size_t offset) const {
    T value{};
    if (offset + sizeof value <= size()) {
      std::memcpy(&value, data() + offset, sizeof value);
    }
    return value;
  }
};

/// 32-bit machine code, a few instructions of it. ebx holds the multiboot information.
class Code {
 public:
  Code& raw(std::initializer_list<unsigned> bytes) {
    for (const unsigned byte : bytes) {
      code_.push_back(static_cast<char>(byte));
    }
    return *this;
  }
  Code& eax(std::uint32_t value) { return raw({0xb8}).word(value); }
  Code& ecx(std::uint32_t value) { return raw({0xb9}).word(value); }
  Code& edx(std::uint32_t value) { return raw({0xba}).word(value); }
  Code& esi(std::uint32_t value) { return raw({0xbe}).word(value); }
  Code& edi(std::uint32_t value) { return raw({0xbf}).word(value); }
  Code& out8(std::uint16_t port, std::uint8_t value) { return edx(port).eax(value).raw({0xee}); }
  Code& out16(std::uint16_t port, std::uint16_t value) {
    return edx(port).eax(value).raw({0x66, 0xef});
  }
  Code& out32(std::uint16_t port, std::uint32_t value) { return edx(port).eax(value).raw({0xef}); }
  /// Stores a word at an address.
  Code& store(std::uint32_t address, std::uint32_t value) {
    return raw({0xc7, 0x05}).word(address).word(value);
  }
  /// Sends what esi points to, up to a zero.
  Code& print_esi() { return edx(0x3f8).raw({0xac, 0x84, 0xc0, 0x74, 0x03, 0xee, 0xeb, 0xf8}); }
  Code& print(std::string_view text) {
    for (const char character : text) {
      out8(0x3f8, static_cast<std::uint8_t>(character));
    }
    return *this;
  }
  /// Sends ecx bytes from esi on, in one instruction.
  Code& send_ecx_bytes() { return edx(0x3f8).raw({0xf3, 0x6e}); }
  /// Sends eax, through memory.
  Code& send_eax() { return raw({0xa3}).word(scratch).esi(scratch).ecx(4).send_ecx_bytes(); }
  /// Ends the machine with the status value * 2 + 1.
  Code& exit(std::uint32_t value) { return out32(0xf4, value).halt(); }
  Code& halt() { return raw({0xf4, 0xeb, 0xfd}); }
  Code& word(std::uint32_t value) {
    return raw({value & 0xff, value >> 8 & 0xff, value >> 16 & 0xff, value >> 24});
  }
  std::size_t size() const { return code_.size(); }
  const std::string& bytes() const { return code_; }

  static constexpr std::uint32_t scratch = 0x180000;

 private:
  std::string code_;
};

inline constexpr std::uint32_t load_address = 0x100000;
inline constexpr std::size_t header_offset = 0x800;  ///< of the multiboot header
inline constexpr std::size_t code_offset = 0x1000;

inline void put_header(Blob& image, std::uint32_t flags) {
  image.put(header_offset, std::uint32_t{0x1badb002});
  image.put(header_offset + 4, flags);
  image.put(header_offset + 8, static_cast<std::uint32_t>(0u - 0x1badb002u - flags));
}

/// A multiboot ELF kernel with its code at load_address, and a second segment if there is one.
template <class FileHeader, class ProgramHeader>
Blob elf(const Code& code, std::uint32_t second_address = 0, const std::string& second = {}) {
  constexpr bool is_64_bit = sizeof(FileHeader) == sizeof(Elf64_Ehdr);
  FileHeader file{};
  std::memcpy(file.e_ident, ELFMAG, SELFMAG);
  file.e_ident[EI_CLASS] = is_64_bit ? ELFCLASS64 : ELFCLASS32;
  file.e_ident[EI_DATA] = ELFDATA2LSB;
  file.e_type = ET_EXEC;
  file.e_machine = is_64_bit ? EM_X86_64 : EM_386;
  file.e_entry = load_address;
  file.e_phoff = sizeof file;
  file.e_phentsize = sizeof(ProgramHeader);
  file.e_phnum = second.empty() ? 1 : 2;
  ProgramHeader segment{};
  segment.p_type = PT_LOAD;
  segment.p_offset = code_offset;
  segment.p_paddr = load_address;
  segment.p_filesz = static_cast<decltype(segment.p_filesz)>(code.size());
  segment.p_memsz = segment.p_filesz + 0x1000;

  Blob image;
  image.put(0, file);
  image.put(sizeof file, segment);
  put_header(image, 3);
  image.resize(code_offset);
  image += code.bytes();
  if (!second.empty()) {
    segment.p_offset = static_cast<decltype(segment.p_offset)>(image.size());
    segment.p_paddr = second_address;
    segment.p_filesz = segment.p_memsz = static_cast<decltype(segment.p_filesz)>(second.size());
    image.put(sizeof file + sizeof segment, segment);
    image += second;
  }
  return image;
}
inline Blob elf32(const Code& code, std::uint32_t second_address = 0,
                  const std::string& second = {}) {
  return elf<Elf32_Ehdr, Elf32_Phdr>(code, second_address, second);
}
inline Blob elf64(const Code& code) { return elf<Elf64_Ehdr, Elf64_Phdr>(code); }

/// A multiboot kernel that is no ELF file: its header has the addresses.
inline Blob flat(const Code& code) {
  Blob image;
  put_header(image, 1u << 16);
  const auto at = [](std::size_t offset) {
    return static_cast<std::uint32_t>(load_address + offset);
  };
  image.put(header_offset + 12, at(header_offset));
  image.put(header_offset + 16, at(0));                                   // load
  image.put(header_offset + 20, at(code_offset + code.size()));           // end of data
  image.put(header_offset + 24, at(code_offset + code.size() + 0x1000));  // end of bss
  image.put(header_offset + 28, at(code_offset));                         // entry
  image.resize(code_offset);
  image += code.bytes();
  return image;
}

/// What has the form of a Linux kernel. Its 64-bit code, at 0x200 behind the kernel's beginning,
/// is the caller's.
inline Blob bzimage(const std::string& code) {
  Blob image;
  image.put(0x1f1, std::uint8_t{1});  // One sector of setup behind the first.
  image.put(0x1fe, std::uint16_t{0xaa55});
  image.put(0x200, std::uint16_t{0x66eb});  // A jump over the header: its length.
  image.put(0x202, std::uint32_t{0x53726448});
  image.put(0x206, std::uint16_t{0x20f});
  image.put(0x211, std::uint8_t{1});
  image.put(0x22c, std::uint32_t{0x7fffffff});  // The initrd's last address.
  image.put(0x234, std::uint8_t{1});
  image.put(0x236, std::uint16_t{1});
  image.put(0x238, std::uint32_t{255});        // The longest command line.
  image.put(0x258, std::uint64_t{0x1000000});  // The preferred address.
  image.put(0x260, std::uint32_t{0x100000});   // The memory that it needs.
  image.resize(0x400 + 0x200);
  image += code;
  image.resize((image.size() + 15) / 16 * 16);
  image.put(0x1f4, static_cast<std::uint32_t>((image.size() - 0x400) / 16));
  return image;
}

/// A folder for the test's files.
class Folder {
 public:
  Folder() : path_((std::filesystem::temp_directory_path() / "kvm-hpp-tinyvmm-XXXXXX").string()) {
    if (::mkdtemp(path_.data()) == nullptr) {
      std::abort();
    }
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() { std::filesystem::remove_all(path_); }

  std::string path(const std::string& name) const { return path_ + "/" + name; }
  /// @return its path
  std::string write(const std::string& name, const std::string& content) const {
    std::ofstream(path(name), std::ios::binary) << content;
    return path(name);
  }

 private:
  std::string path_;
};

}  // namespace images

#endif
