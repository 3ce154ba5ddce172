# SPDX-License-Identifier: MIT
# shellcheck shell=bash disable=SC2034,SC2154
# Sourced after packages.sh: many commands, a line for each in the order in which they were added, and
# a count at the end. The caller sets checks_name, what each line begins with, checks_dir, an empty
# folder for what the commands print, and checks_only, a text that wanted labels contain.
#
#   add_check LABEL COMMAND...      a command or function; what it writes to descriptor 3 is a note
#   no_check LABEL REASON           what can't be had: a line of its own, and no pass
#   run_checks                      runs them, up to $jobs at a time, and returns their verdict

checks_name=
checks_dir=
checks_only=
checks_labels=()
checks_commands=()

_wanted() { [[ -z $checks_only || "$1" == *"$checks_only"* ]]; }

add_check() {
  _wanted "$1" || return 0
  checks_labels+=("$1")
  shift
  checks_commands+=("$(printf '%q ' "$@")")
}

no_check() {
  _wanted "$1" || return 0
  checks_labels+=("$1")
  checks_commands+=("not_available $(printf '%q' "$2")")
}

# not_available REASON: a command that finds out that it can't do its work calls this and returns.
not_available() {
  printf '%s\n' "$1" >&3
  return 77
}

_run_check() {
  # Left of || and in conditions, bash does not stop a function at its first failing command.
  set +e
  (set -e && eval "${checks_commands[$1]}") >"$checks_dir/$1.log" 2>&1 3>"$checks_dir/$1.note" </dev/null
  printf '%s\n' "$?" >"$checks_dir/$1.status.new"
  mv "$checks_dir/$1.status.new" "$checks_dir/$1.status"
}

_report_finished() {
  local i label note
  while ((checks_reported < ${#checks_labels[@]})) && [[ -e $checks_dir/$checks_reported.status ]]; do
    i=$checks_reported
    label=${checks_labels[$i]}
    note=$(<"$checks_dir/$i.note")
    case $(<"$checks_dir/$i.status") in
      0)
        printf '%s %s: ok%s\n' "$checks_name" "$label" "${note:+ ($note)}"
        checks_passed=$((checks_passed + 1))
        ;;
      77)
        printf '%s %s: not available, %s\n' "$checks_name" "$label" "$note"
        checks_missing=$((checks_missing + 1))
        ;;
      *)
        printf '%s %s: FAILED%s, %s\n' "$checks_name" "$label" "${note:+ ($note)}" "${checks_dir#"$repo/"}/$i.log"
        awk 'NF && n++ < 25 { print "    " $0 }' "$checks_dir/$i.log"
        checks_failed=$((checks_failed + 1))
        ;;
    esac
    checks_reported=$((checks_reported + 1))
  done
}

run_checks() {
  local i running=0
  checks_reported=0 checks_passed=0 checks_failed=0 checks_missing=0
  for i in "${!checks_labels[@]}"; do
    if ((running >= jobs)); then
      wait -n
      running=$((running - 1))
      _report_finished
    fi
    _run_check "$i" &
    running=$((running + 1))
  done
  wait
  _report_finished
  printf '\n%s passed, %s failed, %s not available\n' "$checks_passed" "$checks_failed" "$checks_missing"
  ((checks_failed == 0 && checks_passed > 0))
}
