# SPDX-License-Identifier: MIT
# Reads what suite.sh said on a host, -v host=NAME. Prints the failures with their output, the skips
# by reason, and "NAME: N passed, N failed, N skipped".
BEGIN { FS = "\t" }

function failure(name, why) {
  failed++
  printf "FAILED:  %s: %s\n", name, why
}

# Why a skip is none that this host may have, or nothing. Its reason names the capability that is
# missing, perhaps with the flags of it: "KVM_CAP_X [0x5] is not offered by this host".
function objection(reason,   name, rest, flags) {
  if (!match(reason, /KVM_(CAP|DEV)_[A-Z0-9_]+/)) return "it names no capability that is missing"
  if (substr(reason, RSTART, 7) == "KVM_DEV") return ""
  name = substr(reason, RSTART, RLENGTH)
  rest = substr(reason, RSTART + RLENGTH)
  if (!(name in offered)) return ""
  if (name == "KVM_CAP_MULTI_ADDRESS_SPACE") return offered[name] > 1 ? name " is offered: " offered[name] : ""
  flags = 0
  if (match(rest, /^ \[[0-9]+\]/)) flags = substr(rest, 3, RLENGTH - 3) + 0
  if (flags == 0) return offered[name] > 0 ? name " is offered: " offered[name] : ""
  return has_all(offered[name], flags) ? name " offers " flags ": " offered[name] : ""
}
function has_all(value, flags) {
  for (; flags > 0; flags = int(flags / 2)) {
    if (flags % 2 == 1 && value % 2 == 0) return 0
    value = int(value / 2)
  }
  return 1
}

/^@@ / { output = 0 }
/^@@ cap\t/ { offered[$2] = $3; capabilities++ }
/^@@ pass\t/ { passed++; ran++; seconds[$2] = $3 }
/^@@ fail\t/ {
  failure($2, $4)
  if ($2 != "host") ran++
  output = 1
  next
}
/^@@ skip\t/ {
  ran++
  why = objection($4)
  if (why != "") { failure($2, "skipped (" $4 "), but " why); next }
  skipped++
  if (!($4 in skips)) reasons[++count] = $4
  skips[$4]++
}
/^@@ end / { sub(/^@@ end /, ""); listed = $0 + 0; ended = 1 }
output { print "    " $0 }
END {
  if (!ended) failure("host", "its last words: " last)
  else if (listed != ran || ran == 0) failure("host", ran + 0 " of " listed " tests said how they ended")
  if (capabilities == 0) failure("host", "kvm-info did not say what it offers")
  for (i = 1; i <= count; i++) printf "skipped: %s (%d)\n", reasons[i], skips[reasons[i]]
  printf "%s: %d passed, %d failed, %d skipped\n", host, passed, failed, skipped
}
NF { last = $0 }
