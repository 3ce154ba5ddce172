// SPDX-License-Identifier: MIT
// tinyvmm's devices and tables by themselves, without a guest.
// needs: exceptions
#include <gtest/gtest.h>

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <initializer_list>
#include <numeric>
#include <span>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "tinyvmm/acpi.hpp"
#include "tinyvmm/bus.hpp"
#include "tinyvmm/console.hpp"
#include "tinyvmm/pc_devices.hpp"
#include "tinyvmm/serial_16550.hpp"

namespace {

using namespace tinyvmm;

std::uint64_t read(Device& device, std::uint64_t offset, std::size_t size = 1) {
  std::array<std::byte, 8> bytes;
  bytes.fill(std::byte{0xff});
  device.read(offset, std::span(bytes).first(size));
  std::uint64_t value = 0;
  std::memcpy(&value, bytes.data(), size);
  return value;
}
void write(Device& device, std::uint64_t offset, std::uint64_t value, std::size_t size = 1) {
  std::array<std::byte, 8> bytes;
  std::memcpy(bytes.data(), &value, sizeof value);
  device.write(offset, std::span(bytes).first(size));
}

/// Remembers the last access.
struct Probe : Device {
  explicit Probe(std::byte answer) : answer_(answer) {}
  void read(std::uint64_t offset, std::span<std::byte> data) override {
    last_offset = offset;
    last_size = data.size();
    for (std::byte& byte : data) {
      EXPECT_EQ(byte, std::byte{0xff});
      byte = answer_;
    }
  }
  void write(std::uint64_t offset, std::span<const std::byte> data) override {
    last_offset = offset;
    last_size = data.size();
  }
  std::uint64_t last_offset = ~0ull;
  std::size_t last_size = 0;
  std::byte answer_;
};

TEST(TinyvmmBus, AnAccessGoesToItsDeviceOrToNobody) {
  Probe a(std::byte{0xaa});
  Probe b(std::byte{0xbb});
  Bus bus;
  bus.add(0x20, 0x10, b);
  bus.add(0x10, 8, a);
  std::array<std::byte, 4> data{};
  const auto reads = [&](std::uint64_t address) {
    bus.read(address, data);
    return std::to_integer<unsigned>(data[0]) << 8 | std::to_integer<unsigned>(data[3]);
  };
  EXPECT_EQ(reads(0x0f), 0xffffu);
  EXPECT_EQ(reads(0x10), 0xaaaau);
  EXPECT_EQ(a.last_offset, 0u);
  EXPECT_EQ(reads(0x16), 0xaaffu);  // Cut at the end of the range.
  EXPECT_EQ(a.last_offset, 6u);
  EXPECT_EQ(a.last_size, 2u);
  EXPECT_EQ(reads(0x18), 0xffffu);
  EXPECT_EQ(reads(0x2c), 0xbbbbu);
  EXPECT_EQ(reads(0x30), 0xffffu);
  EXPECT_EQ(reads(~0ull), 0xffffu);
  bus.write(0x2f, data);
  EXPECT_EQ(b.last_offset, 0xfu);
  EXPECT_EQ(b.last_size, 1u);
  bus.write(0x30, data);
  EXPECT_EQ(b.last_size, 1u);
}

TEST(TinyvmmBus, RangesDoNotOverlap) {
  Probe device(std::byte{0});
  Bus bus;
  bus.add(0x10, 0x10, device);
  EXPECT_THROW(bus.add(0x1f, 1, device), std::logic_error);
  EXPECT_THROW(bus.add(0x0f, 2, device), std::logic_error);
  EXPECT_THROW(bus.add(0x10, 1, device), std::logic_error);
  EXPECT_THROW(bus.add(0x08, 0x100, device), std::logic_error);
  EXPECT_THROW(bus.add(0x40, 0, device), std::logic_error);
  EXPECT_THROW(bus.add(~0ull, 2, device), std::logic_error);
  EXPECT_NO_THROW(bus.add(0x20, 1, device));
  EXPECT_NO_THROW(bus.add(0x0f, 1, device));
  EXPECT_NO_THROW(bus.add(~0ull, 1, device));
}

/// The far end of a line: a string in each direction.
struct Line : SerialLine {
  void send(std::span<const std::byte> bytes) override {
    for (const std::byte byte : bytes) {
      sent += std::to_integer<char>(byte);
    }
  }
  std::size_t take(std::span<std::byte> bytes) override {
    const std::size_t count = std::min(bytes.size(), input.size());
    std::memcpy(bytes.data(), input.data(), count);
    input.erase(0, count);
    return count;
  }
  std::string sent;
  std::string input;
};

/// A console between two pipes.
class TinyvmmConsole : public testing::Test {
 protected:
  TinyvmmConsole() : output_{open()}, input_{open()} {}
  struct Pipe {
    kvm::Fd read, write;
  };
  static Pipe open() {
    std::array<int, 2> fds{};
    EXPECT_EQ(::pipe2(fds.data(), O_CLOEXEC), 0);
    return {kvm::Fd(fds[0]), kvm::Fd(fds[1])};
  }
  /// No poll of so many descriptors succeeds until it is undone.
  static ::rlim_t limit_files(::rlim_t limit) {
    ::rlimit limits{};
    EXPECT_EQ(::getrlimit(RLIMIT_NOFILE, &limits), 0);
    const ::rlim_t before = std::exchange(limits.rlim_cur, limit);
    EXPECT_EQ(::setrlimit(RLIMIT_NOFILE, &limits), 0);
    return before;
  }

  Pipe output_;
  Pipe input_;
  Console console_{input_.read.get(), output_.write.get(), false};
};

TEST_F(TinyvmmConsole, AClosedOneDropsOnlyWhatDoesNotFit) {
  const std::vector<std::byte> much(1 << 20, std::byte{'m'});
  std::array<std::thread, 2> vcpus;
  for (std::thread& vcpu : vcpus) {
    vcpu = std::thread([&] { console_.send(much); });
  }
  std::array<std::byte, 4096> buffer;
  ASSERT_GT(::read(output_.read.get(), buffer.data(), buffer.size()), 0);
  console_.close();
  for (std::thread& vcpu : vcpus) {
    vcpu.join();
  }
  // Now there is room again.
  ASSERT_EQ(::fcntl(output_.read.get(), F_SETFL, O_NONBLOCK), 0);
  while (::read(output_.read.get(), buffer.data(), buffer.size()) > 0) {
  }
  console_.send(std::span(much).first(3));
  EXPECT_EQ(::read(output_.read.get(), buffer.data(), buffer.size()), 3);
}

TEST_F(TinyvmmConsole, WhatTheHostRefusesIsAFailure) {
  const ::rlim_t before = limit_files(1);
  EXPECT_THROW(console_.send(std::as_bytes(std::span("x", 1))), std::system_error);
  std::string failure;
  console_.start(
      {.input = [] {}, .leave = [] {}, .failed = [&](const std::string& why) { failure = why; }});
  console_.stop();
  limit_files(before);
  EXPECT_EQ(failure, "the console: poll: Invalid argument");
}

class TinyvmmSerial : public testing::Test {
 protected:
  enum : std::uint64_t { data, ier, iir, lcr, mcr, lsr, msr, scr, fcr = iir };
  static constexpr std::uint64_t ready = 0x0b;  // RTS, DTR, OUT2

  Line line_;
  std::vector<bool> interrupts_;
  Serial16550 serial_{line_, [this](bool level) { interrupts_.push_back(level); }};
};

TEST_F(TinyvmmSerial, SendsAndIsAlwaysReadyToSend) {
  EXPECT_EQ(read(serial_, lsr), 0x60u);
  for (const char character : std::string("hello")) {
    write(serial_, data, static_cast<std::uint8_t>(character));
  }
  EXPECT_EQ(line_.sent, "hello");
  EXPECT_EQ(read(serial_, lsr), 0x60u);
  EXPECT_TRUE(interrupts_.empty());
}

TEST_F(TinyvmmSerial, TheDivisorIsBehindABit) {
  write(serial_, lcr, 0x83);
  write(serial_, data, 0x34);
  write(serial_, ier, 0x12);
  EXPECT_EQ(read(serial_, data), 0x34u);
  EXPECT_EQ(read(serial_, ier), 0x12u);
  write(serial_, lcr, 0x03);
  EXPECT_EQ(read(serial_, lcr), 0x03u);
  EXPECT_EQ(read(serial_, ier), 0u);
  EXPECT_EQ(line_.sent, "");
  write(serial_, lcr, 0x83);
  EXPECT_EQ(read(serial_, data), 0x34u);
}

TEST_F(TinyvmmSerial, TheTransmitterInterruptComesWhenAskedForAndAfterEachByte) {
  write(serial_, ier, 2);
  EXPECT_EQ(interrupts_, std::vector<bool>({true}));
  EXPECT_EQ(read(serial_, iir), 2u);  // Reading acknowledges.
  EXPECT_EQ(interrupts_, std::vector<bool>({true, false}));
  EXPECT_EQ(read(serial_, iir), 1u);
  write(serial_, data, 'x');
  EXPECT_EQ(interrupts_, std::vector<bool>({true, false, true}));
  write(serial_, ier, 0);
  EXPECT_EQ(interrupts_, std::vector<bool>({true, false, true, false}));
  // Linux looks whether it comes a second time.
  write(serial_, ier, 2);
  EXPECT_EQ(read(serial_, iir), 2u);
  write(serial_, ier, 0);
  write(serial_, ier, 2);
  EXPECT_EQ(read(serial_, iir), 2u);
}

TEST_F(TinyvmmSerial, InputWaitsForRequestToSendAndInterrupts) {
  line_.input = "abc";
  serial_.input_ready();
  EXPECT_EQ(read(serial_, lsr), 0x60u);  // Not ready: nothing was taken.
  write(serial_, ier, 1);
  write(serial_, fcr, 7);
  EXPECT_TRUE(interrupts_.empty());
  write(serial_, mcr, ready);
  EXPECT_EQ(interrupts_, std::vector<bool>({true}));
  EXPECT_EQ(read(serial_, iir), 0xc4u);
  EXPECT_EQ(read(serial_, lsr), 0x61u);
  EXPECT_EQ(read(serial_, data), 'a');
  EXPECT_EQ(read(serial_, data), 'b');
  EXPECT_EQ(interrupts_.size(), 1u);  // The level stays while there is more.
  EXPECT_EQ(read(serial_, data), 'c');
  EXPECT_EQ(interrupts_, std::vector<bool>({true, false}));
  EXPECT_EQ(read(serial_, lsr), 0x60u);
  EXPECT_EQ(read(serial_, data), 0u);
}

TEST_F(TinyvmmSerial, TheFifoHoldsSixteenBytesAndNoneIsLost) {
  write(serial_, mcr, ready);
  write(serial_, fcr, 1);
  std::string text;
  for (int i = 0; i < 100; ++i) {
    text += static_cast<char>('!' + i % 90);
  }
  line_.input = text;
  serial_.input_ready();
  EXPECT_EQ(line_.input.size(), 84u);
  std::string got;
  while ((read(serial_, lsr) & 1) != 0) {
    got += static_cast<char>(read(serial_, data));
  }
  EXPECT_EQ(got, text);
  // Clearing the FIFO loses what is in it, and only that.
  line_.input = text;
  serial_.input_ready();
  write(serial_, fcr, 3);
  EXPECT_EQ(read(serial_, data), static_cast<std::uint8_t>(text[16]));
}

TEST_F(TinyvmmSerial, LoopsBackAsDriversTest) {
  line_.input = "not this";
  write(serial_, mcr, 0x1a);  // Loop, OUT2, RTS.
  EXPECT_EQ(read(serial_, msr) & 0xf0, 0x90u);
  write(serial_, data, 'q');
  EXPECT_EQ(line_.sent, "");
  EXPECT_EQ(read(serial_, lsr), 0x61u);
  EXPECT_EQ(read(serial_, data), 'q');
  for (int i = 0; i < 100; ++i) {
    write(serial_, data, static_cast<std::uint8_t>(i));  // More than it holds.
  }
  EXPECT_EQ(read(serial_, data), 0u);
  write(serial_, mcr, 0);
  EXPECT_EQ(read(serial_, msr), 0xb0u);
}

TEST_F(TinyvmmSerial, RegistersReadAsADriverExpects) {
  write(serial_, ier, 0xff);
  EXPECT_EQ(read(serial_, ier), 0x0fu);
  write(serial_, scr, 0x5a);
  EXPECT_EQ(read(serial_, scr), 0x5au);
  EXPECT_EQ(read(serial_, iir) & 0xc0, 0u);
  write(serial_, fcr, 1);
  EXPECT_EQ(read(serial_, iir) & 0xc0, 0xc0u);
  // Wide accesses are accesses to several registers.
  write(serial_, data, 0x0041, 2);
  EXPECT_EQ(line_.sent, "A");
  EXPECT_EQ(read(serial_, ier), 0u);
  EXPECT_EQ(read(serial_, lcr, 4) >> 16, 0xb060u);
}

TEST(TinyvmmPcDevices, AcpiPowersOffByOneSleepTypeOnly) {
  int offs = 0;
  AcpiPower power([&] { ++offs; });
  EXPECT_EQ(read(power, 4, 2), 1u);  // ACPI is on.
  EXPECT_EQ(read(power, 0, 4), 0u);
  write(power, 2, 0x20, 2);
  EXPECT_EQ(read(power, 2, 2), 0x20u);
  EXPECT_EQ(read(power, 0, 4), 0x200000u);
  write(power, 4, 0x3400, 2);  // Another type.
  write(power, 4, 0x0000, 2);  // Not enabled.
  write(power, 0, 0x2000, 2);  // Another register.
  EXPECT_EQ(offs, 0);
  write(power, 4, 0x2001, 2);
  EXPECT_EQ(offs, 1);
}

TEST(TinyvmmPcDevices, ExitStatusesAreOddAndOfOneByte) {
  std::vector<int> statuses;
  DebugExit exit([&](int status) { statuses.push_back(status); });
  write(exit, 0, 0, 1);
  write(exit, 0, 0x10, 4);
  write(exit, 0, 0xffffffff, 4);
  EXPECT_EQ(statuses, std::vector<int>({1, 33, 255}));
}

// ------------------------------------------------------------------------------------------------

using Table = std::span<const std::byte>;

template <class T>
T get(Table table, std::size_t offset) {
  T value{};
  if (offset + sizeof value <= table.size()) {
    std::memcpy(&value, table.data() + offset, sizeof value);
  } else {
    ADD_FAILURE() << "the table ends before " << offset;
  }
  return value;
}
std::string name(Table table) {
  return std::string(reinterpret_cast<const char*>(table.data()), 4);
}
unsigned sum(Table table) {
  return std::accumulate(table.begin(), table.end(), 0u, [](unsigned total, std::byte byte) {
    return (total + std::to_integer<unsigned>(byte)) & 0xff;
  });
}

/// Follows the pointers as a guest does, and checks all sums.
struct Tables {
  static constexpr std::uint32_t address = 0xe0000;

  explicit Tables(const AcpiDescription& description)
      : all(make_acpi_tables(description, address)) {
    const Table root = Table(all).first(36);
    EXPECT_EQ(std::memcmp(root.data(), "RSD PTR ", 8), 0);
    EXPECT_EQ(sum(root.first(20)), 0u);
    EXPECT_EQ(sum(root), 0u);
    const Table xsdt = at(get<std::uint64_t>(root, 24), "XSDT");
    EXPECT_EQ(xsdt.size(), 36u + 2 * 8);
    fadt = at(get<std::uint64_t>(xsdt, 36), "FACP");
    madt = at(get<std::uint64_t>(xsdt, 44), "APIC");
    dsdt = at(get<std::uint64_t>(fadt, 140), "DSDT");
    EXPECT_EQ(get<std::uint32_t>(fadt, 40), get<std::uint64_t>(fadt, 140));
    const std::uint32_t facs = get<std::uint32_t>(fadt, 36);
    EXPECT_EQ(facs % 64, 0u);
    EXPECT_EQ(name(Table(all).subspan(facs - address)), "FACS");
    EXPECT_EQ(get<std::uint32_t>(Table(all).subspan(facs - address), 4), 64u);
  }
  Table at(std::uint64_t gpa, const char* expected) const {
    const Table rest = Table(all).subspan(gpa - address);
    const Table table = rest.first(get<std::uint32_t>(rest, 4));
    EXPECT_EQ(name(table), expected);
    EXPECT_EQ(sum(table), 0u) << expected;
    return table;
  }

  std::vector<std::byte> all;
  Table fadt, madt, dsdt;
};

bool contains(Table table, std::initializer_list<unsigned> bytes) {
  const auto found =
      std::search(table.begin(), table.end(), bytes.begin(), bytes.end(),
                  [](std::byte a, unsigned b) { return std::to_integer<unsigned>(a) == b; });
  return found != table.end();
}

TEST(TinyvmmAcpi, TablesAreWhatTheSpecificationSays) {
  const Tables tables({.cpus = 3,
                       .local_apic = 0xfee00000,
                       .io_apic = 0xfec00000,
                       .interrupt = 9,
                       .event_port = 0x600,
                       .control_port = 0x604,
                       .reset_port = 0xcf9,
                       .reset_value = 6});
  // Each field at its offset, ACPI 6.5 table 5.9.
  EXPECT_EQ(tables.fadt.size(), 276u);
  EXPECT_EQ(get<std::uint16_t>(tables.fadt, 46), 9);
  EXPECT_EQ(get<std::uint32_t>(tables.fadt, 56), 0x600u);
  EXPECT_EQ(get<std::uint32_t>(tables.fadt, 64), 0x604u);
  EXPECT_EQ(get<std::uint8_t>(tables.fadt, 88), 4);
  EXPECT_EQ(get<std::uint8_t>(tables.fadt, 89), 2);
  EXPECT_EQ(get<std::uint16_t>(tables.fadt, 109), 0x25);
  EXPECT_EQ(get<std::uint32_t>(tables.fadt, 112), 0x435u);
  EXPECT_EQ(get<std::uint32_t>(tables.fadt, 116), 0x01000801u);  // ports, 8 bits wide, by bytes
  EXPECT_EQ(get<std::uint64_t>(tables.fadt, 120), 0xcf9u);
  EXPECT_EQ(get<std::uint8_t>(tables.fadt, 128), 6);
  EXPECT_EQ(get<std::uint64_t>(tables.fadt, 152), 0x600u);
  EXPECT_EQ(get<std::uint64_t>(tables.fadt, 176), 0x604u);

  EXPECT_EQ(get<std::uint32_t>(tables.madt, 36), 0xfee00000u);
  EXPECT_EQ(tables.madt.size(), 44u + 3 * 8 + 12 + 10);
  for (std::size_t id = 0; id < 3; ++id) {
    EXPECT_EQ(get<std::uint32_t>(tables.madt, 44 + 8 * id), 0x0800 + id * 0x1010000);
    EXPECT_EQ(get<std::uint32_t>(tables.madt, 48 + 8 * id), 1u);
  }
  EXPECT_EQ(get<std::uint16_t>(tables.madt, 68), 0x0c01);
  EXPECT_EQ(get<std::uint32_t>(tables.madt, 72), 0xfec00000u);

  // Name(\_S5, Package{0, 0, 0, 0}), and nothing else.
  EXPECT_EQ(tables.dsdt.size(), 36u + 5 + 11);
  EXPECT_TRUE(contains(tables.dsdt, {0x08, '_', 'S', '5', '_', 0x12, 10, 4, 0x0a, 0, 0x0a, 0}));
}

TEST(TinyvmmAcpi, ADiskIsAVirtioDevice) {
  const Tables tables(
      {.disk = AcpiDescription::VirtioMmio{.address = 0xd0000000, .size = 0x200, .interrupt = 16}});
  EXPECT_TRUE(contains(tables.dsdt, {0x0d, 'L', 'N', 'R', 'O', '0', '0', '0', '5', 0}));
  EXPECT_TRUE(contains(tables.dsdt, {0x86, 9, 0, 1, 0, 0,  0, 0xd0, 0, 2, 0, 0,  // memory
                                     0x89, 6, 0, 3, 1, 16, 0, 0,    0,           // interrupt
                                     0x79, 0}));
  // Scope(\_SB) and Device end where the table does. Their lengths take two bytes.
  const auto length = [&](std::size_t at) {
    const auto low = get<std::uint8_t>(tables.dsdt, at);
    EXPECT_EQ(low >> 6, 1);
    return std::size_t{low & 0xfu} | std::size_t{get<std::uint8_t>(tables.dsdt, at + 1)} << 4;
  };
  const std::size_t scope = 36 + 16;
  ASSERT_EQ(get<std::uint8_t>(tables.dsdt, scope), 0x10);
  EXPECT_EQ(scope + 1 + length(scope + 1), tables.dsdt.size());
  const std::size_t device = scope + 3 + 5;
  ASSERT_EQ(get<std::uint16_t>(tables.dsdt, device), 0x825b);
  EXPECT_EQ(device + 2 + length(device + 2), tables.dsdt.size());
}

}  // namespace
