// SPDX-License-Identifier: MIT
#ifndef TINYVMM_ARM_BOARD_HPP
#define TINYVMM_ARM_BOARD_HPP

#include <kvm/types.hpp>

#include <cstdint>

/// @file
/// Where things are on the board that arm64 guests get. They learn it from the device tree.

namespace tinyvmm::arm_board {

inline constexpr kvm::Gpa gic_distributor{0x0800'0000};
inline constexpr std::uint64_t gic_distributor_size = 0x1'0000;
inline constexpr kvm::Gpa serial{0x0900'0000};
inline constexpr kvm::Gpa disk{0x0a00'0000};
inline constexpr kvm::Gpa gic_redistributors{0x0c00'0000};
inline constexpr std::uint64_t gic_redistributor_size = 0x2'0000;  ///< for each processor
inline constexpr kvm::Gpa ram{0x4000'0000};                        ///< the rest is memory

// Shared peripheral interrupts, from 0 on: the GIC numbers them from 32 on.
inline constexpr std::uint32_t serial_interrupt = 1;
inline constexpr std::uint32_t disk_interrupt = 2;
inline constexpr std::uint32_t gic_interrupts = 64;  ///< with the 32 private ones

/// By what KVM tells processors apart: up to 16 are a cluster (MPIDR_EL1).
constexpr std::uint32_t processor_affinity(unsigned id) {
  return (id & 0xf) | (id >> 4 & 0xff) << 8 | (id >> 12 & 0xff) << 16;
}

}  // namespace tinyvmm::arm_board

#endif
