// SPDX-License-Identifier: MIT
// Store, then mark: whichever instruction of a write a harvest comes after, the
// page that the harvester copied is up to date in the end, or offered again.
#include <kvm/kvm.hpp>
#include <kvm/memory/dirty_log.hpp>

#include <cstdio>
#include <cstring>
#include <vector>

#include "interleave.hpp"

using namespace kvm::literals;

namespace {

constexpr std::size_t size = 256_KiB;

struct Setup {
  kvm::System system;
  kvm::Vm vm = system.create_vm();
  kvm::MemorySlot ram =
      vm.add_memory(kvm::Gpa{0}, kvm::Mapping::anonymous(size), {.log_dirty = true});
  kvm::GuestMemory::View view = vm.memory().view();
  kvm::GfnToHvaCache one_page{vm.memory(), kvm::Gpa{0x3000}, 64};
  kvm::GfnToHvaCache pages{vm.memory(), kvm::Gpa{0x3000}, 0x3000};
  kvm::DirtyLog log{ram};
  std::vector<std::byte> copy = std::vector<std::byte>(size);

  void harvest() {
    const std::size_t page = kvm::detail::sys::page_size();
    log.harvest([&](kvm::GfnRange range) {
      std::memcpy(copy.data() + range.first * page, ram.mapping().data() + range.first * page,
                  range.count * page);
    });
  }
  bool up_to_date() const { return std::memcmp(copy.data(), ram.mapping().data(), size) == 0; }
};

/// @param write called with a number that differs each time
template <class Write>
void holds(Setup& setup, const char* name, Write write) {
  std::uint32_t number = 0;
  for (const bool marked_before : {false, true}) {
    kvm_litmus::at_every_instruction(name, [&](unsigned long after, bool& ok) {
      setup.harvest();
      if (marked_before) {
        write(++number);  // The page is marked, so that the next mark is skipped.
      }
      ++number;
      const unsigned long had = kvm_litmus::run_interrupted(
          after, [&] { write(number); }, [&] { setup.harvest(); });
      setup.harvest();
      ok = setup.up_to_date();
      return had;
    });
  }
}

}  // namespace

int main() {
  Setup setup;
  kvm_litmus::install_trap();
  std::vector<std::byte> bytes(9000);
  holds(setup, "view scalar",
        [&](std::uint32_t n) { (void)setup.view.write<std::uint32_t>(kvm::Gpa{0x2000}, n); });
  holds(setup, "view misaligned scalar",
        [&](std::uint32_t n) { (void)setup.view.write<std::uint32_t>(kvm::Gpa{0x2ffe}, n); });
  holds(setup, "view atomic", [&](std::uint32_t n) {
    (void)setup.view.atomic_store<std::uint32_t>(kvm::Gpa{0x2000}, n);
  });
  holds(setup, "cache of one page",
        [&](std::uint32_t n) { (void)setup.one_page.write<std::uint32_t>(8, n); });
  holds(setup, "cache of several pages",
        [&](std::uint32_t n) { (void)setup.pages.write<std::uint32_t>(0x1008, n); });
  holds(setup, "view bytes", [&](std::uint32_t n) {
    std::memcpy(bytes.data(), &n, sizeof n);
    (void)setup.view.write(kvm::Gpa{0x2000}, std::span(bytes).first(48));
  });
  holds(setup, "cache bytes", [&](std::uint32_t n) {
    std::memcpy(bytes.data(), &n, sizeof n);
    (void)setup.pages.write(0x1ff0, std::span(bytes).first(48));
  });
  holds(setup, "fill",
        [&](std::uint32_t n) { (void)setup.view.fill(kvm::Gpa{0x2000}, 40, std::byte(n)); });
  holds(setup, "load", [&](std::uint32_t n) {
    std::memcpy(bytes.data(), &n, sizeof n);
    (void)setup.ram.load(kvm::Gpa{0x2000}, std::span<const std::byte>(bytes).first(48));
  });
}
