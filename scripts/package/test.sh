#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# test.sh [NAME...]: tests the packages, all of it or what is named.
#
# reproducible  built in two directories, each with a cache of its own, they are the same, byte for byte
# units         systemd finds nothing wrong with the units, and they are as closed as they were
# deb           installed, upgraded, removed, installed again and purged in a clean Debian
# rpm           the same as far as rpm goes
#
# Needs root. What it attaches to is a veth in a network namespace of its own, pinned in a bpffs of its own.
set -euo pipefail
cd "$(dirname "$0")/../.."
PATH=$PATH:/usr/sbin:/sbin

[ "$(id -u)" = 0 ] || {
	echo "test-packages: this changes roots and makes network namespaces: run it as root" >&2
	exit 1
}

# worst_exposure is what `systemd-analyze security` may say of a unit at most, in tenths: 0 is closed, 100 open.
worst_exposure=32

work=$(mktemp -d)
root=$work/root
netns=synward-packages-$$

cleanup() {
	for inside in "run/netns/$netns" sys/fs/bpf sys proc; do
		umount "$root/$inside" 2>/dev/null || true
	done
	ip netns del "$netns" 2>/dev/null || true
	rm -rf --one-file-system "$root"
}
trap 'cleanup; rm -rf --one-file-system "$work"' EXIT

fail() {
	echo "test-packages: $*" >&2
	exit 1
}

# inside COMMAND...: in the clean root, in the network namespace of the test.
inside() {
	nsenter --net="/run/netns/$netns" chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin TERM=dumb LC_ALL=C.UTF-8 "$@"
}

# says PATTERN COMMAND...: the command ends well and says that, on stdout or stderr.
says() {
	local pattern=$1 output
	shift
	output=$("$@" 2>&1) || fail "$* failed: $output"
	grep -Eq -- "$pattern" <<<"$output" || fail "$* does not say $pattern: $output"
}

there() {
	local path
	for path in "$@"; do
		[ -e "$root$path" ] || [ -L "$root$path" ] || fail "$path is not there"
	done
}

gone() {
	local path
	for path in "$@"; do
		if [ -e "$root$path" ] || [ -L "$root$path" ]; then
			fail "$path is still there"
		fi
	done
}

# clean_root: a Debian of its own, with a veth to attach to.
clean_root() {
	cleanup
	mkdir -p "$root"
	tar --numeric-owner -C "$root" -xf "$(scripts/package/root.sh)"
	mount -t proc proc "$root/proc"
	mount -t sysfs sysfs "$root/sys"
	mount -t bpf -o mode=700 bpf "$root/sys/fs/bpf"
	ip netns add "$netns"
	# What lies in a network namespace without a name is not saved.
	mkdir -p "$root/run/netns"
	: >"$root/run/netns/$netns"
	mount --bind "/run/netns/$netns" "$root/run/netns/$netns"
	ip -n "$netns" link add srv0 type veth peer name cli0
	ip -n "$netns" link set srv0 up
	ip -n "$netns" link set cli0 up
}

# package VERSION KIND: where the package of that version is; built once. v0.9.2 has another ABI.
package() {
	local out=$work/$1 flags=
	[ "$1" != v0.9.2 ] || flags=-tags=otherabi
	[ -d "$out" ] || GOFLAGS=$flags SYNWARD_VERSION=$1 scripts/package/build.sh "$out" amd64 >"$work/log" 2>&1 ||
		fail "build: $(cat "$work/log")"
	find "$out" -name "*.$2"
}

# install PACKAGE: copies it into the root and gives its path there.
copied() {
	cp "$1" "$root/tmp/"
	echo "/tmp/$(basename "$1")"
}

test_reproducible() {
	local copy=$work/somewhere/else other
	git -c "safe.directory=$PWD" clone -q --no-local . "$copy"
	git -c "safe.directory=$PWD" ls-files -z --cached --others --exclude-standard --deduplicate |
		while IFS= read -r -d '' file; do
			[ ! -e "$file" ] || printf '%s\0' "$file"
		done | tar --null -T - -cf - | tar -C "$copy" -xf -
	package v0.9.0 deb >/dev/null
	(
		cd "$copy"
		GOCACHE=$work/cache SYNWARD_VERSION=v0.9.0 scripts/package/build.sh "$work/again" amd64
	) >"$work/log" 2>&1 || fail "build elsewhere: $(cat "$work/log")"
	for other in "$work"/again/*; do
		cmp "$other" "$work/v0.9.0/$(basename "$other")" || fail "$(basename "$other") is another one when it is built elsewhere"
	done
	rm -rf "$work/cache" "$work/somewhere"
}

# exposure UNIT: in tenths.
exposure() {
	inside systemd-analyze security --offline=true --no-pager "$1" |
		sed -n 's/.*Overall exposure level for .*: \([0-9]*\)\.\([0-9]\).*/\1\2/p'
}

test_units() {
	local unit value said
	clean_root
	inside dpkg -i "$(copied "$(package v0.9.0 deb)")" >"$work/log" 2>&1 || fail "dpkg -i: $(cat "$work/log")"
	for unit in synward-restore.service synward-restore@eth0.service synward-save.service; do
		said=$(inside systemd-analyze verify --man=yes "$unit" 2>&1) || fail "$unit: $said"
		[ -z "$said" ] || fail "$unit: $said"
		value=$(exposure "$unit")
		[ -n "$value" ] || fail "$unit: no exposure was told"
		echo "$unit: exposure $value of 100"
		[ "$value" -le "$worst_exposure" ] || fail "$unit: exposure $value tenths, at most $worst_exposure is wanted"
	done
	said=$(inside systemd-analyze verify --man=yes synward-save.timer 2>&1) || fail "synward-save.timer: $said"
	[ -z "$said" ] || fail "synward-save.timer: $said"
	# A name that is no unit shows that verify can fail.
	! inside systemd-analyze verify synward-missing.service >/dev/null 2>&1 || fail "systemd-analyze verify finds fault with nothing"
}

# in_force: what the installation in the root must have.
in_force() {
	says 'srv0 .* native .* yes ' inside synward status -o text
	says '^203\.0\.113\.66 .* in (59|60)m' inside synward block list
	says 'name: ssh' inside synward policy
}

# pinned: whether anything is.
pinned() {
	compgen -G "$root/sys/fs/bpf/synward*" >/dev/null
}

# use: attach, apply, block.
use() {
	says 'srv0: attached: native' inside synward attach srv0 -f /usr/share/doc/synward/examples/ssh-bastion.yaml
	says 'on the block list' inside synward block add 203.0.113.66 --for 1h --reason 'a test'
	cp "$root/usr/share/doc/synward/examples/web.yaml" "$root/etc/synward/policy.yaml"
}

# first_packet: status exits with 4 until one came. What is sent is asked for by ARP, which is a packet.
first_packet() {
	local deadline=$((SECONDS + 20))
	ip -n "$netns" addr replace 10.77.0.2/24 dev cli0
	until inside synward status >/dev/null 2>&1; do
		[ $SECONDS -lt $deadline ] || fail "srv0 is not armed, or no packet comes: $(inside synward status 2>&1)"
		nsenter --net="/run/netns/$netns" bash -c 'echo >/dev/udp/10.77.0.1/9' 2>/dev/null || true
	done
}

programs() {
	inside sh -c 'ls -i /sys/fs/bpf/synward/links'
}

test_deb() {
	local before
	clean_root
	inside dpkg -i "$(copied "$(package v0.9.0 deb)")" >"$work/log" 2>&1 || fail "dpkg -i: $(cat "$work/log")"
	says 'v0\.9\.0' inside synward version
	says '^synward:x:[0-9]+:[0-9]+:.*:/var/lib/synward:.*nologin' inside getent passwd synward
	there /etc/systemd/system/sysinit.target.wants/synward-restore.service /usr/lib/udev/rules.d/85-synward.rules \
		/etc/systemd/system/timers.target.wants/synward-save.timer
	says 'in one step' inside man -P cat synward-apply
	says '' inside logrotate -d /etc/logrotate.d/synward
	says 'complete .*synward' cat "$root/usr/share/bash-completion/completions/synward"
	! pinned || fail "an installation attaches something"

	use
	first_packet
	in_force
	before=$(programs)
	there /var/lib/synward /var/log/synward/audit.jsonl
	inside logrotate -f /etc/logrotate.d/synward || fail "logrotate -f"
	says 'block add 203\.0\.113\.66' inside synward history

	inside dpkg -i "$(copied "$(package v0.9.1 deb)")" >"$work/log" 2>&1 || fail "upgrade: $(cat "$work/log")"
	says 'v0\.9\.1' inside synward version
	grep -q 'srv0: unchanged, it runs the program of this version' "$work/log" || fail "upgrade: $(cat "$work/log")"
	in_force
	[ "$(inside sh -c 'ls /sys/fs/bpf/synward/links')" = "$(awk '{ print $2 }' <<<"$before")" ] || fail "the upgrade attached anew"
	inside dpkg -i "$(copied "$(package v0.9.2 deb)")" >"$work/log" 2>&1 || fail "upgrade to another ABI: $(cat "$work/log")"
	grep -q 'carried over from ABI' "$work/log" || fail "upgrade to another ABI: $(cat "$work/log")"
	first_packet
	in_force
	inside systemctl disable synward-restore.service 2>/dev/null
	inside dpkg -i "$(copied "$(package v0.9.0 deb)")" >"$work/log" 2>&1 || fail "downgrade: $(cat "$work/log")"
	grep -q 'carried over from ABI' "$work/log" || fail "downgrade from another ABI: $(cat "$work/log")"
	first_packet
	in_force
	says ' upgrade$' inside synward history
	gone /etc/systemd/system/sysinit.target.wants/synward-restore.service /etc/systemd/system/timers.target.wants/synward-save.timer

	inside dpkg -r synward >"$work/log" 2>&1 || fail "remove: $(cat "$work/log")"
	! pinned || fail "a removal leaves something attached: $(ls -R "$root/sys/fs/bpf")"
	gone /usr/sbin/synward /run/synward
	there /etc/synward/policy.yaml /etc/logrotate.d/synward /var/lib/synward /var/log/synward/audit.jsonl

	inside dpkg -i "$(copied "$(package v0.9.1 deb)")" >"$work/log" 2>&1 || fail "install again: $(cat "$work/log")"
	says 'srv0: attached: native' inside synward restore
	first_packet
	in_force
	inside dpkg -P synward >"$work/log" 2>&1 || fail "purge: $(cat "$work/log")"
	! pinned || fail "a purge leaves something attached"
	gone /etc/synward /etc/logrotate.d/synward /var/lib/synward /var/log/synward /run/synward /usr/share/doc/synward \
		/usr/lib/systemd/system/synward-.service.d
}

test_rpm() {
	clean_root
	local args=(--root "$root" --nodeps --dbpath /var/lib/rpm)
	cat >"$work/rpm" <<-'EOF'
		#!/bin/sh
		exec nsenter --net="$NETNS" rpm "$@"
	EOF
	chmod +x "$work/rpm"
	export NETNS=/run/netns/$netns
	"$work/rpm" -i "${args[@]}" "$(package v0.9.0 rpm)" >"$work/log" 2>&1 || fail "rpm -i: $(cat "$work/log")"
	says 'v0\.9\.0' inside synward version
	there /etc/systemd/system/sysinit.target.wants/synward-restore.service
	use
	first_packet
	in_force
	"$work/rpm" -U "${args[@]}" "$(package v0.9.1 rpm)" >"$work/log" 2>&1 || fail "rpm -U: $(cat "$work/log")"
	says 'v0\.9\.1' inside synward version
	in_force
	"$work/rpm" -e "${args[@]}" synward >"$work/log" 2>&1 || fail "rpm -e: $(cat "$work/log")"
	! pinned || fail "a removal leaves something attached"
	gone /usr/sbin/synward
	there /etc/synward/policy.yaml /var/lib/synward /var/log/synward/audit.jsonl
}

tests=("$@")
[ $# -gt 0 ] || tests=(reproducible units deb rpm)
for name in "${tests[@]}"; do
	declare -F "test_$name" >/dev/null || fail "there is no test $name"
	"test_$name"
	echo "ok    $name"
done
