// SPDX-License-Identifier: MIT
#ifndef TINYVMM_BOOT_X86_HPP
#define TINYVMM_BOOT_X86_HPP

#include <kvm/kvm.hpp>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "image_file.hpp"
#include "machine.hpp"

/// @file
/// The two kinds of kernel that the PC boots.

namespace tinyvmm {

/// What the boot CPU begins with.
struct EntryPoint {
  bool long_mode = false;  ///< else protected mode without paging
  std::uint64_t rip = 0;
  std::uint64_t rax = 0;
  std::uint64_t rbx = 0;
  std::uint64_t rsi = 0;
};

/// What belongs to a kernel.
struct BootOptions {
  const ImageFile* initrd = nullptr;
  std::string cmdline{};
  std::span<const RamRange> ram{};
};

/// Whether it is a Linux kernel with a setup header.
bool is_bzimage(const ImageFile& image);
/// Loads a Linux kernel for its 64-bit boot protocol, with its initrd and command line, and tells
/// it the memory map (Documentation/arch/x86/boot.rst).
EntryPoint load_bzimage(const ImageFile& image, const BootOptions& options,
                        kvm::GuestMemory::View& memory);

/// A part of a file that belongs at an address; memory beyond its bytes is zero.
struct Segment {
  std::uint64_t offset = 0;
  std::uint64_t file_size = 0;
  std::uint64_t gpa = 0;
  std::uint64_t memory_size = 0;
};
/// What a multiboot kernel's headers ask for.
struct MultibootImage {
  std::uint64_t entry = 0;
  std::vector<Segment> segments{};
};
/// Finds the multiboot header, and the segments that it or the ELF headers describe.
MultibootImage parse_multiboot(const ImageFile& image);
/// Loads a multiboot kernel (version 1), with its initrd as a module.
EntryPoint load_multiboot(const ImageFile& image, const BootOptions& options,
                          kvm::GuestMemory::View& memory);

}  // namespace tinyvmm

#endif
