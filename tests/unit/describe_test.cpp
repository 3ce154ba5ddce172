// SPDX-License-Identifier: MIT
// What an exit says of itself, and answers to reads.
#include <gtest/gtest.h>

#include <cerrno>
#include <cstdint>
#include <string>

#include "support/run_page.hpp"

namespace kvm_test {
namespace {

using kvm::uapi::ExitReason;

TEST(Describe, SaysWhyARunFailed) {
  RunPage page;
  EXPECT_EQ(page.decode_failure(ENOSPC).describe(),
            "KVM_RUN failed: No space left on device: the VM has no memory slot yet, or KVM has no "
            "shadow pages left for it");
  EXPECT_EQ(page.decode_failure(ENOMEM).describe(), "KVM_RUN failed: Cannot allocate memory");
  EXPECT_EQ(page.decode_failure(EINTR).describe(), "interrupted by a signal");
}

TEST(Describe, NamesAnAccess) {
  RunPage page;
  page->mmio.phys_addr = 0xfee0;
  page->mmio.len = 4;
  page->mmio.is_write = 1;
  EXPECT_EQ(page.decode(ExitReason::mmio).describe(), "KVM_EXIT_MMIO: write of 4 bytes at 0xfee0");
  page->mmio.is_write = 0;
  EXPECT_EQ(page.decode(ExitReason::mmio).describe(), "KVM_EXIT_MMIO: read of 4 bytes at 0xfee0");
}

TEST(Describe, NamesWhatElseAHandlerWouldLookAt) {
  RunPage page;
  page->memory_fault = {.flags = 8, .gpa = 0x7000, .size = 4096};
  page->exit_reason = static_cast<std::uint32_t>(ExitReason::memory_fault);
  EXPECT_EQ(page.decode_failure(EFAULT).describe(),
            "KVM_EXIT_MEMORY_FAULT: 4096 bytes at 0x7000, flags 0x8");
  page->fail_entry = {.hardware_entry_failure_reason = 0x80000021, .cpu = 3};
  EXPECT_EQ(page.decode(ExitReason::fail_entry).describe(),
            "KVM_EXIT_FAIL_ENTRY: hardware reason 0x80000021, CPU 3");
  page->system_event.type = 2;
  page->system_event.ndata = 0;
  EXPECT_EQ(page.decode(ExitReason::system_event).describe(), "KVM_EXIT_SYSTEM_EVENT: type 2");
}

TEST(Describe, NamesWhatTheLibraryDoesNotDecode) {
  RunPage page;
  EXPECT_EQ(page.decode(ExitReason::osi).describe(), "KVM_EXIT_OSI, reason 18");
  EXPECT_EQ(page.decode(static_cast<ExitReason>(999)).describe(), "unknown exit, reason 999");
}

#if defined(__x86_64__)
TEST(Describe, NamesWhatHasNothingElse) {
  RunPage page;
  EXPECT_EQ(page.decode(ExitReason::irq_window_open).describe(), "KVM_EXIT_IRQ_WINDOW_OPEN");
}

TEST(Describe, ShowsTheInstructionThatCouldNotBeEmulated) {
  RunPage page;
  page->emulation_failure = {};
  page->emulation_failure.suberror = 1;
  page->emulation_failure.ndata = 3;
  page->emulation_failure.flags = 1;
  page->emulation_failure.insn_size = 2;
  page->emulation_failure.insn_bytes[0] = 0x0f;
  page->emulation_failure.insn_bytes[1] = 0x0b;
  EXPECT_EQ(page.decode(ExitReason::internal_error).describe(),
            "KVM_EXIT_INTERNAL_ERROR: suberror 1, could not emulate 0xf 0xb");
}

TEST(Describe, NamesAPort) {
  RunPage page;
  page->io = {.direction = 1, .size = 2, .port = 0x3f8, .count = 3, .data_offset = 4096};
  EXPECT_EQ(page.decode(ExitReason::io).describe(), "KVM_EXIT_IO: out at port 0x3f8, 3 of 2 bytes");
}

TEST(Describe, NamesAPortThatIsRead) {
  RunPage page;
  page->io = {.direction = 0, .size = 1, .port = 0x64, .count = 1, .data_offset = 4096};
  EXPECT_EQ(page.decode(ExitReason::io).describe(), "KVM_EXIT_IO: in at port 0x64, 1 of 1 bytes");
}

TEST(Describe, NamesTheMsr) {
  RunPage page;
  page->msr = {};
  page->msr.index = 0xc0000080;
  EXPECT_EQ(page.decode(ExitReason::x86_rdmsr).describe(), "KVM_EXIT_X86_RDMSR: MSR 0xc0000080");
  EXPECT_EQ(page.decode(ExitReason::x86_wrmsr).describe(), "KVM_EXIT_X86_WRMSR: MSR 0xc0000080");
}

TEST(Reply, FillsAPortReadToItsSize) {
  RunPage page;
  page->io = {.direction = 0, .size = 2, .port = 0x60, .count = 1, .data_offset = 4096};
  page.bytes()[4098] = std::byte{0x77};
  page.decode(ExitReason::io)
      .visit([](kvm::exits::IoIn in) { in.reply(0x12345678); }, [](auto&&) { ADD_FAILURE(); });
  EXPECT_EQ(page.bytes()[4096], std::byte{0x78});
  EXPECT_EQ(page.bytes()[4097], std::byte{0x56});
  EXPECT_EQ(page.bytes()[4098], std::byte{0x77}) << "written beyond the access";
}
#endif

TEST(Reply, ExtendsAValueToAnMmioRead) {
  RunPage page;
  page->mmio = {.phys_addr = 0, .data = {9, 9, 9, 9, 9, 9, 9, 9}, .len = 4, .is_write = 0};
  page.decode(ExitReason::mmio)
      .visit([](kvm::exits::MmioRead read) { read.reply(std::uint8_t{0xab}); },
             [](auto&&) { ADD_FAILURE(); });
  const std::uint8_t expected[8] = {0xab, 0, 0, 0, 9, 9, 9, 9};
  for (int i = 0; i < 8; ++i) {
    EXPECT_EQ(page->mmio.data[i], expected[i]) << i;
  }
}

// They are made up: no other architecture's exit is decoded here.
TEST(Reply, AnswersRiscvsCalls) {
  const unsigned long args[6] = {};
  unsigned long ret[2] = {1, 2};
  kvm::exits::RiscvSbi{.extension_id = 0x10, .function_id = 0, .args = args, .ret = ret}.reply(3,
                                                                                               4);
  EXPECT_EQ(ret[0], 3u);
  EXPECT_EQ(ret[1], 4u);
  unsigned long value = 0;
  kvm::exits::RiscvCsr{.csr_num = 1, .new_value = 2, .write_mask = 0, .ret_value = &value}.reply(7);
  EXPECT_EQ(value, 7u);
}

}  // namespace
}  // namespace kvm_test
