// SPDX-License-Identifier: MIT
// The code of docs/guides/errors.md.
#include <kvm/kvm.hpp>

#include <gtest/gtest.h>

#include <cerrno>
#include <cstdio>
#include <string>
#include <utility>

namespace {

using namespace kvm::literals;

TEST(ErrorsGuide, Both) {
  kvm::System system;
  kvm::Vm vm = system.create_vm();
  std::string message;
  const auto log = [&](const char* text) { message = text; };
  //! [throwing]
  try {
    kvm::MemorySlot low = vm.add_memory(kvm::Gpa{0}, kvm::Mapping::anonymous(64_KiB));
    kvm::MemorySlot high = vm.add_memory(kvm::Gpa{0}, kvm::Mapping::anonymous(64_KiB));
  } catch (const kvm::Error& error) {
    log(error.what());  // KVM_SET_USER_MEMORY_REGION(gpa=0x0, …): it overlaps slot 0 at …
    if (error.error_number() != EEXIST) throw;
  }
  //! [throwing]
  EXPECT_NE(message.find("KVM_SET_USER_MEMORY_REGION(gpa=0x0"), std::string::npos) << message;
  EXPECT_NE(message.find("overlaps slot 0"), std::string::npos) << message;

  //! [result]
  kvm::Result<kvm::Vcpu> made = vm.try_create_vcpu(1'000'000);
  if (!made) {
    log(made.error().what());  // KVM_CREATE_VCPU(id=1000000): the id is too large: …
  } else {
    kvm::Vcpu vcpu = std::move(made).value();
  }
  //! [result]
  EXPECT_NE(message.find("KVM_CREATE_VCPU(id=1000000)"), std::string::npos) << message;

  //! [open]
  kvm::Result<kvm::System> opened = kvm::System::try_open("/dev/no-such-kvm");
  std::string why = opened ? "" : opened.error().what();
  //! [open]
  EXPECT_NE(why.find("/dev/no-such-kvm"), std::string::npos) << why;
}

TEST(ErrorsGuide, Handler) {
  //! [handler]
  // Only units that are compiled with -fno-exceptions call it.
  kvm::ErrorHandler before = kvm::set_error_handler([](const kvm::Error& error) {
    std::fprintf(stderr, "my-vmm: %s\n", error.what());
    std::fflush(nullptr);  // the program aborts when this returns
  });
  //! [handler]
  EXPECT_NE(before, nullptr);
  kvm::set_error_handler(before);
}

}  // namespace
