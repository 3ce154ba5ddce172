#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# usage: bench/callgrind.sh [FOLDER]
#
# What the library adds, in instructions in user space, with every check in place:
# - to a guest's exit: exits through run() and visit(), less the same exits through the raw ioctl and
#   a switch, which read the same fields. Counted over N and over 2N exits, and the difference divided
#   by N, so that the program's start does not count. (Valgrind passes KVM's ioctls on to the kernel;
#   the guest itself is not counted.)
# - to an access to guest memory: reads and writes of a u64 through a cache and a view, less the same
#   through a pointer; writes also where the page is logged and dirty already. Counted in the loop
#   alone.
# Also looks at the machine code of the library's loops: there may be no locked instruction, no fence
# and no call for a thread-local. Compiled with -O2, and again as position-independent code for a
# shared object, by every compiler of g++ and clang++ that there is. Prints lines
#   ratio exit_instructions_COMPILER VALUE target <=20 ok|short
#   ratio memory_instructions_ACCESS_COMPILER VALUE target <=LIMIT ok|short
# and exits 1 if one is short. Works in FOLDER/callgrind, or in a temporary folder.
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
exit_limit=20
exits=5000
# The accesses that memory_cost knows, and their limits.
declare -A memory_limits=([cache_read]=14 [cache_write]=14 [cache_write_logged]=26
  [view_read]=22 [view_write]=22)
memory_accesses=(cache_read cache_write cache_write_logged view_read view_write)
accesses=20000

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

# instructions [OPTION...] -- PROGRAM ARGUMENT...: how many callgrind collected
instructions() {
  local log=$work/valgrind.log options=()
  while [[ $1 != -- ]]; do
    options+=("$1")
    shift
  done
  shift
  if ! valgrind --tool=callgrind --callgrind-out-file=/dev/null ${options[@]+"${options[@]}"} "$@" \
    >"$log" 2>&1; then
    cat "$log" >&2
    return 1
  fi
  awk '/Collected :/ { print $NF }' "$log"
}

# per_exit PROGRAM raw|library
per_exit() {
  local once twice
  once=$(instructions -- "$1" "$2" "$exits")
  twice=$(instructions -- "$1" "$2" $((2 * exits)))
  awk -v once="$once" -v twice="$twice" -v n="$exits" 'BEGIN { printf "%.0f\n", (twice - once) / n }'
}

# per_access PROGRAM LOOP: the loop is the function of that name without _logged.
per_access() {
  local count
  count=$(instructions --toggle-collect="${2%_logged}" -- "$1" "$2" "$accesses")
  awk -v count="$count" -v n="$accesses" 'BEGIN { printf "%.0f\n", count / n }'
}

# forbidden PROGRAM FUNCTION: the function's instructions that must not be there. What only a kick, a
# failure or a page's first mark reaches is out of line.
forbidden() {
  objdump -d --no-show-raw-insn "$1" | awk -v name="<$2>:" '
    /^[0-9a-f]+ <.*>:$/ { inside = $2 == name; seen += inside; next }
    /^$/ { inside = 0 }
    inside && (/[[:space:]]lock[[:space:]]/ || /[[:space:]][mls]fence/ || /__tls_get_addr/ ||
               /[[:space:]]xchg[[:space:]].*\(/)
    END { if (!seen) print name " was not found" }'
}

# judge NAME RAW LIBRARY LIMIT: prints the lines; sets status if it is short
judge() {
  local value=$(($3 - $2)) verdict=ok
  if ((value > $4)); then
    verdict=short
    status=1
  fi
  printf '%s: raw %d, library %d\n' "$1" "$2" "$3"
  printf 'ratio %s %d target <=%d %s\n' "$1" "$value" "$4" "$verdict"
}

# look_at PROGRAM FUNCTION: prints what is forbidden; sets status if there is any
look_at() {
  local found
  found=$(forbidden "$1" "$2")
  if [[ -n $found ]]; then
    printf '%s: in %s:\n%s\n' "$(basename "$1")" "$2" "$found"
    status=1
  fi
}

# build SOURCE PROGRAM: by $compiler in $mode
build() {
  "$compiler" -std=c++20 -O2 -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror $mode -pthread \
    -I"$repo/include" -I"$repo/tests" "$repo/bench/callgrind/$1" -o "$2"
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
    build exit_cost.cpp "$program"
    raw=$(per_exit "$program" raw)
    library=$(per_exit "$program" library)
    judge "exit_instructions_$name" "$raw" "$library" "$exit_limit"
    look_at "$program" library_loop

    program=$work/memory_cost_$name
    build memory_cost.cpp "$program"
    raw_read=$(per_access "$program" raw_read)
    raw_write=$(per_access "$program" raw_write)
    for access in "${memory_accesses[@]}"; do
      raw=$raw_read
      [[ $access == *_read ]] || raw=$raw_write
      library=$(per_access "$program" "$access")
      judge "memory_instructions_${access}_$name" "$raw" "$library" "${memory_limits[$access]}"
      look_at "$program" "${access%_logged}"
    done
  done
done
((compilers > 0)) || { echo "callgrind.sh: neither g++ nor clang++ is there" >&2; exit 1; }
exit "$status"
