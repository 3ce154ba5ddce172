# SPDX-License-Identifier: MIT
# shellcheck shell=bash disable=SC2154
# Sourced after packages.sh and debian.sh: Clang and libc++ of several versions beside each other,
# which Debian's packages of libc++ can't be when they are installed. A compiler that is installed is
# used; all else is fetched once into the cache, from the Debian release that has it.

# Where each version comes from.
declare -A clang_suite=([14]=bookworm [16]=bookworm [19]=bookworm)

# _fetch_once NAME PACKAGE...: unpacks packages into $cache/NAME, once; whole or not at all. What went
# wrong is left in $cache/NAME.log.
_fetch_once() {
  local name=$1 dir=$cache/$1 package packages=() arch
  shift
  mkdir -p "$cache"
  (
    flock 9
    [[ ! -d $dir ]] || exit 0
    rm -rf "$dir.new"
    arch=$(dpkg --print-architecture)
    for package in "$@"; do packages+=("${package/\//:$arch/}"); done
    unpack_packages "$dir.new" "${packages[@]}" && mv "$dir.new" "$dir"
  ) >"$cache/$name.log" 2>&1 9>"$cache/lock-clang"
}

# find_clang VERSION: prints the clang++ of a version; fails if there is none to be had.
find_clang() {
  local n=$1 suite=${clang_suite[$1]} root=$cache/clang-$1
  if command -v "clang++-$n"; then return 0; fi
  _fetch_once "clang-$n" "clang-$n/$suite" "libclang-cpp$n/$suite" "libllvm$n/$suite" \
    "libclang-common-$n-dev/$suite" || return 1
  local bin=$root/usr/lib/llvm-$n/bin
  [[ -x $bin/clang++ ]] || return 1
  # Its libraries are found beside it.
  if [[ ! -x $root/clang++ ]]; then
    printf '#!/bin/sh\nLD_LIBRARY_PATH=%q exec %q "$@"\n' \
      "$root/usr/lib/$(uname -m)-linux-gnu:$root/usr/lib/llvm-$n/lib" "$bin/clang++" >"$root/clang++.new"
    chmod +x "$root/clang++.new"
    mv "$root/clang++.new" "$root/clang++"
  fi
  printf '%s\n' "$root/clang++"
}

# find_libcxx VERSION: prints the folder with include/c++/v1 and lib of the libc++ of a version; fails
# if there is none to be had.
find_libcxx() {
  local n=$1 suite=${clang_suite[$1]} root=$cache/libcxx-$1
  _fetch_once "libcxx-$n" "libc++-$n-dev/$suite" "libc++1-$n/$suite" "libc++abi-$n-dev/$suite" \
    "libc++abi1-$n/$suite" "libunwind-$n-dev/$suite" "libunwind-$n/$suite" || return 1
  [[ -e $root/usr/lib/llvm-$n/include/c++/v1/vector ]] || return 1
  printf '%s\n' "$root/usr/lib/llvm-$n"
}
