// SPDX-License-Identifier: MIT
// Counts how often each subject really reads guest memory, and is the guest
// that changes it after every read.
//
// The page is inaccessible. A read faults; the handler counts it, opens the
// page and steps over one instruction; then the page gets other contents and is
// closed again. A decision that does not follow from what the subject took for
// the contents was made on a second fetch.
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include "header.hpp"

std::uint64_t handle_reset(std::uint64_t address) { return address ^ 0x100; }
std::uint64_t handle_read(std::uint64_t address) { return address ^ 0x200; }
std::uint64_t handle_write(std::uint64_t address) { return address ^ 0x300; }
std::uint64_t handle_flush(std::uint64_t address) { return address ^ 0x400; }
std::uint64_t handle_stop(std::uint64_t address) { return address ^ 0x500; }

namespace {

constexpr long trap_flag = 0x100;

std::byte* page;
std::size_t page_bytes;
/// How often each byte of the page was the first of a fetch.
unsigned fetched[4096];
unsigned fetches;
std::uint32_t turn;

void change_contents() {
  ++turn;
  const Header header{.kind = turn * 3 % 7,
                      .index = static_cast<std::uint16_t>(turn * 5 % 16),
                      .flags = static_cast<std::uint16_t>(turn),
                      .address = turn * 0x1'0001'0001ull};
  std::memcpy(page, &header, sizeof(header));
}

void on_fault(int, siginfo_t* info, void* context) {
  const auto offset =
      reinterpret_cast<std::uintptr_t>(info->si_addr) - reinterpret_cast<std::uintptr_t>(page);
  if (offset >= sizeof(fetched) / sizeof(fetched[0])) {
    _exit(3);
  }
  ++fetched[offset];
  ++fetches;
  mprotect(page, page_bytes, PROT_READ | PROT_WRITE);
  static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_EFL] |= trap_flag;
}

void on_step(int, siginfo_t*, void* context) {
  change_contents();
  mprotect(page, page_bytes, PROT_NONE);
  static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_EFL] &= ~trap_flag;
}

void handle(int signal, void (*handler)(int, siginfo_t*, void*)) {
  struct sigaction action {};
  action.sa_sigaction = handler;
  action.sa_flags = SA_SIGINFO;
  sigemptyset(&action.sa_mask);
  sigaction(signal, &action, nullptr);
}

struct Outcome {
  unsigned most_fetches = 0;  // in one call
  unsigned repeated = 0;      // calls that read one place twice
  unsigned fooled = 0;        // calls with a decision on something else than they saw
};

Outcome attack(Subject subject) {
  Outcome outcome;
  for (std::uint32_t start = 0; start < 200; ++start) {
    mprotect(page, page_bytes, PROT_READ | PROT_WRITE);
    turn = start;
    change_contents();
    std::memset(fetched, 0, sizeof(fetched));
    fetches = 0;
    mprotect(page, page_bytes, PROT_NONE);
    Header seen{};
    const std::uint64_t decision = subject(page, &seen);
    if (fetches > outcome.most_fetches) {
      outcome.most_fetches = fetches;
    }
    bool repeated = false;
    for (const unsigned count : fetched) {
      repeated = repeated || count > 1;
    }
    outcome.repeated += repeated;
    outcome.fooled += decision != decide(seen);
  }
  return outcome;
}

}  // namespace

/// @return 0 if each case is as it should be
int main() {
  page_bytes = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  void* const address = mmap(nullptr, page_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (address == MAP_FAILED) {
    std::perror("mmap");
    return 2;
  }
  page = static_cast<std::byte*>(address);
  handle(SIGSEGV, on_fault);
  handle(SIGTRAP, on_step);
  int status = 0;
  for (std::size_t i = 0; i < case_count; ++i) {
    const Case& c = cases[i];
    const Outcome outcome = attack(c.subject);
    bool right = true;
    if (c.control) {
      right = c.compiler_decides || (outcome.fooled != 0 && outcome.most_fetches > c.fetches);
    } else {
      right = outcome.fooled == 0 && outcome.most_fetches != 0;
      if (c.fetches != 0) {
        right = right && outcome.most_fetches == c.fetches && outcome.repeated == 0;
      }
    }
    std::printf("%-8s%-28s fetches %u, same place again in %u calls, fooled in %u of 200\n",
                right ? "ok" : "FAILED", c.name, outcome.most_fetches, outcome.repeated,
                outcome.fooled);
    status |= !right;
  }
  return status;
}
