# SPDX-License-Identifier: MIT
# awk -f caps.awk caps.tsv >capability_facts.cpp
#
# Turns the table into assertions about the types of kvm::cap: each capability that x86, arm64 or
# riscv can check has one, which has its number and name, and is checked and enabled where the table
# says; for_each_capability() visits those of this architecture. (The numbers of uapi::cap are
# generate.awk's.)
function arch_bits(list,  n, a, i, bits) {
  n = split(list, a, ",")
  bits = 0
  for (i = 1; i <= n; i++) bits += a[i] == "x86" ? 1 : a[i] == "arm64" ? 2 : a[i] == "riscv" ? 4 : 0
  return bits
}
# NR_MEMSLOTS -> NrMemslots. An underscore stays between two digits; X2APIC is two words.
function camel(name,  n, a, i, out) {
  n = split(tolower(name), a, "_")
  out = ""
  for (i = 1; i <= n; i++) {
    if (out ~ /[0-9]$/ && a[i] ~ /^[0-9]/) out = out "_"
    out = out toupper(substr(a[i], 1, 1)) substr(a[i], 2)
  }
  sub(/X2apic/, "X2Apic", out)
  return out
}
BEGIN {
  FS = "\t"
  print "// Generated from caps.tsv by caps.awk."
  print "#include <kvm/capability.hpp>"
  print "#include <string_view>"
  print "namespace {"
  print "using kvm::detail::EnableScope;"
  print "template <class C>"
  print "constexpr bool is(unsigned number, std::string_view name, unsigned check, EnableScope scope,"
  print "                  unsigned enable) {"
  print "  const kvm::detail::CapInfo& info = C::info;"
  print "  return info.number == number && info.name == name && info.check_arches.bits == check &&"
  print "         info.scope == scope && info.enable_arches.bits == enable;"
  print "}"
  types = 0
}
/^#/ || $1 == "name" { next }
{
  if ($3 == "-") next
  types++
  for (bit = 1; bit <= 4; bit *= 2) if (int(arch_bits($3) / bit) % 2) per_arch[bit]++
  printf "static_assert(is<kvm::cap::%s>(%d, \"%s\", %d, EnableScope::%s, %d));\n", camel(substr($1, 9)), $2, $1,
         arch_bits($3), $4 == "-" ? "none" : $4, arch_bits($5)
}
END {
  print "constexpr unsigned visited() {"
  print "  unsigned count = 0;"
  print "  kvm::for_each_capability([&](auto) { ++count; });"
  print "  return count;"
  print "}"
  printf "static_assert(visited() == kvm::uapi::per_arch(%du, %du, %du));\n", per_arch[1], per_arch[2], per_arch[4]
  print "template <class... C>"
  print "constexpr unsigned size(kvm::detail::CapabilityList<C...>) {"
  print "  return sizeof...(C);"
  print "}"
  printf "static_assert(size(kvm::detail::AllCapabilities{}) == %d);\n", types
  print "}  // namespace"
}
