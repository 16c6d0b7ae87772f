// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// runNetns is where ip-netns(8) and nsenter users look for named namespaces.
const runNetns = "/run/netns"

// Namespace is a network namespace of its own, with lo up and duplicate address detection off. Its methods may
// be called from any goroutine. After cleanup they fail.
type Namespace struct {
	name   string
	handle netns.NsHandle
	nl     *netlink.Handle
	cookie uint64
}

// NewNamespace makes a fresh namespace named synward-test-PID-N-name under /run/netns and removes it at cleanup.
func NewNamespace(t T, name string) *Namespace {
	t.Helper()
	RequireRoot(t)
	path, err := reserveName(name)
	if err != nil {
		t.Fatalf("name namespace %s: %v", name, err)
	}
	ns := &Namespace{name: filepath.Base(path), handle: netns.None()}
	t.Cleanup(func() {
		if err := ns.close(); err != nil {
			t.Logf("remove namespace %s: %v", ns.name, err)
		}
	})
	if err := ns.create(); err != nil {
		t.Fatalf("make namespace %s: %v", ns.name, err)
	}
	return ns
}

// reserveName makes the empty file that the namespace is mounted on; making it with O_EXCL is what keeps names
// unique between tests and between processes.
func reserveName(name string) (string, error) {
	if name == "" || strings.ContainsAny(name, "/. ") {
		return "", fmt.Errorf("%q is empty or holds a slash, a dot or a space", name)
	}
	if err := os.MkdirAll(runNetns, 0o755); err != nil {
		return "", err
	}
	for n := 0; ; n++ {
		path := filepath.Join(runNetns, fmt.Sprintf("synward-test-%d-%d-%s", os.Getpid(), n, name))
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
		if errors.Is(err, os.ErrExist) {
			continue
		}
		if err != nil {
			return "", err
		}
		return path, f.Close()
	}
}

func (ns *Namespace) create() error {
	if err := mountNewNetns(ns.Path()); err != nil {
		return err
	}
	var err error
	if ns.handle, err = netns.GetFromPath(ns.Path()); err != nil {
		return fmt.Errorf("open: %w", err)
	}
	if ns.nl, err = netlink.NewHandleAt(ns.handle, unix.NETLINK_ROUTE); err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	// Before any interface is made: an interface takes what "default" says when it is born.
	for _, key := range []string{
		"net/ipv6/conf/all/accept_dad", "net/ipv6/conf/default/accept_dad",
		"net/ipv6/conf/default/dad_transmits", "net/ipv6/conf/default/router_solicitations",
	} {
		if err := ns.SetSysctl(key, "0"); err != nil {
			return err
		}
	}
	if err := ns.LinkUp("lo"); err != nil {
		return err
	}
	return ns.Do(func() error {
		ns.cookie, err = readCookie()
		return err
	})
}

// mountNewNetns leaves a new namespace mounted on path. The thread that made it is thrown away.
func mountNewNetns(path string) error {
	errs := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			errs <- fmt.Errorf("unshare: %w", err)
			return
		}
		if err := unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, ""); err != nil {
			errs <- fmt.Errorf("mount: %w", err)
			return
		}
		errs <- nil
	}()
	return <-errs
}

func (ns *Namespace) close() error {
	if ns.nl != nil {
		ns.nl.Close()
	}
	if ns.handle.IsOpen() {
		_ = ns.handle.Close()
	}
	// EINVAL: creation failed before the mount.
	if err := unix.Unmount(ns.Path(), unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("unmount: %w", err)
	}
	return os.Remove(ns.Path())
}

// Name is the name under /run/netns.
func (ns *Namespace) Name() string { return ns.name }

// Path is the file to give to `nsenter --net=`.
func (ns *Namespace) Path() string { return filepath.Join(runNetns, ns.name) }

// Handle is an open file descriptor of the namespace; it belongs to ns, do not close it.
func (ns *Namespace) Handle() netns.NsHandle { return ns.handle }

// Netlink is a route-netlink connection inside ns, for what this package has no method for; do not close it.
func (ns *Namespace) Netlink() *netlink.Handle { return ns.nl }

// Cookie is the number by which the kernel tells namespaces apart (SO_NETNS_COOKIE, bpf_get_netns_cookie). It is
// never reused while the machine runs.
func (ns *Namespace) Cookie() uint64 { return ns.cookie }

func readCookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open socket: %w", err)
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return 0, fmt.Errorf("read SO_NETNS_COOKIE: %w", err)
	}
	return cookie, nil
}

// Do runs fn on an OS thread inside ns and returns its error. It does not hide the caller's mounts, so pins in a
// bpffs stay reachable. Sockets that fn opens, and /proc/sys/net, belong to ns; goroutines that fn starts do not
// run inside it. Do may be nested. When fn ends its goroutine (t.Fatal) Do ends that of the caller.
func (ns *Namespace) Do(fn func() error) error {
	var err error
	returned := false
	done := make(chan struct{})
	go func() {
		defer close(done)
		var leave func()
		if leave, err = ns.enter(); err != nil {
			returned = true
			return
		}
		defer leave()
		err = fn()
		returned = true
	}()
	<-done
	if !returned {
		runtime.Goexit()
	}
	return err
}

// enter moves the calling goroutine, locked to its thread, into ns. leave moves it back; if it cannot, the
// thread stays locked, and Go ends it together with the goroutine.
func (ns *Namespace) enter() (leave func(), err error) {
	runtime.LockOSThread()
	home, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return nil, fmt.Errorf("open own namespace: %w", err)
	}
	if err := netns.Set(ns.handle); err != nil {
		_ = home.Close()
		runtime.UnlockOSThread()
		return nil, fmt.Errorf("enter namespace %s: %w", ns.name, err)
	}
	return func() {
		if netns.Set(home) == nil {
			runtime.UnlockOSThread()
		}
		_ = home.Close()
	}, nil
}

// Command prepares a program that runs inside ns with the caller's mounts. nsenter(1) must be in PATH.
func (ns *Namespace) Command(name string, args ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{"--net=" + ns.Path(), "--", name}, args...)...)
}

// SetSysctl writes a setting below /proc/sys as ns sees it; key is separated by dots or slashes
// ("net.ipv4.tcp_syncookies"). A name of an interface with a dot needs slashes.
func (ns *Namespace) SetSysctl(key, value string) error {
	return ns.Do(func() error {
		if err := os.WriteFile(sysctlPath(key), []byte(value), 0); err != nil {
			return fmt.Errorf("set %s=%s: %w", key, value, err)
		}
		return nil
	})
}

// Sysctl reads a setting as ns sees it, without the newline.
func (ns *Namespace) Sysctl(key string) (string, error) {
	var value string
	err := ns.Do(func() error {
		b, err := os.ReadFile(sysctlPath(key))
		value = strings.TrimSpace(string(b))
		return err
	})
	return value, err
}

func sysctlPath(key string) string {
	if !strings.Contains(key, "/") {
		key = strings.ReplaceAll(key, ".", "/")
	}
	return "/proc/sys/" + key
}
