// SPDX-License-Identifier: MIT
// Decoding of run pages: every exit reason, with its fields and with the place
// where its answer goes, and what a broken page can not do.
#include "support/run_page.hpp"

#include <kvm/exit.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <concepts>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <iostream>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include <gtest/gtest.h>

namespace {

namespace exits = kvm::exits;
using kvm::Exit;
using kvm::Gpa;
using kvm::uapi::ExitReason;
using kvm_test::RunPage;
using Bytes = std::initializer_list<std::uint8_t>;

template <class E>
constexpr bool occurs_here = (E::arches & static_cast<unsigned>(kvm::host_arch)) != 0;

/// Asserts that the exit is an E, and hands it to `check` once.
template <class E, class F>
void expect(const Exit& exit, F&& check) {
  int calls = 0;
  exit.visit([&](auto&& got) {
    ++calls;
    if constexpr (std::same_as<std::remove_cvref_t<decltype(got)>, E>) {
      check(got);
    } else {
      ADD_FAILURE() << "decoded as something else: " << exit.name();
    }
  });
  EXPECT_EQ(calls, 1);
}

template <class E>
void expect(const Exit& exit) {
  expect<E>(exit, [](const E&) {});
}

void expect_raw(RunPage& page, ExitReason reason) {
  expect<exits::Raw>(page.decode(reason), [&](exits::Raw raw) {
    EXPECT_EQ(raw.reason, reason);
    EXPECT_EQ(raw.payload.data(), reinterpret_cast<std::byte*>(page->padding));
  });
}

/// As expect(), on the architectures that have the exit. On others it is Raw.
template <class E, class F>
void expect_of_arch(RunPage& page, ExitReason reason, F&& check) {
  if constexpr (occurs_here<E>) {
    expect<E>(page.decode(reason), check);
  } else {
    expect_raw(page, reason);
  }
}

void expect_failed(const Exit& exit, int error_number, std::string_view words = {}) {
  expect<exits::Failed>(exit, [&](exits::Failed failed) {
    EXPECT_EQ(failed.error_number, error_number);
    ASSERT_NE(failed.cause, nullptr);
    EXPECT_NE(std::string_view(failed.cause).find(words), std::string_view::npos) << failed.cause;
  });
}

template <class T, class S>
std::vector<T> values(const S& span) {
  return std::vector<T>(span.begin(), span.end());
}

/// One row for each exit reason that the kernel has.
struct Row {
  ExitReason reason;
  const char* name;
  void (*check)(RunPage&);
};

void unknown(RunPage& page) {
  page->hw.hardware_exit_reason = 0x1122334455667788;
  expect<exits::Unknown>(page.decode(ExitReason::unknown), [](exits::Unknown exit) {
    EXPECT_EQ(exit.hardware_exit_reason, 0x1122334455667788u);
  });
}

void exception(RunPage& page) {
  page->ex = {14, 0x80000002};
  expect_of_arch<exits::Exception>(page, ExitReason::exception, [](exits::Exception exit) {
    EXPECT_EQ(exit.exception, 14u);
    EXPECT_EQ(exit.error_code, 0x80000002u);
  });
}

void io(RunPage& page) {
  auto* const data = page.bytes().data() + 4096;
  for (const std::uint8_t size : Bytes{1, 2, 4}) {
    page->io = {.direction = 1, .size = size, .port = 0xcf8, .count = 3, .data_offset = 4096};
    data[0] = std::byte{0x41};
    expect_of_arch<exits::IoOut>(page, ExitReason::io, [&](exits::IoOut exit) {
      EXPECT_EQ(exit.port, 0xcf8);
      EXPECT_EQ(exit.size, size);
      EXPECT_EQ(exit.count, 3u);
      EXPECT_EQ(exit.data.data(), data);
      EXPECT_EQ(exit.data.size(), size * 3u);
      EXPECT_EQ(exit.data[0], std::byte{0x41});
    });
    page->io.direction = 0;
    expect_of_arch<exits::IoIn>(page, ExitReason::io, [&](exits::IoIn exit) {
      EXPECT_EQ(exit.port, 0xcf8);
      EXPECT_EQ(exit.size, size);
      EXPECT_EQ(exit.count, 3u);
      EXPECT_EQ(exit.data.data(), data);
      EXPECT_EQ(exit.data.size(), size * 3u);
      exit.data.back() = std::byte{size};
      EXPECT_EQ(data[size * 3 - 1], std::byte{size});
    });
  }
}

void hypercall(RunPage& page) {
  page->hypercall.nr = 12;
  for (std::uint64_t i = 0; i < 6; ++i) {
    page->hypercall.args[i] = 100 + i;
  }
  page->hypercall.flags = 0x8000000000000001;
  page->hypercall.ret = 0;
  expect_of_arch<exits::Hypercall>(page, ExitReason::hypercall, [&](exits::Hypercall exit) {
    EXPECT_EQ(exit.number, 12u);
    EXPECT_EQ(values<std::uint64_t>(exit.args),
              (std::vector<std::uint64_t>{100, 101, 102, 103, 104, 105}));
    EXPECT_EQ(exit.flags, 0x8000000000000001u);
    exit.reply(0xfffffffffffffff2);
    EXPECT_EQ(page->hypercall.ret, 0xfffffffffffffff2u);
    EXPECT_EQ(page->hypercall.nr, 12u);
    EXPECT_EQ(page->hypercall.args[5], 105u);
    EXPECT_EQ(page->hypercall.flags, 0x8000000000000001u);
  });
}

void debug(RunPage& page) {
#if KVM_HPP_ARCH_X86
  page->debug.arch.exception = 1;
  page->debug.arch.pc = 0x1234567812345678;
  page->debug.arch.dr6 = 0xffff4ff0;
  page->debug.arch.dr7 = 0x400;
#endif
  expect<exits::Debug>(page.decode(ExitReason::debug), [&]([[maybe_unused]] exits::Debug exit) {
#if !KVM_HPP_ARCH_RISCV
    EXPECT_EQ(&exit.arch, &page->debug.arch);
#endif
#if KVM_HPP_ARCH_X86
    EXPECT_EQ(exit.arch.exception, 1u);
    EXPECT_EQ(exit.arch.pc, 0x1234567812345678u);
    EXPECT_EQ(exit.arch.dr6, 0xffff4ff0u);
    EXPECT_EQ(exit.arch.dr7, 0x400u);
#endif
  });
}

void hlt(RunPage& page) {
  expect_of_arch<exits::Hlt>(page, ExitReason::hlt, [](exits::Hlt) {});
}

void mmio(RunPage& page) {
  auto* const data = reinterpret_cast<std::byte*>(page->mmio.data);
  for (std::uint32_t length = 0; length <= 8; ++length) {
    page->mmio = {
        .phys_addr = 0xfee000b0, .data = {1, 2, 3, 4, 5, 6, 7, 8}, .len = length, .is_write = 1};
    expect<exits::MmioWrite>(page.decode(ExitReason::mmio), [&](exits::MmioWrite exit) {
      EXPECT_EQ(exit.gpa, Gpa(0xfee000b0));
      EXPECT_EQ(exit.data.data(), data);
      EXPECT_EQ(exit.data.size(), length);
    });
    page->mmio.is_write = 0;
    expect<exits::MmioRead>(page.decode(ExitReason::mmio), [&](exits::MmioRead exit) {
      EXPECT_EQ(exit.gpa, Gpa(0xfee000b0));
      EXPECT_EQ(exit.data.data(), data);
      EXPECT_EQ(exit.data.size(), length);
      std::fill(exit.data.begin(), exit.data.end(), std::byte{0xaa});
      EXPECT_EQ(std::count(page->mmio.data, page->mmio.data + 8, 0xaa), length);
    });
  }
}

void irq_window_open(RunPage& page) {
  expect_of_arch<exits::IrqWindowOpen>(page, ExitReason::irq_window_open,
                                       [](exits::IrqWindowOpen) {});
}

void shutdown(RunPage& page) {
  expect_of_arch<exits::Shutdown>(page, ExitReason::shutdown, [](exits::Shutdown) {});
}

void fail_entry(RunPage& page) {
  page->fail_entry.hardware_entry_failure_reason = 0x80000021;
  page->fail_entry.cpu = 7;
  expect<exits::FailEntry>(page.decode(ExitReason::fail_entry), [](exits::FailEntry exit) {
    EXPECT_EQ(exit.hardware_entry_failure_reason, 0x80000021u);
    EXPECT_EQ(exit.cpu, 7u);
  });
}

void intr(RunPage& page) {
  expect<exits::Interrupted>(page.decode(ExitReason::intr),
                             [](exits::Interrupted exit) { EXPECT_FALSE(exit.kicked); });
}

void set_tpr(RunPage& page) {
  page->cr8 = 0xb;
  expect_of_arch<exits::SetTpr>(page, ExitReason::set_tpr,
                                [](exits::SetTpr exit) { EXPECT_EQ(exit.cr8, 0xbu); });
}

void tpr_access(RunPage& page) {
  for (const std::uint32_t is_write : {0u, 1u, 0x100u}) {
    page->tpr_access = {.rip = 0xffffffff81000000, .is_write = is_write, .pad = 0};
    expect_of_arch<exits::TprAccess>(page, ExitReason::tpr_access, [&](exits::TprAccess exit) {
      EXPECT_EQ(exit.rip, 0xffffffff81000000u);
      EXPECT_EQ(exit.is_write, is_write != 0);
    });
  }
}

template <ExitReason reason>
void foreign(RunPage& page) {
  std::memset(page->padding, 0x5c, sizeof page->padding);
  expect<exits::Raw>(page.decode(reason), [&](exits::Raw raw) {
    EXPECT_EQ(raw.reason, reason);
    EXPECT_EQ(raw.payload.data(), reinterpret_cast<std::byte*>(page->padding));
    EXPECT_EQ(raw.payload.size(), 256u);
    EXPECT_EQ(raw.payload[255], std::byte{0x5c});
    raw.payload[8] = std::byte{1};
    EXPECT_EQ(page->padding[8], 1);
  });
}

void internal_error(RunPage& page) {
  page->internal.suberror = 3;
  page->internal.ndata = 4;
  for (std::uint64_t i = 0; i < 16; ++i) {
    page->internal.data[i] = i + 1;
  }
  expect_of_arch<exits::InternalError>(
      page, ExitReason::internal_error, [](exits::InternalError exit) {
        EXPECT_EQ(exit.suberror, 3u);
        EXPECT_EQ(values<std::uint64_t>(exit.data), (std::vector<std::uint64_t>{1, 2, 3, 4}));
        EXPECT_FALSE(exit.instruction_bytes());
      });
}

void system_event(RunPage& page) {
  page->system_event.type = 2;
  page->system_event.ndata = 2;
  page->system_event.data[0] = 0x1111111111111111;
  page->system_event.data[1] = 0x2222222222222222;
  page->system_event.data[2] = 3;
  expect<exits::SystemEvent>(page.decode(ExitReason::system_event), [](exits::SystemEvent exit) {
    EXPECT_EQ(exit.type, 2u);
    EXPECT_EQ(values<std::uint64_t>(exit.data),
              (std::vector<std::uint64_t>{0x1111111111111111, 0x2222222222222222}));
  });
}

void ioapic_eoi(RunPage& page) {
  page->eoi.vector = 0xfe;
  expect_of_arch<exits::IoapicEoi>(page, ExitReason::ioapic_eoi,
                                   [](exits::IoapicEoi exit) { EXPECT_EQ(exit.vector, 0xfe); });
}

#if KVM_HPP_ARCH_X86
void hyperv(RunPage& page) {
  auto& hyperv = page->hyperv;
  hyperv = {};
  hyperv.type = 1;
  hyperv.u.synic.msr = 0x40000080;
  hyperv.u.synic.control = 11;
  hyperv.u.synic.evt_page = 12;
  hyperv.u.synic.msg_page = 13;
  expect<exits::HypervSynic>(page.decode(ExitReason::hyperv), [](exits::HypervSynic exit) {
    EXPECT_EQ(exit.msr, 0x40000080u);
    EXPECT_EQ(exit.control, 11u);
    EXPECT_EQ(exit.evt_page, 12u);
    EXPECT_EQ(exit.msg_page, 13u);
  });

  hyperv = {};
  hyperv.type = 2;
  hyperv.u.hcall.input = 0x1005c;
  hyperv.u.hcall.params[0] = 21;
  hyperv.u.hcall.params[1] = 22;
  expect<exits::HypervHypercall>(page.decode(ExitReason::hyperv), [&](exits::HypervHypercall exit) {
    EXPECT_EQ(exit.input, 0x1005cu);
    EXPECT_EQ(exit.params, (std::array<std::uint64_t, 2>{21, 22}));
    exit.reply(0x100000002);
    EXPECT_EQ(hyperv.u.hcall.result, 0x100000002u);
    EXPECT_EQ(hyperv.u.hcall.input, 0x1005cu);
    EXPECT_EQ(hyperv.u.hcall.params[0], 21u);
  });

  hyperv = {};
  hyperv.type = 3;
  hyperv.u.syndbg.msr = 0x400000f1;
  hyperv.u.syndbg.control = 31;
  hyperv.u.syndbg.send_page = 32;
  hyperv.u.syndbg.recv_page = 33;
  hyperv.u.syndbg.pending_page = 34;
  expect<exits::HypervSyndbg>(page.decode(ExitReason::hyperv), [&](exits::HypervSyndbg exit) {
    EXPECT_EQ(exit.msr, 0x400000f1u);
    EXPECT_EQ(exit.control, 31u);
    EXPECT_EQ(exit.send_page, 32u);
    EXPECT_EQ(exit.recv_page, 33u);
    EXPECT_EQ(exit.pending_page, 34u);
    exit.reply(0x8000000000000000);
    EXPECT_EQ(hyperv.u.syndbg.status, 0x8000000000000000u);
    EXPECT_EQ(hyperv.u.syndbg.control, 31u);
    EXPECT_EQ(hyperv.u.syndbg.send_page, 32u);
  });

  for (const std::uint32_t type : {0u, 4u, 0xffffffffu}) {
    hyperv.type = type;
    expect_raw(page, ExitReason::hyperv);
  }
}
#else
void hyperv(RunPage& page) { expect_raw(page, ExitReason::hyperv); }
#endif

void arm_nisv(RunPage& page) {
  page->arm_nisv = {.esr_iss = 0x1f, .fault_ipa = 0x9000000};
  expect_of_arch<exits::ArmNisv>(page, ExitReason::arm_nisv, [](exits::ArmNisv exit) {
    EXPECT_EQ(exit.esr_iss, 0x1fu);
    EXPECT_EQ(exit.fault_ipa, Gpa(0x9000000));
  });
}

void x86_rdmsr(RunPage& page) {
  page->msr = {.error = 1, .pad = {}, .reason = 4, .index = 0x174, .data = 0};
  expect_of_arch<exits::X86Rdmsr>(page, ExitReason::x86_rdmsr, [&](exits::X86Rdmsr exit) {
    EXPECT_EQ(exit.index, 0x174u);
    EXPECT_EQ(exit.reason, 4u);
    exit.reply(0x1122334455667788);  // An error of an exit before must not stay.
    EXPECT_EQ(page->msr.data, 0x1122334455667788u);
    EXPECT_EQ(page->msr.error, 0);
    exit.fail();
    EXPECT_EQ(page->msr.error, 1);
    EXPECT_EQ(page->msr.index, 0x174u);
    EXPECT_EQ(page->msr.reason, 4u);
  });
}

void x86_wrmsr(RunPage& page) {
  page->msr = {.error = 1, .pad = {}, .reason = 2, .index = 0xc0000080, .data = 0xabcdef0123456789};
  expect_of_arch<exits::X86Wrmsr>(page, ExitReason::x86_wrmsr, [&](exits::X86Wrmsr exit) {
    EXPECT_EQ(exit.index, 0xc0000080u);
    EXPECT_EQ(exit.reason, 2u);
    EXPECT_EQ(exit.value, 0xabcdef0123456789u);
    exit.accept();
    EXPECT_EQ(page->msr.error, 0);
    exit.fail();
    EXPECT_EQ(page->msr.error, 1);
    EXPECT_EQ(page->msr.data, 0xabcdef0123456789u);
  });
}

void dirty_ring_full(RunPage& page) {
  expect<exits::DirtyRingFull>(page.decode(ExitReason::dirty_ring_full));
}

void ap_reset_hold(RunPage& page) {
  expect_of_arch<exits::ApResetHold>(page, ExitReason::ap_reset_hold, [](exits::ApResetHold) {});
}

void x86_bus_lock(RunPage& page) {
  expect_of_arch<exits::X86BusLock>(page, ExitReason::x86_bus_lock, [](exits::X86BusLock) {});
}

void xen(RunPage& page) {
  auto& xen = page->xen;
  for (const std::uint32_t long_mode : {0u, 1u}) {
    xen = {};
    xen.type = 1;
    xen.u.hcall.longmode = long_mode;
    xen.u.hcall.cpl = 3;
    xen.u.hcall.input = 17;
    for (std::uint64_t i = 0; i < 6; ++i) {
      xen.u.hcall.params[i] = 50 + i;
    }
    expect_of_arch<exits::XenHypercall>(page, ExitReason::xen, [&](exits::XenHypercall exit) {
      EXPECT_EQ(exit.long_mode, long_mode != 0);
      EXPECT_EQ(exit.cpl, 3u);
      EXPECT_EQ(exit.input, 17u);
      EXPECT_EQ(values<std::uint64_t>(exit.params),
                (std::vector<std::uint64_t>{50, 51, 52, 53, 54, 55}));
      exit.reply(0xffffffffffffffda);
      EXPECT_EQ(xen.u.hcall.result, 0xffffffffffffffdau);
      EXPECT_EQ(xen.u.hcall.input, 17u);
      EXPECT_EQ(xen.u.hcall.params[0], 50u);
    });
  }
  for (const std::uint32_t type : {0u, 2u, 0xffffffffu}) {
    xen.type = type;
    expect_raw(page, ExitReason::xen);
  }
}

void riscv_sbi(RunPage& page) {
  auto& sbi = page->riscv_sbi;
  sbi = {.extension_id = 0x53525354, .function_id = 1, .args = {1, 2, 3, 4, 5, 6}, .ret = {}};
  expect_of_arch<exits::RiscvSbi>(page, ExitReason::riscv_sbi, [&](exits::RiscvSbi exit) {
    EXPECT_EQ(exit.extension_id, 0x53525354u);
    EXPECT_EQ(exit.function_id, 1u);
    EXPECT_EQ(values<unsigned long>(exit.args), (std::vector<unsigned long>{1, 2, 3, 4, 5, 6}));
    exit.reply(8, 9);
    EXPECT_EQ(sbi.ret[0], 8u);
    EXPECT_EQ(sbi.ret[1], 9u);
    EXPECT_EQ(sbi.args[5], 6u);
  });
}

void riscv_csr(RunPage& page) {
  auto& csr = page->riscv_csr;
  csr = {.csr_num = 0x15, .new_value = 2, .write_mask = 3, .ret_value = 0};
  expect_of_arch<exits::RiscvCsr>(page, ExitReason::riscv_csr, [&](exits::RiscvCsr exit) {
    EXPECT_EQ(exit.csr_num, 0x15u);
    EXPECT_EQ(exit.new_value, 2u);
    EXPECT_EQ(exit.write_mask, 3u);
    exit.reply(4);
    EXPECT_EQ(csr.ret_value, 4u);
    EXPECT_EQ(csr.write_mask, 3u);
  });
}

void notify(RunPage& page) {
  page->notify.flags = 1;
  expect_of_arch<exits::Notify>(page, ExitReason::notify,
                                [](exits::Notify exit) { EXPECT_EQ(exit.flags, 1u); });
}

void memory_fault(RunPage& page) {
  // The reason only counts when KVM_RUN failed (R25).
  expect_raw(page, ExitReason::memory_fault);
  page->memory_fault = {.flags = 8, .gpa = 0x20000000, .size = 0x1000};
  for (const int error_number : {EFAULT, EHWPOISON}) {
    const Exit exit = page.decode_failure(error_number);
    if constexpr (occurs_here<exits::MemoryFault>) {
      expect<exits::MemoryFault>(exit, [&](exits::MemoryFault fault) {
        EXPECT_EQ(fault.flags, 8u);
        EXPECT_EQ(fault.gpa, Gpa(0x20000000));
        EXPECT_EQ(fault.size, 0x1000u);
        EXPECT_EQ(fault.error_number, error_number);
      });
    } else {
      expect_failed(exit, error_number);
    }
  }
}

void tdx(RunPage& page) {
  page->tdx.flags = 3;
  page->tdx.nr = 0x10002;
  page->tdx.get_quote = {.ret = 0x8000000000000000, .gpa = 0x5000, .size = 8192};
  expect_of_arch<exits::Tdx>(page, ExitReason::tdx, [&](exits::Tdx exit) {
    EXPECT_EQ(exit.flags, 3u);
    EXPECT_EQ(exit.number, 0x10002u);
    EXPECT_EQ(exit.page, &page->tdx);
    EXPECT_EQ(exit.page->get_quote.gpa, 0x5000u);
    exit.page->get_quote.ret = 0;
    EXPECT_EQ(page->tdx.get_quote.ret, 0u);
  });
}

void arm_sea(RunPage& page) {
  page->arm_sea = {.flags = 1, .esr = 2, .gva = 3, .gpa = 0x40000000};
  expect_of_arch<exits::ArmSea>(page, ExitReason::arm_sea, [](exits::ArmSea exit) {
    EXPECT_EQ(exit.flags, 1u);
    EXPECT_EQ(exit.esr, 2u);
    EXPECT_EQ(exit.gva, 3u);
    EXPECT_EQ(exit.gpa, Gpa(0x40000000));
  });
}

void arm_ldst64b(RunPage& page) {
  page->arm_nisv = {.esr_iss = 0x2f, .fault_ipa = 0x9000040};
  expect_of_arch<exits::ArmLdst64b>(page, ExitReason::arm_ldst64b, [](exits::ArmLdst64b exit) {
    EXPECT_EQ(exit.esr_iss, 0x2fu);
    EXPECT_EQ(exit.fault_ipa, Gpa(0x9000040));
  });
}

void snp_req_certs(RunPage& page) {
  page->snp_req_certs = {.gpa = 0x7000, .npages = 4, .ret = 0};
  expect_of_arch<exits::SnpReqCerts>(page, ExitReason::snp_req_certs, [&](exits::SnpReqCerts exit) {
    EXPECT_EQ(exit.gpa, Gpa(0x7000));
    EXPECT_EQ(exit.npages, 4u);
    exit.reply(ENOSPC, 9);
    EXPECT_EQ(page->snp_req_certs.ret, static_cast<std::uint64_t>(ENOSPC));
    EXPECT_EQ(page->snp_req_certs.npages, 9u);
    EXPECT_EQ(page->snp_req_certs.gpa, 0x7000u);
  });
}

const Row rows[] = {
    {ExitReason::unknown, "KVM_EXIT_UNKNOWN", unknown},
    {ExitReason::exception, "KVM_EXIT_EXCEPTION", exception},
    {ExitReason::io, "KVM_EXIT_IO", io},
    {ExitReason::hypercall, "KVM_EXIT_HYPERCALL", hypercall},
    {ExitReason::debug, "KVM_EXIT_DEBUG", debug},
    {ExitReason::hlt, "KVM_EXIT_HLT", hlt},
    {ExitReason::mmio, "KVM_EXIT_MMIO", mmio},
    {ExitReason::irq_window_open, "KVM_EXIT_IRQ_WINDOW_OPEN", irq_window_open},
    {ExitReason::shutdown, "KVM_EXIT_SHUTDOWN", shutdown},
    {ExitReason::fail_entry, "KVM_EXIT_FAIL_ENTRY", fail_entry},
    {ExitReason::intr, "KVM_EXIT_INTR", intr},
    {ExitReason::set_tpr, "KVM_EXIT_SET_TPR", set_tpr},
    {ExitReason::tpr_access, "KVM_EXIT_TPR_ACCESS", tpr_access},
    {ExitReason::s390_sieic, "KVM_EXIT_S390_SIEIC", foreign<ExitReason::s390_sieic>},
    {ExitReason::s390_reset, "KVM_EXIT_S390_RESET", foreign<ExitReason::s390_reset>},
    {ExitReason::dcr, "KVM_EXIT_DCR", foreign<ExitReason::dcr>},
    {ExitReason::nmi, "KVM_EXIT_NMI", foreign<ExitReason::nmi>},
    {ExitReason::internal_error, "KVM_EXIT_INTERNAL_ERROR", internal_error},
    {ExitReason::osi, "KVM_EXIT_OSI", foreign<ExitReason::osi>},
    {ExitReason::papr_hcall, "KVM_EXIT_PAPR_HCALL", foreign<ExitReason::papr_hcall>},
    {ExitReason::s390_ucontrol, "KVM_EXIT_S390_UCONTROL", foreign<ExitReason::s390_ucontrol>},
    {ExitReason::watchdog, "KVM_EXIT_WATCHDOG", foreign<ExitReason::watchdog>},
    {ExitReason::s390_tsch, "KVM_EXIT_S390_TSCH", foreign<ExitReason::s390_tsch>},
    {ExitReason::epr, "KVM_EXIT_EPR", foreign<ExitReason::epr>},
    {ExitReason::system_event, "KVM_EXIT_SYSTEM_EVENT", system_event},
    {ExitReason::s390_stsi, "KVM_EXIT_S390_STSI", foreign<ExitReason::s390_stsi>},
    {ExitReason::ioapic_eoi, "KVM_EXIT_IOAPIC_EOI", ioapic_eoi},
    {ExitReason::hyperv, "KVM_EXIT_HYPERV", hyperv},
    {ExitReason::arm_nisv, "KVM_EXIT_ARM_NISV", arm_nisv},
    {ExitReason::x86_rdmsr, "KVM_EXIT_X86_RDMSR", x86_rdmsr},
    {ExitReason::x86_wrmsr, "KVM_EXIT_X86_WRMSR", x86_wrmsr},
    {ExitReason::dirty_ring_full, "KVM_EXIT_DIRTY_RING_FULL", dirty_ring_full},
    {ExitReason::ap_reset_hold, "KVM_EXIT_AP_RESET_HOLD", ap_reset_hold},
    {ExitReason::x86_bus_lock, "KVM_EXIT_X86_BUS_LOCK", x86_bus_lock},
    {ExitReason::xen, "KVM_EXIT_XEN", xen},
    {ExitReason::riscv_sbi, "KVM_EXIT_RISCV_SBI", riscv_sbi},
    {ExitReason::riscv_csr, "KVM_EXIT_RISCV_CSR", riscv_csr},
    {ExitReason::notify, "KVM_EXIT_NOTIFY", notify},
    {ExitReason::loongarch_iocsr, "KVM_EXIT_LOONGARCH_IOCSR", foreign<ExitReason::loongarch_iocsr>},
    {ExitReason::memory_fault, "KVM_EXIT_MEMORY_FAULT", memory_fault},
    {ExitReason::tdx, "KVM_EXIT_TDX", tdx},
    {ExitReason::arm_sea, "KVM_EXIT_ARM_SEA", arm_sea},
    {ExitReason::arm_ldst64b, "KVM_EXIT_ARM_LDST64B", arm_ldst64b},
    {ExitReason::snp_req_certs, "KVM_EXIT_SNP_REQ_CERTS", snp_req_certs},
};

class EveryExit : public testing::TestWithParam<Row> {};

TEST_P(EveryExit, HasItsFieldsAndItsAnswer) {
  RunPage page;
  const std::vector<std::byte> clean(page.bytes().begin(), page.bytes().end());
  GetParam().check(page);
  // No decoding and no answer writes outside the union and the port data (R28).
  const auto now = page.bytes();
  EXPECT_TRUE(std::equal(now.begin(), now.begin() + 8, clean.begin()));
  EXPECT_EQ(page->exit_reason, static_cast<std::uint32_t>(GetParam().reason));
  EXPECT_TRUE(std::equal(now.begin() + 288, now.begin() + 4096, clean.begin() + 288));
  EXPECT_TRUE(std::equal(now.begin() + 4096 + 12, now.end(), clean.begin() + 4096 + 12));
}

TEST_P(EveryExit, IsNamed) {
  RunPage page;
  EXPECT_STREQ(page.decode(GetParam().reason).name(), GetParam().name);
}

INSTANTIATE_TEST_SUITE_P(Exit, EveryExit, testing::ValuesIn(rows),
                         [](const testing::TestParamInfo<Row>& row) {
                           return std::string(row.param.name + std::strlen("KVM_EXIT_"));
                         });

TEST(Exit, TheTableHasEveryReason) {
  ASSERT_EQ(std::size(rows), 44u);
  for (std::uint32_t i = 0; i < std::size(rows); ++i) {
    EXPECT_EQ(static_cast<std::uint32_t>(rows[i].reason), i);
  }
}

TEST(Exit, UnknownNumbersAreRaw) {
  RunPage page;
  for (const std::uint32_t reason : {44u, 63u, 64u, 0x7fffffffu}) {
    const Exit exit = page.decode(static_cast<ExitReason>(reason));
    EXPECT_STREQ(exit.name(), "unknown exit");
    expect<exits::Raw>(
        exit, [&](exits::Raw raw) { EXPECT_EQ(static_cast<std::uint32_t>(raw.reason), reason); });
  }
}

// The library's own kinds of exit are above all reasons: a page must not be
// able to name one.
TEST(Exit, NumbersThatNoKernelHasAreAFailure) {
  RunPage page;
  for (const std::uint32_t reason : {0x80000000u, 0x80000005u, 0x90000001u, 0xa000000eu,
                                     0xb0000000u, 0xb0000001u, 0xffffffffu}) {
    expect_failed(page.decode(static_cast<ExitReason>(reason)), EPROTO, "exit reason");
  }
}

TEST(ExitFailure, SignalsAndWokenProcessorsAreInterruptions) {
  RunPage page;
  for (const std::uint32_t stale : {0u, 2u, 10u, 39u, 0xffffffffu}) {  // R24: untouched
    page->exit_reason = stale;
    for (const int error_number : {EINTR, EAGAIN}) {
      const Exit exit = page.decode_failure(error_number);
      EXPECT_STREQ(exit.name(), "interrupted");
      expect<exits::Interrupted>(exit, [](exits::Interrupted seen) { EXPECT_FALSE(seen.kicked); });
    }
  }
}

TEST(ExitFailure, AFaultIsTheGuestsMemoryOnlyWithItsReason) {
  RunPage page;
  page->memory_fault = {.flags = 0, .gpa = 1, .size = 2};
  for (const std::uint32_t reason : {0u, 2u, 38u, 40u, 0xa0000027u, 0xffffffffu}) {
    page->exit_reason = reason;
    for (const int error_number : {EFAULT, EHWPOISON}) {
      expect_failed(page.decode_failure(error_number), error_number);
      EXPECT_STREQ(page.decode_failure(error_number).name(), "failed");
    }
  }
  expect_failed(page.decode_failure(EFAULT), EFAULT, "not accessible");
  page->exit_reason = 39;
  if constexpr (occurs_here<exits::MemoryFault>) {
    EXPECT_STREQ(page.decode_failure(EFAULT).name(), "KVM_EXIT_MEMORY_FAULT");
    EXPECT_STREQ(page.decode_failure(EHWPOISON).name(), "KVM_EXIT_MEMORY_FAULT");
  }
}

TEST(ExitFailure, AStaleMemoryFaultDoesNotCountWithAnotherErrno) {
  RunPage page;
  page->exit_reason = static_cast<std::uint32_t>(ExitReason::memory_fault);
  for (const int error_number : {EINVAL, EIO, ENOMEM, ENOSYS, ENOEXEC, EPERM, EBADF, ENXIO}) {
    expect_failed(page.decode_failure(error_number), error_number);
  }
}

TEST(ExitFailure, TellsTheUsualCause) {
  RunPage page;
  expect_failed(page.decode_failure(EIO), EIO, "fork");
  expect_failed(page.decode_failure(EINVAL), EINVAL, "kvm_dirty_regs");
  expect_failed(page.decode_failure(ENOEXEC), ENOEXEC, "KVM_ARM_VCPU_INIT");
  expect_failed(page.decode_failure(EPERM), EPERM, "KVM_ARM_VCPU_FINALIZE");
  expect_failed(page.decode_failure(EBADF), EBADF, "closed");
  expect_failed(page.decode_failure(ENOMEM), ENOMEM);
}

TEST(ExitMmio, LongerThanItsBufferIsAFailure) {
  RunPage page;
  for (const std::uint32_t length : {9u, 16u, 256u, 0x80000000u, 0xffffffffu}) {
    for (const std::uint8_t is_write : Bytes{0, 1}) {
      page->mmio.len = length;
      page->mmio.is_write = is_write;
      expect_failed(page.decode(ExitReason::mmio), EPROTO, "outside");
    }
  }
}

TEST(ExitSystemEvent, HasAsMuchDataAsThereIs) {
  RunPage page;
  page->system_event.type = 1;
  for (const std::uint32_t count : {0u, 1u, 15u, 16u, 17u, 31u, 0x80000000u, 0xffffffffu}) {
    page->system_event.ndata = count;
    expect<exits::SystemEvent>(page.decode(ExitReason::system_event), [&](exits::SystemEvent exit) {
      EXPECT_EQ(exit.data.size(), std::min(count, 16u));
      EXPECT_EQ(exit.data.data(), page->system_event.data);
    });
  }
}

#if !KVM_HPP_ARCH_RISCV
TEST(ExitInternalError, HasAsMuchDataAsThereIs) {
  RunPage page;
  page->internal.suberror = 4;
  for (const std::uint32_t count : {0u, 1u, 15u, 16u, 17u, 31u, 0x80000000u, 0xffffffffu}) {
    page->internal.ndata = count;
    expect<exits::InternalError>(page.decode(ExitReason::internal_error),
                                 [&](exits::InternalError exit) {
                                   EXPECT_EQ(exit.data.size(), std::min(count, 16u));
                                   EXPECT_EQ(exit.data.data(), page->internal.data);
                                 });
  }
}

TEST(ExitInternalError, InstructionBytesAreThoseThatAreValid) {  // R33
  RunPage page;
  auto& failure = page->emulation_failure;
  const auto instruction = [&]() -> std::optional<std::vector<std::uint8_t>> {
    std::optional<std::vector<std::uint8_t>> bytes;
    expect<exits::InternalError>(page.decode(ExitReason::internal_error),
                                 [&](exits::InternalError exit) {
                                   if (const auto span = exit.instruction_bytes()) {
                                     bytes.emplace();
                                     for (const std::byte byte : *span) {
                                       bytes->push_back(std::to_integer<std::uint8_t>(byte));
                                     }
                                   }
                                 });
    return bytes;
  };
  failure = {.suberror = 1, .ndata = 8, .flags = 1, .insn_size = 2, .insn_bytes = {0x0f, 0x0b, 3}};
  EXPECT_EQ(instruction(), (std::vector<std::uint8_t>{0x0f, 0x0b}));
  failure.insn_size = 15;
  failure.insn_bytes[14] = 0xee;
  ASSERT_TRUE(instruction());
  EXPECT_EQ(instruction()->size(), 15u);
  EXPECT_EQ(instruction()->back(), 0xee);
  failure.insn_size = 255;  // More than there is room for.
  EXPECT_EQ(instruction()->size(), 15u);
  failure.insn_size = 0;
  EXPECT_EQ(instruction(), std::vector<std::uint8_t>());
  failure.insn_size = 2;
  failure.ndata = 3;
  EXPECT_EQ(instruction(), (std::vector<std::uint8_t>{0x0f, 0x0b}));
  for (const std::uint32_t count : {0u, 1u, 2u}) {  // The words of the overlay are not all there.
    failure.ndata = count;
    EXPECT_EQ(instruction(), std::nullopt);
  }
  failure.ndata = 8;
  for (const std::uint64_t flags : {std::uint64_t{0}, std::uint64_t{2}, ~std::uint64_t{1}}) {
    failure.flags = flags;
    EXPECT_EQ(instruction(), std::nullopt);
  }
  failure.flags = 1;
  for (const std::uint32_t suberror : {0u, 2u, 3u, 4u, 0xffffffffu}) {
    failure.suberror = suberror;
    EXPECT_EQ(instruction(), std::nullopt);
  }
}
#endif

#if KVM_HPP_ARCH_X86
/// What the library must make of an IO exit, worked out without overflow in
/// 128 bits.
bool fits(const kvm::uapi::kvm_run::Io& io, std::size_t size) {
  __extension__ using Wide = unsigned __int128;
  return Wide{io.data_offset} + Wide{io.size} * io.count <= size;
}

void check_io(RunPage& page) {
  const auto io = page->io;
  const Exit exit = page.decode(ExitReason::io);
  exit.visit(
      [&](exits::Failed failed) {
        EXPECT_EQ(failed.error_number, EPROTO);
        EXPECT_FALSE(fits(io, page.size()));
      },
      [&](auto&& other) {
        if constexpr (requires { other.port; }) {
          EXPECT_TRUE(fits(io, page.size()));
          EXPECT_EQ(other.port, io.port);
          EXPECT_EQ(other.size, io.size);
          EXPECT_EQ(other.count, io.count);
          EXPECT_EQ(other.data.data(), page.bytes().data() + io.data_offset);
          EXPECT_EQ(other.data.size(), std::uint64_t{io.size} * io.count);
        } else {
          ADD_FAILURE() << exit.name();
        }
      });
}

TEST(ExitIo, DataOutsideTheMappingIsAFailure) {  // R22
  constexpr std::uint64_t most = ~std::uint64_t{0};
  RunPage page;
  for (const std::uint64_t offset :
       {std::uint64_t{0}, std::uint64_t{32}, std::uint64_t{4096}, std::uint64_t{12283},
        std::uint64_t{12284}, std::uint64_t{12287}, std::uint64_t{12288}, std::uint64_t{12289},
        std::uint64_t{1} << 31, std::uint64_t{1} << 32, (std::uint64_t{1} << 32) + 4096,
        std::uint64_t{1} << 63, most - 4096, most - 4, most - 1, most}) {
    for (const std::uint32_t count : {0u, 1u, 2u, 3072u, 8191u, 8192u, 8193u, 12288u, 0x40000000u,
                                      0x7fffffffu, 0x80000000u, 0xffffffffu}) {
      for (const std::uint8_t size : Bytes{0, 1, 2, 3, 4, 8, 128, 255}) {
        for (const std::uint8_t direction : Bytes{0, 1, 255}) {
          page->io = {.direction = direction,
                      .size = size,
                      .port = 0x3f8,
                      .count = count,
                      .data_offset = offset};
          check_io(page);
        }
      }
    }
  }
}

TEST(ExitIo, ExactlyTheLastBytesFit) {
  RunPage page;
  page->io = {.direction = 0, .size = 4, .port = 1, .count = 2048, .data_offset = 4096};
  expect<exits::IoIn>(page.decode(ExitReason::io), [&](exits::IoIn exit) {
    exit.data.back() = std::byte{0x77};
    EXPECT_EQ(page.bytes().back(), std::byte{0x77});
  });
  page->io.count = 2049;
  expect_failed(page.decode(ExitReason::io), EPROTO, "outside");
  page->io.count = 2048;
  page->io.data_offset = 4097;
  expect_failed(page.decode(ExitReason::io), EPROTO, "outside");
}
#endif

/// Nothing that a run page holds makes a handler reach outside it, and looking
/// writes nothing.
TEST(ExitProperty, AnyPageIsSafeToVisit) {
  const std::uint64_t seed = [] {
    const char* given = std::getenv("KVM_HPP_SEED");
    return given != nullptr ? std::strtoull(given, nullptr, 0) : std::random_device{}();
  }();
  std::cout << "KVM_HPP_SEED=" << seed << '\n';
  RecordProperty("seed", std::to_string(seed));
  std::mt19937_64 random(seed);
  std::vector<std::byte> before;
  for (int round = 0; round < 200; ++round) {
    const std::size_t least = (sizeof(kvm::uapi::kvm_run) + 7) / 8 * 8;
    RunPage page(round % 4 == 0 ? RunPage::usual_size : least + random() % 1200 * 8);
    for (int i = 0; i < 100; ++i) {
      for (std::byte& byte : page.bytes()) {
        // Small numbers and all ones are where the bounds are.
        const std::uint64_t bits = random();
        byte = static_cast<std::byte>(bits % 3 == 0 ? 0 : bits % 3 == 1 ? 0xff : bits >> 8);
        if (i != 0 && &byte == page.bytes().data() + 512) {
          break;  // The rest is as random as it was.
        }
      }
      page->exit_reason = static_cast<std::uint32_t>(i % 10 == 9 ? random() : random() % 46);
      if (random() % 2 == 0) {
        page->io.data_offset = random() % (page.size() + 64);
        page->io.count = static_cast<std::uint32_t>(random() % 5000);
        page->mmio.len = static_cast<std::uint32_t>(random() % 10);
      }
      static constexpr int errnos[] = {0, EFAULT, EHWPOISON, EINTR, EAGAIN, EIO, EINVAL, ENOMEM};
      const int error_number = random() % 2 == 0 ? 0 : errnos[random() % std::size(errnos)];
      const Exit exit = error_number == 0 ? page.decode() : page.decode_failure(error_number);
      before.assign(page.bytes().begin(), page.bytes().end());
      kvm_test::Toucher toucher(page.bytes());
      exit.visit(toucher);
      ASSERT_EQ(toucher.exits(), 1);
      ASSERT_NE(exit.name(), nullptr);
      ASSERT_TRUE(std::equal(before.begin(), before.end(), page.bytes().begin()))
          << "reason " << page->exit_reason << " errno " << error_number;
    }
  }
}

// The decision is a mask, which numbers from 64 on would wrap around in.
TEST(ExitCompletion, IsForTheExitsThatTakeAnAnswer) {  // R27
  using enum ExitReason;
  std::vector<ExitReason> wanted = {io,     mmio, x86_rdmsr, x86_wrmsr,     xen,
                                    hyperv, tdx,  riscv_sbi, snp_req_certs, riscv_csr};
  if (kvm::host_arch == kvm::Arch::x86) {
    wanted.push_back(hypercall);
  }
  for (const Row& row : rows) {
    EXPECT_EQ(kvm::detail::completes_on_entry(static_cast<std::uint32_t>(row.reason)),
              std::ranges::count(wanted, row.reason) == 1)
        << row.name;
  }
  for (const std::uint32_t high : {0x40u, 0x80000000u, 0x90000000u, 0xa0000000u, 0xffffffc0u}) {
    for (std::uint32_t low = 0; low < 64; ++low) {
      EXPECT_FALSE(kvm::detail::completes_on_entry(high + low)) << high + low;
    }
  }
}

}  // namespace
