#!/bin/sh
# SPDX-License-Identifier: MIT
# build.sh COMPILER PKG_CONFIG VERSION: all that a project without CMake has to do.
set -eu
cd "$(dirname "$0")"
compiler=$1 pkg_config=$2 version=$3

found=$("$pkg_config" --modversion kvm-hpp)
[ "$found" = "$version" ] || { echo "pkg-config finds version $found, not $version"; exit 1; }
if "$pkg_config" --exists 'kvm-hpp >= 9999'; then
  echo "$found passes for version 9999"
  exit 1
fi

# The shell reads the flags again, since pkg-config quotes spaces in paths.
flags=$("$pkg_config" --cflags --libs "kvm-hpp = $version")
eval "set -- $flags"
"$compiler" -std=c++20 main.cpp "$@" -o consumer
