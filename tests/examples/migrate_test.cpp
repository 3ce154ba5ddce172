// SPDX-License-Identifier: MIT
// migrate, as a user runs it: in every mode, between two processes, and with everything that can
// come over a socket or fail to.
#include <gtest/gtest.h>

#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <regex>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "program.hpp"

namespace {

using program::Outcome;

/// A folder that goes away.
struct Folder {
  std::string path = (std::filesystem::temp_directory_path() / "kvm-hpp-XXXXXX").string();
  Folder() { EXPECT_NE(::mkdtemp(path.data()), nullptr); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() { std::filesystem::remove_all(path); }
};

/// migrate running beside the test.
class Background {
 public:
  explicit Background(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "migrate");
    std::vector<char*> argv;
    for (std::string& argument : arguments) {
      argv.push_back(argument.data());
    }
    argv.push_back(nullptr);
    const std::string out = folder_.path + "/out";
    const std::string err = folder_.path + "/err";
    process_ = ::fork();
    if (process_ == 0) {
      ::dup2(::open(out.c_str(), O_CREAT | O_WRONLY | O_APPEND, 0600), STDOUT_FILENO);
      ::dup2(::open(err.c_str(), O_CREAT | O_WRONLY | O_APPEND, 0600), STDERR_FILENO);
      ::execv(EXAMPLE_MIGRATE, argv.data());
      ::_exit(99);
    }
  }
  Background(const Background&) = delete;
  Background& operator=(const Background&) = delete;
  ~Background() {
    if (process_ > 0) {
      kill();
      wait();
    }
  }

  std::string out() const { return program::read_file(folder_.path + "/out"); }
  /// Waits until it printed a line with this in it, and gives the line's rest.
  std::string wait_for(const std::string& text) const {
    for (int i = 0; i < 6000; ++i) {
      const std::string all = out();
      const auto at = all.find(text);
      const auto end = at == all.npos ? at : all.find('\n', at);
      if (end != all.npos) {
        return all.substr(at + text.size(), end - at - text.size());
      }
      ::siginfo_t ended{};
      if (::waitid(P_PID, static_cast<::id_t>(process_), &ended, WEXITED | WNOHANG | WNOWAIT) ==
              0 &&
          ended.si_pid != 0) {
        break;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    ADD_FAILURE() << "'" << text << "' did not come: " << out()
                  << program::read_file(folder_.path + "/err");
    return {};
  }
  void kill() const { ::kill(process_, SIGKILL); }
  Outcome wait() {
    int raw = 0;
    EXPECT_EQ(::waitpid(process_, &raw, 0), process_);
    process_ = -1;
    return {.status = WIFEXITED(raw) ? WEXITSTATUS(raw) : 128 + WTERMSIG(raw),
            .out = out(),
            .err = program::read_file(folder_.path + "/err")};
  }

 private:
  Folder folder_;
  ::pid_t process_ = -1;
};

void expect_contains(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << "'" << part << "' is not in: " << text;
}

/// Everything that a migration that went well says.
void expect_moved(const Outcome& outcome) {
  EXPECT_EQ(outcome.status, 0) << outcome.out << outcome.err;
  EXPECT_EQ(outcome.err, "");
  for (const char* what : {"memory", "vCPU state"}) {
    const std::regex line(std::string(what) +
                          " equal: yes \\(checksum ([0-9a-f]{16}) here, ([0-9a-f]{16}) there\\)");
    std::smatch match;
    if (std::regex_search(outcome.out, match, line)) {
      EXPECT_EQ(match[1], match[2]);
    } else {
      ADD_FAILURE() << what << ": " << outcome.out;
    }
  }
  const std::regex device("device equal: yes \\(heartbeat (\\d+) here, (\\d+) there, (\\d+) in");
  std::smatch match;
  if (std::regex_search(outcome.out, match, device)) {
    EXPECT_EQ(match[1], match[2]);
    EXPECT_EQ(match[1], match[3]);
    EXPECT_NE(match[1], "0");
  } else {
    ADD_FAILURE() << outcome.out;
  }
  expect_contains(outcome.out, "downtime: ");
  expect_contains(outcome.out, "the guest goes on: vCPU 0 has done laps ");
}

class Migrate : public ::testing::Test {
 protected:
  void SetUp() override { SKIP_WITHOUT_KVM(EXAMPLE_MIGRATE); }

  /// What KVM says of a capability, asked with nothing but ioctl().
  static int check(unsigned capability) {
    const int system = ::open("/dev/kvm", O_RDWR | O_CLOEXEC);
    const int vm = ::ioctl(system, 0xae01ul, 0ul);
    const int value = ::ioctl(vm, 0xae03ul, static_cast<unsigned long>(capability));
    ::close(vm);
    ::close(system);
    return value;
  }
  static constexpr unsigned manual_dirty_log_protect2 = 168;
  static constexpr unsigned dirty_log_ring = 192;
  static constexpr unsigned dirty_log_ring_acq_rel = 223;

  static Outcome expect_mode(const std::string& mode, const std::string& more = {}) {
    const Outcome outcome = program::run(EXAMPLE_MIGRATE, "--mode " + mode + " " + more);
    expect_moved(outcome);
    return outcome;
  }

  Folder folder_;
  std::string path_ = folder_.path + "/socket";
};

TEST_F(Migrate, MovesAGuestByLog) { expect_contains(expect_mode("log").out, "pages by log ("); }

TEST_F(Migrate, MovesAGuestByManualLog) {
  if (check(manual_dirty_log_protect2) <= 0) {
    EXPECT_EQ(program::run(EXAMPLE_MIGRATE, "--mode manual").status, 77);
    GTEST_SKIP() << "KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 is not offered by this host";
  }
  expect_contains(expect_mode("manual").out, "pages by manual (");
}

TEST_F(Migrate, MovesAGuestByRing) {
  if (check(dirty_log_ring_acq_rel) <= 0 && check(dirty_log_ring) <= 0) {
    EXPECT_EQ(program::run(EXAMPLE_MIGRATE, "--mode ring").status, 77);
    GTEST_SKIP() << "KVM_CAP_DIRTY_LOG_RING_ACQ_REL is not offered by this host";
  }
  expect_contains(expect_mode("ring").out, "pages by ring (");
}

TEST_F(Migrate, MovesAGuestByWhatTheHostHas) {
  const Outcome outcome = expect_mode("auto");
  expect_contains(outcome.out, check(manual_dirty_log_protect2) > 0 ? "by manual (" : "by log (");
  // All of the 64 MiB went in the first round.
  EXPECT_TRUE(std::regex_search(outcome.out, std::regex("\n +1 +16384 +64\\.")));
}

TEST_F(Migrate, MovesAGuestThatWritesAsFastAsItCan) {
  for (const char* mode : {"log", "manual", "ring"}) {
    SCOPED_TRACE(mode);
    const Outcome outcome = program::run(
        EXAMPLE_MIGRATE,
        std::string("--memory 9 --pauses 0 --pages 256 --max-rounds 8 --mode ") + mode);
    if (outcome.status != 77) {  // Whether that is right is tested above.
      expect_moved(outcome);
    }
  }
}

TEST_F(Migrate, MovesOneVcpuAndMany) {
  expect_moved(program::run(EXAMPLE_MIGRATE, "--memory 8 --vcpus 1"));
  expect_moved(program::run(EXAMPLE_MIGRATE, "--memory 8 --vcpus 5 --pages 64 --pauses 50"));
}

TEST_F(Migrate, SaysThatItDoesNotConverge) {
  const Outcome outcome = program::run(
      EXAMPLE_MIGRATE, "--memory 8 --bandwidth 20 --downtime-ms 1 --max-rounds 2 --pauses 100");
  expect_moved(outcome);
  expect_contains(outcome.out, "it does not converge: after 2 rounds ");
  expect_contains(outcome.out, " in 2 rounds and a last one");
}

TEST_F(Migrate, MovesBetweenProcesses) {
  for (const std::string& address : {path_, std::string("127.0.0.1:0")}) {
    SCOPED_TRACE(address);
    Background destination({"--listen", address});
    const std::string at = destination.wait_for("listening on ");
    const Outcome source = program::run(EXAMPLE_MIGRATE, "--memory 16 --to " + at);
    expect_moved(source);
    const Outcome other = destination.wait();
    EXPECT_EQ(other.status, 0) << other.err;
    EXPECT_EQ(other.err, "");
    expect_contains(other.out, "destination: the guest goes on: vCPU 0 has done laps ");
  }
  EXPECT_FALSE(std::filesystem::exists(path_));
}

TEST_F(Migrate, KeepsTheGuestWhenTheDestinationDies) {
  Background destination({"--listen", path_});
  destination.wait_for("listening on ");
  Background source({"--memory", "64", "--bandwidth", "20", "--to", path_});
  source.wait_for("   round ");
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  destination.kill();
  const Outcome outcome = source.wait();
  EXPECT_EQ(outcome.status, 1) << outcome.out << outcome.err;
  expect_contains(outcome.err, "migrate: the other side is gone while ");
  expect_contains(outcome.out, "the guest runs on here, unharmed");
}

TEST_F(Migrate, LeavesNothingWhenTheSourceDies) {
  Background destination({"--listen", path_});
  destination.wait_for("listening on ");
  Background source({"--memory", "64", "--bandwidth", "20", "--to", path_});
  source.wait_for("   round ");
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  source.kill();
  const Outcome outcome = destination.wait();
  EXPECT_EQ(outcome.status, 1) << outcome.out << outcome.err;
  expect_contains(outcome.err, "migrate: the other side is gone while receiving");
}

TEST_F(Migrate, TellsTheSourceWhyItIsRefused) {
  Background destination({"--listen", path_, "--max-memory", "8"});
  destination.wait_for("listening on ");
  const Outcome source = program::run(EXAMPLE_MIGRATE, "--memory 16 --to " + path_);
  EXPECT_EQ(source.status, 1);
  expect_contains(source.err, "the other side says: the guest has 16777216 bytes of memory");
  expect_contains(source.out, "the guest runs on here, unharmed");
  EXPECT_EQ(destination.wait().status, 1);
}

TEST_F(Migrate, SaysThatNobodyListens) {
  const Outcome outcome = program::run(EXAMPLE_MIGRATE, "--memory 8 --to " + path_);
  EXPECT_EQ(outcome.status, 1);
  expect_contains(outcome.err, "cannot connect to " + path_);
}

// The protocol, by hand: what examples/migrate/wire.hpp describes.

enum Type : std::uint32_t {
  hello = 1,
  ready,
  pages,
  vcpu,
  device,
  stopped,
  restored,
  proof,
  resume
};

struct Header {
  std::uint32_t magic = 0x2b6d766b;
  std::uint32_t type = 0;
  std::uint64_t size = 0;
};

std::string bytes_of(const auto& value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof value);
}
std::string frame(std::uint32_t type, const std::string& payload = {}) {
  return bytes_of(Header{.type = type, .size = payload.size()}) + payload;
}
std::string hello_frame(std::uint64_t memory = 8 << 20, std::uint32_t vcpus = 1,
                        std::uint32_t version = 1, std::uint64_t page = 4096) {
  return frame(hello, bytes_of(version) + bytes_of(vcpus) + bytes_of(memory) + bytes_of(page));
}
std::string pages_frame(std::uint64_t gpa, std::uint64_t size) {
  return frame(pages, bytes_of(gpa) + std::string(size, 'x'));
}
std::string vcpu_frame(std::uint32_t id, const std::string& state) {
  return frame(vcpu, bytes_of(id) + state);
}
std::string section(std::uint32_t number, const std::string& content) {
  return bytes_of(number) + bytes_of(static_cast<std::uint32_t>(content.size())) + content;
}

/// A socket of the test's own.
class Socket {
 public:
  explicit Socket(int fd) : fd_(fd) {}
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;
  ~Socket() { close(); }

  static ::sockaddr_un address(const std::string& path) {
    ::sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path.data(), path.size());
    return address;
  }
  static int connect(const std::string& path) {
    const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const auto to = address(path);
    EXPECT_EQ(::connect(fd, reinterpret_cast<const ::sockaddr*>(&to), sizeof to), 0);
    return fd;
  }
  static int listen(const std::string& path) {
    const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const auto at = address(path);
    EXPECT_EQ(::bind(fd, reinterpret_cast<const ::sockaddr*>(&at), sizeof at), 0);
    EXPECT_EQ(::listen(fd, 1), 0);
    return fd;
  }
  void close() {
    if (fd_ >= 0) {
      ::close(fd_);
      fd_ = -1;
    }
  }
  int fd() const { return fd_; }
  void end() const { ::shutdown(fd_, SHUT_WR); }
  void shutdown() const { ::shutdown(fd_, SHUT_RDWR); }

  /// False if the other side is gone.
  bool send(const std::string& text) const {
    std::size_t done = 0;
    while (done < text.size()) {
      const auto count = ::send(fd_, text.data() + done, text.size() - done, MSG_NOSIGNAL);
      if (count <= 0) {
        return false;
      }
      done += static_cast<std::size_t>(count);
    }
    return true;
  }
  /// As many bytes as asked for, unless the other side ends.
  std::string receive(std::size_t size) const {
    std::string text(size, '\0');
    std::size_t done = 0;
    while (done < size) {
      const auto count = ::recv(fd_, text.data() + done, size - done, 0);
      if (count <= 0) {
        break;
      }
      done += static_cast<std::size_t>(count);
    }
    text.resize(done);
    return text;
  }

 private:
  int fd_;
};

struct BadStream {
  const char* what;
  std::string bytes;
  const char* error;
};

TEST_F(Migrate, RefusesWhatIsNoMigration) {
  const std::uint64_t huge = ~std::uint64_t{0};
  const std::string ok = hello_frame();
  // Sections of a vCPU's state: 2 is mp_state, 4 bytes.
  const BadStream streams[] = {
      {"nothing", "", "gone while receiving"},
      {"half a header", bytes_of(Header{}).substr(0, 7), "gone while receiving"},
      {"HTTP", "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "wrong magic number"},
      {"zeroes", std::string(4096, '\0'), "wrong magic number"},
      {"another type first", frame(pages), "type 3 instead of type 1"},
      {"an unknown type first", frame(77), "type 77 instead of type 1"},
      {"a greeting without end", bytes_of(Header{.type = hello, .size = huge}), "at most"},
      {"a short greeting", frame(hello, "abc"), "cut short"},
      {"another version", hello_frame(8 << 20, 1, 2), "version 2"},
      {"other pages", hello_frame(8 << 20, 1, 1, 65536), "pages of 65536 bytes"},
      {"no memory", hello_frame(0), "bytes of memory"},
      {"all memory", hello_frame(huge), "bytes of memory"},
      {"half a page of memory", hello_frame((8 << 20) + 2048), "bytes of memory"},
      {"no vCPU", hello_frame(8 << 20, 0), "0 vCPUs"},
      {"many vCPUs", hello_frame(8 << 20, 4000000000u), "4000000000 vCPUs"},
      {"an unknown type", ok + frame(77), "type 77"},
      {"answers", ok + frame(ready), "type 2 where"},
      {"a hand-over too early", ok + frame(resume), "type 9 where"},
      {"pages without address", ok + frame(pages, "1234"), "without an address"},
      {"no pages", ok + pages_frame(0, 0), "no range of pages"},
      {"half a page", ok + pages_frame(0, 2048), "no range of pages"},
      {"a page across pages", ok + pages_frame(2048, 4096), "no range of pages"},
      {"too many pages", ok + pages_frame(0, 512 * 1024), "or too long"},
      {"pages that wrap", ok + bytes_of(Header{.type = pages, .size = huge}) + bytes_of(huge),
       "no range of pages"},
      {"pages behind memory", ok + pages_frame(8 << 20, 4096), "no memory there"},
      {"pages half behind memory", ok + pages_frame((8 << 20) - 4096, 8192), "no memory there"},
      {"pages at the end of all", ok + pages_frame(huge - 4095, 4096), "no memory there"},
      {"cut pages", ok + pages_frame(4096, 8192).substr(0, 5000), "gone while receiving pages"},
      {"no state at all", ok + frame(stopped), "no state for one of the vCPUs"},
      {"state of no vCPU", ok + frame(vcpu, "ab"), "cut short"},
      {"state of another vCPU", ok + vcpu_frame(1, ""), "state for vCPU 1"},
      {"empty state", ok + vcpu_frame(0, ""), "cpuid is missing"},
      {"huge state", ok + bytes_of(Header{.type = vcpu, .size = huge}), "at most"},
      {"half a section", ok + vcpu_frame(0, section(2, "1234").substr(0, 9)), "cut short"},
      {"a long section", ok + vcpu_frame(0, bytes_of(std::uint64_t{0xffffffff} << 32 | 2)),
       "cut short"},
      {"an unknown section", ok + vcpu_frame(0, section(99, "1234")), "section 99 is unknown"},
      {"a section twice", ok + vcpu_frame(0, section(2, "1234") + section(2, "1234")),
       "mp_state is there twice"},
      {"a section of another size",
       ok + vcpu_frame(0, section(0, "") + section(1, "1234") + section(2, "12345")),
       "mp_state has the wrong size"},
      {"half a CPUID entry", ok + vcpu_frame(0, section(0, "123")), "cpuid has the wrong size"},
      {"a small device", ok + frame(device, "1"), "cut short"},
      {"a large device", ok + frame(device, std::string(1000, '1')), "at most"},
      {"giving up", ok + frame(12, "so \x1b[31mit is"), "given up: so ?[31mit is"},
  };
  for (const BadStream& stream : streams) {
    SCOPED_TRACE(stream.what);
    Background destination({"--listen", path_});
    destination.wait_for("listening on ");
    Socket socket(Socket::connect(path_));
    socket.send(stream.bytes);
    socket.end();
    const Outcome outcome = destination.wait();
    EXPECT_EQ(outcome.status, 1) << outcome.err;
    EXPECT_EQ(outcome.err.substr(0, 9), "migrate: ");
    expect_contains(outcome.err, stream.error);
    EXPECT_FALSE(std::filesystem::exists(path_));
  }
}

TEST_F(Migrate, DoesNotWaitForever) {
  {
    Background destination({"--listen", path_, "--timeout", "1"});
    destination.wait_for("listening on ");
    const Socket socket(Socket::connect(path_));
    const Outcome outcome = destination.wait();
    EXPECT_EQ(outcome.status, 1);
    expect_contains(outcome.err, "did nothing for 1 s while receiving");
  }
  const Socket listener(Socket::listen(path_));
  const Outcome outcome =
      program::run(EXAMPLE_MIGRATE, "--memory 8 --pages 64 --pauses 0 --timeout 2 --to " + path_);
  EXPECT_EQ(outcome.status, 1);
  expect_contains(outcome.err, "did nothing for 2 s while receiving");
  expect_contains(outcome.out, "the guest runs on here, unharmed");
}

/// Stands between a source and a destination, and does harm.
class Middle {
 public:
  /// May change a frame. False: it and all that follows is lost, for both.
  using Harm = std::function<bool(std::uint32_t type, std::string& payload)>;

  struct Both {
    Outcome source;
    Outcome destination;
  };
  static Both migrate_through(const std::string& folder, const Harm& harm) {
    const std::string there = folder + "/there";
    const std::string here = folder + "/here";
    Background destination({"--listen", there});
    destination.wait_for("listening on ");
    Socket listener(Socket::listen(here));
    Background source({"--memory", "8", "--to", here});
    {
      const Socket from(::accept(listener.fd(), nullptr, nullptr));
      const Socket to(Socket::connect(there));
      std::thread back([&] {
        for (std::string some = to.receive(1); !some.empty(); some = to.receive(1)) {
          from.send(some);
        }
        from.end();
      });
      pump(from, to, harm);
      back.join();
    }
    return {source.wait(), destination.wait()};
  }

 private:
  static void pump(const Socket& from, const Socket& to, const Harm& harm) {
    for (;;) {
      Header header;
      const std::string start = from.receive(sizeof header);
      if (start.size() != sizeof header) {
        to.end();
        return;
      }
      std::memcpy(&header, start.data(), sizeof header);
      std::string payload = from.receive(header.size);
      if (!harm(header.type, payload)) {
        from.shutdown();
        to.shutdown();
        return;
      }
      // An empty payload stands for a frame that is left out.
      if (header.size == 0 || !payload.empty()) {
        to.send(frame(header.type, payload));
      }
    }
  }
};

TEST_F(Migrate, MovesThroughAMiddleThatDoesNoHarm) {
  const auto [source, destination] =
      Middle::migrate_through(folder_.path, [](std::uint32_t, std::string&) { return true; });
  expect_moved(source);
  EXPECT_EQ(destination.status, 0) << destination.err;
}

/// The proof failed, and the guest was not handed over.
void expect_not_equal(const Middle::Both& both, const char* what) {
  EXPECT_EQ(both.source.status, 3) << both.source.out << both.source.err;
  expect_contains(both.source.out, what);
  expect_contains(both.source.out, "the guest runs on here, unharmed");
  expect_contains(both.source.err, "what arrived is not what was sent");
  EXPECT_EQ(both.destination.status, 1) << both.destination.err;
  expect_contains(both.destination.err, "the guest was not handed over");
}

TEST_F(Migrate, FindsABitThatFlipped) {
  unsigned frames = 0;
  expect_not_equal(Middle::migrate_through(folder_.path,
                                           [&](std::uint32_t type, std::string& payload) {
                                             // Of a page that is noise, sent once.
                                             if (type == pages && ++frames == 8) {
                                               payload[8 + 5000] =
                                                   static_cast<char>(payload[8 + 5000] ^ 1);
                                             }
                                             return true;
                                           }),
                   "memory equal: no");
}

TEST_F(Migrate, FindsPagesThatAreMissing) {
  std::uint64_t sent = 0;
  expect_not_equal(Middle::migrate_through(folder_.path,
                                           [&](std::uint32_t type, std::string& payload) {
                                             // A run of the second round or a later one.
                                             if (type == pages) {
                                               sent += payload.size() - 8;
                                               std::uint64_t gpa = 0;
                                               std::memcpy(&gpa, payload.data(), sizeof gpa);
                                               if (sent > 8 << 20 && gpa <= 0x3000) {
                                                 payload.clear();  // The heartbeat's page.
                                               }
                                             }
                                             return true;
                                           }),
                   "memory equal: no");
}

TEST_F(Migrate, FindsARegisterThatChanged) {
  expect_not_equal(Middle::migrate_through(folder_.path,
                                           [&](std::uint32_t type, std::string& payload) {
                                             if (type != vcpu) {
                                               return true;
                                             }
                                             // Section 4 holds the general registers: rbx is the
                                             // second.
                                             for (std::size_t at = 4; at < payload.size();) {
                                               std::uint32_t number = 0;
                                               std::uint32_t size = 0;
                                               std::memcpy(&number, &payload[at], 4);
                                               std::memcpy(&size, &payload[at + 4], 4);
                                               if (number == 4) {
                                                 payload[at + 8 + 8] ^= 1;
                                               }
                                               at += 8 + size;
                                             }
                                             return true;
                                           }),
                   "vCPU state equal: no");
}

TEST_F(Migrate, FindsADeviceThatChanged) {
  expect_not_equal(Middle::migrate_through(folder_.path,
                                           [&](std::uint32_t type, std::string& payload) {
                                             if (type == device) {
                                               payload[0] ^= 1;
                                             }
                                             return true;
                                           }),
                   "device equal: no");
}

TEST_F(Migrate, DoesNotRunTheGuestTwice) {
  // Contact is lost at the hand-over: it may run there, and so it must not run here.
  const auto lost = Middle::migrate_through(
      folder_.path, [](std::uint32_t type, std::string&) { return type != resume; });
  EXPECT_EQ(lost.source.status, 4) << lost.source.out << lost.source.err;
  expect_contains(lost.source.err, "it must not run here");
  EXPECT_EQ(lost.source.out.find("runs on here"), std::string::npos);
  EXPECT_EQ(lost.destination.status, 1);
  expect_contains(lost.destination.err, "the guest was not handed over");
}

TEST_F(Migrate, KeepsTheGuestUntilTheHandOver) {
  // Contact is lost a little earlier.
  for (const std::uint32_t at : {vcpu, device, stopped}) {
    SCOPED_TRACE(at);
    const auto lost = Middle::migrate_through(
        folder_.path, [at](std::uint32_t type, std::string&) { return type != at; });
    EXPECT_EQ(lost.source.status, 1) << lost.source.out << lost.source.err;
    expect_contains(lost.source.out, "the guest runs on here, unharmed");
    EXPECT_EQ(lost.destination.status, 1) << lost.destination.err;
    std::filesystem::remove(folder_.path + "/here");
  }
}

TEST_F(Migrate, SaysThatItsOutputIsLost) {
  for (const char* where : {">/dev/full", ">&-"}) {
    const Outcome outcome = program::run(EXAMPLE_MIGRATE, std::string("--memory 8 ") + where);
    EXPECT_EQ(outcome.status, 1) << where;
    expect_contains(outcome.err, "migrate: standard output");
  }
}

TEST_F(Migrate, IsQuietWhenAsked) {
  const Outcome outcome = program::run(EXAMPLE_MIGRATE, "--memory 8 --quiet");
  EXPECT_EQ(outcome.status, 0);
  EXPECT_EQ(outcome.out, "");
  EXPECT_EQ(outcome.err, "");
}

TEST(MigrateUsage, HelpsAndRefuses) {
  SKIP_WITHOUT_EXAMPLE(EXAMPLE_MIGRATE);
  const Outcome help = program::run(EXAMPLE_MIGRATE, "--help");
  EXPECT_EQ(help.status, 0);
  for (const char* option :
       {"--mode", "--listen", "--to", "--memory", "--downtime-ms", "--max-rounds", "Exit status"}) {
    expect_contains(help.out, option);
  }
  for (const char* arguments :
       {"--nope", "extra", "--mode nope", "--mode", "--memory 7", "--memory x", "--vcpus 0",
        "--pages 100", "--memory 8 --pages 4096", "--listen a/b --to a/b", "--timeout 0"}) {
    const Outcome outcome = program::run(EXAMPLE_MIGRATE, arguments);
    EXPECT_EQ(outcome.status, 2) << arguments;
    EXPECT_EQ(outcome.out, "") << arguments;
    EXPECT_FALSE(outcome.err.empty()) << arguments;
  }
  for (const char* address : {"nowhere", "host:", "fd:99", "fd:x", "fd:2"}) {
    const Outcome outcome = program::run(EXAMPLE_MIGRATE, std::string("--listen ") + address);
    EXPECT_EQ(outcome.status, 1) << address;
    expect_contains(outcome.err, std::string("'") + address + "'");
  }
}

}  // namespace
