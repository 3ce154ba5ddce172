// SPDX-License-Identifier: MIT
// The assertions proper are in the file that generate.awk makes, and hold at compile time. These
// tests see to it that none of them got lost on the way.
#include "facts.hpp"

#include <gtest/gtest.h>

#include <fstream>
#include <string>

#include <kvm/uapi.hpp>

namespace {

std::size_t lines_with(const std::string& file, const std::string& what) {
  std::ifstream stream(std::string(KVM_HPP_SOURCE_DIR) + "/" + file);
  EXPECT_TRUE(stream.is_open()) << file;
  std::size_t count = 0;
  for (std::string line; std::getline(stream, line);) count += line.find(what) != line.npos ? 1 : 0;
  return count;
}

TEST(Facts, EveryRequestIsTheTables) {
  const std::size_t expected = kvm::uapi::per_arch<std::size_t>(133, 87, 79);
  EXPECT_EQ(facts::requests().size(), expected);
  for (const facts::Fact& fact : facts::requests()) EXPECT_EQ(fact.ours, fact.table) << fact.name;
}

TEST(Facts, TheHeaderDeclaresNoRequestThatTheTableLacks) {
  EXPECT_EQ(lines_with("include/kvm/uapi/requests.hpp", "inline constexpr Request<"), 138U);
}

TEST(Facts, EveryExitReasonIsTheTables) {
  EXPECT_EQ(facts::exits().size(), 44U);
  for (const facts::Fact& fact : facts::exits()) EXPECT_EQ(fact.ours, fact.table) << fact.name;
  EXPECT_EQ(lines_with("include/kvm/uapi/exit_reasons.hpp", "case ExitReason::"), 44U);
}

TEST(Facts, EveryCapabilityNumberIsTheTables) {
  const std::size_t declared =
      lines_with("include/kvm/uapi/capabilities.hpp", "inline constexpr unsigned ");
  EXPECT_GT(declared, 200U);
  EXPECT_EQ(facts::capabilities().size(), declared);
  for (const facts::Fact& fact : facts::capabilities()) {
    EXPECT_EQ(fact.ours, fact.table) << fact.name;
  }
}

TEST(Facts, EveryConstantIsComparedWithTheHeader) {
  const std::size_t compared = lines_with("tests/facts/constants.tsv", "::");
  EXPECT_EQ(compared, lines_with("include/kvm/uapi/constants.hpp", "inline constexpr "));
}

TEST(Facts, AnUnknownExitReasonHasNoName) {
  using kvm::uapi::ExitReason;
  EXPECT_STREQ(name(ExitReason::io), "KVM_EXIT_IO");
  EXPECT_EQ(name(static_cast<ExitReason>(44)), nullptr);
  EXPECT_EQ(name(static_cast<ExitReason>(0xffffffff)), nullptr);
}

TEST(Facts, TheSizeOfAFlexibleStructCountsFromItsArray) {
  EXPECT_EQ(kvm::uapi::flexible_size<kvm::uapi::kvm_signal_mask>(8), 12U);
  EXPECT_EQ(kvm::uapi::flexible_size<kvm::uapi::kvm_reg_list>(3), 32U);
  EXPECT_EQ(kvm::uapi::flexible_size<kvm::uapi::kvm_irq_routing>(2), 104U);
#if KVM_HPP_ARCH_X86
  EXPECT_EQ(kvm::uapi::flexible_size<kvm::uapi::kvm_cpuid2>(1), 48U);
  EXPECT_EQ(kvm::uapi::flexible_size<kvm::uapi::kvm_msr_list>(2), 12U);
  EXPECT_EQ(kvm::uapi::flexible_size<kvm::uapi::kvm_xsave>(0), 4096U);
#endif
}

}  // namespace
