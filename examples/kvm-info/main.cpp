// SPDX-License-Identifier: MIT
// What this host's KVM offers, as tables or as JSON.
#include <CLI/CLI.hpp>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <string>

#include <fcntl.h>

#include "collect.hpp"
#include "print.hpp"

namespace {

constexpr int failed = 1;
constexpr int wrong_usage = 2;

/// Whether all of it reached standard output.
bool write_out(const std::string& text) {
  return std::fwrite(text.data(), 1, text.size(), stdout) == text.size() &&
         std::fflush(stdout) == 0;
}

int complain(const char* about) {
  std::fprintf(stderr, "kvm-info: %s\n", about);
  return failed;
}

}  // namespace

int main(int argc, char** argv) {
  // If it were closed, the next file opened, KVM itself, would take its place.
  if (::fcntl(STDOUT_FILENO, F_GETFD) < 0) {
    return complain("standard output is closed");
  }

  std::string device = "/dev/kvm";
  bool json = false;
  CLI::App app("Shows what this host's KVM offers: limits, capabilities, CPUID, MSRs, parameters.",
               "kvm-info");
  app.add_flag("--json", json, "Print JSON instead of tables");
  app.add_option("--device", device, "KVM's device file")->type_name("PATH")->capture_default_str();
  app.footer(
      "Exit status: 0, 1 if KVM cannot be asked or the output not written, 2 for wrong usage.");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : wrong_usage;
  }

  try {
    const kvm_info::Report report = kvm_info::collect(device);
    if (!write_out(json ? kvm_info::to_json(report) : kvm_info::to_text(report))) {
      return complain((std::string("standard output: ") + std::strerror(errno)).c_str());
    }
  } catch (const std::exception& error) {
    return complain(error.what());
  }
  return 0;
}
