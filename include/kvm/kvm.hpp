// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_KVM_HPP
#define KVM_HPP_KVM_HPP

/// @file
/// All of kvm-hpp. Each header also stands alone.

#include <kvm/detail/kernel_header.hpp>
#if !KVM_HPP_REFUSED  // Otherwise an #error has said why, and is all there is to say.

#include <kvm/capability.hpp>
#include <kvm/device.hpp>
#include <kvm/error.hpp>
#include <kvm/exit.hpp>
#include <kvm/exits.hpp>
#include <kvm/fd.hpp>
#include <kvm/irq/coalesced.hpp>
#include <kvm/irq/event_fd.hpp>
#include <kvm/irq/ioeventfd.hpp>
#include <kvm/irq/irqfd.hpp>
#include <kvm/irq/routing.hpp>
#include <kvm/kicker.hpp>
#include <kvm/memory/dirty_bitmap.hpp>
#include <kvm/memory/dirty_log.hpp>
#include <kvm/memory/dirty_ring.hpp>
#include <kvm/memory/dirty_tracker.hpp>
#include <kvm/memory/gfn_to_hva_cache.hpp>
#include <kvm/memory/guest_memory.hpp>
#include <kvm/memory/mapping.hpp>
#include <kvm/memory/memory_slot.hpp>
#include <kvm/module_parameters.hpp>
#include <kvm/system.hpp>
#include <kvm/types.hpp>
#include <kvm/uapi.hpp>
#include <kvm/vcpu.hpp>
#include <kvm/vm.hpp>
#if KVM_HPP_ARCH_ARM64
#include <kvm/arm64/gic.hpp>
#endif

#endif
#endif
