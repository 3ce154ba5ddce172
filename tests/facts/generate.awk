# SPDX-License-Identifier: MIT
# awk -f generate.awk ioctls.tsv exits.tsv caps.tsv constants.tsv >facts.cpp
#
# Turns the tables into assertions: one for each fact that the library states, one that compares it
# with <linux/kvm.h> where that has it and is right. Dropping a constant, a wrong number, a wrong
# scope or a wrong size then fails to compile, for whatever architecture the result is compiled.
BEGIN {
  FS = "\t"
  split("x86 arm64 riscv", arches, " ")
  guard["x86"] = "KVM_HPP_ARCH_X86"
  guard["arm64"] = "KVM_HPP_ARCH_ARM64"
  guard["riscv"] = "KVM_HPP_ARCH_RISCV"
}

FNR == 1 {
  table = FILENAME
  sub(/.*\//, "", table)
  heading = (table != "constants.tsv")
}
/^#/ || /^$/ { next }
heading { heading = 0; next }

table == "ioctls.tsv" { if ($8 == "yes") request(); next }
table == "exits.tsv" { exit_reason(); next }
table == "caps.tsv" { capability(); next }
table == "constants.tsv" { constant(); next }

function lower_after(prefix, name) { return tolower(substr(name, length(prefix) + 1)) }

function request(   ours, i, arch, code, scopes, known, list, n, parts) {
  ours = "request::" lower_after("KVM_", $1)
  n = split($6, parts, ",")
  scopes = "Scopes(Scope::" parts[1] ")"
  for (i = 2; i <= n; i++) scopes = scopes " | Scope::" parts[i]
  for (i = 1; i <= 3; i++) {
    arch = arches[i]
    code = $(i + 1)
    if (code == "-") continue
    known = index("," $7 ",", "," arch ",") > 0
    list = "static_assert(" ours ".code == " code "UL, \"" $1 "\");\n"
    list = list "static_assert(text(" ours ".name) == \"" $1 "\");\n"
    list = list "static_assert(" ours ".scopes == (" scopes "), \"" $1 "\");\n"
    if (known && $5 ~ /^(kvm_|reg_)/)
      list = list "static_assert(argument_size(" ours ".code) == sizeof(kvm::uapi::" $5 "), \"" $1 "\");\n"
    # A macro whose struct this architecture does not have must not be used.
    if (known && !($9 == "empty" && arch != "x86"))
      list = list "#ifdef " $1 "\nstatic_assert(" ($9 == "flexible" ? "header_misplaces_arrays || " : "") \
        "static_cast<unsigned long>(" $1 ") == " ours ".code, \"" $1 "\");\n#endif\n"
    assertions[arch] = assertions[arch] list
    rows["request", arch] = rows["request", arch] "    {\"" $1 "\", " code "UL, " ours ".code},\n"
  }
}

function exit_reason(   ours) {
  ours = "ExitReason::" lower_after("KVM_EXIT_", $1)
  common = common "static_assert(static_cast<unsigned>(" ours ") == " $2 ", \"" $1 "\");\n"
  common = common "static_assert(text(name(" ours ")) == \"" $1 "\");\n"
  common = common "#ifdef " $1 "\nstatic_assert(" $1 " == " $2 ", \"" $1 "\");\n#endif\n"
  if ($3 != "-")
    common = common "static_assert(offsetof(kvm::uapi::kvm_run, " $3 ") == 32, \"" $1 "\");\n"
  rows["exit"] = rows["exit"] "    {\"" $1 "\", " $2 "UL, static_cast<unsigned long>(" ours ")},\n"
}

function capability(   ours) {
  ours = "cap::" lower_after("KVM_CAP_", $1)
  common = common "static_assert(" ours " == " $2 ", \"" $1 "\");\n"
  common = common "#ifdef " $1 "\nstatic_assert(" $1 " == " $2 ", \"" $1 "\");\n#endif\n"
  rows["cap"] = rows["cap"] "    {\"" $1 "\", " $2 "UL, " ours "},\n"
}

# Only compared with the header: its macros are the table.
function constant() {
  common = common "static_assert(same(kvm::uapi::" $2 ", kvm::uapi::" $2 "));\n"
  common = common "#ifdef " $1 "\nstatic_assert(same(kvm::uapi::" $2 ", " $1 ")" \
    ($3 == "or-0" ? " || " $1 " == 0" : "") ", \"" $1 "\");\n#endif\n"
}

function array(name, kind) {
  print "inline constexpr Fact " name "_rows[] = {\n" kind "    {nullptr, 0, 0}};"
  print "std::span<const Fact> " name "() { return std::span<const Fact>(" name "_rows).first(std::size(" name "_rows) - 1); }"
}

END {
  print "// Made from the tables by generate.awk."
  print "#include \"facts.hpp\"\n"
  print "#include <linux/kvm.h>\n"
  print "#include <iterator>\n"
  print "#include <kvm/uapi.hpp>\n"
  print "namespace facts {\nnamespace {\n"
  print "// Not the whole of kvm::uapi: the header's macros mean the header's structs."
  print "namespace cap = kvm::uapi::cap;"
  print "namespace request = kvm::uapi::request;"
  print "using kvm::uapi::ExitReason;\nusing kvm::uapi::Scope;\nusing kvm::uapi::Scopes;\n"
  print "// True with the 6.1 header: its arrays are preceded by an empty struct (R1)."
  print "constexpr bool header_misplaces_arrays = sizeof(::kvm_signal_mask) != 4;\n"
  print common
  for (i = 1; i <= 3; i++)
    print "#if " guard[arches[i]] "\n" assertions[arches[i]] "#endif"
  print "\n}  // namespace\n"
  for (i = 1; i <= 3; i++) {
    print "#if " guard[arches[i]]
    array("requests", rows["request", arches[i]])
    print "#endif"
  }
  array("exits", rows["exit"])
  array("capabilities", rows["cap"])
  print "\n}  // namespace facts"
}
