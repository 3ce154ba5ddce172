// SPDX-License-Identifier: MIT
#define KVM_HPP_UNIT throwing_no_rtti
#include "unit.inc"
