// SPDX-License-Identifier: MIT
// The report as tables.
#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "names.hpp"
#include "print.hpp"

namespace kvm_info {
namespace {

constexpr std::size_t columns = 100;

template <class... Arguments>
std::string format(const char* text, Arguments... arguments) {
  std::string out(static_cast<std::size_t>(std::snprintf(nullptr, 0, text, arguments...)), '\0');
  std::snprintf(out.data(), out.size() + 1, text, arguments...);
  return out;
}

template <class Words>
std::string join(const Words& words, std::string_view separator) {
  std::string out;
  for (const auto& word : words) {
    if (!out.empty()) {
      out += separator;
    }
    out += word;
  }
  return out;
}

std::string padded(std::string_view text, std::size_t width) {
  std::string out(text);
  out.resize(std::max(width, out.size()), ' ');
  return out;
}

/// A page that grows line by line.
class Page {
 public:
  void heading(std::string_view title) {
    if (!text_.empty()) {
      text_ += '\n';
    }
    text_ += title;
    text_ += '\n';
    text_.append(title.size(), '-');
    text_ += '\n';
  }
  void line(std::string_view text = {}) {
    text_ += text;
    text_ += '\n';
  }
  /// `first`, then `text`, which goes on under itself where it is long.
  void wrapped(std::string_view first, std::string_view text) {
    const std::size_t indent = first.size();
    std::string line(first);
    bool empty = true;
    while (!text.empty()) {
      const std::string_view word = text.substr(0, text.find(' '));
      text.remove_prefix(std::min(word.size() + 1, text.size()));
      if (!empty && line.size() + 1 + word.size() > columns) {
        this->line(line);
        line.assign(indent, ' ');
        empty = true;
      }
      if (!empty) {
        line += ' ';
      }
      line += word;
      empty = false;
    }
    line.erase(line.find_last_not_of(' ') + 1);
    this->line(line);
  }
  std::string take() { return std::move(text_); }

 private:
  std::string text_;
};

std::string short_value(const Value& value) {
  if (const bool* yes = std::get_if<bool>(&value)) {
    return *yes ? "yes" : "no";
  }
  if (const std::uint64_t* number = std::get_if<std::uint64_t>(&value)) {
    return std::to_string(*number);
  }
  const auto bits = std::get<FlagSet>(value).bits;
  return bits == 0 ? "none" : format("0x%llx", static_cast<unsigned long long>(bits));
}

void print_head(Page& page, const Report& report) {
  page.heading("KVM on " + report.device);
  page.line(format("  API version   %d", report.api_version));
  page.line("  kernel        Linux " + report.kernel + ", " + report.machine);
  page.wrapped("  backend       ", report.backends.empty()
                                       ? "built into the kernel, or not shown in /sys/module"
                                       : join(report.backends, ", "));
  if (!report.vm_problem.empty()) {
    page.wrapped("  no VM         ", report.vm_problem);
    page.wrapped("                ",
                 "What follows is what the system answers; a VM might be more precise.");
  }
}

void print_limits(Page& page, const Report& report) {
  page.heading("Limits");
  for (const Limit& limit : report.limits) {
    const std::string value = limit.value ? std::to_string(*limit.value) : "-";
    page.wrapped(format("%12s %-6s ", value.c_str(), limit.value ? limit.unit.c_str() : ""),
                 limit.meaning);
  }
}

void print_kinds(Page& page, std::string_view title, const std::vector<Kind>& kinds) {
  page.heading(title);
  for (const Kind& kind : kinds) {
    page.wrapped(format("  %-20s%-5s", kind.name.c_str(), kind.offered ? "yes" : "no"),
                 kind.meaning);
  }
}

void print_capability(Page& page, const Capability& capability) {
  constexpr std::size_t summary_at = 51;
  const std::string name = capability.name.substr(std::string_view("KVM_CAP_").size());
  const auto& answer = capability.answer();
  const std::string value = answer ? short_value(answer->value) : "error";
  const char* enable = capability.enabled_on == "vm"     ? "VM"
                       : capability.enabled_on == "vcpu" ? "vCPU"
                                                         : "";
  page.wrapped(format("  %-30s %-11s %-5s ", name.c_str(), value.c_str(), enable),
               capability.summary);
  const std::string indent(summary_at, ' ');
  if (answer) {
    if (const FlagSet* flags = std::get_if<FlagSet>(&answer->value); flags && flags->bits != 0) {
      page.wrapped(indent + "= ", join(flags->names, ", "));
    }
  }
  if (capability.vm && capability.system && capability.vm->value != capability.system->value) {
    page.wrapped(indent, "(Before there is a VM, the system says " +
                             short_value(capability.system->value) + ".)");
  }
}

void print_capabilities(Page& page, const Report& report) {
  const auto offered = std::count_if(report.capabilities.begin(), report.capabilities.end(),
                                     [](const Capability& c) { return c.offered(); });
  page.heading(format("Capabilities: %zu of %zu offered", static_cast<std::size_t>(offered),
                      report.capabilities.size()));
  page.wrapped("",
               "KVM_CAP_ is left out. \"VM\" and \"vCPU\" name what a capability is enabled on; "
               "the others are only there or not.");
  for (const std::string_view title : topics()) {
    bool first = true;
    for (const Capability& capability : report.capabilities) {
      if (topic(capability.name) != title) {
        continue;
      }
      if (first) {
        page.line();
        page.line(title == topics().front() ? padded(title, 33) + "value       on    meaning"
                                            : std::string(title));
        first = false;
      }
      print_capability(page, capability);
    }
  }
  if (!report.unknown_capabilities.empty()) {
    page.line();
    page.line("Not known to this program");
    for (const UnknownCapability& unknown : report.unknown_capabilities) {
      page.line(format("  number %-23u %d", unknown.number, unknown.raw));
    }
  }
}

void print_leaf(Page& page, const CpuidEntry& entry) {
  const std::string index = entry.index ? format(".%x", *entry.index) : "";
  page.wrapped(format("  %8x%-4s %08x %08x %08x %08x  ", entry.function, index.c_str(), entry.eax,
                      entry.ebx, entry.ecx, entry.edx),
               leaf_title(entry));
  // KVM's own features are listed with their meaning.
  if (entry.function != 0x40000001) {
    if (const auto names = feature_names(entry); !names.empty()) {
      page.wrapped(std::string(15, ' '), join(names, " "));
    }
  }
}

void print_cpuid(Page& page, const std::string& title, const List<CpuidEntry>& list) {
  page.heading(title + (list.problem.empty() ? format(": %zu entries", list.entries.size()) : ""));
  if (!list.problem.empty()) {
    page.wrapped("  ", list.problem);
    return;
  }
  page.line("  leaf.sub     eax      ebx      ecx      edx");
  std::size_t zeroes = 0;
  for (const CpuidEntry& entry : list.entries) {
    if ((entry.eax | entry.ebx | entry.ecx | entry.edx) == 0) {
      ++zeroes;
    } else {
      print_leaf(page, entry);
    }
  }
  if (zeroes != 0) {
    page.line(format("  (%zu more entries are all zeroes)", zeroes));
  }
}

void print_processor(Page& page, const X86& x86) {
  const Processor cpu = processor(x86.supported_cpuid.entries);
  page.heading("Processor that guests can have");
  const auto line = [&](const char* label, const std::string& text) {
    page.wrapped("  " + padded(label, 18), text.empty() ? "-" : text);
  };
  line("vendor", cpu.vendor);
  line("name", cpu.name);
  line("version", format("family %u, model %u, stepping %u", cpu.family, cpu.model, cpu.stepping));
  line("addresses", format("%u bits physical, %u bits linear", cpu.physical_bits, cpu.linear_bits));
  if (x86.guest_xcr0) {
    line("extended state", join(state_component_names(*x86.guest_xcr0), " "));
  }
  if (x86.machine_check) {
    line("machine checks", join(machine_check_names(*x86.machine_check), " "));
  }
}

void print_paravirtual(Page& page, const X86& x86) {
  page.heading(format("KVM's own features for guests: %zu", x86.paravirtual.size()));
  for (const Feature& feature : x86.paravirtual) {
    page.wrapped("  " + padded(feature.name, 25), feature.meaning);
  }
}

void print_msrs(Page& page, const List<Msr>& list) {
  page.heading("MSRs of a guest" +
               (list.problem.empty() ? format(": %zu", list.entries.size()) : ""));
  page.wrapped("  ",
               list.problem.empty() ? "Those that its state is made of, by number:" : list.problem);
  std::string numbers;
  for (const Msr& msr : list.entries) {
    numbers += format("%s%x", numbers.empty() ? "" : " ", msr.index);
  }
  if (!numbers.empty()) {
    page.wrapped("    ", numbers);
  }
}

void print_feature_msrs(Page& page, const List<Msr>& list) {
  page.heading("MSRs that describe features" +
               (list.problem.empty() ? format(": %zu", list.entries.size()) : ""));
  if (!list.problem.empty()) {
    page.wrapped("  ", list.problem);
  }
  for (const Msr& msr : list.entries) {
    page.line(format("  %8x  ", msr.index) +
              (msr.value ? format("%016llx", static_cast<unsigned long long>(*msr.value))
                         : std::string("(not told)")));
  }
}

void print_parameters(Page& page, const std::vector<Parameter>& parameters) {
  for (const Parameter& parameter : parameters) {
    const std::string value = parameter.text ? *parameter.text : "(" + parameter.problem + ")";
    page.wrapped("  " + padded(parameter.module + '.' + parameter.name, 38) + ' ' +
                     padded(value, 10) + (parameter.meaning.empty() ? "" : " "),
                 parameter.meaning);
  }
}

}  // namespace

std::string to_text(const Report& report) {
  Page page;
  print_head(page, report);
  print_limits(page, report);
  print_kinds(page, "Kinds of VM", report.vm_types);
  if (report.vm_problem.empty()) {
    print_kinds(page, "Kinds of in-kernel device (KVM_CREATE_DEVICE)", report.devices);
  }
  print_capabilities(page, report);
  if (report.x86) {
    print_processor(page, *report.x86);
    print_paravirtual(page, *report.x86);
    print_cpuid(page, "Supported CPUID", report.x86->supported_cpuid);
    print_cpuid(page, "CPUID features that KVM emulates", report.x86->emulated_cpuid);
    if (report.x86->hyperv_cpuid.problem.empty()) {
      print_cpuid(page, "Hyper-V CPUID", report.x86->hyperv_cpuid);
    }
    print_msrs(page, report.x86->msrs);
    print_feature_msrs(page, report.x86->feature_msrs);
  }
  page.heading("Polling for halted vCPUs (module parameters)");
  print_parameters(page, report.halt_poll);
  page.heading(format("Other module parameters: %zu", report.parameters.size()));
  print_parameters(page, report.parameters);
  return page.take();
}

}  // namespace kvm_info
