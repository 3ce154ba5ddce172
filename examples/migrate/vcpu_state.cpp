// SPDX-License-Identifier: MIT
#include "vcpu_state.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <optional>
#include <string_view>
#include <utility>

#include "wire.hpp"

namespace migrate {
namespace {

using Snapshot = kvm::x86::VcpuSnapshot;
using Bytes = std::vector<std::byte>;

/// The numbers of the sections are their places here.
constexpr std::array section_names = {
    std::string_view("cpuid"),     std::string_view("tsc_khz"), std::string_view("mp_state"),
    std::string_view("events"),    std::string_view("regs"),    std::string_view("sregs"),
    std::string_view("sregs2"),    std::string_view("xsave"),   std::string_view("xcrs"),
    std::string_view("debugregs"), std::string_view("lapic"),   std::string_view("msrs"),
    std::string_view("nested")};
using Sections = std::array<std::optional<Bytes>, section_names.size()>;

template <class T>
Bytes to_bytes(const T& value) {
  const auto bytes = std::as_bytes(std::span(&value, 1));
  return Bytes(bytes.begin(), bytes.end());
}
template <class T>
std::optional<Bytes> to_bytes(const std::optional<T>& value) {
  return value ? std::optional(to_bytes(*value)) : std::nullopt;
}
template <class T>
Bytes list_to_bytes(std::span<const T> list) {
  const auto bytes = std::as_bytes(list);
  return Bytes(bytes.begin(), bytes.end());
}

Sections split(const Snapshot& state) {
  return {list_to_bytes(state.cpuid.entries()),
          to_bytes(state.tsc_khz),
          to_bytes(state.mp_state),
          to_bytes(state.events),
          to_bytes(state.regs),
          to_bytes(state.sregs),
          to_bytes(state.sregs2),
          list_to_bytes(state.xsave.bytes()),
          to_bytes(state.xcrs),
          to_bytes(state.debugregs),
          to_bytes(state.lapic),
          list_to_bytes(std::span(state.msrs)),
          state.nested ? std::optional(list_to_bytes(state.nested->bytes())) : std::nullopt};
}

[[noreturn]] void refuse(std::string_view section, const char* why) {
  throw Failure("the vCPU state that the other side sent: " + std::string(section) + " " + why);
}

/// Takes sections out, in the order of their numbers.
class Taker {
 public:
  explicit Taker(const Sections& sections) : sections_(sections) {}

  template <class T>
  void take(T& value) {
    std::optional<T> taken;
    take(taken);
    if (!taken) {
      refuse(section_names[next_ - 1], "is missing");
    }
    value = *taken;
  }
  template <class T>
  void take(std::optional<T>& value) {
    const auto& bytes = sections_[next_++];
    if (!bytes) {
      return;
    }
    if (bytes->size() != sizeof(T)) {
      refuse(section_names[next_ - 1], "has the wrong size");
    }
    std::memcpy(&value.emplace(), bytes->data(), sizeof(T));
  }
  template <class T>
  std::vector<T> take_list() {
    const Bytes* const bytes = take_bytes();
    if (bytes == nullptr || bytes->size() % sizeof(T) != 0) {
      refuse(section_names[next_ - 1], bytes == nullptr ? "is missing" : "has the wrong size");
    }
    std::vector<T> list(bytes->size() / sizeof(T));
    if (!list.empty()) {
      std::memcpy(list.data(), bytes->data(), bytes->size());
    }
    return list;
  }
  /// Null if it is not there.
  const Bytes* take_bytes() {
    const auto& bytes = sections_[next_++];
    return bytes ? &*bytes : nullptr;
  }

 private:
  const Sections& sections_;
  std::size_t next_ = 0;
};

/// MSRs that go on while the vCPU stands still.
constexpr std::uint32_t time_stamp_counter = 0x10;
constexpr std::array time_msrs = {time_stamp_counter,
                                  0xe7u,         // IA32_MPERF
                                  0xe8u,         // IA32_APERF
                                  0x6e0u,        // IA32_TSC_DEADLINE
                                  0x40000010u,   // HV_X64_MSR_VP_RUNTIME
                                  0x40000020u};  // HV_X64_MSR_TIME_REF_COUNT

bool is_time(const kvm::uapi::kvm_msr_entry& msr) {
  return std::find(time_msrs.begin(), time_msrs.end(), msr.index) != time_msrs.end();
}

std::uint64_t time_stamp(const Snapshot& state) {
  const auto found = std::find_if(state.msrs.begin(), state.msrs.end(),
                                  [](const auto& msr) { return msr.index == time_stamp_counter; });
  return found == state.msrs.end() ? 0 : found->data;
}

/// "msrs", and the first that differs.
std::string differing_msr(const Snapshot& before, const Snapshot& after) {
  const auto [one, other] = std::mismatch(
      before.msrs.begin(), before.msrs.end(), after.msrs.begin(), after.msrs.end(),
      [](const auto& a, const auto& b) { return a.index == b.index && a.data == b.data; });
  if (one == before.msrs.end() || other == after.msrs.end() || one->index != other->index) {
    return "msrs: not the same ones";
  }
  char text[80];
  std::snprintf(text, sizeof text, "msr %#x: %#llx, %#llx", one->index,
                static_cast<unsigned long long>(one->data),
                static_cast<unsigned long long>(other->data));
  return text;
}

}  // namespace

std::vector<std::byte> serialise(const Snapshot& state) {
  Writer out;
  const Sections sections = split(state);
  for (std::uint32_t number = 0; number < sections.size(); ++number) {
    if (const auto& bytes = sections[number]) {
      out.put(number);
      out.put(static_cast<std::uint32_t>(bytes->size()));
      out.put_bytes(*bytes);
    }
  }
  return out.bytes();
}

Snapshot parse_vcpu_state(std::span<const std::byte> bytes) {
  Sections sections;
  for (Reader in(bytes, "a vCPU's state"); !in.empty();) {
    const auto number = in.get<std::uint32_t>();
    const auto size = in.get<std::uint32_t>();
    const auto content = in.get_bytes(size);
    if (number >= sections.size()) {
      refuse("section " + std::to_string(number), "is unknown");
    }
    if (sections[number]) {
      refuse(section_names[number], "is there twice");
    }
    sections[number].emplace(content.begin(), content.end());
  }

  Snapshot state;
  Taker taker(sections);
  state.cpuid = kvm::x86::Cpuid(taker.take_list<kvm::x86::Cpuid::Entry>());
  taker.take(state.tsc_khz);
  taker.take(state.mp_state);
  taker.take(state.events);
  taker.take(state.regs);
  taker.take(state.sregs);
  taker.take(state.sregs2);
  if (state.sregs.has_value() == state.sregs2.has_value()) {
    refuse("one of sregs and sregs2", "must be there");
  }
  const auto xsave = taker.take_list<std::byte>();
  state.xsave = kvm::x86::Xsave(xsave.size());
  std::copy(xsave.begin(), xsave.end(), state.xsave.bytes().begin());
  taker.take(state.xcrs);
  taker.take(state.debugregs);
  taker.take(state.lapic);
  state.msrs = taker.take_list<kvm::uapi::kvm_msr_entry>();
  if (const Bytes* nested = taker.take_bytes()) {
    if (nested->size() < sizeof(kvm::uapi::kvm_nested_state)) {
      refuse("nested", "has the wrong size");
    }
    state.nested.emplace(nested->size());
    std::copy(nested->begin(), nested->end(), state.nested->bytes().begin());
  }
  return state;
}

Snapshot without_time(Snapshot state) {
  std::erase_if(state.msrs, is_time);
  return state;
}

std::string difference(const Snapshot& saved, const Snapshot& restored) {
  if (time_stamp(restored) < time_stamp(saved)) {
    return "the time stamp counter went back";
  }
  const Snapshot one = without_time(saved);
  const Snapshot other = without_time(restored);
  const Sections before = split(one);
  const Sections after = split(other);
  for (std::size_t i = 0; i < before.size(); ++i) {
    if (before[i] != after[i]) {
      return section_names[i] == "msrs" ? differing_msr(one, other) : std::string(section_names[i]);
    }
  }
  return {};
}

}  // namespace migrate
