// SPDX-License-Identifier: Apache-2.0

// Package examples owns the policy files that the packages bring along, so that tests can apply each, also where
// the sources are not. It must not know what is in them.
package examples

import (
	"embed"
	"io/fs"
)

//go:embed *.yaml
var files embed.FS

// Files holds the policy files, by their names.
func Files() fs.FS { return files }
