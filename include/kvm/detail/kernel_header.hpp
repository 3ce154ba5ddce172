// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_DETAIL_KERNEL_HEADER_HPP
#define KVM_HPP_DETAIL_KERNEL_HEADER_HPP

#include <kvm/detail/config.hpp>

/// @file
/// The kernel's <linux/kvm.h>, refused where it lacks what Linux 5.10 has. That
/// is found by its content, never by its version, since distributions add to
/// old headers: each macro asked for came with structs, or members, that the
/// library takes from the header.

#if !KVM_HPP_REFUSED

#undef KVM_HPP_REFUSED
#define KVM_HPP_REFUSED 1
#if !__has_include(<linux/kvm.h>)
#error "kvm-hpp needs the kernel's header <linux/kvm.h> (Debian, Ubuntu: linux-libc-dev)"
#elif !__has_include(<asm/kvm.h>)
#error "kvm-hpp needs <asm/kvm.h>: these kernel headers have no KVM for this architecture"
#else
#include <linux/kvm.h>
#if !defined(KVM_CLEAR_DIRTY_LOG) || !defined(KVM_EXIT_HYPERV_SYNDBG) || \
    (KVM_HPP_ARCH_X86 && !defined(KVM_STATE_NESTED_SVM_VMCB_SIZE)) ||    \
    (KVM_HPP_ARCH_X86 && !defined(KVM_MSR_FILTER_DEFAULT_ALLOW)) ||      \
    (KVM_HPP_ARCH_ARM64 && !defined(KVM_PMU_EVENT_ALLOW)) ||             \
    (KVM_HPP_ARCH_RISCV && !defined(KVM_REG_RISCV_CORE))
#error "kvm-hpp needs a <linux/kvm.h> that has what Linux 5.10's has: this one lacks some of it"
#else
#undef KVM_HPP_REFUSED
#define KVM_HPP_REFUSED 0
#endif
#endif

#endif
#endif
