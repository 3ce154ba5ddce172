// SPDX-License-Identifier: MIT
#include "source.hpp"

#include <algorithm>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "checksum.hpp"
#include "failure.hpp"
#include "progress.hpp"
#include "proof.hpp"
#include "vcpu_state.hpp"
#include "wire.hpp"

namespace migrate {
namespace {

const char* name_of(kvm::DirtyMode mode) {
  switch (mode) {
    case kvm::DirtyMode::log:
      return "log (KVM_GET_DIRTY_LOG)";
    case kvm::DirtyMode::manual:
      return "manual (KVM_GET_DIRTY_LOG, KVM_CLEAR_DIRTY_LOG)";
    default:
      return "ring (a dirty ring per vCPU)";
  }
}

GuestOptions guest_of(const Options& options) {
  GuestOptions guest{.memory_bytes = options.memory_mib << 20,
                     .vcpus = options.vcpus,
                     .pages = options.pages,
                     .pauses = options.pauses};
  const std::uint64_t most = most_pages(guest.memory_bytes, guest.vcpus);
  if (guest.pages == 0) {
    guest.pages = std::clamp<std::uint64_t>(most / 4, least_pages, 1024);
  }
  return guest;
}

/// The pages that the other side lacks. This machine has one slot; with several, each has a bitmap.
class Pending {
 public:
  explicit Pending(Machine& machine)
      : machine_(machine), subscription_(machine.tracker().subscribe()), bitmap_(machine.ram()) {
    // A slot whose writes nobody records would arrive as it was at the start.
    if (!machine.tracker().untracked().empty()) {
      throw Failure("the guest has memory whose dirty pages cannot be tracked");
    }
  }

  /// Adds what was written since the last time, by the guest and by the VMM.
  ///
  /// The pages are read later than they are handed over. That is safe: they hold at least what was
  /// written before, and a write from now on is handed over the next time. The other way around,
  /// reading a page before the harvest, would lose what is written in between.
  void harvest() {
    harvested_ = Clock::now();
    const kvm::DirtyHarvest harvest = subscription_.harvest([this](const kvm::DirtyPages& dirty) {
      bitmap_.set(dirty.pages.first, dirty.pages.count);
    });
    if (harvest.untracked != 0) {
      throw Failure("the guest has memory whose dirty pages cannot be tracked");
    }
  }

  std::uint64_t pages() const { return bitmap_.count(); }
  /// How many became dirty per second; 0 if that is not known yet.
  double rate() const {
    const double ms = milliseconds(harvested_ - clean_);
    return clean_ == Clock::time_point() || ms <= 0 ? 0 : static_cast<double>(pages()) * 1000 / ms;
  }

  /// Sends them all: f(gpa, size) for each piece.
  template <class F>
  void send(F&& f) {
    constexpr std::uint64_t piece = most_page_bytes / guest_page;
    std::uint64_t page = 0;
    while (const auto run = bitmap_.next_run(page)) {
      const std::uint64_t count = std::min(run->count, piece);
      f(machine_.ram().gpa() + run->first * guest_page, count * guest_page);
      page = run->first + count;
    }
    bitmap_.clear();
    clean_ = harvested_;
  }

 private:
  Machine& machine_;
  kvm::DirtySubscription subscription_;
  kvm::DirtyBitmap bitmap_;
  Clock::time_point harvested_{};  // last
  Clock::time_point clean_{};      // since when pages have become pending
};

/// Where and whose the guest is, as far as the source knows.
enum class Guest { runs_here, stopped_here, handed_over };

class Migration {
 public:
  Migration(Machine& machine, Connection& connection, const Options& options)
      : machine_(machine),
        connection_(connection),
        options_(options),
        progress_(options.quiet),
        memory_(machine.memory().view()) {}

  void run() {
    greet();
    machine_.tracker().log_all(true);
    Pending pending(machine_);
    copy_while_running(pending);
    stop_and_copy(pending);
    compare();
    hand_over();
  }
  Guest guest() const { return guest_; }

 private:
  void greet() {
    connection_.send_value(FrameType::hello, Hello{.version = wire_version,
                                                   .vcpus = machine_.vcpus(),
                                                   .memory_bytes = machine_.memory_bytes(),
                                                   .page_bytes = guest_page});
    connection_.receive(FrameType::ready);
  }

  /// The rounds. Afterwards, what is pending can be sent within the downtime that is allowed, or
  /// never will.
  void copy_while_running(Pending& pending) {
    progress_.heading();
    for (rounds_ = 1;; ++rounds_) {
      pending.harvest();
      if (rounds_ > 1 && sending_takes(pending.pages()) <= options_.downtime_ms) {
        --rounds_;
        return;
      }
      if (rounds_ > options_.max_rounds) {
        --rounds_;
        progress_.say(
            format("it does not converge: after %u rounds %llu pages are left, which take %.0f ms, "
                   "more than the %u ms allowed (--downtime-ms); stopping the guest all the same",
                   rounds_, static_cast<unsigned long long>(pending.pages()),
                   sending_takes(pending.pages()), options_.downtime_ms));
        return;
      }
      send_round(std::to_string(rounds_), pending);
      machine_.check();
    }
  }

  void stop_and_copy(Pending& pending) {
    stopped_ = Clock::now();
    machine_.stop();
    guest_ = Guest::stopped_here;
    // Nobody writes any more, so this is the last harvest there has to be. With rings, the vCPUs
    // have put into them what the CPU kept back, as they left the guest.
    pending.harvest();
    send_round("stopped", pending);

    states_ = machine_.save_vcpus();
    for (std::uint32_t id = 0; id < states_.size(); ++id) {
      Writer out;
      out.put(id);
      out.put_bytes(serialise(states_[id]));
      connection_.send(FrameType::vcpu, out.bytes());
    }
    connection_.send_value(FrameType::device, machine_.save_device());
    connection_.send(FrameType::stopped);
    connection_.receive(FrameType::restored);
    downtime_ = Clock::now() - stopped_;
  }

  void compare() {
    const auto begin = Clock::now();
    const std::uint64_t memory = machine_.memory_checksum();
    const DeviceState device = machine_.save_device();
    const Proof there = parse_proof(
        connection_.receive(FrameType::proof, most_vcpus * most_state_bytes), machine_.vcpus());

    const bool memory_equal = there.memory == memory;
    progress_.say(format("memory equal: %s (checksum %016llx here, %016llx there)",
                         memory_equal ? "yes" : "no", static_cast<unsigned long long>(memory),
                         static_cast<unsigned long long>(there.memory)));
    const bool vcpus_equal = compare_vcpus(there);
    const bool device_equal =
        there.device == device && there.heartbeat_in_memory == device.heartbeats;
    progress_.say(format("device equal: %s (heartbeat %llu here, %llu there, %llu in memory there)",
                         device_equal ? "yes" : "no",
                         static_cast<unsigned long long>(device.heartbeats),
                         static_cast<unsigned long long>(there.device.heartbeats),
                         static_cast<unsigned long long>(there.heartbeat_in_memory)));
    proof_time_ = Clock::now() - begin;
    if (!memory_equal || !vcpus_equal || !device_equal) {
      throw NotEqual("what arrived is not what was sent");
    }
  }

  bool compare_vcpus(const Proof& there) {
    Checksum here_sum;
    Checksum there_sum;
    std::string differs;
    for (std::size_t i = 0; i < states_.size(); ++i) {
      const auto restored = parse_vcpu_state(there.vcpus[i]);
      here_sum.add(serialise(without_time(states_[i])));
      there_sum.add(serialise(without_time(restored)));
      if (const std::string what = difference(states_[i], restored); !what.empty()) {
        differs += format(", vCPU %zu: %s", i, what.c_str());
      }
    }
    const bool equal = differs.empty() && here_sum.value() == there_sum.value();
    progress_.say(format("vCPU state equal: %s (checksum %016llx here, %016llx there%s)",
                         equal ? "yes" : "no", static_cast<unsigned long long>(here_sum.value()),
                         static_cast<unsigned long long>(there_sum.value()), differs.c_str()));
    return equal;
  }

  void hand_over() {
    const auto begin = Clock::now();
    // Once this may have arrived, the guest may be running there, and must not run here.
    guest_ = Guest::handed_over;
    connection_.send(FrameType::resume);
    connection_.receive(FrameType::resumed);
    downtime_ += Clock::now() - begin;
    progress_.say(format("downtime: %.1f ms (and %.1f ms for the proof)", milliseconds(downtime_),
                         milliseconds(proof_time_)));
    progress_.say(format("sent: %.2f MiB in %u rounds and a last one, for %.2f MiB of memory",
                         static_cast<double>(connection_.sent()) / 1048576, rounds_,
                         static_cast<double>(machine_.memory_bytes()) / 1048576));
    progress_.say("the destination says: " +
                  printable(connection_.receive(FrameType::result, most_text_bytes)));
  }

  void send_round(const std::string& name, Pending& pending) {
    Round round{.pages = pending.pages(), .dirty_per_second = pending.rate()};
    const std::uint64_t sent_before = connection_.sent();
    const auto begin = Clock::now();
    std::uint64_t done = 0;
    pending.send([&](kvm::Gpa gpa, std::uint64_t size) {
      connection_.send_pages(memory_, gpa, size);
      done += size / guest_page;
      progress_.under_way(name, done, round.pages);
      keep_to_bandwidth(begin, connection_.sent() - sent_before);
    });
    round.bytes = connection_.sent() - sent_before;
    round.time = Clock::now() - begin;
    sending_ += round.time;
    sent_pages_ += round.pages;
    progress_.round(name, round);
  }

  void keep_to_bandwidth(Clock::time_point begin, std::uint64_t bytes) const {
    if (options_.bandwidth != 0) {
      std::this_thread::sleep_until(
          begin + std::chrono::microseconds(bytes * 1'000'000 / options_.bandwidth >> 20));
    }
  }
  /// In milliseconds, as fast as it went so far.
  double sending_takes(std::uint64_t pages) const {
    return milliseconds(sending_) * static_cast<double>(pages) /
           static_cast<double>(std::max<std::uint64_t>(sent_pages_, 1));
  }

  Machine& machine_;
  Connection& connection_;
  const Options& options_;
  Progress progress_;
  kvm::GuestMemory::View memory_;
  Guest guest_ = Guest::runs_here;
  unsigned rounds_ = 0;
  std::uint64_t sent_pages_ = 0;
  Clock::duration sending_{};
  Clock::time_point stopped_{};
  Clock::duration downtime_{};
  Clock::duration proof_time_{};
  std::vector<kvm::x86::VcpuSnapshot> states_;
};

/// After a migration that failed: the guest goes on, as if nothing had been.
void run_on_here(Machine& machine, Guest guest, const Options& options) {
  machine.tracker().log_all(false);
  if (guest == Guest::stopped_here) {
    machine.start();
  }
  if (!machine.wait_two_laps(std::chrono::seconds(options.timeout))) {
    throw NotEqual("the guest should run on here, but does not");
  }
  machine.stop();
  std::string laps;
  for (const std::uint32_t lap : machine.laps()) {
    laps += (laps.empty() ? "" : ", ") + std::to_string(lap);
  }
  Progress(options.quiet).say("the guest runs on here, unharmed (laps done: " + laps + ")");
}

}  // namespace

std::unique_ptr<Machine> run_source_guest(const Options& options) {
  const GuestOptions guest = guest_of(options);
  auto machine = std::make_unique<Machine>(guest.memory_bytes, guest.vcpus, options.mode);
  machine->boot(guest);
  machine->start();
  // Something to lose.
  if (!machine->wait_two_laps(std::chrono::seconds(options.timeout))) {
    machine->check();
    throw Failure(
        format("the guest needs more than %u s for two laps: give it fewer --pages or "
               "--pauses, or more time (--timeout)",
               options.timeout));
  }
  Progress(options.quiet)
      .say(format("%llu MiB of memory, %u vCPUs writing %llu pages each again and again",
                  static_cast<unsigned long long>(options.memory_mib), guest.vcpus,
                  static_cast<unsigned long long>(guest.pages)));
  Progress(options.quiet).say(std::string("dirty pages by ") + name_of(machine->tracker().mode()));
  return machine;
}

void send_guest(Machine& machine, Connection& connection, const Options& options) {
  Migration migration(machine, connection, options);
  try {
    migration.run();
  } catch (const std::exception& error) {
    if (migration.guest() == Guest::handed_over) {
      if (dynamic_cast<const PeerFailed*>(&error) != nullptr) {
        throw NotEqual(error.what());
      }
      throw UnknownOutcome(std::string("the guest was handed over, but whether it runs there is "
                                       "unknown, and so it must not run here: ") +
                           error.what());
    }
    connection.send_failure(error.what());
    run_on_here(machine, migration.guest(), options);
    throw;
  }
}

}  // namespace migrate
