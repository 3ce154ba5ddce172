// SPDX-License-Identifier: MIT
#include "acpi.hpp"

#include <concepts>
#include <cstring>
#include <initializer_list>
#include <span>
#include <string_view>

namespace tinyvmm {
namespace {

/// Bytes that grow.
class Bytes {
 public:
  template <std::unsigned_integral T>
  Bytes& number(T value) {
    for (std::size_t i = 0; i < sizeof value; ++i) {
      bytes_.push_back(static_cast<std::byte>(value >> 8 * i & 0xff));
    }
    return *this;
  }
  Bytes& raw(std::initializer_list<unsigned> values) {
    for (const unsigned value : values) {
      bytes_.push_back(static_cast<std::byte>(value));
    }
    return *this;
  }
  Bytes& text(std::string_view text) {
    for (const char character : text) {
      bytes_.push_back(static_cast<std::byte>(character));
    }
    return *this;
  }
  Bytes& append(const Bytes& other) {
    bytes_.insert(bytes_.end(), other.bytes_.begin(), other.bytes_.end());
    return *this;
  }
  Bytes& zeroes(std::size_t count) {
    bytes_.resize(bytes_.size() + count);
    return *this;
  }
  std::size_t size() const { return bytes_.size(); }
  std::vector<std::byte>& all() { return bytes_; }

 private:
  std::vector<std::byte> bytes_{};
};

/// Makes the sum of the bytes 0 by the one at `offset`.
void seal(std::span<std::byte> bytes, std::size_t offset) {
  unsigned sum = 0;
  for (const std::byte byte : bytes) {
    sum += std::to_integer<unsigned>(byte);
  }
  bytes[offset] = static_cast<std::byte>(std::to_integer<unsigned>(bytes[offset]) - sum);
}

/// A system description table: the header that all have, and the rest.
Bytes table(std::string_view signature, std::uint8_t revision, const Bytes& body) {
  constexpr std::size_t header_size = 36;
  constexpr std::size_t checksum_at = 9;
  Bytes result;
  result.text(signature)
      .number(static_cast<std::uint32_t>(header_size + body.size()))
      .raw({revision, 0})
      .text("KVMHPP")
      .text("TINYVMM ")
      .number(std::uint32_t{1})
      .text("TINY")
      .number(std::uint32_t{1})
      .append(body);
  seal(result.all(), checksum_at);
  return result;
}

// The machine language that the DSDT is written in. ACPI specification, section 20.2.
namespace aml {

/// A length, which counts itself and what follows.
Bytes package_length(std::size_t following) {
  if (following + 1 < 0x40) {
    return Bytes().number(static_cast<std::uint8_t>(following + 1));
  }
  const std::size_t length = following + 2;  // Up to 4095 bytes.
  return Bytes().raw(
      {static_cast<unsigned>(0x40 | (length & 0xf)), static_cast<unsigned>(length >> 4)});
}
Bytes name(std::string_view four, const Bytes& value) {
  return Bytes().raw({0x08}).text(four).append(value);
}
Bytes byte(std::uint8_t value) { return Bytes().raw({0x0a, value}); }
Bytes string(std::string_view text) { return Bytes().raw({0x0d}).text(text).raw({0}); }
Bytes package(std::initializer_list<std::uint8_t> values) {
  Bytes content;
  content.number(static_cast<std::uint8_t>(values.size()));
  for (const std::uint8_t value : values) {
    content.append(byte(value));
  }
  return Bytes().raw({0x12}).append(package_length(content.size())).append(content);
}
Bytes buffer(const Bytes& bytes) {
  Bytes content = byte(static_cast<std::uint8_t>(bytes.size()));
  content.append(bytes);
  return Bytes().raw({0x11}).append(package_length(content.size())).append(content);
}
Bytes scope(std::string_view path, const Bytes& content) {
  const Bytes inside = Bytes().text(path).append(content);
  return Bytes().raw({0x10}).append(package_length(inside.size())).append(inside);
}
Bytes device(std::string_view four, const Bytes& content) {
  const Bytes inside = Bytes().text(four).append(content);
  return Bytes().raw({0x5b, 0x82}).append(package_length(inside.size())).append(inside);
}

}  // namespace aml

Bytes make_dsdt(const AcpiDescription& description) {
  Bytes body = aml::name("_S5_", aml::package({acpi_power_off_type, acpi_power_off_type, 0, 0}));
  if (const auto& disk = description.disk) {
    Bytes resources;
    resources
        .raw({0x86, 9, 0, 1})  // Memory32Fixed, writable
        .number(disk->address)
        .number(disk->size)
        .raw({0x89, 6, 0, 0x03, 1})  // Interrupt: for a consumer, edge, active high, exclusive
        .number(disk->interrupt)
        .raw({0x79, 0});  // the end; no checksum
    Bytes content = aml::name("_HID", aml::string("LNRO0005"));
    content.append(aml::name("_UID", aml::byte(0)))
        .append(aml::name("_CCA", aml::byte(1)))
        .append(aml::name("_CRS", aml::buffer(resources)));
    body.append(aml::scope("\\_SB_", aml::device("DISK", content)));
  }
  return table("DSDT", 2, body);
}

/// Processors and interrupt controllers.
Bytes make_madt(const AcpiDescription& description) {
  constexpr std::uint32_t has_two_8259 = 1;
  constexpr std::uint32_t enabled = 1;
  constexpr std::uint16_t level_active_high = 0xd;
  Bytes body;
  body.number(description.local_apic).number(has_two_8259);
  for (unsigned id = 0; id < description.cpus; ++id) {
    body.raw({0, 8, id, id}).number(enabled);
  }
  body.raw({1, 12, description.cpus, 0}).number(description.io_apic).number(std::uint32_t{0});
  body.raw({2, 10, 0, description.interrupt})
      .number(std::uint32_t{description.interrupt})
      .number(level_active_high);
  return table("APIC", 4, body);
}

/// An address in the space of ports.
Bytes port_address(std::uint16_t port, unsigned bytes) {
  if (port == 0) {
    return Bytes().zeroes(12);
  }
  return Bytes().raw({1, bytes * 8, 0, bytes}).number(std::uint64_t{port});
}

Bytes make_fadt(const AcpiDescription& description, std::uint32_t facs, std::uint32_t dsdt) {
  constexpr std::uint16_t no_vga_no_msi_clock = 1u << 2 | 1u << 5;  // no VGA, no CMOS clock
  constexpr std::uint16_t has_legacy_devices = 1;
  // WBINVD works, HLT does, no power button, no sleep button, a reset register.
  constexpr std::uint32_t flags = 1u << 0 | 1u << 2 | 1u << 4 | 1u << 5 | 1u << 10;
  Bytes body;
  body.number(facs).number(dsdt).raw({0, 0}).number(description.interrupt);
  body.zeroes(8);  // No SMI command: ACPI is on from the beginning.
  body.number(std::uint32_t{description.event_port}).zeroes(4);
  body.number(std::uint32_t{description.control_port}).zeroes(4);
  body.zeroes(16);  // no second control, timer or general purpose blocks
  body.raw({4, 2, 0, 0, 0, 0, 0, 0});
  body.number(std::uint16_t{0xffff}).number(std::uint16_t{0xffff});  // no C2, no C3
  body.zeroes(9);
  body.number(static_cast<std::uint16_t>(has_legacy_devices | no_vga_no_msi_clock)).zeroes(1);
  body.number(flags);
  body.append(port_address(description.reset_port, 1)).number(description.reset_value);
  body.zeroes(3);
  body.zeroes(8).number(std::uint64_t{dsdt});  // The FACS is named once.
  body.append(port_address(description.event_port, 4)).zeroes(12);
  body.append(port_address(description.control_port, 2)).zeroes(12);
  body.zeroes(4 * 12 + 2 * 12 + 8);  // other blocks, sleep registers, hypervisor
  return table("FACP", 6, body);
}

}  // namespace

std::vector<std::byte> make_acpi_tables(const AcpiDescription& description, std::uint32_t address) {
  constexpr std::size_t root_size = 36;
  constexpr std::size_t facs_size = 64;  // It must lie at a multiple of 64.
  Bytes all;
  all.zeroes(64);  // The root pointer, later.
  const auto place = [&](const Bytes& bytes) {
    const auto at = static_cast<std::uint32_t>(address + all.size());
    all.append(bytes).zeroes(-bytes.size() % 16);
    return at;
  };
  const std::uint32_t facs =
      place(Bytes().text("FACS").number(std::uint32_t{facs_size}).zeroes(24).raw({2}).zeroes(31));
  const std::uint32_t dsdt = place(make_dsdt(description));
  const std::uint32_t fadt = place(make_fadt(description, facs, dsdt));
  const std::uint32_t madt = place(make_madt(description));
  const std::uint32_t xsdt =
      place(table("XSDT", 1, Bytes().number(std::uint64_t{fadt}).number(std::uint64_t{madt})));

  Bytes root;
  root.text("RSD PTR ").raw({0}).text("KVMHPP").raw({2}).number(std::uint32_t{0});
  root.number(std::uint32_t{root_size}).number(std::uint64_t{xsdt}).zeroes(4);
  constexpr std::size_t first_part = 20;  // Has a checksum of its own.
  seal(std::span(root.all()).first(first_part), 8);
  seal(root.all(), 32);
  std::memcpy(all.all().data(), root.all().data(), root.size());
  return std::move(all.all());
}

}  // namespace tinyvmm
