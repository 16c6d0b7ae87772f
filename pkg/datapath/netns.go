// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// netnsCookie names the caller's network namespace for as long as the machine runs (Linux 5.14).
func netnsCookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("read netns cookie: %w", err)
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return 0, fmt.Errorf("read netns cookie: %w: %w", err, ErrUnsupported)
	}
	return cookie, nil
}

// inNetns runs fn on a thread of its own in the namespace at path. The thread ends with it, so a
// namespace can never leak into other goroutines.
func inNetns(path string, fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		handle, err := netns.GetFromPath(path)
		if err != nil {
			done <- err
			return
		}
		defer handle.Close()
		if err := netns.Set(handle); err != nil {
			done <- err
			return
		}
		done <- fn()
	}()
	return <-done
}

// foundNetns is a namespace that could be reached: where, and what to call it.
type foundNetns struct{ path, name string }

// findNetns looks for the namespaces with these cookies among the named ones and those of processes.
// What is not found is held by nothing that has a path.
func findNetns(cookies map[uint64]bool) map[uint64]foundNetns {
	found := map[uint64]foundNetns{}
	named, _ := filepath.Glob("/run/netns/*")
	processes, _ := filepath.Glob("/proc/[0-9]*/ns/net")
	seen := map[uint64]bool{}
	for _, path := range append(named, processes...) {
		if len(found) == len(cookies) {
			break
		}
		info, err := os.Stat(path)
		if err != nil {
			continue
		}
		var st unix.Stat_t
		if unix.Stat(path, &st) != nil || seen[st.Ino] {
			continue
		}
		seen[st.Ino] = true
		noteNetns(path, info.Name(), cookies, found)
	}
	return found
}

func noteNetns(path, name string, cookies map[uint64]bool, found map[uint64]foundNetns) {
	err := inNetns(path, func() error {
		cookie, err := netnsCookie()
		if err != nil || !cookies[cookie] {
			return err
		}
		if filepath.Dir(path) != "/run/netns" {
			name = "process " + filepath.Base(filepath.Dir(filepath.Dir(path)))
		}
		found[cookie] = foundNetns{path, name}
		return nil
	})
	_ = err // a namespace that ended meanwhile, or is closed to us, is just not found
}

// netnsOfInit is where the network namespace that the machine boots with can be found.
const netnsOfInit = "/proc/1/ns/net"

// lastingNames gives the namespaces with these cookies names that hold over a reboot: empty for that of process
// 1, else the one in /run/netns. What has no name is left out.
func lastingNames(cookies map[uint64]bool) (map[uint64]string, error) {
	names := map[uint64]string{}
	named, _ := filepath.Glob("/run/netns/*")
	for _, path := range append([]string{netnsOfInit}, named...) {
		if len(names) == len(cookies) {
			break
		}
		var cookie uint64
		err := inNetns(path, func() (err error) {
			cookie, err = netnsCookie()
			return err
		})
		if err != nil || !cookies[cookie] {
			continue // ended meanwhile, or closed to us
		}
		if _, known := names[cookie]; !known {
			names[cookie] = ""
			if path != netnsOfInit {
				names[cookie] = filepath.Base(path)
			}
		}
	}
	return names, nil
}

// OwnNetns is the caller's network namespace as Place names it. ok is false where it has no name.
func OwnNetns() (name string, ok bool, err error) {
	cookie, err := netnsCookie()
	if err != nil {
		return "", false, err
	}
	names, err := lastingNames(map[uint64]bool{cookie: true})
	name, ok = names[cookie]
	return name, ok, err
}

// InNetns runs fn in a network namespace that Place names. fs.ErrNotExist: there is none of that name now.
func InNetns(name string, fn func() error) error {
	path := netnsOfInit
	if name != "" {
		path = filepath.Join("/run/netns", name)
	}
	return inNetns(path, fn)
}

// eachNetns visits each network namespace that has a name or a process, once. One that ends meanwhile is none.
func eachNetns(visit func(path string) error) error {
	paths := []string{"/proc/self/ns/net"}
	for _, pattern := range []string{"/run/netns/*", "/run/docker/netns/*", "/proc/[0-9]*/ns/net"} {
		more, err := filepath.Glob(pattern)
		if err != nil {
			return fmt.Errorf("find network namespaces: %w", err)
		}
		paths = append(paths, more...)
	}
	seen := map[uint64]bool{}
	var errs []error
	for _, path := range paths {
		var st unix.Stat_t
		if unix.Stat(path, &st) != nil || seen[st.Ino] {
			continue
		}
		seen[st.Ino] = true
		err := visit(path)
		if _, gone := os.Stat(path); err != nil && gone == nil {
			errs = append(errs, fmt.Errorf("network namespace %s: %w", path, err))
		}
	}
	return errors.Join(errs...)
}
