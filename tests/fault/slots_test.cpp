// SPDX-License-Identifier: MIT
// After each call that fails, the slots, their memory and what readers see are as they were, and
// the generation has only moved forward.
#include "driver.hpp"

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <ostream>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <sys/syscall.h>
#include <unistd.h>

namespace {

using fault::Call;
using fault::FaultTest;
using fault::Function;
using fault::Rule;
using kvm::Gpa;
using kvm::Mapping;
using kvm::MemoryChange;
using kvm::MemorySlot;
namespace request = kvm::uapi::request;
using namespace kvm::literals;

const std::size_t page = kvm::detail::sys::page_size();
constexpr Gpa high{0x4000'0000};

/// All that is to be seen of a VM's slots.
struct Picture {
  std::vector<std::string> slots;
  std::vector<bool> there;  // for each page around
  std::vector<std::optional<std::uint32_t>> contents;
  std::size_t parked = 0;
  std::size_t mappings = 0;

  bool operator==(const Picture&) const = default;
  friend void PrintTo(const Picture& picture, std::ostream* out) {
    *out << picture.parked << " parked, " << picture.mappings << " mappings;";
    for (const std::string& slot : picture.slots) {
      *out << ' ' << slot;
    }
    *out << "; ";
    for (const bool one : picture.there) {
      *out << (one ? '#' : '.');
    }
  }
};

bool is_set_region(const Call& call, std::size_t = 0) {
  return call.is_ioctl(request::set_user_memory_region.code);
}
bool is_membarrier(const Call& call, std::size_t = 0) {
  return call.function == Function::syscall && call.detail == SYS_membarrier;
}
std::vector<Rule> refuse_change(int error_number, int times = 1) {
  return {{.matches = is_set_region, .error_number = error_number, .times = times}};
}

class SlotFaults : public FaultTest {
 protected:
  struct Fixture {
    kvm::System system;
    kvm::Vm vm = system.create_vm();
    MemorySlot slot = vm.add_memory(high, Mapping::anonymous(3 * page), {.log_dirty = true});
    MemorySlot other = vm.add_memory(high + 8 * page, Mapping::anonymous(2 * page));
    kvm::GuestMemory memory = vm.memory();
    kvm::GuestMemory::View view = memory.view();
    kvm::GfnToHvaCache cache{memory, high, 2 * page};
    std::uint64_t last = memory.generation();
    std::set<std::uint64_t> generations{last};

    Fixture() {
      for (std::uint32_t i = 0; i < 3; ++i) {
        EXPECT_TRUE(view.write<std::uint32_t>(high + i * page, 100 + i));
      }
      EXPECT_TRUE(cache.read<std::uint32_t>(0));
    }
    Picture picture() {
      Picture seen;
      for (const kvm::SlotInfo& info : memory.slots()) {
        seen.slots.push_back(std::to_string(info.id.id) + '@' +
                             std::to_string((info.gpa - high) / page) + '+' +
                             std::to_string(info.size / page) + (info.logs_dirty ? "d" : ""));
      }
      for (std::uint64_t i = 0; i < 16; ++i) {
        seen.there.push_back(view.contains(high + i * page, page));
        seen.contents.push_back(view.read<std::uint32_t>(high + i * page));
      }
      seen.contents.push_back(cache.read<std::uint32_t>(0));
      seen.contents.push_back(cache.read<std::uint32_t>(page + 4));
      seen.parked = vm.parked_mappings();
      seen.mappings = fault::live_mappings();
      return seen;
    }
    /// The generation has moved on, to one that never was.
    void expect_progress(bool further = true) {
      const std::uint64_t now = memory.generation();
      EXPECT_EQ(now & kvm::GuestMemory::update_in_progress, 0u);
      if (further) {
        EXPECT_GT(now, last);
        EXPECT_TRUE(generations.insert(now).second);
      } else {
        EXPECT_EQ(now, last);
      }
      last = now;
    }
  };
};

/// What any ioctl can fail with, and this one. EINTR is sent again.
constexpr int change_errnos[] = {EIO, EBADF, ENOTTY, EPERM, EINVAL, EFAULT, ENOMEM, EEXIST, EAGAIN};

TEST_F(SlotFaults, NothingHappensWhereKvmRefuses) {
  Fixture f;
  const Picture before = f.picture();
  Mapping memory = Mapping::anonymous(page);
  const std::size_t mappings = fault::live_mappings();
  for (const int error_number : change_errnos) {
    SCOPED_TRACE(error_number);
    const auto refused = [&](auto change, bool asks_kvm = true) {
      fault::arm(refuse_change(error_number));
      const auto result = change();
      const auto calls = fault::disarm();
      EXPECT_EQ(fault::injected(), asks_kvm ? 1u : 0u);
      EXPECT_FALSE(result);
      EXPECT_EQ(result.error().error_number(), error_number);
      EXPECT_STREQ(result.error().operation(), "KVM_SET_USER_MEMORY_REGION");
      for (const Call& call : calls) {
        EXPECT_NE(call.function, Function::munmap);
      }
      f.expect_progress();
      EXPECT_EQ(fault::live_mappings(), mappings);
      Picture now = f.picture();
      now.mappings = before.mappings;
      EXPECT_EQ(now, before);
    };
    refused([&] { return f.vm.try_add_memory(high + 4 * page, std::move(memory)); });
    EXPECT_EQ(memory.size(), page);
    refused([&] { return f.slot.try_move_to(high + 5 * page); });
    EXPECT_EQ(f.slot.gpa(), high);
    refused([&] { return f.slot.try_log_dirty(false); });
    refused([&] { return f.other.try_log_dirty(true); });
    refused([&] { return f.slot.try_remove(); });
    EXPECT_EQ(f.slot.size(), 3 * page);
  }
  // And then it all works.
  ASSERT_TRUE(f.slot.try_move_to(high + 5 * page));
  ASSERT_TRUE(f.slot.try_log_dirty(false));
  const auto added = f.vm.try_add_memory(high, std::move(memory));
  ASSERT_TRUE(added);
  EXPECT_EQ(added->id().id, 2) << "the numbers of those that were refused came back";
  ASSERT_TRUE(f.slot.try_remove());
}

TEST_F(SlotFaults, AnInterruptedCallIsSentAgain) {
  Fixture f;
  const auto interrupted = [&](auto change) {
    fault::arm(refuse_change(EINTR, 3));
    const auto result = change();
    fault::disarm();
    EXPECT_EQ(fault::injected(), 3u);
    EXPECT_TRUE(result) << result.error().what();
    f.expect_progress();
  };
  interrupted([&] { return f.slot.try_move_to(high + 4 * page); });
  interrupted([&] { return f.slot.try_log_dirty(false); });
  interrupted([&] { return f.vm.try_add_memory(high, Mapping::anonymous(page)); });
  interrupted([&] { return f.slot.try_remove(); });
  EXPECT_EQ(f.vm.parked_mappings(), 0u);
}

TEST_F(SlotFaults, ADroppedSlotThatStaysIsParked) {
  for (const int error_number : change_errnos) {
    SCOPED_TRACE(error_number);
    Fixture f;
    Picture expected = f.picture();
    const void* const data = f.slot.mapping().data();
    fault::arm(refuse_change(error_number));
    { const MemorySlot gone = std::move(f.slot); }
    const auto calls = fault::disarm();
    EXPECT_EQ(fault::injected(), 1u);
    f.expect_progress();
    // Whoever looks sees the slot as before: so does the guest.
    expected.parked = 1;
    EXPECT_EQ(f.picture(), expected);
    EXPECT_TRUE(fault::is_mapped(data));
    // Its number stays taken.
    const MemorySlot next = f.vm.add_memory(high + 4 * page, Mapping::anonymous(page));
    EXPECT_EQ(next.id().id, 2);
    EXPECT_EQ(f.memory.reclaim(), 0u);
    EXPECT_EQ(f.vm.parked_mappings(), 1u);
  }
}

TEST_F(SlotFaults, ObserversAreToldOfAFailedRemoval) {
  Fixture f;
  std::vector<std::string> log;
  const auto observation = f.memory.observe([&](const MemoryChange& change) noexcept {
    const fault::Unobserved ours;
    const auto place = [](const std::optional<Gpa>& gpa) {
      return gpa ? std::to_string((*gpa - high) / page) : std::string("-");
    };
    log.push_back((change.kind == MemoryChange::Kind::removing ? "removing " : "added ") +
                  std::to_string(change.slot.id) + ' ' + place(change.old_gpa) + "->" +
                  place(change.new_gpa));
    // What was remembered now is not to be believed later.
    EXPECT_TRUE(f.view.read<std::uint32_t>(high));
    EXPECT_TRUE(f.cache.read<std::uint32_t>(0));
  });
  using Log = std::vector<std::string>;
  EXPECT_EQ(std::exchange(log, {}), (Log{"added 0 -->0", "added 1 -->8"}));
  fault::arm(refuse_change(ENOMEM));
  EXPECT_FALSE(f.slot.try_remove());
  fault::disarm();
  EXPECT_EQ(std::exchange(log, {}), (Log{"removing 0 0->-", "added 0 0->0"}));
  f.expect_progress();
  fault::arm(refuse_change(ENOMEM));
  EXPECT_FALSE(f.slot.try_move_to(high + 4 * page));
  fault::disarm();
  EXPECT_EQ(std::exchange(log, {}), (Log{"removing 0 0->4", "added 0 0->0"}));
  fault::arm(refuse_change(ENOMEM));
  EXPECT_FALSE(f.vm.try_add_memory(high + 4 * page, Mapping::anonymous(page)));
  fault::disarm();
  EXPECT_EQ(std::exchange(log, {}), Log{});
  {
    fault::arm(refuse_change(ENOMEM));
    { const MemorySlot gone = std::move(f.other); }
    fault::disarm();
  }
  EXPECT_EQ(std::exchange(log, {}), (Log{"removing 1 8->-", "added 1 8->8"}));
}

// A cache that looked while an update was under way that failed does not match when the next one
// is.
TEST_F(SlotFaults, AFailedRemovalLeavesNoStaleTranslation) {
  Fixture f;
  const auto observation = f.memory.observe([&](const MemoryChange&) noexcept {
    const fault::Unobserved ours;
    (void)f.cache.read<std::uint32_t>(0);
    (void)f.view.read<std::uint32_t>(high);
  });
  fault::arm(refuse_change(ENOMEM));
  EXPECT_FALSE(f.slot.try_remove());
  fault::disarm();
  EXPECT_EQ(f.cache.read<std::uint32_t>(0), 100u);
  const auto removed = f.slot.try_remove();
  ASSERT_TRUE(removed);
  EXPECT_FALSE(f.cache.read<std::uint32_t>(0));
  EXPECT_FALSE(f.cache.valid());
  EXPECT_FALSE(f.view.read<std::uint32_t>(high));
}

TEST_F(SlotFaults, Changes) {
  // Every call of every change, with a guest of its own for each failure.
  const auto expect = [](const char* name, auto change) {
    fault::expect_withstands(
        {.name = name,
         .run =
             [change](fault::Guest& guest) {
               std::optional<MemorySlot> slot;
               {
                 const fault::Unobserved ours;
                 slot = guest.vm.add_memory(high, Mapping::anonymous(4 * page));
               }
               auto outcome = fault::attempt([&] { return change(*slot); });
               const fault::Unobserved ours;
               EXPECT_EQ(slot->size(), 4 * page);
               slot.reset();
               EXPECT_EQ(guest.vm.parked_mappings(), 0u);
               return outcome;
             },
         .survives = [](const Call& call,
                        int) { return call.is_ioctl(request::check_extension.code); }});
  };
  expect("try_move_to", [](MemorySlot& slot) { return slot.try_move_to(high + page); });
  expect("move_to", [](MemorySlot& slot) {
    slot.move_to(high + page);
    return 0;
  });
  expect("try_log_dirty", [](MemorySlot& slot) { return slot.try_log_dirty(true); });
  expect("log_dirty", [](MemorySlot& slot) {
    slot.log_dirty(true);
    slot.log_dirty(false);
    return 0;
  });
}

// --- a kernel that refuses membarrier: readers fence, and remember nothing ---

TEST_F(SlotFaults, WithoutMembarrierFromTheStart) {
  for (const int error_number : {EPERM, ENOSYS, EINVAL}) {
    fault::arm({{.matches = is_membarrier, .error_number = error_number, .times = 1000}});
    {
      Fixture f;  // Made where it is refused.
      const Picture first = f.picture();
      EXPECT_EQ(f.picture(), first);
      ASSERT_TRUE(f.view.write<std::uint64_t>(high + 8, 5));
      ASSERT_TRUE(f.cache.write<std::uint64_t>(16, 6));
      EXPECT_EQ(f.view.read<std::uint64_t>(high + 16), 6u);
      EXPECT_EQ(f.cache.read<std::uint64_t>(8), 5u);
      ASSERT_TRUE(f.slot.try_move_to(high + page));
      f.expect_progress();
      EXPECT_FALSE(f.view.read<std::uint64_t>(high));
      EXPECT_EQ(f.cache.read<std::uint64_t>(page + 16), 6u);
      EXPECT_FALSE(f.cache.read<std::uint64_t>(16));
      auto pin = f.view.pin(high + page, page, kvm::PinFor::writing);
      ASSERT_TRUE(pin);
      ASSERT_TRUE(f.slot.try_log_dirty(false));
      ASSERT_TRUE(f.slot.try_log_dirty(true));
      auto removed = f.slot.try_remove();
      ASSERT_TRUE(removed);
      EXPECT_TRUE(removed->in_use());
      pin.reset();
      EXPECT_FALSE(removed->in_use());
      EXPECT_TRUE(removed->try_take());
      EXPECT_FALSE(f.view.read<std::uint64_t>(high + page));
      EXPECT_FALSE(f.cache.valid());
    }
    const auto calls = fault::disarm();
    // Having been told once, nobody asks again with each removal.
    EXPECT_LE(
        static_cast<std::size_t>(std::count_if(
            calls.begin(), calls.end(), [](const Call& call) { return is_membarrier(call); })),
        1u);
  }
}

TEST_F(SlotFaults, WithoutMembarrierFromSomeTimeOn) {
  for (const int error_number : {EPERM, ENOSYS, EINVAL, ENOMEM}) {
    SCOPED_TRACE(error_number);
    Fixture f;
    EXPECT_EQ(f.view.read<std::uint32_t>(high), 100u);
    fault::arm({{.matches = is_membarrier, .error_number = error_number, .times = 1000}});
    ASSERT_TRUE(f.slot.try_log_dirty(false));
    ASSERT_TRUE(f.slot.try_log_dirty(true));
    ASSERT_TRUE(f.slot.try_move_to(high + page));
    auto removed = f.slot.try_remove();
    ASSERT_TRUE(removed);
    EXPECT_FALSE(removed->in_use());
    { const MemorySlot dropped = std::move(f.other); }
    EXPECT_EQ(f.memory.reclaim(), 0u);
    fault::disarm();
    EXPECT_GT(fault::injected(), 0u);
    EXPECT_EQ(f.vm.parked_mappings(), 0u);
    EXPECT_TRUE(f.memory.slots().empty());
    EXPECT_FALSE(f.view.read<std::uint32_t>(high + page));
    EXPECT_FALSE(f.cache.read<std::uint32_t>(0));
  }
}

// --- file descriptors ---

TEST_F(SlotFaults, TransfersSayWhereTheyEnded) {
  Fixture f;
  int pipe[2];
  ASSERT_EQ(::pipe(pipe), 0);
  ASSERT_EQ(::write(pipe[1], "abcdef", 6), 6);
  for (const Function function :
       {Function::readv, Function::preadv, Function::writev, Function::pwritev}) {
    const bool reads = function == Function::readv || function == Function::preadv;
    const std::optional<std::uint64_t> position =
        function == Function::preadv || function == Function::pwritev
            ? std::optional<std::uint64_t>(0)
            : std::nullopt;
    for (const int error_number : {EIO, EAGAIN, ENOMEM, ENOSPC, EINVAL}) {
      // A piece, a signal, then the end of it.
      fault::arm(
          {{.matches = [&](const Call& call,
                           std::size_t index) { return call.function == function && index == 0; },
            .result = 5},
           {.matches = [&](const Call& call, std::size_t) { return call.function == function; },
            .error_number = EINTR},
           {.matches = [&](const Call& call, std::size_t) { return call.function == function; },
            .error_number = error_number}});
      const kvm::Transfer moved = reads ? f.view.read_from(pipe[0], high, 3 * page, position)
                                        : f.view.write_to(pipe[1], high, 3 * page, position);
      fault::disarm();
      EXPECT_EQ(fault::injected(), 3u);
      EXPECT_FALSE(moved);
      EXPECT_EQ(moved.error_number, error_number);
      EXPECT_EQ(moved.bytes, 5u);
    }
  }
  ::close(pipe[0]);
  ::close(pipe[1]);
}

}  // namespace
