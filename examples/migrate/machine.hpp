// SPDX-License-Identifier: MIT
#ifndef MIGRATE_MACHINE_HPP
#define MIGRATE_MACHINE_HPP

#include <kvm/kvm.hpp>

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "guest.hpp"

namespace migrate {

/// What the VMM itself keeps, beside memory and vCPUs.
struct DeviceState {
  /// How often the heartbeat came.
  std::uint64_t heartbeats = 0;
  /// Per vCPU: the last number that it took, the last lap that it told.
  std::array<std::uint32_t, most_vcpus> numbers{};
  std::array<std::uint32_t, most_vcpus> laps{};

  bool operator==(const DeviceState&) const = default;
};

/// A VM with its vCPUs in threads of their own, and a device that writes to guest memory in another
/// one: a heartbeat each millisecond, and a record, as a network card would deliver a packet.
class Machine {
 public:
  /// @param mode how dirty pages are found, for a machine that can be migrated away. Throws
  ///             Unsupported if this host cannot.
  Machine(std::uint64_t memory_bytes, unsigned vcpus, std::optional<kvm::DirtyMode> mode);
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;
  ~Machine();

  /// Makes a new guest.
  void boot(const GuestOptions& options);

  /// Runs vCPUs and device until stop().
  void start();
  /// Stops the vCPUs, finishes what their last exits left pending, and stops the device. Afterwards
  /// nothing writes to guest memory, and all state can be saved. Throws what went wrong meanwhile.
  void stop();
  /// Throws NotEqual if the guest found a fault or is gone.
  void check();
  /// The lap that each vCPU is in, while running or not.
  std::vector<std::uint32_t> laps() const;
  /// Waits until each vCPU has done two more laps, so that it has seen each of its pages, and the
  /// device has written.
  /// @return whether they did in this time
  bool wait_two_laps(std::chrono::milliseconds limit);

  // While stopped. This machine has no interrupt controllers, timers or clock in the kernel; with
  // them, their state would be saved after the vCPUs have stopped and restored before they run
  // (Vm::get_irqchip, get_pit2, get_clock).

  std::vector<kvm::x86::VcpuSnapshot> save_vcpus() const;
  void restore_vcpus(std::span<const kvm::x86::VcpuSnapshot> states);
  DeviceState save_device() const;
  void restore_device(const DeviceState& state);
  /// The heartbeat as guest memory has it.
  std::uint64_t heartbeat_in_memory();
  std::uint64_t memory_checksum();

  kvm::GuestMemory memory() const { return vm_.memory(); }
  std::uint64_t memory_bytes() const { return ram_.size(); }
  unsigned vcpus() const { return static_cast<unsigned>(cpus_.size()); }
  kvm::MemorySlot& ram() { return ram_; }
  kvm::DirtyTracker& tracker() { return tracker_.value(); }

 private:
  struct Cpu {
    kvm::Vcpu vcpu;
    kvm::Kicker kicker;
    std::thread thread{};
    std::uint32_t number = 0;
    std::atomic<std::uint32_t> lap{0};
  };

  void run(Cpu& cpu);
  /// False if the vCPU cannot go on.
  bool serve(Cpu& cpu, const kvm::Exit& exit);
  void run_device();
  void report(const std::string& problem);
  void stop_threads();

  kvm::System system_;
  kvm::Vm vm_ = system_.create_vm();
  std::optional<kvm::DirtyTracker> tracker_;
  kvm::MemorySlot ram_;
  std::vector<std::unique_ptr<Cpu>> cpus_;
  std::atomic<std::uint64_t> heartbeats_{0};
  std::thread device_{};
  std::atomic<bool> stopping_{false};
  std::mutex mutex_{};
  std::string problem_{};  // the first, under the mutex
};

}  // namespace migrate

#endif
