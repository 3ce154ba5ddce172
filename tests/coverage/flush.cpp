// SPDX-License-Identifier: MIT
// Linked into the tests by scripts/coverage: a process that ends by abort() or _exit(), as the
// children of tests do, would not write down what it reached. What the program refers to is
// replaced by -Wl,--wrap; this file itself is not counted.
extern "C" {
void __gcov_dump();
[[noreturn]] void __real_abort();
[[noreturn]] void __real__exit(int status);

[[noreturn]] void __wrap_abort() {
  __gcov_dump();
  __real_abort();
}

[[noreturn]] void __wrap__exit(int status) {
  __gcov_dump();
  __real__exit(status);
}
}
