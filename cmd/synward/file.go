// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/synward/synward/pkg/policy"
)

// fromStdin stands for standard input in place of a file.
const fromStdin = "-"

// maxPolicyFile is more than package policy reads, so that it is the one to say so.
const maxPolicyFile = 64 << 20

// fileFlag adds -f.
func fileFlag(cmd *cobra.Command, file *string) {
	cmd.Flags().StringVarP(file, "file", "f", "", "`FILE` with the policy; - reads standard input")
	// The flag is there: an error cannot be.
	_ = cmd.MarkFlagFilename("file", "yaml", "yml")
}

// readPolicy reads a policy file. The lists that it names are looked for beside it.
func (e *env) readPolicy(file string) (*policy.Policy, error) {
	name, dir := file, filepath.Dir(file)
	text, err := []byte(nil), error(nil)
	if file == fromStdin {
		name, dir = "standard input", ""
		text, err = io.ReadAll(io.LimitReader(e.stdin, maxPolicyFile))
	} else {
		text, err = readFile(file)
	}
	if err != nil {
		return nil, usagef("read policy: %v", err)
	}
	return policy.Parse(name, text, func(path string) ([]byte, error) {
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, path)
		}
		return os.ReadFile(path)
	})
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxPolicyFile))
}
