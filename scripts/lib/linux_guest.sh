# SPDX-License-Identifier: MIT
# shellcheck shell=bash disable=SC2034,SC2154
# Sourced after emulated.sh: Linux as a guest of tinyvmm, booted by Debian's kernels.

# make_guest_initramfs ARCH KERNEL OUT: busybox, and the modules that a virtio disk needs. Its init
# tells on the console, on lines that begin with "@@ guest", when it is there, what it found and
# whether the disk can be written to, and powers off; with the word "shell" on the kernel's command
# line it gives a shell instead, and powers off after that.
make_guest_initramfs() {
  local arch=$1 kernel=$2 out=$3 work busybox module
  busybox=$(fetch_busybox "$arch")
  work=$(mktemp -d)
  mkdir -p "$work"/{bin,dev,proc,root,sys,tmp,modules}
  cp "$busybox" "$work/bin/busybox"
  for module in "${spare_modules[@]}"; do
    [[ ! -e $kernel/modules/$module.ko ]] || cp "$kernel/modules/$module.ko" "$work/modules/"
  done
  cat >"$work/init" <<INIT
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin HOME=/root PS1='guest# '
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
stty -echo  # What is typed ahead is for the shell, which echoes by itself.
for module in ${spare_modules[*]}; do
  [ ! -e /modules/\$module.ko ] || insmod /modules/\$module.ko
done
echo "@@ guest user space \$(uname -r) processors \$(nproc)"
cd /root
if grep -qw shell /proc/cmdline; then
  stty echo
  setsid cttyhack sh
else
  if [ -e /dev/vda ]; then
    echo "@@ guest disk \$(md5sum </dev/vda | cut -d ' ' -f 1)"
    if [ "\$(cat /sys/block/vda/ro)" = 0 ]; then
      date >/tmp/written
      dd if=/tmp/written of=/dev/vda bs=512 seek=8 conv=sync,fsync 2>/dev/null
      echo 3 >/proc/sys/vm/drop_caches
      dd if=/dev/vda bs=512 skip=8 count=1 2>/dev/null | tr -d '\\0' | cmp - /tmp/written &&
        echo "@@ guest wrote and read back"
    fi
  fi
fi
sync
poweroff -f
INIT
  chmod +x "$work/init"
  (cd "$work" && find . -print0 | cpio --quiet --null -o -H newc -R 0:0 | gzip -1) >"$out"
  rm -rf "$work"
}

# guest_command_line ARCH [WORD...]: what the kernel is told.
guest_command_line() {
  local console=ttyS0
  [[ $1 == amd64 ]] || console=ttyAMA0
  printf '%s\n' "console=$console quiet panic=-1 ${*:2}"
}

# Within an emulated x86 host. QEMU 7.2 does not tell KVM when the guest sets XCR0, so that the sizes
# that CPUID gives for XSAVE are wrong.
emulated_guest_words=(noxsave)

# host_boots_linux ARCH PROGRAM KERNEL INITRAMFS: whether this machine's own KVM boots a stock
# kernel within some seconds. Some only run code of their own choice.
host_boots_linux() {
  local arch=$1 program=$2 kernel=$3 initramfs=$4
  [[ -r /dev/kvm && -w /dev/kvm ]] || return 1
  [[ $arch != amd64 || -d /sys/module/kvm_intel || -d /sys/module/kvm_amd ]] || return 1
  timeout -k 2 20 "$program" --kernel "$kernel/vmlinuz" --initrd "$initramfs" --cpus 2 \
    --cmdline "$(guest_command_line "$arch")" </dev/null 2>/dev/null | grep -q '^@@ guest user space'
}
