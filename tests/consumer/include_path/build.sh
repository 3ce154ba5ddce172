#!/bin/sh
# SPDX-License-Identifier: MIT
# build.sh COMPILER INCLUDE_DIR: no package and no build system.
set -eu
cd "$(dirname "$0")"
"$1" -std=c++20 -I "$2" -pthread main.cpp -o consumer
