// SPDX-License-Identifier: MIT
#include "virtio_mmio.hpp"

#include <algorithm>
#include <cstring>
#include <exception>
#include <utility>

namespace tinyvmm {

namespace {

/// Offsets of registers. All are 32 bits wide, and so must accesses be.
enum Register : std::uint64_t {
  magic_value = 0x000,
  version = 0x004,
  device_id = 0x008,
  vendor_id = 0x00c,
  device_features = 0x010,
  device_features_select = 0x014,
  driver_features = 0x020,
  driver_features_select = 0x024,
  queue_select = 0x030,
  queue_size_max = 0x034,
  queue_size = 0x038,
  queue_ready = 0x044,
  // queue_notify = 0x050 is the class's.
  interrupt_status = 0x060,
  interrupt_acknowledge = 0x064,
  status = 0x070,
  queue_descriptors_low = 0x080,
  queue_descriptors_high = 0x084,
  queue_available_low = 0x090,
  queue_available_high = 0x094,
  queue_used_low = 0x0a0,
  queue_used_high = 0x0a4,
  config_generation = 0x0fc,
  config = 0x100,  ///< the registers of this kind of device, of any width
};

constexpr std::uint32_t virt = 0x74726976;  ///< the letters
constexpr std::uint64_t feature_version_1 = std::uint64_t{1} << 32;

/// Bits of the status register, in the order in which a driver sets them.
constexpr std::uint32_t features_ok = 8;
constexpr std::uint32_t driver_ok = 4;
constexpr std::uint32_t needs_reset = 64;

/// Causes of interrupts.
constexpr std::uint32_t used_buffers = 1;
constexpr std::uint32_t configuration = 2;

std::uint32_t half(std::uint64_t value, std::uint32_t which) {
  return which < 2 ? static_cast<std::uint32_t>(value >> 32 * which) : 0;
}
void set_half(std::uint64_t& value, std::uint32_t which, std::uint32_t half) {
  if (which < 2) {
    value &= ~(std::uint64_t{0xffff'ffff} << 32 * which);
    value |= std::uint64_t{half} << 32 * which;
  }
}

}  // namespace

VirtioMmio::VirtioMmio(const kvm::GuestMemory& memory, std::unique_ptr<VirtioFunction> function,
                       Failed failed)
    : memory_(memory),
      function_(std::move(function)),
      failed_(std::move(failed)),
      view_(memory.view()),
      worker_([this] { work(); }) {}

VirtioMmio::~VirtioMmio() {
  ending_ = true;
  notified_.signal();
  worker_.join();
}

std::unique_lock<std::mutex> VirtioMmio::take_turn() const {
  const std::lock_guard next(next_);
  return std::unique_lock(mutex_);
}

std::string VirtioMmio::fault() const {
  const auto lock = take_turn();
  return fault_;
}

// --- registers, in the threads of vCPUs ---

void VirtioMmio::read(std::uint64_t offset, std::span<std::byte> data) {
  if (offset >= config) {
    const std::span<const std::byte> registers = function_->config();
    offset -= config;
    if (offset < registers.size()) {
      const std::size_t count = std::min<std::size_t>(data.size(), registers.size() - offset);
      std::memcpy(data.data(), registers.data() + offset, count);
    }
    return;
  }
  if (data.size() != sizeof(std::uint32_t) || offset % sizeof(std::uint32_t) != 0) {
    return;
  }
  const std::uint32_t value = read_register(offset);
  std::memcpy(data.data(), &value, sizeof value);
}

void VirtioMmio::write(std::uint64_t offset, std::span<const std::byte> data) {
  std::uint32_t value = 0;
  if (offset >= config || data.size() != sizeof value || offset % sizeof value != 0) {
    return;
  }
  std::memcpy(&value, data.data(), sizeof value);
  if (offset == queue_notify) {
    if (value == 0) {
      notified_.signal();
    }
  } else if (offset == interrupt_acknowledge) {
    interrupt_status_ &= ~value;
  } else {
    const auto lock = take_turn();
    write_register(offset, value);
  }
}

std::uint32_t VirtioMmio::read_register(std::uint64_t offset) const {
  switch (offset) {
    case magic_value:
      return virt;
    case version:
      return 2;
    case device_id:
      return function_->id();
    case vendor_id:
      return 0;
    case interrupt_status:
      return interrupt_status_;
    case status:
      return status_;
    case config_generation:
      return 0;
    default:
      break;
  }
  const auto lock = take_turn();
  switch (offset) {
    case device_features:
      return half(function_->features() | feature_version_1, device_features_select_);
    case queue_size_max:
      return queue_select_ == 0 ? Virtqueue::most_descriptors : 0;
    case queue_ready:
      return queue_select_ == 0 && queue_ ? 1 : 0;
    default:
      return ~std::uint32_t{0};
  }
}

void VirtioMmio::write_register(std::uint64_t offset, std::uint32_t value) {
  switch (offset) {
    case device_features_select:
      device_features_select_ = value;
      return;
    case driver_features_select:
      driver_features_select_ = value;
      return;
    case driver_features:
      if ((status_ & features_ok) == 0) {
        set_half(driver_features_, driver_features_select_, value);
      }
      return;
    case queue_select:
      queue_select_ = value;
      return;
    case status:
      write_status(value);
      return;
    default:
      break;
  }
  if (queue_select_ != 0) {
    return;  // There is no such queue.
  }
  if (offset == queue_ready) {
    make_ready((value & 1) != 0);
  } else if (!queue_) {
    switch (offset) {
      case queue_size:
        setup_.size = value;
        return;
      case queue_descriptors_low:
      case queue_descriptors_high:
        set_half(setup_.descriptors.value, offset == queue_descriptors_high, value);
        return;
      case queue_available_low:
      case queue_available_high:
        set_half(setup_.available.value, offset == queue_available_high, value);
        return;
      case queue_used_low:
      case queue_used_high:
        set_half(setup_.used.value, offset == queue_used_high, value);
        return;
      default:
        return;
    }
  }
}

bool VirtioMmio::accepted_features_are_right() const {
  const std::uint64_t offered = function_->features() | feature_version_1;
  return (driver_features_ & ~offered) == 0 && (driver_features_ & feature_version_1) != 0;
}

void VirtioMmio::write_status(std::uint32_t value) {
  if (value == 0) {
    reset();
    return;
  }
  const std::uint32_t before = status_;
  // It is the device's to say, and only a reset takes it back.
  value = (value & ~needs_reset) | (before & needs_reset);
  if ((before & ~value) != 0) {
    stop_device("a bit of the status was cleared");
    return;
  }
  if ((value & ~before & features_ok) != 0 && !accepted_features_are_right()) {
    value &= ~features_ok;  // So the driver learns of it.
  }
  if ((value & driver_ok) != 0 && (value & features_ok) == 0) {
    stop_device("the driver is ready before features were agreed upon");
    return;
  }
  status_ = value;
  if ((value & ~before & driver_ok) != 0) {
    notified_.signal();  // Buffers may have been made available before.
  }
}

void VirtioMmio::make_ready(bool ready) {
  if (!ready) {
    queue_.reset();
    return;
  }
  if (queue_ || (status_ & needs_reset) != 0) {
    return;
  }
  if ((status_ & features_ok) == 0) {
    stop_device("the queue is ready before features were agreed upon");
    return;
  }
  queue_.emplace(memory_, setup_);
  if (queue_->fault() != nullptr) {
    stop_device(queue_->fault());
  } else {
    notified_.signal();  // If it was made ready late.
  }
}

void VirtioMmio::reset() {
  queue_.reset();
  setup_ = {};
  device_features_select_ = driver_features_select_ = queue_select_ = 0;
  driver_features_ = 0;
  fault_.clear();
  status_ = 0;
  interrupt_status_ = 0;
}

void VirtioMmio::raise(std::uint32_t cause) {
  interrupt_status_ |= cause;
  interrupt_.signal();
}

void VirtioMmio::stop_device(const std::string& why) {
  queue_.reset();
  if (fault_.empty()) {
    fault_ = why;
  }
  status_ |= needs_reset;
  if ((status_ & driver_ok) != 0) {  // Before that a driver expects no interrupt.
    raise(configuration);
  }
}

// --- the queue, in the thread of this device ---

void VirtioMmio::work() noexcept {
  try {
    while (!ending_) {
      notified_.wait();
      static_cast<void>(notified_.read());
      // One at a time, so that a reset or the end need not wait for more than that.
      while (!ending_ && serve_one()) {
      }
    }
  } catch (const std::exception& error) {
    failed_(error.what());
  }
}

bool VirtioMmio::serve_one() {
  const auto lock = take_turn();
  if (!queue_ || (status_ & driver_ok) == 0) {
    return false;
  }
  if (queue_->pop(request_)) {
    const auto written = function_->serve(request_, driver_features_, view_);
    if (!written) {
      stop_device("a request has no place for an answer, or buffers outside of memory");
      return false;
    }
    queue_->push(request_.head, *written);
    if (queue_->fault() == nullptr) {
      if (queue_->wants_interrupt()) {
        raise(used_buffers);
      }
      return true;
    }
  }
  if (queue_->fault() != nullptr) {
    stop_device(queue_->fault());
  }
  return false;
}

}  // namespace tinyvmm
