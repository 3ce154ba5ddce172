// SPDX-License-Identifier: MIT
// Which handler of a visit is called: rules that hold at compile time, seen at
// run time.
#include "support/run_page.hpp"

#include <kvm/exit.hpp>

#include <array>
#include <cerrno>
#include <concepts>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>

#include <gtest/gtest.h>

namespace {

namespace exits = kvm::exits;
using kvm::Exit;
using kvm::uapi::ExitReason;
using kvm_test::RunPage;

/// Exits that every architecture has.
class Visit : public testing::Test {
 protected:
  Exit full() { return page_.decode(ExitReason::dirty_ring_full); }
  Exit mmio_read() {
    page_->mmio = {.phys_addr = 0x1000, .data = {1, 2, 3, 4}, .len = 4, .is_write = 0};
    return page_.decode(ExitReason::mmio);
  }
  Exit mmio_write() {
    page_->mmio = {.phys_addr = 0x2000, .data = {1, 2, 3, 4}, .len = 4, .is_write = 1};
    return page_.decode(ExitReason::mmio);
  }
  Exit event() {
    page_->system_event.type = 3;
    page_->system_event.ndata = 0;
    return page_.decode(ExitReason::system_event);
  }

  RunPage page_;
};

TEST_F(Visit, ASpecificHandlerGoesBeforeTheGenericOneHoweverItTakesItsParameter) {
  const auto other = [](auto&&) { return 0; };
  const Exit exit = mmio_read();
  EXPECT_EQ(exit.visit([](exits::MmioRead) { return 1; }, other), 1);
  EXPECT_EQ(exit.visit([](const exits::MmioRead) { return 1; }, other), 1);
  EXPECT_EQ(exit.visit([](exits::MmioRead&) { return 1; }, other), 1);
  EXPECT_EQ(exit.visit([](const exits::MmioRead&) { return 1; }, other), 1);
  EXPECT_EQ(exit.visit([](exits::MmioRead&&) { return 1; }, other), 1);
  EXPECT_EQ(exit.visit([](const exits::MmioRead&&) { return 1; }, other), 1);
  // Whatever their order.
  EXPECT_EQ(exit.visit(other, [](exits::MmioRead) { return 1; }), 1);
  EXPECT_EQ(exit.visit(other, [](const exits::MmioRead&) { return 1; }), 1);
  EXPECT_EQ(exit.visit(other, [](exits::MmioRead&&) { return 1; }), 1);
  // And not for another exit.
  EXPECT_EQ(exit.visit([](const exits::MmioWrite&) { return 1; }, other), 0);
}

TEST_F(Visit, TheGenericHandlerTakesAllTheRestHoweverItTakesThem) {
  const Exit exit = full();
  const auto specific = [](exits::MmioRead) { return 0; };
  EXPECT_EQ(exit.visit(specific, [](auto&&) { return 1; }), 1);
  EXPECT_EQ(exit.visit(specific, [](auto) { return 1; }), 1);
  EXPECT_EQ(exit.visit(specific, [](const auto&) { return 1; }), 1);
  EXPECT_EQ(exit.visit(specific, [](auto&) { return 1; }), 1);
  EXPECT_EQ(exit.visit(specific, [](auto&&...) { return 1; }), 1);
  EXPECT_EQ(exit.visit(specific, []<class E>(E&&) noexcept { return 1; }), 1);
  EXPECT_EQ(exit.visit([](auto&&) { return 1; }), 1);
}

TEST_F(Visit, TheGenericHandlerKnowsTheType) {
  const auto is_full = [](auto&& exit) {
    return std::same_as<std::remove_cvref_t<decltype(exit)>, exits::DirtyRingFull>;
  };
  EXPECT_TRUE(full().visit(is_full));
  EXPECT_FALSE(mmio_read().visit(is_full));
}

TEST_F(Visit, OneHandlerIsCalledOnce) {
  int reads = 0;
  int writes = 0;
  int others = 0;
  const auto visit = [&](const Exit& exit) {
    exit.visit([&](exits::MmioRead) { ++reads; }, [&](exits::MmioWrite) { ++writes; },
               [&](auto&&) { ++others; });
  };
  visit(mmio_read());
  EXPECT_EQ((std::array{reads, writes, others}), (std::array{1, 0, 0}));
  visit(mmio_write());
  EXPECT_EQ((std::array{reads, writes, others}), (std::array{1, 1, 0}));
  visit(full());
  EXPECT_EQ((std::array{reads, writes, others}), (std::array{1, 1, 1}));
  visit(page_.decode_failure(EIO));
  EXPECT_EQ((std::array{reads, writes, others}), (std::array{1, 1, 2}));
}

TEST_F(Visit, AnExitCanBeVisitedAgain) {
  const Exit exit = event();
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(
        exit.visit([](exits::SystemEvent seen) { return seen.type; }, [](auto&&) { return 0u; }),
        3u);
  }
}

int count_full(exits::DirtyRingFull) { return 1; }
int count_full_noexcept(const exits::DirtyRingFull&) noexcept { return 1; }

TEST_F(Visit, FunctionsAndPointersToThemAreHandlers) {
  const auto other = [](auto&&) { return 0; };
  const Exit exit = full();
  EXPECT_EQ(exit.visit(count_full, other), 1);
  EXPECT_EQ(exit.visit(&count_full, other), 1);
  EXPECT_EQ(exit.visit(count_full_noexcept, other), 1);
  EXPECT_EQ(exit.visit(&count_full_noexcept, other), 1);
  int (*const pointer)(exits::DirtyRingFull) = count_full;
  EXPECT_EQ(exit.visit(pointer, other), 1);
  EXPECT_EQ(mmio_read().visit(pointer, other), 0);
}

TEST_F(Visit, StdFunctionIsAHandler) {
  int calls = 0;
  const std::function<void(exits::DirtyRingFull)> handler = [&](exits::DirtyRingFull) { ++calls; };
  const std::function<void(const exits::MmioRead&)> reader = [&](const exits::MmioRead& read) {
    calls += static_cast<int>(read.data.size());
  };
  full().visit(handler, reader, [](auto&&) {});
  EXPECT_EQ(calls, 1);
  mmio_read().visit(handler, reader, [](auto&&) {});
  EXPECT_EQ(calls, 5);
}

TEST_F(Visit, NoexceptMutableAndQualifiedHandlers) {
  const auto other = [](auto&&) { return 0; };
  const Exit exit = full();
  EXPECT_EQ(exit.visit([](exits::DirtyRingFull) noexcept { return 1; }, other), 1);
  EXPECT_EQ(exit.visit([n = 0](exits::DirtyRingFull) mutable { return ++n; }, other), 1);
  EXPECT_EQ(exit.visit([n = 0](exits::DirtyRingFull) mutable noexcept { return ++n; }, other), 1);

  struct Lvalue {
    int operator()(exits::DirtyRingFull) & { return 1; }
  };
  struct ConstLvalue {
    int operator()(exits::DirtyRingFull) const& { return 1; }
  };
  struct LvalueNoexcept {
    int operator()(exits::DirtyRingFull) & noexcept { return 1; }
  };
  struct ConstLvalueNoexcept {
    int operator()(exits::DirtyRingFull) const& noexcept { return 1; }
  };
  EXPECT_EQ(exit.visit(Lvalue{}, other), 1);
  EXPECT_EQ(exit.visit(ConstLvalue{}, other), 1);
  EXPECT_EQ(exit.visit(LvalueNoexcept{}, other), 1);
  EXPECT_EQ(exit.visit(ConstLvalueNoexcept{}, other), 1);
  const ConstLvalue constant;
  EXPECT_EQ(exit.visit(constant, other), 1);
}

TEST_F(Visit, AHandlersStateIsTheCallers) {
  auto counter = [n = 0](exits::DirtyRingFull) mutable { return ++n; };
  const auto other = [](auto&&) { return 0; };
  full().visit(counter, other);
  full().visit(counter, other);
  EXPECT_EQ(full().visit(counter, other), 3);  // Not copied by a visit.
}

TEST_F(Visit, HandlersNeedNotBeCopyable) {
  auto owner = std::make_unique<int>(5);
  auto handler = [owner = std::move(owner)](exits::DirtyRingFull) { return *owner; };
  const auto other = [](auto&&) { return 0; };
  EXPECT_EQ(full().visit(handler, other), 5);
  EXPECT_EQ(full().visit(std::move(handler), other), 5);
  EXPECT_EQ(full().visit([p = std::make_unique<int>(6)](exits::DirtyRingFull) { return *p; },
                         [p = std::make_unique<int>(7)](auto&&) { return *p; }),
            6);
}

struct Overloaded {
  std::string operator()(exits::SystemEvent&) const { return "event"; }
  template <class E>
  std::string operator()(E&&) const {
    return "other";
  }
};

TEST_F(Visit, AnOverloadedObjectCanBeForAllTheRest) {
  EXPECT_EQ(event().visit(Overloaded{}), "event");
  EXPECT_EQ(full().visit(Overloaded{}), "other");
  // One that names an exit alone goes first.
  const auto named = [](const exits::SystemEvent&) { return std::string("named"); };
  EXPECT_EQ(event().visit(Overloaded{}, named), "named");
  EXPECT_EQ(full().visit(Overloaded{}, named), "other");
}

template <class E>
concept NotMmio = !std::same_as<std::remove_cvref_t<E>, exits::MmioRead> &&
                  !std::same_as<std::remove_cvref_t<E>, exits::MmioWrite>;

TEST_F(Visit, AConstrainedGenericHandlerLeavesTheOthersToTheirOwn) {
  const auto read = [](exits::MmioRead) { return 1; };
  const auto write = [](exits::MmioWrite) { return 2; };
  const auto rest = [](NotMmio auto&&) { return 3; };
  EXPECT_EQ(mmio_read().visit(read, write, rest), 1);
  EXPECT_EQ(mmio_write().visit(rest, write, read), 2);
  EXPECT_EQ(full().visit(read, rest, write), 3);
}

TEST_F(Visit, ReturnsTheCommonType) {
  const auto other = [](auto&&) { return 0; };
  const auto visited =
      full().visit([](exits::DirtyRingFull) { return std::int64_t{1} << 40; }, other);
  static_assert(std::same_as<decltype(visited), const std::int64_t>);
  EXPECT_EQ(visited, std::int64_t{1} << 40);
  const auto text = mmio_read().visit([](exits::MmioRead) { return "read"; },
                                      [](auto&&) { return std::string("other"); });
  static_assert(std::same_as<decltype(text), const std::string>);
  EXPECT_EQ(text, "read");
  static_assert(std::is_void_v<decltype(full().visit([](auto&&) {}))>);
}

TEST_F(Visit, ReturnsReferencesByValue) {
  int value = 5;
  decltype(auto) copy = full().visit([&](exits::DirtyRingFull) -> int& { return value; },
                                     [&](auto&&) -> int& { return value; });
  static_assert(std::same_as<decltype(copy), int>);
  copy = 6;
  EXPECT_EQ(value, 5);
}

TEST_F(Visit, ReturnsWhatCanOnlyBeMoved) {
  const auto made = full().visit([](exits::DirtyRingFull) { return std::make_unique<int>(9); },
                                 [](auto&&) { return std::unique_ptr<int>(); });
  ASSERT_TRUE(made);
  EXPECT_EQ(*made, 9);
}

TEST_F(Visit, WhatAHandlerWritesThroughAConstReferenceLandsInThePage) {
  mmio_read().visit([](const exits::MmioRead& read) { read.data[0] = std::byte{0x5a}; },
                    [](auto&&) {});
  EXPECT_EQ(page_->mmio.data[0], 0x5a);
}

#if KVM_HPP_ARCH_X86
/// A handler for each exit of x86, and none for the rest.
TEST_F(Visit, NeedsNoGenericHandlerWhereEveryExitHasOne) {
  const auto name = [](const Exit& exit) -> std::string {
    return exit.visit(
        [](exits::Interrupted) { return "Interrupted"; }, [](exits::Failed) { return "Failed"; },
        [](exits::Raw) { return "Raw"; }, [](exits::Unknown) { return "Unknown"; },
        [](exits::Exception) { return "Exception"; }, [](exits::IoIn) { return "IoIn"; },
        [](exits::IoOut) { return "IoOut"; }, [](exits::MmioRead) { return "MmioRead"; },
        [](exits::MmioWrite) { return "MmioWrite"; }, [](exits::Hypercall) { return "Hypercall"; },
        [](exits::Debug) { return "Debug"; }, [](exits::Hlt) { return "Hlt"; },
        [](exits::IrqWindowOpen) { return "IrqWindowOpen"; },
        [](exits::Shutdown) { return "Shutdown"; }, [](exits::FailEntry) { return "FailEntry"; },
        [](exits::SetTpr) { return "SetTpr"; }, [](exits::TprAccess) { return "TprAccess"; },
        [](exits::InternalError) { return "InternalError"; },
        [](exits::SystemEvent) { return "SystemEvent"; },
        [](exits::IoapicEoi) { return "IoapicEoi"; },
        [](exits::HypervSynic) { return "HypervSynic"; },
        [](exits::HypervHypercall) { return "HypervHypercall"; },
        [](exits::HypervSyndbg) { return "HypervSyndbg"; },
        [](exits::X86Rdmsr) { return "X86Rdmsr"; }, [](exits::X86Wrmsr) { return "X86Wrmsr"; },
        [](exits::DirtyRingFull) { return "DirtyRingFull"; },
        [](exits::ApResetHold) { return "ApResetHold"; },
        [](exits::X86BusLock) { return "X86BusLock"; },
        [](exits::XenHypercall) { return "XenHypercall"; }, [](exits::Notify) { return "Notify"; },
        [](exits::MemoryFault) { return "MemoryFault"; }, [](exits::Tdx) { return "Tdx"; },
        [](exits::SnpReqCerts) { return "SnpReqCerts"; });
  };
  EXPECT_EQ(name(full()), "DirtyRingFull");
  EXPECT_EQ(name(mmio_write()), "MmioWrite");
  EXPECT_EQ(name(page_.decode(ExitReason::hlt)), "Hlt");
  EXPECT_EQ(name(page_.decode(ExitReason::arm_sea)), "Raw");
  EXPECT_EQ(name(page_.decode_failure(EINTR)), "Interrupted");
  EXPECT_EQ(name(page_.decode_failure(ENOMEM)), "Failed");
}
#endif

}  // namespace
