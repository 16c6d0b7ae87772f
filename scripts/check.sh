#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# check.sh [NAME...]: runs checks on the sources, all of them to the end, and fails if one failed.
#
# lint:  gofmt vet staticcheck clang-format shell
# check: lint, and imports generated tidy spdx
set -euo pipefail
cd "$(dirname "$0")/.."
export CLANG=${CLANG:-clang-14} CLANG_FORMAT=${CLANG_FORMAT:-clang-format-14}

# sources GLOB...: files of the repository, with new ones and without ignored ones, NUL between them.
# safe.directory: the repository may belong to someone else than root.
sources() {
	git -c "safe.directory=$PWD" ls-files -z --cached --others --exclude-standard --deduplicate -- "$@" |
		while IFS= read -r -d '' file; do
			[ ! -f "$file" ] || printf '%s\0' "$file"
		done
}

c_sources() {
	sources 'bpf/*.c' 'bpf/*.h' 'pkg/*.bpf.c' | grep -zv '/vmlinux[^/]*\.h$' || true
}

# shell_sources: what a shell runs, by name or by first line.
shell_sources() {
	local file first
	while IFS= read -r -d '' file; do
		first=
		IFS= read -r first <"$file" 2>/dev/null || true
		case $file:$first in
		*.sh:* | *:'#!'*/sh | *:'#!'*'busybox sh' | *:'#!'*bash) printf '%s\0' "$file" ;;
		esac
	done < <(sources '*.sh' 'scripts/*' '.ci/*')
}

check_gofmt() {
	local bad
	bad=$(sources '*.go' | xargs -0r gofmt -l)
	[ -z "$bad" ] || {
		printf 'not formatted, run make fmt:\n%s\n' "$bad"
		return 1
	}
}

check_vet() {
	go vet ./...
	go vet -tags man ./cmd/synward
}

check_staticcheck() {
	go tool staticcheck ./...
}

check_clang-format() {
	c_sources | xargs -0r "$CLANG_FORMAT" --dry-run -Werror
}

check_shell() {
	local file files=()
	mapfile -d '' files < <(shell_sources)
	for file in "${files[@]}"; do
		bash -n "$file" || return 1
	done
	# busybox's shell is not one that shellcheck knows; dash is the nearest.
	for file in "${files[@]}"; do
		case $(head -n 1 "$file") in
		*busybox*) shellcheck -s dash "$file" || return 1 ;;
		*) shellcheck "$file" || return 1 ;;
		esac
	done
}

check_imports() {
	sh scripts/imports.sh
}

# The sources are generated again in a copy, so that the tree stays as it is.
check_generated() (
	copy=$(mktemp -d)
	trap 'rm -rf "$copy"' EXIT
	sources . | tar --null -T - -cf - | tar -C "$copy" -xf -
	cp -r "$copy" "$copy.before"
	trap 'rm -rf "$copy" "$copy.before"' EXIT
	# So that what nothing generates any more is missed.
	find "$copy" -name '*_bpfe[lb]*' -delete
	(cd "$copy" && make --no-print-directory -s generate) || return 1
	diff -rq "$copy.before" "$copy" | sed "s#$copy\.before#.#g; s#$copy#(generated)#g" || {
		echo "generated files are not what $CLANG makes of the sources: run make generate"
		return 1
	}
)

check_tidy() {
	go mod tidy -diff || {
		echo "go.mod or go.sum is not tidy: run go mod tidy"
		return 1
	}
}

# licence_of FILE: what its SPDX line must say.
licence_of() {
	case $1 in
	bpf/*.c | bpf/*.h | *.bpf.c) echo 'GPL-2.0-only OR BSD-2-Clause' ;;
	*) echo 'Apache-2.0' ;;
	esac
}

check_spdx() {
	local file status=0 top
	while IFS= read -r -d '' file; do
		top=$(head -n 6 "$file" | tr -d '\0')
		case $top in
		*'Code generated '*' DO NOT EDIT.'*) continue ;;
		esac
		grep -Eq "SPDX-License-Identifier: \(?$(licence_of "$file")\)?( |\$)" <<<"$top" || {
			echo "$file: no line 'SPDX-License-Identifier: $(licence_of "$file")' at its top"
			status=1
		}
	done < <(
		sources '*.go' '*.c' '*.h' '*.py' Makefile 'scripts/vm/vmexec' 'scripts/vm/runtests' |
			grep -zv '/vmlinux[^/]*\.h$'
		shell_sources
	)
	return $status
}

sources Makefile >/dev/null || {
	echo "check: this works in a git checkout only" >&2
	exit 1
}
lint=(gofmt vet staticcheck clang-format shell)
all=("${lint[@]}" imports generated tidy spdx)
case ${1:-check} in
check) names=("${all[@]}") ;;
lint) names=("${lint[@]}") ;;
*) names=("$@") ;;
esac
failed=()
for name in "${names[@]}"; do
	declare -F "check_$name" >/dev/null || {
		echo "check: there is no check $name (${all[*]})" >&2
		exit 2
	}
	# Not as a condition: there bash would ignore set -e in all of the function.
	set +e
	output=$(
		set -e
		"check_$name" 2>&1
	)
	status=$?
	set -e
	if [ $status = 0 ]; then
		printf 'ok    %s\n' "$name"
	else
		printf 'FAIL  %s\n' "$name"
		printf '%s\n' "$output" | sed 's/^/      /'
		failed+=("$name")
	fi
done
[ ${#failed[@]} = 0 ] || {
	echo "check: failed: ${failed[*]}" >&2
	exit 1
}
