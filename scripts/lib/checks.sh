# SPDX-License-Identifier: MIT
# shellcheck shell=bash disable=SC2034,SC2154
# Sourced after packages.sh: many commands, a line for each in the order in which they were added, a
# table, and a count at the end. The caller sets checks_name, what each line begins with, checks_dir,
# an empty folder for what the commands print, checks_only, texts with commas between them of which
# wanted labels contain one, and before each line checks_group, the row of the table where it counts.
#
#   wanted LABEL                whether a line with this label is to be run
#   add_check LABEL COMMAND...  a command or function, if it is wanted; what it writes to descriptor 3
#                               is a note
#   no_check LABEL REASON       what can't be had, once for each label: a line of its own, and no pass
#   run_checks                  runs them, up to $jobs at a time, and returns their verdict; leaves
#                               group, result, processor seconds and label of each in checks.tsv

checks_name=
checks_dir=
checks_only=
checks_group=
checks_labels=()
checks_groups=()
checks_commands=()

wanted() {
  local text texts
  [[ -n $checks_only ]] || return 0
  IFS=, read -ra texts <<<"$checks_only"
  for text in "${texts[@]}"; do
    [[ "$1" != *"$text"* ]] || return 0
  done
  return 1
}

_add() {
  checks_labels+=("$1")
  checks_groups+=("$checks_group")
  checks_commands+=("$2")
}

add_check() {
  wanted "$1" || return 0
  _add "$1" "$(printf '%q ' "${@:2}")"
}

no_check() {
  local label
  for label in ${checks_labels[@]+"${checks_labels[@]}"}; do
    [[ $label != "$1" ]] || return 0
  done
  _add "$1" "not_available $(printf '%q' "$2")"
}

# not_available REASON: a command that finds out that it can't do its work calls this and returns.
not_available() {
  printf '%s\n' "$1" >&3
  return 77
}

_run_check() {
  local base=$checks_dir/$1 TIMEFORMAT='%U %S'
  # Left of || and in conditions, bash does not stop a function at its first failing command.
  set +e
  # Not "time ( ) >log": that writes the times to the log.
  { time { (set -e && eval "${checks_commands[$1]}") >"$base.log" 2>&1 3>"$base.note" </dev/null; }; } 2>"$base.time"
  printf '%s\n' "$?" >"$base.status.new"
  mv "$base.status.new" "$base.status"
}

_report_finished() {
  local i label note result
  while ((checks_reported < ${#checks_labels[@]})) && [[ -e $checks_dir/$checks_reported.status ]]; do
    i=$checks_reported
    label=${checks_labels[$i]}
    note=$(<"$checks_dir/$i.note")
    case $(<"$checks_dir/$i.status") in
      0)
        printf '%s %s: ok%s\n' "$checks_name" "$label" "${note:+ ($note)}"
        result=passed
        ;;
      77)
        printf '%s %s: not available, %s\n' "$checks_name" "$label" "$note"
        result=missing
        ;;
      *)
        printf '%s %s: FAILED%s, %s\n' "$checks_name" "$label" "${note:+ ($note)}" "${checks_dir#"$repo/"}/$i.log"
        awk 'NF && n++ < 25 { print "    " $0 }' "$checks_dir/$i.log"
        result=failed
        ;;
    esac
    printf '%s\t%s\t%s\t%s\n' "${checks_groups[$i]}" "$result" \
      "$(awk '{ print $1 + $2 }' "$checks_dir/$i.time")" "$label" >>"$checks_dir/checks.tsv"
    checks_reported=$((checks_reported + 1))
  done
}

# The table, the count, and the verdict.
_sum_up() {
  awk -F '\t' '
    { count[$1, $2]++; total[$2]++; seconds[$1] += $3; if (!seen[$1]++) order[++n] = $1 }
    END {
      printf "\n%-24s %7s %7s %14s %18s\n", "", "passed", "failed", "not available", "processor seconds"
      for (i = 1; i <= n; i++) {
        g = order[i]
        printf "%-24s %7d %7d %14d %18d\n", g, count[g, "passed"], count[g, "failed"], count[g, "missing"], seconds[g]
      }
      printf "\n%d passed, %d failed, %d not available\n", total["passed"], total["failed"], total["missing"]
      exit !(total["failed"] == 0 && total["passed"] > 0)
    }' "$checks_dir/checks.tsv"
}

run_checks() {
  local i running=0
  checks_reported=0
  : >"$checks_dir/checks.tsv"
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
  ((checks_reported == ${#checks_labels[@]})) || die "ended without a result: ${checks_labels[$checks_reported]}"
  _sum_up
}
