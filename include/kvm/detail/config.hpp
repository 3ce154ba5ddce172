// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_DETAIL_CONFIG_HPP
#define KVM_HPP_DETAIL_CONFIG_HPP

/// @file
/// Version, supported targets and the inline namespace. Nothing else in the
/// library may look at a macro that can differ between translation units.

/// The version of the library: major, minor and patch.
#define KVM_HPP_VERSION_MAJOR 0
/// See KVM_HPP_VERSION_MAJOR.
#define KVM_HPP_VERSION_MINOR 1
/// See KVM_HPP_VERSION_MAJOR.
#define KVM_HPP_VERSION_PATCH 0

// What cannot work is refused with one sentence. Every public header leaves out
// all else where KVM_HPP_REFUSED is 1, so that no other error hides it.
/// 1 where the library cannot work, which the compiler was told with \#error; else 0.
#define KVM_HPP_REFUSED 1
/// 1 if compiled for x86_64, else 0.
#define KVM_HPP_ARCH_X86 0
/// 1 if compiled for arm64, else 0.
#define KVM_HPP_ARCH_ARM64 0
/// 1 if compiled for riscv64, else 0.
#define KVM_HPP_ARCH_RISCV 0
#if !defined(__linux__)
#error "kvm-hpp talks to Linux KVM: it only compiles for Linux"
#elif !defined(__LP64__)
#error "kvm-hpp supports 64-bit targets only, and this one is not"
#elif __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "kvm-hpp supports little-endian targets only, and this one is not"
#elif !defined(__x86_64__) && !defined(__aarch64__) && !defined(__riscv)
#error "kvm-hpp supports x86_64, arm64 and riscv64, and this target is none of them"
#elif defined(__clang__) && __clang_major__ < 14
#error "kvm-hpp needs Clang 14 or newer, or GCC 12 or newer: this Clang is older"
#elif !defined(__clang__) && defined(__GNUC__) && __GNUC__ < 12
#error "kvm-hpp needs GCC 12 or newer, or Clang 14 or newer: this GCC is older"
#elif __cplusplus < 202002L
#error "kvm-hpp needs C++20: compile with -std=c++20 or newer"
#else
#undef KVM_HPP_REFUSED
#define KVM_HPP_REFUSED 0
#if defined(__x86_64__)
#undef KVM_HPP_ARCH_X86
#define KVM_HPP_ARCH_X86 1
#elif defined(__aarch64__)
#undef KVM_HPP_ARCH_ARM64
#define KVM_HPP_ARCH_ARM64 1
#else
#undef KVM_HPP_ARCH_RISCV
#define KVM_HPP_ARCH_RISCV 1
#endif
#endif

// The exceptions mode is part of every name's mangling, so that translation
// units of both modes link into one program without sharing inline bodies.
#if defined(__cpp_exceptions)
/// 1 if compiled with exceptions, else 0.
#define KVM_HPP_EXCEPTIONS 1
/// The inline namespace: v0_throwing or v0_aborting.
#define KVM_HPP_ABI v0_throwing
#else
#define KVM_HPP_EXCEPTIONS 0
#define KVM_HPP_ABI v0_aborting
#endif

/// Opens namespace kvm: for the headers only.
#define KVM_HPP_BEGIN \
  namespace kvm {     \
  inline namespace KVM_HPP_ABI {
/// Closes it.
#define KVM_HPP_END \
  }                 \
  }

#if !KVM_HPP_REFUSED

KVM_HPP_BEGIN

/// The architectures that the library knows.
enum class Arch : unsigned {
  x86 = 1,    ///< x86_64: Intel and AMD
  arm64 = 2,  ///< 64-bit ARM
  riscv = 4   ///< 64-bit RISC-V
};

/// The architecture that this translation unit is compiled for.
inline constexpr Arch host_arch = KVM_HPP_ARCH_X86     ? Arch::x86
                                  : KVM_HPP_ARCH_ARM64 ? Arch::arm64
                                                       : Arch::riscv;

KVM_HPP_END

#endif
#endif
