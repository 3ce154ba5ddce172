// SPDX-License-Identifier: MIT
#define KVM_HPP_UNIT throwing
#include "unit.inc"
