// SPDX-License-Identifier: MIT
#ifndef TINYVMM_MACHINE_HPP
#define TINYVMM_MACHINE_HPP

#include <kvm/kvm.hpp>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "bus.hpp"
#include "options.hpp"
#include "serial_line.hpp"

namespace tinyvmm {

/// How the guest's life ended: the program's exit status, and what to tell the user, if anything.
struct Ending {
  int status;
  std::string message{};
};

/// Memory of the guest, in bytes.
struct RamRange {
  kvm::Gpa gpa;
  std::uint64_t size;
};

class Machine;

/// What each architecture does in its own way. platform_x86.cpp and platform_arm64.cpp implement
/// it. The machine calls its functions in the order in which they stand here.
class Platform {
 public:
  virtual ~Platform() = default;

  /// Where a guest with so much memory has it.
  virtual std::vector<RamRange> ram(std::uint64_t bytes) const = 0;
  /// Makes what KVM wants before the first vCPU, such as the interrupt controllers (x86).
  virtual void before_vcpus(Machine& machine) = 0;
  /// Sets the vCPUs up as after a power-on, and makes what must come after them (arm64's GIC).
  virtual void after_vcpus(Machine& machine) = 0;
  /// Puts the devices on the machine's buses. The serial port talks to machine.line().
  virtual void add_devices(Machine& machine) = 0;
  /// Loads kernel, initrd and tables into memory, and points the boot vCPU at them.
  virtual void load(Machine& machine, const Options& options) = 0;
  /// There is input in machine.line() for the serial port. Called by the console's thread.
  virtual void input_ready() = 0;
  /// Registers and the code around the program counter, for people: lines, the last without end.
  virtual std::string describe(kvm::Vcpu& vcpu, kvm::GuestMemory::View& memory) = 0;
};

/// The platform of the architecture that this program is compiled for.
std::unique_ptr<Platform> make_platform();

/// A virtual machine: memory, vCPUs in threads of their own, and devices on buses.
class Machine {
 public:
  /// Makes all of it and loads the guest, which runs from run() on.
  /// @param line the far end of the serial port
  Machine(const Options& options, SerialLine& line);
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;
  ~Machine();

  /// Runs the guest until stop() was called, by a device, an exit or somebody else.
  Ending run();
  /// Ends the guest; the first to call it says how. Any thread, but not from a signal handler.
  /// @return whether this was the first
  bool stop(Ending ending);
  /// There is input in the line. Any thread.
  void input_ready() { platform_->input_ready(); }

  const Options& options() const { return options_; }
  kvm::System& system() { return system_; }
  kvm::Vm& vm() { return vm_; }
  /// By guest physical address: what is no memory.
  Bus& mmio() { return mmio_; }
  /// x86's other address space.
  Bus& ports() { return ports_; }
  SerialLine& line() { return line_; }
  const std::vector<RamRange>& ram() const { return ram_ranges_; }
  unsigned cpus() const { return static_cast<unsigned>(cpus_.size()); }
  kvm::Vcpu& vcpu(unsigned index) { return cpus_[index]->vcpu; }

  /// Milliseconds of each part of the start, for --timing; complete when run() has returned.
  struct Lap {
    std::string_view part;
    std::chrono::duration<double, std::milli> time;
  };
  const std::vector<Lap>& timing() const { return timing_; }

 private:
  struct Cpu {
    kvm::Vcpu vcpu;
    kvm::Kicker kicker;
    std::thread thread{};
  };
  using Clock = std::chrono::steady_clock;

  void lap(std::string_view part);
  void add_memory();
  void add_vcpus();
  void run_vcpu(Cpu& cpu);
  void serve(Cpu& cpu, const kvm::Exit& exit);
  void crash(Cpu& cpu, Ending ending);
  void join();

  const Options options_;
  SerialLine& line_;
  Clock::time_point lap_began_ = options_.started;
  std::vector<Lap> timing_{};
  kvm::System system_{};
  kvm::Vm vm_;
  std::vector<RamRange> ram_ranges_{};
  std::vector<kvm::MemorySlot> ram_{};
  Bus mmio_{};
  Bus ports_{};
  std::vector<std::unique_ptr<Cpu>> cpus_{};
  std::atomic<bool> stopping_{false};
  std::mutex mutex_{};
  std::optional<Ending> ending_{};  // under the mutex
  // It goes first, when the vCPUs' threads have ended: threads of its devices call stop().
  std::unique_ptr<Platform> platform_;
};

}  // namespace tinyvmm

#endif
