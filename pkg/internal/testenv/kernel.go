// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"
)

// KernelMajor is the first number of the running kernel's version.
func KernelMajor(t testing.TB) (major int) {
	t.Helper()
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscanf(unix.ByteSliceToString(uts.Release[:]), "%d.", &major); err != nil {
		t.Fatal(err)
	}
	return major
}
