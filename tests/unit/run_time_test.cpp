// SPDX-License-Identifier: MIT
// What the library has the compiler evaluate, called by the running program.
#include <kvm/kvm.hpp>

#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <set>
#include <string>

#include <gtest/gtest.h>

namespace {

namespace cap = kvm::cap;
namespace exits = kvm::exits;
namespace uapi = kvm::uapi;
using kvm::Arch;
using kvm::Arches;
using kvm::detail::EnableScope;
using kvm::detail::HandlerSet;
using kvm::detail::TypeList;

/// Each bit of a set has one name, by which to_string() calls it.
template <class Bit>
void expect_names(Bit any) {
  std::uint64_t bits = 0;
  std::set<std::string> texts;
  for (const auto& [bit, text] : flag_names(any)) {
    SCOPED_TRACE(text);
    const auto number = static_cast<std::uint64_t>(bit);
    EXPECT_TRUE(std::has_single_bit(number)) << number;
    EXPECT_EQ(bits & number, 0u) << "named twice";
    bits |= number;
    EXPECT_TRUE(texts.insert(text).second) << "two bits have this name";
    EXPECT_EQ(kvm::to_string(kvm::Flags<Bit>(bit)), text);
  }
  EXPECT_NE(bits, 0u);
}

TEST(RunTime, EachFlagHasAName) {
  expect_names(cap::GuestDebugFlag{});
  expect_names(cap::ManualDirtyLogFlag{});
  expect_names(cap::GuestMemfdFlag{});
  expect_names(cap::XenFlag{});
  expect_names(cap::ClockFlag{});
  expect_names(cap::SyncRegsFlag{});
  expect_names(cap::Quirk{});
  expect_names(cap::X2ApicFlag{});
  expect_names(cap::DisabledExit{});
  expect_names(cap::MsrExitReason{});
  expect_names(cap::BusLockDetection{});
  expect_names(cap::Hypercall{});
  expect_names(cap::PmuFlag{});
  expect_names(cap::MemoryAttribute{});
  expect_names(cap::VmTypeBit{});
  expect_names(cap::RegMaskRange{});
}

TEST(RunTime, ValuesAsText) {
  EXPECT_EQ(cap::to_string(true), "yes");
  EXPECT_EQ(cap::to_string(std::uint32_t{42}), "42");
  EXPECT_EQ(cap::to_string(std::uint64_t{1} << 40), "1099511627776");
}

TEST(RunTime, SetsOfArchitectures) {
  Arch first = Arch::x86;
  Arch second = Arch::riscv;
  const Arches both = first | second;
  EXPECT_TRUE(both.contains(Arch::x86));
  EXPECT_FALSE(both.contains(Arch::arm64));
  EXPECT_TRUE(both.contains(Arch::riscv));
  EXPECT_FALSE(both.empty());
  EXPECT_TRUE(Arches().empty());
  EXPECT_TRUE((both | Arches(Arch::arm64)) == kvm::all_arches);
  EXPECT_FALSE(both == Arches(first));
}

TEST(RunTime, SetsOfScopes) {
  uapi::Scope first = uapi::Scope::vm;
  uapi::Scope second = uapi::Scope::device;
  const uapi::Scopes both = first | second;
  EXPECT_TRUE(both.contains(uapi::Scope::vm));
  EXPECT_FALSE(both.contains(uapi::Scope::vcpu));
  EXPECT_TRUE(both.contains(uapi::Scope::device));
  const uapi::Scopes three = both | uapi::Scopes(uapi::Scope::system);
  EXPECT_TRUE(three.contains(uapi::Scope::system));
  EXPECT_EQ(three.bits, 11u);
}

TEST(RunTime, ScopesThatEnable) {
  EXPECT_EQ(kvm::detail::enable_scope(uapi::Scope::vm), EnableScope::vm);
  EXPECT_EQ(kvm::detail::enable_scope(uapi::Scope::vcpu), EnableScope::vcpu);
  EXPECT_EQ(kvm::detail::enable_scope(uapi::Scope::system), EnableScope::none);
}

TEST(RunTime, TheHandlerOfAnExit) {
  const auto read = [](exits::MmioRead) { return 1; };
  const auto rest = [](auto&&) { return 2; };
  using Exits = TypeList<exits::MmioRead, exits::MmioWrite>;
  using Both = HandlerSet<Exits, decltype(read), decltype(rest)>;
  using One = HandlerSet<Exits, decltype(read)>;

  const bool second_place[] = {false, true, true};
  EXPECT_EQ(Both::first(second_place), std::size_t{1});
  EXPECT_EQ(Both::or_catch_all(0), std::size_t{0});
  EXPECT_EQ(Both::or_catch_all(2), std::size_t{1}) << "the generic one";
  EXPECT_EQ(One::or_catch_all(1), std::size_t{1}) << "none";
  EXPECT_TRUE(Both::handled<exits::MmioRead>());
  EXPECT_TRUE(Both::handled<exits::MmioWrite>());
  EXPECT_TRUE(One::handled<exits::MmioRead>());
  EXPECT_FALSE(One::handled<exits::MmioWrite>());
  EXPECT_TRUE(Both::find_valid());
  EXPECT_FALSE(One::find_valid());
  EXPECT_FALSE(HandlerSet<Exits>::find_valid());
  const auto found = Both::find_result();
  EXPECT_TRUE((std::same_as<decltype(found)::type, int>));
  const auto missing = One::find_result();
  EXPECT_TRUE((std::same_as<decltype(missing), const One::NoCommonResult>));
}

}  // namespace
