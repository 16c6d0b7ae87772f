// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Tool finds a program that a test runs, also where root's directories are not in PATH. Without it the test
// fails; only in the guests of test-vm, which have no packages, it is skipped.
func Tool(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if err != nil {
			path, err = exec.LookPath(filepath.Join(dir, name))
		}
	}
	if err == nil {
		return path
	}
	if os.Getenv("SYNWARD_VM") != "" {
		t.Skipf("this guest has no %s: scripts/vm/initramfs.py packs only what tests of the kernel need", name)
	}
	t.Fatalf("this test needs %s: scripts/setup.sh test installs it", name)
	return ""
}
