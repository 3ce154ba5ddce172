// SPDX-License-Identifier: MIT
// needs: exceptions
// What tinyvmm gives arm64 guests, as far as it can be seen without one, on any architecture: the
// device tree, the Image loader and the serial port.
#include <kvm/kvm.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <vector>

#include <sys/mman.h>
#include <unistd.h>

#include "program.hpp"
#include "tinyvmm/arm_board.hpp"
#include "tinyvmm/boot_arm64.hpp"
#include "tinyvmm/device_tree.hpp"
#include "tinyvmm/image_file.hpp"
#include "tinyvmm/pl011.hpp"

namespace {

using tinyvmm::DeviceTree;
using tinyvmm::ImageFile;
using tinyvmm::Pl011;
using namespace kvm::literals;

// --- the device tree ---

/// A tree that was read back: properties by the path of their node and their name.
struct Parsed {
  std::map<std::string, std::string> properties;
  std::vector<std::string> nodes;
  std::string fault;

  std::vector<std::uint32_t> cells(const std::string& path) const {
    const auto found = properties.find(path);
    std::vector<std::uint32_t> out;
    for (std::size_t i = 0; found != properties.end() && i + 4 <= found->second.size(); i += 4) {
      std::uint32_t cell = 0;
      for (std::size_t j = 0; j < 4; ++j) {
        cell = cell << 8 | static_cast<std::uint8_t>(found->second[i + j]);
      }
      out.push_back(cell);
    }
    return out;
  }
  std::string text(const std::string& path) const {
    const auto found = properties.find(path);
    return found == properties.end() ? "(none)" : found->second;
  }
};

/// Reads a tree, by the specification and without trust.
class Parser {
 public:
  explicit Parser(std::span<const std::byte> blob) : blob_(blob) {}

  Parsed parse() {
    if (word(0) != 0xd00dfeed || word(4) != blob_.size() || word(20) != 17 || word(24) != 16) {
      fail("header");
    }
    const std::uint32_t begin = word(8), end = begin + word(36);
    strings_ = word(12);
    strings_size_ = word(32);
    if (begin % 4 != 0 || word(16) % 8 != 0 || end > blob_.size() ||
        std::size_t{strings_} + strings_size_ > blob_.size()) {
      fail("layout");
    }
    for (std::uint32_t at = word(16); at < word(16) + 16; at += 4) {
      if (word(at) != 0) {
        fail("reservations");
      }
    }
    at_ = begin;
    node("");
    if (next() != 9 || at_ != end) {
      fail("end");
    }
    return parsed_;
  }

 private:
  void fail(const std::string& why) { parsed_.fault += why + " "; }
  std::uint32_t word(std::size_t at) {
    std::uint32_t value = 0;
    for (std::size_t i = 0; i < 4 && at + i < blob_.size(); ++i) {
      value = value << 8 | std::to_integer<std::uint32_t>(blob_[at + i]);
    }
    return value;
  }
  std::uint32_t next() {
    at_ += 4;
    return word(at_ - 4);
  }
  std::string string(std::size_t at) {
    std::string out;
    while (at < blob_.size() && blob_[at] != std::byte{0}) {
      out += static_cast<char>(blob_[at++]);
    }
    return out;
  }
  void node(const std::string& parent) {
    if (next() != 1) {
      return fail("a node that does not begin");
    }
    const std::string name = string(at_);
    at_ = (at_ + name.size() + 4) / 4 * 4;
    const std::string path = name.empty() ? "" : parent + "/" + name;
    parsed_.nodes.push_back(path);
    while (parsed_.fault.empty()) {
      switch (word(at_)) {
        case 1:
          node(path);
          break;
        case 2:
          at_ += 4;
          return;
        case 3: {
          at_ += 4;
          const std::uint32_t size = next(), name_at = next();
          if (name_at >= strings_size_ || size > blob_.size() - at_) {
            return fail("a property outside");
          }
          const auto* const bytes = reinterpret_cast<const char*>(blob_.data() + at_);
          parsed_.properties[path + ":" + string(strings_ + name_at)] = std::string(bytes, size);
          at_ = (at_ + size + 3) / 4 * 4;
          break;
        }
        default:
          return fail("a word that means nothing");
      }
    }
  }

  std::span<const std::byte> blob_;
  std::size_t at_ = 0;
  std::uint32_t strings_ = 0, strings_size_ = 0;
  Parsed parsed_;
};

TEST(TinyvmmDeviceTree, WritesWhatItIsTold) {
  DeviceTree tree;
  tree.cells("numbers", {1, 0x89abcdef});
  tree.begin("child@5");
  tree.text("texts", {"a", "bcd"});
  tree.flag("present");
  tree.begin("grandchild");
  tree.cells64("numbers", {0x0123'4567'89ab'cdef});
  tree.end();
  tree.end();
  tree.begin("other");
  tree.end();
  const auto blob = tree.finish();
  const Parsed parsed = Parser(blob).parse();
  EXPECT_EQ(parsed.fault, "");
  EXPECT_EQ(parsed.nodes,
            (std::vector<std::string>{"", "/child@5", "/child@5/grandchild", "/other"}));
  EXPECT_EQ(parsed.cells(":numbers"), (std::vector<std::uint32_t>{1, 0x89abcdef}));
  EXPECT_EQ(parsed.text("/child@5:texts"), std::string("a\0bcd\0", 6));
  EXPECT_EQ(parsed.text("/child@5:present"), "");
  EXPECT_EQ(parsed.cells("/child@5/grandchild:numbers"),
            (std::vector<std::uint32_t>{0x0123'4567, 0x89ab'cdef}));
  EXPECT_EQ(parsed.properties.size(), 4u);
}

tinyvmm::ArmBoard whole_board() {
  return {.cpus = 18,
          .ram = {tinyvmm::arm_board::ram, 3_GiB},
          .has_disk = true,
          .cmdline = "console=ttyAMA0 quiet",
          .initrd = tinyvmm::RamRange{kvm::Gpa(0x1'2345'0000), 0x777}};
}

TEST(TinyvmmDeviceTree, DescribesTheBoard) {
  using Cells = std::vector<std::uint32_t>;
  const auto blob = make_device_tree(whole_board());
  const Parsed tree = Parser(blob).parse();
  EXPECT_EQ(tree.fault, "");
  EXPECT_EQ(tree.text("/chosen:bootargs"), std::string("console=ttyAMA0 quiet\0", 22));
  EXPECT_EQ(tree.cells("/chosen:linux,initrd-start"), (Cells{1, 0x2345'0000}));
  EXPECT_EQ(tree.cells("/chosen:linux,initrd-end"), (Cells{1, 0x2345'0777}));
  EXPECT_EQ(tree.cells("/memory@40000000:reg"), (Cells{0, 0x4000'0000, 0, 0xc000'0000}));
  EXPECT_EQ(tree.cells("/cpus/cpu@0:reg"), Cells{0});
  EXPECT_EQ(tree.cells("/cpus/cpu@f:reg"), Cells{0xf});
  EXPECT_EQ(tree.cells("/cpus/cpu@101:reg"), Cells{0x101}) << "the 18th, in the second cluster";
  EXPECT_EQ(std::count_if(tree.nodes.begin(), tree.nodes.end(),
                          [](const auto& path) { return path.starts_with("/cpus/cpu@"); }),
            18);
  EXPECT_EQ(tree.cells("/interrupt-controller@8000000:reg")[7], 18u * 0x2'0000);
  EXPECT_EQ(tree.cells("/virtio_mmio@a000000:interrupts"), (Cells{0, 2, 1}));
  // What names another node names one that there is.
  const Cells gic = tree.cells("/interrupt-controller@8000000:phandle");
  EXPECT_EQ(tree.cells(":interrupt-parent"), gic);
  EXPECT_EQ(tree.cells("/serial@9000000:clocks")[0], tree.cells("/clock:phandle")[0]);
  const std::string console = tree.text("/chosen:stdout-path");
  EXPECT_NE(std::find(tree.nodes.begin(), tree.nodes.end(), console.c_str()), tree.nodes.end());

  const auto bare = tinyvmm::make_device_tree({.ram = {tinyvmm::arm_board::ram, 64_MiB}});
  const Parsed small = Parser(bare).parse();
  EXPECT_EQ(small.fault, "");
  EXPECT_EQ(small.text("/chosen:linux,initrd-start"), "(none)");
  EXPECT_EQ(small.text("/virtio_mmio@a000000:reg"), "(none)");
}

TEST(TinyvmmDeviceTree, TheirCompilerTakesIt) {
  if (std::system("dtc --version >/dev/null 2>&1") != 0) {
    GTEST_SKIP() << "dtc is not installed (Debian, Ubuntu: device-tree-compiler)";
  }
  std::string path = (std::filesystem::temp_directory_path() / "kvm-hpp-XXXXXX").string();
  const int fd = ::mkstemp(path.data());
  ASSERT_GE(fd, 0);
  ::close(fd);
  const auto blob = make_device_tree(whole_board());
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(blob.data()), static_cast<std::streamsize>(blob.size()));
  // It exits with 0 after warnings, so they are what is looked at.
  const auto outcome = program::run("/bin/sh", "-c 'dtc -I dtb -O dts " + path + "'");
  std::filesystem::remove(path);
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_EQ(outcome.err, "");
  EXPECT_NE(outcome.out.find("enable-method = \"psci\""), std::string::npos);
}

// --- the Image ---

class TinyvmmArm64Image : public testing::Test {
 protected:
  static constexpr std::uint64_t ram_size = 16_MiB;

  void SetUp() override {
    if (const auto reason = program::no_kvm(); !reason.empty()) {
      GTEST_SKIP() << reason;
    }
    system_.emplace();
    vm_.emplace(system_->create_vm());
    ram_.emplace(vm_->add_memory(tinyvmm::arm_board::ram, kvm::Mapping::anonymous(ram_size)));
    // A right one: 20000 bytes that want 1 MiB of memory, 64 KiB behind the start.
    image_.resize(20'000);
    std::mt19937 random(3);
    std::generate(image_.begin(), image_.end(), [&] { return static_cast<char>(random()); });
    put<std::uint32_t>(0, 0x91005a4d);
    put<std::uint32_t>(4, 0x14000000);
    put<std::uint64_t>(8, 64_KiB);
    put<std::uint64_t>(16, 1_MiB);
    put<std::uint64_t>(24, 0xa);
    put<std::uint32_t>(56, 0x644d5241);
  }

  template <class T>
  void put(std::size_t offset, T value) {
    std::memcpy(image_.data() + offset, &value, sizeof value);
  }
  static ImageFile file(const std::string& content, const std::string& name) {
    kvm::Fd fd(::memfd_create("image", MFD_CLOEXEC));
    EXPECT_EQ(::write(fd.get(), content.data(), content.size()),
              static_cast<ssize_t>(content.size()));
    return ImageFile(std::move(fd), name);
  }
  tinyvmm::ArmEntry load(const std::string* initrd = nullptr, const std::string& cmdline = "x") {
    kvm::GuestMemory::View memory = vm_->memory().view();
    const ImageFile kernel = file(image_, "the-kernel");
    std::optional<ImageFile> second;
    if (initrd != nullptr) {
      second.emplace(file(*initrd, "the-initrd"));
    }
    return load_arm64_image(kernel, second ? &*second : nullptr,
                            {.cpus = 2,
                             .ram = {tinyvmm::arm_board::ram, ram_size},
                             .has_disk = true,
                             .cmdline = cmdline},
                            memory);
  }
  std::string refusal(const std::string* initrd = nullptr, const std::string& cmdline = "x") {
    try {
      load(initrd, cmdline);
    } catch (const tinyvmm::BadImage& error) {
      return error.what();
    }
    return "";
  }
  std::string bytes(std::uint64_t gpa, std::size_t size) {
    std::string out(size, '\0');
    EXPECT_TRUE(vm_->memory().view().read(kvm::Gpa(gpa), std::as_writable_bytes(std::span(out))));
    return out;
  }

  std::string image_;
  std::optional<kvm::System> system_;
  std::optional<kvm::Vm> vm_;
  std::optional<kvm::MemorySlot> ram_;
};

TEST_F(TinyvmmArm64Image, Loads) {
  const std::string initrd(5000, 'i');
  const auto entry = load(&initrd, "a command line");
  EXPECT_EQ(entry.pc, 0x4001'0000u);
  EXPECT_EQ(bytes(entry.pc, image_.size()), image_);
  EXPECT_EQ(entry.device_tree % 8, 0u);
  const std::string blob = bytes(entry.device_tree, 0x4000'0000 + ram_size - entry.device_tree);
  const auto size = static_cast<std::uint32_t>(static_cast<std::uint8_t>(blob[6]) << 8 |
                                               static_cast<std::uint8_t>(blob[7]));
  const Parsed tree = Parser(std::as_bytes(std::span(blob).first(size))).parse();
  EXPECT_EQ(tree.fault, "");
  EXPECT_EQ(tree.text("/chosen:bootargs"), std::string("a command line\0", 15));
  const auto start = tree.cells("/chosen:linux,initrd-start");
  ASSERT_EQ(start.size(), 2u);
  EXPECT_GE(start[1], entry.pc + 1_MiB) << "the kernel needs more than its file has";
  EXPECT_EQ(bytes(start[1], initrd.size()), initrd);
  EXPECT_EQ(tree.cells("/chosen:linux,initrd-end")[1], start[1] + initrd.size());
}

TEST_F(TinyvmmArm64Image, RefusesWhatIsNone) {
  const std::string good = image_;
  const auto expect = [&](const std::string& why) {
    const std::string said = refusal();
    EXPECT_NE(said.find(why), std::string::npos) << said << ", not " << why;
    EXPECT_NE(said.find("the-kernel"), std::string::npos) << said;
    image_ = good;
  };
  image_.clear();
  expect("truncated");
  image_.resize(59);
  expect("truncated");
  put<std::uint32_t>(56, 0x644d5242);
  expect("magic number is wrong");
  put<std::uint16_t>(0, 0x8b1f);
  expect("compressed");
  put<std::uint32_t>(4, 0x676d697a);
  expect("compressed");
  put<std::uint64_t>(24, 0xb);
  expect("big-endian");
  put<std::uint64_t>(16, 0);
  expect("older than Linux 3.17");
  put<std::uint64_t>(16, image_.size() - 1);
  expect("makes no sense");
  for (const std::uint64_t offset :
       {std::uint64_t{2_MiB}, ~std::uint64_t{0}, ~std::uint64_t{0} << 21}) {
    put<std::uint64_t>(8, offset);
    expect("makes no sense");
  }
  for (const std::uint64_t size : {ram_size, ~std::uint64_t{0}, ~std::uint64_t{0xffff}}) {
    put<std::uint64_t>(16, size);
    expect("does not fit into the guest's memory");
  }
  put<std::uint64_t>(16, ram_size - 64_KiB);
  expect("no room for the device tree");
  EXPECT_EQ(refusal(), "");
}

TEST_F(TinyvmmArm64Image, RefusesWhatDoesNotFit) {
  const std::string large(ram_size, 'i'), nearly(ram_size - 1_MiB - 100_KiB, 'i');
  EXPECT_NE(refusal(&large).find("the-initrd: it does not fit"), std::string::npos);
  EXPECT_NE(refusal(&nearly).find("no room for the device tree"), std::string::npos);
  EXPECT_NE(refusal(nullptr, std::string(3_MiB, 'c')).find("no room for the device tree"),
            std::string::npos);
}

// --- the serial port ---

constexpr std::uint64_t data = 0x00, flags = 0x18, line_control = 0x2c, control = 0x30;
constexpr std::uint64_t mask = 0x38, raw = 0x3c, masked = 0x40, clear = 0x44;
constexpr std::uint32_t received = 0x50, sent = 0x20;

class TinyvmmPl011 : public testing::Test, public tinyvmm::SerialLine {
 protected:
  void send(std::span<const std::byte> bytes) override {
    for (const std::byte byte : bytes) {
      output_ += static_cast<char>(byte);
    }
  }
  std::size_t take(std::span<std::byte> bytes) override {
    const std::size_t count = std::min(bytes.size(), input_.size());
    std::transform(input_.begin(), input_.begin() + static_cast<std::ptrdiff_t>(count),
                   bytes.begin(), [](char c) { return static_cast<std::byte>(c); });
    input_.erase(0, count);
    return count;
  }

  std::uint32_t get(std::uint64_t offset) {
    std::uint32_t value = 0xffff'ffff;
    port_.read(offset, std::as_writable_bytes(std::span(&value, 1)));
    return value;
  }
  void set(std::uint64_t offset, std::uint32_t value) {
    port_.write(offset, std::as_bytes(std::span(&value, 1)));
  }
  void type(const std::string& text) {
    input_ += text;
    port_.input_ready();
  }
  std::string receive() {
    std::string out;
    while ((get(flags) & 0x10) == 0) {
      out += static_cast<char>(get(data));
    }
    return out;
  }

  std::string input_, output_;
  std::vector<bool> levels_;
  Pl011 port_{*this, [this](bool level) { levels_.push_back(level); }};
};

TEST_F(TinyvmmPl011, SaysWhatItIs) {
  std::uint32_t part = 0, cell = 0;
  for (unsigned i = 0; i < 4; ++i) {
    part |= get(0xfe0 + 4 * i) << 8 * i;
    cell |= get(0xff0 + 4 * i) << 8 * i;
  }
  EXPECT_EQ(part & 0xfffff, 0x41011u) << "Arm's part 0x011";
  EXPECT_EQ(cell, 0xb105f00du);
  EXPECT_EQ(get(flags) & 0xb8, 0x90u) << "idle, and all of the transmitter's room free";
}

TEST_F(TinyvmmPl011, SendsAndTells) {
  set(control, 0x301);
  set(mask, sent);
  EXPECT_TRUE(levels_.empty());
  set(data, 'a');
  std::uint8_t byte = 'b';
  port_.write(data, std::as_bytes(std::span(&byte, 1)));
  EXPECT_EQ(output_, "ab");
  EXPECT_EQ(get(masked), sent);
  EXPECT_EQ(levels_, std::vector<bool>{true});
  set(clear, sent);
  EXPECT_EQ(levels_, (std::vector<bool>{true, false}));
  set(data, 'c');
  set(mask, 0);
  EXPECT_EQ(levels_, (std::vector<bool>{true, false, true, false}));
  EXPECT_EQ(get(raw), sent);
  EXPECT_EQ(get(masked), 0u);
}

TEST_F(TinyvmmPl011, ReceivesOnceTheDriverIsReady) {
  type("early");
  EXPECT_EQ(receive(), "");
  set(line_control, 0x70);
  set(control, 0x301);
  EXPECT_EQ(receive(), "") << "no RTS yet";
  set(mask, received);
  set(control, 0xb01);
  EXPECT_EQ(levels_, std::vector<bool>{true});
  set(clear, 0x7ff);
  EXPECT_EQ(get(masked), received) << "there is still something to read";
  EXPECT_EQ(receive(), "early");
  EXPECT_EQ(levels_, (std::vector<bool>{true, false}));

  const std::string text(100, 't');
  type(text);
  EXPECT_EQ(get(flags) & 0x40, 0x40u) << "full";
  EXPECT_EQ(input_.size(), 68u) << "what has no room waits outside";
  EXPECT_EQ(receive(), text);
  EXPECT_EQ(levels_, (std::vector<bool>{true, false, true, false}));
}

TEST_F(TinyvmmPl011, OneByteWithoutFifos) {
  set(control, 0xb01);
  type("xy");
  EXPECT_EQ(input_, "y");
  EXPECT_EQ(receive(), "xy");
}

TEST_F(TinyvmmPl011, AccessesOfAnyWidthAnywhere) {
  set(line_control, 0x70);
  std::mt19937_64 random(4);
  for (int i = 0; i < 100'000; ++i) {
    const std::uint64_t number = random();
    std::array<std::byte, 9> bytes;
    bytes.fill(std::byte{0xee});
    const std::size_t width = std::size_t{1} << number % 4;
    const auto part = std::span(bytes).first(width);
    const std::uint64_t offset = number >> 8 & 0xfff;
    if ((number & 0x10) != 0) {
      port_.write(offset, part);
    } else {
      port_.read(offset, part);
      EXPECT_EQ(bytes[width], std::byte{0xee});
    }
    if ((number & 0x20) != 0) {
      type("z");
    }
  }
  // Levels are told when they change, and only then.
  EXPECT_EQ(std::adjacent_find(levels_.begin(), levels_.end()), levels_.end());
  set(mask, 0x7ff);
  set(control, 0xb01);
  receive();
  EXPECT_EQ(receive(), "");
}

}  // namespace
