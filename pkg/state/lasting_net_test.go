// SPDX-License-Identifier: Apache-2.0

package state

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/internal/testenv"
)

// How often a change is broken off; a VM without hardware support takes ten times as long for each.
const (
	breaks   = 50
	breaksVM = 6
)

// eachBreak calls test with a random source whose seed is logged and set by SYNWARD_TEST_SEED.
func eachBreak(t *testing.T, test func(n int, random *rand.Rand)) {
	seed := uint64(time.Now().UnixNano())
	if s, err := strconv.ParseUint(os.Getenv("SYNWARD_TEST_SEED"), 10, 64); err == nil {
		seed = s
	}
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	times := breaks
	if os.Getenv("SYNWARD_VM") != "" {
		times = breaksVM
	}
	for n := range times {
		test(n, random)
	}
}

// anyChange is a change whose saving takes each of the ways: the journal, the rest, all anew.
func anyChange(n int, random *rand.Rand) string {
	return fmt.Sprintf("%s %d", []string{"block", "unblock", "apply", "feed", "unfeed"}[random.IntN(5)], 1+(n+random.IntN(3))%20)
}

// Killed at any moment, what is saved is the state before the change or the one after it, and after the next
// command it is what the kernel holds.
func TestKilledChangeIsSavedOrNot(t *testing.T) {
	h := newHost(t)
	start := time.Now()
	h.run("apply 1")
	whole := time.Since(start)
	was := map[string]int{}
	eachBreak(t, func(n int, random *rand.Rand) {
		before := h.saved()
		what := anyChange(n, random)
		cmd := h.command(what)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		timer := time.AfterFunc(time.Duration(random.Int64N(int64(whole)*5/4)), func() { _ = cmd.Process.Kill() })
		err := cmd.Wait()
		timer.Stop()
		var exit *exec.ExitError
		if err != nil && (!errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != unix.SIGKILL) {
			t.Fatalf("%s failed by itself: %v", what, err)
		}
		after, held := h.saved(), h.inKernel()
		switch {
		case after == held:
			was["saved"]++
		case after == before:
			was["in force, not saved"]++
		default:
			t.Fatalf("%s, killed: saved is neither what it was (-)\n%s\nnor what the kernel holds (-)\n%s", what,
				difference(before, after), difference(held, after))
		}
		h.run(fmt.Sprintf("block %d", 500+n))
		h.agree("after the next command")
	})
	t.Logf("%v", was)
}

// What holds no feed is saved in the words of versions that know none; one that does not know feeds is told so by the
// format.
func TestFeedsHaveAFormat(t *testing.T) {
	h := newHost(t)
	saved := func() (format int, lists, journal string) {
		newest, err := h.store().head()
		if err != nil {
			t.Fatal(err)
		}
		read := func(name string) string { return string(must[[]byte](t)(os.ReadFile(h.store().path(name)))) }
		return newest.Format, read(newest.Lists.File), read(newest.Journal)
	}
	for _, step := range []struct {
		what   string
		format int
	}{
		{"block 1", formatPlain}, {"unblock 1", formatPlain}, {"apply 3", formatPlain}, {"feed 7", formatFeeds}, {"block 2", formatFeeds},
		{"feed 8", formatFeeds}, {"apply 4", formatFeeds}, {"unfeed 7", formatFeeds}, {"unfeed 8", formatPlain}, {"unblock 2", formatPlain},
	} {
		h.run(step.what)
		format, lists, journal := saved()
		if format != step.format {
			t.Errorf("%s: saved in format %d, want %d", step.what, format, step.format)
		}
		if format == formatPlain && (strings.Contains(lists+journal, "feed") || strings.Contains(journal, "\t\n")) {
			t.Errorf("%s: saved in the format without feeds:\n%s\n%s", step.what, lists, journal)
		}
		h.agree(step.what)
	}
}

// A full disk fails the command, which says that its change is in force and not saved.
func TestFullDisk(t *testing.T) {
	h := newHost(t)
	h.onSmallDisk()
	h.run("apply 1")
	failed := 0
	eachBreak(t, func(n int, random *rand.Rand) {
		before, what := h.saved(), anyChange(n, random)
		filler := h.fill(random.IntN(4))
		out, err := h.command(what).CombinedOutput()
		if err != nil {
			failed++
			if !strings.Contains(string(out), "not saved") || !strings.Contains(string(out), "no space left") {
				t.Fatalf("%s on a full disk: %v: %s", what, err, out)
			}
			if after := h.saved(); after != before {
				t.Fatalf("%s on a full disk changed what is saved:\n%s", what, difference(before, after))
			}
		}
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
		h.run(fmt.Sprintf("block %d", 500+n))
		h.agree("with room again")
	})
	if failed == 0 {
		t.Error("no change met a full disk: the test shows nothing")
	}
	t.Logf("%d changes met a full disk", failed)
}

// onSmallDisk puts the state on a file system of its own, of a few pages.
func (h *host) onSmallDisk() {
	h.t.Helper()
	disk := h.t.TempDir()
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=1m"); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = unix.Unmount(disk, unix.MNT_DETACH) })
	h.dir = disk + "/state"
}

// fill leaves so many pages of it free.
func (h *host) fill(pages int) (name string) {
	h.t.Helper()
	name = h.dir + "/../filler"
	var fs unix.Statfs_t
	if err := unix.Statfs(h.dir, &fs); err != nil {
		h.t.Fatal(err)
	}
	size := (int64(fs.Bavail) - int64(pages)) * fs.Bsize
	if err := os.WriteFile(name, make([]byte, max(size, 0)), 0o600); err != nil {
		h.t.Fatal(err)
	}
	return name
}

// Two policies are applied and a list is changed at once, while others look: one after the other, nobody sees
// half of anything, and nobody waits for ever.
func TestCommandsAtOnce(t *testing.T) {
	h := newHost(t)
	var all sync.WaitGroup
	for w, commands := range [][]string{
		{"apply 3", "apply 4"}, {"apply 5", "apply 6"}, {"block 7", "unblock 7"}, {"block 8", "block 9"}, {"read 0", "read 0"},
		{"read 0", "read 0"},
	} {
		all.Go(func() {
			for n := range 10 {
				what := commands[n%2]
				if out, err := h.command(what).CombinedOutput(); err != nil {
					t.Errorf("worker %d, %s: %v: %s", w, what, err, out)
				}
			}
		})
	}
	all.Wait()
	h.agree("after all")
}

// What is restored after a reboot is what was there, each block with the time that it has left.
func TestRebootRestores(t *testing.T) {
	h := newHost(t)
	h.run("apply 3")
	h.run("apply 4")
	h.run("feed 7")
	h.run("feed 8")
	var entries []datapath.Entry
	now := time.Now()
	for n := range 20_000 {
		e := datapath.Entry{Prefix: address(n), Scope: datapath.ScopeAll, Origin: "operator", Created: time.Unix(int64(n), 0), By: "test"}
		if n%2 == 0 {
			e.Expires = now.Add(time.Hour + time.Duration(n)*time.Second)
		}
		if n%7 == 0 {
			e.Prefix = netip.PrefixFrom(e.Prefix.Addr(), 25).Masked()
		}
		entries = append(entries, e)
	}
	// Beside a feed's entry, and beside one of an operator.
	for _, banned := range []netip.Prefix{address(9), address(500)} {
		entries = append(entries, datapath.Entry{
			Prefix: banned, Scope: datapath.ScopeAll, Origin: datapath.OriginAuto, Expires: now.Add(time.Hour),
			Ban: &datapath.Ban{Strikes: 3, Repeats: 2, Fades: time.Hour},
		})
	}
	h.change(func(i *datapath.Instance) error { return i.Load(datapath.Block, entries) })
	h.change(func(i *datapath.Instance) error {
		return i.Add(datapath.Allow, []datapath.Entry{{Prefix: netip.MustParsePrefix("2001:db8::/32"), Scope: datapath.ScopeAll, Origin: "operator", Created: now}})
	})
	before := h.inKernel()
	h.agree("before the reboot")
	h.reboot()
	var restored []Restored
	err := h.Server.Do(func() (err error) {
		restored, err = h.store().Restore(RestoreOptions{PinDir: h.pinDir, By: "test"})
		return err
	})
	if err != nil || len(restored) != 1 || restored[0].Err != nil || restored[0].Missing {
		t.Fatalf("restored %+v: %v", restored, err)
	}
	if after := h.inKernel(); after != before {
		t.Errorf("before the reboot (-) and after it (+):\n%s", difference(before, after))
	}
	h.agree("after the reboot")
}

// From the first packet on an interface that was restored, its policy and lists are in force.
func TestFirstPacketAfterRestoreIsJudged(t *testing.T) {
	h := newHost(t)
	server := testenv.NewServer(t, h.Server, netip.AddrPortFrom(h.ServerIP4, 8080), testenv.ServerOptions{})
	h.change(func(i *datapath.Instance) error {
		return i.Add(datapath.Block, []datapath.Entry{{Prefix: netip.PrefixFrom(h.ClientIP4, 32), Scope: datapath.ScopeAll, Origin: "operator", Created: time.Now()}})
	})
	h.reboot()
	// The kernel takes a link off its hook a moment after its last pin is gone.
	testenv.WaitFor(t, 20*time.Second, "the client to get through without an instance", func() bool {
		return testenv.Connect(h.Client, h.ClientIP4, server.Addr(), time.Second) == nil
	})
	// The client asks all the time while the instance comes back: from the moment that the hook is there, nothing
	// of it may pass.
	done := make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				_ = testenv.Connect(h.Client, h.ClientIP4, server.Addr(), 20*time.Millisecond)
			}
		}
	})
	err := h.Server.Do(func() error {
		_, err := h.store().Restore(RestoreOptions{PinDir: h.pinDir, By: "test"})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	testenv.WaitFor(t, 10*time.Second, "a packet to be refused", func() bool { return h.count("blocked") > 0 })
	close(done)
	all.Wait()
	for _, reason := range []string{"under_limit", "established", "over_new", "allowed"} {
		if n := h.count(reason); n > 0 {
			t.Errorf("%d packets of the blocked client ended as %s", n, reason)
		}
	}
}

func (h *host) count(reason string) (n uint64) {
	h.t.Helper()
	h.look(func(i *datapath.Instance) error {
		totals, err := i.Totals()
		for _, one := range totals {
			if one.Reason == reason {
				n = one.Packets
			}
		}
		return err
	})
	return n
}

// A policy that waits for its confirmation is none to come back to.
func TestUnconfirmedIsNotSaved(t *testing.T) {
	h := newHost(t)
	h.run("apply 3")
	before := h.saved()
	h.change(func(i *datapath.Instance) error {
		return i.Apply(datapath.ApplyOptions{Policy: hourly(9), By: "test", Confirm: time.Hour})
	})
	if after := h.saved(); after != before {
		t.Errorf("what is saved has changed:\n%s", difference(before, after))
	}
	h.change(func(i *datapath.Instance) error {
		_, err := i.Confirm()
		return err
	})
	h.agree("after confirm")
	if !strings.Contains(h.saved(), "9/h") {
		t.Errorf("the policy that was confirmed is not saved:\n%s", h.saved())
	}
}

// The journal is folded into the lists before it outgrows them.
func TestJournalIsFolded(t *testing.T) {
	h := newHost(t)
	h.run("apply 3")
	base := h.lists()
	entries := make([]datapath.Entry, 20_000)
	for n := range entries {
		entries[n] = datapath.Entry{Prefix: address(n), Scope: datapath.ScopeAll, Origin: "operator", Created: time.Now(), By: strings.Repeat("x", 20)}
	}
	add := func(i *datapath.Instance) error { return i.Add(datapath.Block, entries) }
	for range 3 {
		h.change(add)
	}
	if h.lists() != base {
		t.Error("the lists were written anew while the journal was small")
	}
	for range 3 {
		h.change(add)
	}
	if h.lists() == base {
		t.Error("the lists were never written anew")
	}
	h.agree("after it")
}

func (h *host) lists() string {
	newest, err := h.store().head()
	if err != nil || newest == nil {
		h.t.Fatalf("nothing is saved: %v", err)
	}
	return newest.Lists.File
}
