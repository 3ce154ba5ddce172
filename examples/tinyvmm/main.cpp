// SPDX-License-Identifier: MIT
// A small virtual machine monitor that boots Linux.
#include <CLI/CLI.hpp>

#include <csignal>
#include <cstdio>
#include <cstring>
#include <exception>
#include <string>
#include <thread>

#include <fcntl.h>
#include <unistd.h>

#include "console.hpp"
#include "failure.hpp"
#include "machine.hpp"
#include "options.hpp"
#include "terminal.hpp"

namespace tinyvmm {
namespace {

int complain(const std::string& about, int result) {
  std::fprintf(stderr, "tinyvmm: %s\n", about.c_str());
  return result;
}

void print_timing(const Machine& machine) {
  double total = 0;
  for (const Machine::Lap& lap : machine.timing()) {
    std::fprintf(stderr, "%9.3f ms  %.*s\n", lap.time.count(), static_cast<int>(lap.part.size()),
                 lap.part.data());
    total += lap.time.count();
  }
  std::fprintf(stderr, "%9.3f ms  from the start of the program to the first instruction\n", total);
}

/// Boots the guest, and lets it talk to the terminal until it ends.
Ending run(const Options& options) {
  Console console(STDIN_FILENO, STDOUT_FILENO, ::isatty(STDIN_FILENO) == 1);
  Machine machine(options, console);
  Ending ending;
  {
    const Terminal terminal;
    console.start({.input = [&] { machine.input_ready(); },
                   .leave = [&] { machine.stop({status::powered_off}); },
                   .failed =
                       [&](const std::string& why) {
                         machine.stop({status::host_failed, why});
                       }});
    // It calls the machine: it must have ended when that is gone, whatever happens.
    struct Stop {
      Console& console;
      ~Stop() { console.stop(); }
    } const stop{console};
    ending = machine.run();
  }
  if (options.timing) {
    print_timing(machine);
  }
  return ending;
}

}  // namespace
}  // namespace tinyvmm

int main(int argc, char** argv) {
  using namespace tinyvmm;
  // Were they closed, the next files opened, KVM itself, would take their places.
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (::fcntl(fd, F_GETFD) < 0 && ::open("/dev/null", O_RDWR) != fd) {
      return status::host_failed;
    }
  }
  // When nobody reads the guest's output any more, or a file gets too large, a write tells so.
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);

  // An empty name is what a script passes whose variable is not set.
  const CLI::Validator named(
      [](const std::string& name) { return std::string(name.empty() ? "the name is empty" : ""); },
      "");
  Options options;
  CLI::App app(
      "Boots a kernel in a virtual machine, with a serial console on this terminal.\n"
      "Ctrl-A x leaves, Ctrl-A Ctrl-A sends Ctrl-A to the guest.",
      "tinyvmm");
  app.add_option("--kernel", options.kernel, "A Linux kernel, or on x86 a multiboot kernel")
      ->required()
      ->check(named)
      ->type_name("FILE");
  app.add_option("--initrd", options.initrd, "Its initial file system, or multiboot module")
      ->check(named)
      ->type_name("FILE");
  app.add_option("--cmdline", options.cmdline, "The kernel's command line")->type_name("TEXT");
  auto* const disk = app.add_option("--disk", options.disk, "The file behind a virtio-blk disk")
                         ->check(named)
                         ->type_name("FILE");
  app.add_flag("--disk-writable", options.disk_writable, "The guest may write to it")->needs(disk);
  app.add_option("--memory", options.memory, "The guest's memory, as in 512M")
      ->transform(CLI::AsSizeValue(false))
      ->type_name("SIZE")
      ->default_str("256M");
  app.add_option("--cpus", options.cpus, "Its processors")
      ->check(CLI::Range(1u, most_cpus))
      ->capture_default_str();
  app.add_flag("--dump-on-crash", options.dump_on_crash,
               "Print registers and code when the guest crashes");
  app.add_flag("--timing", options.timing, "Print how long each part of the start took");
  app.footer(
      "Exit status: 0 if the guest powered off or you left; 2 for wrong usage; 4 if a file is\n"
      "missing, malformed or too large; 6 if KVM or the host refused, or the output is gone; 8\n"
      "if the guest reset itself; 10 if it crashed (triple fault); 12 if KVM cannot go on with\n"
      "it. Odd ones are the guest's, from isa-debug-exit: what it wrote, times 2, plus 1.");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? status::powered_off : status::wrong_usage;
  }
  if (options.memory < least_memory || options.memory > most_memory ||
      options.memory % memory_unit != 0) {
    return complain("--memory: it must be a multiple of 64K, from 2M to 1024G",
                    status::wrong_usage);
  }

  try {
    const Ending ending = run(options);
    return ending.message.empty() ? ending.status : complain(ending.message, ending.status);
  } catch (const BadImage& error) {
    return complain(error.what(), status::bad_image);
  } catch (const std::exception& error) {
    return complain(error.what(), status::host_failed);
  }
}
