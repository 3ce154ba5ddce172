// SPDX-License-Identifier: MIT
#ifndef KVM_INFO_REPORT_HPP
#define KVM_INFO_REPORT_HPP

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

/// What is known about a host's KVM: filled by collect(), shown by print_text()
/// and print_json(). An optional is empty where the host does not tell.
namespace kvm_info {

/// A set of flags: its bits, and their names; those without one are a number, the last "name".
struct FlagSet {
  std::uint64_t bits = 0;
  std::vector<std::string> names;

  bool operator==(const FlagSet&) const = default;
};

/// A capability's value in its type.
using Value = std::variant<bool, std::uint64_t, FlagSet>;

/// One answer of KVM_CHECK_EXTENSION.
struct Answer {
  int raw = 0;
  Value value;
};

struct Capability {
  unsigned number;
  std::string name;  ///< with KVM_CAP_
  std::string summary;
  std::optional<Answer> system;
  std::optional<Answer> vm;  ///< the precise one, where there is a VM
  std::string enabled_on;    ///< "vm", "vcpu" or nothing
  std::string constraint;    ///< what enabling asks for, or nothing

  /// The answer that counts.
  const std::optional<Answer>& answer() const { return vm ? vm : system; }
  /// Whether KVM has it at all.
  bool offered() const { return answer() && answer()->raw > 0; }
};

/// A number that KVM answers for and this program has no name for.
struct UnknownCapability {
  unsigned number;
  int raw;
};

struct Limit {
  std::string key;
  std::optional<std::uint64_t> value;
  std::string unit;  ///< "bytes", or nothing
  std::string meaning;
};

/// Something that there is or is not: a kind of VM, a kind of device.
struct Kind {
  std::string name;
  std::uint64_t number;
  bool offered;
  std::string meaning;
};

struct Parameter {
  std::string module;
  std::string name;
  std::optional<std::string> text;
  std::string problem;  ///< why there is no text
  std::string meaning;  ///< of the better known ones
};

struct CpuidEntry {
  std::uint32_t function;
  std::optional<std::uint32_t> index;  ///< where sub-leaves are told apart
  std::uint32_t eax, ebx, ecx, edx;
};

/// A list that an ioctl gives, or why it does not.
template <class T>
struct List {
  std::vector<T> entries;
  std::string problem;
};

struct Msr {
  std::uint32_t index;
  std::optional<std::uint64_t> value;  ///< of those that the system can be asked for
};

struct Feature {
  std::string name;
  std::string meaning;
};

/// What only x86 has.
struct X86 {
  List<CpuidEntry> supported_cpuid;
  List<CpuidEntry> emulated_cpuid;
  List<CpuidEntry> hyperv_cpuid;
  List<Msr> msrs;
  List<Msr> feature_msrs;
  std::vector<Feature> paravirtual;            ///< what leaf 0x40000001 offers, named
  std::optional<std::uint64_t> machine_check;  ///< as MSR IA32_MCG_CAP
  std::optional<std::uint64_t> guest_xcr0;     ///< state components that guests can be given
};

struct Report {
  std::string device;
  std::string kernel;                 ///< its release
  std::string machine;                ///< its architecture
  std::vector<std::string> backends;  ///< modules beside kvm itself
  int api_version = 0;
  std::string vm_problem;  ///< why no VM could be asked, or nothing

  std::vector<Limit> limits;
  std::vector<Kind> vm_types;
  std::vector<Kind> devices;
  std::vector<Capability> capabilities;
  std::vector<UnknownCapability> unknown_capabilities;
  std::optional<X86> x86;
  std::vector<Parameter> halt_poll;   ///< always the four of them
  std::vector<Parameter> parameters;  ///< all others
};

}  // namespace kvm_info

#endif
