// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const lockDir = "/run/synward"

// lock is held while pins are read (shared) or changed (exclusive). The kernel drops it with the
// process, however that ends.
type lock struct{ file *os.File }

// takeLock waits until no writer (shared) or nobody else (exclusive) is at work on dir.
func takeLock(dir pinDir, exclusive bool) (*lock, error) {
	if err := os.MkdirAll(lockDir, 0o700); err != nil {
		return nil, fmt.Errorf("make lock directory: %w", err)
	}
	f, err := os.OpenFile(lockPath(dir), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	how := unix.LOCK_SH
	if exclusive {
		how = unix.LOCK_EX
	}
	for {
		err = unix.Flock(int(f.Fd()), how)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return &lock{f}, nil
}

func (l *lock) release() {
	if l != nil {
		l.file.Close()
	}
}

// lockPath gives each instance a lock of its own; a bpffs holds no ordinary file.
func lockPath(dir pinDir) string {
	name := InstanceName(string(dir))
	if name == "" {
		return filepath.Join(lockDir, "lock")
	}
	return filepath.Join(lockDir, "lock-"+name)
}

// InstanceName tells instances apart by their pin directories, in names of files: 16 hexadecimal digits, or
// nothing for DefaultPinDir.
func InstanceName(dir string) string {
	if dir == DefaultPinDir {
		return ""
	}
	sum := sha256.Sum256([]byte(filepath.Clean(dir)))
	return fmt.Sprintf("%x", sum[:8])
}
