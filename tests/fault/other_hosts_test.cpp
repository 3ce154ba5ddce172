// SPDX-License-Identifier: MIT
// What KVM answers on other hosts: here by us, in its stead.
#include "driver.hpp"

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace {

using fault::Call;
using fault::FaultTest;
using fault::Guest;
using fault::Rule;
namespace request = kvm::uapi::request;
namespace number = kvm::uapi::cap;

class OtherHosts : public FaultTest {};

/// KVM_CHECK_EXTENSION says this of a capability.
Rule answers(unsigned capability, long value) {
  return {.matches =
              [=](const Call& call, std::size_t) {
                return call.is_ioctl(request::check_extension.code) && call.argument == capability;
              },
          .times = 1000,
          .result = value};
}
Rule returns(unsigned long code, long value) {
  return {.matches = [=](const Call& call, std::size_t) { return call.is_ioctl(code); },
          .times = 1'000'000,
          .result = value};
}
Rule fails(unsigned long code, int error_number) {
  return {.matches = [=](const Call& call, std::size_t) { return call.is_ioctl(code); },
          .error_number = error_number,
          .times = 1000};
}

/// What `f` returns with KVM changed so.
template <class F>
auto with(std::vector<Rule> rules, F&& f) {
  fault::arm(std::move(rules));
  auto result = f();
  fault::disarm();
  return result;
}

template <class T>
void expect_error(const kvm::Result<T>& result, int error_number, const std::string& words) {
  ASSERT_FALSE(result.has_value()) << "expected: " << words;
  EXPECT_EQ(result.error().error_number(), error_number) << result.error().what();
  EXPECT_NE(std::string(result.error().what()).find(words), std::string::npos)
      << result.error().what();
}

TEST_F(OtherHosts, HaveNoDirtyRings) {
  kvm::Vm vm = kvm::System().create_vm();
  expect_error(
      with({answers(number::dirty_log_ring_acq_rel, 0), answers(number::dirty_log_ring, 0)},
           [&] { return vm.try_track_dirty(kvm::DirtyMode::ring); }),
      EOPNOTSUPP, "no dirty rings");
}

TEST_F(OtherHosts, LackAKindOfDevice) {
  Guest guest = fault::make_guest();
  const auto has = with({fails(request::create_device.code, ENODEV)},
                        [&] { return guest.vm.try_has_device(kvm::DeviceType::vfio); });
  ASSERT_TRUE(has);
  EXPECT_FALSE(*has);
}

TEST_F(OtherHosts, SayWhichDebugBitsTheyKnow) {
  Guest guest = fault::make_guest();
  kvm::uapi::kvm_guest_debug debug{};
  debug.control = 5;
  expect_error(with({answers(number::set_guest_debug2, 3)},
                    [&] { return guest.vcpu.try_set_guest_debug(debug); }),
               EINVAL, "this host's control bits are 0x3");
}

TEST_F(OtherHosts, CoalesceNoWrites) {
  Guest guest = fault::make_guest();
  expect_error(with({answers(number::coalesced_mmio, 0)},
                    [&] { return guest.vm.try_create_coalesced_ring(guest.vcpu); }),
               EOPNOTSUPP, "does not coalesce");
}

TEST_F(OtherHosts, HaveFewSlots) {
  kvm::Vm vm = kvm::System().create_vm();
  const auto add = [&](std::uint64_t gpa) {
    return vm.try_add_memory(kvm::Gpa{gpa}, kvm::Mapping::anonymous(4096));
  };
  auto first = with({answers(number::nr_memslots, 1)}, [&] { return add(0x100000); });
  ASSERT_TRUE(first) << first.error().what();
  expect_error(add(0x200000), EINVAL, "all 1 slots are in use");
}

// With rings a number is not used again before the rings were harvested.
TEST_F(OtherHosts, HaveFewSlotsAndRings) {
  kvm::Vm vm = kvm::System().create_vm();
  if (vm.check_raw(number::dirty_log_ring_acq_rel) <= 0) {
    GTEST_SKIP() << "KVM_CAP_DIRTY_LOG_RING_ACQ_REL is not offered by this host";
  }
  vm.enable(kvm::cap::DirtyLogRingAcqRel{.bytes = 65536});
  const auto add = [&](std::uint64_t gpa) {
    return vm.try_add_memory(kvm::Gpa{gpa}, kvm::Mapping::anonymous(4096));
  };
  {
    auto first = with({answers(number::nr_memslots, 1)}, [&] { return add(0x100000); });
  }
  expect_error(add(0x200000), EINVAL, "wait for the dirty rings to be harvested");
}

// Some KVM count fewer vCPUs than they have ids, or have none left.
TEST_F(OtherHosts, RefuseAVcpu) {
  Guest guest = fault::make_guest();
  for (const auto& [error_number, words] :
       {std::pair(EINVAL, "as many vCPUs as it can have"), std::pair(EBUSY, "too late"),
        std::pair(ENOMEM, "out of memory"), std::pair(EMFILE, "")}) {
    expect_error(with({fails(request::create_vcpu.code, error_number)},
                      [&] { return guest.vm.try_create_vcpu(1); }),
                 error_number, words);
  }
}

// Which x86 has since Linux 6.18 only.
TEST_F(OtherHosts, ListTheirRegisters) {
  Guest guest = fault::make_guest();
  const std::vector<std::uint64_t> registers = {7, 8, 9};
  const auto list_of = [](const Call& call) {
    return call.is_ioctl(request::get_reg_list.code)
               ? reinterpret_cast<std::uint64_t*>(call.argument)
               : nullptr;
  };
  std::vector<std::uint64_t> room;
  const Rule too_small{.matches =
                           [&](const Call& call, std::size_t) {
                             std::uint64_t* const list = list_of(call);
                             if (list == nullptr) {
                               return false;
                             }
                             room.push_back(std::exchange(*list, registers.size()));
                             return true;
                           },
                       .error_number = E2BIG};
  const Rule filled{.matches = [&](const Call& call, std::size_t) {
    std::uint64_t* const list = list_of(call);
    if (list == nullptr) {
      return false;
    }
    room.push_back(*list);
    if (*list == registers.size()) {
      std::copy(registers.begin(), registers.end(), list + 1);
    }
    return true;
  }};
  const auto list = with({too_small, filled}, [&] { return guest.vcpu.try_get_reg_list(); });
  ASSERT_TRUE(list) << list.error().what();
  EXPECT_EQ(room, (std::vector<std::uint64_t>{0, 3}));
  EXPECT_EQ(*list, registers);
}

TEST_F(OtherHosts, LackACapabilityOfVcpus) {
#if KVM_HPP_ARCH_X86
  KVM_HPP_EXPECT_PAIR(g.vcpu., enable(kvm::cap::EnforcePvFeatureCpuid{}), .optional = true);
#endif
}

#if KVM_HPP_ARCH_X86
TEST_F(OtherHosts, KeepNoRegistersInTheRunPage) {
  Guest guest = fault::make_guest();
  const auto regs = guest.vcpu.get_regs();
  expect_error(
      with({answers(number::sync_regs, 0)}, [&] { return guest.vcpu.try_set_synced_regs(regs); }),
      EINVAL, "this KVM can sync: none");
}

// The mode is entered or left by itself, before all else that events are.
TEST_F(OtherHosts, HaveAnotherSystemManagementMode) {
  Guest guest = fault::make_guest();
  auto snapshot = guest.vcpu.save_state({});
  std::vector<kvm::uapi::kvm_vcpu_events> sent;
  const auto restore = [&] {
    sent.clear();
    const auto restored = with(
        {{.matches =
              [&](const Call& call, std::size_t) {
                if (!call.is_ioctl(request::set_vcpu_events.code)) {
                  return false;
                }
                sent.push_back(*reinterpret_cast<const kvm::uapi::kvm_vcpu_events*>(call.argument));
                return true;
              },
          .times = 1000}},
        [&] { return guest.vcpu.try_restore_state(snapshot); });
    EXPECT_TRUE(restored) << restored.error().what();
  };
  constexpr auto smm = kvm::uapi::vcpuevent_valid::smm;
  snapshot.events.flags |= smm;
  restore();
  EXPECT_EQ(sent.size(), 1u) << "both are outside of it";
  snapshot.events.smi.smm = 1;
  restore();
  ASSERT_EQ(sent.size(), 2u);
  EXPECT_EQ(sent[0].flags, smm);
  EXPECT_EQ(sent[0].smi.smm, 1);
  EXPECT_EQ(sent[1].flags, snapshot.events.flags);
  // A host that does not know of it says nothing of it.
  snapshot.events.flags &= ~smm;
  restore();
  EXPECT_EQ(sent.size(), 1u);
}

TEST_F(OtherHosts, KnowNoExtendedStateBeyondAPage) {
  Guest guest = fault::make_guest();
  const auto state = with({answers(number::xsave2, 0)}, [&] { return guest.vcpu.try_get_xsave(); });
  ASSERT_TRUE(state) << state.error().what();
  EXPECT_EQ(state->size(), 4096u);
}

TEST_F(OtherHosts, RefuseATimer) {
  kvm::Vm vm = kvm::System().create_vm();
  expect_error(
      with({fails(request::create_pit2.code, EINVAL)}, [&] { return vm.try_create_pit2(); }),
      EINVAL, "unknown flags");
}

// A KVM that counts entries which it does not fill.
TEST_F(OtherHosts, LeaveCpuidEntriesOut) {
  Guest guest = fault::make_guest();
  const auto table = with({returns(request::get_supported_cpuid.code, 0)},
                          [&] { return guest.system.try_supported_cpuid(); });
  ASSERT_TRUE(table) << table.error().what();
  EXPECT_TRUE(table->empty());
}
#endif

}  // namespace
