#!/bin/sh
# SPDX-License-Identifier: MIT
# libcxx.sh CLANGXX INCLUDE SHARED OUTPUT
# An error that leaves a shared object with hidden symbols is caught, with libc++.
set -eu
clangxx=$1 include=$2 shared=$3 output=$4
mkdir -p "$output"
cd "$output"
printf '#include <cstddef>\nint main() {}\n' > probe.cpp
if ! "$clangxx" -std=c++20 -stdlib=libc++ probe.cpp -o probe 2> probe.log; then
  echo "libc++ is not installed (Debian, Ubuntu: libc++-dev and libc++abi-dev)"
  exit 77
fi
flags="-std=c++20 -stdlib=libc++ -O1 -Wall -Wextra -Wpedantic -Werror -fvisibility=hidden -fvisibility-inlines-hidden -I$include"
# shellcheck disable=SC2086 # The flags are words.
"$clangxx" $flags -fPIC -shared "$shared/thrower.cpp" -o libthrower.so
# shellcheck disable=SC2086 # The flags are words.
"$clangxx" $flags "$shared/catcher.cpp" -o catcher -L. -lthrower -Wl,-rpath,"$output"
./catcher
