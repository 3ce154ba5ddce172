// SPDX-License-Identifier: MIT
#ifndef TINYVMM_BOOT_ARM64_HPP
#define TINYVMM_BOOT_ARM64_HPP

#include <kvm/kvm.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "image_file.hpp"
#include "machine.hpp"

/// @file
/// Linux on arm64: an Image, and a device tree that tells it the rest
/// (Documentation/arch/arm64/booting.rst).

namespace tinyvmm {

/// What a board has, and what its kernel is told.
struct ArmBoard {
  unsigned cpus = 1;
  RamRange ram{};
  bool has_disk = false;
  std::string cmdline{};
  std::optional<RamRange> initrd{};  ///< where it is in memory
};

/// Describes the board of arm_board.hpp.
std::vector<std::byte> make_device_tree(const ArmBoard& board);

/// What the boot CPU begins with.
struct ArmEntry {
  std::uint64_t pc = 0;
  std::uint64_t device_tree = 0;  ///< in x0
};

/// Loads the kernel to the beginning of memory, the initrd behind it and the device tree to the
/// end.
/// @param initrd null: none
/// @param board  all but where the initrd is
ArmEntry load_arm64_image(const ImageFile& kernel, const ImageFile* initrd, ArmBoard board,
                          kvm::GuestMemory::View& memory);

}  // namespace tinyvmm

#endif
