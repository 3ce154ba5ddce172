// SPDX-License-Identifier: MIT
// needs: x86
// The code of docs/guides/porting.md.
#include <kvm/kvm.hpp>

#include <gtest/gtest.h>

#include <cerrno>
#include <cstdint>
#include <string>
#include <utility>

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "support/guest.hpp"

namespace {

TEST(PortingGuide, Escapes) {
  kvm::System system;
  kvm::Vm vm = system.create_vm();
  kvm::Vcpu vcpu = vm.create_vcpu(0);
  //! [raw]
  // Any request, where the library has no call. The constant knows its descriptors.
  int count = vm.ioctl(kvm::uapi::request::check_extension, kvm::uapi::cap::nr_memslots);
  // Any number: a request that is newer than this library.
  kvm::Result<int> unknown = vm.try_ioctl(0xaeff, 0ul);
  // And the descriptor itself.
  int same =
      ::ioctl(vm.fd(), kvm::uapi::request::check_extension.code, kvm::uapi::cap::nr_memslots);
  //! [raw]
  EXPECT_GT(count, 0);
  EXPECT_EQ(count, same);
  EXPECT_FALSE(unknown);
  EXPECT_GE(vcpu.fd(), 0);
}

TEST(PortingGuide, Adopting) {
  const int given = ::open("/dev/kvm", O_RDWR | O_CLOEXEC);
  ASSERT_GE(given, 0);
  //! [adopt]
  // A descriptor of /dev/kvm that a helper with more rights sent.
  kvm::Result<kvm::System> system = kvm::System::try_adopt(kvm::Fd(given));
  //! [adopt]
  ASSERT_TRUE(system);
  EXPECT_GE(system->fd(), 0);
}

TEST(PortingGuide, RunPage) {
  kvm_test::Guest guest = kvm_test::Guest::real_mode({0xf4});
  kvm::System& system = guest.system;
  kvm::Vcpu& vcpu = guest.vcpu;
  bool halted = false;
  //! [decode]
  // A loop that keeps its own KVM_RUN can have its page decoded.
  const auto size = static_cast<std::size_t>(system.ioctl(kvm::uapi::request::get_vcpu_mmap_size));
  kvm::uapi::kvm_run& page = *vcpu.run_page();
  int result = ::ioctl(vcpu.fd(), kvm::uapi::request::run.code, 0);
  kvm::Exit exit =
      result == 0 ? kvm::Exit::decode(page, size) : kvm::Exit::decode_failure(page, size, errno);
  exit.visit([&](kvm::exits::Hlt) { halted = true; }, [](auto&&) {});
  //! [decode]
  EXPECT_TRUE(halted) << exit.describe();
}

}  // namespace
