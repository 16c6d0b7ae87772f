// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// cgroupRoot is the root of the cgroup v2 hierarchy, held open.
type cgroupRoot struct {
	file *os.File
	// where is what to call it.
	where string
}

func (r *cgroupRoot) path() string { return "/proc/self/fd/" + strconv.Itoa(int(r.file.Fd())) }

func (r *cgroupRoot) Close() error { return r.file.Close() }

// rootCgroup finds the root of cgroup v2: the mount that shows it, wherever that is, or else a mount of its own
// that is attached nowhere. ErrUnsupported where neither shows the root, as in a container with a cgroup namespace
// of its own.
func rootCgroup() (*cgroupRoot, error) {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	for _, path := range cgroupMounts(mounts) {
		if root, err := openCgroup(path); err == nil {
			return root, nil
		}
	}
	root, err := mountCgroup()
	if err != nil {
		return nil, fail(ErrUnsupported, "the root of cgroup v2 cannot be found (%v): limits of concurrent connections need it; "+
			"run synward in the host's cgroup namespace, or mount it: mount -t cgroup2 none /sys/fs/cgroup/unified", err)
	}
	return root, nil
}

// cgroupMounts are the places where /proc/self/mounts shows cgroup v2. It writes spaces and the like in octal.
func cgroupMounts(mounts []byte) (paths []string) {
	for line := range bytes.Lines(mounts) {
		fields := strings.Fields(string(line))
		if len(fields) > 2 && fields[2] == "cgroup2" {
			path, err := strconv.Unquote(`"` + strings.ReplaceAll(fields[1], `"`, `\"`) + `"`)
			if err == nil {
				paths = append(paths, path)
			}
		}
	}
	return paths
}

func openCgroup(path string) (*cgroupRoot, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	return checkRoot(&cgroupRoot{file, path})
}

// checkRoot: only a cgroup that has a parent says whether it is populated.
func checkRoot(r *cgroupRoot) (*cgroupRoot, error) {
	err := unix.Faccessat(int(r.file.Fd()), "cgroup.events", unix.F_OK, 0)
	if errors.Is(err, unix.ENOENT) {
		return r, nil
	}
	if err == nil {
		err = fmt.Errorf("%s is not the root", r.where)
	}
	return nil, errors.Join(err, r.Close())
}

// mountCgroup mounts it where nobody sees it, for as long as it is open.
func mountCgroup() (*cgroupRoot, error) {
	context, err := unix.Fsopen("cgroup2", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("open cgroup2: %w", err)
	}
	defer unix.Close(context)
	if err := unix.FsconfigCreate(context); err != nil {
		return nil, fmt.Errorf("make cgroup2: %w", err)
	}
	fd, err := unix.Fsmount(context, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("mount cgroup2: %w", err)
	}
	return checkRoot(&cgroupRoot{os.NewFile(uintptr(fd), "cgroup2"), "the mount of its own"})
}

// cgroupDetail is what `doctor` says of the root.
func cgroupDetail() string {
	root, err := rootCgroup()
	if err != nil {
		return "not found: limits of concurrent connections are refused: " + err.Error()
	}
	defer root.Close()
	return root.where
}
