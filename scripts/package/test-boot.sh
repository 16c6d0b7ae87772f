#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# test-boot.sh [KERNEL...]: installs the deb in a VM with Debian's systemd, sets limits, reboots for real, and looks
# what came back and whether a packet came first (default kernel: 6.1).
#
# Needs root, to unpack a Debian. It takes about three minutes a kernel, without KVM. scripts/package/boot has what
# runs in the VM.
set -euo pipefail
cd "$(dirname "$0")/../.."
PATH=$PATH:/usr/sbin:/sbin

[ "$(id -u)" = 0 ] || {
	echo "test-boot: this unpacks a Debian with its owners: run it as root" >&2
	exit 1
}
kernels=("$@")
[ $# -gt 0 ] || kernels=(6.1)
cache=${SYNWARD_VM_DIR:-$HOME/.cache/synward/vm}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# some_modules DIR: those that the test needs. The others are of devices that QEMU has, and cost minutes to load.
some_modules() {
	local release part
	release=$(ls "$1")
	for part in kernel/net kernel/drivers/net/veth.ko kernel/drivers/virtio modules.order modules.builtin modules.builtin.modinfo; do
		(cd "$1" && find "$release/$part"* -type f -print0 | cpio -0pdm --quiet "$root/usr/lib/modules")
	done
	depmod -b "$root" "$release"
}

# disk KERNEL: a fresh disk image for it.
disk() {
	local root=$work/root modules=$1/lib/modules
	rm -rf "$root" "$work/disk"
	mkdir -m 755 "$root"
	tar --numeric-owner --xattrs -C "$root" -xf "$(scripts/package/root.sh)"
	[ -d "$modules" ] || modules=$1/usr/lib/modules
	some_modules "$modules"
	install -m 644 "$work"/packages/*.deb "$root/root/synward.deb"
	install -m 755 "$work/boot-test" "$root/usr/local/bin/boot-test"
	install -m 644 scripts/package/boot/*.service scripts/package/boot/*.target "$root/etc/systemd/system/"
	chroot "$root" systemctl enable boot-veth boot-listen boot-hammer boot-network boot-test >/dev/null 2>&1
	chroot "$root" systemctl mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer man-db.timer \
		e2scrub_all.timer e2scrub_reap.service getty.target getty-static.service serial-getty@ttyS0.service cron.service >/dev/null 2>&1
	rm -f "$root/var/lib/man-db/auto-update"
	echo synward-boot >"$root/etc/hostname"
	truncate -s 1500M "$work/disk"
	mkfs.ext4 -q -F -d "$root" "$work/disk"
	rm -rf "$root"
}

echo "test-boot: building" >&2
scripts/package/build.sh "$work/packages" amd64 >"$work/log" 2>&1 || {
	cat "$work/log" >&2
	exit 1
}
CGO_ENABLED=0 GOARCH=amd64 go build -trimpath -ldflags='-s -w' -o "$work/boot-test" ./scripts/package/boot
status=0
for kernel in "${kernels[@]}"; do
	path=$(scripts/vm/fetch-kernels.sh "$cache" "$kernel")
	disk "$path"
	echo "test-boot: booting $(basename "$path")" >&2
	python3 scripts/package/boot/guest.py "$path" "$work/disk" || status=1
done
exit $status
