// SPDX-License-Identifier: MIT
#include "guest.hpp"

#include <bit>
#include <cstddef>
#include <cstring>
#include <span>
#include <stdexcept>
#include <vector>

namespace migrate {
namespace {

constexpr std::uint64_t code_at = 0x1000;
constexpr std::uint64_t stacks_at = 0x40000;  // A page per vCPU, of which it uses the last words.
constexpr std::uint64_t tables_at = 0x10000;  // Up to 2 + 16 pages.
constexpr std::uint64_t free_from = 0x100000;
constexpr std::uint64_t factor = 0x9e3779b97f4a7c15;  // Odd: what it makes of two words differs.

// clang-format off

/// In ring 3, with the right to do port I/O. Set by the host before: rdi the first page, rsi their
/// number - 1, rbp the lap, r8 `factor`, r9 pauses, r10 the heartbeat's address, rsp a stack; rbx
/// (visits), r11 (the last heartbeat), r12 (the page) and r13 (the last number) are 0.
constexpr std::uint8_t code[] = {
    0xdb, 0xe3,                                //        fninit
    0xd9, 0xee,                                //        fldz
    0x66, 0x0f, 0xef, 0xc0,                    //        pxor xmm0, xmm0
    0xb8, 0x01, 0x00, 0x00, 0x00,              //        mov eax, 1
    0x66, 0x48, 0x0f, 0x6e, 0xc8,              //        movq xmm1, rax
    // The next page.
    0x4d, 0x69, 0xe4, 0x0d, 0x66, 0x19, 0x00,  // visit: imul r12, r12, 1664525
    0x49, 0x81, 0xc4, 0x5f, 0xf3, 0x6e, 0x3c,  //        add r12, 1013904223
    0x49, 0x21, 0xf4,                          //        and r12, rsi
    0x4c, 0x89, 0xe0,                          //        mov rax, r12
    0x48, 0xc1, 0xe0, 0x0c,                    //        shl rax, 12
    0x48, 0x01, 0xf8,                          //        add rax, rdi
    // It holds the last lap's number, and (the number + the address) * factor.
    0x48, 0x8d, 0x4d, 0xff,                    //        lea rcx, [rbp - 1]
    0x48, 0x39, 0x08,                          //        cmp [rax], rcx
    0x41, 0xbe, 0x01, 0x00, 0x00, 0x00,        //        mov r14d, 1
    0x0f, 0x85, 0xa5, 0x00, 0x00, 0x00,        //        jne fault
    0x48, 0x01, 0xc1,                          //        add rcx, rax
    0x49, 0x0f, 0xaf, 0xc8,                    //        imul rcx, r8
    0x48, 0x39, 0x48, 0x08,                    //        cmp [rax + 8], rcx
    0x41, 0xbe, 0x02, 0x00, 0x00, 0x00,        //        mov r14d, 2
    0x0f, 0x85, 0x8e, 0x00, 0x00, 0x00,        //        jne fault
    // Now this lap's.
    0x48, 0x8d, 0x4c, 0x05, 0x00,              //        lea rcx, [rbp + rax]
    0x49, 0x0f, 0xaf, 0xc8,                    //        imul rcx, r8
    0x48, 0x89, 0x28,                          //        mov [rax], rbp
    0x48, 0x89, 0x48, 0x08,                    //        mov [rax + 8], rcx
    // Counted three times.
    0x48, 0xff, 0xc3,                          //        inc rbx
    0x66, 0x0f, 0xd4, 0xc1,                    //        paddq xmm0, xmm1
    0xd9, 0xe8,                                //        fld1
    0xde, 0xc1,                                //        faddp
    0x66, 0x48, 0x0f, 0x7e, 0xc1,              //        movq rcx, xmm0
    0x48, 0x39, 0xd9,                          //        cmp rcx, rbx
    0x41, 0xbe, 0x03, 0x00, 0x00, 0x00,        //        mov r14d, 3
    0x75, 0x63,                                //        jne fault
    0x4c, 0x89, 0xc9,                          //        mov rcx, r9
    0xf3, 0x90,                                // rest:  pause
    0x48, 0xff, 0xc9,                          //        dec rcx
    0x79, 0xf9,                                //        jns rest
    // Every 64 pages a number from the device.
    0xf7, 0xc3, 0x3f, 0x00, 0x00, 0x00,        //        test ebx, 63
    0x75, 0x4c,                                //        jnz again
    0xba, 0x00, 0x05, 0x00, 0x00,              //        mov edx, port::number
    0xed,                                      //        in eax, dx
    0x41, 0xff, 0xc5,                          //        inc r13d
    0x44, 0x39, 0xe8,                          //        cmp eax, r13d
    0x41, 0xbe, 0x04, 0x00, 0x00, 0x00,        //        mov r14d, 4
    0x75, 0x3d,                                //        jne fault
    0x48, 0x85, 0xf3,                          //        test rbx, rsi
    0x0f, 0x85, 0x61, 0xff, 0xff, 0xff,        //        jnz visit
    // The lap is done.
    0xd9, 0xc0,                                //        fld st(0)
    0xdf, 0x7c, 0x24, 0xf8,                    //        fistp qword [rsp - 8]
    0x48, 0x39, 0x5c, 0x24, 0xf8,              //        cmp [rsp - 8], rbx
    0x41, 0xbe, 0x05, 0x00, 0x00, 0x00,        //        mov r14d, 5
    0x75, 0x21,                                //        jne fault
    0x49, 0x8b, 0x02,                          //        mov rax, [r10]
    0x4c, 0x39, 0xd8,                          //        cmp rax, r11
    0x41, 0xbe, 0x06, 0x00, 0x00, 0x00,        //        mov r14d, 6
    0x72, 0x13,                                //        jb fault
    0x49, 0x89, 0xc3,                          //        mov r11, rax
    0x89, 0xe8,                                //        mov eax, ebp
    0xba, 0x04, 0x05, 0x00, 0x00,              //        mov edx, port::lap
    0xef,                                      //        out dx, eax
    0x48, 0xff, 0xc5,                          //        inc rbp
    0xe9, 0x2d, 0xff, 0xff, 0xff,              // again: jmp visit
    0x44, 0x89, 0xf0,                          // fault: mov eax, r14d
    0xba, 0x08, 0x05, 0x00, 0x00,              //        mov edx, port::fault
    0xef,                                      //        out dx, eax
    0xeb, 0xf5,                                //        jmp fault
};

// clang-format on

void put_bytes(const kvm::MemorySlot& ram, std::uint64_t gpa, std::span<const std::byte> bytes) {
  if (!ram.load(kvm::Gpa{gpa}, bytes)) {
    throw std::logic_error("the guest is larger than its memory");
  }
}
template <class T>
void put(const kvm::MemorySlot& ram, std::uint64_t gpa, const T& value) {
  put_bytes(ram, gpa, std::as_bytes(std::span(&value, 1)));
}

std::uint64_t first_page(const GuestOptions& options, std::uint64_t vcpu) {
  return options.memory_bytes / 2 + vcpu * options.pages * guest_page;
}

/// What nobody writes later must arrive as well.
void load_noise(const kvm::MemorySlot& ram, std::uint64_t memory_bytes) {
  std::vector<std::uint64_t> words(guest_page * 16 / sizeof(std::uint64_t));
  std::uint64_t state = 1;
  for (std::uint64_t at = free_from; at < memory_bytes; at += words.size() * sizeof words[0]) {
    for (std::uint64_t& word : words) {
      state = state * 6364136223846793005 + 1442695040888963407;
      word = state ^ state >> 32;
    }
    put_bytes(ram, at, std::as_bytes(std::span(words)));
  }
}

/// Maps all memory to itself, in pages of 2 MiB.
void load_page_tables(const kvm::MemorySlot& ram, std::uint64_t memory_bytes) {
  constexpr std::uint64_t present_writable_user = 7;
  constexpr std::uint64_t large = 0x80;
  constexpr std::uint64_t directories_at = tables_at + 2 * guest_page;
  put(ram, tables_at, std::uint64_t{tables_at + guest_page} | present_writable_user);
  for (std::uint64_t at = 0; at < memory_bytes; at += std::uint64_t{2} << 20) {
    const std::uint64_t directory = directories_at + (at >> 30) * guest_page;
    put(ram, tables_at + guest_page + 8 * (at >> 30), directory | present_writable_user);
    put(ram, directory + 8 * (at >> 21 & 511), at | large | present_writable_user);
  }
}

kvm::uapi::kvm_segment flat_segment(bool is_code) {
  kvm::uapi::kvm_segment segment{};
  segment.limit = 0xffffffff;
  segment.selector = is_code ? 0x0b : 0x13;
  segment.type = is_code ? 11 : 3;
  segment.present = 1;
  segment.dpl = 3;
  segment.db = is_code ? 0 : 1;
  segment.s = 1;
  segment.l = is_code ? 1 : 0;
  segment.g = 1;
  return segment;
}

}  // namespace

std::uint64_t most_pages(std::uint64_t memory_bytes, unsigned vcpus) {
  return std::bit_floor(memory_bytes / 2 / guest_page / vcpus);
}

void load_guest(const kvm::MemorySlot& ram, const GuestOptions& options) {
  load_noise(ram, options.memory_bytes);
  load_page_tables(ram, options.memory_bytes);
  put_bytes(ram, code_at, std::as_bytes(std::span(code)));
  for (std::uint64_t vcpu = 0; vcpu < options.vcpus; ++vcpu) {
    for (std::uint64_t page = 0; page < options.pages; ++page) {
      const std::uint64_t at = first_page(options, vcpu) + page * guest_page;
      put(ram, at, std::uint64_t{0});  // Lap 0.
      put(ram, at + 8, at * factor);
    }
  }
}

void boot_vcpu(const kvm::System& system, kvm::Vcpu& vcpu, const GuestOptions& options) {
  const std::uint32_t id = vcpu.id().value;
  kvm::x86::Cpuid cpuid = system.supported_cpuid();
  for (auto& entry : cpuid) {  // Where the number of the CPU stands that was asked.
    if (entry.function == 1) {
      entry.ebx = (entry.ebx & 0xffffff) | id << 24;
    } else if (entry.function == 0xb || entry.function == 0x1f) {
      entry.edx = id;
    }
  }
  vcpu.set_cpuid2(cpuid);

  auto sregs = vcpu.get_sregs();
  sregs.cr3 = tables_at;
  sregs.cr4 = 1u << 5 | 3u << 9;                                       // PAE, SSE
  sregs.cr0 = 1u << 31 | 1u << 16 | 1u << 5 | 1u << 4 | 1u << 1 | 1u;  // PG WP NE ET MP PE
  sregs.efer = 1u << 8 | 1u << 10;                                     // LME LMA
  sregs.cs = flat_segment(true);
  sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = flat_segment(false);
  vcpu.set_sregs(sregs);

  kvm::uapi::kvm_regs regs{};
  regs.rip = code_at;
  regs.rsp = stacks_at + (id + 1) * guest_page;
  regs.rflags = 2 | 3u << 12;  // I/O for ring 3
  regs.rdi = first_page(options, id);
  regs.rsi = options.pages - 1;
  regs.rbp = 1;
  regs.r8 = factor;
  regs.r9 = options.pauses;
  regs.r10 = heartbeat_at.value;
  vcpu.set_regs(regs);
}

std::string describe_fault(std::uint32_t fault) {
  switch (fault) {
    case 1:
      return "a page is not of the last lap";
    case 2:
      return "a page's second word does not belong to its first";
    case 3:
      return "the count in the SSE register is wrong";
    case 4:
      return "a number from the device was lost or came twice";
    case 5:
      return "the count on the x87 stack is wrong";
    case 6:
      return "the VMM's heartbeat went back";
    default:
      return "fault " + std::to_string(fault);
  }
}

}  // namespace migrate
