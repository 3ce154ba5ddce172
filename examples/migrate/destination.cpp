// SPDX-License-Identifier: MIT
#include "destination.hpp"

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "failure.hpp"
#include "machine.hpp"
#include "progress.hpp"
#include "proof.hpp"
#include "vcpu_state.hpp"
#include "wire.hpp"

namespace migrate {
namespace {

/// The machine that the source describes, if it is one that we would make.
std::unique_ptr<Machine> make_machine(const Hello& hello, std::uint64_t max_memory) {
  if (hello.version != wire_version) {
    throw Failure("the other side speaks version " + std::to_string(hello.version) +
                  " of the protocol, this one " + std::to_string(wire_version));
  }
  if (hello.page_bytes != guest_page) {
    throw Failure("the other side has pages of " + std::to_string(hello.page_bytes) +
                  " bytes, this one of " + std::to_string(guest_page));
  }
  if (hello.memory_bytes < least_memory || hello.memory_bytes > max_memory ||
      hello.memory_bytes % guest_page != 0) {
    throw Failure("the guest has " + std::to_string(hello.memory_bytes) +
                  " bytes of memory: here it can have " + std::to_string(least_memory) + " to " +
                  std::to_string(max_memory) + ", in whole pages (--max-memory)");
  }
  if (hello.vcpus < 1 || hello.vcpus > most_vcpus) {
    throw Failure("the guest has " + std::to_string(hello.vcpus) +
                  " vCPUs: here it can have 1 to " + std::to_string(most_vcpus));
  }
  return std::make_unique<Machine>(hello.memory_bytes, hello.vcpus, std::nullopt);
}

/// What comes until the source has stopped its guest.
class Incoming {
 public:
  Incoming(Connection& connection, Machine& machine)
      : connection_(connection),
        machine_(machine),
        memory_(machine.memory().view()),
        vcpus_(machine.vcpus()) {}

  void receive() {
    while (receive_frame()) {
    }
    for (const auto& vcpu : vcpus_) {
      if (!vcpu) {
        throw Failure("the other side sent no state for one of the vCPUs");
      }
    }
    if (!device_) {
      throw Failure("the other side sent no state for the device");
    }
  }
  void restore() const {
    std::vector<kvm::x86::VcpuSnapshot> states;
    for (const auto& vcpu : vcpus_) {
      states.push_back(*vcpu);
    }
    machine_.restore_vcpus(states);
    machine_.restore_device(*device_);
  }
  std::uint64_t bytes() const { return bytes_; }

 private:
  /// False if it was the last.
  bool receive_frame() {
    const FrameHeader header = connection_.receive_header();
    switch (header.type) {
      case FrameType::pages:
        bytes_ += connection_.receive_pages(header, memory_, guest_page);
        return true;
      case FrameType::vcpu:
        receive_vcpu(connection_.receive_payload(header, most_state_bytes));
        return true;
      case FrameType::device: {
        const auto payload = connection_.receive_payload(header, sizeof(DeviceState));
        Reader in(payload, "the device's state");
        device_ = in.get<DeviceState>();
        return true;
      }
      case FrameType::stopped:
        static_cast<void>(connection_.receive_payload(header, 0));
        return false;
      case FrameType::failure:
        throw PeerFailed("the source has given up: " +
                         printable(connection_.receive_payload(header, most_text_bytes)));
      default:
        throw Failure("the other side sends a frame of type " +
                      std::to_string(static_cast<std::uint32_t>(header.type)) +
                      " where pages or state should come");
    }
  }
  void receive_vcpu(std::span<const std::byte> payload) {
    Reader in(payload, "a vCPU's state");
    const auto id = in.get<std::uint32_t>();
    if (id >= vcpus_.size() || vcpus_[id]) {
      throw Failure("the other side sends state for vCPU " + std::to_string(id) +
                    ", which this guest does not have or which came already");
    }
    vcpus_[id] = parse_vcpu_state(payload.subspan(sizeof id));
  }

  Connection& connection_;
  Machine& machine_;
  kvm::GuestMemory::View memory_;
  std::vector<std::optional<kvm::x86::VcpuSnapshot>> vcpus_;
  std::optional<DeviceState> device_;
  std::uint64_t bytes_ = 0;
};

Proof prove(Machine& machine) {
  Proof proof;
  proof.memory = machine.memory_checksum();
  proof.heartbeat_in_memory = machine.heartbeat_in_memory();
  proof.device = machine.save_device();
  for (const auto& state : machine.save_vcpus()) {
    proof.vcpus.push_back(serialise(state));
  }
  return proof;
}

/// From here on the guest is ours, whatever becomes of the connection.
void run_guest(Connection& connection, Machine& machine, const Options& options) {
  machine.start();
  try {
    connection.send(FrameType::resumed);
  } catch (const PeerGone&) {
    Progress(options.quiet).say("destination: the source is gone, but the guest is here");
  }
  // Half the time for which the source waits for the result.
  if (!machine.wait_two_laps(std::chrono::milliseconds(options.timeout * 500))) {
    throw NotEqual("the guest does not go on");
  }
  machine.stop();
}

}  // namespace

void receive_guest(Connection& connection, const Options& options) {
  Progress progress(options.quiet);
  const auto payload = connection.receive(FrameType::hello, sizeof(Hello));
  Reader in(payload, "a greeting");
  const std::unique_ptr<Machine> machine =
      make_machine(in.get<Hello>(), options.max_memory_mib << 20);
  connection.send(FrameType::ready);

  Incoming incoming(connection, *machine);
  incoming.receive();
  incoming.restore();
  connection.send(FrameType::restored);
  connection.send(FrameType::proof, serialise(prove(*machine)));
  progress.say(format("destination: %.2f MiB of pages came, memory and state are restored",
                      static_cast<double>(incoming.bytes()) / 1048576));

  try {
    static_cast<void>(connection.receive(FrameType::resume));
  } catch (const Failure& failure) {
    throw Failure(std::string("the guest was not handed over: ") + failure.what());
  }
  const std::vector<std::uint32_t> before = machine->laps();
  run_guest(connection, *machine, options);
  std::string result = "the guest goes on:";
  for (std::size_t i = 0; i < before.size(); ++i) {
    result += format("%s vCPU %zu has done laps %u to %u", i == 0 ? "" : ",", i, before[i] + 1,
                     machine->laps()[i]);
  }
  progress.say("destination: " + result);
  try {
    connection.send(FrameType::result, std::as_bytes(std::span(result)));
  } catch (const PeerGone&) {  // It had no more to say in this.
  }
}

}  // namespace migrate
