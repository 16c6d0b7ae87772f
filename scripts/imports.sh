#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# imports.sh: fails if a package imports one that it must not know.
#
#   cmd -> agent -> report -> state -> datapath -> policy -> feed   each may import those to its right
#   pkg/connlimit                                                   imports policy at most, for cmd only
#   pkg/internal/...                                                for tests, demo and benchmark code only
#   cilium/ebpf, vishvananda/netlink                                only in pkg/datapath and pkg/internal
#
# Tests may import anything. A directory below pkg/ that is not in this list has no place yet: give it one.
set -eu
cd "$(dirname "$0")/.."

packages=$(go list -f '{{.ImportPath}}{{range .Imports}} {{.}}{{end}}' ./...)
printf '%s\n' "$packages" | awk -v module="$(go list -m)" '
# place: the part of the tree that an import path of ours belongs to; "" for those of others.
function place(path,    part) {
	if (index(path, module "/") != 1)
		return ""
	split(substr(path, length(module) + 2), part, "/")
	return part[1] == "pkg" ? part[2] : part[1]
}

function complain(why) {
	printf "%s imports %s: %s\n", $1, $i, why
	failed = 1
}

function may_import(from, to) {
	if (to == "" || from == to)
		return 1
	if (to == "internal")
		return from == "cmd" || from == "scripts"
	if (from == "internal" || from == "scripts")
		return 1
	if (from == "connlimit")
		return to == "policy"
	return rank[to] && rank[to] < rank[from] || to == "connlimit" && from == "cmd"
}

BEGIN {
	n = split("feed policy datapath state report agent cmd", order, " ")
	for (i = 1; i <= n; i++)
		rank[order[i]] = i
}

{
	from = place($1)
	if (!rank[from] && from != "internal" && from != "connlimit" && from != "scripts") {
		printf "%s has no place in the order of imports: see scripts/imports.sh\n", $1
		failed = 1
	}
	kernel = from == "datapath" || from == "internal"
	for (i = 2; i <= NF; i++) {
		if (!may_import(from, place($i)))
			complain("the order is cmd, agent, report, state, datapath, policy, feed")
		if (!kernel && $i ~ /^github\.com\/(cilium\/ebpf|vishvananda\/netlink)(\/|$)/)
			complain("only pkg/datapath talks to the kernel")
	}
}

END { exit failed }'
