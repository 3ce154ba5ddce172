#!/bin/sh
# SPDX-License-Identifier: MIT
# symbols.sh READELF THROWING ABORTING
# Both objects hold the whole library, compiled with and without exceptions.
set -eu
readelf=$1 throwing=$2 aborting=$3
failed=0

# Num Value Size Type Bind Vis Ndx Name
undefined() { "$readelf" -sW "$1" | awk '$7 == "UND" { print $8 }'; }
ours() { "$readelf" -sW "$1" | awk '$7 != "UND" && ($5 == "WEAK" || $5 == "GLOBAL" || $5 == "UNIQUE") && $8 ~ /(^|[^0-9])3kvm/ { print $8 }' | sort -u; }

if ! undefined "$throwing" | grep -q '^__cxa_throw$'; then
  echo "the control does not throw: does this check see anything?"
  failed=1
fi
if undefined "$aborting" | grep -E '^__cxa_(throw|rethrow|allocate_exception|begin_catch)$'; then
  echo "the library throws or catches without exceptions"
  failed=1
fi

unmarked=$({ ours "$throwing" | grep -v 11v0_throwing; ours "$aborting" | grep -v 11v0_aborting; } || true)
if [ -n "$unmarked" ]; then
  echo "symbols that do not say their mode, of which the linker keeps one for both:"
  echo "$unmarked"
  failed=1
fi

count=$(ours "$throwing" | wc -l)
echo "$count symbols with exceptions, $(ours "$aborting" | wc -l) without"
if [ "$count" -lt 500 ]; then
  echo "too few: is the whole library in the object file?"
  failed=1
fi
exit $failed
