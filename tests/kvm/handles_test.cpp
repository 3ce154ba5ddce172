// SPDX-License-Identifier: MIT
// What becomes of handles: moved, dropped in any order, misused, forked.
// needs: x86
#include "support/child.hpp"
#include "support/guest.hpp"
#include "support/require.hpp"

#include <kvm/kvm.hpp>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <grp.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

namespace {

namespace cap = kvm::cap;
namespace exits = kvm::exits;
namespace request = kvm::uapi::request;
using kvm_test::Devices;
using kvm_test::expect_in_child;
using kvm_test::Guest;
using kvm_test::Machine;
using kvm_test::operator""_KiB;
using kvm_test::operator""_MiB;

template <class T>
constexpr bool move_only =
    std::is_nothrow_move_constructible_v<T>&& std::is_nothrow_move_assignable_v<T> &&
    !std::is_copy_constructible_v<T>;
static_assert(move_only<kvm::System> && move_only<kvm::Vm> && move_only<kvm::Vcpu> &&
              move_only<kvm::MemorySlot> && move_only<kvm::Device> && move_only<kvm::Fd> &&
              move_only<kvm::Mapping>);

bool contains(std::string_view text, std::string_view words) {
  return text.find(words) != std::string_view::npos;
}

template <class E>
std::optional<E> as(const kvm::Exit& exit) {
  return exit.visit([](E seen) { return std::optional<E>(seen); },
                    [](auto&&) { return std::optional<E>(); });
}

/// That an operation fails so, and its message has all the words.
template <class T>
void expect_error(const kvm::Result<T>& result, int error_number,
                  std::initializer_list<std::string_view> words) {
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().error_number(), error_number) << result.error().what();
  for (const std::string_view word : words) {
    EXPECT_TRUE(contains(result.error().what(), word))
        << "\"" << word << "\" is not in: " << result.error().what();
  }
}

template <class T>
void expect_empty(const kvm::Result<T>& result) {
  expect_error(result, EBADF, {"empty", "moved from"});
}

// Writes to a port for ever.
constexpr std::initializer_list<std::uint8_t> talking = {0xe6, 0x20,   // out 0x20, al
                                                         0xeb, 0xfc};  // jmp back

bool talks(kvm::Vcpu& vcpu) {
  const auto io = as<exits::IoOut>(vcpu.run());
  return io && io->port == 0x20;
}

/// Whether a page is mapped in this process.
bool mapped(const void* address) {
  unsigned char resident;
  return mincore(const_cast<void*>(address), 1, &resident) == 0;
}

std::set<int> open_descriptors() {
  std::set<int> open;
  for (int fd = 0; fd < 1024; ++fd) {
    if (fcntl(fd, F_GETFD) >= 0) {
      open.insert(fd);
    }
  }
  return open;
}

std::size_t kvm_mappings() {
  std::ifstream maps("/proc/self/maps");
  std::size_t count = 0;
  for (std::string line; std::getline(maps, line);) {
    count += contains(line, "kvm") && contains(line, "anon_inode") ? 1 : 0;
  }
  return count;
}

/// Counts what is left behind by a scope.
class LeakCheck {
 public:
  LeakCheck() : descriptors_(open_descriptors()), mappings_(kvm_mappings()) {}
  LeakCheck(const LeakCheck&) = delete;
  LeakCheck& operator=(const LeakCheck&) = delete;
  ~LeakCheck() {
    EXPECT_EQ(open_descriptors(), descriptors_);
    EXPECT_EQ(kvm_mappings(), mappings_);
  }

 private:
  std::set<int> descriptors_;
  std::size_t mappings_;
};

TEST(Handles, LeaveNothingBehind) {
  const void* run_page = nullptr;
  const void* memory = nullptr;
  {
    const LeakCheck check;
    Guest guest = Guest::real_mode(talking);
    EXPECT_TRUE(talks(guest.vcpu));
    run_page = guest.vcpu.run_page();
    memory = guest.ram.mapping().data();
    EXPECT_TRUE(mapped(run_page));
    EXPECT_TRUE(mapped(memory));
    // What fails leaves nothing either.
    EXPECT_FALSE(guest.vm.try_create_vcpu(0));
    EXPECT_FALSE(guest.vm.try_add_memory(kvm::Gpa(0), kvm::Mapping::anonymous(4_KiB)));
    EXPECT_FALSE(guest.system.try_create_vm(kvm::VmType(0xffff)));
    EXPECT_FALSE(guest.vm.try_create_device(kvm::DeviceType(0xffff)));
    EXPECT_FALSE(kvm::System::try_open("/dev/null"));
    EXPECT_FALSE(kvm::System::try_open("/no/such/file"));
  }
  EXPECT_FALSE(mapped(run_page));
  EXPECT_FALSE(mapped(memory));
}

TEST(Handles, AreCloseOnExec) {
  const auto before = open_descriptors();
  Guest guest = Guest::real_mode(talking);
  std::optional<kvm::Device> device;
  if (guest.vm.has_device(kvm::DeviceType::vfio)) {
    device = guest.vm.create_device(kvm::DeviceType::vfio);
  }
  std::size_t ours = 0;
  for (const int fd : open_descriptors()) {
    if (!before.contains(fd)) {
      ++ours;
      EXPECT_EQ(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC)
          << std::filesystem::read_symlink("/proc/self/fd/" + std::to_string(fd));
    }
  }
  EXPECT_EQ(ours, device ? 4u : 3u);
}

TEST(Handles, WorkAfterAMove) {
  Guest first = Guest::real_mode(talking);
  EXPECT_TRUE(talks(first.vcpu));
  const int fd = first.vcpu.fd();
  kvm::Vcpu vcpu = std::move(first.vcpu);
  kvm::Vm vm = std::move(first.vm);
  kvm::MemorySlot ram = std::move(first.ram);
  const kvm::System system = std::move(first.system);
  EXPECT_EQ(vcpu.fd(), fd);
  EXPECT_TRUE(vcpu.completion_pending());  // It moved with the vCPU.
  EXPECT_TRUE(talks(vcpu));
  EXPECT_EQ(ram.size(), 2_MiB);

  // Assigned over another, whose own things end.
  Guest second = Guest::real_mode(talking);
  const void* old_page = second.vcpu.run_page();
  const void* old_memory = second.ram.mapping().data();
  second.vcpu = std::move(vcpu);
  second.ram = std::move(ram);
  second.vm = std::move(vm);
  EXPECT_FALSE(mapped(old_page));
  EXPECT_FALSE(mapped(old_memory));
  EXPECT_TRUE(talks(second.vcpu));
  EXPECT_EQ(second.vcpu.fd(), fd);
}

TEST(Handles, StandAMoveToThemselves) {
  Guest guest = Guest::real_mode(talking);
  auto& vcpu = guest.vcpu;
  auto& vm = guest.vm;
  auto& ram = guest.ram;
  auto& system = guest.system;
  guest.vcpu = std::move(vcpu);
  guest.vm = std::move(vm);
  guest.ram = std::move(ram);
  guest.system = std::move(system);
  EXPECT_TRUE(talks(guest.vcpu));
  EXPECT_TRUE(guest.vm.try_create_vcpu(1));
  EXPECT_EQ(guest.ram.size(), 2_MiB);
  EXPECT_TRUE(guest.system.try_create_vm());
}

TEST(MovedFromSystem, SaysSo) {
  kvm::System system;
  const kvm::System other = std::move(system);
  EXPECT_EQ(system.fd(), -1);
  expect_empty(system.try_create_vm());
  expect_empty(system.try_check<cap::UserMemory>());
  expect_empty(system.try_check<cap::NrMemslots>());
  expect_empty(system.try_check_raw(3));
  expect_empty(system.try_ioctl(request::get_api_version.code));
  expect_empty(system.try_has_device_attr(0, 0));
  std::uint64_t value = 0;
  expect_empty(system.try_get_device_attr(0, 0, value));
}

TEST(MovedFromVm, SaysSo) {
  Machine machine;
  kvm::Vm& vm = machine.vm;
  const kvm::Vm other = std::move(vm);
  EXPECT_EQ(vm.fd(), -1);
  auto memory = kvm::Mapping::anonymous(4_KiB);
  expect_empty(vm.try_add_memory(kvm::Gpa(0x10000000), std::move(memory)));
  EXPECT_NE(memory.data(), nullptr);  // Still the caller's.
  expect_empty(vm.try_create_vcpu(0));
  expect_empty(vm.try_create_device(kvm::DeviceType::vfio));
  expect_empty(vm.try_has_device(kvm::DeviceType::vfio));
  expect_empty(vm.try_enable(cap::HaltPoll{.max_ns = 1}));
  expect_empty(vm.try_enable_raw(182));
  expect_empty(vm.try_check<cap::UserMemory>());
  expect_empty(vm.try_check_raw(3));
  expect_empty(vm.try_ioctl(request::check_extension.code, 3ul));
  expect_empty(vm.try_has_device_attr(0, 0));
  expect_empty(vm.try_set_device_attr(0, 0));
  EXPECT_EQ(vm.parked_mappings(), 0u);
}

TEST(MovedFromVcpu, SaysSo) {
  Guest guest = Guest::real_mode({0xe4, 0x10, 0xf4});
  kvm::Vcpu& vcpu = guest.vcpu;
  (void)vcpu.run();  // Something is pending.
  const kvm::Vcpu other = std::move(vcpu);
  EXPECT_EQ(vcpu.fd(), -1);
  for (int i = 0; i < 2; ++i) {
    const auto failed = as<exits::Failed>(vcpu.run());
    ASSERT_TRUE(failed);
    EXPECT_EQ(failed->error_number, EBADF);
    EXPECT_TRUE(contains(failed->cause, "moved from"));
  }
  EXPECT_STREQ(vcpu.run().name(), "failed");
  EXPECT_FALSE(vcpu.completion_pending());
  const auto completed = vcpu.complete();
  ASSERT_TRUE(completed && as<exits::Failed>(*completed));
  EXPECT_EQ(as<exits::Failed>(*completed)->error_number, EBADF);
  EXPECT_EQ(vcpu.run_page(), nullptr);
  EXPECT_TRUE(vcpu.run_mapping().empty());
  expect_empty(vcpu.try_get_regs());
  expect_empty(vcpu.try_set_regs({}));
  expect_empty(vcpu.try_get_sregs());
  expect_empty(vcpu.try_set_sregs({}));
  expect_empty(vcpu.try_get_mp_state());
  expect_empty(vcpu.try_set_mp_state({}));
  expect_empty(vcpu.try_set_guest_debug({}));
  expect_empty(vcpu.try_get_one_reg<std::uint64_t>(0x2030'0002'0000'0174));
  expect_empty(vcpu.try_set_one_reg(0x2030'0002'0000'0174, std::uint64_t{0}));
  expect_empty(vcpu.try_get_reg_list());
  expect_empty(vcpu.try_kicker(SIGUSR1));
  expect_empty(vcpu.try_entry_kicker());
  sigset_t none;
  sigemptyset(&none);
  expect_empty(vcpu.try_set_signal_mask(none));
  expect_empty(vcpu.try_clear_signal_mask());
  expect_empty(vcpu.try_enable(cap::EnforcePvFeatureCpuid{}));
  expect_empty(vcpu.try_enable_raw(190));
  expect_empty(vcpu.try_ioctl(request::run.code));
  expect_empty(vcpu.try_has_device_attr(0, 0));
}

TEST(MovedFromSlot, SaysSo) {
  Machine machine;
  kvm::MemorySlot other = std::move(machine.ram);
  EXPECT_EQ(machine.ram.size(), 0u);
  const std::byte byte[1] = {};
  std::byte out[1];
  EXPECT_FALSE(machine.ram.load(kvm::Gpa(0), byte));
  EXPECT_FALSE(machine.ram.fetch(kvm::Gpa(0), out));
  expect_empty(machine.ram.try_remove());
  ASSERT_TRUE(other.try_remove());
  expect_empty(other.try_remove());  // Removed is empty too.
}

TEST(MovedFromDevice, SaysSo) {
  Machine machine;
  if (!machine.vm.has_device(kvm::DeviceType::vfio)) {
    GTEST_SKIP() << "KVM_DEV_TYPE_VFIO is not offered by this host";
  }
  kvm::Device device = machine.vm.create_device(kvm::DeviceType::vfio);
  EXPECT_TRUE(device.has_device_attr(1, 1));
  EXPECT_FALSE(device.has_device_attr(1, 99));
  expect_error(machine.vm.try_create_device(kvm::DeviceType::vfio), EBUSY,
               {"KVM_CREATE_DEVICE", "type=4", "already"});
  const kvm::Device other = std::move(device);
  EXPECT_EQ(device.fd(), -1);
  expect_empty(device.try_has_device_attr(1, 1));
  expect_empty(device.try_set_device_attr(1, 1));
  expect_empty(device.try_ioctl(request::run.code));
}

// A test makes no device: KVM leaves the field for a descriptor as it was, and 0 is one.
TEST(CreateDevice, IsNotATest) {
  Machine machine;
  const kvm::Fd stand_in(fcntl(0, F_GETFD) < 0 ? open("/dev/null", O_RDONLY | O_CLOEXEC) : -1);
  ASSERT_GE(fcntl(0, F_GETFD), 0);
  const LeakCheck check;
  for (const std::uint32_t type : {4u, 9999u}) {
    expect_error(
        machine.vm.try_create_device(kvm::DeviceType(type), kvm::uapi::create_device_flag::test),
        EINVAL, {"KVM_CREATE_DEVICE", "type=" + std::to_string(type), "has_device()"});
  }
  EXPECT_GE(fcntl(0, F_GETFD), 0);
}

TEST(Slots, EmptyAccessesTouchNothing) {
  Machine machine;
  EXPECT_TRUE(machine.ram.load(kvm::Gpa(0), std::span<const std::byte>()));
  EXPECT_TRUE(machine.ram.fetch(kvm::Gpa(2_MiB), std::span<std::byte>()));
  EXPECT_FALSE(machine.ram.load(kvm::Gpa(2_MiB + 1), std::span<const std::byte>()));
  const kvm::MemorySlot other = std::move(machine.ram);
  static_cast<void>(machine.ram.load(kvm::Gpa(0), std::span<const std::byte>()));
  static_cast<void>(machine.ram.fetch(kvm::Gpa(0), std::span<std::byte>()));
}

TEST(Slots, AccessesAreInBoundsOrNothing) {
  Machine machine;
  const std::vector<std::byte> bytes(16, std::byte{0x5a});
  constexpr std::uint64_t most = ~std::uint64_t{0};
  EXPECT_TRUE(machine.ram.load(kvm::Gpa(2_MiB - 16), bytes));
  for (const std::uint64_t gpa : {std::uint64_t{2_MiB - 15}, std::uint64_t{2_MiB}, most - 15,
                                  most - 7, most, std::uint64_t{1} << 63}) {
    EXPECT_FALSE(machine.ram.load(kvm::Gpa(gpa), bytes)) << gpa;
    std::vector<std::byte> out(16, std::byte{1});
    EXPECT_FALSE(machine.ram.fetch(kvm::Gpa(gpa), out)) << gpa;
    EXPECT_EQ(out, std::vector<std::byte>(16, std::byte{1}));
  }
}

// Every order of ending System, Vm, Vcpu and MemorySlot. As long as there are a
// vCPU and its memory, the guest runs.
TEST(Destruction, InAnyOrder) {
  std::array<int, 4> order = {0, 1, 2, 3};
  do {
    const LeakCheck check;
    Guest whole = Guest::real_mode(talking);
    std::optional<kvm::System> system = std::move(whole.system);
    std::optional<kvm::Vm> vm = std::move(whole.vm);
    std::optional<kvm::Vcpu> vcpu = std::move(whole.vcpu);
    std::optional<kvm::MemorySlot> ram = std::move(whole.ram);
    for (const int which : order) {
      switch (which) {
        case 0:
          system.reset();
          break;
        case 1:
          vm.reset();
          break;
        case 2:
          vcpu.reset();
          break;
        default:
          ram.reset();
          break;
      }
      // A descriptor number that was closed too early would be this one.
      const kvm::Fd decoy(open("/dev/null", O_RDWR | O_CLOEXEC));
      if (vcpu && ram) {
        EXPECT_TRUE(talks(*vcpu));
      } else if (vcpu) {
        EXPECT_FALSE(talks(*vcpu));  // It has no code any more.
      }
    }
  } while (std::next_permutation(order.begin(), order.end()));
}

TEST(Destruction, OfASlotTakesItFromTheGuestFirst) {
  Guest guest = Guest::long_mode({
      0xbb, 0x00, 0x00, 0x00, 0x20,  // mov ebx, 0x20000000
      0x8a, 0x03,                    // l: mov al, [rbx]
      0xe6, 0x20,                    // out 0x20, al
      0xeb, 0xfa,                    // jmp l
  });
  {
    const kvm::MemorySlot slot =
        guest.vm.add_memory(kvm::Gpa(0x20000000), kvm::Mapping::anonymous(4_KiB));
    EXPECT_TRUE(talks(guest.vcpu));
  }
  EXPECT_TRUE(as<exits::MmioRead>(guest.vcpu.run()));
  EXPECT_EQ(guest.vm.parked_mappings(), 0u);
}

TEST(Destruction, OfAVcpuLeavesItsIdTaken) {
  Guest guest = Guest::real_mode(talking);
  { const kvm::Vcpu ended = std::move(guest.vcpu); }
  expect_error(guest.vm.try_create_vcpu(0), EEXIST, {"KVM_CREATE_VCPU(id=0)", "already"});
}

TEST(Vcpus, IdsAreTakenOrTooLarge) {
  Guest guest = Guest::real_mode(talking);
  expect_error(guest.vm.try_create_vcpu(0), EEXIST,
               {"KVM_CREATE_VCPU(id=0)", "has had a vCPU 0 already"});
  const std::uint32_t limit = guest.vm.check<cap::MaxVcpuId>();
  ASSERT_GT(limit, 0u);
  for (const std::uint32_t id : {limit, limit + 1, 0x7fffffffu, 0xffffffffu}) {
    expect_error(guest.vm.try_create_vcpu(id), EINVAL,
                 {"id=" + std::to_string(id), "too large", std::to_string(limit)});
  }
  EXPECT_EQ(guest.vm.create_vcpu(5).id(), kvm::VcpuId(5));
}

TEST(RawIoctl, OfAnotherScopeIsRefused) {  // R13
  Guest guest = Guest::real_mode(talking);
  expect_error(guest.system.try_ioctl(request::create_vcpu.code), EINVAL, {"request=0xae41"});
  expect_error(guest.vm.try_ioctl(request::run.code), ENOTTY, {"request=0xae80"});
  expect_error(guest.vcpu.try_ioctl(request::create_vcpu.code), EINVAL, {"ioctl("});
  EXPECT_EQ(guest.system.ioctl(request::get_api_version.code), 12);
  kvm::uapi::kvm_regs regs{};
  EXPECT_EQ(guest.vcpu.ioctl(request::get_regs.code, &regs), 0);
  EXPECT_EQ(regs.rip, kvm_test::code_at);
}

TEST(Vms, OfAnUnknownTypeAreRefused) {
  const kvm::System system;
  expect_error(system.try_create_vm(kvm::VmType(0x7777)), EINVAL,
               {"KVM_CREATE_VM(type=0x7777)", "type"});
}

TEST(AddMemory, NamesTheSlotThatIsInTheWay) {
  Machine machine;
  const kvm::MemorySlot second =
      machine.vm.add_memory(kvm::Gpa(0x10000000), kvm::Mapping::anonymous(64_KiB));
  const std::string name = "slot " + std::to_string(second.id().id);
  for (const std::uint64_t gpa : {0x10000000u, 0x1000f000u, 0xffff000u}) {
    auto memory = kvm::Mapping::anonymous(8_KiB);
    expect_error(machine.vm.try_add_memory(kvm::Gpa(gpa), std::move(memory)), EEXIST,
                 {"KVM_SET_USER_MEMORY_REGION", name, "[0x10000000, 0x10010000)"});
    EXPECT_NE(memory.data(), nullptr);  // Still the caller's.
    EXPECT_EQ(memory.size(), 8_KiB);
  }
  EXPECT_TRUE(machine.vm.try_add_memory(kvm::Gpa(0x10010000), kvm::Mapping::anonymous(4_KiB)));
  EXPECT_TRUE(machine.vm.try_add_memory(kvm::Gpa(0xffff000), kvm::Mapping::anonymous(4_KiB)));
}

TEST(AddMemory, ExplainsWhatItRefuses) {
  Machine machine;
  const auto add = [&](std::uint64_t gpa, kvm::MemoryOptions options = {}) {
    return machine.vm.try_add_memory(kvm::Gpa(gpa), kvm::Mapping::anonymous(8_KiB), options);
  };
  expect_error(add(0x10000001), EINVAL, {"gpa=0x10000001", "multiple of the page size"});
  expect_error(add(~std::uint64_t{0xfff}), EINVAL, {"end of the address space"});
  // Before Linux 5.19 a slot may be where no guest can reach it.
  if (const auto unreachable = add(std::uint64_t{1} << 62); !unreachable) {
    expect_error(unreachable, EINVAL, {"gpa=0x4000000000000000"});
  }
  if (machine.vm.check<cap::MultiAddressSpace>() < 2) {
    expect_error(add(0x10000000, {.address_space = 1}), EINVAL, {"address_space=1"});
  }
  expect_error(machine.vm.try_add_memory(kvm::Gpa(0x10000000), kvm::Mapping()), EINVAL,
               {"mapping is empty"});
  expect_error(kvm::Mapping::try_anonymous(0), EINVAL, {"size=0", "page size"});
  expect_error(kvm::Mapping::try_anonymous(100), EINVAL, {"size=100", "page size"});
}

TEST(AddMemory, ReusesIds) {
  Machine machine;
  std::vector<kvm::MemorySlot> slots;
  for (std::uint64_t i = 0; i < 8; ++i) {
    slots.push_back(
        machine.vm.add_memory(kvm::Gpa(0x10000000 + i * 0x10000), kvm::Mapping::anonymous(4_KiB)));
  }
  const kvm::SlotId second = slots[2].id();
  const kvm::SlotId fifth = slots[5].id();
  (void)slots[5].remove();
  (void)slots[2].remove();
  const auto again = machine.vm.add_memory(kvm::Gpa(0x20000000), kvm::Mapping::anonymous(4_KiB));
  const auto other = machine.vm.add_memory(kvm::Gpa(0x20010000), kvm::Mapping::anonymous(4_KiB));
  EXPECT_EQ(again.id(), second);
  EXPECT_EQ(other.id(), fifth);
  for (int i = 0; i < 100; ++i) {
    const auto slot = machine.vm.add_memory(kvm::Gpa(0x30000000), kvm::Mapping::anonymous(4_KiB));
    EXPECT_EQ(slot.id(), kvm::SlotId(9));
  }
}

TEST(RemovedSlot, GivesItsMemoryBack) {
  Machine machine;
  const std::byte value[] = {std::byte{0x42}};
  ASSERT_TRUE(machine.ram.load(kvm::Gpa(0x1234), value));
  kvm::Mapping memory = machine.ram.remove();
  ASSERT_EQ(memory.size(), 2_MiB);
  EXPECT_EQ(memory.data()[0x1234], std::byte{0x42});
  machine.ram = machine.vm.add_memory(kvm::Gpa(0), std::move(memory));
}

TEST(OpenSystem, OfAMissingFileSaysSo) {
  expect_error(kvm::System::try_open("/no/such/kvm"), ENOENT,
               {"open(/no/such/kvm)", "there is no such file", "/dev/kvm"});
}

TEST(OpenSystem, OfADirectorySaysSo) {
  expect_error(kvm::System::try_open("/dev"), EISDIR,
               {"open(/dev)", "a directory, not KVM's device"});
}

TEST(OpenSystem, OfAnotherFileSaysSo) {
  const LeakCheck check;
  expect_error(kvm::System::try_open("/dev/null"), ENOTTY,
               {"KVM_GET_API_VERSION", "not a KVM device"});
  char name[] = "/tmp/kvm-hpp-test-XXXXXX";
  const kvm::Fd file(mkstemp(name));
  ASSERT_TRUE(file);
  expect_error(kvm::System::try_open(name), ENOTTY, {"not a KVM device"});
  unlink(name);
}

TEST(OpenSystem, AdoptsADescriptor) {
  const LeakCheck check;
  auto system = kvm::System::try_adopt(kvm::Fd(open("/dev/kvm", O_RDWR | O_CLOEXEC)));
  ASSERT_TRUE(system);
  EXPECT_TRUE(system->try_create_vm());
  EXPECT_FALSE(kvm::System::try_adopt(kvm::Fd()));
  EXPECT_FALSE(kvm::System::try_adopt(kvm::Fd(open("/dev/null", O_RDWR | O_CLOEXEC))));
}

TEST(OpenSystem, MakesAnAdoptedDescriptorCloseOnExec) {
  const kvm::System system = kvm::System::adopt(kvm::Fd(open("/dev/kvm", O_RDWR)));
  EXPECT_EQ(fcntl(system.fd(), F_GETFD), FD_CLOEXEC);
}

TEST(OpenSystem, WithoutPermissionNamesTheGroup) {
  // A copy of the device's node where that can be made; else any file will do,
  // since opening it fails before it is looked at.
  char directory[] = "/tmp/kvm-hpp-test-XXXXXX";
  ASSERT_NE(mkdtemp(directory), nullptr);
  ASSERT_EQ(chmod(directory, 0755), 0);
  const std::string path = std::string(directory) + "/kvm";
  struct stat node {};
  ASSERT_EQ(stat("/dev/kvm", &node), 0);
  const bool root = geteuid() == 0;
  if (!root || mknod(path.c_str(), S_IFCHR, node.st_rdev) != 0) {
    ASSERT_TRUE(kvm::Fd(open(path.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600)));
  }
  struct stat status {};
  ASSERT_EQ(stat(path.c_str(), &status), 0);
  const struct group* group = getgrgid(status.st_gid);
  const std::string name =
      group != nullptr ? "\"" + std::string(group->gr_name) + "\"" : std::to_string(status.st_gid);
  const auto expect_denied = [&](mode_t mode, std::initializer_list<std::string_view> words) {
    // An owner's own rights come first, so take them from one who is not root.
    ASSERT_EQ(chmod(path.c_str(), root ? mode : mode & 077), 0);
    expect_in_child([&] {
      if (root) {
        ASSERT_EQ(setgroups(0, nullptr), 0);
        ASSERT_EQ(setgid(65534), 0);
        ASSERT_EQ(setuid(65534), 0);
      }
      expect_error(kvm::System::try_open(path.c_str()), EACCES, words);
    });
  };
  expect_denied(0660, {"no permission", "the group " + name, "usermod -aG"});
  expect_denied(0600, {"no permission", "only its owner", name});
  std::filesystem::remove_all(directory);
}

// MADV_DONTFORK and the process that KVM binds a VM to.
TEST(Fork, TheChildCanNotReachTheParentsGuest) {
#if defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "thread sanitizer maps memory of its own where a child has lost its parent's";
#endif
  Guest guest = Guest::real_mode({
      0xe4, 0x10,  // l: in al, 0x10
      0xe6, 0x20,  // out 0x20, al
      0xeb, 0xfa,  // jmp l
  });
  std::optional<kvm::Device> device;
  if (guest.vm.has_device(kvm::DeviceType::vfio)) {
    device = guest.vm.create_device(kvm::DeviceType::vfio);
  }
  const kvm::Kicker kicker = guest.vcpu.entry_kicker();
  const auto in = as<exits::IoIn>(guest.vcpu.run());
  ASSERT_TRUE(in);
  in->data[0] = std::byte{0x99};
  const void* const memory = guest.ram.mapping().data();
  const void* const run_page = guest.vcpu.run_page();

  expect_in_child([&] {
    constexpr std::string_view sentence = "made by another process: after a fork";
    EXPECT_FALSE(mapped(memory));
    EXPECT_FALSE(mapped(run_page));
    const auto failed = as<exits::Failed>(guest.vcpu.run());
    ASSERT_TRUE(failed);
    EXPECT_EQ(failed->error_number, EIO);
    EXPECT_TRUE(contains(failed->cause, "after a fork"));
    const auto completed = guest.vcpu.complete();
    ASSERT_TRUE(completed);
    ASSERT_TRUE(as<exits::Failed>(*completed));
    EXPECT_EQ(as<exits::Failed>(*completed)->error_number, EIO);
    expect_error(guest.vcpu.try_get_regs(), EIO, {"KVM_GET_REGS", sentence});
    expect_error(guest.vcpu.try_get_mp_state(), EIO, {sentence});
    expect_error(guest.vcpu.try_get_sregs(), EIO, {sentence});
    expect_error(guest.vcpu.try_get_vcpu_events(), EIO, {sentence});
    expect_error(guest.vcpu.try_sync_on_exit(cap::SyncRegsFlag::regs), EIO, {sentence});
    expect_error(guest.vcpu.try_ioctl(request::run.code), EIO, {sentence});
    expect_error(guest.vm.try_create_vcpu(1), EIO, {"KVM_CREATE_VCPU", sentence});
    expect_error(guest.vm.try_add_memory(kvm::Gpa(0x10000000), kvm::Mapping::anonymous(4_KiB)), EIO,
                 {"KVM_SET_USER_MEMORY_REGION", sentence});
    expect_error(guest.vm.try_check_raw(3), EIO, {sentence});
    expect_error(guest.vm.try_enable(cap::HaltPoll{.max_ns = 1}), EIO, {});
    expect_error(guest.ram.try_remove(), EIO, {sentence});
    if (device) {
      expect_error(device->try_has_device_attr(1, 1), EIO, {sentence});
    }
    kicker.kick();
    // What the child puts at the parent's addresses is the child's.
    for (const void* address : {memory, run_page}) {
      ASSERT_NE(mmap(const_cast<void*>(address), 4_KiB, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
                MAP_FAILED);
    }
    const int fd = guest.vcpu.fd();
    {
      const Guest ended = std::move(guest);
      const auto device_ended = std::move(device);
    }
    EXPECT_EQ(fcntl(fd, F_GETFD), -1);  // Closed,
    EXPECT_TRUE(mapped(memory));        // and no more.
    EXPECT_TRUE(mapped(run_page));
    // A VM of the child's own.
    Guest own = Guest::real_mode(talking);
    EXPECT_TRUE(talks(own.vcpu));
  });

  // The parent notices nothing.
  EXPECT_FALSE(guest.vcpu.complete());
  EXPECT_EQ(guest.vcpu.get_regs().rax & 0xff, 0x99u);
  EXPECT_TRUE(talks(guest.vcpu));
  EXPECT_TRUE(guest.vm.try_create_vcpu(1));
  if (device) {
    EXPECT_TRUE(device->has_device_attr(1, 1));
  }
  EXPECT_TRUE(guest.ram.try_remove());
}

/// In a forked child: puts its own memory where the parent's is.
unsigned char* take_place_of(const kvm::MemorySlot& slot) {
  const kvm::Mapping& mapping = slot.mapping();
  void* const own = mmap(const_cast<std::byte*>(mapping.data()), mapping.size(),
                         PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  EXPECT_EQ(own, mapping.data());
  std::memset(own, 0x55, mapping.size());
  return static_cast<unsigned char*>(own);
}

TEST(Fork, TheChildsMemoryIsNoGuestMemory) {
#if defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "thread sanitizer maps memory of its own where a child has lost its parent's";
#endif
  Machine machine;
  machine.load(0x1000, {0x11});
  expect_in_child([&] {
    const auto* const own = take_place_of(machine.ram);
    EXPECT_FALSE(machine.ram.mapping().accessible());
    std::byte byte{0x77};
    EXPECT_FALSE(machine.ram.load(kvm::Gpa(0x1000), std::span(&byte, 1)));
    EXPECT_EQ(own[0x1000], 0x55);
    EXPECT_FALSE(machine.ram.fetch(kvm::Gpa(0x1000), std::span(&byte, 1)));
    EXPECT_EQ(byte, std::byte{0x77});
    EXPECT_FALSE(machine.ram.load(kvm::Gpa(0x1000), {}));
  });
  std::byte byte{};
  EXPECT_TRUE(machine.ram.mapping().accessible());
  EXPECT_TRUE(machine.ram.fetch(kvm::Gpa(0x1000), std::span(&byte, 1)));
  EXPECT_EQ(byte, std::byte{0x11});
}

// The process id does not tell a child in a new PID namespace from its parent: both can be 1.
TEST(Fork, AChildWithItsParentsProcessIdIsAnother) {
  constexpr int refused = 77;
  std::fflush(nullptr);
  const pid_t outer = fork();  // unshare() changes what the caller's children get.
  ASSERT_GE(outer, 0);
  if (outer == 0) {
    if (unshare(CLONE_NEWPID) != 0) {
      _exit(refused);
    }
    expect_in_child([] {
      ASSERT_EQ(getpid(), 1);
      std::optional<Guest> guest = Guest::real_mode(talking);
      const kvm::Kicker kicker = guest->vcpu.entry_kicker();
      EXPECT_TRUE(talks(guest->vcpu));
      ASSERT_EQ(unshare(CLONE_NEWPID), 0);
      expect_in_child([&] {
        ASSERT_EQ(getpid(), 1);
        const auto* const own = take_place_of(guest->ram);
        const std::size_t size = guest->ram.mapping().size();
        expect_error(guest->vcpu.try_get_regs(), EIO, {"made by another process"});
        EXPECT_FALSE(guest->ram.load(kvm::Gpa(0), std::as_bytes(std::span("x"))));
        kicker.kick();
        guest.reset();
        ASSERT_TRUE(mapped(own) && mapped(own + size - 4_KiB)) << "the child's memory was unmapped";
        EXPECT_EQ(own[0], 0x55);
      });
      EXPECT_TRUE(talks(guest->vcpu));
      EXPECT_TRUE(guest->ram.try_remove());
    });
    std::fflush(nullptr);
    _exit(testing::Test::HasFailure() ? 1 : 0);
  }
  int status = 0;
  ASSERT_EQ(waitpid(outer, &status, 0), outer);
  ASSERT_TRUE(WIFEXITED(status)) << "status " << status;
  if (WEXITSTATUS(status) == refused) {
    GTEST_SKIP() << "this process may not make PID namespaces";
  }
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

}  // namespace
