// SPDX-License-Identifier: MIT
#include "boot_arm64.hpp"

#include <cstdio>
#include <utility>

#include "arm_board.hpp"
#include "device_tree.hpp"
#include "pl011.hpp"
#include "virtio_mmio.hpp"

namespace tinyvmm {
namespace {

/// How far apart parts lie: the largest page size of a guest.
constexpr std::uint64_t alignment = 64 << 10;
/// An Image goes so far beyond a multiple of 2 MiB as its header says.
constexpr std::uint64_t image_alignment = 2 << 20;
static_assert(arm_board::ram.value % image_alignment == 0);
/// The largest device tree that kernels take.
constexpr std::uint64_t most_tree_bytes = 2 << 20;

constexpr std::uint64_t align_up(std::uint64_t value) {
  return (value + alignment - 1) / alignment * alignment;
}
constexpr std::uint64_t align_down(std::uint64_t value) { return value / alignment * alignment; }

/// What the header of an Image says.
struct ImageHeader {
  std::uint64_t text_offset;  ///< where it wants to be, from a multiple of 2 MiB on
  std::uint64_t memory_size;  ///< what it needs from there on; more than the file has
};

ImageHeader parse(const ImageFile& image) {
  constexpr std::uint64_t text_offset_at = 8, image_size_at = 16, flags_at = 24, magic_at = 56;
  constexpr std::uint32_t magic = 0x644d5241;  // "ARM" and 0x64
  constexpr std::uint64_t big_endian = 1;
  constexpr std::uint16_t gzip = 0x8b1f;
  constexpr std::uint32_t efi_zboot = 0x676d697a;  // "zimg"
  if (image.get<std::uint16_t>(0) == gzip || image.get<std::uint32_t>(4) == efi_zboot) {
    image.fail("it is compressed, and has to be unpacked first");
  }
  if (image.get<std::uint32_t>(magic_at) != magic) {
    image.fail("it is no arm64 Linux kernel: the Image header's magic number is wrong");
  }
  if ((image.get<std::uint64_t>(flags_at) & big_endian) != 0) {
    image.fail("it is a big-endian kernel");
  }
  const ImageHeader header{.text_offset = image.get<std::uint64_t>(text_offset_at),
                           .memory_size = image.get<std::uint64_t>(image_size_at)};
  if (header.memory_size == 0) {
    image.fail("its header does not say how large it is: it is older than Linux 3.17");
  }
  if (header.memory_size < image.size() || header.text_offset >= image_alignment) {
    image.fail("its header makes no sense: " + hex(header.memory_size) + " bytes at offset " +
               hex(header.text_offset) + ", and the file has " + hex(image.size()));
  }
  return header;
}

std::string unit(const char* name, kvm::Gpa gpa) {
  char text[64];
  std::snprintf(text, sizeof text, "%s@%llx", name, static_cast<unsigned long long>(gpa.value));
  return text;
}

}  // namespace

std::vector<std::byte> make_device_tree(const ArmBoard& board) {
  // The first cell of an interrupt, and the third.
  constexpr std::uint32_t shared = 0, per_processor = 1;
  constexpr std::uint32_t rising_edge = 1, high_level = 4;
  // By these numbers nodes name each other.
  constexpr std::uint32_t gic = 1, clock = 2;
  const std::string serial = unit("serial", arm_board::serial);

  DeviceTree tree;
  tree.text("compatible", {"linux,dummy-virt"});
  tree.text("model", {"tinyvmm"});
  tree.cells("#address-cells", {2});
  tree.cells("#size-cells", {2});
  tree.cells("interrupt-parent", {gic});

  tree.begin("chosen");
  tree.text("bootargs", {board.cmdline});
  tree.text("stdout-path", {"/" + serial});
  if (board.initrd) {
    tree.cells64("linux,initrd-start", {board.initrd->gpa.value});
    tree.cells64("linux,initrd-end", {board.initrd->gpa.value + board.initrd->size});
  }
  tree.end();

  tree.begin(unit("memory", board.ram.gpa));
  tree.text("device_type", {"memory"});
  tree.cells64("reg", {board.ram.gpa.value, board.ram.size});
  tree.end();

  tree.begin("cpus");
  tree.cells("#address-cells", {1});
  tree.cells("#size-cells", {0});
  for (unsigned id = 0; id < board.cpus; ++id) {
    const std::uint32_t affinity = arm_board::processor_affinity(id);
    tree.begin(unit("cpu", kvm::Gpa(affinity)));
    tree.text("device_type", {"cpu"});
    tree.text("compatible", {"arm,armv8"});
    tree.cells("reg", {affinity});
    tree.text("enable-method", {"psci"});
    tree.end();
  }
  tree.end();

  tree.begin("psci");  // KVM answers it: processors on and off, power-off, reset.
  tree.text("compatible", {"arm,psci-1.0", "arm,psci-0.2"});
  tree.text("method", {"hvc"});
  tree.end();

  tree.begin("timer");
  tree.text("compatible", {"arm,armv8-timer"});
  // Secure, non-secure, virtual (which Linux takes), hypervisor's.
  tree.cells("interrupts", {per_processor, 13, high_level, per_processor, 14, high_level,
                            per_processor, 11, high_level, per_processor, 10, high_level});
  tree.flag("always-on");
  tree.end();

  tree.begin(unit("interrupt-controller", arm_board::gic_distributor));
  tree.text("compatible", {"arm,gic-v3"});
  tree.cells("#address-cells", {0});  // For interrupt maps, which there are none of.
  tree.cells("#interrupt-cells", {3});
  tree.flag("interrupt-controller");
  tree.cells64(
      "reg", {arm_board::gic_distributor.value, arm_board::gic_distributor_size,
              arm_board::gic_redistributors.value, arm_board::gic_redistributor_size * board.cpus});
  tree.cells("phandle", {gic});
  tree.end();

  tree.begin("clock");
  tree.text("compatible", {"fixed-clock"});
  tree.cells("#clock-cells", {0});
  tree.cells("clock-frequency", {24'000'000});
  tree.cells("phandle", {clock});
  tree.end();

  tree.begin(serial);
  tree.text("compatible", {"arm,pl011", "arm,primecell"});
  tree.cells64("reg", {arm_board::serial.value, Pl011::size});
  tree.cells("interrupts", {shared, arm_board::serial_interrupt, high_level});
  tree.cells("clocks", {clock, clock});
  tree.text("clock-names", {"uartclk", "apb_pclk"});
  tree.end();

  if (board.has_disk) {
    tree.begin(unit("virtio_mmio", arm_board::disk));
    tree.text("compatible", {"virtio,mmio"});
    tree.cells64("reg", {arm_board::disk.value, VirtioMmio::size});
    tree.cells("interrupts", {shared, arm_board::disk_interrupt, rising_edge});
    tree.flag("dma-coherent");
    tree.end();
  }
  return tree.finish();
}

ArmEntry load_arm64_image(const ImageFile& kernel, const ImageFile* initrd, ArmBoard board,
                          kvm::GuestMemory::View& memory) {
  const ImageHeader header = parse(kernel);
  const std::uint64_t ram_end = board.ram.gpa.value + board.ram.size;
  const std::uint64_t pc = board.ram.gpa.value + header.text_offset;
  if (pc > ram_end || header.memory_size > ram_end - pc) {
    kernel.fail("it does not fit into the guest's memory: it needs " + hex(header.memory_size) +
                " bytes");
  }
  std::uint64_t used = align_up(pc + header.memory_size);
  if (initrd != nullptr) {
    board.initrd = RamRange{.gpa = kvm::Gpa(used), .size = initrd->size()};
    if (used > ram_end || initrd->size() > ram_end - used) {
      initrd->fail("it does not fit into the guest's memory behind the kernel: it has " +
                   hex(initrd->size()) + " bytes");
    }
    used += initrd->size();
  }
  const std::vector<std::byte> tree = make_device_tree(board);
  if (tree.size() > most_tree_bytes || tree.size() > board.ram.size ||
      align_down(ram_end - tree.size()) < used) {
    kernel.fail(
        "the guest's memory has no room for the device tree behind kernel and initrd: it has " +
        hex(tree.size()) + " bytes");
  }
  const ArmEntry entry{.pc = pc, .device_tree = align_down(ram_end - tree.size())};
  kernel.load(0, kernel.size(), kvm::Gpa(entry.pc), memory);
  if (initrd != nullptr) {
    initrd->load(0, initrd->size(), board.initrd->gpa, memory);
  }
  store(memory, kvm::Gpa(entry.device_tree), tree);
  return entry;
}

}  // namespace tinyvmm
