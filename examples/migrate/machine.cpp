// SPDX-License-Identifier: MIT
#include "machine.hpp"

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "checksum.hpp"
#include "failure.hpp"

namespace migrate {
namespace {

constexpr int kick_signal = SIGUSR1;

/// A kick only has to end KVM_RUN: a handler that does nothing is enough.
void install_kick_handler() {
  struct ::sigaction action {};
  action.sa_handler = [](int) {};
  ::sigaction(kick_signal, &action, nullptr);
}

/// Before the first vCPU, as rings must be.
std::optional<kvm::DirtyTracker> track(kvm::Vm& vm, std::optional<kvm::DirtyMode> mode) {
  if (!mode) {
    return std::nullopt;
  }
  using kvm::cap::DirtyLogRing;
  using kvm::cap::DirtyLogRingAcqRel;
  using kvm::cap::ManualDirtyLogProtect2;
  if (*mode == kvm::DirtyMode::manual &&
      !vm.check<ManualDirtyLogProtect2>().contains(kvm::cap::ManualDirtyLogFlag::enable)) {
    throw Unsupported(
        "this host's KVM has no KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, which --mode "
        "manual needs");
  }
  if (*mode == kvm::DirtyMode::ring && vm.check<DirtyLogRingAcqRel>() == 0 &&
      vm.check<DirtyLogRing>() == 0) {
    throw Unsupported(
        "this host's KVM has neither KVM_CAP_DIRTY_LOG_RING_ACQ_REL nor "
        "KVM_CAP_DIRTY_LOG_RING, of which --mode ring needs one");
  }
  return vm.track_dirty(*mode);
}

}  // namespace

Machine::Machine(std::uint64_t memory_bytes, unsigned vcpus, std::optional<kvm::DirtyMode> mode)
    : tracker_(track(vm_, mode)),
      // Not logged yet: that begins with the migration, and costs the guest nothing before.
      ram_(vm_.add_memory(kvm::Gpa{0}, kvm::Mapping::anonymous(memory_bytes))) {
  install_kick_handler();
  for (unsigned id = 0; id < vcpus; ++id) {
    kvm::Vcpu vcpu = vm_.create_vcpu(id);
    kvm::Kicker kicker = vcpu.kicker(kick_signal);
    cpus_.push_back(std::unique_ptr<Cpu>(new Cpu{std::move(vcpu), std::move(kicker)}));
  }
}

Machine::~Machine() { stop_threads(); }

void Machine::boot(const GuestOptions& options) {
  load_guest(ram_, options);
  for (const auto& cpu : cpus_) {
    boot_vcpu(system_, cpu->vcpu, options);
  }
}

void Machine::start() {
  stopping_ = false;
  for (const auto& cpu : cpus_) {
    cpu->thread = std::thread([this, &cpu = *cpu] { run(cpu); });
  }
  device_ = std::thread([this] { run_device(); });
}

void Machine::stop_threads() {
  stopping_ = true;
  for (const auto& cpu : cpus_) {
    cpu->kicker.kick();
  }
  for (const auto& cpu : cpus_) {
    if (cpu->thread.joinable()) {
      cpu->thread.join();
    }
  }
  if (device_.joinable()) {
    device_.join();
  }
}

void Machine::stop() {
  stop_threads();
  check();
}

void Machine::run(Cpu& cpu) {
  while (!stopping_) {
    serve(cpu, cpu.vcpu.run());
  }
  // The guest may be in the middle of an IN that was answered but has not reached its register. A
  // state saved now would do the IN again, and take a second number.
  for (auto more = cpu.vcpu.complete(); more && serve(cpu, *more);) {
    more = cpu.vcpu.complete();
  }
}

bool Machine::serve(Cpu& cpu, const kvm::Exit& exit) {
  return exit.visit(
      [&](kvm::exits::IoIn io) {
        io.reply(io.port == port::number ? ++cpu.number : ~std::uint32_t{0});
        return true;
      },
      [&](kvm::exits::IoOut io) {
        std::uint32_t value = 0;
        std::memcpy(&value, io.data.data(), std::min(io.data.size(), sizeof value));
        if (io.port == port::lap) {
          cpu.lap = value;
          return true;
        }
        report("vCPU " + std::to_string(cpu.vcpu.id().value) +
               " found a fault: " + describe_fault(value));
        return false;
      },
      [&](kvm::exits::DirtyRingFull) {
        // No vCPU with a full ring runs before it was emptied.
        if (const auto collected = tracker().try_collect(); !collected) {
          report(collected.error().what());
          return false;
        }
        return true;
      },
      [](kvm::exits::Interrupted) { return true; },
      [&](kvm::exits::Failed failed) {
        report(std::string("running a vCPU failed: ") + std::strerror(failed.error_number) + " " +
               failed.cause);
        return false;
      },
      [&](auto&&) {
        report("vCPU " + std::to_string(cpu.vcpu.id().value) + " is gone: " + exit.describe());
        return false;
      });
}

void Machine::report(const std::string& problem) {
  const std::lock_guard lock(mutex_);
  if (problem_.empty()) {
    problem_ = problem;
  }
  stopping_ = true;
}

void Machine::check() {
  const std::lock_guard lock(mutex_);
  if (!problem_.empty()) {
    throw NotEqual(problem_);
  }
}

void Machine::run_device() {
  // One word again and again: a cache. Now here, now there: a view. Both mark what they write as
  // dirty, which KVM would not do for the VMM's own writes.
  kvm::GfnToHvaCache heartbeat(vm_.memory(), heartbeat_at, sizeof(std::uint64_t));
  kvm::GuestMemory::View memory = vm_.memory().view();
  std::array<std::uint64_t, 8> record;
  while (!stopping_) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    const std::uint64_t beat = heartbeats_ + 1;
    record.fill(beat);
    const kvm::Gpa at = records_at + beat % record_pages * guest_page;
    if (!heartbeat.write<std::uint64_t>(0, beat) ||
        !memory.write(at, std::as_bytes(std::span(record)))) {
      report("the device finds no memory");
    }
    heartbeats_ = beat;
  }
}

std::vector<std::uint32_t> Machine::laps() const {
  std::vector<std::uint32_t> laps;
  for (const auto& cpu : cpus_) {
    laps.push_back(cpu->lap);
  }
  return laps;
}

bool Machine::wait_two_laps(std::chrono::milliseconds limit) {
  const auto deadline = std::chrono::steady_clock::now() + limit;
  const auto before = laps();
  const std::uint64_t beats_before = heartbeats_;
  for (;;) {
    check();
    const auto now = laps();
    if (heartbeats_ != beats_before &&
        std::equal(before.begin(), before.end(), now.begin(),
                   [](std::uint32_t a, std::uint32_t b) { return b - a >= 2; })) {
      return true;
    }
    if (std::chrono::steady_clock::now() > deadline) {
      return false;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

std::vector<kvm::x86::VcpuSnapshot> Machine::save_vcpus() const {
  const auto msrs = system_.msr_index_list();
  std::vector<kvm::x86::VcpuSnapshot> states;
  for (const auto& cpu : cpus_) {
    states.push_back(cpu->vcpu.save_state(msrs));
  }
  return states;
}

void Machine::restore_vcpus(std::span<const kvm::x86::VcpuSnapshot> states) {
  for (std::size_t i = 0; i < cpus_.size(); ++i) {
    // The order inside is what matters, and restore_state() keeps it: CPUID decides what registers
    // and MSRs may hold; control registers come before the extended state and MSRs that they
    // enable; setting the general registers drops a pending exception, so the events come after
    // them; whether the vCPU runs or waits comes last.
    cpus_[i]->vcpu.restore_state(states[i]);
  }
}

DeviceState Machine::save_device() const {
  DeviceState state;
  state.heartbeats = heartbeats_;
  for (std::size_t i = 0; i < cpus_.size(); ++i) {
    state.numbers[i] = cpus_[i]->number;
    state.laps[i] = cpus_[i]->lap;
  }
  return state;
}

void Machine::restore_device(const DeviceState& state) {
  heartbeats_ = state.heartbeats;
  for (std::size_t i = 0; i < cpus_.size(); ++i) {
    cpus_[i]->number = state.numbers[i];
    cpus_[i]->lap = state.laps[i];
  }
}

std::uint64_t Machine::heartbeat_in_memory() {
  return memory().view().read<std::uint64_t>(heartbeat_at).value_or(0);
}

std::uint64_t Machine::memory_checksum() {
  kvm::GuestMemory::View view = memory().view();
  std::vector<std::byte> buffer(64 * 1024);
  Checksum sum;
  for (std::uint64_t at = 0; at < memory_bytes(); at += buffer.size()) {
    const auto part =
        std::span(buffer).first(std::min<std::uint64_t>(buffer.size(), memory_bytes() - at));
    if (!view.read(ram_.gpa() + at, part)) {
      throw std::logic_error("guest memory has a hole");
    }
    sum.add(part);
  }
  return sum.value();
}

}  // namespace migrate
