// SPDX-License-Identifier: MIT
// A file that gets the library in parts, whole, and in parts again.
#include <kvm/error.hpp>
#include <kvm/memory/mapping.hpp>

#include "kvm.hpp"

#include <kvm/kvm.hpp>
#include <kvm/vm.hpp>

static_assert(sizeof(kvm::Vm) != 0);
