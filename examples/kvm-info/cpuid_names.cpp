// SPDX-License-Identifier: MIT
// The names of CPUID's leaves and bits.
#include <algorithm>
#include <initializer_list>
#include <iterator>
#include <utility>

#include "names.hpp"

namespace kvm_info {
namespace {

using Register = std::uint32_t CpuidEntry::*;

struct Bits {
  std::uint32_t function;
  std::uint32_t index;
  Register reg;
  /// From bit 0 on, one blank between; "-" where a bit has no name.
  std::string_view names;
};

constexpr Bits bit_names[] = {
    {0x1, 0, &CpuidEntry::edx,
     "fpu vme de pse tsc msr pae mce cx8 apic - sep mtrr pge mca cmov pat pse36 psn clflush - ds "
     "acpi mmx fxsr sse sse2 ss ht tm ia64 pbe"},
    {0x1, 0, &CpuidEntry::ecx,
     "sse3 pclmulqdq dtes64 monitor ds_cpl vmx smx est tm2 ssse3 cnxt_id sdbg fma cx16 xtpr pdcm - "
     "pcid dca sse4_1 sse4_2 x2apic movbe popcnt tsc_deadline aes xsave osxsave avx f16c rdrand "
     "hypervisor"},
    {0x6, 0, &CpuidEntry::eax, "dtherm ida arat"},
    {0x6, 0, &CpuidEntry::ecx, "aperfmperf"},
    {0x7, 0, &CpuidEntry::ebx,
     "fsgsbase tsc_adjust sgx bmi1 hle avx2 fdp_excptn_only smep bmi2 erms invpcid rtm rdt_m "
     "zero_fcs_fds mpx rdt_a avx512f avx512dq rdseed adx smap avx512ifma - clflushopt clwb "
     "intel_pt avx512pf avx512er avx512cd sha_ni avx512bw avx512vl"},
    {0x7, 0, &CpuidEntry::ecx,
     "prefetchwt1 avx512vbmi umip pku ospke waitpkg avx512_vbmi2 shstk gfni vaes vpclmulqdq "
     "avx512_vnni avx512_bitalg tme avx512_vpopcntdq - la57 - - - - - rdpid key_locker "
     "bus_lock_detect cldemote - movdiri movdir64b enqcmd sgx_lc pks"},
    {0x7, 0, &CpuidEntry::edx,
     "- sgx_keys avx512_4vnniw avx512_4fmaps fsrm uintr - - avx512_vp2intersect srbds_ctrl "
     "md_clear "
     "rtm_always_abort - tsx_force_abort serialize hybrid tsxldtrk - pconfig arch_lbr ibt - "
     "amx_bf16 avx512_fp16 amx_tile amx_int8 spec_ctrl stibp flush_l1d arch_capabilities "
     "core_capabilities ssbd"},
    {0x7, 1, &CpuidEntry::eax,
     "sha512 sm3 sm4 rao_int avx_vnni avx512_bf16 lass cmpccxadd arch_perfmon_ext - fzrm fsrs fsrc "
     "- - - - fred lkgs wrmsrns nmi_src amx_fp16 hreset avx_ifma - - lam msrlist"},
    {0x7, 1, &CpuidEntry::edx,
     "- - - - avx_vnni_int8 avx_ne_convert - - amx_complex - avx_vnni_int16 - - - prefetchi - - - "
     "cet_sss avx10"},
    {0x7, 2, &CpuidEntry::edx, "psfd ipred_ctrl rrsba_ctrl ddpd_u bhi_ctrl mcdt_no"},
    {0xd, 1, &CpuidEntry::eax, "xsaveopt xsavec xgetbv1 xsaves xfd"},
    {0x40000001, 0, &CpuidEntry::eax,
     "clocksource nop_io_delay mmu_op clocksource2 async_pf steal_time pv_eoi pv_unhalt - "
     "pv_tlb_flush async_pf_vmexit pv_send_ipi poll_control pv_sched_yield async_pf_int "
     "msi_ext_dest_id hc_map_gpa_range migration_control - - - - - - clocksource_stable"},
    {0x40000001, 0, &CpuidEntry::edx, "realtime"},
    {0x80000001, 0, &CpuidEntry::ecx,
     "lahf_lm cmp_legacy svm extapic cr8_legacy abm sse4a misalignsse 3dnowprefetch osvw ibs xop "
     "skinit wdt - lwp fma4 tce - nodeid_msr - tbm topoext perfctr_core perfctr_nb - bpext ptsc "
     "perfctr_llc mwaitx"},
    {0x80000001, 0, &CpuidEntry::edx,
     "- - - - - - - - - - - syscall - - - - - - - mp nx - mmxext - - fxsr_opt pdpe1gb rdtscp - lm "
     "3dnowext 3dnow"},
    {0x80000007, 0, &CpuidEntry::edx, "- - - - - - - - invariant_tsc"},
    {0x80000008, 0, &CpuidEntry::ebx,
     "clzero irperf xsaveerptr - rdpru - - - - wbnoinvd - - amd_ibpb - amd_ibrs amd_stibp "
     "ibrs_always_on stibp_always_on ibrs_preferred ibrs_same_mode - - - amd_ppin amd_ssbd "
     "virt_ssbd amd_ssb_no cppc amd_psfd btc_no ibpb_ret"},
    {0x8000000a, 0, &CpuidEntry::edx,
     "npt lbrv svm_lock nrips tsc_scale vmcb_clean flushbyasid decodeassists - - pausefilter - "
     "pfthreshold avic - v_vmsave_vmload vgif - - - - - - - - vnmi"},
    {0x8000001f, 0, &CpuidEntry::eax, "sme sev - sev_es sev_snp"},
    {0x80000021, 0, &CpuidEntry::eax,
     "no_nested_data_bp - lfence_rdtsc - - - null_sel_clr_base - auto_ibrs no_smm_ctl_msr - - - - "
     "- - - - - - - - - - - - - sbpb ibpb_brtype srso_no"},
};

struct Title {
  std::uint32_t function;
  std::string_view text;
};

constexpr Title titles[] = {
    {0x0, "vendor, highest leaf"},
    {0x1, "version and features"},
    {0x2, "caches and TLBs"},
    {0x4, "cache parameters"},
    {0x5, "MONITOR and MWAIT"},
    {0x6, "power management"},
    {0x7, "extended features"},
    {0xa, "performance counters"},
    {0xb, "topology"},
    {0xd, "extended state (XSAVE)"},
    {0x12, "enclaves (SGX)"},
    {0x14, "processor trace"},
    {0x15, "TSC frequency"},
    {0x16, "processor frequency"},
    {0x1d, "tiles (AMX)"},
    {0x1e, "tile multiplication"},
    {0x1f, "topology, second form"},
    {0x24, "AVX10"},
    {0x40000000, "KVM's signature"},
    {0x40000001, "KVM's features"},
    {0x80000000, "highest extended leaf"},
    {0x80000001, "extended features"},
    {0x80000002, "processor name"},
    {0x80000003, "processor name"},
    {0x80000004, "processor name"},
    {0x80000005, "first-level caches"},
    {0x80000006, "further caches"},
    {0x80000007, "time and errors"},
    {0x80000008, "address widths, features"},
    {0x8000000a, "virtualization (SVM)"},
    {0x80000019, "TLBs of large pages"},
    {0x8000001a, "performance hints"},
    {0x8000001d, "cache parameters"},
    {0x8000001e, "topology"},
    {0x8000001f, "encrypted memory"},
    {0x80000021, "extended features, 2"},
    {0x80000022, "performance counters, 2"},
};

constexpr std::pair<std::string_view, const char*> paravirtual_meanings[] = {
    {"clocksource", "paravirtual clock, first form"},
    {"nop_io_delay", "delays by port 0x80 can be skipped"},
    {"mmu_op", "paravirtual page tables (historical)"},
    {"clocksource2", "paravirtual clock"},
    {"async_pf", "told of pages that the host must fetch first"},
    {"steal_time", "told how long its vCPUs waited for a host CPU"},
    {"pv_eoi", "ends interrupts without an exit"},
    {"pv_unhalt", "a vCPU that waits for a lock can be woken by another"},
    {"pv_tlb_flush", "leaves flushing the TLBs of preempted vCPUs to the host"},
    {"async_pf_vmexit", "the same notices for a nested hypervisor"},
    {"pv_send_ipi", "interrupts many vCPUs in one hypercall"},
    {"poll_control", "can switch off the host's polling for halted vCPUs"},
    {"pv_sched_yield", "can yield to a preempted vCPU"},
    {"async_pf_int", "told by interrupt that such a page has come"},
    {"msi_ext_dest_id", "message-signalled interrupts reach 32768 vCPUs"},
    {"hc_map_gpa_range", "can announce private and shared memory"},
    {"migration_control", "can say whether it may be migrated"},
    {"clocksource_stable", "the paravirtual clock agrees on all vCPUs"},
    {"realtime", "vCPUs are never preempted for long"},
};

bool matches(const CpuidEntry& entry, const Bits& bits) {
  return bits.function == entry.function && bits.index == entry.index.value_or(0);
}

/// The names of the bits that are set.
void append_names(std::vector<std::string>& out, std::uint64_t bits, std::string_view names) {
  for (; !names.empty() && bits != 0; bits >>= 1) {
    const std::string_view name = names.substr(0, names.find(' '));
    names.remove_prefix(std::min(name.size() + 1, names.size()));
    if ((bits & 1) != 0 && name != "-") {
      out.emplace_back(name);
    }
  }
}

const CpuidEntry* find(std::span<const CpuidEntry> cpuid, std::uint32_t function) {
  const auto found = std::find_if(cpuid.begin(), cpuid.end(), [&](const CpuidEntry& entry) {
    return entry.function == function;
  });
  return found != cpuid.end() ? &*found : nullptr;
}

void append(std::string& out, std::initializer_list<std::uint32_t> words) {
  for (const std::uint32_t word : words) {
    for (unsigned shift = 0; shift < 32; shift += 8) {
      const auto letter = static_cast<char>(word >> shift);
      if (letter >= ' ' && letter <= '~') {
        out += letter;
      }
    }
  }
}

std::string trimmed(const std::string& text) {
  const auto first = text.find_first_not_of(' ');
  return first == text.npos ? "" : text.substr(first, text.find_last_not_of(' ') - first + 1);
}

}  // namespace

std::string_view leaf_title(const CpuidEntry& entry) {
  const auto* found = std::find_if(std::begin(titles), std::end(titles), [&](const Title& title) {
    return title.function == entry.function;
  });
  return found != std::end(titles) ? found->text : std::string_view();
}

std::vector<std::string> feature_names(const CpuidEntry& entry) {
  std::vector<std::string> out;
  for (const Bits& bits : bit_names) {
    if (matches(entry, bits)) {
      append_names(out, entry.*bits.reg, bits.names);
    }
  }
  return out;
}

std::vector<std::string> state_component_names(std::uint64_t xcr0) {
  std::vector<std::string> out;
  append_names(out, xcr0,
               "x87 sse avx bndregs bndcsr opmask zmm_hi256 hi16_zmm pt pkru pasid cet_u cet_s hdc "
               "uintr lbr hwp tile_config tile_data apx");
  return out;
}

std::vector<std::string> machine_check_names(std::uint64_t mcg_cap) {
  std::vector<std::string> out;
  append_names(out, mcg_cap,
               "- - - - - - - - ctl_p ext_p cmci_p tes_p - - - - - - - - - - - - ser_p - elog_p "
               "lmce_p");
  return out;
}

Processor processor(std::span<const CpuidEntry> cpuid) {
  Processor out{};
  if (const CpuidEntry* leaf = find(cpuid, 0)) {
    append(out.vendor, {leaf->ebx, leaf->edx, leaf->ecx});
  }
  for (std::uint32_t function = 0x80000002; function <= 0x80000004; ++function) {
    if (const CpuidEntry* leaf = find(cpuid, function)) {
      append(out.name, {leaf->eax, leaf->ebx, leaf->ecx, leaf->edx});
    }
  }
  out.name = trimmed(out.name);
  if (const CpuidEntry* leaf = find(cpuid, 1)) {
    const std::uint32_t version = leaf->eax;
    out.stepping = version & 0xf;
    out.family = version >> 8 & 0xf;
    out.model = version >> 4 & 0xf;
    if (out.family == 6 || out.family == 15) {
      out.model |= (version >> 16 & 0xf) << 4;
    }
    if (out.family == 15) {
      out.family += version >> 20 & 0xff;
    }
  }
  if (const CpuidEntry* leaf = find(cpuid, 0x80000008)) {
    out.physical_bits = leaf->eax & 0xff;
    out.linear_bits = leaf->eax >> 8 & 0xff;
  }
  return out;
}

std::vector<Feature> paravirtual_features(std::span<const CpuidEntry> cpuid) {
  std::vector<Feature> out;
  const CpuidEntry* leaf = find(cpuid, 0x40000001);
  if (leaf == nullptr) {
    return out;
  }
  for (const std::string& name : feature_names(*leaf)) {
    const auto* found =
        std::find_if(std::begin(paravirtual_meanings), std::end(paravirtual_meanings),
                     [&](const auto& entry) { return entry.first == name; });
    out.push_back({name, found != std::end(paravirtual_meanings) ? found->second : ""});
  }
  return out;
}

}  // namespace kvm_info
