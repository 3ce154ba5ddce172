// SPDX-License-Identifier: MIT
#ifndef TINYVMM_ACPI_HPP
#define TINYVMM_ACPI_HPP

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace tinyvmm {

/// What the guest finds out through ACPI.
struct AcpiDescription {
  unsigned cpus = 1;
  std::uint32_t local_apic = 0;
  std::uint32_t io_apic = 0;
  /// The line of ACPI's own interrupt, which never comes.
  std::uint16_t interrupt = 0;
  std::uint16_t event_port = 0;    ///< PM1a event block, 4 ports
  std::uint16_t control_port = 0;  ///< PM1a control block, 2 ports
  std::uint16_t reset_port = 0;
  std::uint8_t reset_value = 0;

  /// A virtio device on the memory bus: "LNRO0005", as Linux calls it.
  struct VirtioMmio {
    std::uint32_t address = 0;
    std::uint32_t size = 0;
    std::uint32_t interrupt = 0;  ///< edge triggered
  };
  std::optional<VirtioMmio> disk{};
};

/// The sleep type that powers the machine off: QEMU's, which small kernels have built in.
inline constexpr std::uint8_t acpi_power_off_type = 0;

/// Makes the tables to be put at `address`, a multiple of 64 below 4 GiB. The root pointer comes
/// first, where guests look for it if that is from 0xe0000 to 0xfffff. ACPI specification 6.5,
/// section 5.2.
std::vector<std::byte> make_acpi_tables(const AcpiDescription& description, std::uint32_t address);

}  // namespace tinyvmm

#endif
