// SPDX-License-Identifier: MIT
// The page that tells a forked child from its parent, where the kernel refuses it.
#include "driver.hpp"

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <iostream>
#include <optional>
#include <span>
#include <string>

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

namespace {

using fault::Call;
using fault::FaultTest;
using fault::Function;
using fault::Guest;
namespace detail = kvm::detail;

/// Runs `body` in a forked child, which has a process page of its own to map.
/// Its failures are told on stderr.
template <class F>
void expect_in_child(F&& body) {
  std::cout.flush();
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    detail::process_page.store(nullptr);
    body();
    ::_exit(testing::Test::HasFailure() ? 1 : 0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "status " << status;
}

void expect_runs(Guest& guest) {
  guest.vcpu.run().visit([](kvm::exits::IoOut) {},
                         [](auto&&) { ADD_FAILURE() << "the guest does not run"; });
}

/// In a child of the process that made it: drops a guest, whose addresses are
/// the child's own memory.
void expect_harmless(std::optional<Guest>& guest) {
  const auto where = const_cast<std::byte*>(guest->ram.mapping().data());
  const std::size_t size = guest->ram.mapping().size();
  ASSERT_EQ(::mmap(where, size, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0),
            where);
  where[0] = std::byte{7};
  const std::byte other{8};
  EXPECT_FALSE(guest->ram.mapping().accessible());
  EXPECT_FALSE(guest->ram.load(kvm::Gpa{0}, std::span(&other, 1)));
  guest.reset();
  EXPECT_EQ(where[0], std::byte{7});
}

class ProcessPageFaults : public FaultTest, public testing::WithParamInterface<Function> {};

TEST_P(ProcessPageFaults, ProcessIdsStandIn) {
  for (const int error_number : {ENOMEM, EINVAL, EPERM}) {
    SCOPED_TRACE(error_number);
    expect_in_child([&] {
      const std::size_t mappings = fault::live_mappings();
      fault::arm(
          {{.matches = [](const Call& call, std::size_t) { return call.function == GetParam(); },
            .error_number = error_number}});
      const detail::ProcessToken mine = detail::this_process();
      fault::disarm();
      EXPECT_EQ(fault::injected(), 1u);
      EXPECT_EQ(fault::live_mappings(), mappings);
      EXPECT_EQ(mine, static_cast<detail::ProcessToken>(::getpid()));
      EXPECT_EQ(detail::this_process(), mine);

      std::optional<Guest> guest(fault::make_guest());
      expect_runs(*guest);
      const pid_t child = ::fork();
      if (child == 0) {
        EXPECT_NE(detail::this_process(), mine);
        expect_harmless(guest);
        ::_exit(testing::Test::HasFailure() ? 1 : 0);
      }
      int status = 0;
      EXPECT_EQ(::waitpid(child, &status, 0), child);
      EXPECT_EQ(status, 0);
      expect_runs(*guest);
      guest.reset();
      EXPECT_EQ(fault::live_mappings(), mappings);
    });
  }
}

INSTANTIATE_TEST_SUITE_P(Refused, ProcessPageFaults,
                         testing::Values(Function::mmap, Function::madvise),
                         [](const auto& test) { return std::string(fault::name(test.param)); });

class ProcessPage : public FaultTest {};

TEST_F(ProcessPage, TellsAChildFromItsAncestors) {
  const detail::ProcessToken mine = detail::this_process();
  std::optional<Guest> guest(fault::make_guest());
  std::cout.flush();
  const pid_t child = ::fork();
  if (child == 0) {
    const detail::ProcessToken childs = detail::this_process();
    EXPECT_NE(childs, mine);
    const pid_t grandchild = ::fork();
    if (grandchild == 0) {
      EXPECT_NE(detail::this_process(), mine);
      EXPECT_NE(detail::this_process(), childs);
      ::_exit(testing::Test::HasFailure() ? 1 : 0);
    }
    int status = 0;
    EXPECT_EQ(::waitpid(grandchild, &status, 0), grandchild);
    EXPECT_EQ(status, 0);
    expect_harmless(guest);
    ::_exit(testing::Test::HasFailure() ? 1 : 0);
  }
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(detail::this_process(), mine);
  expect_runs(*guest);
}

// Two threads map one at once: the second's goes away again.
TEST_F(ProcessPage, OfAnotherThreadIsTaken) {
  expect_in_child([] {
    static std::atomic<detail::ProcessToken> theirs{12345};
    const std::size_t mappings = fault::live_mappings();
    fault::arm({{.matches = [](const Call& call, std::size_t) {
      if (call.function == Function::madvise) {
        detail::process_page.store(&theirs);
      }
      return false;
    }}});
    const detail::ProcessToken mine = detail::this_process();
    fault::disarm();
    EXPECT_EQ(mine, 12345u);
    EXPECT_EQ(fault::live_mappings(), mappings);
  });
}

}  // namespace
