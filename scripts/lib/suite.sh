#!/bin/sh
# SPDX-License-Identifier: MIT
# usage: suite.sh FOLDER JOBS SECONDS [PATTERN]
#
# Runs each test of the GoogleTest programs FOLDER/kvm-hpp-* in a process of its own, up to JOBS at a
# time and those of suites named ...Serial alone, and kills what takes more than SECONDS. PATTERN is
# for --gtest_filter. Also runs each program in FOLDER/programs, which need only succeed, as
# program.NAME. It is for busybox's shell too. A line for each result, separated by tabs:
#   @@ pass NAME SECONDS   @@ fail NAME SECONDS WHY   @@ skip NAME SECONDS REASON
# with the output of what failed after it, and "@@ end COUNT" when all have run.
set -u

# run NAME LIMIT COMMAND...: one test.
run() {
  name=$1 limit=$2 log=$work/log.$$ started=$(date +%s)
  shift 2
  timeout -s KILL "$limit" "$@" >"$log" 2>&1 </dev/null
  status=$? seconds=$(($(date +%s) - started)) kind=fail text=''
  case $status in
    0)
      if grep -q '^\[  SKIPPED \]' "$log"; then
        kind=skip text=$(awk '
          /^\[  SKIPPED \]/ { exit }
          /(^|: )Skipped$/ && in_reason++ { exit }
          /^Google Test trace:$/ { in_reason = 0 }
          in_reason && !/(^|: )Skipped$/ && $0 != "" { reason = reason (reason == "" ? "" : " ") $0 }
          END { print reason }' "$log")
        [ -n "$text" ] || kind=fail text="skipped without a reason"
      elif [ "${name%%.*}" = program ] || grep -q '^\[  PASSED  \] 1 test\.$' "$log"; then
        kind=pass
      else
        text="it ended with success, but did not say that one test passed"
      fi
      ;;
    1) text="failed" ;;
    *) text="ended with status $status after $seconds s" ;;
  esac
  # Whole records, whatever runs beside this.
  until mkdir "$work/lock" 2>/dev/null; do sleep 0.01; done
  printf '@@ %s\t%s\t%s\t%s\n' "$kind" "$name" "$seconds" "$text"
  [ "$kind" != fail ] || tail -c 8000 "$log" | sed 's/^@@/ @@/'
  rmdir "$work/lock"
  rm -f "$log"
}

if [ "${1-}" = --one ]; then # PROGRAM.SUITE.TEST
  work=$2 folder=$3 limit=$4 name=$5
  if [ "${name%%.*}" = program ]; then
    run "$name" "$limit" "$folder/programs/${name#program.}"
  else
    run "$name" "$limit" "$folder/kvm-hpp-${name%%.*}" "--gtest_filter=${name#*.}"
  fi
  exit 0
fi

folder=$1 jobs=$2 limit=$3 pattern=${4:-*}
work=$(mktemp -d)
for program in "$folder"/kvm-hpp-*; do
  "$program" --gtest_list_tests "--gtest_filter=$pattern" >"$work/list" </dev/null || {
    printf '@@ fail\t%s\t0\t%s\n' "${program##*/kvm-hpp-}" "its tests could not be listed"
    continue
  }
  awk -v program="${program##*/kvm-hpp-}" '
    { sub(/ *#.*/, "") }
    /^[^ ].*\.$/ { suite = $1 }
    /^  / { print program "." suite $1 }' "$work/list" >>"$work/tests"
done
for program in "$folder"/programs/*; do
  name=program.${program##*/}
  # shellcheck disable=SC2254 # The pattern is one.
  case $name in
    program.\*) ;;
    $pattern) printf '%s\n' "$name" >>"$work/tests" ;;
  esac
done
grep -v 'Serial\.' "$work/tests" | xargs -r -n 1 -P "$jobs" sh "$0" --one "$work" "$folder" "$limit"
grep 'Serial\.' "$work/tests" | xargs -r -n 1 sh "$0" --one "$work" "$folder" "$limit"
printf '@@ end %s\n' "$(wc -l <"$work/tests")"
rm -rf "$work"
