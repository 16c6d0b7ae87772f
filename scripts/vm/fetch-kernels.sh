#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# fetch-kernels.sh [-u] DIR KERNEL...
#
# Unpacks the newest Debian cloud kernel of each suite below DIR and prints one line for each: the
# directory it lies in. A KERNEL is a suite (bookworm-security) or a short name (5.10, 6.1, 6.12, 7.x).
# What was fetched before is used again without asking the mirror; -u looks for a newer one.
#
# Suites, not versions, are named, because a mirror drops a version when the next one arrives. apt works
# on state of its own below DIR: nothing is installed and the machine's lists are not touched. The
# mirror is the one this machine uses, or SYNWARD_VM_MIRROR and SYNWARD_VM_SECURITY_MIRROR.
set -euo pipefail

die() {
	echo "fetch-kernels: $*" >&2
	exit 1
}

# suite_of NAME: the Debian suite that carries the kernel series NAME.
suite_of() {
	case $1 in
	5.10) echo bullseye-security ;;
	6.1) echo bookworm-security ;;
	6.12) echo trixie-security ;;
	7.x) echo trixie-backports ;;
	[a-z]*) echo "$1" ;;
	*) die "unknown kernel $1: use 5.10, 6.1, 6.12, 7.x or the name of a Debian suite" ;;
	esac
}

# configured_mirror RELEASE...: the address from which this machine gets one of these releases.
configured_mirror() {
	# shellcheck disable=SC2016 # apt expands these
	apt-get indextargets --no-release-info --format '$(RELEASE) $(REPO_URI)' |
		awk -v want=" $* " 'index(want, " " $1 " ") { print $2; exit }'
}

# mirror_of SUITE: the archive that holds SUITE.
mirror_of() {
	local codename main security
	# shellcheck source=/dev/null
	codename=$(. /etc/os-release && [ "${ID:-}" = debian ] && echo "${VERSION_CODENAME:-}") || codename=
	main=${SYNWARD_VM_MIRROR:-$(configured_mirror "$codename" stable oldstable testing unstable sid)}
	security=${SYNWARD_VM_SECURITY_MIRROR:-$(configured_mirror "$codename-security" \
		stable-security oldstable-security testing-security)}
	case $1:$main:$security in
	*-security:*:?*) echo "$security" ;;
	*-security:*/debian*:) echo "${main%/debian*}/debian-security" ;; # mirrors keep the two side by side
	*:?*:*) echo "$main" ;;
	*) die "apt has no Debian archive here: set SYNWARD_VM_MIRROR and SYNWARD_VM_SECURITY_MIRROR" ;;
	esac
}

# private_apt SUITE: fills the array apt_options for a state that knows SUITE alone.
private_apt() {
	local state=$dir/apt/$1 mirror
	mirror=$(mirror_of "$1")
	mkdir -p "$state/lists/partial" "$state/cache/archives/partial" "$state/deb"
	: >"$state/status"
	echo "deb [arch=amd64 signed-by=$keyring] $mirror $1 main" >"$state/sources.list"
	apt_options=(
		-q -q
		-o "Dir::Etc::SourceList=$state/sources.list" -o "Dir::Etc::SourceParts=/dev/null"
		-o "Dir::Etc::Preferences=/dev/null" -o "Dir::Etc::PreferencesParts=/dev/null"
		-o "Dir::State::Lists=$state/lists" -o "Dir::State::Status=$state/status"
		-o "Dir::Cache=$state/cache" -o "APT::Sandbox::User=root"
		-o "APT::Architecture=amd64" -o "APT::Architectures=amd64"
		-o "Acquire::Languages=none" -o "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false"
		-o "Acquire::Retries=3"
	)
}

# depends PACKAGE: the names that its newest version depends on.
depends() {
	apt-cache "${apt_options[@]}" --no-all-versions show "$1" |
		sed -n 's/^\(Pre-\)\{0,1\}Depends: *//p' | tr ',' '\n' | sed 's/^ *//; s/[ :(|].*//'
}

# fetch SUITE: leaves DIR/RELEASE with the kernel, and DIR/SUITE as a link to it.
fetch() {
	local suite=$1 image release packages tree root
	private_apt "$suite"
	apt-get "${apt_options[@]}" update >&2 || die "cannot read the package lists of $suite"
	image=$(depends linux-image-cloud-amd64 | grep '^linux-image-[0-9]' | head -n 1) ||
		die "$suite has no linux-image-cloud-amd64"
	release=${image#linux-image-}
	if [ ! -d "$dir/$release" ]; then
		# Newer kernels are split into linux-image, linux-binary, linux-modules and linux-base.
		mapfile -t packages < <(depends "$image" | grep -F -- "-$release" | grep '^linux-' || true)
		tree=$dir/.new-$release
		rm -rf "$tree"
		mkdir "$tree"
		(
			cd "$dir/apt/$suite/deb"
			rm -f ./*.deb
			apt-get "${apt_options[@]}" download "$image" "${packages[@]}" >&2
			for deb in ./*.deb; do
				dpkg-deb -x "$deb" "$tree"
			done
			rm -f ./*.deb
		) || die "cannot fetch $image"
		root=$tree
		[ -d "$tree/lib/modules" ] || root=$tree/usr
		PATH=$PATH:/usr/sbin:/sbin depmod -b "$root" "$release"
		mv "$tree" "$dir/$release"
	fi
	ln -sfn "$release" "$dir/$suite"
}

update=
if [ "${1:-}" = -u ]; then
	update=yes
	shift
fi
[ $# -ge 2 ] || die "usage: fetch-kernels.sh [-u] DIR KERNEL..."
mkdir -p "$1"
dir=$(cd "$1" && pwd)
shift
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
exec 9>"$dir/.lock"
flock 9
for kernel in "$@"; do
	suite=$(suite_of "$kernel")
	if [ -n "$update" ] || [ ! -d "$dir/$suite/" ]; then
		command -v apt-get >/dev/null || die "apt is missing: unpack a kernel to $dir/$suite by hand"
		[ -r "$keyring" ] || die "$keyring is missing: install debian-archive-keyring"
		echo "fetch-kernels: looking for the newest kernel of $suite" >&2
		fetch "$suite"
	fi
	readlink -f "$dir/$suite"
done
