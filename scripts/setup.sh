#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# setup.sh [TARGET...]: installs by apt what a Makefile target needs and this machine lacks, and nothing
# else. A target that needs nothing but Go may be named too. Where there is no apt it says what to install.
# It asks no questions and reaches for the network only when something is missing.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/local/go/bin:/usr/sbin:/sbin
CLANG=${CLANG:-clang-14}
missing=()

# command_of NAME PACKAGE, file_of PATH PACKAGE: PACKAGE is needed unless this machine has NAME or PATH.
command_of() {
	command -v "$1" >/dev/null || missing+=("$2")
}
file_of() {
	[ -e "$1" ] || missing+=("$2")
}

need_go() {
	local wanted
	wanted=$(awk '$1 == "go" { print $2 }' go.mod)
	command -v go >/dev/null || {
		echo "setup: Go $wanted or newer is not installed: https://go.dev/doc/install says how" >&2
		exit 1
	}
}

# What a race-enabled test binary is linked with.
need_cgo() {
	command_of gcc gcc
	file_of /usr/include/stdlib.h libc6-dev
}

# Commands that tests run: only those that some test does run. test-vm takes them into the guest.
need_test_tools() {
	command_of nsenter util-linux
}

# What the tests of SSH sessions run, which the guests of test-vm skip.
need_ssh() {
	command_of sshd openssh-server
	command_of ssh openssh-client
	command_of tmux tmux
	command_of sudo sudo
}

need_clang() {
	case $CLANG in
	clang-[0-9]*)
		command_of "$CLANG" "$CLANG"
		command_of "llvm-strip-${CLANG#clang-}" "llvm-${CLANG#clang-}"
		;;
	*)
		command -v "$CLANG" >/dev/null || {
			echo "setup: CLANG=$CLANG is not a command on this machine" >&2
			exit 1
		}
		;;
	esac
	file_of /usr/include/bpf/bpf_helpers.h libbpf-dev
	file_of /usr/include/linux/bpf.h linux-libc-dev
}

need_qemu() {
	command_of ip iproute2
	command_of qemu-system-x86_64 qemu-system-x86
	command_of busybox busybox-static
	command_of depmod kmod
	command_of zstd zstd
	command_of python3 python3
	if command -v apt-get >/dev/null; then
		file_of /usr/share/keyrings/debian-archive-keyring.gpg debian-archive-keyring
	fi
}

# A clean Debian to install packages in.
need_root_tree() {
	command_of debootstrap debootstrap
	command_of tar tar
	file_of /usr/share/keyrings/debian-archive-keyring.gpg debian-archive-keyring
}

need() {
	case $1 in
	build) need_go ;;
	demo)
		need_go
		command_of ip iproute2
		;;
	test)
		need_go
		need_cgo
		need_test_tools
		need_ssh
		;;
	bench-check)
		need test
		command_of nft nftables
		command_of ipset ipset
		;;
	generate)
		need_go
		need_clang
		;;
	fmt)
		need_go
		command_of clang-format-14 clang-format-14
		;;
	lint)
		need_go
		command_of clang-format-14 clang-format-14
		command_of shellcheck shellcheck
		;;
	check)
		need generate
		need lint
		command_of git git
		;;
	test-vm)
		need_go
		need_test_tools
		need_qemu
		;;
	packages)
		need_go
		command_of git git
		;;
	test-packages)
		need packages
		need_root_tree
		need_test_tools
		command_of ip iproute2
		command_of rpm rpm
		;;
	test-boot)
		need packages
		need_root_tree
		need_qemu
		command_of mkfs.ext4 e2fsprogs
		command_of cpio cpio
		;;
	*)
		echo "setup: unknown target $1 (build demo test bench-check generate fmt lint check test-vm packages test-packages test-boot)" >&2
		exit 2
		;;
	esac
}

# Installing an SSH server would start it, now and at every boot, but the tests only need the program.
mask_sshd() {
	local unit
	mkdir -p /etc/systemd/system
	for unit in /etc/systemd/system/ssh.service /etc/systemd/system/ssh.socket; do
		[ -e "$unit" ] || [ -L "$unit" ] || ln -s /dev/null "$unit"
	done
	echo "setup: the SSH server is not started; to have one: systemctl unmask ssh.service ssh.socket" >&2
}

install_missing() {
	if ! command -v apt-get >/dev/null; then
		echo "setup: there is no apt here; install what these Debian packages hold: ${missing[*]}" >&2
		exit 1
	fi
	if [ "$(id -u)" != 0 ]; then
		echo "setup: run as root: apt-get install --no-install-recommends ${missing[*]}" >&2
		exit 1
	fi
	echo "setup: installing ${missing[*]}" >&2
	case " ${missing[*]} " in
	*' openssh-server '*) mask_sshd ;;
	esac
	export DEBIAN_FRONTEND=noninteractive
	apt-get -qq -o Acquire::Retries=3 update ||
		echo "setup: some package lists could not be read; trying with the rest" >&2
	apt-get -qq -y -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 install --no-install-recommends "${missing[@]}" >&2
}

[ $# -gt 0 ] || set -- build
command_of make make
for target in "$@"; do
	need "$target"
done
if [ ${#missing[@]} -gt 0 ]; then
	mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
	install_missing
fi
