// SPDX-License-Identifier: MIT
// tinyvmm as a user runs it, with small kernels of our own.
#include <gtest/gtest.h>

#include <kvm/irq/event_fd.hpp>

#include <signal.h>
#include <sys/wait.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <span>
#include <string>
#include <thread>

#include "program.hpp"
#include "tinyvmm/machine.hpp"
#include "tinyvmm_images.hpp"

#if defined(__x86_64__)

namespace {

using images::Blob;
using images::Code;

/// Runs tinyvmm in its own folder.
class TinyvmmBoot : public testing::Test {
 protected:
  void SetUp() override { SKIP_WITHOUT_KVM(EXAMPLE_TINYVMM); }

  program::Outcome boot(const std::string& image, const std::string& arguments = {}) {
    const std::string kernel = folder_.write("kernel", image);
    return program::run("timeout",
                        "60 '" EXAMPLE_TINYVMM "' --kernel '" + kernel + "' " + arguments);
  }

  images::Folder folder_;
};

/// Prints the command line and the module, and ends with 3 if eax was right.
Code tells_what_it_got() {
  return Code()
      .raw({0x3d})  // cmp eax, the loader's magic number
      .word(0x2badb002)
      .raw({0x74, 0x03, 0xf4, 0xeb, 0xfd})  // je over a halt
      .raw({0x8b, 0x73, 0x10})              // mov esi, [ebx + 16]
      .print_esi()
      .print("|")
      .raw({0x8b, 0x4b, 0x18, 0x8b, 0x31})  // mov ecx, [ebx + 24]; mov esi, [ecx]
      .print_esi()
      .print("|")
      .raw({0x8b, 0x73, 0x40})  // mov esi, [ebx + 64]
      .print_esi()
      .exit(3);
}

TEST_F(TinyvmmBoot, MultibootKernelsOfAllKindsGetCommandLineAndModule) {
  const std::string module = folder_.write("module", std::string("the module's text\0", 18));
  const Code code = tells_what_it_got();
  for (const Blob& image : {images::elf32(code), images::elf64(code), images::flat(code)}) {
    const auto outcome = boot(image, "--cmdline 'some words' --initrd '" + module + "'");
    EXPECT_EQ(outcome.status, 7) << outcome.err;
    EXPECT_EQ(outcome.out, "some words|the module's text|tinyvmm");
    EXPECT_EQ(outcome.err, "");
  }
}

TEST_F(TinyvmmBoot, MultibootKernelsAreToldTheirMemory) {
  const Code code = Code()
                        .raw({0x8d, 0x73, 0x04})  // lea esi, [ebx + 4]: lower and upper memory
                        .ecx(8)
                        .send_ecx_bytes()
                        .raw({0x8b, 0x73, 0x30, 0x8b, 0x4b, 0x2c})  // mov esi, [ebx + 48]; ecx
                        .send_ecx_bytes()
                        .exit(0);
  struct Case {
    const char* memory;
    std::uint32_t upper;
    std::uint64_t below_4g;
    std::uint64_t above_4g;
  };
  for (const Case& expected :
       {Case{"64M", 63 * 1024, 63ull << 20, 0},
        Case{"5G", 3 * 1024 * 1024 - 1024, (3ull << 30) - (1 << 20), 2ull << 30}}) {
    const auto outcome = boot(images::elf32(code), std::string("--memory ") + expected.memory);
    ASSERT_EQ(outcome.status, 1) << outcome.err;
    const Blob out(outcome.out.begin(), outcome.out.end());
    ASSERT_EQ(out.size(), 8 + 24 * (expected.above_4g != 0 ? 4u : 3u));
    EXPECT_EQ(out.get<std::uint32_t>(0), 639u);
    EXPECT_EQ(out.get<std::uint32_t>(4), expected.upper);
    const auto line = [&](std::size_t i, std::uint64_t first, std::uint64_t size,
                          std::uint32_t type) {
      EXPECT_EQ(out.get<std::uint32_t>(8 + 24 * i), 20u);
      EXPECT_EQ(out.get<std::uint64_t>(8 + 24 * i + 4), first);
      EXPECT_EQ(out.get<std::uint64_t>(8 + 24 * i + 12), size);
      EXPECT_EQ(out.get<std::uint32_t>(8 + 24 * i + 20), type);
    };
    line(0, 0, 0x9fc00, 1);
    line(1, 0x9fc00, 0x100000 - 0x9fc00, 2);
    line(2, 0x100000, expected.below_4g, 1);
    if (expected.above_4g != 0) {
      line(3, 1ull << 32, expected.above_4g, 1);
    }
  }
}

TEST_F(TinyvmmBoot, ALinuxKernelIsEnteredInLongModeWithItsParameters) {
  // mov esi, [rsi + 0x228]: the command line; then as above, and the initrd at [rdi + 0x218].
  const Code code = Code()
                        .raw({0x48, 0x89, 0xf7})  // mov rdi, rsi
                        .raw({0x8b, 0xb7})
                        .word(0x228)  // mov esi, [rdi + …]
                        .print_esi()
                        .print("|")
                        .raw({0x8b, 0xb7})
                        .word(0x218)
                        .raw({0x8b, 0x8f})
                        .word(0x21c)  // mov ecx, [rdi + …]
                        .send_ecx_bytes()
                        .print("|")
                        .raw({0x0f, 0xb6, 0x87})
                        .word(0x1e8)              // movzx eax, [rdi + …]
                        .raw({0x04, 0x30, 0xee})  // add al, '0'; out dx, al
                        .exit(5);
  const std::string initrd = folder_.write("initrd", "the initrd");
  const auto outcome =
      boot(images::bzimage(code.bytes()), "--cmdline 'console=ttyS0' --initrd '" + initrd + "'");
  EXPECT_EQ(outcome.status, 11) << outcome.err;
  EXPECT_EQ(outcome.out, "console=ttyS0|the initrd|3");
}

TEST_F(TinyvmmBoot, FirmwareConfigurationAnswersSmallKernels) {
  Code code;
  // signature, processors, memory, the directory of files, an item that nobody knows
  for (const int item : {0x00, 0x05, 0x03, 0x19, 0x77}) {
    code.out16(0x510, static_cast<std::uint16_t>(item))
        .edx(0x511)
        .ecx(9)
        .edi(Code::scratch)
        .raw({0xf3, 0x6c})  // rep insb
        .esi(Code::scratch)
        .ecx(9)
        .send_ecx_bytes();
  }
  const auto outcome = boot(images::elf32(code.exit(0)), "--cpus 2 --memory 96M");
  ASSERT_EQ(outcome.status, 1) << outcome.err;
  const std::string zeroes(9, '\0');
  EXPECT_EQ(outcome.out, std::string("QEMU\0\0\0\0\0", 9) + std::string("\2\0\0\0\0\0\0\0\0", 9) +
                             std::string("\0\0\0\6\0\0\0\0\0", 9) + zeroes + zeroes);
}

TEST_F(TinyvmmBoot, TheWayItEndsIsInTheExitStatus) {
  EXPECT_EQ(boot(images::elf32(Code().out16(0x604, 0x2000).halt())).status, 0);  // ACPI power-off
  EXPECT_EQ(boot(images::elf32(Code().out8(0x64, 0xfe).halt())).status, 8);      // reset
  EXPECT_EQ(boot(images::elf32(Code().out8(0xcf9, 6).halt())).status, 8);
  EXPECT_EQ(boot(images::elf32(Code().out8(0xf4, 0).halt())).status, 1);
  EXPECT_EQ(boot(images::elf32(Code().out32(0xf4, 0x3f).halt())).status, 127);
  // Other sleep types, and other commands, are nothing.
  EXPECT_EQ(boot(images::elf32(Code().out16(0x604, 0x3400).out8(0x64, 0xd1).exit(9))).status, 19);
}

TEST_F(TinyvmmBoot, ACrashIsToldWithRegistersAndCode) {
  // No interrupt descriptor table: an invalid instruction ends in a triple fault, or, where KVM
  // does not emulate the exception, in an internal error.
  const Blob image = images::elf32(Code().eax(0xabcd1234).raw({0x0f, 0x0b}));
  const auto silent = boot(image);
  EXPECT_TRUE(silent.status == 10 || silent.status == 12) << silent.status;
  EXPECT_EQ(silent.err.find("tinyvmm: vCPU 0 cannot go on: "), 0u) << silent.err;
  EXPECT_EQ(silent.err.find("rip="), std::string::npos) << silent.err;

  const auto loud = boot(image, "--dump-on-crash");
  EXPECT_EQ(loud.status, silent.status);
  EXPECT_NE(loud.err.find("rax=00000000abcd1234"), std::string::npos) << loud.err;
  EXPECT_NE(loud.err.find("code 0f 0b"), std::string::npos) << loud.err;
  EXPECT_EQ(loud.err.find("\n\n"), std::string::npos) << loud.err;
}

TEST_F(TinyvmmBoot, WhatNobodyAnswersReadsAsOnes) {
  const Code code = Code()
                        .edx(0x1234)
                        .raw({0xed})  // in eax, dx
                        .send_eax()
                        .raw({0xa1})  // mov eax, [0xd8000000]
                        .word(0xd8000000)
                        .send_eax()
                        .edx(0x3ff)  // The last register of the serial port, and beyond it.
                        .raw({0xed})
                        .send_eax()
                        .exit(0);
  const auto outcome = boot(images::elf32(code));
  EXPECT_EQ(outcome.status, 1) << outcome.err;
  EXPECT_EQ(outcome.out, std::string(8, '\xff') + std::string("\0\xff\xff\xff", 4));
}

TEST_F(TinyvmmBoot, TheFirstProcessorStartsTheOthers) {
  // In real mode, at 0x10000: says so and waits.
  const std::string other = Code()
                                .raw({0xba, 0xf8, 0x03, 0xb0, '2', 0xee})   // out 0x3f8, '2'
                                .raw({0x2e, 0xc6, 0x06, 0x00, 0x01, 0x01})  // mov [cs:0x100], 1
                                .raw({0xf4, 0xeb, 0xfd})
                                .bytes() +
                            std::string(0x100, '\0');
  const Code first = Code()
                         .store(0xfee00310, 1u << 24)    // to the second processor
                         .store(0xfee00300, 0x4500)      // INIT
                         .store(0xfee00300, 0x4610)      // SIPI, begin at page 0x10
                         .raw({0xf3, 0x90, 0x80, 0x3d})  // wait: pause; cmp byte [0x10100], 0
                         .word(0x10100)
                         .raw({0x00, 0x74, 0xf5})  // je wait
                         .print("1")
                         .exit(0);
  const auto outcome = boot(images::elf32(first, 0x10000, other), "--cpus 2");
  EXPECT_EQ(outcome.status, 1) << outcome.err;
  EXPECT_EQ(outcome.out, "21");
}

/// Echoes until it gets a 'q'.
Code echoes() {
  return Code()
      .out8(0x3fc, 3)  // Ready: RTS and DTR.
      .edx(0x3fd)
      .raw({0xec, 0xa8, 0x01})  // again: in al, dx; test al, 1
      .raw({0x74, 0xf6})        // jz again
      .edx(0x3f8)
      .raw({0xec, 0xee})             // in al, dx; out dx, al
      .raw({0x3c, 'q', 0x75, 0xeb})  // cmp al, 'q'; jne again
      .exit(0);
}

TEST_F(TinyvmmBoot, InputFromAFileArrivesWhole) {
  std::string text;
  for (int i = 0; text.size() < 9000; ++i) {
    text += std::to_string(i) + " \1x ";  // Ctrl-A means nothing here.
  }
  text += 'q';
  const auto outcome = boot(images::elf32(echoes()), "<'" + folder_.write("input", text) + "'");
  EXPECT_EQ(outcome.status, 1) << outcome.err;
  EXPECT_EQ(outcome.out, text);
}

TEST_F(TinyvmmBoot, ASlowReaderGetsAllOutput) {
  constexpr std::uint32_t size = 100'000;  // More than a pipe holds.
  Code code = Code().esi(0x10000).ecx(size).send_ecx_bytes().out16(0x604, 0x2000).halt();
  std::string content;
  while (content.size() < size) {
    content += std::to_string(content.size()) + ",";
  }
  content.resize(size);
  const std::string kernel = folder_.write("kernel", images::elf32(code, 0x10000, content));
  FILE* const pipe =
      ::popen(("'" EXAMPLE_TINYVMM "' --kernel '" + kernel + "' </dev/null").c_str(), "r");
  ASSERT_NE(pipe, nullptr);
  std::this_thread::sleep_for(std::chrono::milliseconds(400));
  std::string out;
  std::array<char, 4096> buffer;
  while (const std::size_t count = std::fread(buffer.data(), 1, buffer.size(), pipe)) {
    out.append(buffer.data(), count);
  }
  EXPECT_EQ(::pclose(pipe), 0);
  EXPECT_EQ(out.size(), content.size());
  EXPECT_TRUE(out == content);
}

TEST_F(TinyvmmBoot, LostOutputIsAnError) {
  const Code code = Code().print("words").halt();
  const auto outcome = boot(images::elf32(code), ">/dev/full");
  EXPECT_EQ(outcome.status, 6);
  EXPECT_NE(outcome.err.find("tinyvmm: standard output: "), std::string::npos) << outcome.err;
}

TEST_F(TinyvmmBoot, OutputThatAFileHasNoRoomForIsAnError) {
  const std::string kernel =
      folder_.write("kernel", images::elf32(Code().esi(0x10000).ecx(4000).send_ecx_bytes().halt(),
                                            0x10000, std::string(4000, 'x')));
  const auto outcome = program::run(
      "timeout",
      "60 '" EXAMPLE_TINYVMM "' --kernel '" + kernel + "' >'" + folder_.write("out", "") + "'",
      "ulimit -f 1; ");
  EXPECT_EQ(outcome.status, 6);
  EXPECT_EQ(outcome.err, "tinyvmm: standard output: File too large\n");
}

/// Keeps who sends until it is closed, if it is told to.
struct SlowLine : tinyvmm::SerialLine {
  explicit SlowLine(bool blocks) : blocks_(blocks) {}
  void send(std::span<const std::byte>) override {
    sending.signal();
    if (blocks_) {
      closed.wait();
    }
  }
  std::size_t take(std::span<std::byte>) override { return 0; }
  void close() override { closed.signal(); }
  kvm::EventFd sending;
  kvm::EventFd closed;
  const bool blocks_;
};

TEST_F(TinyvmmBoot, StoppingReachesAVcpuWhateverItWaitsFor) {
  // Whoever starts the program may have blocked the signal.
  ::sigset_t kick;
  ::sigset_t before;
  ::sigemptyset(&kick);
  ::sigaddset(&kick, SIGUSR1);
  tinyvmm::Options options;
  options.kernel = folder_.write("kernel", images::elf32(Code().print("x").halt()));
  for (const bool in_send : {true, false}) {
    ::pthread_sigmask(SIG_BLOCK, &kick, &before);
    SlowLine line(in_send);
    tinyvmm::Machine machine(options, line);
    std::thread other([&] {
      line.sending.wait();
      std::this_thread::sleep_for(std::chrono::milliseconds(100));  // It halts, if it can.
      EXPECT_TRUE(machine.stop({20}));
      EXPECT_FALSE(machine.stop({22}));
    });
    EXPECT_EQ(machine.run().status, 20);
    other.join();
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }
}

// A guest that reads and writes wherever there might be a device.
TEST_F(TinyvmmBoot, HammeringPortsAndMemoryHurtsNobody) {
  const std::string disk = folder_.write("disk", std::string(64 * 1024, 'd'));
  const Code code =
      Code()
          .edx(0)
          // port: skip 0xf4 to 0xf7, and those of power-off and reset, which end the machine
          .raw({0x81, 0xfa})
          .word(0xf0)         // cmp edx, 0xf0
          .raw({0x72, 0x08})  // jb do
          .raw({0x81, 0xfa})
          .word(0xf8)                     // cmp edx, 0xf8
          .raw({0x72, 0x16})              // jb next
          .raw({0xec, 0x66, 0xed, 0xed})  // do: in al, dx; in ax, dx; in eax, dx
          .eax(0x02020202)
          .raw({0xee, 0x66, 0xef, 0xef})              // out dx, al; out dx, ax; out dx, eax
          .raw({0x31, 0xc0, 0xee, 0x66, 0xef, 0xef})  // xor eax, eax; the same
          .raw({0x90, 0x90, 0x90})
          .raw({0x42, 0x81, 0xfa})
          .word(0x10000)      // next: inc edx; cmp edx, 0x10000
          .raw({0x75, 0xd1})  // jne port
          // The disk's registers, with many values.
          .edi(0xd0000000)
          .raw({0x8b, 0x07, 0x89, 0xf8, 0x89,
                0x07})                          // reg: mov eax,[edi]; mov eax,edi; mov [edi],eax
          .raw({0x66, 0x89, 0x07, 0x88, 0x07})  // mov [edi], ax; mov [edi], al
          .raw({0x47, 0x81, 0xff})
          .word(0xd0000400)   // inc edi; cmp edi, …
          .raw({0x75, 0xec})  // jne reg
          // One word in each 64 KiB up to the I/O APIC.
          .edi(0xc0000000)
          .raw({0x8b, 0x07, 0x89, 0x07})  // page: mov eax, [edi]; mov [edi], eax
          .raw({0x81, 0xc7})
          .word(0x10000)  // add edi, 0x10000
          .raw({0x81, 0xff})
          .word(0xfec00000)
          .raw({0x72, 0xee})  // jb page
          .print("done")
          .exit(0);
  const auto outcome = boot(images::elf32(code), "--disk '" + disk + "' --dump-on-crash");
  EXPECT_EQ(outcome.status, 1) << outcome.err;
  ASSERT_GE(outcome.out.size(), 4u);
  EXPECT_EQ(outcome.out.substr(outcome.out.size() - 4), "done");
  EXPECT_EQ(program::read_file(disk), std::string(64 * 1024, 'd'));
}

TEST_F(TinyvmmBoot, TheStartIsBrokenDownIntoParts) {
  const auto outcome = boot(images::elf32(Code().exit(0)), "--timing");
  EXPECT_EQ(outcome.status, 1);
  for (const char* part : {"VM", "memory", "vCPUs", "images", "first instruction"}) {
    EXPECT_NE(outcome.err.find(part), std::string::npos) << outcome.err;
  }
}

TEST_F(TinyvmmBoot, WrongUsageAndMissingFilesAreToldApart) {
  const std::string good = images::elf32(Code().exit(0));
  EXPECT_EQ(boot(good, "--nonsense").status, 2);
  EXPECT_EQ(boot(good, "--cpus 0").status, 2);
  EXPECT_EQ(boot(good, "--memory 1M").status, 2);
  EXPECT_EQ(boot(good, "--memory 1000001").status, 2);
  EXPECT_EQ(boot(good, "--initrd ''").status, 2);
  EXPECT_EQ(boot(good, "--disk ''").status, 2);
  EXPECT_EQ(program::run(EXAMPLE_TINYVMM, "--kernel ''").status, 2);
  EXPECT_EQ(boot(good, "--help").status, 0);
  const auto missing = boot(good, "--initrd /no/such/file");
  EXPECT_EQ(missing.status, 4);
  EXPECT_EQ(missing.err, "tinyvmm: /no/such/file: No such file or directory\n");
  EXPECT_EQ(boot(good, "--initrd /").status, 4);
  EXPECT_EQ(boot("nonsense").status, 4);
  EXPECT_EQ(boot("").status, 4);
  const auto large = boot(
      good, "--memory 2M --initrd '" + folder_.write("large", std::string(3 << 20, 'x')) + "'");
  EXPECT_EQ(large.status, 4);
  EXPECT_NE(large.err.find("large: it does not fit into the guest's memory"), std::string::npos)
      << large.err;
}

}  // namespace

#endif
