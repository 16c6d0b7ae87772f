// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// recorder is a T that notes what is done to it and runs cleanups on demand.
type recorder struct {
	testing.TB
	fatal    string
	cleanups []func()
}

func (r *recorder) Helper()          {}
func (r *recorder) Cleanup(f func()) { r.cleanups = append(r.cleanups, f) }
func (r *recorder) Fatalf(format string, args ...any) {
	r.fatal = fmt.Sprintf(format, args...)
}

func (r *recorder) finish() {
	for i := len(r.cleanups) - 1; i >= 0; i-- {
		r.cleanups[i]()
	}
}

func TestWaitFor(t *testing.T) {
	looks := 0
	WaitFor(t, time.Minute, "the third look", func() bool { looks++; return looks == 3 })
	if looks != 3 {
		t.Errorf("looked %d times, want 3", looks)
	}
	r := &recorder{TB: t}
	WaitFor(r, 2*time.Millisecond, "the impossible", func() bool { return false })
	if !strings.Contains(r.fatal, "the impossible") {
		t.Errorf("failure reads %q, want it to name what was waited for", r.fatal)
	}
}

func TestNamespaceIsOwnAndVanishes(t *testing.T) {
	r := &recorder{TB: t}
	a, b := NewNamespace(r, "a"), NewNamespace(r, "a")
	if a.Name() == b.Name() || a.Cookie() == b.Cookie() || a.Cookie() == 0 {
		t.Errorf("two namespaces are not apart: %s %d, %s %d", a.Name(), a.Cookie(), b.Name(), b.Cookie())
	}
	out, err := a.Command("readlink", "/proc/self/ns/net").Output()
	if err != nil {
		t.Fatal(err)
	}
	var inside string
	if err := a.Do(func() error { inside, err = os.Readlink("/proc/thread-self/ns/net"); return err }); err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(string(out)); got != inside {
		t.Errorf("Command runs in %s, Do in %s", got, inside)
	}
	if !a.LinkReady("lo") {
		t.Error("lo is not up")
	}
	r.finish()
	for _, ns := range []*Namespace{a, b} {
		if _, err := os.Stat(ns.Path()); !os.IsNotExist(err) {
			t.Errorf("%s is still there after cleanup: %v", ns.Path(), err)
		}
	}
}

func TestDoReturnsHome(t *testing.T) {
	a, b := NewNamespace(t, "a"), NewNamespace(t, "b")
	want := fmt.Errorf("from inside")
	home, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer home.Close()
	for range 50 {
		err := a.Do(func() error {
			if err := b.Do(func() error { return expectCookie(b) }); err != nil {
				return err
			}
			if err := expectCookie(a); err != nil {
				return err
			}
			return want
		})
		if err != want {
			t.Fatalf("Do returned %v, want the function's error", err)
		}
	}
	now, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer now.Close()
	if !now.Equal(home) {
		t.Error("the caller is not where it was")
	}
}

func expectCookie(ns *Namespace) error {
	got, err := readCookie()
	if err == nil && got != ns.Cookie() {
		err = fmt.Errorf("inside cookie %d, want that of %s, %d", got, ns.Name(), ns.Cookie())
	}
	return err
}

func TestDoPassesOnTheEndOfTheGoroutine(t *testing.T) {
	ns := NewNamespace(t, "a")
	ended := make(chan bool)
	go func() {
		after := false
		defer func() { ended <- !after }()
		_ = ns.Do(func() error { runtime.Goexit(); return nil })
		after = true
	}()
	if !<-ended {
		t.Error("the caller went on although the function ended its goroutine")
	}
}

func TestSysctlIsThatOfTheNamespace(t *testing.T) {
	a, b := NewNamespace(t, "a"), NewNamespace(t, "b")
	const key = "net.ipv4.tcp_syncookies"
	if err := a.SetSysctl(key, "2"); err != nil {
		t.Fatal(err)
	}
	for ns, want := range map[*Namespace]string{a: "2", b: "1"} {
		if got, err := ns.Sysctl(key); err != nil || got != want {
			t.Errorf("%s in %s is %q (%v), want %s", key, ns.Name(), got, err, want)
		}
	}
}

func TestBPFFS(t *testing.T) {
	r := &recorder{TB: t}
	dir := BPFFS(r)
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil || st.Type != unix.BPF_FS_MAGIC {
		t.Fatalf("%s has type %#x (%v), want bpffs", dir, st.Type, err)
	}
	if err := os.Mkdir(filepath.Join(dir, "maps"), 0o700); err != nil {
		t.Error(err)
	}
	ns := NewNamespace(t, "a")
	if err := ns.Do(func() error { _, err := os.Stat(filepath.Join(dir, "maps")); return err }); err != nil {
		t.Errorf("bpffs cannot be seen from inside a namespace: %v", err)
	}
	if out, err := ns.Command("ls", filepath.Join(dir, "maps")).CombinedOutput(); err != nil {
		t.Errorf("a program inside a namespace does not see the bpffs: %v: %s", err, out)
	}
	r.finish()
	if err := unix.Statfs(dir, &st); err != nil || st.Type == unix.BPF_FS_MAGIC {
		t.Errorf("bpffs is still mounted (%v)", err)
	}
}
