// SPDX-License-Identifier: Apache-2.0

//go:build man

package main

import (
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra/doc"
)

// main writes the man pages of all commands to a directory, and does nothing else: built with the tag man, so that
// what makes them is not part of synward. The date is that of SOURCE_DATE_EPOCH, seconds since 1970, so that the
// same sources make the same pages.
func main() {
	if err := writeMan(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "man: %v\n", err)
		os.Exit(exitFailed)
	}
}

func writeMan(args []string) error {
	if len(args) != 1 {
		return usagef("usage: man DIR")
	}
	seconds, err := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64)
	if err != nil {
		return fmt.Errorf("read SOURCE_DATE_EPOCH: %w", err)
	}
	date := time.Unix(seconds, 0).UTC()
	root := newRootCmd(newEnv())
	root.DisableAutoGenTag = true
	return doc.GenManTree(root, &doc.GenManHeader{
		Title: "SYNWARD", Section: "8", Source: "synward " + buildVersion(), Manual: "System Administration", Date: &date,
	}, args[0])
}
