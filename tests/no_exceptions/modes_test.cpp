// SPDX-License-Identifier: MIT
#include "units.hpp"

#include <kvm/kvm.hpp>

#include <gtest/gtest.h>

#include <cerrno>
#include <csignal>
#include <string>
#include <system_error>
#include <type_traits>

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

extern "C" void kvm_hpp_test_throw(const char* path);
extern "C" bool kvm_hpp_test_catch(void (*f)());

namespace {

constexpr const char* no_kvm_device = "/dev/null";

// One of the units, as a value.
struct Unit {
  const char* name;
  bool throws;
  bool (*exceptions)();
  std::string (*run_guest)();
  units::Seen (*try_open)(const char*);
  units::Seen (*open)(const char*);
  units::Seen (*value_of_failure)();
  bool (*kick)();
  void (*set_handler)(int);
  void (*reset_handler)();
  const char* (*mode)();
};
#define KVM_HPP_TEST_UNIT(unit, throws)                                                    \
  Unit {                                                                                   \
#unit, throws, units::unit::exceptions, units::unit::run_guest, units::unit::try_open, \
        units::unit::open, units::unit::value_of_failure, units::unit::kick,               \
        units::unit::set_handler, units::unit::reset_handler, units::unit::mode            \
  }

void PrintTo(const Unit& unit, std::ostream* out) { *out << unit.name; }

class Modes : public testing::TestWithParam<Unit> {
 protected:
  void needs_kvm() {
    if (::access("/dev/kvm", R_OK | W_OK) != 0) {
      GTEST_SKIP() << "/dev/kvm cannot be opened";
    }
  }
};

struct Death {
  int status = 0;
  std::string said;
};

/// Runs f in a child and gives it a pipe to write to.
template <class F>
Death in_child(F&& f) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) {
    return {};
  }
  const pid_t child = ::fork();
  if (child == 0) {
    const struct ::rlimit none {};
    ::setrlimit(RLIMIT_CORE, &none);
    f(ends[1]);
    ::_exit(0);
  }
  ::close(ends[1]);
  Death death;
  char buffer[1024];
  for (ssize_t size; (size = ::read(ends[0], buffer, sizeof buffer)) > 0;) {
    death.said.append(buffer, static_cast<std::size_t>(size));
  }
  ::close(ends[0]);
  ::waitpid(child, &death.status, 0);
  return death;
}

TEST_P(Modes, IsCompiledAsItSays) {
  EXPECT_EQ(GetParam().exceptions(), GetParam().throws);
  EXPECT_STREQ(GetParam().mode(), GetParam().throws ? "v0_throwing" : "v0_aborting");
}

TEST_P(Modes, RunsAGuest) {
  needs_kvm();
  if (!IsSkipped()) {
    EXPECT_EQ(GetParam().run_guest(), "ok");
  }
}

TEST_P(Modes, StopsAVcpu) {
  needs_kvm();
  if (!IsSkipped()) {
    EXPECT_TRUE(GetParam().kick());
  }
}

TEST_P(Modes, TryReturnsTheError) {
  const auto missing = GetParam().try_open("/nonexistent/kvm");
  EXPECT_EQ(missing.error_number, ENOENT);
  EXPECT_EQ(missing.operation, "open");
  EXPECT_NE(missing.message.find("/nonexistent/kvm"), std::string::npos) << missing.message;
  const auto wrong = GetParam().try_open(no_kvm_device);
  EXPECT_EQ(wrong.operation, "KVM_GET_API_VERSION");
  EXPECT_NE(wrong.message.find("not a KVM device"), std::string::npos) << wrong.message;
}

TEST_P(Modes, TheOtherHalfThrowsOrAborts) {
  if (GetParam().throws) {
    const auto caught = GetParam().open(no_kvm_device);
    EXPECT_EQ(caught.operation, "KVM_GET_API_VERSION");
    EXPECT_EQ(GetParam().value_of_failure().error_number, EINVAL);
    return;
  }
  for (const bool open : {true, false}) {
    const Death death = in_child([&](int pipe) {
      GetParam().set_handler(pipe);
      static_cast<void>(open ? GetParam().open(no_kvm_device) : GetParam().value_of_failure());
    });
    EXPECT_TRUE(WIFSIGNALED(death.status) && WTERMSIG(death.status) == SIGABRT) << death.status;
    const std::string begin =
        std::string(GetParam().name) + (open ? ":KVM_GET_API_VERSION:" : ":mmap:");
    EXPECT_EQ(death.said.rfind(begin, 0), 0u) << death.said;
    EXPECT_NE(death.said.find(open ? "not a KVM device" : "page size"), std::string::npos)
        << death.said;
  }
}

TEST_P(Modes, TheDefaultHandlerPrints) {
  const Death death = in_child([&](int pipe) {
    ::dup2(pipe, STDERR_FILENO);
    GetParam().set_handler(pipe);
    GetParam().reset_handler();
    static_cast<void>(GetParam().open(no_kvm_device));
  });
  if (GetParam().throws) {
    EXPECT_TRUE(WIFEXITED(death.status) && WEXITSTATUS(death.status) == 0) << death.status;
    EXPECT_EQ(death.said, "");
    return;
  }
  EXPECT_TRUE(WIFSIGNALED(death.status) && WTERMSIG(death.status) == SIGABRT) << death.status;
  EXPECT_EQ(death.said.rfind("kvm-hpp: KVM_GET_API_VERSION", 0), 0u) << death.said;
}

// Whatever the other units do: their handlers are not for those that throw.
TEST_P(Modes, NoHandlerReplacesAThrow) {
  if (!GetParam().throws) {
    return;  // Their handlers are the others' subject.
  }
  const Death death = in_child([&](int pipe) {
    units::aborting::set_handler(pipe);
    units::aborting_no_rtti::set_handler(pipe);
    GetParam().set_handler(pipe);
    const auto caught = GetParam().open(no_kvm_device);
    static_cast<void>(!::write(pipe, caught.operation.data(), caught.operation.size()));
  });
  EXPECT_EQ(death.status, 0);
  EXPECT_EQ(death.said, "KVM_GET_API_VERSION");
}

INSTANTIATE_TEST_SUITE_P(Units, Modes,
                         testing::Values(KVM_HPP_TEST_UNIT(throwing, true),
                                         KVM_HPP_TEST_UNIT(aborting, false),
                                         KVM_HPP_TEST_UNIT(throwing_no_rtti, true),
                                         KVM_HPP_TEST_UNIT(aborting_no_rtti, false)),
                         [](const auto& test) { return std::string(test.param.name); });

static_assert(std::is_nothrow_copy_constructible_v<kvm::Error>);
static_assert(std::is_nothrow_copy_assignable_v<kvm::Error>);

TEST(SharedObject, ItsErrorIsCaughtHere) {
  try {
    kvm_hpp_test_throw(no_kvm_device);
    FAIL() << "it threw nothing";
  } catch (const kvm::Error& error) {
    EXPECT_STREQ(error.operation(), "KVM_GET_API_VERSION");
    EXPECT_NE(std::string(error.what()).find("not a KVM device"), std::string::npos);
  }
  EXPECT_THROW(kvm_hpp_test_throw(no_kvm_device), std::system_error);
}

TEST(SharedObject, OurErrorIsCaughtThere) {
  EXPECT_TRUE(kvm_hpp_test_catch([] { static_cast<void>(kvm::Mapping::anonymous(1)); }));
}

// Some C++ libraries compare type information by address: the linker must be able to merge it.
TEST(SharedObject, ExportsTheErrorsTypeInformation) {
  void* const object = ::dlopen(KVM_HPP_TEST_THROWER, RTLD_NOW | RTLD_NOLOAD);
  ASSERT_NE(object, nullptr) << ::dlerror();
  EXPECT_NE(::dlsym(object, "_ZTIN3kvm11v0_throwing5ErrorE"), nullptr) << ::dlerror();
  EXPECT_EQ(::dlsym(object, "_ZTIN3kvm11v0_throwing6SystemE"), nullptr) << "nothing is hidden";
  ::dlclose(object);
}

}  // namespace
