// SPDX-License-Identifier: MIT
// needs: exceptions
// tinyvmm's disk, driven as a guest's driver would, and as no driver should. No vCPU runs: the
// "guest" writes to the VM's memory and calls the registers.
#include <kvm/kvm.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <stdlib.h>
#include <sys/stat.h>

#include "program.hpp"
#include "tinyvmm/failure.hpp"
#include "tinyvmm/virtio_blk.hpp"
#include "tinyvmm/virtio_mmio.hpp"

namespace {

using kvm::Gpa;
using tinyvmm::VirtioBlk;
using tinyvmm::VirtioMmio;
using namespace kvm::literals;
using namespace std::chrono_literals;

// Registers.
constexpr std::uint64_t device_features = 0x10, device_features_select = 0x14;
constexpr std::uint64_t driver_features = 0x20, driver_features_select = 0x24;
constexpr std::uint64_t queue_select = 0x30, queue_size_max = 0x34, queue_size = 0x38;
constexpr std::uint64_t queue_ready = 0x44, queue_notify = 0x50;
constexpr std::uint64_t interrupt_status = 0x60, interrupt_acknowledge = 0x64, status = 0x70;
constexpr std::uint64_t queue_descriptors = 0x80, queue_available = 0x90, queue_used = 0xa0;

constexpr std::uint32_t acknowledge = 1, driver = 2, driver_ok = 4, features_ok = 8;
constexpr std::uint32_t needs_reset = 64;
constexpr std::uint64_t version_1 = std::uint64_t{1} << 32;
constexpr std::uint64_t feature_read_only = 1 << 5, feature_flush = 1 << 9;

constexpr std::uint16_t next = 1, device_writes = 2, indirect = 4;

// Types of requests, and outcomes.
constexpr std::uint32_t read_in = 0, write_out = 1, flush = 4, get_id = 8;
constexpr std::uint8_t ok = 0, io_error = 1, unsupported = 2;

constexpr Gpa ram_at{0x4000'0000};
constexpr std::uint64_t ram_size = 4_MiB;
constexpr Gpa rom_at{0x8000'0000};
constexpr Gpa descriptors_at = ram_at + 0x1000, available_at = ram_at + 0x3000;
constexpr Gpa used_at = ram_at + 0x4000, header_at = ram_at + 0x6000, status_at = ram_at + 0x6100;
constexpr Gpa data_at = ram_at + 0x1'0000;
constexpr std::uint64_t disk_sectors = 256;

struct Piece {
  Gpa gpa;
  std::uint32_t size;
  bool writable;
};

class TinyvmmVirtio : public testing::Test {
 protected:
  void SetUp() override {
    if (const auto reason = program::no_kvm(); !reason.empty()) {
      GTEST_SKIP() << reason;
    }
    folder_ = (std::filesystem::temp_directory_path() / "kvm-hpp-XXXXXX").string();
    ASSERT_NE(::mkdtemp(folder_.data()), nullptr);
    content_.resize(disk_sectors * VirtioBlk::sector);
    std::mt19937 random(1);
    std::generate(content_.begin(), content_.end(), [&] { return static_cast<char>(random()); });
    write_disk(content_);

    system_.emplace();
    vm_.emplace(system_->create_vm());
    ram_.emplace(vm_->add_memory(ram_at, kvm::Mapping::anonymous(ram_size)));
    rom_.emplace(vm_->add_memory(rom_at, kvm::Mapping::anonymous(64_KiB), {.read_only = true}));
    memory_.emplace(vm_->memory().view());
  }
  void TearDown() override {
    device_.reset();
    if (!folder_.empty()) {
      std::filesystem::remove_all(folder_);
    }
  }

  std::string disk() const { return folder_ + "/disk"; }
  void write_disk(const std::string& content) const {
    std::ofstream(disk(), std::ios::binary) << content;
  }

  // --- the driver ---

  std::uint32_t get(std::uint64_t offset) {
    std::uint32_t value = ~0u;
    device_->read(offset, std::as_writable_bytes(std::span(&value, 1)));
    return value;
  }
  void set(std::uint64_t offset, std::uint32_t value) {
    device_->write(offset, std::as_bytes(std::span(&value, 1)));
  }
  void set64(std::uint64_t offset, std::uint64_t value) {
    set(offset, static_cast<std::uint32_t>(value));
    set(offset + 4, static_cast<std::uint32_t>(value >> 32));
  }
  std::uint64_t offered() {
    set(device_features_select, 0);
    const std::uint64_t low = get(device_features);
    set(device_features_select, 1);
    return low | std::uint64_t{get(device_features)} << 32;
  }
  void accept(std::uint64_t features) {
    set(driver_features_select, 0);
    set(driver_features, static_cast<std::uint32_t>(features));
    set(driver_features_select, 1);
    set(driver_features, static_cast<std::uint32_t>(features >> 32));
  }
  void negotiate(std::uint64_t features) {
    set(status, 0);
    set(status, acknowledge);
    set(status, acknowledge | driver);
    accept(features);
    set(status, acknowledge | driver | features_ok);
  }
  void set_up_queue(std::uint32_t size = 8, Gpa descriptors = descriptors_at,
                    Gpa available = available_at, Gpa used = used_at) {
    size_ = static_cast<std::uint16_t>(size);
    available_ = 0;
    ASSERT_TRUE(memory_->fill(ram_at, 0x6000, std::byte{0}));
    set(queue_select, 0);
    set(queue_size, size);
    set64(queue_descriptors, descriptors.value);
    set64(queue_available, available.value);
    set64(queue_used, used.value);
    set(queue_ready, 1);
  }
  void go() { set(status, acknowledge | driver | features_ok | driver_ok); }
  void make(bool writable = false) {
    device_.emplace(vm_->memory(), std::make_unique<VirtioBlk>(disk(), writable));
  }
  /// A driver that does it right.
  void start(bool writable = false, std::uint16_t size = 8) {
    make(writable);
    start_again(size);
  }
  void start_again(std::uint16_t size = 8) {
    static_cast<void>(device_->interrupt_event().read());
    negotiate(offered());
    set_up_queue(size);
    go();
    ASSERT_EQ(get(status), acknowledge | driver | features_ok | driver_ok);
  }

  void describe(std::uint16_t index, Gpa gpa, std::uint32_t size, std::uint16_t flags,
                std::uint16_t following = 0) {
    const Gpa at = descriptors_at + 16u * index;
    ASSERT_TRUE(memory_->write<std::uint64_t>(at, gpa.value));
    ASSERT_TRUE(memory_->write<std::uint32_t>(at + 8, size));
    ASSERT_TRUE(memory_->write<std::uint16_t>(at + 12, flags));
    ASSERT_TRUE(memory_->write<std::uint16_t>(at + 14, following));
  }
  /// Descriptors from `first` on.
  void chain(std::uint16_t first, const std::vector<Piece>& pieces) {
    for (std::size_t i = 0; i < pieces.size(); ++i) {
      const auto index = static_cast<std::uint16_t>(first + i);
      const bool last = i + 1 == pieces.size();
      describe(
          index, pieces[i].gpa, pieces[i].size,
          static_cast<std::uint16_t>((last ? 0 : next) | (pieces[i].writable ? device_writes : 0)),
          static_cast<std::uint16_t>(last ? 0 : index + 1));
    }
  }
  void offer(std::uint16_t head) {
    ASSERT_TRUE(memory_->write<std::uint16_t>(available_at + 4 + 2u * (available_ % size_), head));
    ++available_;
    ASSERT_TRUE(memory_->atomic_store<std::uint16_t>(available_at + 2, available_));
  }
  void notify() { set(queue_notify, 0); }
  void header(std::uint32_t type, std::uint64_t sector, Gpa at = header_at) {
    ASSERT_TRUE(memory_->write<std::uint32_t>(at, type));
    ASSERT_TRUE(memory_->write<std::uint32_t>(at + 4, 0));
    ASSERT_TRUE(memory_->write<std::uint64_t>(at + 8, sector));
  }
  std::uint16_t used_index() {
    return memory_->atomic_load<std::uint16_t>(used_at + 2).value_or(0);
  }
  bool wait_until(const std::function<bool()>& condition) {
    const auto limit = std::chrono::steady_clock::now() + 20s;
    while (!condition()) {
      if (std::chrono::steady_clock::now() > limit) {
        return false;
      }
      std::this_thread::sleep_for(100us);
    }
    return true;
  }
  /// Makes one request and waits for it.
  /// @return how many bytes the device says it wrote
  std::uint32_t request(std::uint32_t type, std::uint64_t sector, std::vector<Piece> data) {
    header(type, sector);
    static_cast<void>(memory_->write<std::uint8_t>(status_at, 0xee));
    data.insert(data.begin(), Piece{header_at, 16, false});
    data.push_back({status_at, 1, true});
    chain(0, data);
    const std::uint16_t before = used_index();
    offer(0);
    notify();
    if (!wait_until([&] { return used_index() != before; })) {
      ADD_FAILURE() << "no answer: " << device_->fault();
      return 0;
    }
    const Gpa element = used_at + 4 + 8u * (before % size_);
    EXPECT_EQ(memory_->read<std::uint32_t>(element), 0u);
    return memory_->read<std::uint32_t>(element + 4).value_or(0);
  }
  std::uint8_t outcome() { return memory_->read<std::uint8_t>(status_at).value_or(0xff); }
  std::string bytes(Gpa gpa, std::size_t size) {
    std::string out(size, '\0');
    EXPECT_TRUE(memory_->read(gpa, std::as_writable_bytes(std::span(out))));
    return out;
  }
  std::string sectors(std::uint64_t first, std::uint64_t count) const {
    return content_.substr(first * VirtioBlk::sector, count * VirtioBlk::sector);
  }

  /// The device has stopped for this reason, said so, touches nothing, and works after a reset.
  void expect_stopped(const std::string& why) {
    ASSERT_TRUE(wait_until([&] { return (get(status) & needs_reset) != 0; })) << why;
    EXPECT_NE(device_->fault().find(why), std::string::npos) << device_->fault();
    if ((get(status) & driver_ok) != 0) {
      EXPECT_TRUE(device_->interrupt_event().wait(20'000ms));
      EXPECT_TRUE(wait_until([&] { return (get(interrupt_status) & 2) != 0; }));
    } else {
      EXPECT_EQ(get(interrupt_status), 0u);
    }
    EXPECT_EQ(get(queue_ready), 0u);
    notify();
    start_again();
    EXPECT_EQ(device_->fault(), "");
    EXPECT_EQ(request(read_in, 3, {{data_at, 512, true}}), 513u);
    EXPECT_EQ(outcome(), ok);
    EXPECT_EQ(bytes(data_at, 512), sectors(3, 1));
  }

  std::string folder_;
  std::string content_;
  std::optional<kvm::System> system_;
  std::optional<kvm::Vm> vm_;
  std::optional<kvm::MemorySlot> ram_, rom_;
  std::optional<kvm::GuestMemory::View> memory_;
  std::optional<VirtioMmio> device_;
  std::uint16_t size_ = 8;
  std::uint16_t available_ = 0;
};

// --- what it is ---

TEST_F(TinyvmmVirtio, SaysWhatItIs) {
  make();
  EXPECT_EQ(get(0x00), 0x74726976u);
  EXPECT_EQ(get(0x04), 2u);
  EXPECT_EQ(get(0x08), 2u);
  EXPECT_EQ(get(status), 0u);
  EXPECT_EQ(offered(), version_1 | feature_read_only | feature_flush | 1 << 1 | 1 << 2);
  set(device_features_select, 2);
  EXPECT_EQ(get(device_features), 0u);
  set(queue_select, 0);
  EXPECT_EQ(get(queue_size_max), 256u);
  set(queue_select, 1);
  EXPECT_EQ(get(queue_size_max), 0u);

  std::uint64_t capacity = 0;
  device_->read(0x100, std::as_writable_bytes(std::span(&capacity, 1)));
  EXPECT_EQ(capacity, disk_sectors);
  EXPECT_EQ(get(0x100), disk_sectors);
  EXPECT_EQ(get(0x104), 0u);
  std::uint8_t byte = 0xff;
  device_->read(0x101, std::as_writable_bytes(std::span(&byte, 1)));
  EXPECT_EQ(byte, disk_sectors >> 8);
}

TEST_F(TinyvmmVirtio, RefusesFilesThatAreNoDisk) {
  const auto refusal = [&](const std::string& path, bool writable = false) -> std::string {
    try {
      const VirtioBlk disk(path, writable);
    } catch (const tinyvmm::BadImage& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(refusal(disk()), "");
  EXPECT_NE(refusal(folder_ + "/none").find("No such file"), std::string::npos);
  EXPECT_NE(refusal(folder_).find("neither a file nor"), std::string::npos);
  ASSERT_EQ(::mkfifo((folder_ + "/pipe").c_str(), 0600), 0);
  EXPECT_NE(refusal(folder_ + "/pipe").find("neither a file nor"), std::string::npos);
  EXPECT_NE(refusal(folder_ + "/pipe", true).find("neither a file nor"), std::string::npos);
  write_disk("");
  EXPECT_NE(refusal(disk()).find("multiple of 512"), std::string::npos);
  write_disk(std::string(513, 'x'));
  EXPECT_NE(refusal(disk()).find("has 513 bytes"), std::string::npos);
  write_disk(content_);
  const VirtioBlk reader(disk(), false);
  EXPECT_EQ(refusal(disk(), false), "");
  EXPECT_NE(refusal(disk(), true).find("in use"), std::string::npos);
}

// --- requests ---

TEST_F(TinyvmmVirtio, ReadsSectors) {
  start();
  EXPECT_EQ(request(read_in, 0, {{data_at, 512, true}}), 513u);
  EXPECT_EQ(outcome(), ok);
  EXPECT_EQ(bytes(data_at, 512), sectors(0, 1));
  EXPECT_TRUE(device_->interrupt_event().wait(20'000ms));
  EXPECT_EQ(get(interrupt_status), 1u);
  set(interrupt_acknowledge, 1);
  EXPECT_EQ(get(interrupt_status), 0u);

  EXPECT_EQ(request(read_in, 0, {{data_at, disk_sectors * 512, true}}), disk_sectors * 512 + 1);
  EXPECT_EQ(outcome(), ok);
  EXPECT_EQ(bytes(data_at, content_.size()), content_);
  EXPECT_EQ(request(read_in, disk_sectors, {}), 1u) << "nothing, at the end";
  EXPECT_EQ(outcome(), ok);
}

TEST_F(TinyvmmVirtio, BordersOfBuffersMeanNothing) {
  start();
  header(read_in, 5, header_at);
  const Gpa answer = data_at;
  // The header in three parts, the data in two odd ones, the status behind the second.
  chain(0, {{header_at, 1, false},
            {header_at + 1, 9, false},
            {header_at + 10, 6, false},
            {answer, 700, true},
            {answer + 700, 325, true}});
  offer(0);
  notify();
  ASSERT_TRUE(wait_until([&] { return used_index() == 1; }));
  EXPECT_EQ(bytes(answer, 1024), sectors(5, 2));
  EXPECT_EQ(memory_->read<std::uint8_t>(answer + 1024), ok);
  EXPECT_EQ(memory_->read<std::uint32_t>(used_at + 8), 1025u);
}

TEST_F(TinyvmmVirtio, WritesWhatMayBeWritten) {
  start(/*writable=*/true);
  EXPECT_EQ(offered() & feature_read_only, 0u);
  const std::string text(1024, 'w');
  ASSERT_TRUE(memory_->write(data_at, std::as_bytes(std::span(text))));
  EXPECT_EQ(request(write_out, 7, {{data_at, 100, false}, {data_at + 100, 924, false}}), 1u);
  EXPECT_EQ(outcome(), ok);
  EXPECT_EQ(request(flush, 0, {}), 1u);
  EXPECT_EQ(outcome(), ok);
  EXPECT_EQ(request(read_in, 6, {{data_at + 4096, 2048, true}}), 2049u);
  EXPECT_EQ(bytes(data_at + 4096, 2048), sectors(6, 1) + text + sectors(9, 1));
  EXPECT_EQ(program::read_file(disk()),
            content_.substr(0, 7 * 512) + text + content_.substr(9 * 512));
}

TEST_F(TinyvmmVirtio, WritesOfADriverWithoutFlushes) {
  make(/*writable=*/true);
  negotiate(version_1);
  set_up_queue();
  go();
  EXPECT_EQ(request(write_out, 0, {{data_at, 512, false}}), 1u);
  EXPECT_EQ(outcome(), ok);
  EXPECT_EQ(program::read_file(disk()).substr(0, 512), std::string(512, '\0'));
}

TEST_F(TinyvmmVirtio, AReadOnlyDiskRefusesWrites) {
  start();
  EXPECT_EQ(request(write_out, 0, {{data_at, 512, false}}), 1u);
  EXPECT_EQ(outcome(), io_error);
  EXPECT_EQ(program::read_file(disk()), content_);
}

TEST_F(TinyvmmVirtio, RequestsBeyondTheEnd) {
  start(/*writable=*/true);
  for (const std::uint64_t sector :
       {disk_sectors, disk_sectors - 1, ~std::uint64_t{0}, std::uint64_t{1} << 55}) {
    EXPECT_EQ(request(read_in, sector, {{data_at, 1024, true}}), 0u) << sector;
    EXPECT_EQ(outcome(), io_error) << sector;
    EXPECT_EQ(request(write_out, sector, {{data_at, 1024, false}}), 1u) << sector;
    EXPECT_EQ(outcome(), io_error) << sector;
  }
  EXPECT_EQ(request(read_in, 0, {{data_at, 511, true}}), 0u);
  EXPECT_EQ(outcome(), io_error) << "no whole sectors";
  EXPECT_EQ(program::read_file(disk()), content_);
}

TEST_F(TinyvmmVirtio, RequestsThatAreTooLarge) {
  std::filesystem::resize_file(disk(), 200_MiB);
  start(false, 128);
  // The same memory again and again.
  EXPECT_EQ(request(read_in, 0, std::vector<Piece>(63, {ram_at + 2_MiB, 2_MiB, true})),
            126_MiB + 1);
  EXPECT_EQ(outcome(), ok);
  std::vector<Piece> more(63, {ram_at + 2_MiB, 2_MiB, true});
  more.push_back({ram_at + 2_MiB, 512, true});
  EXPECT_EQ(request(read_in, 0, more), 0u);
  EXPECT_EQ(outcome(), io_error);
}

TEST_F(TinyvmmVirtio, AFileThatShrinks) {
  start();
  std::filesystem::resize_file(disk(), 1000);
  EXPECT_EQ(request(read_in, 0, {{data_at, 2048, true}}), 1000u);
  EXPECT_EQ(outcome(), io_error);
  EXPECT_EQ(bytes(data_at, 1000), content_.substr(0, 1000));
}

TEST_F(TinyvmmVirtio, OtherRequests) {
  start();
  EXPECT_EQ(request(get_id, 0, {{data_at, 20, true}}), 21u);
  EXPECT_EQ(outcome(), ok);
  EXPECT_EQ(bytes(data_at, 20), std::string("tinyvmm-disk") + std::string(8, '\0'));
  EXPECT_EQ(request(get_id, 0, {{data_at, 4, true}}), 5u);
  EXPECT_EQ(request(77, 0, {{data_at, 512, true}}), 0u);
  EXPECT_EQ(outcome(), unsupported);
}

TEST_F(TinyvmmVirtio, ManyRequestsUntilTheIndicesWrap) {
  start(false, 256);
  header(get_id, 0);
  for (std::uint16_t i = 0; i < 256; i = static_cast<std::uint16_t>(i + 2)) {
    chain(i, {{header_at, 16, false}, {status_at, 1, true}});
  }
  for (std::uint32_t done = 0; done < 0x1'0100;) {
    for (std::uint16_t i = 0; i < 128; ++i) {
      offer(static_cast<std::uint16_t>(2 * i));
    }
    done += 128;
    notify();
    ASSERT_TRUE(wait_until([&] { return used_index() == static_cast<std::uint16_t>(done); }))
        << done << ": " << device_->fault();
  }
}

TEST_F(TinyvmmVirtio, InterruptsCanBeRefused) {
  start();
  ASSERT_TRUE(memory_->write<std::uint16_t>(available_at, 1));
  EXPECT_EQ(request(read_in, 0, {{data_at, 512, true}}), 513u);
  ASSERT_TRUE(memory_->write<std::uint16_t>(available_at, 0));
  EXPECT_EQ(get(interrupt_status), 0u);
  EXPECT_FALSE(device_->interrupt_event().read());
}

TEST_F(TinyvmmVirtio, WhatWasOfferedBeforeTheDriverWasReadyIsServed) {
  make();
  negotiate(offered());
  set_up_queue();
  header(read_in, 1);
  chain(0, {{header_at, 16, false}, {data_at, 512, true}, {status_at, 1, true}});
  offer(0);
  notify();
  std::this_thread::sleep_for(5ms);
  EXPECT_EQ(used_index(), 0u) << "before the driver said that it is ready";
  go();
  ASSERT_TRUE(wait_until([&] { return used_index() == 1; }));
  EXPECT_EQ(bytes(data_at, 512), sectors(1, 1));
}

TEST_F(TinyvmmVirtio, OtherQueuesAreNotThere) {
  start();
  request(get_id, 0, {});  // By then the device has looked into its queue, as it does at the start.
  header(read_in, 1);
  chain(0, {{header_at, 16, false}, {data_at, 512, true}, {status_at, 1, true}});
  offer(0);
  set(queue_notify, 1);
  set(queue_select, 1);
  set(queue_ready, 1);
  EXPECT_EQ(get(queue_ready), 0u);
  set(queue_ready, 0);
  std::this_thread::sleep_for(5ms);
  EXPECT_EQ(used_index(), 1u);
  EXPECT_EQ(device_->fault(), "");
  notify();
  ASSERT_TRUE(wait_until([&] { return used_index() == 2; }));
}

// --- drivers that break rules ---

TEST_F(TinyvmmVirtio, Negotiation) {
  make();
  negotiate(version_1 | 1 << 20);
  EXPECT_EQ(get(status), acknowledge | driver) << "a feature that was not offered";
  negotiate(feature_flush);
  EXPECT_EQ(get(status), acknowledge | driver) << "without version 1";
  negotiate(version_1);
  EXPECT_EQ(get(status), acknowledge | driver | features_ok);
  set(status, acknowledge | driver | features_ok | needs_reset);
  EXPECT_EQ(get(status), acknowledge | driver | features_ok) << "only the device says that";
  accept(0);  // Too late: ignored.
  set_up_queue();
  go();
  EXPECT_EQ(get(status), acknowledge | driver | features_ok | driver_ok);
}

TEST_F(TinyvmmVirtio, NegotiationInTheWrongOrder) {
  make();
  set(status, driver_ok);
  expect_stopped("before features were agreed upon");
  negotiate(0);
  set_up_queue();
  expect_stopped("the queue is ready before features");
  set(status, acknowledge);
  expect_stopped("a bit of the status was cleared");
  set(status, 0);
  set(queue_ready, 1);
  expect_stopped("the queue is ready before features");
}

TEST_F(TinyvmmVirtio, QueuesThatCannotBe) {
  make();
  const auto with = [&](const std::string& why, std::uint32_t size,
                        Gpa descriptors = descriptors_at, Gpa available = available_at,
                        Gpa used = used_at) {
    SCOPED_TRACE(why);
    negotiate(offered());
    set_up_queue(size, descriptors, available, used);
    expect_stopped(why);
  };
  for (const std::uint32_t size : {0u, 3u, 255u, 257u, 512u, 0x8000'0000u, ~0u}) {
    with("power of two", size);
  }
  with("aligned", 8, descriptors_at + 8);
  with("aligned", 8, descriptors_at, available_at + 1);
  with("aligned", 8, descriptors_at, available_at, used_at + 2);
  with("not all in memory", 8, Gpa(0));
  with("not all in memory", 8, ram_at + ram_size - 112);
  with("not all in memory", 8, descriptors_at, ram_at + ram_size - 18);
  with("not all in memory", 8, descriptors_at, available_at, Gpa(~std::uint64_t{3}));
  with("not all in memory", 8, Gpa(~std::uint64_t{15}));
}

struct Malformed {
  const char* name;
  std::string why;
  std::function<void()> build;
};

TEST_F(TinyvmmVirtio, MalformedChains) {
  start();
  const auto good_header = [&] { header(read_in, 0); };
  const std::vector<Malformed> all = {
      {"descriptor that follows itself", "more descriptors than the queue",
       [&] { describe(0, header_at, 16, next, 0); }},
      {"loop of two", "more descriptors than the queue",
       [&] {
         describe(0, data_at, 16, next | device_writes, 1);
         describe(1, data_at, 16, next | device_writes, 0);
       }},
      {"next beyond the table", "beyond the table", [&] { describe(0, header_at, 16, next, 8); }},
      {"far beyond the table", "beyond the table",
       [&] { describe(0, header_at, 16, next, 0xffff); }},
      {"indirect", "indirect", [&] { describe(0, header_at, 16, indirect); }},
      {"no bytes", "has no bytes", [&] { describe(0, header_at, 0, 0); }},
      {"2^32 bytes", "2^32 bytes",
       [&] {
         describe(0, data_at, 0xffff'ffff, next | device_writes, 1);
         describe(1, data_at, 1, device_writes);
       }},
      {"readable after writable", "follows one to be written",
       [&] {
         chain(0, {{data_at, 512, true}, {header_at, 16, false}});
       }},
      {"no header", "no place for an answer",
       [&] {
         chain(0, {{data_at, 512, true}});
       }},
      {"short header", "no place for an answer",
       [&] {
         chain(0, {{header_at, 15, false}, {status_at, 1, true}});
       }},
      {"no status", "no place for an answer",
       [&] {
         chain(0, {{header_at, 16, false}});
       }},
      {"header outside", "outside of memory",
       [&] {
         chain(0, {{ram_at + (ram_size - 15), 16, false}, {status_at, 1, true}});
       }},
      {"data outside", "outside of memory",
       [&] {
         chain(0, {{header_at, 16, false},
                   {ram_at + (ram_size - 511), 512, true},
                   {status_at, 1, true}});
       }},
      {"data that wraps", "outside of memory",
       [&] {
         chain(0,
               {{header_at, 16, false}, {Gpa(~std::uint64_t{0}), 512, true}, {status_at, 1, true}});
       }},
      {"status outside", "outside of memory",
       [&] {
         chain(0, {{header_at, 16, false}, {Gpa(16), 1, true}});
       }},
      {"data in read-only memory", "outside of memory",
       [&] {
         chain(0, {{header_at, 16, false}, {rom_at, 512, true}, {status_at, 1, true}});
       }},
      {"status in read-only memory", "outside of memory",
       [&] {
         chain(0, {{header_at, 16, false}, {data_at, 512, true}, {rom_at, 1, true}});
       }},
  };
  for (const Malformed& one : all) {
    SCOPED_TRACE(one.name);
    good_header();
    one.build();
    offer(0);
    notify();
    expect_stopped(one.why);
  }
  // The head itself.
  offer(8);
  notify();
  expect_stopped("beyond the table");
}

TEST_F(TinyvmmVirtio, AnIndexThatJumps) {
  start();
  for (const std::uint16_t index :
       {std::uint16_t{9}, std::uint16_t{0x8000}, std::uint16_t{0xffff}}) {
    SCOPED_TRACE(index);
    ASSERT_TRUE(memory_->write<std::uint16_t>(available_at + 2,
                                              static_cast<std::uint16_t>(available_ + index)));
    notify();
    expect_stopped("jumped");
  }
}

TEST_F(TinyvmmVirtio, AUsedRingInReadOnlyMemory) {
  make();
  negotiate(offered());
  set_up_queue(8, descriptors_at, available_at, rom_at);
  go();
  header(read_in, 0);
  chain(0, {{header_at, 16, false}, {data_at, 512, true}, {status_at, 1, true}});
  offer(0);
  notify();
  expect_stopped("the used ring");
}

TEST_F(TinyvmmVirtio, MemoryThatGoesAway) {
  make();
  std::optional<kvm::MemorySlot> extra =
      vm_->add_memory(Gpa(0x1000'0000), kvm::Mapping::anonymous(64_KiB));
  const auto with = [&](const std::string& why, Gpa descriptors, Gpa available, Gpa used) {
    SCOPED_TRACE(why);
    ASSERT_TRUE(memory_->fill(Gpa(0x1000'0000), 64_KiB, std::byte{0}));
    negotiate(offered());
    set_up_queue(8, descriptors, available, used);
    go();
    header(read_in, 0);
    chain(0, {{header_at, 16, false}, {data_at, 512, true}, {status_at, 1, true}});
    extra.reset();
    offer(0);
    notify();
    expect_stopped(why);
    extra = vm_->add_memory(Gpa(0x1000'0000), kvm::Mapping::anonymous(64_KiB));
  };
  with("the descriptors are not in memory", Gpa(0x1000'0000), available_at, used_at);
  with("the available ring is not in memory", descriptors_at, Gpa(0x1000'0000), used_at);
  with("the used ring is not in memory", descriptors_at, available_at, Gpa(0x1000'0000));
}

TEST_F(TinyvmmVirtio, AccessesOfAnyWidthAnywhere) {
  start();
  std::mt19937_64 random(2);
  const std::string before = bytes(ram_at, 0x8000);
  for (int i = 0; i < 200'000; ++i) {
    const std::uint64_t number = random();
    std::array<std::byte, 8> data{};
    const std::size_t width = std::size_t{1} << number % 4;
    // Only what can have no effect: not whole registers.
    const std::uint64_t offset = number >> 8 & 0xfff;
    const auto part = std::span(data).first(width);
    if (width == 4 && offset % 4 == 0) {
      device_->read(offset, part);
    } else {
      std::fill(part.begin(), part.end(), std::byte{0xff});
      device_->read(offset, part);
      if (offset < 0x100 || offset >= 0x118) {
        EXPECT_TRUE(std::all_of(part.begin(), part.end(),
                                [](std::byte b) { return b == std::byte{0xff}; }));
      }
      device_->write(offset, part);
    }
    device_->write(~number, part);
    device_->read(~number, part);
  }
  EXPECT_EQ(get(status), acknowledge | driver | features_ok | driver_ok);
  EXPECT_EQ(bytes(ram_at, 0x8000), before);
  EXPECT_EQ(request(read_in, 1, {{data_at, 512, true}}), 513u);
  // And registers with any value.
  for (int i = 0; i < 100'000; ++i) {
    const std::uint64_t number = random();
    set(number >> 34 & 0x1fc, static_cast<std::uint32_t>(number));
  }
  start_again();
  EXPECT_EQ(request(read_in, 1, {{data_at, 512, true}}), 513u);
}

TEST_F(TinyvmmVirtio, ResetsInMidFlight) {
  start();
  header(read_in, 0);
  for (int round = 0; round < 300; ++round) {
    chain(0, {{header_at, 16, false}, {data_at, disk_sectors * 512, true}, {status_at, 1, true}});
    for (int i = 0; i < 8; ++i) {
      offer(0);
    }
    notify();
    if (round % 2 == 0) {
      std::this_thread::sleep_for(std::chrono::microseconds(round));
    }
    set(status, 0);
    ASSERT_EQ(get(status), 0u);
    // From here on the memory is the driver's alone.
    const std::uint16_t served = used_index();
    ASSERT_TRUE(memory_->fill(data_at, disk_sectors * 512, std::byte{0x5a}));
    notify();
    std::this_thread::sleep_for(100us);
    ASSERT_EQ(used_index(), served);
    ASSERT_EQ(memory_->read<std::uint8_t>(data_at), 0x5a);
    ASSERT_EQ(memory_->read<std::uint8_t>(data_at + disk_sectors * 512 - 1), 0x5a);
    start_again();
  }
}

TEST_F(TinyvmmVirtio, EndsWhileADriverNeverRests) {
  start();
  header(read_in, 0);
  chain(0, {{header_at, 16, false}, {data_at, 4096, true}, {status_at, 1, true}});
  std::atomic<bool> end{false};
  // Descriptors change, and the index follows what is used: there is always more to do.
  std::thread guest([&] {
    kvm::GuestMemory::View memory = vm_->memory().view();
    for (std::uint32_t i = 0; !end; ++i) {
      const auto used = memory.atomic_load<std::uint16_t>(used_at + 2);
      static_cast<void>(memory.atomic_store<std::uint16_t>(
          available_at + 2, static_cast<std::uint16_t>(used.value_or(0) + 8)));
      static_cast<void>(memory.write<std::uint64_t>(header_at + 8, i % disk_sectors));
    }
  });
  EXPECT_TRUE(wait_until([&] {
    notify();  // It may have looked before the guest began.
    return used_index() > 20 || !device_->fault().empty();
  }));
  device_.reset();
  end = true;
  guest.join();
}

TEST_F(TinyvmmVirtio, RegistersAndTheEndAreNotBehindAllRequests) {
  struct Slow : tinyvmm::VirtioFunction {
    std::uint32_t id() const override { return 2; }
    std::uint64_t features() const override { return 0; }
    std::span<const std::byte> config() const override { return {}; }
    std::optional<std::uint32_t> serve(const tinyvmm::Chain&, std::uint64_t,
                                       kvm::GuestMemory::View&) override {
      std::this_thread::sleep_for(10ms);
      return 0;
    }
  };
  device_.emplace(vm_->memory(), std::make_unique<Slow>());
  start_again(128);
  header(read_in, 0);
  chain(0, {{header_at, 16, false}, {status_at, 1, true}});
  for (int i = 0; i < 128; ++i) {
    offer(0);
  }
  notify();
  EXPECT_TRUE(wait_until([&] { return used_index() > 0; }));
  // A register comes after the request in work, not after the next one. That this thread sleeps
  // before it asks happens, but not each time.
  int at_once = 0;
  for (int i = 0; i < 10; ++i) {
    std::this_thread::sleep_for(5ms);  // The next request is in work again.
    const unsigned before = used_index();
    EXPECT_EQ(get(queue_ready), 1u);
    at_once += used_index() - before <= 1 ? 1 : 0;
  }
  EXPECT_GE(at_once, 4) << "requests were served while a register was waited for";
  device_.reset();
  EXPECT_LT(used_index(), 128u);
}

TEST_F(TinyvmmVirtio, WhatTheHostRefusesIsTold) {
  struct Refused : tinyvmm::VirtioFunction {
    std::uint32_t id() const override { return 2; }
    std::uint64_t features() const override { return 0; }
    std::span<const std::byte> config() const override { return {}; }
    std::optional<std::uint32_t> serve(const tinyvmm::Chain&, std::uint64_t,
                                       kvm::GuestMemory::View&) override {
      throw std::runtime_error("no more memory");
    }
  };
  std::string failure;
  kvm::EventFd told;
  device_.emplace(vm_->memory(), std::make_unique<Refused>(), [&](const std::string& why) {
    failure = why;
    told.signal();
  });
  start_again();
  header(read_in, 0);
  chain(0, {{header_at, 16, false}, {data_at, 512, true}, {status_at, 1, true}});
  offer(0);
  notify();
  ASSERT_TRUE(told.wait(20'000ms));
  device_.reset();
  EXPECT_EQ(failure, "no more memory");
}

}  // namespace
