// SPDX-License-Identifier: MIT
// What tinyvmm's loaders make of kernels, good and malformed.
// needs: exceptions
#include <gtest/gtest.h>

#include <cstdint>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "program.hpp"
#include "tinyvmm_images.hpp"

#if defined(__x86_64__)

#include "tinyvmm/boot_x86.hpp"
#include "tinyvmm/pc.hpp"

namespace {

using namespace tinyvmm;
using images::Blob;
using images::Code;

class TinyvmmImage : public testing::Test {
 protected:
  static constexpr std::uint64_t memory_size = 32 << 20;

  void SetUp() override {
    if (const auto reason = program::no_kvm(); !reason.empty()) {
      GTEST_SKIP() << reason;
    }
    vm_.emplace(kvm::System().create_vm());
    slot_.emplace(vm_->add_memory(kvm::Gpa{0}, kvm::Mapping::anonymous(memory_size)));
  }

  /// Loads a kernel as tinyvmm does. @return what went wrong, or an empty string
  std::string load(const Blob& image, const std::string& cmdline = {},
                   const std::string* initrd = nullptr) {
    const ImageFile kernel(folder_.write("kernel", image));
    std::optional<ImageFile> module;
    if (initrd != nullptr) {
      module.emplace(folder_.write("initrd", *initrd));
    }
    kvm::GuestMemory::View memory = vm_->memory().view();
    const BootOptions options{
        .initrd = module ? &*module : nullptr, .cmdline = cmdline, .ram = ram_};
    try {
      entry_ = is_bzimage(kernel) ? load_bzimage(kernel, options, memory)
                                  : load_multiboot(kernel, options, memory);
      return {};
    } catch (const BadImage& error) {
      return error.what();
    }
  }
  std::string load_with(Blob image, const std::function<void(Blob&)>& change) {
    change(image);
    return load(image);
  }
  std::string memory_at(std::uint64_t gpa, std::size_t size) {
    std::string out(size, '?');
    EXPECT_TRUE(vm_->memory().view().read(kvm::Gpa{gpa}, std::as_writable_bytes(std::span(out))));
    return out;
  }
  template <class T>
  T value_at(std::uint64_t gpa) {
    return vm_->memory().view().read<T>(kvm::Gpa{gpa}).value();
  }

  images::Folder folder_;
  std::optional<kvm::Vm> vm_;
  std::optional<kvm::MemorySlot> slot_;
  std::vector<RamRange> ram_{{kvm::Gpa{0}, memory_size}};
  EntryPoint entry_;
};

/// How many bytes this program has read so far, by any system call.
std::uint64_t bytes_read() {
  std::ifstream io("/proc/self/io");
  std::string name;
  std::uint64_t value = 0;
  EXPECT_TRUE(io >> name >> value && name == "rchar:");
  return value;
}

#define EXPECT_REFUSED(problem, text) \
  EXPECT_NE((problem).find(text), std::string::npos) << (problem)

/// A kernel whose bytes tell where they are from.
Blob bzimage(std::size_t size = 20'000) {
  std::string code;
  while (code.size() < size) {
    code += "at " + std::to_string(code.size()) + ";";
  }
  return images::bzimage(code);
}

TEST_F(TinyvmmImage, NoByteIsReadTwice) {
  const Blob image = bzimage(3 << 20);
  const std::string initrd(1 << 20, 'i');
  const std::uint64_t before = bytes_read();
  const std::uint64_t own = bytes_read() - before;  // What the question itself costs.
  const std::uint64_t begin = bytes_read();
  ASSERT_EQ(load(image, {}, &initrd), "");
  const std::uint64_t read = bytes_read() - begin - own;
  // (The question's answer grows by a digit now and then.)
  EXPECT_LE(read, image.size() + initrd.size() + 64);
  EXPECT_GE(read, image.size() + initrd.size() - 0x400) << "it was not counted";
}

TEST_F(TinyvmmImage, ABzimageIsLoadedWholeWhereItWantsToBe) {
  const Blob image = bzimage();
  const std::string initrd = "the initrd's bytes";
  ASSERT_EQ(load(image, "some words", &initrd), "");
  EXPECT_TRUE(entry_.long_mode);
  EXPECT_EQ(entry_.rip, 0x1000200u);
  const std::uint64_t parameters = entry_.rsi;
  EXPECT_TRUE(memory_at(0x1000000, image.size() - 0x400) == image.substr(0x400));
  EXPECT_EQ(memory_at(parameters + 0x1f1, 0x10),
            image.substr(0x1f1, 0x10).replace(9, 2, "\xff\xff"));
  EXPECT_EQ(memory_at(parameters + 0x202, 4), "HdrS");
  EXPECT_EQ(value_at<std::uint8_t>(parameters + 0x210), 0xff);
  EXPECT_EQ(memory_at(value_at<std::uint32_t>(parameters + 0x228), 11),
            std::string("some words\0", 11));
  const auto at = value_at<std::uint32_t>(parameters + 0x218);
  EXPECT_EQ(at % 4096, 0u);
  EXPECT_GE(at, 0x1100000u);
  EXPECT_EQ(value_at<std::uint32_t>(parameters + 0x21c), initrd.size());
  EXPECT_EQ(memory_at(at, initrd.size()), initrd);
  EXPECT_EQ(value_at<std::uint64_t>(parameters + 0x70), 0xe0000u);
  ASSERT_EQ(value_at<std::uint8_t>(parameters + 0x1e8), 3);
  EXPECT_EQ(value_at<std::uint64_t>(parameters + 0x2d0 + 40), 0x100000u);
  EXPECT_EQ(value_at<std::uint64_t>(parameters + 0x2d0 + 48), memory_size - 0x100000u);
  EXPECT_EQ(value_at<std::uint32_t>(parameters + 0x2d0 + 56), 1u);
}

TEST_F(TinyvmmImage, AnInitrdEndsBelowItsLimitAndTheMemorysEnd) {
  const std::string initrd(100'000, 'i');
  for (const std::uint32_t limit : {0x7fffffffu, 0x17fffffu}) {
    Blob image = bzimage();
    image.put(0x22c, limit);
    ASSERT_EQ(load(image, "", &initrd), "");
    const auto at = value_at<std::uint32_t>(entry_.rsi + 0x218);
    EXPECT_LE(at + initrd.size(), std::min<std::uint64_t>(memory_size, limit + 1ull));
    EXPECT_GT(at + initrd.size() + 4096, std::min<std::uint64_t>(memory_size, limit + 1ull));
  }
  // Between the kernel's end at 17 MiB and the memory's at 32 MiB.
  const std::string fits(15 << 20, 'f');
  EXPECT_EQ(load(bzimage(), "", &fits), "");
  const std::string large = fits + 'l';
  EXPECT_REFUSED(load(bzimage(), "", &large), "initrd: the initrd does not fit");
}

TEST_F(TinyvmmImage, MalformedBzimagesAreRefused) {
  const Blob good = bzimage();
  ASSERT_EQ(load(good), "");
  const auto with = [&](std::size_t offset, auto value) {
    return load_with(good, [&](Blob& image) { image.put(offset, value); });
  };
  EXPECT_REFUSED(with(0x206, std::uint16_t{0x20b}), "no 64-bit entry (boot protocol 2.11)");
  EXPECT_REFUSED(with(0x236, std::uint16_t{0}), "no 64-bit entry");
  EXPECT_REFUSED(with(0x211, std::uint8_t{0}), "zImage");
  EXPECT_REFUSED(with(0x1fe, std::uint16_t{0}), "neither a Linux bzImage nor a multiboot kernel");
  EXPECT_REFUSED(with(0x202, std::uint32_t{0}), "neither a Linux bzImage nor a multiboot kernel");
  EXPECT_REFUSED(with(0x1f4, std::uint32_t{0}), "truncated");
  EXPECT_REFUSED(with(0x1f4, std::uint32_t{0xffffffff}), "truncated");
  EXPECT_REFUSED(with(0x1f1, std::uint8_t{255}), "truncated");
  for (const std::uint64_t address :
       {0ull, 0xf0000ull, 0x1f80000ull, 0x100000000ull, ~0ull, ~0xfffull}) {
    EXPECT_REFUSED(with(0x258, address), "this kernel needs memory from");
  }
  EXPECT_REFUSED(with(0x260, std::uint32_t{0xffffffff}), "this kernel needs memory from");
  EXPECT_EQ(with(0x201, std::uint8_t{0xff}), "");  // A header longer than we know is cut.
  for (std::size_t size = 0; size < good.size(); size += size < 0x700 ? 37 : 997) {
    const std::string problem = load(Blob(good.substr(0, size)));
    EXPECT_NE(problem, "") << size;
  }
  EXPECT_REFUSED(load(good, std::string(256, 'c')), "the command line has 256 characters");
  EXPECT_EQ(load(good, std::string(255, 'c')), "");
}

TEST_F(TinyvmmImage, MultibootSegmentsGoWhereTheyBelong) {
  const Code code = Code().exit(0);
  for (const Blob& image : {images::elf32(code), images::elf64(code)}) {
    ASSERT_EQ(load(image), "");
    EXPECT_FALSE(entry_.long_mode);
    EXPECT_EQ(entry_.rip, images::load_address);
    EXPECT_EQ(entry_.rax, 0x2badb002u);
    EXPECT_EQ(memory_at(images::load_address, code.size()), code.bytes());
  }
  const Blob flat = images::flat(code);
  ASSERT_EQ(load(flat), "");
  EXPECT_EQ(entry_.rip, images::load_address + images::code_offset);
  EXPECT_TRUE(memory_at(images::load_address, flat.size()) == flat);
  // Without an end all of the file is loaded.
  EXPECT_EQ(load_with(flat, [](Blob& image) { image.put(images::header_offset + 20, 0u); }), "");
  const std::string second(10'000, 's');
  ASSERT_EQ(load(images::elf32(code, 0x12340, second)), "");
  EXPECT_EQ(memory_at(0x12340, second.size()), second);
}

TEST_F(TinyvmmImage, AModuleFollowsTheKernel) {
  const std::string module(5000, 'm');
  ASSERT_EQ(load(images::elf32(Code().exit(0)), "words", &module), "");
  const auto list = value_at<std::uint32_t>(entry_.rbx + 24);
  EXPECT_EQ(value_at<std::uint32_t>(entry_.rbx), 0x24du);
  EXPECT_EQ(value_at<std::uint32_t>(entry_.rbx + 20), 1u);
  const auto at = value_at<std::uint32_t>(list);
  EXPECT_EQ(at, 0x102000u);  // The kernel's last page is zero, and its own.
  EXPECT_EQ(value_at<std::uint32_t>(list + 4), at + module.size());
  EXPECT_EQ(memory_at(at, module.size()), module);
  const std::string large(32 << 20, 'l');
  EXPECT_REFUSED(load(images::elf32(Code().exit(0)), "", &large), "initrd: it does not fit");
}

TEST_F(TinyvmmImage, MalformedMultibootKernelsAreRefused) {
  const Code code = Code().exit(0);
  const Blob good = images::elf32(code);
  const auto with = [&](std::size_t offset, auto value) {
    return load_with(good, [&](Blob& image) { image.put(offset, value); });
  };
  constexpr std::size_t segment = sizeof(Elf32_Ehdr);
  EXPECT_REFUSED(with(images::header_offset + 8, std::uint32_t{1}), "no header was found");
  EXPECT_REFUSED(load_with(good, [](Blob& image) { images::put_header(image, 0x8); }), "flags 0x8");
  EXPECT_REFUSED(with(0, std::uint32_t{0}), "no addresses there and is no ELF file");
  EXPECT_REFUSED(with(offsetof(Elf32_Ehdr, e_machine), std::uint16_t{EM_ARM}),
                 "is no ELF file for x86");
  EXPECT_REFUSED(with(EI_CLASS, std::uint8_t{ELFCLASS64}), "is no ELF file for x86");
  EXPECT_REFUSED(with(offsetof(Elf32_Ehdr, e_phoff), 0xffffffffu), "program headers are malformed");
  EXPECT_REFUSED(with(offsetof(Elf32_Ehdr, e_phentsize), std::uint16_t{1}),
                 "program headers are malformed");
  EXPECT_REFUSED(with(offsetof(Elf32_Ehdr, e_phnum), std::uint16_t{0xffff}),
                 "a header lies too far");
  EXPECT_REFUSED(with(offsetof(Elf32_Ehdr, e_phnum), std::uint16_t{0}), "its entry point");
  EXPECT_REFUSED(with(offsetof(Elf32_Ehdr, e_entry), 0x99000u), "its entry point, 0x99000");
  EXPECT_REFUSED(with(segment + offsetof(Elf32_Phdr, p_offset), 0xfffffff0u), "truncated");
  EXPECT_REFUSED(with(segment + offsetof(Elf32_Phdr, p_memsz), 1u),
                 "more bytes in the file than in memory");
  EXPECT_REFUSED(with(segment + offsetof(Elf32_Phdr, p_memsz), 0xffffffffu), "no free memory");
  for (const std::uint32_t address :
       {0u, 0x7000u, 0x9fc00u, 0xe0000u, 0x1fffff8u, 0xfee00000u, ~0u}) {
    EXPECT_REFUSED(load_with(good,
                             [&](Blob& image) {
                               image.put(segment + offsetof(Elf32_Phdr, p_paddr), address);
                               image.put(offsetof(Elf32_Ehdr, e_entry), address);
                             }),
                   "where the guest has no free memory")
        << address;
  }
  const Blob flat = images::flat(code);
  const auto flat_with = [&](std::size_t offset, std::uint32_t value) {
    return load_with(flat, [&](Blob& image) { image.put(images::header_offset + offset, value); });
  };
  EXPECT_REFUSED(flat_with(12, 0u), "begins before the file does");
  EXPECT_REFUSED(flat_with(16, 0u), "begins before the file does");
  EXPECT_REFUSED(flat_with(20, 1u), "ends before it begins");
  EXPECT_REFUSED(flat_with(20, 0xffffffffu), "where the guest has no free memory");
  EXPECT_REFUSED(flat_with(20, 0x1000000u), "truncated");
  EXPECT_REFUSED(flat_with(24, 0xffffffffu), "where the guest has no free memory");
  EXPECT_REFUSED(flat_with(28, 0u), "its entry point");
  for (const Blob& image : {good, flat}) {
    for (std::size_t size = 0; size < image.size(); size += size < 0x900 ? 61 : 97) {
      EXPECT_NE(load(Blob(image.substr(0, size))), "") << size;
    }
  }
  EXPECT_REFUSED(load(good, std::string(4096, 'c')), "the command line has more than 4095");
}

TEST_F(TinyvmmImage, FilesThatAreNoFilesAreRefused) {
  EXPECT_THROW(ImageFile("/no/such/file"), BadImage);
  EXPECT_THROW(ImageFile(folder_.path(".")), BadImage);
  EXPECT_THROW(ImageFile("/dev/zero"), BadImage);
}

}  // namespace

#endif
