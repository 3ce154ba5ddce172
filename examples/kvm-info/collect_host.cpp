// SPDX-License-Identifier: MIT
// What is known of the host without asking KVM.
#include <kvm/module_parameters.hpp>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <sys/utsname.h>

#include "collect.hpp"

namespace kvm_info {
namespace {

namespace fs = std::filesystem;

/// What the better known parameters do.
const char* meaning(std::string_view name) {
  struct {
    std::string_view name;
    const char* text;
  } constexpr meanings[] = {
      {"allow_unsafe_mappings", "guest memory need not be ordinary pages of the host"},
      {"dump_invalid_vmcs", "a failed entry dumps the VMCS to the kernel's log"},
      {"eager_page_split", "huge pages are split when dirty logging starts"},
      {"emulate_invalid_guest_state", "states that the CPU cannot enter are emulated"},
      {"enable_apicv", "the CPU virtualizes the local APIC"},
      {"avic", "the CPU virtualizes the local APIC"},
      {"enable_ipiv", "the CPU delivers interrupts between vCPUs"},
      {"enable_pmu", "guests can have performance counters"},
      {"enable_shadow_vmcs", "nested VMCS accesses need no exit"},
      {"enable_virt_at_load", "virtualization is on while the module is loaded"},
      {"enable_vmware_backdoor", "guests can have VMware's backdoor port"},
      {"ept", "the CPU walks guest page tables (two-dimensional paging)"},
      {"npt", "the CPU walks guest page tables (two-dimensional paging)"},
      {"eptad", "the CPU keeps accessed and dirty bits"},
      {"fasteoi", "EOIs are handled without decoding the instruction"},
      {"flexpriority", "the CPU virtualizes the task priority"},
      {"force_emulation_prefix", "a prefix forces emulation, for tests"},
      {"halt_poll_ns", "longest poll for a halted vCPU, in ns; 0 never polls"},
      {"halt_poll_ns_grow", "the time's factor when a longer poll would have paid off"},
      {"halt_poll_ns_grow_start", "what the time grows to from 0, in ns"},
      {"halt_poll_ns_shrink", "the time's divisor when a poll was in vain; 0: back to 0"},
      {"ignore_msrs", "unknown MSRs read as 0 and take writes"},
      {"kvmclock_periodic_sync", "kvmclock is kept in step with the host's time"},
      {"lapic_timer_advance", "timers fire early, to be on time in the guest"},
      {"lapic_timer_advance_ns", "timers fire early by this, in ns; -1 adapts"},
      {"min_timer_period_us", "shortest period of a guest's timer, in us"},
      {"mitigate_smt_rsb", "return predictions are cleared for a sibling's sake"},
      {"mmio_caching", "accesses without memory are known from the page tables"},
      {"nested", "guests can be hypervisors"},
      {"nx_huge_pages", "huge pages are not executable (iTLB multihit)"},
      {"nx_huge_pages_recovery_period_ms",
       "how often split huge pages are restored; 0: own choice"},
      {"nx_huge_pages_recovery_ratio", "one of this many is restored at a time"},
      {"pi_inject_timer", "timers are posted from a housekeeping CPU"},
      {"ple_gap", "PAUSE loops: cycles between two of one loop"},
      {"ple_window", "PAUSE loops: cycles until the vCPU is preempted"},
      {"pml", "the CPU logs dirty pages"},
      {"preemption_timer", "the CPU's own timer serves the guest's"},
      {"report_ignored_msrs", "ignored MSRs are in the kernel's log"},
      {"sev", "encrypted guests"},
      {"sev_es", "guests with encrypted registers"},
      {"sev_snp", "guests with memory integrity"},
      {"sgx", "guests can have enclaves"},
      {"tdp_mmu", "two-dimensional paging with parallel updates"},
      {"tdx", "trust domains"},
      {"tsc_tolerance_ppm", "TSC rates this close need no scaling, in ppm"},
      {"unrestricted_guest", "the CPU runs real mode itself"},
      {"vector_hashing", "lowest-priority interrupts are spread by vector"},
      {"vgif", "the CPU virtualizes the global interrupt flag"},
      {"vls", "the CPU virtualizes VMLOAD and VMSAVE"},
      {"vnmi", "the CPU virtualizes the non-maskable interrupt"},
      {"vpid", "the TLB keeps guests apart"},
  };
  const auto* found = std::find_if(std::begin(meanings), std::end(meanings),
                                   [&](const auto& entry) { return entry.name == name; });
  return found != std::end(meanings) ? found->text : "";
}

Parameter read(const std::string& module, const std::string& name) {
  Parameter out{
      .module = module, .name = name, .text = {}, .problem = {}, .meaning = meaning(name)};
  const auto text = kvm::try_module_parameter(name, module);
  if (text) {
    out.text = *text;
  } else {
    out.problem = text.error().code().message();
  }
  return out;
}

/// The names in a directory, sorted; none if it cannot be read.
std::vector<std::string> names_in(const fs::path& directory) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error)) {
    names.push_back(entry->path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace

void collect_host(Report& report) {
  struct ::utsname name {};
  if (::uname(&name) == 0) {
    report.kernel = name.release;
    report.machine = name.machine;
  }

  const fs::path modules = "/sys/module";
  constexpr const char* polling[] = {"halt_poll_ns", "halt_poll_ns_grow", "halt_poll_ns_grow_start",
                                     "halt_poll_ns_shrink"};
  for (const char* parameter : polling) {
    report.halt_poll.push_back(read("kvm", parameter));
  }
  for (const std::string& module : names_in(modules)) {
    if (module.starts_with("kvm_")) {
      report.backends.push_back(module);
    } else if (module != "kvm") {
      continue;
    }
    for (const std::string& parameter : names_in(modules / module / "parameters")) {
      const bool shown = module == "kvm" && std::find(std::begin(polling), std::end(polling),
                                                      parameter) != std::end(polling);
      if (!shown) {
        report.parameters.push_back(read(module, parameter));
      }
    }
  }
}

}  // namespace kvm_info
