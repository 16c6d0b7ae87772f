// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/internal/testenv"
	"github.com/synward/synward/pkg/policy"
)

// bench is one server behind an interface to attach to, with a client on the other end of a veth,
// and a pin directory of its own.
type bench struct {
	*testenv.Pair
	t      *testing.T
	pinDir string
}

func newBench(t *testing.T, opts testenv.PairOptions) *bench {
	t.Helper()
	b := &bench{Pair: testenv.NewPair(t, opts), t: t, pinDir: testenv.BPFFS(t) + "/synward"}
	t.Cleanup(func() {
		if _, err := datapath.DetachAll(b.pinDir); err != nil {
			t.Errorf("detach --all: %v", err)
		}
	})
	return b
}

func (b *bench) tryAttach(mode datapath.Mode, limit *policy.NewLimit) (result *datapath.AttachResult, err error) {
	err = b.Server.Do(func() (err error) {
		result, err = datapath.Attach(datapath.AttachOptions{
			PinDir: b.pinDir, Interface: b.ServerIf, Mode: mode, Limit: limit,
		})
		return err
	})
	return result, err
}

func (b *bench) attach(mode datapath.Mode, limit *policy.NewLimit) *datapath.AttachResult {
	b.t.Helper()
	result, err := b.tryAttach(mode, limit)
	if err != nil {
		b.t.Fatalf("attach: %v", err)
	}
	return result
}

// change runs fn on the instance under its exclusive lock, inside the server's namespace.
func (b *bench) change(fn func(i *datapath.Instance) error) {
	b.t.Helper()
	err := b.Server.Do(func() error {
		i, err := datapath.OpenForChange(b.pinDir)
		if err != nil {
			return err
		}
		defer i.Close()
		return fn(i)
	})
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) block(entries ...datapath.Entry) {
	b.t.Helper()
	b.change(func(i *datapath.Instance) error { return i.Add(datapath.Block, entries) })
}

func (b *bench) allow(prefixes ...string) {
	b.t.Helper()
	var entries []datapath.Entry
	for _, p := range prefixes {
		entries = append(entries, datapath.Entry{Prefix: netip.MustParsePrefix(p)})
	}
	b.change(func(i *datapath.Instance) error { return i.Add(datapath.Allow, entries) })
}

// interfaces is what status would show from inside the server's namespace.
func (b *bench) interfaces() (all []datapath.Interface) {
	b.t.Helper()
	b.change(func(i *datapath.Instance) (err error) {
		all, err = i.Interfaces()
		return err
	})
	return all
}

// packets is what was counted under a reason so far.
func (b *bench) packets(reason string) (n uint64) {
	b.t.Helper()
	b.change(func(i *datapath.Instance) error {
		totals, err := i.Totals()
		for _, total := range totals {
			if total.Reason == reason {
				n = total.Packets
			}
		}
		return err
	})
	return n
}

func (b *bench) server(addr netip.Addr, opts testenv.ServerOptions) *testenv.Server {
	return testenv.NewServer(b.t, b.Server, netip.AddrPortFrom(addr, 8080), opts)
}

// connect makes one real connection, with one SYN.
func (b *bench) connect(s *testenv.Server, src netip.Addr) error {
	return testenv.Connect(b.Client, src, s.Addr(), 300*time.Millisecond)
}

func (b *bench) mustConnect(s *testenv.Server, src netip.Addr) {
	b.t.Helper()
	if err := b.connect(s, src); err != nil {
		b.t.Fatalf("connect from %s: %v", src, err)
	}
}

func (b *bench) mustNotConnect(s *testenv.Server, src netip.Addr) {
	b.t.Helper()
	if err := b.connect(s, src); err == nil {
		b.t.Fatalf("connect from %s went through", src)
	}
}

func rate(count uint64, period time.Duration, burst uint64) *policy.NewLimit {
	return &policy.NewLimit{Rate: policy.Rate{Count: count, Period: period}, Burst: burst}
}

// family is one address family's view of a bench: the server, the client, and one beside it.
type family struct{ server, client, beside netip.Addr }

func bothFamilies() map[string]family {
	return map[string]family{
		"IPv4": {netip.MustParseAddr("10.77.0.1"), netip.MustParseAddr("10.77.0.2"), netip.MustParseAddr("10.77.0.3")},
		"IPv6": {netip.MustParseAddr("fd77::1"), netip.MustParseAddr("fd77::2"), netip.MustParseAddr("fd77:0:0:1::3")},
	}
}

// often is how often a test does the same: whole times, or fewer on the emulated CPU of a guest of test-vm, where
// all takes ten times as long.
func often(whole, inGuest int) int {
	if emulated() {
		return inGuest
	}
	return whole
}

func emulated() bool { return os.Getenv("SYNWARD_VM") != "" }

// familiesIn are the families that a mode is tried with: both, but in a guest of test-vm one where another mode
// shares the program.
func familiesIn(mode datapath.Mode) map[string]family {
	all := bothFamilies()
	for name := range all {
		if emulated() && (mode == datapath.ModeGeneric && name == "IPv4" || mode == datapath.ModeTC && name == "IPv6") {
			delete(all, name)
		}
	}
	return all
}

func eachMode(t *testing.T, test func(t *testing.T, mode datapath.Mode)) {
	for _, mode := range []datapath.Mode{datapath.ModeNative, datapath.ModeGeneric, datapath.ModeTC} {
		t.Run(string(mode), func(t *testing.T) { test(t, mode) })
	}
}

// eachModeAndFamily runs a test on a fresh bench for each, with the neighbour's address in place.
func eachModeAndFamily(t *testing.T, test func(b *bench, mode datapath.Mode, f family)) {
	eachMode(t, func(t *testing.T, mode datapath.Mode) {
		for name, f := range familiesIn(mode) {
			t.Run(name, func(t *testing.T) {
				test(newBench(t, testenv.PairOptions{ClientAddrs: []netip.Addr{f.beside}}), mode, f)
			})
		}
	})
}

// limitOf is the only limit of a policy, one of new connections per source; nil if there is none.
func limitOf(p *datapath.Policy) *policy.NewLimit {
	if p == nil || p.Policy == nil || len(p.Policy.Services) != 1 || len(p.Policy.Services[0].Limits) != 1 {
		return nil
	}
	l := p.Policy.Services[0].Limits[0]
	if l.Kind != policy.KindNew || l.Per != policy.PerSource {
		return nil
	}
	return &policy.NewLimit{Rate: l.Rate, Burst: l.Burst}
}
