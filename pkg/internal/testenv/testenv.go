// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// T is the part of testing.TB that this package needs. A program that is not a test (a demo) passes its own:
// Fatalf must not return, and the functions given to Cleanup must run last to first.
type T interface {
	Helper()
	Logf(format string, args ...any)
	Fatalf(format string, args ...any)
	Cleanup(func())
	TempDir() string
}

// pollInterval is the pause between two looks at a condition.
const pollInterval = time.Millisecond

// RequireRoot ends the test unless it runs with effective user id 0. It never skips: a test that needs root and
// does not get it has proved nothing.
func RequireRoot(t T) {
	t.Helper()
	if euid := os.Geteuid(); euid != 0 {
		t.Fatalf("this test makes network namespaces and loads BPF programs: run it as root (effective uid is %d)", euid)
	}
}

// WaitFor looks at cond at once and then about once a millisecond until it holds. When it does not hold within
// the deadline the test ends with a line that names what was waited for.
func WaitFor(t T, deadline time.Duration, what string, cond func() bool) {
	t.Helper()
	if !poll(deadline, cond) {
		t.Fatalf("waited %v for: %s", deadline, what)
	}
}

// poll reports whether cond held within the deadline. The last look is never before the deadline.
func poll(deadline time.Duration, cond func() bool) bool {
	end := time.Now().Add(deadline)
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		late := time.Now().After(end)
		if cond() {
			return true
		}
		if late {
			return false
		}
		<-tick.C
	}
}

// BPFFS mounts a fresh bpffs and returns its path; it is unmounted at cleanup, and with it goes every pin. The
// path is visible to the whole mount namespace of the caller. Names below it must hold no dot: bpffs refuses
// them. Some kernels put maps.debug and progs.debug into every new bpffs.
func BPFFS(t T) string {
	t.Helper()
	RequireRoot(t)
	dir := filepath.Join(t.TempDir(), "bpffs")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatalf("make mount point: %v", err)
	}
	if err := unix.Mount("bpffs", dir, "bpf", 0, "mode=0700"); err != nil {
		t.Fatalf("mount bpffs on %s: %v", dir, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Logf("unmount bpffs %s: %v", dir, err)
		}
	})
	return dir
}
