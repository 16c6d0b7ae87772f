#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# build.sh OUT [ARCH...]: makes OUT/synward_VERSION_ARCH.deb and .rpm for each ARCH (default: amd64 arm64).
#
# The same commit makes the same packages, byte for byte. SYNWARD_VERSION stands for the version that git
# describes, which is what `synward version` says too.
set -euo pipefail
cd "$(dirname "$0")/../.."

[ $# -ge 1 ] || {
	echo "usage: build.sh OUT [ARCH...]" >&2
	exit 2
}
mkdir -p "$1"
out=$(cd "$1" && pwd)
shift
arches=("$@")
[ $# -gt 0 ] || arches=(amd64 arm64)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# safe.directory: the repository may belong to someone else than root.
repository() {
	git -c "safe.directory=$PWD" "$@"
}

version=${SYNWARD_VERSION:-$(repository describe --tags --always --dirty)}

# package_version VERSION: a version that sorts: v1.2.3-4-gabc, 4 commits after v1.2.3, is 1.2.3+4.gabc; before there
# was any tag, the number of commits takes that place.
package_version() {
	case $1 in
	v[0-9]*) echo "${1#v}" ;;
	[0-9]*.[0-9]*) echo "$1" ;;
	*) echo "0.0.0-$(repository rev-list --count HEAD)-g$1" ;;
	esac | sed -E 's/-([0-9]+)-g/+\1.g/; s/-dirty$/.dirty/; s/-/~/g'
}

SOURCE_DATE_EPOCH=$(repository log -1 --format=%ct)
PACKAGE_VERSION=$(package_version "$version")
STAGE=$work/stage
export SOURCE_DATE_EPOCH PACKAGE_VERSION STAGE

# binary ARCH OUTPUT [FLAG...]
binary() {
	local arch=$1 output=$2
	shift 2
	CGO_ENABLED=0 GOOS=linux GOARCH=$arch go build -trimpath -buildvcs=false \
		-ldflags "-s -w -X main.version=$version" -o "$output" "$@" ./cmd/synward
}

go -C scripts/tools build -o "$work/nfpm" github.com/goreleaser/nfpm/v2/cmd/nfpm
mkdir -p "$STAGE/man" "$STAGE/completions"
host=$(go env GOHOSTARCH)
binary "$host" "$work/man" -tags man
"$work/man" "$STAGE/man"
gzip -n -9 "$STAGE"/man/*
binary "$host" "$work/synward"
for shell in bash zsh fish; do
	"$work/synward" completion "$shell" >"$STAGE/completions/synward.$shell"
done
# So that what is packed is as old as the commit.
find "$STAGE" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +

for arch in "${arches[@]}"; do
	binary "$arch" "$STAGE/synward"
	touch -d "@$SOURCE_DATE_EPOCH" "$STAGE/synward"
	for packager in deb rpm; do
		PACKAGE_ARCH=$arch "$work/nfpm" package --config scripts/package/nfpm.yaml --packager "$packager" \
			--target "$out/synward_${PACKAGE_VERSION}_$arch.$packager" >&2
		echo "$out/synward_${PACKAGE_VERSION}_$arch.$packager"
	done
done
