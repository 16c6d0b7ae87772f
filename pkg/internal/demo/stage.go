// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
)

// errFatal ends the play; what is wrong has been said.
var errFatal = errors.New("fatal")

// stage lets the test environment run outside of a test: it cleans up at the end, whatever happened.
type stage struct {
	cleanups []func()
}

// run performs the play and returns the exit status.
func (s *stage) run(perform func()) (status int) {
	defer func() {
		for _, f := range slices.Backward(s.cleanups) {
			f()
		}
		if cause := recover(); cause != nil && cause != any(errFatal) {
			panic(cause)
		} else if cause != nil {
			status = 1
		}
	}()
	perform()
	return 0
}

func (s *stage) Helper() {}

func (s *stage) Logf(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

// Fatalf must be called on the goroutine of run.
func (s *stage) Fatalf(format string, args ...any) {
	s.Logf("demo: "+format, args...)
	panic(errFatal)
}

func (s *stage) Cleanup(f func()) { s.cleanups = append(s.cleanups, f) }

func (s *stage) TempDir() string {
	dir, err := os.MkdirTemp("", "synward-demo-")
	if err != nil {
		s.Fatalf("make a temporary directory: %v", err)
	}
	s.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
