// SPDX-License-Identifier: MIT
// Moves a running guest from one process to another (pre-copy live migration), and proves that all
// of it arrived.
#include <CLI/CLI.hpp>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <exception>
#include <map>
#include <string>

#include <fcntl.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "connection.hpp"
#include "destination.hpp"
#include "failure.hpp"
#include "guest.hpp"
#include "options.hpp"
#include "progress.hpp"
#include "source.hpp"

namespace migrate {
namespace {

int receive(const Options& options) {
  Listener listener(options.listen);
  if (!listener.connected()) {
    Progress(options.quiet).say("destination: listening on " + listener.address());
  }
  Connection connection(listener.accept(), options.timeout);
  try {
    receive_guest(connection, options);
  } catch (const PeerGone&) {
    throw;
  } catch (const std::exception& error) {
    connection.send_failure(error.what());
    throw;
  }
  return status::done;
}

int send(const Options& options) {
  const auto machine = run_source_guest(options);
  Connection connection(connect_to(options.to), options.timeout);
  send_guest(*machine, connection, options);
  return status::done;
}

/// A destination of its own for the demonstration: this program, in a process of its own.
class Destination {
 public:
  explicit Destination(const Options& options) {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
      throw Failure(std::string("no pair of sockets: ") + std::strerror(errno));
    }
    socket_ = kvm::Fd(ends[0]);
    const kvm::Fd theirs(ends[1]);
    constexpr int number = 3;
    const std::string timeout = std::to_string(options.timeout);
    const std::string memory = std::to_string(options.memory_mib);
    const char* const arguments[] = {"migrate",      "--listen",      "fd:3",
                                     "--timeout",    timeout.c_str(), "--max-memory",
                                     memory.c_str(), "--quiet",       nullptr};
    ::posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_adddup2(&actions, theirs.get(), number);
    const int error = ::posix_spawn(&process_, "/proc/self/exe", &actions, nullptr,
                                    const_cast<char* const*>(arguments), environ);
    ::posix_spawn_file_actions_destroy(&actions);
    if (error != 0) {
      process_ = -1;
      throw Failure(std::string("cannot start the destination: ") + std::strerror(error));
    }
  }
  Destination(const Destination&) = delete;
  Destination& operator=(const Destination&) = delete;
  ~Destination() { static_cast<void>(wait()); }

  ::pid_t process() const { return process_; }
  kvm::Fd take_socket() { return std::move(socket_); }
  /// Its exit status.
  int wait() {
    socket_.reset();
    int raw = 0;
    if (process_ > 0 && ::waitpid(process_, &raw, 0) != process_) {
      raw = status::failed << 8;
    }
    process_ = -1;
    return WIFEXITED(raw) ? WEXITSTATUS(raw) : status::failed;
  }

 private:
  kvm::Fd socket_;
  ::pid_t process_ = -1;
};

int demonstrate(const Options& options) {
  const auto machine = run_source_guest(options);
  Destination destination(options);
  Progress(options.quiet).say(format("migrating to process %d", destination.process()));
  {
    Connection connection(destination.take_socket(), options.timeout);
    send_guest(*machine, connection, options);
  }
  return destination.wait();
}

int run(const Options& options) {
  if (!options.listen.empty()) {
    return receive(options);
  }
  return options.to.empty() ? demonstrate(options) : send(options);
}

int complain(const char* about, int result) {
  std::fflush(stdout);
  std::fprintf(stderr, "migrate: %s\n", about);
  return result;
}

}  // namespace
}  // namespace migrate

int main(int argc, char** argv) {
  using namespace migrate;
  // If it were closed, the next file opened, KVM itself, would take its place.
  if (::fcntl(STDOUT_FILENO, F_GETFD) < 0) {
    return complain("standard output is closed", status::failed);
  }
  // A destination that dies must not take us along.
  std::signal(SIGPIPE, SIG_IGN);

  Options options;
  CLI::App app(
      "Moves a running guest to another process while it goes on writing, and proves that "
      "all of it arrived. Without --listen and --to it starts the other process itself.",
      "migrate");
  const std::map<std::string, kvm::DirtyMode> modes = {{"log", kvm::DirtyMode::log},
                                                       {"manual", kvm::DirtyMode::manual},
                                                       {"ring", kvm::DirtyMode::ring},
                                                       {"auto", kvm::DirtyMode::automatic}};
  std::string mode = "auto";
  auto* const listen = app.add_option("--listen", options.listen, "Be the destination: wait there")
                           ->type_name("HOST:PORT|PATH");
  app.add_option("--to", options.to, "Send a guest to the destination that listens there")
      ->type_name("HOST:PORT|PATH")
      ->excludes(listen);
  app.add_option("--mode", mode, "How dirty pages are found")
      ->check(CLI::IsMember(&modes))
      ->type_name("MODE")
      ->capture_default_str();
  app.add_option("--memory", options.memory_mib, "The guest's memory in MiB")
      ->check(CLI::Range(std::uint64_t{least_memory >> 20}, std::uint64_t{most_memory >> 20}))
      ->capture_default_str();
  app.add_option("--vcpus", options.vcpus, "Its vCPUs")
      ->check(CLI::Range(1u, most_vcpus))
      ->capture_default_str();
  app.add_option("--pages", options.pages, "Pages that each of them writes, a power of two from 64")
      ->check(CLI::Range(least_pages, most_pages(most_memory, 1)));
  app.add_option("--pauses", options.pauses, "PAUSE instructions between two of them")
      ->check(CLI::Range(0u, 1'000'000u))
      ->capture_default_str();
  app.add_option("--downtime-ms", options.downtime_ms,
                 "Stop the guest when the rest can be sent in this time")
      ->capture_default_str();
  app.add_option("--max-rounds", options.max_rounds, "Stop it after so many rounds in any case")
      ->check(CLI::Range(1u, 1'000'000u))
      ->capture_default_str();
  app.add_option("--bandwidth", options.bandwidth, "Send at most so many MiB/s; 0 is no limit")
      ->check(CLI::Range(0u, 1'000'000u))
      ->capture_default_str();
  app.add_option("--max-memory", options.max_memory_mib,
                 "With --listen: the most memory that a guest may have, in MiB")
      ->check(CLI::Range(std::uint64_t{least_memory >> 20}, std::uint64_t{most_memory >> 20}))
      ->capture_default_str();
  app.add_option("--timeout", options.timeout,
                 "Give up when the other side does nothing for so many seconds")
      ->check(CLI::Range(1u, 3600u))
      ->capture_default_str();
  app.add_flag("--quiet", options.quiet, "Print errors only");
  app.footer(
      "Exit status: 0 if the guest moved and the proof holds; 1 if it did not move; 2 for\n"
      "wrong usage; 3 if what arrived differs, or the guest found a fault; 4 if contact was\n"
      "lost while it was handed over; 77 if this host lacks what the mode needs.");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? status::done : status::wrong_usage;
  }
  options.mode = modes.at(mode);
  const std::uint64_t most = most_pages(options.memory_mib << 20, options.vcpus);
  if (options.pages > most || (options.pages & (options.pages - 1)) != 0) {
    return complain(format("--pages: %llu is no power of two, or too much for the memory: at most "
                           "%llu here",
                           static_cast<unsigned long long>(options.pages),
                           static_cast<unsigned long long>(most))
                        .c_str(),
                    status::wrong_usage);
  }

  try {
    const int result = run(options);
    if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {
      std::perror("migrate: standard output");
      return status::failed;
    }
    return result;
  } catch (const Unsupported& error) {
    return complain(error.what(), status::unsupported);
  } catch (const NotEqual& error) {
    return complain(error.what(), status::not_equal);
  } catch (const UnknownOutcome& error) {
    return complain(error.what(), status::unknown);
  } catch (const std::exception& error) {
    return complain(error.what(), status::failed);
  }
}
