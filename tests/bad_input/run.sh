#!/bin/sh
# SPDX-License-Identifier: MIT
# Asserts what a user sees who compiles for what the library does not support: our sentence, and no
# other error, from the library's headers and from the amalgamated one.
#
#   run.sh CASE COMPILER LIBRARY_DIR WORK_DIR
#
# The cases are below. Exit status 77 skips: the compiler cannot play it.
set -eu
if [ $# -ne 4 ]; then
  echo "usage: $0 CASE COMPILER LIBRARY_DIR WORK_DIR" >&2
  exit 2
fi
case=$1 compiler=$2 library=$3 work=$4
include=$library/include
rm -rf "$work"
mkdir -p "$work"
"$library/scripts/amalgamate" --output "$work/one/kvm.hpp" >/dev/null

case $("$compiler" -dM -E -x c++ /dev/null) in
  *__clang__*) kind=clang++ ;;
  *) kind=g++ ;;
esac

skip() {
  echo "skipped: $1"
  exit 77
}

# kernel_header NAME [MACRO]: a copy of the kernel's header that the compiler sees, in $work/NAME, as
# if of Linux 4.18 and without MACRO: it has another name there.
kernel_header() {
  mkdir -p "$work/$1/linux" "$work/$1/asm"
  for header in linux/kvm.h asm/kvm.h; do
    from=$(echo "#include <$header>" | "$compiler" -E -x c++ - |
      sed -n 's|^# [0-9]* "\(.*/'"$header"'\)".*|\1|p' | sed 1q)
    sed "s/\\<${2:-no macro}\\>/NO_&/g" "$from" >"$work/$1/$header"
    [ -s "$work/$1/$header" ]
  done
  printf '%s\n' '#define LINUX_VERSION_CODE 266752' '#define KERNEL_VERSION(a, b, c) 0' \
    >"$work/$1/linux/version.h"
}

# made_up NAME: headers of another architecture's kernel that have nothing but macros.
made_up() {
  mkdir -p "$work/$1/linux" "$work/$1/asm"
  printf '#include <asm/kvm.h>\n#define KVM_CLEAR_DIRTY_LOG\n#define KVM_EXIT_HYPERV_SYNDBG\n' \
    >"$work/$1/linux/kvm.h"
  : >"$work/$1/asm/kvm.h"
}

older='this one lacks some of it'
standard=-std=c++20
headers='kvm/kvm.hpp kvm/error.hpp kvm/vcpu.hpp'
flags='' control=''
case $case in
  # The macros say what another compiler or target says of itself.
  standard_17) standard=-std=c++17 headers=all expected='needs C\+\+20' ;;
  standard_14) standard=-std=c++14 expected='needs C\+\+20' ;;
  standard_11) standard=-std=c++11 expected='needs C\+\+20' ;;
  old_gcc)
    [ $kind = g++ ] || skip "$compiler is not GCC"
    flags='-U__GNUC__ -D__GNUC__=11' expected='this GCC is older'
    ;;
  old_clang)
    [ $kind = clang++ ] || skip "$compiler is not Clang"
    flags='-U__clang_major__ -D__clang_major__=13' expected='this Clang is older'
    ;;
  as_it_is) expected='this (GCC|Clang) is older' ;;
  other_system) flags=-U__linux__ expected='only compiles for Linux' ;;
  bits_32) flags=-m32 headers=all expected='64-bit targets only' ;;
  bits_x32) flags=-U__LP64__ expected='64-bit targets only' ;;
  big_endian)
    flags='-U__BYTE_ORDER__ -D__BYTE_ORDER__=__ORDER_BIG_ENDIAN__' expected='little-endian targets only'
    ;;
  other_arch)
    [ $kind = clang++ ] || skip "only Clang compiles for other architectures"
    flags='--target=powerpc64le-linux-gnu' expected='this target is none of them'
    ;;
  big_endian_arm64)
    [ $kind = clang++ ] || skip "only Clang compiles for other architectures"
    flags='--target=aarch64_be-linux-gnu' expected='little-endian targets only'
    ;;
  # The kernel's header, by its content. Headers of the library that need none of it still compile.
  kernel_*) headers='kvm/kvm.hpp kvm/vcpu.hpp kvm/uapi.hpp kvm/x86/cpuid.hpp' ;;
  *) echo "no such case: $case" >&2 && exit 2 ;;
esac
case $case in
  kernel_none)
    flags='-nostdinc' expected='needs the kernel.s header <linux/kvm.h>'
    ;;
  kernel_without_architecture)
    mkdir -p "$work/none/linux"
    : >"$work/none/linux/kvm.h"
    flags="-nostdinc -isystem $work/none" expected='have no KVM for this architecture'
    ;;
  kernel_arm64 | kernel_riscv64)
    [ $kind = clang++ ] || skip "only Clang compiles for other architectures"
    case $case in
      *_arm64) target=aarch64-linux-gnu macro=KVM_PMU_EVENT_ALLOW header=kvm/arm64/gic.hpp ;;
      *) target=riscv64-linux-gnu macro=KVM_REG_RISCV_CORE header=kvm/riscv/vcpu.hpp ;;
    esac
    headers="kvm/kvm.hpp kvm/vcpu.hpp $header"
    made_up old
    made_up new
    echo "#define $macro" >"$work/new/asm/kvm.h"
    flags="--target=$target -nostdinc -isystem $work/old" expected=$older
    # With it the headers are let past, as far as the first standard header.
    control="--target=$target -nostdinc -isystem $work/new"
    ;;
  kernel_KVM_*)
    case $("$compiler" -dM -E -x c++ /dev/null) in
      *__x86_64__*) ;;
      *) skip "the macro is of x86, and $compiler is not for it" ;;
    esac
    kernel_header old "${case#kernel_}"
    kernel_header new
    flags="-isystem $work/old" expected=$older
    # The same text, of an old version but with nothing left out: distributions add to old headers.
    control="-isystem $work/new"
    ;;
esac

status=0
checked=0

# compile FLAGS LINE...: what the compiler says of a file with these lines.
compile() {
  compile_flags=$1
  shift
  printf '%s\n' "$@" >"$work/unit.cpp"
  # shellcheck disable=SC2086  # A list of words.
  LC_ALL=C "$compiler" $standard -fsyntax-only $compile_flags -I"$include" "$work/unit.cpp" 2>&1
}

# refused WHAT LINE...: that these lines give the sentence, and that alone.
refused() {
  what=$1
  shift
  checked=$((checked + 1))
  if output=$(compile "$flags" "$@"); then
    echo "$what: it compiles, and must not"
    status=1
    return
  fi
  errors=$(echo "$output" | grep -c 'error: ' || true)
  if [ "$errors" -ne 1 ] || ! echo "$output" | grep -Eq "error: .*$expected"; then
    echo "$what: $errors errors, where '$expected' should be the only one:"
    echo "$output" | sed 20q
    status=1
  fi
}

if [ "$headers" = all ]; then
  headers=$(cd "$include" && find kvm -name '*.hpp' ! -path '*/detail/*' | LC_ALL=C sort)
fi
for header in $headers; do
  refused "<$header>" "#include <$header>"
done
refused "two headers" "#include <kvm/vm.hpp>" "#include <kvm/vcpu.hpp>" "#include <kvm/vm.hpp>"
refused "the amalgamated header" "#include \"$work/one/kvm.hpp\""

# And without what is bad, the same compiler has nothing to say.
if [ -n "$control" ] || { [ "${case#kernel_}" = "$case" ] && [ "$case" != as_it_is ]; }; then
  standard=-std=c++20
  case $control in
    *-nostdinc*)
      if ! compile "$control" '#include <kvm/detail/kernel_header.hpp>' '#if KVM_HPP_REFUSED' \
        '#error "refused"' '#endif'; then
        status=1
      fi
      ;;
    '') if ! compile '' '#include <kvm/types.hpp>'; then status=1; fi ;;
    *) if ! compile "$control" '#include <linux/version.h>' '#include <kvm/uapi.hpp>' \
      'static_assert(LINUX_VERSION_CODE == 266752);'; then status=1; fi ;;
  esac
  [ $status -eq 0 ] || echo "(the control must compile)"
fi

echo "$checked times"
exit $status
