#!/bin/sh
# SPDX-License-Identifier: MIT
# sh tests/docs/porting.sh [AWK]   (from the top of the repository)
#
# docs/guides/porting.md names each request of include/kvm/uapi/requests.hpp once, and each call that
# it names exists in a header, under the class that it says or one that it derives from.
set -eu
awk=${1:-awk}
guide=docs/guides/porting.md
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

grep -oh '"KVM_[A-Z0-9_]*"' include/kvm/uapi/requests.hpp | tr -d '"' | sort -u >"$work/requests"
# A request's own cell: the first of a row, or an item of the list at the end.
sed -n 's/^| `\(KVM_[A-Z0-9_]*\)` |.*/\1/p; s/^`\(KVM_[A-Z0-9_]*\)`[,.]$/\1/p' "$guide" | sort >"$work/named"
sort -u "$work/named" >"$work/named-once"

failures=0
fail() {
  printf '%s\n' "$*"
  failures=$((failures + 1))
}
for request in $(comm -23 "$work/requests" "$work/named-once"); do
  fail "$guide does not name $request"
done
for request in $(comm -13 "$work/requests" "$work/named-once"); do
  fail "$guide names $request, which is no request of the library"
done
for request in $(uniq -d "$work/named"); do
  fail "$guide names $request more than once"
done

# The calls: `Class::call` in the second cell.
"$awk" -F '|' '/^\| `KVM_/ && NF >= 5 { print $3 }' "$guide" | grep -o '`[^`]*`' | tr -d '`' | sort -u >"$work/calls"
calls=0
while read -r call; do
  calls=$((calls + 1))
  case $call in
    System::* | "System()") in="system.hpp detail/*.hpp x86/system.hpp" ;;
    Vm::*) in="vm.hpp detail/*.hpp x86/vm.hpp arm64/vm.hpp riscv/vm.hpp" ;;
    Vcpu::*) in="vcpu.hpp detail/*.hpp x86/vcpu.hpp arm64/vcpu.hpp riscv/vcpu.hpp" ;;
    MemorySlot::*) in=memory/memory_slot.hpp ;;
    Dirty*) in="memory/dirty_*.hpp" ;;
    Coalesced*) in=irq/coalesced.hpp ;;
    Device::*) in=detail/handle.hpp ;;
    *::*) fail "$guide: no header is known for $call" && continue ;;
    *) in=detail/capability_handle.hpp ;;
  esac
  name=${call##*::}
  name=${name%\(\)}
  # shellcheck disable=SC2086 # $in is a list of patterns
  (cd include/kvm && cat $in) | grep -Eq "^ +[^/]*[ *&]$name\(" || fail "$guide: there is no $call"
done <"$work/calls"

requests=$(wc -l <"$work/requests")
printf '%s requests, %s calls, %s failures\n' "$((requests))" "$calls" "$failures"
[ "$failures" = 0 ] && [ "$calls" -gt 50 ] && [ "$((requests))" -gt 100 ]
