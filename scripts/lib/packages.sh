# SPDX-License-Identifier: MIT
# shellcheck shell=bash disable=SC2034
# Sourced by the scripts: finds out what is missing and installs it where that is allowed.
# Everything is looked for by what it gives (a command, a header), so that what was installed by
# other means counts, and so that this works where there is no dpkg.

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
install_allowed=${KVM_HPP_INSTALL_PACKAGES:-yes}

say() { printf '%s\n' "$*"; }
die() {
  printf '%s: %s\n' "$(basename "$0")" "$*" >&2
  exit 1
}

_any_command() {
  local name
  for name in "$@"; do command -v "$name" >/dev/null 2>&1 && return 0; done
  return 1
}

_header() {
  local compiler dir
  for compiler in c++ g++ clang++; do
    if command -v "$compiler" >/dev/null 2>&1; then
      "$compiler" -x c++ -std=c++20 -E -include "$1" /dev/null >/dev/null 2>&1
      return
    fi
  done
  for dir in /usr/local/include /usr/include; do [[ -e $dir/$1 ]] && return 0; done
  return 1
}

# _have PACKAGE: whether what the Debian package PACKAGE is wanted for is there.
_have() {
  case $1 in
    ninja-build) _any_command ninja ninja-build ;;
    clang) _any_command clang++ ;;
    pkg-config) _any_command pkg-config pkgconf ;;
    g++ | g++-[0-9]* | clang++-[0-9]* | cmake | make | git | valgrind | clang-tidy | clang-format | cpio) _any_command "$1" ;;
    qemu-system-x86) _any_command qemu-system-x86_64 ;;
    qemu-system-arm) _any_command qemu-system-aarch64 ;;
    xz-utils) _any_command xz ;;
    # The packages of the cross compilers are named the other way round than their commands.
    g++-*-linux-gnu) local target=${1#g++-} && _any_command "${target/x86-64/x86_64}-g++" ;;
    libgtest-dev) _header gtest/gtest.h ;;
    libbenchmark-dev) _header benchmark/benchmark.h ;;
    libcli11-dev) _header CLI/CLI.hpp ;;
    nlohmann-json3-dev) _header nlohmann/json.hpp ;;
    linux-libc-dev) _header linux/kvm.h ;;
    *)
      if command -v dpkg-query >/dev/null 2>&1; then
        [[ $(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null) == installed ]]
      else
        _any_command "$1"
      fi
      ;;
  esac
}

# need_packages PACKAGE...: Debian package names. Installs those that are missing when run as root
# or with a sudo that asks no password; else says which are missing and how to install them, and
# exits 1.
need_packages() {
  local package missing=() as_root=()
  for package in "$@"; do _have "$package" || missing+=("$package"); done
  ((${#missing[@]})) || return 0

  if ! command -v apt-get >/dev/null 2>&1; then
    say "missing: ${missing[*]}" >&2
    say "(Debian's names: install what your system calls them, then run $(basename "$0") again)" >&2
    exit 1
  fi
  if [[ $(id -u) != 0 ]]; then
    as_root=(sudo -n)
    if ! { command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; }; then install_allowed=no; fi
  fi
  if [[ $install_allowed != yes ]]; then
    say "missing packages: ${missing[*]}" >&2
    say "install them with: sudo apt-get install ${missing[*]}" >&2
    exit 1
  fi

  say "installing: ${missing[*]}"
  local install=(${as_root[@]+"${as_root[@]}"} env DEBIAN_FRONTEND=noninteractive
    apt-get install -y --no-install-recommends -o DPkg::Lock::Timeout=120 "${missing[@]}")
  local log
  log=$(mktemp)
  # A fresh machine has no package lists yet, and old lists name files that are gone.
  if ! "${install[@]}" </dev/null >"$log" 2>&1; then
    if ! { ${as_root[@]+"${as_root[@]}"} apt-get update && "${install[@]}"; } </dev/null >"$log" 2>&1; then
      tail -n 20 "$log" >&2
      rm -f "$log"
      die "could not install: ${missing[*]}"
    fi
  fi
  rm -f "$log"
  hash -r
  for package in "${missing[@]}"; do
    _have "$package" || die "$package is installed, but what it is needed for is still not found"
  done
}

# need_gxx: sets gxx to a g++ of version 12 or newer, which some systems have beside an older g++.
need_gxx() {
  need_packages g++
  local candidate version
  for candidate in g++ g++-15 g++-14 g++-13 g++-12; do
    command -v "$candidate" >/dev/null 2>&1 || continue
    version=$("$candidate" -dumpversion)
    if ((${version%%.*} >= 12)); then
      gxx=$candidate
      return 0
    fi
  done
  need_packages g++-12
  gxx=g++-12
}

# choose_generator: sets generator to Ninja where it is installed.
choose_generator() {
  if _any_command ninja ninja-build; then generator=Ninja; else generator="Unix Makefiles"; fi
}

jobs=$(nproc)

# configure BUILD_DIR CMAKE_ARGUMENT...: configures the repository in BUILD_DIR.
configure() {
  local dir=$1
  shift
  # A folder that another generator was used in cannot be configured again.
  if [[ -e $dir/CMakeCache.txt ]] && ! grep -qx "CMAKE_GENERATOR:INTERNAL=$generator" "$dir/CMakeCache.txt"; then
    rm -rf "$dir/CMakeCache.txt" "$dir/CMakeFiles"
  fi
  cmake -S "$repo" -B "$dir" -G "$generator" "$@"
}

# explain_help FILE: the comment at the head of a script is its help text.
explain_help() { sed -n '/^# SPDX/d; /^#!/d; /^#/!q; s/^# \{0,1\}//p' "$1"; }
