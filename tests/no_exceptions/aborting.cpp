// SPDX-License-Identifier: MIT
#define KVM_HPP_UNIT aborting
#include "unit.inc"
