// SPDX-License-Identifier: MIT
// CPUID tables and MSR lists of the host, and what a guest gets of them.
// needs: x86
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include <kvm/kvm.hpp>

#include "support/guest.hpp"
#include "support/require.hpp"

namespace {

using kvm::x86::Cpuid;
using kvm_test::Guest;

template <class T>
void expect_error(const kvm::Result<T>& result, int error_number, const std::string& words) {
  ASSERT_FALSE(result.has_value()) << "expected: " << words;
  EXPECT_EQ(result.error().error_number(), error_number) << result.error().what();
  EXPECT_NE(std::string(result.error().what()).find(words), std::string::npos)
      << result.error().what();
}

constexpr std::uint32_t our_leaf = 0x40000010;

/// CPUID with EAX = our_leaf, then EAX to port 0x10.
Guest asking_guest() {
  return Guest::long_mode({0xb8, 0x10, 0, 0, 0x40, 0x0f, 0xa2, 0xe7, 0x10}, 0);
}

Cpuid with_our_leaf(const kvm::System& system, std::uint32_t eax) {
  Cpuid table = system.supported_cpuid();
  Cpuid::Entry entry{};
  entry.function = our_leaf;
  entry.eax = eax;
  table.set(entry);
  return table;
}

std::uint32_t run_to_out(kvm::Vcpu& vcpu) {
  std::uint32_t value = 0;
  const kvm::Exit exit = vcpu.run();
  exit.visit(
      [&](kvm::exits::IoOut io) {
        ASSERT_EQ(io.data.size(), 4u);
        std::memcpy(&value, io.data.data(), 4);
      },
      [&](const auto&) { ADD_FAILURE() << "unexpected exit " << exit.name(); });
  return value;
}

TEST(SystemCpuid, SupportedTable) {
  const kvm::System system;
  const Cpuid table = system.supported_cpuid();
  ASSERT_NE(table.find(0), nullptr);
  EXPECT_GE(table.find(0)->eax, 1u);
  // KVM's own leaf says "KVMKVMKVM\0\0\0".
  ASSERT_NE(table.find(0x40000000), nullptr);
  EXPECT_EQ(table.find(0x40000000)->ebx, 0x4b4d564bu);
}

TEST(SystemCpuid, EmulatedTable) {
  const kvm::System system;
  KVM_REQUIRE(system, kvm::cap::ExtEmulCpuid);
  EXPECT_FALSE(system.emulated_cpuid().empty());
}

TEST(SystemCpuid, HypervTable) {
  const kvm::System system;
  if (!kvm_test::offers<kvm::cap::SysHypervCpuid>(system)) {
    expect_error(system.try_supported_hv_cpuid(), EINVAL, "no Hyper-V support");
  }
  KVM_REQUIRE(system, kvm::cap::SysHypervCpuid);
  EXPECT_NE(system.supported_hv_cpuid().find(0x40000000), nullptr);
}

TEST(SystemMsrs, IndexLists) {  // R80
  const kvm::System system;
  const auto list = system.msr_index_list();
  EXPECT_NE(std::find(list.begin(), list.end(), 0x174u), list.end());
  EXPECT_NE(std::find(list.begin(), list.end(), 0x10u), list.end());
  EXPECT_EQ(std::find(list.begin(), list.end(), 0u), list.end()) << "an entry was not filled";
}

TEST(SystemMsrs, FeaturesAndPartialCounts) {
  const kvm::System system;
  KVM_REQUIRE(system, kvm::cap::GetMsrFeatures);
  const auto list = system.msr_feature_index_list();
  ASSERT_FALSE(list.empty());
  std::vector<kvm::uapi::kvm_msr_entry> msrs;
  for (const auto index : list) {
    msrs.push_back({.index = index, .reserved = 0, .data = 0xdead});
  }
  EXPECT_EQ(system.get_msrs(msrs), msrs.size());
  EXPECT_TRUE(std::all_of(msrs.begin(), msrs.end(), [](auto& msr) { return msr.data != 0xdead; }));
  msrs.insert(msrs.begin() + 1, {.index = 0x12345, .reserved = 0, .data = 0});
  EXPECT_EQ(system.get_msrs(msrs), 1u);
}

TEST(SystemMce, Supported) {
  const kvm::System system;
  KVM_REQUIRE(system, kvm::cap::Mce);
  EXPECT_NE(system.mce_cap_supported(), 0u);
}

TEST(VcpuCpuid, ReachesTheGuestAndComesBack) {
  auto guest = asking_guest();
  const Cpuid table = with_our_leaf(guest.system, 0x1234567);
  guest.vcpu.set_cpuid2(table);
  EXPECT_EQ(run_to_out(guest.vcpu), 0x1234567u);
  const Cpuid back = guest.vcpu.get_cpuid2();
  // Not all of it: some KVMs leave out leaves that they list as supported.
  ASSERT_NE(back.find(0), nullptr);
  EXPECT_EQ(back.find(0)->ebx, table.find(0)->ebx);
  ASSERT_NE(back.find(our_leaf), nullptr);
  EXPECT_EQ(back.find(our_leaf)->eax, 0x1234567u);
}

TEST(VcpuCpuid, AfterRunningOnlyTheSameTableIsTaken) {  // R81
  auto guest = asking_guest();
  guest.vcpu.set_cpuid2(with_our_leaf(guest.system, 1));
  run_to_out(guest.vcpu);
  ASSERT_FALSE(guest.vcpu.complete().has_value());
  guest.vcpu.set_cpuid2(guest.vcpu.get_cpuid2());
  Cpuid other = guest.vcpu.get_cpuid2();
  other.find(our_leaf)->eax = 2;
  // Before Linux 5.16 it takes another table at any time.
  if (const auto changed = guest.vcpu.try_set_cpuid2(other); !changed) {
    expect_error(changed, EINVAL, "once the vCPU has run");
  }
}

TEST(VcpuCpuid, TooManyEntriesAreRefused) {  // R81
  auto guest = asking_guest();
  std::vector<Cpuid::Entry> entries(257);
  for (std::uint32_t i = 0; i < 257; ++i) {
    entries[i] = {};
    entries[i].function = 0x50000000 + i;
  }
  expect_error(guest.vcpu.try_set_cpuid2(Cpuid(entries)), E2BIG, "at most 256 entries");
  entries.pop_back();
  guest.vcpu.set_cpuid2(Cpuid(entries));
  EXPECT_EQ(guest.vcpu.get_cpuid2().size(), 256u) << "the first buffer holds 128";
  EXPECT_EQ(guest.vcpu.get_cpuid2().find(0x500000ff)->function, 0x500000ffu);
  guest.vcpu.set_cpuid2({});
  EXPECT_TRUE(guest.vcpu.get_cpuid2().empty());
}

TEST(VcpuCpuid, HypervTable) {
  auto guest = asking_guest();
  if (!kvm_test::offers<kvm::cap::HypervCpuid>(guest.vm)) {
    expect_error(guest.vcpu.try_supported_hv_cpuid(), EINVAL, "no Hyper-V support");
  }
  KVM_REQUIRE(guest.vm, kvm::cap::HypervCpuid);
  EXPECT_NE(guest.vcpu.supported_hv_cpuid().find(0x40000000), nullptr);
}

}  // namespace
