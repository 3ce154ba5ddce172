// SPDX-License-Identifier: MIT
// Either unit: MIXED_UNIT is a or b.
#include "mixed.hpp"

#include <kvm/kvm.hpp>

#include <cstdint>
#include <span>
#include <string>
#include <utility>

namespace mixed {

// Its name has the exceptions mode in it, as the types in it have.
inline namespace KVM_HPP_ABI {
struct Parts {
  kvm::Mapping memory;
  kvm::DirtyBitmap bitmap;
};
}  // namespace KVM_HPP_ABI

namespace MIXED_UNIT {
namespace {

template <class T>
Type type(const char* name) {
  return {name, sizeof(T), alignof(T)};
}
#define MIXED_TYPE(name) type<kvm::name>(#name)

std::string settings() {
  std::string text = std::to_string(__cplusplus);
#if defined(NDEBUG)
  text += " NDEBUG";
#endif
#if defined(__OPTIMIZE__)
  text += " optimised";
#endif
#if !defined(__cpp_exceptions)
  text += " no-exceptions";
#endif
#if !defined(__cpp_rtti)
  text += " no-rtti";
#endif
  return text;
}

std::string bitmap_of(const kvm::DirtyBitmap& bitmap) {
  std::string text;
  bitmap.for_each_run([&](std::uint64_t first, std::uint64_t count) {
    text += std::to_string(first) + '+' + std::to_string(count) + ' ';
  });
  return text;
}

kvm::DirtyBitmap some_bitmap() {
  kvm::DirtyBitmap bitmap(129);
  bitmap.set(3);
  bitmap.set(63, 2);
  bitmap.set(128);
  return bitmap;
}

// The guest writes "ok" to port 0x10. Every failure is a sentence.
std::string run_guest(std::string& text) {
#if KVM_HPP_ARCH_X86
  // mov al, 'o'; out 0x10, al; mov al, 'k'; out 0x10, al; hlt
  constexpr unsigned char code[] = {0xb0, 'o', 0xe6, 0x10, 0xb0, 'k', 0xe6, 0x10, 0xf4};
  auto system = kvm::System::try_open();
  if (!system) return system.error().what();
  auto vm = system->try_create_vm();
  if (!vm) return vm.error().what();
  auto memory = kvm::Mapping::try_anonymous(0x1000);
  if (!memory) return memory.error().what();
  auto ram = vm->try_add_memory(kvm::Gpa{0x1000}, std::move(*memory));
  if (!ram) return ram.error().what();
  if (!ram->load(kvm::Gpa{0x1000}, std::as_bytes(std::span(code)))) return "load";
  auto vcpu = vm->try_create_vcpu(0);
  if (!vcpu) return vcpu.error().what();
  auto sregs = vcpu->try_get_sregs();
  if (!sregs) return sregs.error().what();
  sregs->cs.base = sregs->cs.selector = 0;
  if (auto done = vcpu->try_set_sregs(*sregs); !done) return done.error().what();
  auto regs = vcpu->try_get_regs();
  if (!regs) return regs.error().what();
  regs->rip = 0x1000;
  if (auto done = vcpu->try_set_regs(*regs); !done) return done.error().what();
  std::string wrong;
  for (bool running = true; running;) {
    kvm::Exit exit = vcpu->run();
    exit.visit([&](kvm::exits::IoOut out) { text += static_cast<char>(out.data[0]); },
               [&](kvm::exits::Hlt) { running = false; }, [](kvm::exits::Interrupted) {},
               [&](auto&&) {
                 wrong = exit.describe();
                 running = false;
               });
  }
  return wrong;
#else
  text.clear();
  return "its guest is x86 code";
#endif
}

}  // namespace

Report report() {
  Report report;
  report.exceptions = KVM_HPP_EXCEPTIONS != 0;
  report.settings = settings();
  report.types = {MIXED_TYPE(System),      MIXED_TYPE(Vm),          MIXED_TYPE(Vcpu),
                  MIXED_TYPE(Device),      MIXED_TYPE(MemorySlot),  MIXED_TYPE(Mapping),
                  MIXED_TYPE(GuestMemory), MIXED_TYPE(DirtyBitmap), MIXED_TYPE(DirtyLog),
                  MIXED_TYPE(DirtyRing),   MIXED_TYPE(Kicker),      MIXED_TYPE(DirtyTracker),
                  MIXED_TYPE(Error),       MIXED_TYPE(Result<int>), MIXED_TYPE(Exit),
                  MIXED_TYPE(EventFd),     MIXED_TYPE(Irqfd),       MIXED_TYPE(Ioeventfd),
                  MIXED_TYPE(IrqRouting),  MIXED_TYPE(Pin),         MIXED_TYPE(GfnToHvaCache),
                  MIXED_TYPE(Fd),          MIXED_TYPE(Gpa),         MIXED_TYPE(MemoryOptions),
                  MIXED_TYPE(exits::IoOut)};
  const auto missing = kvm::System::try_open("/nonexistent/kvm");
  report.open_error = missing ? "it opened" : missing.error().what();
  report.bitmap = bitmap_of(some_bitmap());
  report.no_guest = run_guest(report.guest);
  return report;
}

Machine* make() {
  auto memory = kvm::Mapping::try_anonymous(0x3000);
  if (!memory) return nullptr;
  return reinterpret_cast<Machine*>(new Parts{std::move(*memory), some_bitmap()});
}

std::string use(Machine* machine) {
  if (machine == nullptr) return "no memory";
  auto* parts = reinterpret_cast<Parts*>(machine);
  std::string text = std::to_string(parts->memory.size()) + ' ' + bitmap_of(parts->bitmap);
  delete parts;
  return text;
}

}  // namespace MIXED_UNIT
}  // namespace mixed
