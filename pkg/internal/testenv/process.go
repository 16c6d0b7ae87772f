// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// killDeadline bounds the wait for killed processes to go.
const killDeadline = 10 * time.Second

// Processes lists the processes that live in ns: all their threads are there. A thread alone is there for the time
// of a Do, or of a look through all namespaces, and may be the first of its process.
func (ns *Namespace) Processes() ([]int, error) {
	var home unix.Stat_t
	if err := unix.Fstat(int(ns.handle), &home); err != nil {
		return nil, fmt.Errorf("list processes of %s: %w", ns.name, err)
	}
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var found []int
	for _, dir := range processes {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err == nil && pid != os.Getpid() && livesIn(dir, home) {
			found = append(found, pid)
		}
	}
	return found, nil
}

// livesIn goes by the threads of a process that still run.
func livesIn(process string, netns unix.Stat_t) bool {
	threads, _ := filepath.Glob(filepath.Join(process, "task/*/ns/net"))
	lives := false
	for _, link := range threads {
		var st unix.Stat_t
		if unix.Stat(link, &st) != nil {
			continue
		}
		if st.Ino != netns.Ino || st.Dev != netns.Dev {
			return false
		}
		lives = true
	}
	return lives
}

// KillAll kills every process that lives in ns, also those that a daemon left behind, and waits until there is
// none. Somebody else may have to reap them.
func (ns *Namespace) KillAll() error {
	var left []int
	var err error
	if !poll(killDeadline, func() bool {
		if left, err = ns.Processes(); err != nil {
			return true
		}
		for _, pid := range left {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		return len(left) == 0
	}) {
		return fmt.Errorf("kill processes of %s: still there after %v: %v", ns.name, killDeadline, left)
	}
	return err
}
