#!/bin/sh
# SPDX-License-Identifier: MIT
# Asserts that a case compiles as it is, and that with -DMUST_FAIL it does not
# and the compiler says the sentence that the case expects.
#
#   run.sh COMPILER INCLUDE_DIR FLAGS FILE [PRECOMPILED_DIR]
#
# PRECOMPILED_DIR may have the library precompiled, which saves most of the time.
# A case names what it expects, as extended regular expressions of grep:
#   // expect: REGEX             any compiler
#   // expect(g++): REGEX        GCC only
#   // expect(clang++): REGEX    Clang only
# All that apply must match. `// only: x86` (or arm64, riscv) skips the case, with
# exit status 77, where the compiler is for another architecture. `// flags: ...` adds flags, and
# `// errors: N` allows more than one error.
set -u
if [ $# -ne 4 ] && [ $# -ne 5 ]; then
  echo "usage: $0 COMPILER INCLUDE_DIR FLAGS FILE [PRECOMPILED_DIR]" >&2
  exit 2
fi
compiler=$1 include=$2 flags=$3 file=$4 precompiled=${5-}

extra=$(sed -n 's|^// flags: ||p' "$file")
case $extra in
  *-f* | *-std* | *-D*) ;; # It would have to be precompiled with the same.
  *)
    if [ -n "$precompiled" ] && [ -e "$precompiled/kvm.hpp.gch" ]; then
      extra="-include $precompiled/kvm.hpp $extra" # g++ takes the .gch beside it
    elif [ -n "$precompiled" ] && [ -e "$precompiled/kvm.hpp.pch" ]; then
      extra="-include-pch $precompiled/kvm.hpp.pch $extra"
    fi
    ;;
esac

compile() {
  # FLAGS is a list of words.
  # shellcheck disable=SC2086
  LC_ALL=C "$compiler" -std=c++20 -fsyntax-only $extra -I"$include" $flags "$@" "$file" 2>&1
}

macros=$(echo | "$compiler" -dM -E -x c++ -) || exit 2
case $macros in
  *__clang__*) kind=clang++ ;;
  *) kind=g++ ;;
esac
case $macros in
  *__x86_64__*) arch=x86 ;;
  *__aarch64__*) arch=arm64 ;;
  *__riscv*) arch=riscv ;;
esac

only=$(sed -n 's|^// only: ||p' "$file")
if [ -n "$only" ] && [ "$only" != "$arch" ]; then
  echo "skipped: for $only, and $compiler is for $arch"
  exit 77
fi

expected=$(sed -n -e 's|^// expect: ||p' -e "s|^// expect($kind): ||p" "$file")
if [ -z "$expected" ]; then
  echo "$file says nothing of what $kind prints"
  exit 1
fi

if ! output=$(compile); then
  echo "the control does not compile:"
  echo "$output"
  exit 1
fi

if output=$(compile -DMUST_FAIL); then
  echo "it compiles, and must not"
  exit 1
fi

status=0
while IFS= read -r regex; do
  if ! echo "$output" | grep -Eq -- "$regex"; then
    echo "the compiler does not say: $regex"
    status=1
  fi
done <<LIST
$expected
LIST
errors=$(echo "$output" | grep -c 'error: ')
most=$(sed -n 's|^// errors: ||p' "$file")
if [ "$errors" -gt "${most:-1}" ]; then
  echo "$errors errors, and at most ${most:-1} should be"
  status=1
fi
if [ $status -ne 0 ]; then
  echo "it says:"
  echo "$output"
fi
exit $status
