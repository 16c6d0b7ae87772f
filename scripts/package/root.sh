#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# root.sh: prints the path of a tar file with a small Debian that has systemd, udev and logrotate, and makes it with
# debootstrap if it is not there (about a minute).
#
#   SYNWARD_ROOT_SUITE   the release (default: bookworm)
#   SYNWARD_ROOT_DIR     where it is kept (default: ~/.cache/synward/root); remove it for newer packages
#   SYNWARD_VM_MIRROR    the archive (default: the one this machine uses)
set -euo pipefail

suite=${SYNWARD_ROOT_SUITE:-bookworm}
cache=${SYNWARD_ROOT_DIR:-$HOME/.cache/synward/root}
tar=$cache/$suite.tar

mirror() {
	local found
	# shellcheck disable=SC2016 # apt expands these
	found=$(apt-get indextargets --no-release-info --format '$(RELEASE) $(REPO_URI)' |
		awk -v want=" $suite stable oldstable testing sid " 'index(want, " " $1 " ") { print $2; exit }')
	echo "${SYNWARD_VM_MIRROR:-${found:-http://deb.debian.org/debian}}"
}

mkdir -p "$cache"
exec 9>"$cache/.lock"
flock 9
if [ ! -s "$tar" ]; then
	work=$(mktemp -d "$cache/.new-XXXXXX")
	trap 'rm -rf "$work"' EXIT
	echo "root: unpacking $suite from $(mirror)" >&2
	debootstrap --variant=minbase --include=systemd,systemd-sysv,udev,kmod,iproute2,logrotate,man-db,procps \
		"$suite" "$work" "$(mirror)" >"$cache/debootstrap.log" 2>&1 || {
		tail -n 20 "$cache/debootstrap.log" >&2
		exit 1
	}
	chmod 755 "$work"
	rm -rf "$work"/var/cache/apt/archives/*.deb "$work"/var/lib/apt/lists/*
	tar --numeric-owner --xattrs -C "$work" -cf "$tar.new" .
	mv "$tar.new" "$tar"
fi
echo "$tar"
