#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# usage: bench/tinyvmm_start.sh TINYVMM [FOLDER]
#
# How long tinyvmm takes from its start to the guest's first instruction, and in which parts: medians
# of 21 starts with 2 vCPUs, 256 MiB and a multiboot kernel of 16 MiB that ends at once. Prints a
# line for each part, in milliseconds. Works in FOLDER, or in a temporary folder. x86 only.
set -euo pipefail

tinyvmm=$1
starts=21
if (($# > 1)); then
  work=$2
  mkdir -p "$work"
else
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
fi
if [[ $(uname -m) != x86_64 ]]; then
  echo "tinyvmm_start.sh: skipped: multiboot kernels are x86's"
  exit 0
fi

# u32 NUMBER...: little-endian.
u32() {
  local number
  for number; do
    # shellcheck disable=SC2059 # The format is the number.
    printf "$(printf '\\x%02x\\x%02x\\x%02x\\x%02x' $((number & 255)) $((number >> 8 & 255)) \
      $((number >> 16 & 255)) $((number >> 24 & 255)))"
  done
}

# The file lies at 1 MiB as it is, its entry behind the header's eight words.
magic=$((0x1badb002)) flags=$((1 << 16)) base=$((1 << 20)) size=$((16 << 20))
kernel=$work/kernel
{
  u32 "$magic" "$flags" $((-(magic + flags) & 0xffffffff)) "$base" "$base" $((base + size)) \
    $((base + size)) $((base + 32))
  printf '\x31\xc0\xe6\xf4\xf4' # xor eax, eax; out 0xf4, al; hlt
} >"$kernel"
truncate --size="$size" "$kernel"

: >"$work/laps"
for ((i = 0; i < starts; i++)); do
  status=0
  "$tinyvmm" --kernel "$kernel" --memory 256M --cpus 2 --timing </dev/null 2>"$work/said" || status=$?
  if ((status != 1)); then # what the guest wrote, times 2, plus 1
    cat "$work/said" >&2
    echo "tinyvmm_start.sh: the guest ended with status $status" >&2
    exit 1
  fi
  grep ' ms  ' "$work/said" >>"$work/laps"
done
awk -v starts="$starts" '
  {
    time = $1
    sub(/^ *[0-9.]+ ms +/, "")
    if (!($0 in count)) order[++parts] = $0
    value[$0, ++count[$0]] = time
  }
  END {
    for (p = 1; p <= parts; p++) {
      part = order[p]
      n = count[part]
      if (n != starts) { print "a start did not say: " part; exit 1 }
      for (i = 2; i <= n; i++)
        for (j = i; j > 1 && value[part, j] + 0 < value[part, j - 1] + 0; j--) {
          t = value[part, j]; value[part, j] = value[part, j - 1]; value[part, j - 1] = t
        }
      printf "start %9.3f ms  %s\n", value[part, int((n + 1) / 2)], part
    }
  }' "$work/laps"
