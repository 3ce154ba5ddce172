// SPDX-License-Identifier: MIT
#include "driver.hpp"

#include <array>
#include <cerrno>
#include <cstdint>

namespace {

using fault::Call;
using fault::FaultTest;
using fault::Function;
using fault::Guest;
using fault::Rule;
namespace request = kvm::uapi::request;
using namespace kvm::literals;

class VmFaults : public FaultTest {};

TEST_F(VmFaults, CreateVcpu) {
  // A vCPU that KVM made cannot be unmade: once its run page could not be mapped, its id is taken.
  std::uint32_t id = 0;
  fault::Operation operation{.name = "create_vcpu",
                             .survives =
                                 [](const Call& call, int) {
                                   // Only asked to explain a failure.
                                   return call.is_ioctl(request::check_extension.code);
                                 },
                             .prepare = [&](Guest&) { id = 0; }};
  fault::expect_pair_withstands(
      operation, [&](Guest& guest) { return guest.vm.try_create_vcpu(++id); },
      [&](Guest& guest) { return guest.vm.create_vcpu(++id); });
}

TEST_F(VmFaults, CreateVcpuRefused) {
  const fault::Operation operation{
      .name = "create_vcpu refused",
      .survives = [](const Call& call,
                     int) { return call.is_ioctl(request::check_extension.code); },
      .rules =
          [] {
            return std::vector<Rule>{
                {.matches = [](const Call& call,
                               std::size_t) { return call.is_ioctl(request::create_vcpu.code); },
                 .error_number = EINVAL}};
          },
      .usual_error = EINVAL};
  fault::expect_pair_withstands(
      operation, [](Guest& guest) { return guest.vm.try_create_vcpu(7); },
      [](Guest& guest) { return guest.vm.create_vcpu(7); });
}

// Whether a vCPU exists decides what a later error says.
TEST_F(VmFaults, AFailedFirstVcpuIsForgotten) {
  kvm::System system;
  kvm::Vm vm = system.create_vm();
  fault::arm({{.matches = [](const Call& call,
                             std::size_t) { return call.is_ioctl(request::create_vcpu.code); },
               .error_number = ENOMEM}});
  const auto vcpu = vm.try_create_vcpu(0);
  fault::disarm();
  EXPECT_FALSE(vcpu);
  fault::arm({{.matches = [](const Call& call,
                             std::size_t) { return call.is_ioctl(request::enable_cap.code); },
               .error_number = EINVAL}});
  const auto enabled = vm.try_enable(kvm::cap::SplitIrqchip{});
  fault::disarm();
  ASSERT_FALSE(enabled);
  EXPECT_EQ(std::string(enabled.error().what()).find("this VM has vCPUs already"),
            std::string::npos)
      << enabled.error().what();
}

// KVM may have no kind of device here at all: the answer comes from us then, with a descriptor of
// another VM's in the place of the device's.
std::vector<Rule> device_appears(int fd) {
  return {{.matches =
               [=](const Call& call, std::size_t) {
                 if (!call.is_ioctl(request::create_device.code)) {
                   return false;
                 }
                 reinterpret_cast<kvm::uapi::kvm_create_device*>(call.argument)->fd =
                     static_cast<std::uint32_t>(fd);
                 return true;
               },
           .result = 0}};
}

TEST_F(VmFaults, CreateDevice) {
  Guest probe = fault::make_guest();
  if (!probe.vm.has_device(kvm::DeviceType::vfio)) {
    for (const int error_number :
         fault::errnos_of({Function::ioctl, request::create_device.code, 0})) {
      const auto before = fault::Resources::now();
      fault::arm(
          {{.matches = [](const Call& call,
                          std::size_t) { return call.is_ioctl(request::create_device.code); },
            .error_number = error_number,
            .times = 2}});
      // An interrupted call is sent again, and then this host says what it always says.
      const int expected = error_number == EINTR ? ENODEV : error_number;
      const auto tried =
          fault::attempt([&] { return probe.vm.try_create_device(kvm::DeviceType::vfio); });
      EXPECT_EQ(tried.error_number, expected);
      EXPECT_EQ(tried.operation, "KVM_CREATE_DEVICE");
      if (error_number != EINTR) {
        const auto threw =
            fault::attempt([&] { return probe.vm.create_device(kvm::DeviceType::vfio); });
        EXPECT_EQ(threw.error_number, expected);
      }
      fault::disarm();
      EXPECT_EQ(fault::Resources::now(), before);
    }
    return;
  }
  // A VM can have one, and Linux 5.10 keeps it for as long as the VM.
  KVM_HPP_EXPECT_PAIR(g.vm., create_device(kvm::DeviceType::vfio), .idempotent = false);
}

TEST_F(VmFaults, DeviceAttributes) {
  Guest guest = fault::make_guest();
  kvm::Vm donor = guest.system.create_vm();
  for (const int error_number :
       fault::errnos_of({Function::ioctl, request::set_device_attr.code, 0})) {
    const auto before = fault::Resources::now();
    {
      fault::arm(device_appears(::dup(donor.fd())));
      kvm::Device device = guest.vm.create_device(kvm::DeviceType::vfio);
      fault::disarm();
      const auto fail = [&](auto call, const char* name) {
        fault::arm({{.matches = [](const Call& one,
                                   std::size_t) { return one.function == Function::ioctl; },
                     .error_number = error_number},
                    // Sent again after EINTR: this is no device, so KVM's answer is ours to give.
                    {.matches = [](const Call& one,
                                   std::size_t) { return one.function == Function::ioctl; },
                     .result = 0}});
        const fault::Outcome outcome = fault::attempt(call);
        fault::disarm();
        EXPECT_EQ(outcome.succeeded, error_number == EINTR) << name << ' ' << error_number;
        if (!outcome.succeeded) {
          EXPECT_EQ(outcome.error_number, error_number);
          EXPECT_EQ(outcome.operation, name);
        }
      };
      std::uint64_t value = 0;
      fail([&] { return device.try_set_device_attr(1, 2, value); }, "KVM_SET_DEVICE_ATTR");
      fail([&] { return device.set_device_attr(1, 2, value); }, "KVM_SET_DEVICE_ATTR");
      fail([&] { return device.try_set_device_attr(1, 2); }, "KVM_SET_DEVICE_ATTR");
      fail([&] { return device.set_device_attr(1, 2); }, "KVM_SET_DEVICE_ATTR");
      fail([&] { return device.try_get_device_attr(1, 2, value); }, "KVM_GET_DEVICE_ATTR");
      fail([&] { return device.get_device_attr(1, 2, value); }, "KVM_GET_DEVICE_ATTR");
    }
    EXPECT_EQ(fault::Resources::now(), before) << "the device's descriptor stays open";
  }
}

TEST_F(VmFaults, HasDevice) {
  const auto no_such_device = [](const Call&, int error_number) { return error_number == ENODEV; };
  KVM_HPP_EXPECT_PAIR(g.vm., has_device(kvm::DeviceType::vfio), .survives = no_such_device);
}

TEST_F(VmFaults, HasAttribute) {
  const auto none = [](const Call&, int error_number) {
    return error_number == ENXIO || error_number == ENOTTY || error_number == EPERM ||
           error_number == EINVAL;
  };
  KVM_HPP_EXPECT_PAIR(g.system., has_device_attr(0, 0), .survives = none);
  KVM_HPP_EXPECT_PAIR(g.vm., has_device_attr(0, 0), .survives = none);
  KVM_HPP_EXPECT_PAIR(g.vcpu., has_device_attr(0, 0), .survives = none);
}

TEST_F(VmFaults, Check) {
  const auto unknown = [](const Call&, int error_number) { return error_number == EINVAL; };
  KVM_HPP_EXPECT_PAIR(g.vm., check<kvm::cap::UserMemory>(), .survives = unknown);
  KVM_HPP_EXPECT_PAIR(g.vm., check<kvm::cap::NrMemslots>());
  KVM_HPP_EXPECT_PAIR(g.vm., check_raw(kvm::uapi::cap::nr_memslots));
}

TEST_F(VmFaults, Enable) {
  KVM_HPP_EXPECT_PAIR(g.vm., enable(kvm::cap::HaltPoll{.max_ns = 200'000}));
  KVM_HPP_EXPECT_PAIR(g.vm., enable(kvm::cap::ManualDirtyLogProtect2{.initially_set = true}));
  KVM_HPP_EXPECT_PAIR(g.vm., enable_raw(kvm::uapi::cap::halt_poll, {200'000, 0, 0, 0}));
}

// A capability that KVM refused is not remembered as enabled.
TEST_F(VmFaults, ARefusedCapabilityIsForgotten) {
  kvm::System system;
  kvm::Vm vm = system.create_vm();
  fault::arm({{.matches = [](const Call& call,
                             std::size_t) { return call.is_ioctl(request::enable_cap.code); },
               .error_number = EINVAL}});
  EXPECT_FALSE(vm.try_enable(kvm::cap::ManualDirtyLogProtect2{.initially_set = true}));
  fault::disarm();
  // A ring and initially_set exclude each other.
  fault::arm({{.matches = [](const Call& call,
                             std::size_t) { return call.is_ioctl(request::enable_cap.code); },
               .result = 0}});
  const auto ring = vm.try_enable(kvm::cap::DirtyLogRing{.bytes = 4096 * 16});
  fault::disarm();
  EXPECT_TRUE(ring) << ring.error().what();
}

}  // namespace
