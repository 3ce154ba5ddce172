// SPDX-License-Identifier: MIT
#ifndef TINYVMM_VIRTIO_MMIO_HPP
#define TINYVMM_VIRTIO_MMIO_HPP

#include <kvm/kvm.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>

#include "bus.hpp"
#include "virtqueue.hpp"

/// @file
/// Virtio's simplest transport: a page of registers, an interrupt, and a thread that serves the
/// queue. virtio 1.x, sections 2 and 4.2.

namespace tinyvmm {

/// What one kind of device adds to the transport. It has one queue. Called by one thread at a time.
class VirtioFunction {
 public:
  virtual ~VirtioFunction() = default;

  /// Virtio's number for this kind of device.
  virtual std::uint32_t id() const = 0;
  /// What is offered to the driver, beside VIRTIO_F_VERSION_1.
  virtual std::uint64_t features() const = 0;
  /// The registers of this kind. Never changes.
  virtual std::span<const std::byte> config() const = 0;
  /// Serves a request.
  /// @param features what the driver has accepted
  /// @return how many bytes were written to its writable buffers, from the start on; nothing if the
  ///         request cannot even be refused, and the device has to stop
  virtual std::optional<std::uint32_t> serve(const Chain& request, std::uint64_t features,
                                             kvm::GuestMemory::View& memory) = 0;
};

/// A virtio device of one queue, at an address. Requests are served in a thread of its own.
///
/// A driver that breaks the rules in a way that leaves no answer stops the device: it asks to be
/// reset (DEVICE_NEEDS_RESET, and a configuration interrupt) and touches guest memory no more.
class VirtioMmio : public Device {
 public:
  /// Of the range of addresses.
  static constexpr std::uint64_t size = 0x200;
  /// The register that the driver writes the number of the queue to, as 32 bits. Bind an ioeventfd
  /// for queue 0 to queue_event() there, and the guest goes on while the request is served; a write
  /// that arrives as an exit does as well.
  static constexpr std::uint64_t queue_notify = 0x50;

  /// What the device's thread calls, as its last, when the host refused it something.
  using Failed = std::function<void(const std::string& why)>;

  /// @param failed without it, such a refusal ends the program
  VirtioMmio(const kvm::GuestMemory& memory, std::unique_ptr<VirtioFunction> function,
             Failed failed = {});
  VirtioMmio(const VirtioMmio&) = delete;
  VirtioMmio& operator=(const VirtioMmio&) = delete;
  /// Ends the thread, after the request that it is at.
  ~VirtioMmio() override;

  const kvm::EventFd& queue_event() const { return notified_; }
  /// Signalled for an interrupt, which is edge triggered: for an irqfd.
  const kvm::EventFd& interrupt_event() const { return interrupt_; }

  void read(std::uint64_t offset, std::span<std::byte> data) override;
  void write(std::uint64_t offset, std::span<const std::byte> data) override;

  /// What the driver did to stop the device; empty if nothing.
  std::string fault() const;

 private:
  std::uint32_t read_register(std::uint64_t offset) const;
  void write_register(std::uint64_t offset, std::uint32_t value);
  void write_status(std::uint32_t value);
  void make_ready(bool ready);
  void reset();
  bool accepted_features_are_right() const;
  void raise(std::uint32_t cause);
  void stop_device(const std::string& why);

  /// Locks the mutex. Between two requests those get in who waited: a worker that only unlocked
  /// and locked it again would mostly be the faster one.
  std::unique_lock<std::mutex> take_turn() const;

  void work() noexcept;
  bool serve_one();

  const kvm::GuestMemory memory_;
  const std::unique_ptr<VirtioFunction> function_;
  const Failed failed_;
  const kvm::EventFd notified_;
  const kvm::EventFd interrupt_;

  // Read by drivers at every interrupt: not behind the lock, which a request holds until it is
  // done.
  std::atomic<std::uint32_t> interrupt_status_{0};
  std::atomic<std::uint32_t> status_{0};  ///< written under the lock

  mutable std::mutex next_;   ///< of the thread that gets the other one next
  mutable std::mutex mutex_;  ///< of all that follows
  std::uint32_t device_features_select_ = 0;
  std::uint32_t driver_features_select_ = 0;
  std::uint64_t driver_features_ = 0;
  std::uint32_t queue_select_ = 0;
  QueueSetup setup_;
  std::optional<Virtqueue> queue_;  ///< once it is ready
  std::string fault_;
  kvm::GuestMemory::View view_;  ///< for the buffers of requests
  Chain request_;

  std::atomic<bool> ending_{false};
  std::thread worker_;  // Last: it uses all the others.
};

}  // namespace tinyvmm

#endif
