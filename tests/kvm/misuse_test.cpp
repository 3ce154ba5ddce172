// SPDX-License-Identifier: MIT
// A vCPU in the hands of two threads, and other mistakes that are told.
#include <gtest/gtest.h>

#include <cerrno>
#include <csignal>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <sys/wait.h>
#include <unistd.h>

#include "support/kicking.hpp"

namespace kvm_test {
namespace {

TEST(Misuse, ASecondThreadMayNotRunAVcpu) {
#if defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "two threads on one vCPU are the very race that thread sanitizer reports";
#endif
  const Handler handler(SIGUSR1);
  auto guest = Guest::running(spin);
  const auto kicker = guest.vcpu.kicker(SIGUSR1);
  Running running(guest.vcpu);
  EXPECT_EQ(guest.vcpu.run().describe(),
            "KVM_RUN failed: Device or resource busy: another thread is running this vCPU");
  EXPECT_FALSE(running.done());
  kicker.kick();
  EXPECT_EQ(running.wait(), "kicked");
}

TEST(Misuse, AVcpuIsNotDroppedUnderARunningThread) {
  const pid_t child = fork();
  if (child == 0) {
    alarm(20);
    std::optional<Guest> guest(Guest::running(spin));
    Running running(guest->vcpu);
    guest.reset();  // Aborts.
    _exit(0);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(WTERMSIG(status), SIGABRT);
}

TEST(Misuse, AVmWithoutMemorySaysSo) {
  kvm::System system;
  auto vm = system.create_vm();
  auto vcpu = vm.create_vcpu(0);
  const std::string end = vcpu.run().describe();
  // With two-dimensional paging the guest starts all the same and stumbles.
  if (end.find("No space left") != std::string::npos) {
    EXPECT_NE(end.find("the VM has no memory slot yet"), std::string::npos) << end;
  } else {
#if defined(__aarch64__)
    EXPECT_NE(end.find("the vCPU is not initialised"), std::string::npos) << end;
#else
    EXPECT_NE(end.find("KVM_EXIT_"), std::string::npos) << end;
#endif
  }
}

TEST(Ioctl, TakesATypedRequestAndNamesItInAnError) {
  kvm::System system;
  auto vm = system.create_vm();
  EXPECT_EQ(system.ioctl(kvm::uapi::request::get_api_version), 12);
  auto vcpu = vm.create_vcpu(0);
  const auto result = vm.try_ioctl(kvm::uapi::request::create_vcpu, 0ul);
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().error_number(), EEXIST);
  EXPECT_STREQ(result.error().operation(), "KVM_CREATE_VCPU");
}

TEST(Load, TakesArraysAndVectors) {
  Machine machine;
  const std::uint8_t array[] = {1, 2, 3};
  const std::vector<std::uint16_t> words = {0x0504, 0x0706};
  EXPECT_TRUE(machine.ram.load(kvm::Gpa{0x10}, array));
  EXPECT_TRUE(machine.ram.load(kvm::Gpa{0x13}, words));
  EXPECT_FALSE(machine.ram.load(kvm::Gpa{2_MiB - 3}, words));
  std::byte read[7];
  ASSERT_TRUE(machine.ram.fetch(kvm::Gpa{0x10}, read));
  const std::byte expected[7] = {std::byte{1}, std::byte{2}, std::byte{3}, std::byte{4},
                                 std::byte{5}, std::byte{6}, std::byte{7}};
  for (int i = 0; i < 7; ++i) {
    EXPECT_EQ(read[i], expected[i]) << i;
  }
}

}  // namespace
}  // namespace kvm_test
