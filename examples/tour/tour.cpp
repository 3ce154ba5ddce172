// SPDX-License-Identifier: MIT
// A guest that leaves to its host in as many ways as fit on a page. Prints what
// the guest wrote, and one line per kind of exit that was handled.
#if !defined(__x86_64__)
#error "this example's guest is x86 machine code; kvm-info is the one that runs everywhere"
#endif

#include <kvm/kvm.hpp>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace {

using namespace kvm::literals;

using Code = std::vector<std::uint8_t>;

constexpr std::uint64_t code_at = 0x1000;
constexpr std::uint64_t text_at = 0x2000;
constexpr std::uint64_t square_at = 0xd0000;  // Beyond the memory: a device answers here.
constexpr std::uint16_t console_port = 0xe9;
constexpr std::uint16_t number_port = 0x70;
constexpr std::uint32_t unknown_msr = 0x12345;

/// At text_at. The guest puts the digits in.
constexpr char greeting[] = "Hello from a guest in real mode.\n";
constexpr char result[] = "The square of the host's number is ??.\n";
constexpr std::uint16_t result_at = text_at + sizeof greeting - 1;
constexpr std::uint16_t digits_at = result_at + sizeof result - 5;

constexpr std::uint8_t low(unsigned value) { return static_cast<std::uint8_t>(value); }
constexpr std::uint8_t high(unsigned value) { return static_cast<std::uint8_t>(value >> 8); }

// clang-format off

/// The guest writes `size` bytes to the console.
Code print(unsigned address, unsigned size) {
  return {0xbe, low(address), high(address),            // mov si, address
          0xb9, low(size), high(size),                  // mov cx, size
          0xba, low(console_port), high(console_port),  // mov dx, console_port
          0xf3, 0x6e};                                  // rep outsb
}

const Code calculate = {
    0xe4, number_port,                                // in al, number_port
    0xbb, low(square_at >> 4), high(square_at >> 4),  // mov bx, square_at / 16
    0x8e, 0xc3,                                       // mov es, bx
    0x26, 0xa2, 0x00, 0x00,                           // mov [es:0], al
    0x26, 0xa0, 0x00, 0x00,                           // mov al, [es:0]
    0xd4, 0x0a,                                       // aam: ah = al / 10, al = al % 10
    0x05, 0x30, 0x30,                                 // add ax, "00"
    0x86, 0xc4,                                       // xchg al, ah
    0xa3, low(digits_at), high(digits_at),            // mov [digits_at], ax
};

const Code count_in_msr = {
    0x66, 0xb9, low(unknown_msr), high(unknown_msr), low(unknown_msr >> 16), 0x00,
                                                      // mov ecx, unknown_msr
    0x0f, 0x32,                                       // rdmsr
    0x66, 0x40,                                       // inc eax
    0x0f, 0x30,                                       // wrmsr
};

const Code rest = {0xf4};                             // hlt

const Code crash = {
    0x0f, 0x01, 0x1e, 0x00, 0x08,                     // lidt [0x800]: zeroes, no interrupt table
    0x0f, 0x20, 0xc0,                                 // mov eax, cr0
    0x0c, 0x01,                                       // or al, 1
    0x0f, 0x22, 0xc0,                                 // mov cr0, eax: protected mode
    0x0f, 0x0b,                                       // ud2: a fault, a double, a triple fault
};

// clang-format on

/// How often each kind of exit came, in the order of their first appearance.
class Tally {
 public:
  /// @param about what the last one of its kind was about
  void count(const char* kind, std::string about) {
    for (Line& line : lines_) {
      if (std::strcmp(line.kind, kind) == 0) {
        ++line.count;
        line.about = std::move(about);
        return;
      }
    }
    lines_.push_back({kind, 1, std::move(about)});
  }
  void print() const {
    for (const Line& line : lines_) {
      std::printf("  %-10s %4u  %s\n", line.kind, line.count, line.about.c_str());
    }
  }

 private:
  struct Line {
    const char* kind;
    unsigned count;
    std::string about;
  };
  std::vector<Line> lines_;
};

/// The machine around the guest: a console, a number, a device that squares,
/// and an MSR.
class Host {
 public:
  /// Serves exits until the guest is gone.
  void run(kvm::Vcpu& vcpu) {
    while (running_) {
      const kvm::Exit exit = vcpu.run();
      exit.visit(
          [&](kvm::exits::IoOut io) { write_console(io); },
          [&](kvm::exits::IoIn io) { read_number(io); },
          [&](kvm::exits::MmioWrite mmio) { write_device(mmio); },
          [&](kvm::exits::MmioRead mmio) { read_device(mmio); },
          [&](kvm::exits::X86Rdmsr msr) { read_msr(msr); },
          [&](kvm::exits::X86Wrmsr msr) { write_msr(msr); },
          [&](kvm::exits::Hlt) { tally_.count("Hlt", "the guest rested, and was run again"); },
          [&](kvm::exits::Shutdown) {
            tally_.count("Shutdown", "a triple fault: the guest is gone");
            running_ = false;
          },
          [&](kvm::exits::Interrupted) {},  // A signal, such as SIGCONT: go on.
          [&](kvm::exits::Failed failed) {
            throw std::runtime_error(std::string("the run failed: ") + failed.cause + " (" +
                                     std::strerror(failed.error_number) + ")");
          },
          [&](auto&&) {
            throw std::runtime_error(std::string("not expected of this guest: ") + exit.name());
          });
    }
  }

  void print() const {
    std::puts("The guest wrote:");
    std::string line;
    for (const char c : console_) {
      line += c;
      if (c == '\n') {
        std::printf("  %s", line.c_str());
        line.clear();
      }
    }
    std::puts("\nExits handled, how often, and what the last of each kind was about:");
    tally_.print();
  }

 private:
  template <class... Arguments>
  static std::string format(const char* text, Arguments... arguments) {
    char buffer[100];
    std::snprintf(buffer, sizeof buffer, text, arguments...);
    return buffer;
  }

  void write_console(kvm::exits::IoOut io) {
    console_.append(reinterpret_cast<const char*>(io.data.data()), io.data.size());
    tally_.count("IoOut",
                 format("text for port %#x, %zu byte(s) at once", io.port, io.data.size()));
  }
  void read_number(kvm::exits::IoIn io) {
    io.data[0] = std::byte{7};
    tally_.count("IoIn", format("port %#x, answered 7", io.port));
  }
  void write_device(kvm::exits::MmioWrite mmio) {
    operand_ = std::to_integer<unsigned>(mmio.data[0]);
    tally_.count("MmioWrite", format("the device at %#llx was given %u", hex(mmio.gpa), operand_));
  }
  void read_device(kvm::exits::MmioRead mmio) {
    const unsigned square = operand_ * operand_;
    mmio.data[0] = static_cast<std::byte>(square);
    tally_.count("MmioRead", format("the device at %#llx answered %u", hex(mmio.gpa), square));
  }
  void read_msr(kvm::exits::X86Rdmsr msr) {
    msr.reply(msr_);
    tally_.count("X86Rdmsr", format("MSR %#x, answered %llu", msr.index, msr_));
  }
  void write_msr(kvm::exits::X86Wrmsr msr) {
    msr_ = msr.value;
    msr.accept();
    tally_.count("X86Wrmsr", format("MSR %#x was set to %llu", msr.index, msr_));
  }

  static unsigned long long hex(kvm::Gpa gpa) { return gpa.value; }

  bool running_ = true;
  std::string console_;
  unsigned operand_ = 0;
  unsigned long long msr_ = 41;
  Tally tally_;
};

void load(const kvm::MemorySlot& ram, std::uint64_t gpa, std::span<const std::byte> bytes) {
  if (!ram.load(kvm::Gpa{gpa}, bytes)) {
    throw std::logic_error("the guest is larger than its memory");
  }
}

void tour() {
  const kvm::System system;
  kvm::Vm vm = system.create_vm();
  const kvm::MemorySlot ram = vm.add_memory(kvm::Gpa{0}, kvm::Mapping::anonymous(64_KiB));

  std::vector<Code> parts = {print(text_at, sizeof greeting - 1), calculate,
                             print(result_at, sizeof result - 1)};
  if (vm.check<kvm::cap::X86UserSpaceMsr>()) {
    vm.enable(kvm::cap::X86UserSpaceMsr{.reasons = kvm::cap::MsrExitReason::unknown});
    parts.push_back(count_in_msr);
  } else {
    std::puts("(This KVM cannot hand MSR accesses to its user: that part is left out.)");
  }
  parts.push_back(rest);
  parts.push_back(crash);

  std::uint64_t end = code_at;
  for (const Code& part : parts) {
    load(ram, end, std::as_bytes(std::span(part)));
    end += part.size();
  }
  load(ram, text_at, std::as_bytes(std::span(greeting)));
  load(ram, result_at, std::as_bytes(std::span(result)));

  kvm::Vcpu vcpu = vm.create_vcpu(0);
  auto sregs = vcpu.get_sregs();
  sregs.cs.base = sregs.cs.selector = 0;
  vcpu.set_sregs(sregs);
  auto regs = vcpu.get_regs();
  regs.rip = code_at;
  vcpu.set_regs(regs);

  Host host;
  host.run(vcpu);
  host.print();
}

}  // namespace

int main() {
  try {
    tour();
  } catch (const std::exception& error) {
    std::fflush(stdout);
    std::fprintf(stderr, "tour: %s\n", error.what());
    return 1;
  }
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {
    std::perror("tour: standard output");
    return 1;
  }
}
