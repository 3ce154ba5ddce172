// SPDX-License-Identifier: MIT
#include "machine.hpp"

#include <cerrno>
#include <csignal>
#include <cstring>
#include <exception>
#include <system_error>
#include <utility>

#include "failure.hpp"

namespace tinyvmm {
namespace {

constexpr int kick_signal = SIGUSR1;

/// A kick only has to end KVM_RUN: a handler that does nothing is enough.
void install_kick_handler() {
  struct ::sigaction action {};
  action.sa_handler = [](int) {};
  if (::sigaction(kick_signal, &action, nullptr) != 0) {
    throw std::system_error(errno, std::generic_category(), "sigaction");
  }
  // Whoever started this program may have blocked it, and threads inherit that.
  ::sigset_t kick;
  ::sigemptyset(&kick);
  ::sigaddset(&kick, kick_signal);
  if (const int error = ::pthread_sigmask(SIG_UNBLOCK, &kick, nullptr); error != 0) {
    throw std::system_error(error, std::generic_category(), "pthread_sigmask");
  }
}

}  // namespace

Machine::Machine(const Options& options, SerialLine& line)
    : options_(options), line_(line), vm_(system_.create_vm()), platform_(make_platform()) {
  lap("command line, /dev/kvm");
  install_kick_handler();
  platform_->before_vcpus(*this);
  lap("VM");
  add_memory();
  lap("memory");
  add_vcpus();
  platform_->after_vcpus(*this);
  lap("vCPUs");
  platform_->add_devices(*this);
  lap("devices");
  platform_->load(*this, options_);
  lap("images");
}

Machine::~Machine() {
  stop({status::powered_off});
  join();
}

void Machine::lap(std::string_view part) {
  const auto now = Clock::now();
  timing_.push_back({part, now - std::exchange(lap_began_, now)});
}

void Machine::add_memory() {
  ram_ranges_ = platform_->ram(options_.memory);
  for (const RamRange& range : ram_ranges_) {
    // The kernel gives pages when they are touched, large ones where it can.
    ram_.push_back(vm_.add_memory(
        range.gpa,
        kvm::Mapping::anonymous(range.size, {.transparent_huge_pages = true, .gpa = range.gpa})));
  }
}

void Machine::add_vcpus() {
  for (unsigned id = 0; id < options_.cpus; ++id) {
    kvm::Vcpu vcpu = vm_.create_vcpu(id);
    kvm::Kicker kicker = vcpu.kicker(kick_signal);
    cpus_.push_back(std::unique_ptr<Cpu>(new Cpu{std::move(vcpu), std::move(kicker)}));
  }
}

Ending Machine::run() {
  for (const auto& cpu : cpus_) {
    cpu->thread = std::thread([this, &cpu = *cpu] { run_vcpu(cpu); });
  }
  join();
  const std::lock_guard lock(mutex_);
  return ending_.value_or(Ending{status::powered_off});
}

bool Machine::stop(Ending ending) {
  bool first = false;
  {
    const std::lock_guard lock(mutex_);
    first = !ending_;
    if (first) {
      ending_ = std::move(ending);
    }
  }
  stopping_ = true;
  line_.close();  // A vCPU's thread may be waiting there.
  for (const auto& cpu : cpus_) {
    cpu->kicker.kick();
  }
  return first;
}

void Machine::join() {
  for (const auto& cpu : cpus_) {
    if (cpu->thread.joinable()) {
      cpu->thread.join();
    }
  }
}

void Machine::run_vcpu(Cpu& cpu) {
  try {
    if (cpu.vcpu.id() == 0) {
      lap("threads");
    }
    while (!stopping_) {
      serve(cpu, cpu.vcpu.run());
    }
  } catch (const std::exception& error) {
    stop({status::host_failed, error.what()});
  }
}

void Machine::serve(Cpu& cpu, const kvm::Exit& exit) {
  exit.visit(
#if defined(__x86_64__)
      [&](kvm::exits::IoIn io) {
        for (std::uint32_t i = 0; i < io.count; ++i) {
          ports_.read(io.port, io.data.subspan(std::size_t{i} * io.size, io.size));
        }
      },
      [&](kvm::exits::IoOut io) {
        for (std::uint32_t i = 0; i < io.count; ++i) {
          ports_.write(io.port, io.data.subspan(std::size_t{i} * io.size, io.size));
        }
      },
#endif
      [&](kvm::exits::MmioRead mmio) { mmio_.read(mmio.gpa.value, mmio.data); },
      [&](kvm::exits::MmioWrite mmio) { mmio_.write(mmio.gpa.value, mmio.data); },
      [](kvm::exits::Interrupted) {},
      [&](kvm::exits::SystemEvent event) {
        switch (event.type) {
          case kvm::uapi::system_event::shutdown:
            stop({status::powered_off});
            break;
          case kvm::uapi::system_event::reset:
            stop({status::reset});
            break;
          default:
            crash(cpu, {status::crashed, exit.describe()});
            break;
        }
      },
#if defined(__x86_64__)
      [&](kvm::exits::Shutdown) {
        crash(cpu, {status::crashed, "triple fault"});
      },
#endif
      [&](kvm::exits::Failed failed) {
        crash(cpu, {status::host_failed,
                    std::string(std::strerror(failed.error_number)) + " " + failed.cause});
      },
      [&](auto&&) {
        crash(cpu, {status::stuck, exit.describe()});
      });
}

void Machine::crash(Cpu& cpu, Ending ending) {
  ending.message =
      "vCPU " + std::to_string(cpu.vcpu.id().value) + " cannot go on: " + ending.message;
  // First: others may end as well while the dump is made, and that may fail.
  if (stop(std::move(ending)) && options_.dump_on_crash) {
    kvm::GuestMemory::View memory = vm_.memory().view();
    const std::string dump = platform_->describe(cpu.vcpu, memory);
    const std::lock_guard lock(mutex_);
    ending_->message += '\n' + dump;
  }
}

}  // namespace tinyvmm
