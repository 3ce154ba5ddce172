// SPDX-License-Identifier: MIT
#ifndef TINYVMM_PC_HPP
#define TINYVMM_PC_HPP

#include <kvm/types.hpp>

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "machine.hpp"

/// @file
/// Where things are in the PC that x86 guests get.

namespace tinyvmm::pc {

// Low memory. What the loader needs lies below images_from, so that images find the rest free.
inline constexpr kvm::Gpa bios_data{0x400};
inline constexpr kvm::Gpa gdt{0x6000};
inline constexpr kvm::Gpa boot_information{
    0x7000};                                    ///< Linux's boot_params, multiboot's structures
inline constexpr kvm::Gpa page_tables{0x9000};  ///< six pages
inline constexpr kvm::Gpa command_line{0xf000};
inline constexpr std::uint64_t command_line_room = 0x1000;
inline constexpr kvm::Gpa images_from{0x10000};
inline constexpr kvm::Gpa low_memory_end{0x9fc00};
inline constexpr kvm::Gpa acpi{0xe0000};
inline constexpr kvm::Gpa high_memory{0x100000};

// Memory goes on above 4 GiB: devices need some addresses below.
inline constexpr std::uint64_t most_memory_below_4g = std::uint64_t{3} << 30;
inline constexpr kvm::Gpa above_4g{std::uint64_t{1} << 32};
inline constexpr kvm::Gpa disk{0xd0000000};
inline constexpr kvm::Gpa io_apic{0xfec00000};
inline constexpr kvm::Gpa local_apic{0xfee00000};
inline constexpr kvm::Gpa kvm_identity_map{0xfffbc000};
inline constexpr kvm::Gpa kvm_tss{0xfffbd000};

inline constexpr std::uint32_t serial_gsi = 4;
inline constexpr std::uint32_t acpi_gsi = 9;
inline constexpr std::uint32_t disk_gsi = 16;

namespace port {
inline constexpr std::uint16_t keyboard = 0x64;
inline constexpr std::uint16_t debug_exit = 0xf4;
inline constexpr std::uint16_t serial = 0x3f8;
inline constexpr std::uint16_t firmware_configuration = 0x510;
inline constexpr std::uint16_t acpi_event = 0x600;
inline constexpr std::uint16_t acpi_control = 0x604;  // Where QEMU's q35 has it, too.
inline constexpr std::uint16_t reset = 0xcf9;
}  // namespace port

/// A line of the memory map that the guest is told, in the form of a PC's firmware (e820).
struct MemoryArea {
  std::uint64_t first;
  std::uint64_t size;
  std::uint32_t type;
};
inline constexpr std::uint32_t usable = 1;
inline constexpr std::uint32_t reserved = 2;

inline std::vector<MemoryArea> memory_map(std::span<const RamRange> ram) {
  std::vector<MemoryArea> map = {
      {0, low_memory_end.value, usable},
      {low_memory_end.value, high_memory - low_memory_end, reserved},
      {high_memory.value, ram[0].size - high_memory.value, usable},
  };
  for (const RamRange& range : ram.subspan(1)) {
    map.push_back({range.gpa.value, range.size, usable});
  }
  return map;
}

/// Whether an image may be loaded to [first, first + size): memory that holds nothing else.
inline bool is_free(std::span<const RamRange> ram, std::uint64_t first, std::uint64_t size) {
  const std::uint64_t last = first + size;
  return last >= first && ((first >= images_from.value && last <= low_memory_end.value) ||
                           std::any_of(ram.begin(), ram.end(), [&](const RamRange& range) {
                             return first >= std::max(range.gpa, high_memory).value &&
                                    last <= range.gpa.value + range.size;
                           }));
}

}  // namespace tinyvmm::pc

#endif
