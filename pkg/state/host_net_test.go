// SPDX-License-Identifier: Apache-2.0

package state

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/feed"
	"github.com/synward/synward/pkg/internal/testenv"
	"github.com/synward/synward/pkg/policy"
)

// childVariable makes the test binary a command that can be killed: what it does, the pin directory and the
// state directory, with commas between them.
const childVariable = "SYNWARD_TEST_CHILD"

func TestMain(m *testing.M) {
	if what := strings.Split(os.Getenv(childVariable), ","); len(what) == 3 {
		if err := child(what[0], what[1], what[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// child is what commands do: "block 7" puts the seventh address on the block list, "unblock 7" takes it off,
// "feed 7" has a feed name the seventh and five more, "unfeed 7" takes that feed off, "apply 7" puts the limit 7/h in force, "attach 0" attaches, "read 0" looks at all there is.
func child(what, pinDir, dir string) error {
	verb, text, _ := strings.Cut(what, " ")
	n, err := strconv.Atoi(text)
	if err != nil {
		return err
	}
	store := Open(dir, func(line string) { fmt.Fprintln(os.Stderr, "warning:", line) })
	switch verb {
	case "attach":
		_, err := datapath.Attach(datapath.AttachOptions{PinDir: pinDir, Interface: "srv0", Mode: datapath.ModeAuto, Keeper: store, By: "test"})
		return err
	case "read":
		return readAll(pinDir)
	}
	i, err := datapath.OpenForChange(pinDir)
	if err != nil {
		return err
	}
	i.KeepWith(store)
	return errors.Join(change(i, verb, n), i.Close())
}

func change(i *datapath.Instance, verb string, n int) error {
	switch verb {
	case "block":
		e := datapath.Entry{Prefix: address(n), Scope: datapath.ScopeAll, Origin: "operator", By: "test", Created: time.Unix(int64(n), 0)}
		return i.Add(datapath.Block, []datapath.Entry{e})
	case "unblock":
		_, err := i.Remove(datapath.Block, []netip.Prefix{address(n)})
		return err
	case "feed":
		return loadFeed(i, n)
	case "unfeed":
		_, _, err := i.RemoveFeed(feedName(n))
		return err
	case "apply":
		return i.Apply(datapath.ApplyOptions{Policy: hourly(n), By: "test"})
	}
	return fmt.Errorf("unknown %q", verb)
}

func feedName(n int) string { return fmt.Sprintf("feed-%d", n%3) }

// loadFeed has one of three feeds name six addresses, which others name too; every second time for a day.
func loadFeed(i *datapath.Instance, n int) error {
	f := datapath.Feed{Name: feedName(n), List: datapath.Block, Scope: datapath.ScopeAll, By: "test", Loaded: time.Unix(int64(n), 0)}
	if n%2 == 0 {
		f.Scope, f.Expires = datapath.ScopeNew, time.Now().Add(24*time.Hour).Truncate(time.Hour)
	}
	var prefixes []netip.Prefix
	for k := range 6 {
		prefixes = append(prefixes, address(n+k))
	}
	_, err := i.LoadFeed(datapath.FeedOptions{Feed: f, Set: feed.NewSet(prefixes), Shrink: true})
	return err
}

// readAll wants a whole policy, hourly(n) with address(n) on its block list, and the list to be readable.
func readAll(pinDir string) error {
	i, err := datapath.Open(pinDir)
	if err != nil {
		return err
	}
	defer i.Close()
	p, err := i.PolicyInForce()
	if err != nil {
		return err
	}
	entries, err := i.Entries(datapath.Block)
	if err != nil || len(p.Services[0].Limits) == 0 {
		return err
	}
	n := int(p.Services[0].Limits[0].Rate.Count)
	var named []datapath.Entry
	for _, e := range entries {
		if e.Origin == "policy" {
			named = append(named, e)
		}
	}
	if len(named) != 1 || named[0].Prefix != address(1000+n) {
		return fmt.Errorf("under %d/h the policy's block list is %v", n, named)
	}
	return nil
}

func address(n int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), 32)
}

// hourly allows n an hour, and blocks an address that only it blocks.
func hourly(n int) *policy.Policy {
	p := policy.Default(&policy.NewLimit{Rate: policy.Rate{Count: uint64(n), Period: time.Hour}, Burst: uint64(n)})
	p.Block.Prefixes = []netip.Prefix{address(1000 + n)}
	return p
}

// host is a machine with an instance on srv0 that is saved.
type host struct {
	*testenv.Pair
	t           *testing.T
	bpffs       string
	pinDir, dir string
}

func newHost(t *testing.T) *host {
	h := &host{Pair: testenv.NewPair(t, testenv.PairOptions{}), t: t, bpffs: testenv.BPFFS(t)}
	h.pinDir, h.dir = filepath.Join(h.bpffs, "synward"), filepath.Join(t.TempDir(), "state")
	t.Cleanup(func() {
		_ = h.Server.Do(func() error {
			_, err := datapath.DetachAll(h.pinDir)
			return err
		})
	})
	h.run("attach 0")
	return h
}

func (h *host) command(what string) *exec.Cmd {
	self, err := os.Executable()
	if err != nil {
		h.t.Fatal(err)
	}
	cmd := h.Server.Command(self)
	cmd.Env = append(os.Environ(), childVariable+"="+strings.Join([]string{what, h.pinDir, h.dir}, ","), "GORACE=atexit_sleep_ms=0")
	return cmd
}

func (h *host) run(what string) {
	h.t.Helper()
	if out, err := h.command(what).CombinedOutput(); err != nil {
		h.t.Fatalf("%s: %v: %s", what, err, out)
	}
}

// reboot takes away all that the kernel holds.
func (h *host) reboot() {
	h.t.Helper()
	if err := errors.Join(unix.Unmount(h.bpffs, unix.MNT_DETACH), unix.Mount("bpffs", h.bpffs, "bpf", 0, "mode=0700")); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) store() *Store {
	return Open(h.dir, func(line string) { h.t.Logf("warning: %s", line) })
}

// change does something to the instance in this process.
func (h *host) change(f func(i *datapath.Instance) error) {
	h.t.Helper()
	err := h.Server.Do(func() error {
		i, err := datapath.OpenForChange(h.pinDir)
		if err != nil {
			return err
		}
		i.KeepWith(h.store())
		return errors.Join(f(i), i.Close())
	})
	if err != nil {
		h.t.Fatal(err)
	}
}

// view is what is to be kept, as text.
func view(interfaces []string, policies []datapath.Applied, entries []string) string {
	slices.Sort(interfaces)
	slices.Sort(entries)
	lines := []string{"interfaces " + strings.Join(interfaces, " ")}
	for _, a := range policies {
		text := a.Policy.YAML()
		lines = append(lines, fmt.Sprintf("policy by %s at %d: %s", a.By, a.At.Unix(), text))
	}
	return strings.Join(append(lines, entries...), "\n")
}

func entryText(l datapath.List, e datapath.Entry) string {
	e.Hits = 0
	e.Expires = e.Expires.Round(time.Second)
	return string(appendEntry(nil, l, e))
}

func feedText(f datapath.Feed) string {
	f.Expires = f.Expires.Round(time.Minute)
	return string(appendFeed(nil, f))
}

func (h *host) inKernel() string {
	h.t.Helper()
	var out string
	h.look(func(i *datapath.Instance) error {
		attached, _, err := i.Attached()
		if err != nil {
			return err
		}
		var interfaces, entries []string
		for _, a := range attached {
			interfaces = append(interfaces, a.Place.String())
		}
		kept, err := i.Kept()
		feeds, feedsErr := i.Feeds()
		err = errors.Join(err, feedsErr)
		for _, f := range feeds {
			entries = append(entries, feedText(f))
		}
		for _, l := range []datapath.List{datapath.Allow, datapath.Block} {
			err = errors.Join(err, i.KeptEntries(l, func(e datapath.Entry) error {
				entries = append(entries, entryText(l, e))
				return nil
			}))
		}
		out = view(interfaces, kept, entries)
		return err
	})
	return out
}

func (h *host) look(f func(i *datapath.Instance) error) {
	h.t.Helper()
	err := h.Server.Do(func() error {
		i, err := datapath.Open(h.pinDir)
		if err != nil {
			return err
		}
		return errors.Join(f(i), i.Close())
	})
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) saved() string {
	h.t.Helper()
	s := h.store()
	newest, err := s.wholeHead()
	if err != nil || newest == nil {
		h.t.Fatalf("nothing whole is saved: %v", err)
	}
	var interfaces, entries []string
	for _, one := range newest.Interfaces {
		interfaces = append(interfaces, one.place().String())
	}
	kept, err := s.readPolicies(newest)
	known := func(f datapath.Feed) error {
		entries = append(entries, feedText(f))
		return nil
	}
	err = errors.Join(err, s.eachEntry(newest, visitor{known, func(l datapath.List, e datapath.Entry) error {
		entries = append(entries, entryText(l, e))
		return nil
	}}))
	if err != nil {
		h.t.Fatal(err)
	}
	return view(interfaces, kept, entries)
}

// agree wants what is saved to be what the kernel holds.
func (h *host) agree(when string) {
	h.t.Helper()
	if d := difference(h.saved(), h.inKernel()); d != "" {
		h.t.Fatalf("%s: of what is saved (-) and what the kernel holds (+):\n%s", when, d)
	}
}

// difference is the first lines that only one of two texts has.
func difference(a, b string) string {
	lines := map[string]int{}
	for line := range strings.Lines(a) {
		lines[strings.TrimSpace(line)]--
	}
	for line := range strings.Lines(b) {
		lines[strings.TrimSpace(line)]++
	}
	var out []string
	for line, n := range lines {
		if n != 0 {
			out = append(out, map[bool]string{true: "- ", false: "+ "}[n < 0]+line)
		}
	}
	slices.Sort(out)
	return strings.Join(out[:min(len(out), 12)], "\n")
}
