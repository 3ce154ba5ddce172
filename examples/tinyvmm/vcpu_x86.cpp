// SPDX-License-Identifier: MIT
#if defined(__x86_64__)

#include "vcpu_x86.hpp"

#include <array>
#include <bit>
#include <cstdio>
#include <initializer_list>
#include <optional>
#include <span>
#include <utility>

#include "pc.hpp"

namespace tinyvmm {
namespace {

constexpr std::uint16_t code_selector = 0x10;  // What both boot protocols ask for.
constexpr std::uint16_t data_selector = 0x18;

constexpr std::uint64_t cr0_protected = 1;
constexpr std::uint64_t cr0_extension_type = 1u << 4;  // always 1
constexpr std::uint64_t cr0_paging = 1u << 31;
constexpr std::uint64_t cr4_pae = 1u << 5;
constexpr std::uint64_t efer_long_mode = 1u << 8 | 1u << 10;

kvm::uapi::kvm_segment flat(bool is_code, bool is_64_bit) {
  kvm::uapi::kvm_segment segment{};
  segment.limit = 0xffffffff;
  segment.selector = is_code ? code_selector : data_selector;
  segment.type = is_code ? 11 : 3;  // accessed, and readable or writable
  segment.present = 1;
  segment.s = 1;
  segment.g = 1;
  segment.l = is_code && is_64_bit ? 1 : 0;
  segment.db = segment.l != 0 ? 0 : 1;
  return segment;
}

/// The same as the processor reads it from memory.
std::uint64_t descriptor(const kvm::uapi::kvm_segment& segment) {
  const auto at = [](unsigned value, unsigned bit) { return std::uint64_t{value} << bit; };
  return 0xffff | at(0xf, 48) | at(segment.type, 40) | at(segment.s, 44) | at(segment.dpl, 45) |
         at(segment.present, 47) | at(segment.l, 53) | at(segment.db, 54) | at(segment.g, 55);
}

void append(std::string& out, const char* name, std::uint64_t value) {
  char text[40];
  std::snprintf(text, sizeof text, "%s%s=%016llx", out.empty() || out.back() == '\n' ? "" : "  ",
                name, static_cast<unsigned long long>(value));
  out += text;
}

}  // namespace

kvm::x86::Cpuid make_cpuid(const kvm::x86::Cpuid& supported, bool has_deadline_timer, unsigned id,
                           unsigned count) {
  kvm::x86::Cpuid table = supported;
  const unsigned id_bits = static_cast<unsigned>(std::bit_width(count - 1));
  if (auto* const features = table.find(1)) {
    features->ebx = (features->ebx & 0xffff) | count << 16 | id << 24;
    // KVM tells neither: it leaves them to whoever makes the machine.
    constexpr std::uint32_t hypervisor = 1u << 31;
    constexpr std::uint32_t deadline_timer = 1u << 24;
    features->ecx |= hypervisor | (has_deadline_timer ? deadline_timer : 0);
    constexpr std::uint32_t several_threads = 1u << 28;
    features->edx = (features->edx & ~several_threads) | (count > 1 ? several_threads : 0);
  }
  for (auto& entry : table) {
    if (entry.function == 4 && (entry.eax & 0x1f) != 0) {  // Caches of Intel's CPUs, and cores.
      entry.eax = (entry.eax & 0x3fff) | ((1u << id_bits) - 1) << 26;
    }
  }
  // Levels of topology: threads of a core (one), cores of the package.
  for (const std::uint32_t function : {0xbu, 0x1fu}) {
    if (table.find(function) != nullptr) {
      const auto level = [&](std::uint32_t index, std::uint32_t eax, std::uint32_t ebx,
                             std::uint32_t ecx) {
        table.set({.function = function,
                   .index = index,
                   .flags = kvm::uapi::cpuid_flag::significant_index,
                   .eax = eax,
                   .ebx = ebx,
                   .ecx = ecx | index,
                   .edx = id,
                   .padding = {}});
      };
      table.remove(function);
      level(0, 0, 1, 1 << 8);
      level(1, id_bits, count, 2 << 8);
      level(2, 0, 0, 0);
    }
  }
  // AMD's way to say the same.
  if (auto* const sizes = table.find(0x80000008)) {
    sizes->ecx = (sizes->ecx & ~0xf0ffu) | id_bits << 12 | (count - 1);
  }
  if (auto* const topology = table.find(0x8000001e)) {
    topology->eax = id;
    topology->ebx = id;
    topology->ecx = 0;
  }
  return table;
}

void enter(kvm::Vcpu& vcpu, const EntryPoint& entry, kvm::GuestMemory::View& memory) {
  const auto code = flat(true, entry.long_mode);
  const auto data = flat(false, entry.long_mode);
  const std::array<std::uint64_t, 4> gdt = {0, 0, descriptor(code), descriptor(data)};
  store(memory, pc::gdt, std::as_bytes(std::span(gdt)));

  kvm::uapi::kvm_sregs sregs = vcpu.get_sregs();
  sregs.cs = code;
  sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
  sregs.gdt.base = pc::gdt.value;
  sregs.gdt.limit = sizeof gdt - 1;
  sregs.cr0 = cr0_protected | cr0_extension_type;
  if (entry.long_mode) {
    sregs.cr0 |= cr0_paging;
    sregs.cr3 = pc::page_tables.value;
    sregs.cr4 = cr4_pae;
    sregs.efer = efer_long_mode;
  }
  vcpu.set_sregs(sregs);

  kvm::uapi::kvm_regs regs{};
  regs.rip = entry.rip;
  regs.rax = entry.rax;
  regs.rbx = entry.rbx;
  regs.rsi = entry.rsi;
  regs.rflags = 2;  // The bit that is always set: interrupts are off.
  vcpu.set_regs(regs);
}

std::string describe_vcpu(kvm::Vcpu& vcpu, kvm::GuestMemory::View& memory) {
  const auto regs = vcpu.try_get_regs();
  const auto sregs = vcpu.try_get_sregs();
  if (!regs || !sregs) {
    return "its registers cannot be read";
  }
  std::string out;
  const auto line = [&](std::initializer_list<std::pair<const char*, std::uint64_t>> values) {
    for (const auto& [name, value] : values) {
      append(out, name, value);
    }
    out += '\n';
  };
  line({{"rip", regs->rip}, {"rsp", regs->rsp}, {"rfl", regs->rflags}, {"rbp", regs->rbp}});
  line({{"rax", regs->rax}, {"rbx", regs->rbx}, {"rcx", regs->rcx}, {"rdx", regs->rdx}});
  line({{"rsi", regs->rsi}, {"rdi", regs->rdi}, {"r8 ", regs->r8}, {"r9 ", regs->r9}});
  line({{"r10", regs->r10}, {"r11", regs->r11}, {"r12", regs->r12}, {"r13", regs->r13}});
  line({{"r14", regs->r14}, {"r15", regs->r15}, {"cr2", sregs->cr2}, {"cr3", sregs->cr3}});
  line({{"cr0", sregs->cr0}, {"cr4", sregs->cr4}, {"efe", sregs->efer}, {"cs ", sregs->cs.base}});
  line({{"gdt", sregs->gdt.base}, {"idt", sregs->idt.base}, {"tr ", sregs->tr.base}});
  out += "code";
  const std::uint64_t address = sregs->cs.base + regs->rip;
  for (std::uint64_t i = 0; i < 16; ++i) {
    const auto gpa = vcpu.try_translate(address + i);
    const auto byte = gpa && *gpa ? memory.read<std::uint8_t>(**gpa) : std::nullopt;
    char text[8];
    byte ? std::snprintf(text, sizeof text, " %02x", *byte)
         : std::snprintf(text, sizeof text, " ??");
    out += text;
  }
  return out;
}

}  // namespace tinyvmm

#endif
