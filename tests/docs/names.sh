#!/bin/sh
# SPDX-License-Identifier: MIT
# sh tests/docs/names.sh COMPILER   (from the top of the repository)
#
# The library's names in the documents' text exist: each `kvm::Name`, `Class::member`, `exits::Name`
# and the like outside the blocks of C++, which are compiled as they are, becomes a declaration that
# only compiles if there is such a name. Names of another architecture cannot be looked up and are
# counted; the calls in the table of porting.md are porting.sh's.
set -eu
compiler=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
case $(echo | "$compiler" -dM -E -x c++ -) in
  *__x86_64__*) others='arm64 riscv' ;;
  *__aarch64__*) others='x86 riscv' ;;
  *) others='x86 arm64' ;;
esac

for document in README.md docs/index.md docs/guides/*.md; do
  # A line stays a line, so that its number is right.
  sed '/^```/,/^```$/s/.*//; /^| `KVM_/s/.*//; s/kvm-hpp:://g' "$document" |
    grep -noE '([A-Za-z_][A-Za-z0-9_]*::)+[A-Za-z_][A-Za-z0-9_]*' | sed "s|^|$document:|"
done | grep -v ':std::' | sed 's/:kvm::/:/' >"$work/found"

{
  echo '#include <kvm/kvm.hpp>'
  n=0
  while IFS= read -r line; do
    place=${line%%:*}:$(printf '%s' "${line#*:}" | sed 's/:.*//')
    name=kvm::${line#*:*:}
    n=$((n + 1))
    inner=${name%::*}
    for other in $others; do
      case $name in kvm::"$other"::*) echo "$place: $name" >>"$work/others" && continue 2 ;; esac
    done
    printf '#line %s "%s"\n' "${place##*:}" "${place%:*}"
    case ${inner##*::} in
      [A-Z]*)
        if grep -Eqr "^ *enum class ${inner##*::} " include/kvm; then
          printf 'constexpr auto has%s = %s;\n' "$n" "$name"
        else # A member, also of a base.
          printf 'struct Has%s : %s { using %s::%s; };\n' "$n" "$inner" "$inner" "${name##*::}"
        fi
        ;;
      *)
        if grep -Eqr "^(inline )?namespace ${name##*::} \{" include/kvm; then
          printf 'namespace has%s = %s;\n' "$n" "$name"
        else
          printf 'namespace has%s { using %s; }\n' "$n" "$name"
        fi
        ;;
    esac
  done <"$work/found"
} >"$work/names.cpp"

failures=0
LC_ALL=C "$compiler" -std=c++20 -fsyntax-only -fno-show-column -I include "$work/names.cpp" 2>"$work/errors" || {
  grep 'error:' "$work/errors" || cat "$work/errors"
  failures=$(grep -c 'error:' "$work/errors") || failures=1
}
names=$(wc -l <"$work/found")
skipped=0
[ ! -e "$work/others" ] || skipped=$(wc -l <"$work/others")
printf '%s names, %s of them of other architectures and not looked up, %s failures\n' "$((names))" "$((skipped))" "$failures"
[ "$failures" = 0 ] && [ "$names" -gt 100 ]
