// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_DETAIL_CONFIG_HPP
#define KVM_HPP_DETAIL_CONFIG_HPP

/// @file
/// Version, supported targets and the inline namespace. Nothing else in the
/// library may look at a macro that can differ between translation units.

#define KVM_HPP_VERSION_MAJOR 0
#define KVM_HPP_VERSION_MINOR 1
#define KVM_HPP_VERSION_PATCH 0

#if !defined(__linux__)
#error "kvm-hpp talks to Linux KVM: it only compiles for Linux"
#endif
#if !defined(__LP64__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "kvm-hpp supports 64-bit little-endian targets only"
#endif
#if __cplusplus < 202002L
#error "kvm-hpp needs C++20: compile with -std=c++20 or newer"
#endif

#if defined(__x86_64__)
#define KVM_HPP_ARCH_X86 1
#define KVM_HPP_ARCH_ARM64 0
#define KVM_HPP_ARCH_RISCV 0
#elif defined(__aarch64__)
#define KVM_HPP_ARCH_X86 0
#define KVM_HPP_ARCH_ARM64 1
#define KVM_HPP_ARCH_RISCV 0
#elif defined(__riscv)
#define KVM_HPP_ARCH_X86 0
#define KVM_HPP_ARCH_ARM64 0
#define KVM_HPP_ARCH_RISCV 1
#else
#error "kvm-hpp supports x86_64, arm64 and riscv64"
#endif

// The exceptions mode is part of every name's mangling, so that translation
// units of both modes link into one program without sharing inline bodies.
#if defined(__cpp_exceptions)
#define KVM_HPP_EXCEPTIONS 1
#define KVM_HPP_ABI v0_throwing
#else
#define KVM_HPP_EXCEPTIONS 0
#define KVM_HPP_ABI v0_aborting
#endif

#define KVM_HPP_BEGIN \
  namespace kvm {     \
  inline namespace KVM_HPP_ABI {
#define KVM_HPP_END \
  }                 \
  }

KVM_HPP_BEGIN

/// The architectures that the library knows.
enum class Arch : unsigned { x86 = 1, arm64 = 2, riscv = 4 };

/// The architecture that this translation unit is compiled for.
inline constexpr Arch host_arch = KVM_HPP_ARCH_X86     ? Arch::x86
                                  : KVM_HPP_ARCH_ARM64 ? Arch::arm64
                                                       : Arch::riscv;

KVM_HPP_END

#endif
