// SPDX-License-Identifier: MIT
// A harvest of a slot of 1 GiB against the two ioctls that it stands for, and a
// plain loop over their bitmap.
#include <kvm/kvm.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "compare.hpp"
#include "support/dirty_guest.hpp"

namespace {

using namespace kvm::literals;
namespace request = kvm::uapi::request;
using kvm_test::page;

constexpr std::uint64_t pages = 1_GiB / page;
constexpr kvm_bench::Target target{1.05};

/// A VM with the slot, and a guest that writes to it.
struct Side {
  Side() {
    machine.vm.enable(kvm::cap::ManualDirtyLogProtect2{});
    slot = machine.vm.add_memory(kvm::Gpa(kvm_test::logged_at), kvm::Mapping::anonymous(1_GiB),
                                 {.log_dirty = true});
    writer.emplace(machine);
  }
  kvm_test::Machine machine;
  std::optional<kvm::MemorySlot> slot;
  std::optional<kvm_test::Writer> writer;
  std::uint64_t sum = 0;
};

struct Raw : Side {
  std::vector<std::uint64_t> bitmap = std::vector<std::uint64_t>(pages / 64);

  void harvest() {
    kvm::uapi::kvm_dirty_log get{};
    get.slot = slot->id().raw();
    get.dirty_bitmap = bitmap.data();
    machine.vm.ioctl(request::get_dirty_log, &get);
    kvm::uapi::kvm_clear_dirty_log clear{};
    clear.slot = slot->id().raw();
    clear.num_pages = static_cast<std::uint32_t>(pages);
    clear.dirty_bitmap = bitmap.data();
    machine.vm.ioctl(request::clear_dirty_log, &clear);
    for (std::uint64_t i = 0; i < pages / 64; ++i) {
      for (std::uint64_t word = bitmap[i]; word != 0; word &= word - 1) {
        sum += i * 64 + static_cast<std::uint64_t>(__builtin_ctzll(word));
      }
    }
    benchmark::DoNotOptimize(sum);
  }
};

struct Library : Side {
  kvm::DirtyLog log{*slot};

  void harvest() {
    log.harvest([this](kvm::GfnRange run) { sum += run.first ^ run.count; });
    benchmark::DoNotOptimize(sum);
  }
};

/// Only the harvest is timed, not the guest's writes before it, which take a
/// thousand times as long.
void compare_dirty(const char* name, std::uint64_t dirty, unsigned rounds) {
  benchmark::RegisterBenchmark(
      name,
      [=](benchmark::State& state) {
        for ([[maybe_unused]] auto _ : state) {
          Raw raw;
          Library library;
          const auto time = [&](auto& side) {
            side.writer->write(kvm_test::logged_at, dirty);
            const auto start = std::chrono::steady_clock::now();
            side.harvest();
            const std::chrono::duration<double, std::nano> taken =
                std::chrono::steady_clock::now() - start;
            return taken.count();
          };
          time(raw);
          time(library);
          std::vector<double> floors;
          std::vector<double> libraries;
          std::vector<double> shares;
          for (unsigned round = 0; round < rounds; ++round) {
            double floor = 0;
            double own = 0;
            for (const bool first : {true, false}) {
              if (first == (round % 2 == 0)) {
                floor = time(raw);
              } else {
                own = time(library);
              }
            }
            floors.push_back(floor);
            libraries.push_back(own);
            shares.push_back(own / floor);
          }
          const double value = kvm_bench::median(std::move(shares));
          state.counters["floor_ns"] = kvm_bench::median(std::move(floors));
          state.counters["library_ns"] = kvm_bench::median(std::move(libraries));
          state.counters["ratio"] = value;
          kvm_bench::ratios.push_back({name, value, target});
        }
      })
      ->Iterations(1)
      ->Unit(benchmark::kMillisecond);
}

void compare_clean(const char* name) {
  kvm_bench::compare(name, target,
                     [] {
                       const auto raw = std::make_shared<Raw>();
                       const auto library = std::make_shared<Library>();
                       return std::pair{[=] { raw->harvest(); }, [=] { library->harvest(); }};
                     },
                     {.rounds = 400, .batch = 25});
}

}  // namespace

int main(int argc, char** argv) {
  compare_clean("dirty_log_harvest_1gib_clean");
  compare_dirty("dirty_log_harvest_1gib_16_dirty", 16, 401);
  compare_dirty("dirty_log_harvest_1gib_512_dirty", 512, 101);
  return kvm_bench::run(argc, argv);
}
