#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# other-abi.sh: compiles the programs with another layout of what is pinned, for the tests of `upgrade`: fields
# that are new, in another order, of another size, and values that mean another thing. The result is built
# with the tag otherabi only. Run by go generate in pkg/datapath.
# shellcheck disable=SC2016 # what stands in single quotes is for perl
set -euo pipefail
cd "$(dirname "$0")/.."

# Not a temporary directory: its name would be in the object.
copy=bpf/.otherabi
rm -rf "$copy"
root=$PWD
trap 'rm -rf "$root/$copy"' EXIT
mkdir "$copy"
cp bpf/*.h bpf/limiter.bpf.c bpf/conns.bpf.c "$copy"

# edit FILE EXPRESSION: changes a file, and fails if that changed nothing.
edit() {
	cp "$copy/$1" "$copy/before"
	perl -0pi -e "$2" "$copy/$1"
	! cmp -s "$copy/$1" "$copy/before" || {
		echo "other-abi: $1 is not what it was: $2" >&2
		return 1
	}
}

edit abi.h 's/ABI_VERSION = (\d+)/"ABI_VERSION = " . ($1 + 1)/e'
# A reason in between: all behind it mean another number.
edit abi.h 's/\tREASON_OVER_NEW,\n/\tREASON_OVER_NEW,\n\tREASON_OF_ANOTHER_ABI,\n/'
edit abi.h 's/struct list_entry \{.*?\n\};\n_Static_assert\(sizeof\(struct list_entry\) == 32/struct list_entry {
	__u32 prefixlen;
	__u32 feeds;
	__u32 pad2;
	__u8 policies;
	__u8 listed;
	__u8 scope;
	__u8 pad;
	__u64 added_by_another_abi;
	__u64 hits;
	__u64 expires_ns;
};
_Static_assert(sizeof(struct list_entry) == 40/s'
edit abi.h 's/(struct list_note \{\n\t__u64 created;\n)(\t__u8 by\[32\];\n)(\t__u8 reason\[64\];\n)/$1$3$2/'
edit abi_feeds.h 's/(struct feed_words \{\n)(\t__u32 lasting\[2\];\n\t__u32 timed\[2\];\n)(.*?)(\};\n)/$1$3$2$4/s'
edit abi_feeds.h 's/(struct feed \{\n\t__u8 name\[32\];\n)(.*?)(\t__u32 entries;\n)/$1$3\t__u32 pad0;\n$2/s; s/== 80, "feed"/== 88, "feed"/'
edit abi_state.h 's/(\t__u64 packets;\n)(\t__u64 bytes;\n)/$2$1/'
edit abi_state.h 's/(\tstruct counter by_end\[[^\n]*\n)(\tstruct counter near_limits\[[^\n]*\n)/$2$1/'
edit abi_state.h 's/(\tstruct addr addr;\n)(\t__u32 service;\n)/$2$1/'
edit abi_state.h 's/struct source \{\n(.*?)\};\n_Static_assert\(sizeof\(struct source\) == 40/struct source {
	__u64 added_by_another_abi;
$1};
_Static_assert(sizeof(struct source) == 48/s'
edit abi_state.h 's/(struct interface \{\n)(.*?)(\t__u8 name\[16\];\n)/$1$3$2/s'
edit abi_policy.h 's/(\t__u32 over;\n)(\t__u32 id;\n)/$2$1/'
edit abi_policy.h 's/(struct service \{\n)(\t__u32 id;\n)(.*?)(\t__u32 flags;\n)/$1$4$3$2/s'
edit abi_policy.h 's/4096 - 48/2048 - 48/; s/== 4096, "policy_piece"/== 2048, "policy_piece"/'
edit abi_ban.h 's/(struct ban \{\n)(\t__u64 expires_ns;\n\t__u64 made_ns;\n)(.*?)(\};\n)/$1$3$2$4/s'
edit abi_conns.h 's/(\t__u64 epoch;\n)(\t__u32 count;\n\t__u32 pad;\n)/$2$1/'
edit abi_conns.h 's/(\t__u64 refused;[^\n]*\n)(\t__u64 opened;[^\n]*\n)/$2$1/'

cd pkg/datapath
# All else as the lines in generate.go have it.
compile() {
	local line options flags
	line=$(sed -n "s|^//go:generate go tool bpf2go -tags !otherabi \(.* $1 \.\./.*\)|\1|p" generate.go)
	options=${line%% "$1" ../*}
	flags=${line#* -- }
	[ -n "$options" ] && [ -n "$flags" ]
	# shellcheck disable=SC2086 # lists of options
	GOPACKAGE=datapath go tool bpf2go -tags otherabi -output-stem "$1_otherabi" $options \
		"$1" "../../$copy/$1.bpf.c" -- $flags
}
compile limiter
compile conns
