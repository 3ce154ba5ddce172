#!/bin/sh
# SPDX-License-Identifier: MIT
# Proves on the machine code of one compiler that what was copied from guest memory is not fetched
# again: by running it on memory that changes after every fetch, and by counting in the disassembly
# the instructions that read through the guest's pointer.
#
#   run.sh COMPILER OBJDUMP INCLUDE_DIR SCRATCH_DIR OPTIMISATION
#
# Exit status 77 is a skip.
set -u
if [ $# -ne 5 ]; then
  echo "usage: $0 COMPILER OBJDUMP INCLUDE_DIR SCRATCH_DIR OPTIMISATION" >&2
  exit 2
fi
compiler=$1 objdump=$2 include=$3 scratch=$4 optimisation=$5
here=$(dirname "$0")
mkdir -p "$scratch" || exit 2

build() {
  "$compiler" -std=c++20 "$optimisation" -Wall -Wextra -Wconversion -Werror -I"$include" "$@"
}

case $(echo | "$compiler" -dM -E -x c++ -) in
  *__x86_64__*) ;;
  *)
    echo "skipped: this test knows the machine code of x86-64 only"
    exit 77
    ;;
esac

# Each function must have exactly the reads that it should have: one that reads through a copy of the
# pointer would have fewer. The pointer is the first argument, in rdi.
build -c "$here/subjects.cpp" -o "$scratch/subjects.o" || exit 1
"$objdump" -d --no-show-raw-insn "$scratch/subjects.o" > "$scratch/subjects.s" || exit 1

count_reads() {
  awk -v name="<$1>:" '
    $2 == name { inside = 1; next }
    inside && NF == 0 { exit }
    inside && /[(]%rdi[,)]/ && $2 !~ /^(lea|nop|data16)/ { ++reads }
    inside && /,%[er]di([ \t]|$)/ && $2 !~ /^(cmp|test)/ { exit }
    END { print reads + 0 }' "$scratch/subjects.s"
}

status=0
check_reads() {
  reads=$(count_reads "$1")
  if [ "$reads" -eq "$2" ]; then
    echo "ok      $1: $reads reads in the disassembly"
  else
    echo "FAILED  $1: $reads reads in the disassembly, expected $2"
    sed -n "/<$1>:/,/^\$/p" "$scratch/subjects.s"
    status=1
  fi
}
check_reads scalars 4
check_reads scalars_anywhere 4
check_reads atomics 4
check_reads whole_struct 2
check_reads control_volatile 8

build "$scratch/subjects.o" "$here/fetches.cpp" -o "$scratch/fetches" || exit 1
"$scratch/fetches" || status=1
exit $status
