#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# test-vm.sh [KERNEL...]: runs the tests that depend on the kernel on other kernels (default: 6.1).
#
# A KERNEL is 5.10, 6.1, 6.12, 7.x, the name of a Debian suite, or the path of an unpacked kernel. Each
# is booted once in QEMU, within seconds, and runs the test binaries of all packages as root.
#
#   SYNWARD_VM_PACKAGES   packages to test (default: the list below)
#   SYNWARD_VM_ARGS       further arguments for the test binaries, e.g. -test.run=TestMeter
#   SYNWARD_VM_AGAIN      1: try tests that failed once more, alone
#   SYNWARD_VM_DIR        where kernels are kept (default: ~/.cache/synward/vm)
# scripts/vm/guest.py lists the settings of the guest.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=${SYNWARD_VM_PACKAGES:-./pkg/datapath/... ./pkg/internal/... ./cmd/...}
cache=${SYNWARD_VM_DIR:-$HOME/.cache/synward/vm}
kernels=("$@")
[ $# -gt 0 ] || kernels=(6.1)

work=$(mktemp -d)
# The other version that tests of upgrades take turns with; the guests have no Go to build it.
other=pkg/datapath/testdata/otherabi
trap 'rm -rf "$work" "$other"' EXIT

# build: one static binary for each package that has tests, listed in $work/list.
build() {
	local package directory number=0 format
	format='{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}} {{.Dir}}{{end}}'
	# shellcheck disable=SC2086 # a list of patterns
	go list -f "$format" $packages >"$work/packages"
	[ -s "$work/packages" ] || {
		echo "test-vm: no tests in $packages" >&2
		return 1
	}
	CGO_ENABLED=0 GOOS=linux GOARCH=amd64 go build -tags otherabi -trimpath -ldflags='-s -w' -o "$other/synward" ./cmd/synward
	while read -r package directory; do
		number=$((number + 1))
		CGO_ENABLED=0 GOOS=linux GOARCH=amd64 go test -c -vet=off -trimpath -ldflags='-s -w' \
			-o "$work/$number/$(basename "$package").test" "$package"
		printf '%s\t%s\t%s\n' "${package#"$(go list -m)/"}" "$(realpath --relative-to=. "$directory")" \
			"$work/$number/$(basename "$package").test" >>"$work/list"
	done <"$work/packages"
}

paths=()
for kernel in "${kernels[@]}"; do
	case $kernel in
	*/*) path=$kernel ;;
	*) path=$(scripts/vm/fetch-kernels.sh "$cache" "$kernel") ;;
	esac
	paths+=("$path")
done
echo "test-vm: building the tests" >&2
build
status=0
failed=()
for path in "${paths[@]}"; do
	echo "test-vm: booting $(basename "$path")" >&2
	scripts/vm/runtests "$path" "$work/list" || {
		status=1
		failed+=("$(basename "$path")")
	}
done
[ $status = 0 ] || echo "test-vm: failed on: ${failed[*]}" >&2
exit $status
