// SPDX-License-Identifier: MIT
// needs: x86
// The code of docs/guides/capabilities.md.
#include <kvm/kvm.hpp>

#include <gtest/gtest.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <string>
#include <type_traits>

#include "support/require.hpp"

namespace {

TEST(CapabilitiesGuide, Check) {
  kvm::System system;
  kvm::Vm vm = system.create_vm();
  //! [check]
  namespace cap = kvm::cap;

  std::uint32_t slots = vm.check<cap::NrMemslots>();                       // a number
  bool resample = vm.check<cap::IrqfdResample>();                          // yes or no
  kvm::Flags<cap::DisabledExit> exits = vm.check<cap::X86DisableExits>();  // a set of bits
  if (exits & cap::DisabledExit::hlt) {
    // this host lets guests halt without an exit
  }
  //! [check]
  EXPECT_GT(slots, 0u);
  EXPECT_EQ(vm.check_raw(kvm::uapi::cap::irqfd_resample) > 0, resample);
  EXPECT_EQ(exits.raw(), static_cast<unsigned>(vm.check_raw(kvm::uapi::cap::x86_disable_exits)));

  //! [list]
  std::string table;
  kvm::for_each_capability([&]<class C>(std::type_identity<C>) {
    table += std::string(C::info.name) + ": " + cap::to_string(vm.check<C>()) + '\n';
  });
  //! [list]
  EXPECT_NE(table.find("KVM_CAP_NR_MEMSLOTS: " + std::to_string(slots)), std::string::npos);
}

TEST(CapabilitiesGuide, Enable) {
  kvm::System system;
  kvm::Vm vm = system.create_vm();
  namespace cap = kvm::cap;
  KVM_REQUIRE(vm, cap::X86DisableExits);
  KVM_REQUIRE(vm, cap::HaltPoll);
  const bool hlt = vm.check<cap::X86DisableExits>().contains(cap::DisabledExit::hlt);
  //! [enable]
  vm.enable(cap::HaltPoll{.max_ns = 200'000});

  // Where it may be missing, or too late: the Result says so, and in words.
  kvm::Result<void> idle = vm.try_enable(cap::X86DisableExits{.exits = cap::DisabledExit::hlt});
  if (!idle) std::fprintf(stderr, "no idling without exits: %s\n", idle.error().what());
  //! [enable]
  EXPECT_EQ(idle.has_value(), hlt);

  //! [raw]
  constexpr unsigned newer_than_this_library = 9999;
  int offered = vm.check_raw(newer_than_this_library);  // 0: KVM does not know it
  kvm::Result<void> enabled = vm.try_enable_raw(newer_than_this_library, {1, 0, 0, 0});
  //! [raw]
  EXPECT_EQ(offered, 0);
  ASSERT_FALSE(enabled);
  EXPECT_EQ(enabled.error().error_number(), EINVAL);
}

}  // namespace
