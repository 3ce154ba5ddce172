#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# usage: expect.sh holds|broken PROGRAM [ARGUMENT...]
# Runs a litmus program, which ends with 0 if its rule held and with 1 if it was broken, and says
# whether that was to be. A crash counts as broken: without its rule, the library may well do that.
# 77, for what this host cannot do, is passed on.
set -u
expected=$1
shift
"$@"
status=$?
((status != 77)) || exit 77
if [[ $expected == holds ]]; then
  ((status == 0)) || { echo "the rule was broken: status $status"; exit 1; }
else
  ((status == 1 || status == 139 || status == 138 || status == 134)) ||
    { echo "the rule held without its step: status $status"; exit 1; }
fi
