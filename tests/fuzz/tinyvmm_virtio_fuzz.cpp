// SPDX-License-Identifier: MIT
// tinyvmm's disk against a guest that writes whatever it likes to registers and rings: the device
// ends up idle or stopped, and has written neither to read-only memory nor beyond the disk's rules.
//
// KVM is played by this program, which has no vCPUs to run.
#include <kvm/kvm.hpp>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "support/fake_kvm.hpp"
#include "support/fuzzing.hpp"
#include "tinyvmm/virtio_blk.hpp"
#include "tinyvmm/virtio_mmio.hpp"

namespace {

using kvm::Gpa;
using kvm::Mapping;
using kvm::MemorySlot;
using tinyvmm::VirtioBlk;
using tinyvmm::VirtioMmio;

const std::size_t page = kvm::detail::sys::page_size();

using kvm_test::Input;
using kvm_test::require;

// What the guest's memory has where: rings, then requests; behind it memory that is read-only.
constexpr std::uint64_t descriptors_at = 0, available_at = 0x1000, used_at = 0x2000;
constexpr std::uint64_t header_at = 0x3000;
constexpr std::uint64_t ram_size = 0x1'0000, rom_size = 0x1'0000;
constexpr std::uint64_t sectors = 16;

constexpr std::array<std::uint32_t, 17> registers = {0x10, 0x14, 0x20, 0x24, 0x30, 0x38,
                                                     0x44, 0x50, 0x64, 0x70, 0x80, 0x84,
                                                     0x90, 0x94, 0xa0, 0xa4, 0xc0};

/// What is made once.
struct Host {
  kvm::System system = kvm::System::try_open("/dev/null").value();
  kvm::Vm vm = system.create_vm();
  Mapping backing = Mapping::anonymous(ram_size + rom_size);
  kvm::Fd disk{static_cast<int>(::syscall(SYS_memfd_create, "disk", 0u))};
  std::string path = "/proc/self/fd/" + std::to_string(disk.get());
  std::vector<std::byte> content{sectors * VirtioBlk::sector};

  Host() {
    for (std::size_t i = 0; i < content.size(); ++i) {
      content[i] = static_cast<std::byte>(i * 7);
    }
  }
  void restore() {
    std::memset(backing.data(), 0, ram_size);
    std::memset(backing.data() + ram_size, 0x5a, rom_size);
    require(::ftruncate(disk.get(), static_cast<off_t>(content.size())) == 0);
    require(::pwrite(disk.get(), content.data(), content.size(), 0) ==
            static_cast<ssize_t>(content.size()));
  }
};

class World {
 public:
  World(Host& host, bool writable)
      : host_(host),
        writable_(writable),
        rom_(host.vm.add_memory(Gpa(ram_size), host.backing.try_part(ram_size, rom_size).value(),
                                {.read_only = true})),
        memory_(host.vm.memory().view()),
        device_(host.vm.memory(), std::make_unique<VirtioBlk>(host.path, writable)) {
    come_and_go();
  }

  void step(Input& input) {
    switch (input.bytes(1) % 13) {
      case 0:
        return set(registers[input.bytes(1) % registers.size()],
                   static_cast<std::uint32_t>(input.bytes(4)));
      case 1: {
        std::array<std::byte, 8> data{};
        const std::uint64_t value = input.bytes(8);
        std::memcpy(data.data(), &value, sizeof value);
        const auto offset = static_cast<std::uint64_t>(input.bytes(2)) % 0x220;
        const std::uint64_t how = input.bytes(1);
        const auto part = std::span(data).first(how % 9);
        return how >= 128 ? device_.write(offset, part) : device_.read(offset, part);
      }
      case 2:
        static_cast<void>(memory_.write<std::uint16_t>(Gpa(input.bytes(2)),
                                                       static_cast<std::uint16_t>(input.bytes(2))));
        return;
      case 3:
      case 4:
      case 5:
        return describe(input);
      case 6:
      case 7:
        return offer(input);
      case 8:
        return header(input);
      case 9:
        return start(input);
      case 10:
        set(VirtioMmio::queue_notify, 0);
        return settle();
      case 11:
        return come_and_go();
      default:
        static_cast<void>(memory_.fill(Gpa(input.bytes(2)), input.bytes(1),
                                       static_cast<std::byte>(input.bytes(1))));
        return;
    }
  }

  void check() {
    set(VirtioMmio::queue_notify, 0);
    settle();
    // A device that has stopped says why, and the other way round. It may stop just now.
    require((get(0x70) & 64) == 0 || !device_.fault().empty());
    require(device_.fault().empty() || (get(0x70) & 64) != 0);
    set(0x70, 0);
    require(get(0x70) == 0 && get(0x60) == 0 && device_.fault().empty());
    const auto* const rom = host_.backing.data() + ram_size;
    require(std::all_of(rom, rom + rom_size, [](std::byte b) { return b == std::byte{0x5a}; }));
    std::vector<std::byte> now(host_.content.size() + 1);
    require(::pread(host_.disk.get(), now.data(), now.size(), 0) ==
            static_cast<ssize_t>(host_.content.size()));
    now.pop_back();
    require(writable_ || now == host_.content);
  }

 private:
  std::uint32_t get(std::uint64_t offset) {
    std::uint32_t value = ~0u;
    device_.read(offset, std::as_writable_bytes(std::span(&value, 1)));
    return value;
  }
  void set(std::uint64_t offset, std::uint32_t value) {
    device_.write(offset, std::as_bytes(std::span(&value, 1)));
  }
  /// Waits until the device has noticed a notification and, as the register is behind its lock, is
  /// not in the middle of a request.
  void settle() {
    while (device_.queue_event().wait(std::chrono::nanoseconds(0))) {
      std::this_thread::yield();
    }
    std::this_thread::yield();
    static_cast<void>(get(0x44));
  }

  std::uint64_t gpa(Input& input) {
    const std::uint64_t form = input.bytes(1);
    switch (form % 8) {
      case 0:
      case 1:
        return header_at + 16 * (form / 8);
      case 2:
      case 3:
        return 0x4000 + 256 * (form / 8);
      case 4:
        return ram_size - form / 8;
      case 5:
        return ram_size + rom_size - form / 8;
      case 6:
        return input.bytes(2);
      default:
        return input.bytes(8);
    }
  }
  std::uint32_t length(Input& input) {
    const std::uint64_t form = input.bytes(1);
    switch (form % 8) {
      case 0:
        return 1;
      case 1:
        return 16;
      case 2:
      case 3:
        return static_cast<std::uint32_t>(512 * (form / 8));
      case 4:
        return static_cast<std::uint32_t>(form / 8);
      case 5:
        return static_cast<std::uint32_t>(0u - form / 8);
      case 6:
        return static_cast<std::uint32_t>(input.bytes(2));
      default:
        return static_cast<std::uint32_t>(input.bytes(4));
    }
  }
  void describe(Input& input) {
    const Gpa at(descriptors_at + 16 * (input.bytes(1) % 32));
    static_cast<void>(memory_.write<std::uint64_t>(at, gpa(input)));
    static_cast<void>(memory_.write<std::uint32_t>(at + 8, length(input)));
    const std::uint64_t flags = input.bytes(1);
    static_cast<void>(memory_.write<std::uint16_t>(
        at + 12, static_cast<std::uint16_t>(flags < 0xf8 ? flags & 3 : flags)));
    static_cast<void>(
        memory_.write<std::uint16_t>(at + 14, static_cast<std::uint16_t>(input.bytes(1) % 40)));
  }
  void offer(Input& input) {
    const auto index = memory_.read<std::uint16_t>(Gpa(available_at + 2)).value_or(0);
    static_cast<void>(memory_.write<std::uint16_t>(Gpa(available_at + 4 + 2u * (index % size_)),
                                                   static_cast<std::uint16_t>(input.bytes(1))));
    static_cast<void>(memory_.atomic_store<std::uint16_t>(Gpa(available_at + 2),
                                                          static_cast<std::uint16_t>(index + 1)));
  }
  void header(Input& input) {
    const Gpa at(header_at + 16 * (input.bytes(1) % 32));
    static_cast<void>(
        memory_.write<std::uint32_t>(at, static_cast<std::uint32_t>(input.bytes(1)) % 10));
    const std::uint64_t sector = input.bytes(1);
    static_cast<void>(
        memory_.write<std::uint64_t>(at + 8, sector < 0xf8 ? sector % 20 : input.bytes(8)));
  }
  /// Memory that goes away under the device, or comes back as it was.
  void come_and_go() {
    if (ram_) {
      ram_.reset();
    } else {
      ram_.emplace(host_.vm.add_memory(Gpa(0), host_.backing.try_part(0, ram_size).value()));
    }
  }
  /// What a right driver does, with a queue of some size, or nearly so.
  void start(Input& input) {
    const std::uint64_t shape = input.bytes(1);
    std::array<std::uint64_t, 3> parts = {descriptors_at, available_at, used_at};
    const bool right = shape < 0xe0;
    if (!right) {
      parts[shape % parts.size()] = gpa(input) & ~std::uint64_t{15};
    }
    size_ = static_cast<std::uint16_t>(1u << shape % 6);
    set(0x70, 0);
    set(0x70, 1);
    set(0x70, 3);
    set(0x24, 1);
    set(0x20, 1);
    set(0x70, 11);
    set(0x38, size_);
    for (std::size_t i = 0; i < parts.size(); ++i) {
      set(0x80 + 16 * i, static_cast<std::uint32_t>(parts[i]));
      set(0x84 + 16 * i, static_cast<std::uint32_t>(parts[i] >> 32));
    }
    static_cast<void>(memory_.fill(Gpa(available_at), 0x2000, std::byte{0}));
    set(0x44, 1);
    set(0x70, 15);
    require(!right || !ram_ || (get(0x70) == 15 && get(0x44) == 1));
    settle();
  }

  Host& host_;
  const bool writable_;
  std::optional<MemorySlot> ram_{};  // comes and goes
  MemorySlot rom_;
  kvm::GuestMemory::View memory_;
  VirtioMmio device_;
  std::uint16_t size_ = 1;
};

}  // namespace

/// The input: whether the disk may be written, then an operation in each byte, with its numbers
/// behind it.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input input(data, size);
  static Host host;
  host.restore();
  {
    World world(host, input.bytes(1) % 2 != 0);
    for (int steps = 0; steps < 200 && !input.empty(); ++steps) {
      world.step(input);
    }
    world.check();
  }
  require(host.vm.memory().reclaim() == 0 && host.vm.memory().slots().empty());
  return 0;
}
