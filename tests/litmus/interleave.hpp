// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_TESTS_LITMUS_INTERLEAVE_HPP
#define KVM_HPP_TESTS_LITMUS_INTERLEAVE_HPP

#include <csignal>
#include <cstdio>
#include <cstdlib>

#include <ucontext.h>

/// @file
/// Runs one thing between any two instructions of another: the CPU traps after
/// each instruction, and the handler does what another thread could have done
/// there. So every interleaving of one interruption is tried, not the few that
/// chance brings. What a store buffer does is not seen so: other tests do that.

namespace kvm_litmus {

/// How many instructions the body has had, and after which one to interrupt.
inline volatile unsigned long steps = 0;
inline volatile unsigned long interrupt_after = 0;
inline void (*interruption)(const void*) = nullptr;
inline const void* interruption_argument = nullptr;

inline void on_trap(int, siginfo_t*, void*) {
  steps = steps + 1;
  if (steps == interrupt_after) {
    interruption(interruption_argument);
  }
}

inline void install_trap() {
  struct sigaction action {};
  action.sa_sigaction = on_trap;
  action.sa_flags = SA_SIGINFO;
  sigemptyset(&action.sa_mask);
  if (sigaction(SIGTRAP, &action, nullptr) != 0) {
    std::perror("sigaction");
    std::exit(2);
  }
}

/// Runs `body`, and `other` after its instruction number `after`.
/// @return how many instructions body had
template <class Body, class Other>
unsigned long run_interrupted(unsigned long after, Body&& body, const Other& other) {
  interruption_argument = &other;
  interruption = [](const void* argument) { (*static_cast<const Other*>(argument))(); };
  steps = 0;
  interrupt_after = after;
  // The trap flag, with the red zone of the stack left alone.
  asm volatile(
      "lea -128(%%rsp), %%rsp; pushfq; orq $0x100, (%%rsp); popfq; lea 128(%%rsp), %%rsp" ::
          : "memory", "cc");
  body();
  asm volatile(
      "lea -128(%%rsp), %%rsp; pushfq; andq $~0x100, (%%rsp); popfq; lea 128(%%rsp), %%rsp" ::
          : "memory", "cc");
  return steps;
}

/// Tries each point at which something can be interrupted. Ends the program with
/// 1 where the rule was broken.
/// @param run called with the number of the instruction, and where to say that
///            the rule was broken; returns how many instructions there were
template <class Run>
void at_every_instruction(const char* name, Run&& run) {
  unsigned long after = 1;
  for (;; ++after) {
    bool held = true;
    const unsigned long had = run(after, held);
    if (!held) {
      std::printf("%s: violated by an interruption after instruction %lu of %lu\n", name, after,
                  had);
      std::exit(1);
    }
    if (after > had) {
      break;
    }
  }
  std::printf("%s: held at all %lu instructions\n", name, after - 1);
}

}  // namespace kvm_litmus

#endif
