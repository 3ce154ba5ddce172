# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# Sourced after packages.sh: hosts with real KVM that run in QEMU's software emulation, so that any
# machine has them. A host is a stock Debian kernel, taken out of its package and never installed,
# with an initramfs made here of busybox, the modules that KVM is in, and what the caller gives.
#
#   kernel=$(fetch_kernel bookworm amd64)
#   make_initramfs amd64 "$kernel" TREE OUT      TREE/main is what the host is there for
#   boot_host amd64 "$kernel" OUT LOG 300        returns what main returned
. "$(dirname "${BASH_SOURCE[0]}")/debian.sh"

# What hosts load in this order where the kernel has it as a module, and what guests with a disk do.
kvm_modules=(irqbypass ccp kvm kvm-amd)
spare_modules=(virtio virtio_ring virtio_mmio virtio_blk)

# need_emulator ARCH...: installs what boots hosts of these architectures (amd64, arm64).
need_emulator() {
  local arch packages=(cpio xz-utils)
  for arch in "$@"; do
    case $arch in
      amd64) packages+=(qemu-system-x86) ;;
      arm64) packages+=(qemu-system-arm) ;;
      *) die "no emulated hosts of this architecture: $arch" ;;
    esac
  done
  need_packages "${packages[@]}"
}

# once FOLDER COMMAND ARGUMENT...: the FOLDER of the cache, which `COMMAND NEW_FOLDER ARGUMENT...`
# fills the first time. Whole or not at all, also where two scripts want it at a time.
once() {
  local dir=$cache/$1
  shift
  mkdir -p "$cache"
  (
    flock 9
    [[ ! -d $dir ]] || exit 0
    rm -rf "$dir.new"
    mkdir -p "$dir.new"
    "$1" "$dir.new" "${@:2}" >"$dir.log" 2>&1 || {
      tail -n 20 "$dir.log" >&2
      die "could not fetch what belongs in $dir"
    }
    mv "$dir.new" "$dir"
  ) 9>"$cache/lock" || return 1
  printf '%s\n' "$dir"
}

# fetch_kernel SUITE ARCH [FLAVOUR]: the folder with the vmlinuz, the modules and the version of the
# kernel that linux-image-FLAVOUR of a Debian release is. The cloud flavour is small and has KVM.
fetch_kernel() { once "kernel-$1-${3:-cloud-$2}" _unpack_kernel "$1" "$2" "${3:-cloud-$2}"; }

_unpack_kernel() {
  local dir=$1 suite=$2 arch=$3 flavour=$4 package file name
  prepare_apt
  # The package of the flavour only depends on that of the kernel.
  package=$(private_apt apt-cache show "linux-image-$flavour:$arch/$suite" |
    sed -n 's/^Depends: \(linux-image-[^ ,]*\).*/\1/p' | head -n 1) || return 1
  [[ -n $package ]] || return 1
  unpack_packages "$dir/tree" "$package:$arch/$suite" || return 1
  mkdir "$dir/modules"
  mv "$dir"/tree/boot/vmlinuz-* "$dir/vmlinuz" || return 1
  printf '%s\n' "${package#linux-image-}" >"$dir/version"
  for name in "${kvm_modules[@]}" "${spare_modules[@]}"; do
    file=$(find "$dir/tree" -name "$name.ko" -o -name "$name.ko.xz")
    case $file in
      "") ;; # built in
      *.xz) xz -dc "$file" >"$dir/modules/$name.ko" || return 1 ;;
      *) mv "$file" "$dir/modules/" || return 1 ;;
    esac
  done
  rm -rf "$dir/tree"
}

# fetch_busybox ARCH: the path of a static busybox.
fetch_busybox() { printf '%s/bin/busybox\n' "$(once "busybox-$1" unpack_packages "busybox-static:$1/bookworm")"; }

# make_initramfs ARCH KERNEL TREE OUT [MODULE...]: packs TREE, busybox and those of the modules that
# the kernel has (those of KVM). Its init mounts what programs expect, loads the modules, runs /main
# and powers off. On the console is then what main said, and on a line of its own
# "@@ main ended with STATUS".
make_initramfs() {
  local arch=$1 kernel=$2 tree=$3 out=$4 work busybox module
  local modules=("${@:5}")
  ((${#modules[@]})) || modules=("${kvm_modules[@]}")
  busybox=$(fetch_busybox "$arch")
  work=$(mktemp -d)
  chmod 755 "$work" # It becomes the root, which is for everyone.
  mkdir -p "$work"/{bin,dev,etc,proc,root,sys,tmp,modules}
  cp -a "$tree/." "$work/"
  cp "$busybox" "$work/bin/busybox"
  for module in "${modules[@]}"; do
    [[ ! -e $kernel/modules/$module.ko ]] || cp "$kernel/modules/$module.ko" "$work/modules/"
  done
  printf 'root:x:0:0:root:/root:/bin/sh\n' >"$work/etc/passwd"
  printf 'root:x:0:\n' >"$work/etc/group"
  cat >"$work/init" <<INIT
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin HOME=/root
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mkdir -p /dev/shm /dev/pts
mount -t tmpfs tmp /dev/shm
mount -t devpts pts /dev/pts
mount -t tmpfs tmp /tmp
ip link set lo up 2>/dev/null
for module in ${modules[*]}; do
  [ ! -e /modules/\$module.ko ] || insmod /modules/\$module.ko
done
cd /
/main
echo "@@ main ended with \$?"
sync
poweroff -f
INIT
  chmod +x "$work/init"
  (cd "$work" && find . -print0 | cpio --quiet --null -o -H newc -R 0:0 | gzip -1) >"$out"
  rm -rf "$work"
}

# host_command ARCH KERNEL INITRAMFS [CPU]: sets the array host to the command that boots a host,
# without a console: callers add -serial. A host that panics ends it.
host_command() {
  local arch=$1 kernel=$2 initramfs=$3 cpu=${4:-} console
  case $arch in
    amd64)
      console=ttyS0
      # One CPU: guests have as many as they like, and with a second one here, QEMU 7.2 loses
      # interrupts of guests, which then wait for ever. Its cmpxchg16b corrupts memory where one
      # thread does it all: Linux 6.12 panics.
      host=(qemu-system-x86_64 -cpu "${cpu:-max},-cx16" -m 2048 -smp 1)
      ;;
    arm64)
      console=ttyAMA0
      host=(qemu-system-aarch64 -M "virt,virtualization=on,gic-version=3"
        -cpu "${cpu:-max,pauth-impdef=on}" -m 2048 -smp 2)
      ;;
  esac
  # One thread for all CPUs. With one for each, code that the kernel patches while both run it, as
  # for every VM that is made, traps now and then where it no longer should, and that is a panic.
  host+=(-accel "tcg,thread=single" -nodefaults -no-user-config -display none -monitor none
    -no-reboot -kernel "$kernel/vmlinuz" -initrd "$initramfs"
    -append "console=$console panic=-1 oops=panic mitigations=off quiet loglevel=1")
}

# boot_host ARCH KERNEL INITRAMFS LOG SECONDS [CPU]: boots a host, with its console in LOG, and
# returns what main returned: 124 if the time was over before, 125 if it never returned.
boot_host() {
  local log=$4 seconds=$5 host status=0
  host_command "$1" "$2" "$3" "${6:-}"
  timeout --foreground -k 5 "$seconds" "${host[@]}" -serial "file:$log" </dev/null >"$log.qemu" 2>&1 || status=$?
  tr -d '\r' <"$log" >"$log.text" && mv "$log.text" "$log"
  ((status != 124 && status != 137)) || return 124
  if ((status != 0)); then
    cat "$log.qemu" >>"$log"
    return 125
  fi
  status=$(sed -n 's/^@@ main ended with \([0-9][0-9]*\)$/\1/p' "$log" | tail -n 1)
  return "${status:-125}"
}
