#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The main job, on network namespaces of its own: see pkg/internal/demo.
set -eu
cd "$(dirname "$0")/.."
if [ "$(id -u)" -ne 0 ]; then
	echo "make demo needs root: run sudo make demo" >&2
	exit 1
fi
exec go run ./pkg/internal/demo bin/synward
