// SPDX-License-Identifier: MIT
#define KVM_HPP_UNIT aborting_no_rtti
#include "unit.inc"
