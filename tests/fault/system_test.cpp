// SPDX-License-Identifier: MIT
#include "driver.hpp"

#include <cerrno>
#include <cstdint>
#include <string>

#include <fcntl.h>

namespace {

using fault::Call;
using fault::FaultTest;
using fault::Function;
using fault::Guest;
using fault::Rule;

class SystemFaults : public FaultTest {};

TEST_F(SystemFaults, Open) {
  fault::expect_pair_withstands(
      {.name = "open"}, [](Guest&) { return kvm::System::try_open(); },
      [](Guest&) { return kvm::System(); });
}

// Nothing is lost when the search for an explanation fails too.
TEST_F(SystemFaults, OpenRefused) {
  for (const int error_number : {EACCES, EPERM}) {
    const fault::Operation operation{
        .name = "open refused",
        .survives = [](const Call&, int) { return true; },
        .rules =
            [=] {
              return std::vector<Rule>{{.matches =
                                            [](const Call& call, std::size_t index) {
                                              return index == 0 && call.function == Function::open;
                                            },
                                        .error_number = error_number}};
            },
        .usual_error = error_number};
    fault::expect_pair_withstands(
        operation, [](Guest&) { return kvm::System::try_open(); },
        [](Guest&) { return kvm::System(); });
  }
}

TEST_F(SystemFaults, Adopt) {
  const auto device = [] {
    const fault::Unobserved ours;
    return kvm::Fd(::open("/dev/kvm", O_RDWR | O_CLOEXEC));
  };
  fault::expect_pair_withstands(
      {.name = "adopt"}, [&](Guest&) { return kvm::System::try_adopt(device()); },
      [&](Guest&) { return kvm::System::adopt(device()); });
}

TEST_F(SystemFaults, CreateVm) {
  KVM_HPP_EXPECT_PAIR(g.system., create_vm());
  KVM_HPP_EXPECT_PAIR(g.system., create_vm(kvm::VmType(0)));
}

TEST_F(SystemFaults, Check) {
  // What KVM does not know on this descriptor is "no" (R16).
  const auto unknown = [](const Call&, int error_number) { return error_number == EINVAL; };
  KVM_HPP_EXPECT_PAIR(g.system., check<kvm::cap::UserMemory>(), .survives = unknown);
  KVM_HPP_EXPECT_PAIR(g.system., check<kvm::cap::NrMemslots>());
  KVM_HPP_EXPECT_PAIR(g.system., check_raw(kvm::uapi::cap::nr_memslots));
}

TEST_F(SystemFaults, RawIoctl) {
  fault::Operation operation{.name = "ioctl"};
  const auto request = kvm::uapi::request::get_api_version.code;
  // The escape does not retry, and names the request by its number.
  operation.run = [&](Guest& guest) {
    return fault::attempt([&] { return guest.system.try_ioctl(request); });
  };
  for (const int error_number : {EINTR, EINVAL, EIO, EBADF, ENOTTY, EPERM}) {
    Guest guest = fault::make_guest();
    fault::arm(
        {{.matches = [](const Call& call, std::size_t) { return call.function == Function::ioctl; },
          .error_number = error_number}});
    const fault::Outcome outcome = operation.run(guest);
    EXPECT_EQ(fault::disarm().size(), 1u);
    EXPECT_FALSE(outcome.succeeded);
    EXPECT_EQ(outcome.error_number, error_number);
    EXPECT_NE(outcome.what.find("0xae00"), std::string::npos) << outcome.what;
    EXPECT_THROW(
        {
          fault::arm({{.matches = [](const Call&, std::size_t) { return true; },
                       .error_number = error_number}});
          try {
            guest.system.ioctl(request);
          } catch (...) {
            fault::disarm();
            throw;
          }
          fault::disarm();
        },
        kvm::Error);
    EXPECT_EQ(guest.system.ioctl(request), 12);
  }
}

std::vector<Rule> answer(unsigned long request, long value) {
  return {{.matches = [=](const Call& call, std::size_t) { return call.is_ioctl(request); },
           .result = value}};
}

TEST_F(SystemFaults, AnotherApiVersionIsRefused) {
  const auto before = fault::Resources::now();
  fault::arm(answer(kvm::uapi::request::get_api_version.code, 11));
  const auto system = kvm::System::try_open();
  fault::disarm();
  ASSERT_FALSE(system);
  EXPECT_STREQ(system.error().operation(), "KVM_GET_API_VERSION");
  const std::string what = system.error().what();
  EXPECT_NE(what.find("11"), std::string::npos) << what;
  EXPECT_NE(what.find("12"), std::string::npos) << what;
  EXPECT_EQ(fault::Resources::now(), before);
}

TEST_F(SystemFaults, ARunPageThatIsTooSmallIsRefused) {
  const auto before = fault::Resources::now();
  for (const long size : {0L, 1L, static_cast<long>(sizeof(kvm::uapi::kvm_run)) - 1}) {
    fault::arm(answer(kvm::uapi::request::get_vcpu_mmap_size.code, size));
    const auto system = kvm::System::try_open();
    fault::disarm();
    ASSERT_FALSE(system) << size;
    EXPECT_STREQ(system.error().operation(), "KVM_GET_VCPU_MMAP_SIZE");
    EXPECT_NE(std::string(system.error().what()).find(std::to_string(size)), std::string::npos)
        << system.error().what();
  }
  EXPECT_EQ(fault::Resources::now(), before);
}

TEST_F(SystemFaults, AnInterruptedCreateVmIsSentAgain) {
  const kvm::System system;
  fault::arm(
      {{.matches = [](const Call& call,
                      std::size_t) { return call.is_ioctl(kvm::uapi::request::create_vm.code); },
        .error_number = EINTR,
        .times = 5}});
  const auto vm = system.try_create_vm();
  const auto calls = fault::disarm();
  ASSERT_TRUE(vm) << vm.error().what();
  EXPECT_EQ(fault::injected(), 5u);
  std::size_t sent = 0;
  for (const Call& call : calls) {
    sent += call.is_ioctl(kvm::uapi::request::create_vm.code);
  }
  EXPECT_EQ(sent, 6u);
}

// Needs no KVM module: a file that cannot be opened or read is an error with its errno.
TEST(ModuleParameterFaults, OpenAndRead) {
  const auto undisturbed = kvm::try_module_parameter("halt_poll_ns");
  const auto before = fault::Resources::now();
  for (const Function function : {Function::open, Function::read}) {
    if (function == Function::read && !undisturbed) {
      continue;
    }
    for (const int error_number : fault::errnos_of({function})) {
      fault::arm(
          {{.matches = [&](const Call& call, std::size_t) { return call.function == function; },
            .error_number = error_number}});
      const auto outcome = fault::attempt([] { return kvm::try_module_parameter("halt_poll_ns"); });
      fault::disarm();
      EXPECT_EQ(fault::injected(), 1u);
      if (function == Function::read && error_number == EINTR) {
        EXPECT_TRUE(outcome.succeeded) << outcome.what;
        continue;
      }
      EXPECT_EQ(outcome.error_number, error_number) << outcome.what;
      EXPECT_EQ(outcome.operation, "module_parameter");
      EXPECT_NE(outcome.what.find("halt_poll_ns"), std::string::npos) << outcome.what;
    }
  }
  fault::arm(
      {{.matches = [](const Call& call, std::size_t) { return call.function == Function::open; },
        .error_number = EMFILE,
        .times = 100}});
  EXPECT_EQ(kvm::halt_poll_parameters(), kvm::HaltPollParameters());
  fault::disarm();
  EXPECT_EQ(fault::Resources::now(), before);
}

}  // namespace
