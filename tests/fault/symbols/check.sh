#!/bin/sh
# SPDX-License-Identifier: MIT
# check.sh OBJDUMP WRAPPED ALLOWED OBJECT
#
# Follows the references of an object file from the library's functions on, through what of the C++
# library is compiled into it, and fails if a symbol from outside is neither replaced by the fault
# tests (WRAPPED) nor known to be harmless (ALLOWED). The object has a section per function.
set -eu
objdump=$1 wrapped=$2 allowed=$3 object=$4

"$objdump" -tr "$object" | awk -v wrapped="$wrapped" -v allowed="$allowed" '
  function fail(message) { print message; failed = 1 }
  BEGIN {
    while ((getline line < wrapped) > 0) if (line != "") is_wrapped[line] = 1
    while ((getline line < allowed) > 0) if (line != "" && line !~ /^#/) pattern[++patterns] = "^(" line ")$"
  }
  /\*UND\*/ { sub(/@.*/, "", $NF); undefined[$NF] = 1 }
  /^RELOCATION RECORDS FOR / {
    section = $4
    sub(/^\[/, "", section)
    sub(/\]:$/, "", section)
    function_of = ""
    if (match(section, /^\.text(\.(hot|unlikely|startup|exit))?\./)) {
      function_of = substr(section, RLENGTH + 1)
      functions[function_of] = 1
    }
    next
  }
  function_of != "" && $2 ~ /^R_/ {
    target = $3
    sub(/[-+]0x[0-9a-f]+$/, "", target)
    sub(/@.*/, "", target)
    sub(/^\.text(\.(hot|unlikely|startup|exit))?\./, "", target)
    edges[function_of] = edges[function_of] " " target
  }
  END {
    for (name in functions) if (name ~ /(^|[^0-9])3kvm/) { todo[++count] = name; queued[name] = 1; ++ours }
    for (at = 1; at <= count; ++at) {
      split(edges[todo[at]], targets, " ")
      for (i in targets) {
        target = targets[i]
        if (target in undefined) {
          if (!(target in caller)) caller[target] = todo[at]
        } else if ((target in functions) && !(target in queued)) {
          queued[target] = 1
          todo[++count] = target
        }
      }
    }
    for (name in caller) {
      ++outside
      if (name in is_wrapped) { ++replaced; continue }
      known = 0
      for (i = 1; i <= patterns && !known; ++i) known = name ~ pattern[i]
      if (!known) fail(name " is called (by " caller[name] ") but neither in wrapped_calls.txt nor in symbols/allowed.txt")
    }
    print ours " functions of the library refer to " outside " outside symbols, " replaced " of them replaced"
    if (ours < 500) fail("too few functions: is the whole library in the object file?")
    if (replaced < 12) fail("too few replaced calls: is the object file of the right kind?")
    exit failed
  }'
