// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_TESTS_EXAMPLES_PROGRAM_HPP
#define KVM_HPP_TESTS_EXAMPLES_PROGRAM_HPP

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

/// @file
/// Running a program and looking at what it prints.

namespace program {

struct Outcome {
  int status = -1;  ///< the exit status; 128 and more for a signal
  std::string out;
  std::string err;
};

inline std::string read_file(const std::filesystem::path& path) {
  std::ostringstream content;
  content << std::ifstream(path, std::ios::binary).rdbuf();
  return content.str();
}

/// Runs a program in a shell: `arguments` can redirect, `before` can set limits.
inline Outcome run(const std::string& path, const std::string& arguments = {},
                   const std::string& before = {}) {
  std::string folder = (std::filesystem::temp_directory_path() / "kvm-hpp-XXXXXX").string();
  if (::mkdtemp(folder.data()) == nullptr) {
    ADD_FAILURE() << "no temporary folder";
    return {};
  }
  const std::string line = "( " + before + "exec '" + path + "' " + arguments + " ) >'" + folder +
                           "/out' 2>'" + folder + "/err' </dev/null";
  const int raw = std::system(line.c_str());
  Outcome outcome{.status = WIFEXITED(raw) ? WEXITSTATUS(raw) : 128 + WTERMSIG(raw),
                  .out = read_file(folder + "/out"),
                  .err = read_file(folder + "/err")};
  std::filesystem::remove_all(folder);
  return outcome;
}

/// Why this host cannot run guests, or an empty string.
inline std::string no_kvm() {
  const int fd = ::open("/dev/kvm", O_RDWR | O_CLOEXEC);
  if (fd < 0) {
    return "/dev/kvm cannot be opened by this user";
  }
  ::close(fd);
  return {};
}

}  // namespace program

/// Skips unless the example was built.
#define SKIP_WITHOUT_EXAMPLE(path)                            \
  if (std::string(path).empty()) {                            \
    GTEST_SKIP() << "this example is not part of this build"; \
  }
/// Skips unless there is a KVM too.
#define SKIP_WITHOUT_KVM(path)                                  \
  SKIP_WITHOUT_EXAMPLE(path)                                    \
  if (const auto reason = program::no_kvm(); !reason.empty()) { \
    GTEST_SKIP() << reason;                                     \
  }

#endif
