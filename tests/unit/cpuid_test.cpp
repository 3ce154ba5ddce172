// SPDX-License-Identifier: MIT
// The value types for CPUID tables, extended and nested state, MSRs; register ids.
#include <gtest/gtest.h>

#include <kvm/detail/config.hpp>
#if KVM_HPP_ARCH_X86

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <kvm/x86/cpuid.hpp>
#include <kvm/x86/msr.hpp>
#include <kvm/x86/nested_state.hpp>
#include <kvm/x86/xsave.hpp>

namespace {

namespace uapi = kvm::uapi;
using kvm::x86::Cpuid;
using kvm::x86::CpuidBit;
using kvm::x86::CpuidRegister;

Cpuid::Entry leaf(std::uint32_t function, std::uint32_t eax) {
  Cpuid::Entry entry{};
  entry.function = function;
  entry.eax = eax;
  return entry;
}
Cpuid::Entry subleaf(std::uint32_t function, std::uint32_t index, std::uint32_t eax) {
  Cpuid::Entry entry = leaf(function, eax);
  entry.index = index;
  entry.flags = uapi::cpuid_flag::significant_index;
  return entry;
}

TEST(CpuidTable, FindsByFunctionAndIndex) {
  Cpuid table;
  EXPECT_EQ(table.find(1), nullptr);
  table.set(leaf(1, 11));
  table.set(subleaf(7, 0, 70));
  table.set(subleaf(7, 1, 71));
  EXPECT_EQ(table.find(1)->eax, 11u);
  EXPECT_EQ(table.find(1, 99)->eax, 11u) << "function 1 ignores the index";
  EXPECT_EQ(table.find(7)->eax, 70u);
  EXPECT_EQ(table.find(7, 1)->eax, 71u);
  EXPECT_EQ(table.find(7, 2), nullptr);
  table.find(7, 1)->eax = 5;
  EXPECT_EQ(std::as_const(table).find(7, 1)->eax, 5u);
}

TEST(CpuidTable, SetReplacesWhatAnswersTheSame) {
  Cpuid table;
  table.set(leaf(1, 1));
  table.set(leaf(1, 2));
  EXPECT_EQ(table.size(), 1u);
  EXPECT_EQ(table.find(1)->eax, 2u);
  table.set(subleaf(7, 0, 70));
  table.set(subleaf(7, 1, 71));
  table.set(subleaf(7, 1, 72));
  EXPECT_EQ(table.size(), 3u);
  EXPECT_EQ(table.find(7, 0)->eax, 70u);
  EXPECT_EQ(table.find(7, 1)->eax, 72u);
  table.set(leaf(7, 9));  // No longer by index: it answers for all.
  EXPECT_EQ(table.size(), 2u);
  EXPECT_EQ(table.find(7, 1)->eax, 9u);
}

TEST(CpuidTable, Removes) {
  Cpuid table;
  table.set(leaf(1, 1));
  table.set(subleaf(7, 0, 70));
  table.set(subleaf(7, 1, 71));
  EXPECT_EQ(table.remove(7, 1), 1u);
  EXPECT_EQ(table.remove(7, 1), 0u);
  EXPECT_NE(table.find(7, 0), nullptr);
  EXPECT_EQ(table.remove(7), 1u);
  EXPECT_EQ(table.remove(7), 0u);
  EXPECT_EQ(table.size(), 1u);
}

TEST(CpuidTable, SetsAndClearsBitsOfEachRegister) {
  Cpuid table;
  table.set(subleaf(7, 1, 0));
  int number = 0;
  for (const auto reg :
       {CpuidRegister::eax, CpuidRegister::ebx, CpuidRegister::ecx, CpuidRegister::edx}) {
    const CpuidBit bit{.function = 7, .index = 1, .reg = reg, .bit = 31};
    EXPECT_FALSE(table.test_bit(bit));
    EXPECT_TRUE(table.set_bit(bit));
    EXPECT_TRUE(table.test_bit(bit));
    const auto& entry = *table.find(7, 1);
    const std::array values{entry.eax, entry.ebx, entry.ecx, entry.edx};
    for (int i = 0; i < 4; ++i) {
      EXPECT_EQ(values[static_cast<std::size_t>(i)], i == number ? 0x80000000u : 0u);
    }
    EXPECT_TRUE(table.clear_bit(bit));
    EXPECT_FALSE(table.test_bit(bit));
    ++number;
  }
  EXPECT_FALSE(table.set_bit({.function = 8, .index = 0, .reg = CpuidRegister::eax, .bit = 0}));
  EXPECT_FALSE(table.set_bit({.function = 7, .index = 1, .reg = CpuidRegister::eax, .bit = 32}));
  EXPECT_FALSE(table.test_bit({.function = 7, .index = 1, .reg = CpuidRegister::eax, .bit = 32}));
}

TEST(CpuidTable, ComparesWithoutPadding) {
  Cpuid a;
  a.set(leaf(1, 1));
  Cpuid b = a;
  b.find(1)->padding[0] = 7;
  EXPECT_TRUE(a == b);
  b.find(1)->edx = 7;
  EXPECT_FALSE(a == b);
  b = a;
  b.set(leaf(2, 1));
  EXPECT_FALSE(a == b);
}

kvm::Error any_error(int error_number) {
  return kvm::Error(error_number, "KVM_TEST", "KVM_TEST()");
}

TEST(CpuidFetch, GrowsUntilItFits) {  // R80: E2BIG does not say how much is needed
  std::vector<std::uint32_t> rooms;
  const auto table = kvm::detail::fetch_cpuid(
      [&](void* buffer) {
        uapi::kvm_cpuid2 header;
        std::memcpy(&header, buffer, sizeof header);
        rooms.push_back(header.nent);
        if (header.nent < 300) {
          errno = E2BIG;
          return -1;
        }
        header.nent = 300;
        std::memcpy(buffer, &header, sizeof header);
        const auto last = leaf(299, 42);
        std::memcpy(static_cast<char*>(buffer) + uapi::kvm_cpuid2::array_offset + 299 * sizeof last,
                    &last, sizeof last);
        return 0;
      },
      any_error);
  ASSERT_TRUE(table.has_value());
  EXPECT_EQ(rooms, (std::vector<std::uint32_t>{128, 256, 512}));
  EXPECT_EQ(table->size(), 300u);
  EXPECT_EQ(table->find(299)->eax, 42u);
}

TEST(CpuidFetch, GivesUp) {
  int calls = 0;
  const auto never = kvm::detail::fetch_cpuid(
      [&](void*) {
        ++calls;
        errno = E2BIG;
        return -1;
      },
      any_error);
  ASSERT_FALSE(never.has_value());
  EXPECT_EQ(never.error().error_number(), E2BIG);
  EXPECT_LT(calls, 20);
  const auto refused = kvm::detail::fetch_cpuid(
      [&](void*) {
        errno = EINVAL;
        return -1;
      },
      any_error);
  EXPECT_EQ(refused.error().error_number(), EINVAL);
}

TEST(MsrListFetch, TakesTheCountThatComesBack) {  // R80
  int calls = 0;
  auto list = kvm::detail::fetch_msr_list(
      [&](std::uint32_t* data) {
        ++calls;
        const std::uint32_t room = data[0];
        data[0] = 3;
        if (room < 3) {
          errno = E2BIG;
          return -1;
        }
        data[1] = 10, data[2] = 20, data[3] = 30;
        return 0;
      },
      any_error);
  EXPECT_EQ(calls, 2);
  EXPECT_EQ(*list, (std::vector<std::uint32_t>{10, 20, 30}));
  list = kvm::detail::fetch_msr_list(
      [&](std::uint32_t* data) {
        if (std::exchange(data[0], 5) < 5) {
          errno = E2BIG;
          return -1;
        }
        data[0] = 1, data[1] = 40;  // fewer than it said before
        return 0;
      },
      any_error);
  EXPECT_EQ(*list, (std::vector<std::uint32_t>{40}));
  list = kvm::detail::fetch_msr_list(
      [&](std::uint32_t*) {
        errno = E2BIG;  // without a larger count: no reason to try again
        return -1;
      },
      any_error);
  EXPECT_EQ(list.error().error_number(), E2BIG);
}

TEST(MsrTransfer, GoesInBlocksAndStopsAtTheFirstRefused) {  // R80
  std::vector<uapi::kvm_msr_entry> msrs(520, {.index = 1, .reserved = 0, .data = 0});
  std::vector<std::uint32_t> blocks;
  std::size_t refuse_at = 1000;
  const auto send = [&](void* data) {
    auto& block = *static_cast<kvm::detail::MsrBlock<255>*>(data);
    const std::size_t before = blocks.size() * 255;
    blocks.push_back(block.header.nmsrs);
    int done = 0;
    for (std::uint32_t i = 0; i < block.header.nmsrs && before + i < refuse_at; ++i, ++done) {
      block.entries[i].data = before + i;
    }
    return done;
  };
  auto transfer = kvm::detail::transfer_msrs(std::span(msrs), send);
  EXPECT_EQ(transfer.done, 520u);
  EXPECT_FALSE(transfer.failed);
  EXPECT_EQ(blocks, (std::vector<std::uint32_t>{255, 255, 10}));
  EXPECT_EQ(msrs[519].data, 519u);
  blocks.clear();
  refuse_at = 255;
  EXPECT_EQ(kvm::detail::transfer_msrs(std::span(msrs), send).done, 255u);
  EXPECT_EQ(blocks.size(), 2u);
  const auto failing = [&](void*) {
    errno = ENOMEM;
    return -1;
  };
  EXPECT_TRUE(kvm::detail::transfer_msrs(std::span(msrs), failing).failed);
}

TEST(MsrFilter, SaysWhatIsWrong) {  // R83
  using kvm::detail::msr_filter_problem;
  using kvm::x86::MsrFilterDefault;
  using kvm::x86::MsrFilterRange;
  const std::array<std::uint64_t, 2> bits{};
  const auto problem = [&](MsrFilterRange range) {
    return msr_filter_problem(std::span(&range, 1), MsrFilterDefault::allow);
  };
  EXPECT_EQ(problem({.base = 0x10, .count = 128, .allowed = bits}), "");
  EXPECT_EQ(problem({.base = 0x10, .count = 129, .allowed = bits}),
            "the range at 0x10 is about 129 MSRs, its bitmap about 128");
  EXPECT_NE(problem({.accesses = 0, .count = 1, .allowed = bits}).find("reads, writes"),
            std::string::npos);
  EXPECT_NE(problem({.accesses = 4, .count = 1, .allowed = bits}).find("reads, writes"),
            std::string::npos);
  const std::vector<std::uint64_t> many(200);
  EXPECT_EQ(problem({.count = 12288, .allowed = many}), "");
  EXPECT_NE(problem({.count = 12289, .allowed = many}).find("more than 12288"), std::string::npos);
  EXPECT_EQ(msr_filter_problem({}, MsrFilterDefault::allow), "");
  EXPECT_NE(msr_filter_problem({}, MsrFilterDefault::deny).find("at least one range"),
            std::string::npos);
  const std::vector<MsrFilterRange> ranges(17, {.count = 1, .allowed = bits});
  EXPECT_EQ(msr_filter_problem(std::span(ranges).first(16), MsrFilterDefault::deny), "");
  EXPECT_NE(msr_filter_problem(ranges, MsrFilterDefault::deny).find("at most 16 ranges"),
            std::string::npos);
}

TEST(CpuidTable, IsARangeThatCanBeChanged) {
  Cpuid table(std::vector{leaf(0, 1), subleaf(4, 1, 2)});
  for (Cpuid::Entry& entry : table) {
    entry.eax += 10;
  }
  EXPECT_EQ(table.entries()[0].eax, 11u);
  table.entries()[1].eax = 7;
  const Cpuid& same = table;
  EXPECT_EQ(same.entries().data(), table.entries().data());
  std::uint32_t sum = 0;
  for (const Cpuid::Entry& entry : same) {
    sum += entry.eax;
  }
  EXPECT_EQ(sum, 18u);
}

TEST(CpuidBits, AreTheSameOnlyInAllParts) {
  const CpuidBit bit{.function = 7, .index = 1, .reg = CpuidRegister::ebx, .bit = 3};
  EXPECT_EQ(bit, (CpuidBit{.function = 7, .index = 1, .reg = CpuidRegister::ebx, .bit = 3}));
  EXPECT_NE(bit, (CpuidBit{.function = 6, .index = 1, .reg = CpuidRegister::ebx, .bit = 3}));
  EXPECT_NE(bit, (CpuidBit{.function = 7, .index = 0, .reg = CpuidRegister::ebx, .bit = 3}));
  EXPECT_NE(bit, (CpuidBit{.function = 7, .index = 1, .reg = CpuidRegister::ecx, .bit = 3}));
  EXPECT_NE(bit, (CpuidBit{.function = 7, .index = 1, .reg = CpuidRegister::ebx, .bit = 4}));
}

TEST(XsaveValue, NamesPartsOnlyWhereTheyAre) {
  kvm::x86::Xsave empty;
  EXPECT_EQ(empty.size(), 0u);
  EXPECT_EQ(empty.components(), 0u);
  empty.set_components(7);
  EXPECT_TRUE(empty.xmm(0).empty());
  kvm::x86::Xsave state(4096);
  state.set_components(6);
  EXPECT_EQ(state.components(), 6u);
  EXPECT_EQ(state.bytes()[512], std::byte{6});
  ASSERT_EQ(state.xmm(15).size(), 16u);
  EXPECT_EQ(state.xmm(15).data(), state.bytes().data() + 400);
  EXPECT_TRUE(state.xmm(16).empty());
  EXPECT_EQ(std::as_const(state).xmm(15).data(), state.xmm(15).data());
  EXPECT_TRUE(std::as_const(state).xmm(16).empty());
}

TEST(NestedStateValue, HeaderSaysItsSize) {
  EXPECT_TRUE(kvm::x86::NestedState().empty());
  EXPECT_EQ(kvm::x86::NestedState(0).size(), 128u);
  kvm::x86::NestedState state(8320);
  EXPECT_EQ(state.header().size, 8320u);
  auto header = state.header();
  header.flags = 1;
  state.set_header(header);
  EXPECT_EQ(state.header().flags, 1u);
  EXPECT_EQ(std::as_const(state).bytes().data(), state.bytes().data());
  EXPECT_EQ(std::as_const(state).bytes().size(), 8320u);
}

}  // namespace

#endif
