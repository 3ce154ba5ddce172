#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# usage: bench/callgrind.sh [FOLDER]
#
# What the library adds to a guest's exit, in instructions in user space: exits through run() and
# visit() with every check in place, less the same exits through the raw ioctl and a switch, which
# read the same fields. Each is counted by callgrind over N and over 2N exits, and the difference
# divided by N, so that the program's start does not count. (Valgrind passes KVM's ioctls on to the
# kernel; the guest itself is not counted.) Also looks at the machine code of the library's loop:
# between the exits there may be no locked instruction, no fence and no call for a thread-local.
# Compiled with -O2, and again as position-independent code for a shared object, by every compiler
# of g++ and clang++ that there is. Prints a line
#   ratio exit_instructions_COMPILER VALUE target <=20 ok|short
# for each and exits 1 if one is short. Works in FOLDER/callgrind, or in a temporary folder.
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
limit=20
exits=5000

for tool in valgrind objdump; do
  command -v "$tool" >/dev/null || { printf 'callgrind.sh: %s is missing\n' "$tool" >&2; exit 1; }
done
if [[ ! -r /dev/kvm || ! -w /dev/kvm ]]; then
  echo "callgrind.sh: /dev/kvm cannot be opened" >&2
  exit 1
fi
if (($#)); then
  work=$1/callgrind
  mkdir -p "$work"
else
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
fi

# instructions PROGRAM raw|library EXITS
instructions() {
  local log=$work/valgrind.log
  if ! valgrind --tool=callgrind --callgrind-out-file=/dev/null "$1" "$2" "$3" >"$log" 2>&1; then
    cat "$log" >&2
    return 1
  fi
  awk '/Collected :/ { print $NF }' "$log"
}

# per_exit PROGRAM raw|library
per_exit() {
  local once twice
  once=$(instructions "$1" "$2" "$exits")
  twice=$(instructions "$1" "$2" $((2 * exits)))
  awk -v once="$once" -v twice="$twice" -v n="$exits" 'BEGIN { printf "%.0f\n", (twice - once) / n }'
}

# forbidden PROGRAM: the loop's instructions that must not be there. What only a kick or a failure
# reaches is out of line.
forbidden() {
  objdump -d --no-show-raw-insn "$1" | awk '
    /^[0-9a-f]+ <library_loop>:$/ { inside = 1; seen = 1; next }
    /^$/ { inside = 0 }
    inside && (/[[:space:]]lock[[:space:]]/ || /[[:space:]][mls]fence/ || /__tls_get_addr/ ||
               /[[:space:]]xchg[[:space:]].*\(/)
    END { if (!seen) print "library_loop was not found" }'
}

status=0
compilers=0
for compiler in g++ clang++; do
  command -v "$compiler" >/dev/null || { echo "$compiler is not there: not counted"; continue; }
  compilers=$((compilers + 1))
  for mode in "" -fPIC; do
    name=${compiler%++}${mode:+_pic}
    name=${name/#g/gcc}
    program=$work/exit_cost_$name
    "$compiler" -std=c++20 -O2 -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror $mode -pthread \
      -I"$repo/include" -I"$repo/tests" "$repo/bench/callgrind/exit_cost.cpp" -o "$program"
    raw=$(per_exit "$program" raw)
    library=$(per_exit "$program" library)
    value=$((library - raw))
    verdict=ok
    if ((value > limit)); then
      verdict=short
      status=1
    fi
    printf 'exit_instructions_%s: raw %d, library %d\n' "$name" "$raw" "$library"
    printf 'ratio exit_instructions_%s %d target <=%d %s\n' "$name" "$value" "$limit" "$verdict"
    found=$(forbidden "$program")
    if [[ -n $found ]]; then
      printf '%s: in the loop:\n%s\n' "$name" "$found"
      status=1
    fi
  done
done
((compilers > 0)) || { echo "callgrind.sh: neither g++ nor clang++ is there" >&2; exit 1; }
exit "$status"
