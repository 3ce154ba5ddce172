// SPDX-License-Identifier: MIT
// Exits of real guests. What is asserted is what the guest did: hosts differ in
// how many exits they make of an access.
// needs: x86
#include "support/guest.hpp"
#include "support/require.hpp"

#include <kvm/kvm.hpp>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <numeric>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

namespace {

namespace cap = kvm::cap;
namespace exits = kvm::exits;
namespace request = kvm::uapi::request;
using kvm_test::Devices;
using kvm_test::Guest;
using kvm_test::Machine;
using Bytes = std::vector<std::uint8_t>;

Bytes little_endian(std::uint64_t value, unsigned size) {
  Bytes bytes;
  for (unsigned i = 0; i < size; ++i) {
    bytes.push_back(static_cast<std::uint8_t>(value >> (8 * i)));
  }
  return bytes;
}

Bytes fetch(const kvm::MemorySlot& slot, std::uint64_t gpa, std::size_t size) {
  std::vector<std::byte> bytes(size);
  EXPECT_TRUE(slot.fetch(kvm::Gpa(gpa), bytes));
  Bytes result;
  for (const std::byte byte : bytes) {
    result.push_back(std::to_integer<std::uint8_t>(byte));
  }
  return result;
}

/// The exit if it is an E.
template <class E>
std::optional<E> as(const kvm::Exit& exit) {
  return exit.visit([](E seen) { return std::optional<E>(seen); },
                    [](auto&&) { return std::optional<E>(); });
}

TEST(IoExit, OutOfEverySize) {
  Guest guest = Guest::real_mode({
      0xb0, 0x41,                          // mov al, 0x41
      0xe6, 0x80,                          // out 0x80, al
      0xb8, 0x34, 0x12,                    // mov ax, 0x1234
      0xe7, 0x81,                          // out 0x81, ax
      0x66, 0xb8, 0x78, 0x56, 0x34, 0x12,  // mov eax, 0x12345678
      0xba, 0xf8, 0x0c,                    // mov dx, 0xcf8
      0x66, 0xef,                          // out dx, eax
      0xf4,                                // hlt
  });
  Devices devices;
  EXPECT_EQ(devices.run(guest.vcpu), "KVM_EXIT_HLT");
  EXPECT_EQ(devices.out[0x80], (Bytes{0x41}));
  EXPECT_EQ(devices.out[0x81], (Bytes{0x34, 0x12}));
  EXPECT_EQ(devices.out[0xcf8], (Bytes{0x78, 0x56, 0x34, 0x12}));
  EXPECT_EQ(devices.element_sizes, (std::vector<unsigned>{1, 2, 4}));
}

TEST(IoExit, WhatInReadsIsInTheRegister) {
  Guest guest = Guest::real_mode({
      0xe4, 0x10,        // in al, 0x10
      0xe6, 0x20,        // out 0x20, al
      0xe5, 0x11,        // in ax, 0x11
      0xe7, 0x21,        // out 0x21, ax
      0x66, 0xe5, 0x12,  // in eax, 0x12
      0x66, 0xe7, 0x22,  // out 0x22, eax
      0xf4,              // hlt
  });
  Devices devices;
  EXPECT_EQ(devices.run(guest.vcpu), "KVM_EXIT_HLT");
  EXPECT_EQ(devices.out[0x20], (Bytes{1}));
  EXPECT_EQ(devices.out[0x21], (Bytes{2, 3}));
  EXPECT_EQ(devices.out[0x22], (Bytes{4, 5, 6, 7}));
  EXPECT_EQ(devices.element_sizes, (std::vector<unsigned>{1, 1, 2, 2, 4, 4}));
}

TEST(IoExit, InAndOutInLongMode) {
  for (const unsigned ring : {0u, 3u}) {
    Guest guest = Guest::long_mode(
        {
            0xe5, 0x12,  // in eax, 0x12
            0xe7, 0x22,  // out 0x22, eax
            0xe6, 0xff,  // out 0xff, al
        },
        ring);
    Devices devices;
    EXPECT_EQ(devices.run(guest.vcpu), "done") << ring;
    EXPECT_EQ(devices.out[0x22], (Bytes{1, 2, 3, 4})) << ring;
  }
}

// The count of a string instruction may come in one exit or in many.
TEST(IoExit, RepOutsGivesAllElements) {
  struct Case {
    unsigned size;
    Bytes instruction;
  };
  for (const Case& test :
       {Case{1, {0xf3, 0x6e}}, Case{2, {0xf3, 0x6f}}, Case{4, {0x66, 0xf3, 0x6f}}}) {
    for (const std::uint16_t count : std::initializer_list<std::uint16_t>{1, 8, 1000, 5000}) {
      const std::size_t size = std::size_t{count} * test.size;
      Guest guest = Guest::real_mode({
          0xbe, 0x00, 0x20,                        // mov si, 0x2000
          0xb9, static_cast<std::uint8_t>(count),  // mov cx, count
          static_cast<std::uint8_t>(count >> 8),   //
          0xba, 0x00, 0x01,                        // mov dx, 0x100
          0xfc,                                    // cld
      });
      Bytes code = test.instruction;
      code.push_back(0xf4);  // hlt
      guest.load(kvm_test::code_at + 10, code);
      Bytes sent(size);
      std::iota(sent.begin(), sent.end(), std::uint8_t{1});
      guest.load(0x2000, sent);
      Devices devices;
      EXPECT_EQ(devices.run(guest.vcpu), "KVM_EXIT_HLT");
      EXPECT_EQ(devices.out[0x100], sent) << test.size << " * " << count;
      EXPECT_EQ(std::set<unsigned>(devices.element_sizes.begin(), devices.element_sizes.end()),
                std::set<unsigned>{test.size});
    }
  }
}

TEST(IoExit, RepInsTakesAllElements) {
  struct Case {
    unsigned size;
    Bytes instruction;
  };
  for (const Case& test :
       {Case{1, {0xf3, 0x6c}}, Case{2, {0xf3, 0x6d}}, Case{4, {0x66, 0xf3, 0x6d}}}) {
    for (const std::uint16_t count : std::initializer_list<std::uint16_t>{1, 8, 1000, 5000}) {
      const std::size_t size = std::size_t{count} * test.size;
      Guest guest = Guest::real_mode({
          0xbf, 0x00, 0x30,                        // mov di, 0x3000
          0xb9, static_cast<std::uint8_t>(count),  // mov cx, count
          static_cast<std::uint8_t>(count >> 8),   //
          0xba, 0x00, 0x01,                        // mov dx, 0x100
          0xfc,                                    // cld
      });
      Bytes code = test.instruction;
      code.push_back(0xf4);  // hlt
      guest.load(kvm_test::code_at + 10, code);
      Devices devices;
      EXPECT_EQ(devices.run(guest.vcpu), "KVM_EXIT_HLT");
      Bytes expected(size);
      std::iota(expected.begin(), expected.end(), std::uint8_t{1});
      EXPECT_EQ(fetch(guest.ram, 0x3000, size), expected) << test.size << " * " << count;
      EXPECT_EQ(fetch(guest.ram, 0x3000 + size, 1), Bytes{0});
      EXPECT_EQ(std::set<unsigned>(devices.element_sizes.begin(), devices.element_sizes.end()),
                std::set<unsigned>{test.size});
    }
  }
}

/// A guest that copies `size` bytes from `from` to `to`, both memory mapped.
void expect_mmio_copy(unsigned ring, unsigned size, std::uint32_t from, std::uint32_t to) {
  SCOPED_TRACE(testing::Message() << "ring " << ring << ", " << size << " bytes");
  Guest guest = Guest::long_mode({}, ring);
  Bytes code = {0xbb};  // mov ebx, from
  const auto add = [&](std::initializer_list<std::uint8_t> bytes) {
    code.insert(code.end(), bytes);
  };
  const auto add_address = [&](std::uint32_t address) {
    const Bytes bytes = little_endian(address, 4);
    code.insert(code.end(), bytes.begin(), bytes.end());
  };
  const auto add_prefix = [&] {
    if (size == 2) {
      add({0x66});
    } else if (size == 8) {
      add({0x48});
    }
  };
  add_address(from);
  add({0xb9});  // mov ecx, to
  add_address(to);
  add_prefix();
  add({static_cast<std::uint8_t>(size == 1 ? 0x8a : 0x8b), 0x03});  // mov ax, [rbx]
  add_prefix();
  add({static_cast<std::uint8_t>(size == 1 ? 0x88 : 0x89), 0x01});  // mov [rcx], ax
  add({0xe6, 0xff});                                                // out 0xff, al
  guest.load(kvm_test::code_at, code);
  Devices devices;
  EXPECT_EQ(devices.run(guest.vcpu), "done");
  EXPECT_EQ(devices.written.size(), size);
  EXPECT_EQ(devices.written_value(to, size), Devices::mmio_value(from, size));
  for (const std::size_t length : devices.mmio_sizes) {
    EXPECT_LE(length, 8u);
    EXPECT_GE(length, 1u);
  }
}

TEST(MmioExit, ReadAndWriteOfEverySize) {
  for (const unsigned ring : {0u, 3u}) {
    for (const unsigned size : {1u, 2u, 4u, 8u}) {
      expect_mmio_copy(ring, size, kvm_test::mmio_at, kvm_test::mmio_at + 0x100);
    }
  }
}

TEST(MmioExit, AcrossPagesInSeveral) {
  for (const unsigned ring : {0u, 3u}) {
    for (const std::uint32_t before : {1u, 4u, 7u}) {
      const auto at = static_cast<std::uint32_t>(kvm_test::mmio_at) + 0x1000 - before;
      expect_mmio_copy(ring, 8, at, at + 0x2000);
    }
    expect_mmio_copy(ring, 4, kvm_test::mmio_at + 0xffe, kvm_test::mmio_at + 0x3ffd);
    expect_mmio_copy(ring, 2, kvm_test::mmio_at + 0xfff, kvm_test::mmio_at + 0x3fff);
  }
}

TEST(MmioExit, AWriteToAReadOnlySlot) {
  for (const unsigned ring : {0u, 3u}) {
    Guest guest = Guest::long_mode(
        {
            0xbb, 0x00, 0x00, 0x00, 0x20,  // mov ebx, 0x20000000
            0xb0, 0x77,                    // mov al, 0x77
            0x88, 0x43, 0x04,              // mov [rbx + 4], al
            0x8a, 0x43, 0x05,              // mov al, [rbx + 5]
            0xe6, 0x20,                    // out 0x20, al
            0xe6, 0xff,                    // out 0xff, al
        },
        ring);
    KVM_REQUIRE(guest.vm, cap::ReadonlyMem);
    using kvm_test::operator""_KiB;
    const kvm::MemorySlot rom = guest.vm.add_memory(
        kvm::Gpa(0x20000000), kvm::Mapping::anonymous(4_KiB), {.read_only = true});
    const std::byte firmware[] = {std::byte{0x11}, std::byte{0x5a}};
    ASSERT_TRUE(rom.load(kvm::Gpa(0x20000004), firmware));
    Devices devices;
    EXPECT_EQ(devices.run(guest.vcpu), "done");
    EXPECT_EQ(devices.written_value(0x20000004, 1), 0x77u);
    EXPECT_EQ(devices.out[0x20], (Bytes{0x5a}));
    EXPECT_EQ(fetch(rom, 0x20000004, 1), (Bytes{0x11}));
  }
}

TEST(HltExit, IsOneHalt) {
  Guest guest = Guest::real_mode({0xf4, 0xe6, 0x20, 0xf4});  // hlt; out 0x20, al; hlt
  Devices devices;
  EXPECT_TRUE(as<exits::Hlt>(guest.vcpu.run()));
  EXPECT_EQ(guest.vcpu.get_regs().rip, kvm_test::code_at + 1);
  EXPECT_EQ(devices.run(guest.vcpu), "KVM_EXIT_HLT");
  EXPECT_EQ(devices.ios, 1u);
}

TEST(ShutdownExit, IsATripleFault) {
  for (const unsigned ring : {0u, 3u}) {
    Guest guest = Guest::long_mode({0x0f, 0x0b}, ring);  // ud2
    auto sregs = guest.vcpu.get_sregs();
    sregs.idt.limit = 0;
    guest.vcpu.set_sregs(sregs);
    EXPECT_TRUE(as<exits::Shutdown>(guest.vcpu.run())) << ring;
  }
}

// fld from a device is not among what KVM can emulate.
constexpr std::initializer_list<std::uint8_t> not_emulated = {
    0xbb, 0x00, 0x00, 0x00, 0x30,  // mov ebx, 0x30000000
    0xd9, 0x03,                    // fld dword [rbx]
    0xe6, 0xff,                    // out 0xff, al
};

TEST(InternalErrorExit, TellsTheInstruction) {
  for (const unsigned ring : {0u, 3u}) {
    Machine machine;
    KVM_REQUIRE(machine.vm, cap::ExitOnEmulationFailure);
    machine.vm.enable(cap::ExitOnEmulationFailure{});
    kvm::Vcpu vcpu = machine.vm.create_vcpu(0);
    machine.load(kvm_test::code_at, not_emulated);
    kvm_test::enter_long_mode(machine, vcpu, ring);
    const auto error = as<exits::InternalError>(vcpu.run());
    ASSERT_TRUE(error) << ring;
    EXPECT_EQ(error->suberror, 1u);
    const auto bytes = error->instruction_bytes();
    ASSERT_TRUE(bytes) << ring;
    ASSERT_GE(bytes->size(), 2u);
    EXPECT_EQ((*bytes)[0], std::byte{0xd9});
    EXPECT_EQ((*bytes)[1], std::byte{0x03});
    EXPECT_EQ(vcpu.get_regs().rip, kvm_test::code_at + 5);
  }
}

TEST(InternalErrorExit, ComesInRing0WithoutTheCapabilityToo) {
  Guest guest = Guest::long_mode(not_emulated, 0);
  const auto error = as<exits::InternalError>(guest.vcpu.run());
  ASSERT_TRUE(error);
  EXPECT_EQ(error->suberror, 1u);
}

TEST(IrqWindowOpenExit, ComesWhenTheGuestTakesInterrupts) {
  Guest guest = Guest::real_mode({
      0xe6, 0x20,  // out 0x20, al
      0xfb,        // sti
      0x90,        // nop
      0xeb, 0xfe,  // jmp .
  });
  guest.vcpu.run_page()->request_interrupt_window = 1;
  ASSERT_TRUE(as<exits::IoOut>(guest.vcpu.run()));  // Not before.
  EXPECT_TRUE(as<exits::IrqWindowOpen>(guest.vcpu.run()));
  EXPECT_EQ(guest.vcpu.run_page()->if_flag, 1);
  EXPECT_EQ(guest.vcpu.run_page()->ready_for_interrupt_injection, 1);
}

void ignore_signal(int) {}

/// Lets a signal interrupt system calls, for one test.
class SignalHandler {
 public:
  explicit SignalHandler(int signal) : signal_(signal) {
    struct sigaction action {};
    action.sa_handler = ignore_signal;
    sigaction(signal_, &action, &before_);
  }
  SignalHandler(const SignalHandler&) = delete;
  SignalHandler& operator=(const SignalHandler&) = delete;
  ~SignalHandler() { sigaction(signal_, &before_, nullptr); }

 private:
  int signal_;
  struct sigaction before_ {};
};

TEST(InterruptedExit, ComesOfASignalThatIsNoKick) {
  const SignalHandler handler(SIGUSR2);
  for (const bool real_mode : {true, false}) {
    Guest guest = real_mode ? Guest::real_mode({0xeb, 0xfe}) : Guest::long_mode({0xeb, 0xfe});
    std::atomic<bool> done = false;
    const pthread_t runner = pthread_self();
    std::thread sender([&] {
      while (!done) {  // One may come before the guest runs.
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
        pthread_kill(runner, SIGUSR2);
      }
    });
    const auto exit = as<exits::Interrupted>(guest.vcpu.run());
    done = true;
    sender.join();
    ASSERT_TRUE(exit);
    EXPECT_FALSE(exit->kicked);
    EXPECT_EQ(guest.vcpu.get_regs().rip, kvm_test::code_at);
  }
}

TEST(InterruptedExit, ComesOfImmediateExitWhateverReasonIsLeft) {  // R24
  Guest guest = Guest::real_mode({0xe6, 0x20, 0xe6, 0x21, 0xf4});
  ASSERT_TRUE(as<exits::IoOut>(guest.vcpu.run()));
  guest.vcpu.run_page()->immediate_exit = 1;
  EXPECT_TRUE(as<exits::Interrupted>(guest.vcpu.run()));
  EXPECT_EQ(guest.vcpu.run_page()->exit_reason, 2u);  // The kernel left it: IO.
  guest.vcpu.run_page()->immediate_exit = 0;
  const auto second = as<exits::IoOut>(guest.vcpu.run());
  ASSERT_TRUE(second);
  EXPECT_EQ(second->port, 0x21);
}

bool hardware_answers_for_the_apic() {
  for (const char* parameter :
       {"/sys/module/kvm_intel/parameters/enable_apicv", "/sys/module/kvm_amd/parameters/avic"}) {
    char value = 0;
    if (std::ifstream(parameter) >> value && (value == 'Y' || value == '1')) {
      return true;
    }
  }
  return false;
}

TEST(TprAccessExit, ComesOfAnAccessToTheTaskPriority) {
  if (hardware_answers_for_the_apic()) {
    GTEST_SKIP() << "with APICv or AVIC this host's accesses to the TPR don't exit";
  }
  Machine machine;
  KVM_REQUIRE(machine.vm, cap::Irqchip);
  KVM_REQUIRE(machine.vm, cap::Vapic);
  machine.vm.ioctl(request::create_irqchip.code);
  kvm::Vcpu vcpu = machine.vm.create_vcpu(0);
  kvm::uapi::kvm_tpr_access_ctl control{};
  control.enabled = 1;
  vcpu.ioctl(request::tpr_access_reporting.code, &control);
  machine.load(kvm_test::code_at, {
                                      0xbb, 0x00, 0x00, 0xe0, 0xfe,  // mov ebx, 0xfee00000
                                      0x8b, 0x83, 0x80, 0, 0, 0,     // l: mov eax, [rbx + 0x80]
                                      0xe6, 0x20,                    // out 0x20, al
                                      0xeb, 0xf6,                    // jmp l
                                  });
  kvm_test::enter_long_mode(machine, vcpu, 0);
  kvm_test::map_apic(machine);
  bool reported = false;
  for (int i = 0; i < 100 && !reported; ++i) {
    vcpu.run().visit(
        [&](exits::TprAccess access) {
          reported = true;
          EXPECT_FALSE(access.is_write);
          EXPECT_GE(access.rip, kvm_test::code_at);
          EXPECT_LT(access.rip, kvm_test::code_at + 0x10);
        },
        [](exits::IoOut) {}, [&](auto&&) { i = 100; });
  }
  EXPECT_TRUE(reported);
}

TEST(IoapicEoiExit, TellsTheVector) {
  Machine machine;
  KVM_REQUIRE(machine.vm, cap::SplitIrqchip);
  machine.vm.enable(cap::SplitIrqchip{.userspace_ioapic_routes = 24});
  kvm::Vcpu vcpu = machine.vm.create_vcpu(0);
  constexpr std::uint32_t level_vector_0x40 = 1u << 15 | 1u << 14 | 0x40;
  struct {
    kvm::uapi::kvm_irq_routing header;
    kvm::uapi::kvm_irq_routing_entry entry;
  } routing{};
  routing.header.nr = 1;
  routing.entry.gsi = 4;
  routing.entry.type = 2;  // An MSI.
  routing.entry.u.msi.address_lo = 0xfee00000;
  routing.entry.u.msi.data = level_vector_0x40;
  machine.vm.ioctl(request::set_gsi_routing.code, &routing);

  machine.load(kvm_test::code_at,
               {
                   0x67, 0x66, 0xc7, 0x05, 0xf0, 0x00, 0xe0, 0xfe,  // mov [0xfee000f0],
                   0xff, 0x01, 0x00, 0x00,                          //   0x1ff: enable the APIC
                   0xe6, 0x20,                                      // out 0x20, al
                   0xfb,                                            // sti
                   0xeb, 0xfe,                                      // jmp .
               });
  machine.load(0x2000, {
                           0x67, 0x66, 0xc7, 0x05, 0xb0, 0x00, 0xe0, 0xfe,  // mov [0xfee000b0],
                           0x00, 0x00, 0x00, 0x00,                          //   0: EOI
                           0xe6, 0x21,                                      // out 0x21, al
                           0xcf,                                            // iret
                       });
  kvm_test::set_vector(machine, 0x40, 0x2000);
  kvm_test::enter_real_mode(vcpu);
  auto sregs = vcpu.get_sregs();
  sregs.ds.limit = 0xffffffff;  // Unreal mode reaches the APIC.
  sregs.ds.g = 1;
  vcpu.set_sregs(sregs);
  const auto ready = as<exits::IoOut>(vcpu.run());
  ASSERT_TRUE(ready);
  ASSERT_EQ(ready->port, 0x20);
  kvm::uapi::kvm_msi msi{};
  msi.address_lo = 0xfee00000;
  msi.data = level_vector_0x40;
  EXPECT_GT(machine.vm.ioctl(request::signal_msi.code, &msi), 0);
  bool ended = false;
  bool handled = false;
  for (int i = 0; i < 10 && !(ended && handled); ++i) {
    vcpu.run().visit(
        [&](exits::IoapicEoi eoi) {
          ended = true;
          EXPECT_EQ(eoi.vector, 0x40);
        },
        [&](exits::IoOut io) { handled = handled || io.port == 0x21; }, [&](auto&&) { i = 10; });
  }
  EXPECT_TRUE(ended);
  EXPECT_TRUE(handled);
}

/// Denies the guest the MSRs 0x174 to 0x176.
void deny_sysenter_msrs(kvm::Vm& vm) {
  static std::uint8_t allowed[1] = {0};
  kvm::uapi::kvm_msr_filter filter{};
  filter.ranges[0].flags = 3;  // Reads and writes.
  filter.ranges[0].nmsrs = 3;
  filter.ranges[0].base = 0x174;
  filter.ranges[0].bitmap = allowed;
  vm.ioctl(request::x86_set_msr_filter.code, &filter);
}

TEST(MsrExit, ReadsAndWritesAreAnswered) {
  Machine machine;
  KVM_REQUIRE(machine.vm, cap::X86UserSpaceMsr);
  KVM_REQUIRE(machine.vm, cap::X86MsrFilter);
  machine.vm.enable(cap::X86UserSpaceMsr{.reasons = cap::MsrExitReason::filtered});
  deny_sysenter_msrs(machine.vm);
  kvm::Vcpu vcpu = machine.vm.create_vcpu(0);
  machine.load(kvm_test::code_at, {
                                      0x66, 0xb9, 0x74, 0x01, 0, 0,  // mov ecx, 0x174
                                      0x0f, 0x32,                    // rdmsr
                                      0x66, 0xe7, 0x20,              // out 0x20, eax
                                      0x66, 0x89, 0xd0,              // mov eax, edx
                                      0x66, 0xe7, 0x21,              // out 0x21, eax
                                      0x0f, 0x30,                    // wrmsr
                                      0x66, 0x41,                    // inc ecx
                                      0x0f, 0x30,                    // wrmsr, which fails
                                      0xf4,                          // hlt
                                  });
  machine.load(0x2000, {0x66, 0x41, 0x0f, 0x32});  // The #GP handler: inc ecx; rdmsr, which fails
  kvm_test::set_vector(machine, 13, 0x2000);
  kvm_test::enter_real_mode(vcpu);

  const auto read = as<exits::X86Rdmsr>(vcpu.run());
  ASSERT_TRUE(read);
  EXPECT_EQ(read->index, 0x174u);
  EXPECT_EQ(read->reason, 4u);
  read->reply(0x1122334455667788);
  Devices devices;
  EXPECT_EQ(devices.run(vcpu), "KVM_EXIT_X86_WRMSR");
  EXPECT_EQ(devices.out[0x20], (Bytes{0x88, 0x77, 0x66, 0x55}));
  EXPECT_EQ(devices.out[0x21], (Bytes{0x44, 0x33, 0x22, 0x11}));

  const auto written = as<exits::X86Wrmsr>(kvm::Exit::decode(*vcpu.run_page(), 12288));
  ASSERT_TRUE(written);
  EXPECT_EQ(written->index, 0x174u);
  EXPECT_EQ(written->reason, 4u);
  EXPECT_EQ(written->value, 0x1122334411223344u);
  written->accept();

  const auto refused = as<exits::X86Wrmsr>(vcpu.run());
  ASSERT_TRUE(refused);
  EXPECT_EQ(refused->index, 0x175u);
  refused->fail();

  const auto handler = as<exits::X86Rdmsr>(vcpu.run());
  ASSERT_TRUE(handler);  // The guest got its #GP.
  EXPECT_EQ(handler->index, 0x176u);
  // An answer after a failure counts: KVM keeps the error of the exit before.
  handler->reply(0xabcdef);
  machine.load(0x2004, {0x66, 0xe7, 0x22, 0xf4});  // out 0x22, eax; hlt
  EXPECT_EQ(devices.run(vcpu), "KVM_EXIT_HLT");
  EXPECT_EQ(devices.out[0x22], (Bytes{0xef, 0xcd, 0xab, 0x00}));
}

TEST(MsrExit, UnknownOnesCome) {
  Machine machine;
  KVM_REQUIRE(machine.vm, cap::X86UserSpaceMsr);
  machine.vm.enable(
      cap::X86UserSpaceMsr{.reasons = cap::MsrExitReason::unknown | cap::MsrExitReason::invalid});
  kvm::Vcpu vcpu = machine.vm.create_vcpu(0);
  machine.load(kvm_test::code_at, {
                                      0x66, 0xb9, 0x45, 0x23, 1, 0,  // mov ecx, 0x12345
                                      0x0f, 0x32,                    // rdmsr
                                      0x66, 0xe7, 0x20,              // out 0x20, eax
                                      0xf4,                          // hlt
                                  });
  kvm_test::enter_real_mode(vcpu);
  const kvm::Exit exit = vcpu.run();
  const auto read = as<exits::X86Rdmsr>(exit);
  if (!read) {  // The kvm module's ignore_msrs answers itself.
    EXPECT_TRUE(as<exits::IoOut>(exit));
    return;
  }
  EXPECT_EQ(read->index, 0x12345u);
  EXPECT_EQ(read->reason, 2u);
  read->reply(7);
  Devices devices;
  EXPECT_EQ(devices.run(vcpu), "KVM_EXIT_HLT");
  EXPECT_EQ(devices.out[0x20], (Bytes{7, 0, 0, 0}));
}

TEST(DirtyRingFullExit, EndsWithAHarvest) {
  constexpr std::uint32_t entries = 256;
  constexpr std::uint32_t pages = 600;
  using kvm_test::operator""_MiB;
  Machine machine;
  KVM_REQUIRE(machine.vm, cap::DirtyLogRingAcqRel);
  machine.vm.enable(cap::DirtyLogRingAcqRel{.bytes = entries * 16});
  const kvm::MemorySlot logged = machine.vm.add_memory(
      kvm::Gpa(0x1000000), kvm::Mapping::anonymous(4_MiB), {.log_dirty = true});
  kvm::Vcpu vcpu = machine.vm.create_vcpu(0);
  const auto page_size = static_cast<std::size_t>(getpagesize());
  auto ring =
      kvm::Mapping::try_shared("mmap", vcpu.fd(), entries * 16, static_cast<off_t>(64 * page_size));
  ASSERT_TRUE(ring);
  machine.load(kvm_test::code_at, {
                                      0xbb, 0x00, 0x00, 0x00, 0x01,        // mov ebx, 0x1000000
                                      0xb9, 0x58, 0x02, 0x00, 0x00,        // mov ecx, 600
                                      0x88, 0x0b,                          // l: mov [rbx], cl
                                      0x48, 0x81, 0xc3, 0x00, 0x10, 0, 0,  // add rbx, 0x1000
                                      0xff, 0xc9,                          // dec ecx
                                      0x75, 0xf3,                          // jnz l
                                      0xe6, 0xff,                          // out 0xff, al
                                  });
  kvm_test::enter_long_mode(machine, vcpu, 3);

  auto* const gfns = reinterpret_cast<kvm::uapi::kvm_dirty_gfn*>(ring->data());
  std::uint32_t next = 0;
  std::set<std::uint64_t> dirty;
  const auto harvest = [&] {
    for (;; ++next) {
      auto& gfn = gfns[next & (entries - 1)];
      if (__atomic_load_n(&gfn.flags, __ATOMIC_ACQUIRE) != 1) {
        break;
      }
      if (gfn.slot == logged.id().raw()) {
        dirty.insert(gfn.offset);
      }
      __atomic_store_n(&gfn.flags, 2u, __ATOMIC_RELEASE);
    }
    machine.vm.ioctl(request::reset_dirty_rings.code);
  };
  int full = 0;
  bool done = false;
  for (int i = 0; i < 100 && !done; ++i) {
    vcpu.run().visit([&](exits::DirtyRingFull) { ++full; },
                     [&](exits::IoOut io) { done = io.port == Devices::done_port; },
                     [&](auto&&) { i = 100; });
    if (full == 1) {  // Without a harvest it does not run.
      EXPECT_TRUE(as<exits::DirtyRingFull>(vcpu.run()));
    }
    harvest();
  }
  EXPECT_TRUE(done);
  EXPECT_GE(full, 2);
  EXPECT_EQ(dirty.size(), pages);
}

TEST(DebugExit, ComesOfEachInstruction) {
  for (const bool real_mode : {true, false}) {
    Guest guest = real_mode ? Guest::real_mode({0x90, 0x90, 0x90, 0xe6, 0x20, 0xf4})
                            : Guest::long_mode({0x90, 0x90, 0x90, 0xe6, 0x20, 0xf4}, 0);
    KVM_REQUIRE(guest.vm, cap::SetGuestDebug);
    kvm::uapi::kvm_guest_debug debug{};
    debug.control = 1 | 2;  // Enable, single step.
    guest.vcpu.set_guest_debug(debug);
    for (unsigned step = 1; step <= 3; ++step) {
      bool stepped = false;
      guest.vcpu.run().visit(
          [&](exits::Debug seen) {
            stepped = true;
            EXPECT_EQ(seen.arch.pc, kvm_test::code_at + step);
            EXPECT_EQ(seen.arch.exception, 1u);
            EXPECT_NE(seen.arch.dr6 & 1u << 14, 0u);  // Single step.
          },
          [](auto&&) {});
      ASSERT_TRUE(stepped) << step;
      EXPECT_EQ(guest.vcpu.get_regs().rip, kvm_test::code_at + step);
    }
    guest.vcpu.set_guest_debug({});
    Devices devices;
    EXPECT_EQ(devices.run(guest.vcpu), "KVM_EXIT_HLT");
    EXPECT_EQ(devices.ios, 1u);
  }
}

TEST(MemoryFaultExit, ComesOfAGuestMemfdThatIsGone) {
  using kvm_test::operator""_MiB;
  Machine machine;
  KVM_REQUIRE(machine.vm, cap::MemoryFaultInfo);
  KVM_REQUIRE(machine.vm, cap::UserMemory2);
  KVM_REQUIRE(machine.vm, cap::GuestMemfdFlags,
              cap::GuestMemfdFlag::mmap | cap::GuestMemfdFlag::init_shared);
  kvm::Vcpu vcpu = machine.vm.create_vcpu(0);
  kvm::uapi::kvm_create_guest_memfd create{};
  create.size = 2_MiB;
  create.flags = 3;
  kvm::Fd memfd(machine.vm.ioctl(request::create_guest_memfd.code, &create));
  const kvm::Mapping mapping = kvm::Mapping::anonymous(2_MiB);  // For emulation only.
  kvm::uapi::kvm_userspace_memory_region2 region{};
  region.slot = 100;
  region.flags = 4;  // With guest_memfd.
  region.guest_phys_addr = 0x20000000;
  region.memory_size = 2_MiB;
  region.userspace_addr = reinterpret_cast<std::uint64_t>(mapping.data());
  region.guest_memfd = static_cast<std::uint32_t>(memfd.get());
  machine.vm.ioctl(request::set_user_memory_region2.code, &region);
  machine.load(kvm_test::code_at, {
                                      0xbb, 0x00, 0x30, 0x00, 0x20,  // mov ebx, 0x20003000
                                      0x8a, 0x03,                    // mov al, [rbx]
                                      0xe6, 0xff,                    // out 0xff, al
                                  });
  kvm_test::enter_long_mode(machine, vcpu, 3);
  memfd.reset();
  const auto fault = as<exits::MemoryFault>(vcpu.run());
  ASSERT_TRUE(fault);
  EXPECT_EQ(fault->error_number, EFAULT);
  EXPECT_EQ(fault->gpa.value & ~std::uint64_t{0xfff}, 0x20003000u);
  EXPECT_EQ(fault->flags, 0u);
  EXPECT_GT(fault->size, 0u);
}

TEST(FailedExit, ComesOfMemoryThatTheVmmCanNotReach) {  // R26
  using kvm_test::operator""_KiB;
  Guest guest = Guest::long_mode({
      0xbb, 0x00, 0x00, 0x00, 0x20,  // mov ebx, 0x20000000
      0x8a, 0x03,                    // mov al, [rbx]
      0xe6, 0x20,                    // out 0x20, al
      0xe6, 0xff,                    // out 0xff, al
  });
  const kvm::MemorySlot slot =
      guest.vm.add_memory(kvm::Gpa(0x20000000), kvm::Mapping::anonymous(4_KiB));
  const std::byte value[] = {std::byte{0x42}};
  ASSERT_TRUE(slot.load(slot.gpa(), value));
  ASSERT_EQ(mprotect(slot.mapping().data(), slot.size(), PROT_NONE), 0);
  int error_number = 0;
  std::string cause;
  guest.vcpu.run().visit(
      [&](exits::Failed failed) {
        error_number = failed.error_number;
        cause = failed.cause;
      },
      [&](exits::MemoryFault fault) {  // Kernels may come to tell.
        error_number = fault.error_number;
        cause = "not accessible";
      },
      [](auto&&) {});
  EXPECT_EQ(error_number, EFAULT);
  EXPECT_NE(cause.find("not accessible"), std::string::npos) << cause;
  // It was no more than a fault: with the memory back, the guest goes on.
  ASSERT_EQ(mprotect(slot.mapping().data(), slot.size(), PROT_READ | PROT_WRITE), 0);
  Devices devices;
  EXPECT_EQ(devices.run(guest.vcpu), "done");
  EXPECT_EQ(devices.out[0x20], (Bytes{0x42}));
}

TEST(FailedExit, ComesOfARunPageThatKvmRefuses) {  // R31, R35
  Guest guest = Guest::real_mode({0xe6, 0x20, 0xf4});
  const auto expect_refused = [&] {
    const auto failed = as<exits::Failed>(guest.vcpu.run());
    ASSERT_TRUE(failed);
    EXPECT_EQ(failed->error_number, EINVAL);
    EXPECT_NE(std::string(failed->cause).find("run page"), std::string::npos);
  };
  guest.vcpu.run_page()->cr8 = 16;
  expect_refused();
  guest.vcpu.run_page()->cr8 = 0;
  // Linux 6.12 looks at 32 of its bits.
  guest.vcpu.run_page()->kvm_valid_regs = std::uint64_t{1} << 31;
  expect_refused();
  guest.vcpu.run_page()->kvm_valid_regs = 0;
  Devices devices;
  EXPECT_EQ(devices.run(guest.vcpu), "KVM_EXIT_HLT");
  EXPECT_EQ(devices.ios, 1u);
}

}  // namespace
