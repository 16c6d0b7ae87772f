// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/policy"
	"github.com/synward/synward/pkg/state"
)

// fake is a kernel of plain values. It is its own instance.
type fake struct {
	attached   []datapath.Interface
	policy     datapath.Policy
	kept       []datapath.Applied // but for the one in force
	services   []datapath.ServiceState
	operators  []datapath.Operator
	operErr    error
	peers      []netip.Addr // of open sockets
	closeErr   error
	own        []datapath.Protected
	feeds      []datapath.Feed
	totals     []datapath.Total
	sources    []datapath.Source
	lists      map[datapath.List][]datapath.Entry
	verdict    datapath.Verdict
	local      netip.AddrPort // that was checked
	findings   []datapath.Finding
	result     *datapath.AttachResult
	upgraded   *datapath.Upgraded
	err        error
	logDir     string // of the audit log
	restored   []state.Restored
	opts       datapath.AttachOptions
	forgotten  netip.Addr
	peer       netip.AddrPort
	changes    int
	open, dirs []string
}

func newFake() *fake {
	return &fake{
		attached: []datapath.Interface{{
			Name: "eth0", Mode: datapath.ModeNative, Armed: true, Traffic: datapath.TrafficFlowing,
		}},
		policy: datapath.Policy{Generation: 1, Mode: "enforce", Policy: policy.Default(nil)},
		lists:  map[datapath.List][]datapath.Entry{},
	}
}

func (f *fake) Attach(opts datapath.AttachOptions) (*datapath.AttachResult, error) {
	f.opts = opts
	if f.err != nil {
		return nil, f.err
	}
	if opts.Policy != nil {
		f.policy.Policy = opts.Policy
	}
	if opts.Limit != nil || opts.Concurrent != nil {
		f.policy.Policy = policy.Default(opts.Limit)
		if opts.Concurrent != nil {
			f.policy.Policy, _ = policy.WithLimit(f.policy.Policy, policy.DefaultService, policy.LimitChange{Concurrent: opts.Concurrent})
		}
	}
	return f.result, nil
}

func (f *fake) CanCloseSockets() error { return f.closeErr }

// CloseSockets closes those of f.peers that are chosen; each has one.
func (f *fake) CloseSockets(chosen func(netip.Addr) bool) (closed datapath.ClosedSockets, err error) {
	f.peers = slices.DeleteFunc(f.peers, func(peer netip.Addr) bool {
		if chosen(peer) {
			closed.TCP++
			return true
		}
		return false
	})
	return closed, nil
}

func (f *fake) Operators() ([]datapath.Operator, error) { return f.operators, f.operErr }

func (f *fake) SSHPeer() netip.AddrPort                          { return f.peer }
func (f *fake) Levels(netip.Addr) ([]datapath.LimitLevel, error) { return nil, nil }

func (f *fake) SetSysctls() ([]datapath.Unanswered, error) { return nil, nil }

func (f *fake) OpenConns(func(netip.Addr) bool) ([]datapath.OpenConn, error) { return nil, nil }

func (f *fake) Generation() uint16 { return f.policy.Generation }

func (f *fake) Protected() (out []datapath.Protected, err error) {
	for _, op := range f.operators {
		addr := op.Peer.Addr()
		out = append(out, datapath.Protected{Prefix: netip.PrefixFrom(addr, addr.BitLen()), What: op.Who, Operator: &op})
	}
	return append(out, f.own...), f.operErr
}

func (f *fake) Feeds() ([]datapath.Feed, error) { return f.feeds, nil }

func (f *fake) LoadFeed(o datapath.FeedOptions) (c datapath.FeedChange, err error) {
	f.changes++
	_, _, _ = f.RemoveFeed(o.Name)
	for _, p := range o.Set.Sorted() {
		f.lists[o.List] = append(f.lists[o.List], datapath.Entry{Prefix: p, Scope: o.Scope, Expires: o.Expires, Origin: o.Origin()})
	}
	c.Added = o.Set.Len()
	o.Entries = c.Added
	f.feeds = append(f.feeds, o.Feed)
	return c, nil
}

func (f *fake) RemoveFeed(name string) (entries int, found bool, err error) {
	f.feeds = slices.DeleteFunc(f.feeds, func(one datapath.Feed) bool {
		if one.Name == name {
			entries, found = one.Entries, true
		}
		return one.Name == name
	})
	for l := range f.lists {
		f.lists[l] = slices.DeleteFunc(f.lists[l], func(e datapath.Entry) bool { return e.Origin == datapath.Feed{Name: name}.Origin() })
	}
	return entries, found, nil
}

func (f *fake) Related(l datapath.List, prefixes []netip.Prefix) (out []datapath.Relation, err error) {
	for _, p := range prefixes {
		r := datapath.Relation{Prefix: p}
		for n, e := range f.lists[l] {
			switch {
			case e.Prefix.Bits() < p.Bits() && e.Prefix.Contains(p.Addr()):
				r.Wider = &f.lists[l][n]
			case p.Bits() < e.Prefix.Bits() && p.Contains(e.Prefix.Addr()):
				r.Inside, r.Count = append(r.Inside, e.Prefix), r.Count+1
			}
		}
		out = append(out, r)
	}
	return out, nil
}

func (f *fake) Detach(o datapath.DetachOptions) (done datapath.Detached, err error) {
	for _, i := range f.attached {
		if o.Interface == "" || i.Name == o.Interface {
			done.Names = append(done.Names, i.Name)
		}
	}
	return done, f.err
}

func (f *fake) Save(string, *state.Store) error { return f.err }

func (f *fake) Restore(state.RestoreOptions, *state.Store) ([]state.Restored, error) {
	return f.restored, f.err
}

func (f *fake) Upgrade(dir string) (*datapath.Upgraded, error) {
	f.dirs = append(f.dirs, dir)
	return f.upgraded, f.err
}

func (f *fake) Doctor(string, string) []datapath.Finding { return f.findings }

func (f *fake) Open(dir string) (instance, error) { return f.opened("read", dir) }

func (f *fake) OpenForChange(dir string, _ datapath.Keeper) (instance, error) {
	return f.opened("change", dir)
}

func (f *fake) opened(how, dir string) (instance, error) {
	f.dirs = append(f.dirs, dir)
	if f.err != nil {
		return nil, f.err
	}
	if len(f.attached) == 0 {
		return nil, fmt.Errorf("%w; attach first", datapath.ErrNotAttached)
	}
	f.open = append(f.open, how)
	return f, nil
}

func (f *fake) Close() error {
	f.open = f.open[:len(f.open)-1]
	return nil
}

func (f *fake) Interfaces() ([]datapath.Interface, error) { return slices.Clone(f.attached), nil }
func (f *fake) Policy() (datapath.Policy, error)          { return f.policy, nil }
func (f *fake) Sources() ([]datapath.Source, error)       { return slices.Clone(f.sources), nil }

// Totals counts one packet more of each reason at every look.
func (f *fake) Totals() ([]datapath.Total, error) {
	for i := range f.totals {
		f.totals[i].Packets++
	}
	return slices.Clone(f.totals), nil
}

func (f *fake) Apply(o datapath.ApplyOptions) error {
	if p := f.policy.Pending; p != nil {
		return fmt.Errorf("a policy that %s applied waits: %w", p.By, datapath.ErrRefused)
	}
	f.changes++
	before := f.inForce()
	f.kept = append([]datapath.Applied{before}, f.kept...)
	f.policy = datapath.Policy{Generation: before.Generation + 1, Mode: string(o.Policy.Mode), Policy: o.Policy}
	if o.Confirm > 0 {
		f.policy.Pending = &datapath.Pending{By: o.By, Left: o.Confirm, Fallback: before.Generation}
	}
	return nil
}

func (f *fake) inForce() datapath.Applied {
	return datapath.Applied{Generation: f.policy.Generation, At: noon().Add(-time.Minute), By: "ann", Policy: f.policy.Policy}
}

func (f *fake) Confirm() (bool, error) {
	found := f.policy.Pending != nil
	f.policy.Pending = nil
	for i := range f.attached {
		found = found || f.attached[i].Unconfirmed
		f.attached[i].Unconfirmed = false
	}
	return found, nil
}

func (f *fake) Kept() ([]datapath.Applied, error) {
	return append([]datapath.Applied{f.inForce()}, f.kept...), nil
}

func (f *fake) Rollback(n int, by string) (*policy.Policy, error) {
	if n > len(f.kept) {
		return nil, fmt.Errorf("%w: there are only %d", datapath.ErrInvalid, len(f.kept))
	}
	f.policy.Pending = nil
	back := f.kept[n-1].Policy
	return back, f.Apply(datapath.ApplyOptions{Policy: back, By: by})
}

func (f *fake) Services() ([]datapath.ServiceState, error) { return f.services, nil }

func (f *fake) Entries(l datapath.List) ([]datapath.Entry, error) { return f.lists[l], nil }

func (f *fake) Add(l datapath.List, entries []datapath.Entry) error {
	f.changes++
	f.lists[l] = append(f.lists[l], entries...)
	return nil
}

func (f *fake) Remove(l datapath.List, prefixes []netip.Prefix) (int, error) {
	before := len(f.lists[l])
	f.lists[l] = slices.DeleteFunc(f.lists[l], func(e datapath.Entry) bool {
		return slices.Contains(prefixes, e.Prefix) && e.Origin != originPolicy
	})
	return before - len(f.lists[l]), nil
}

func (f *fake) LiftBans() (int, error) {
	before := len(f.lists[datapath.Block])
	f.lists[datapath.Block] = slices.DeleteFunc(f.lists[datapath.Block], func(e datapath.Entry) bool { return e.Ban != nil })
	return before - len(f.lists[datapath.Block]), nil
}

func (f *fake) Strikes(netip.Addr) (map[string]uint64, error) { return nil, nil }

func (f *fake) Forget(addr netip.Addr) error {
	f.forgotten = addr
	return nil
}

func (f *fake) CheckAt(_ netip.Addr, local netip.AddrPort) (datapath.Verdict, error) {
	f.local = local
	return f.verdict, nil
}

// Covering finds the longest entry; so does OperatorEntry, of those that no policy names.
func (f *fake) Covering(l datapath.List, addr netip.Addr) (*datapath.Entry, error) {
	return f.longest(l, func(e datapath.Entry) bool { return e.Prefix.Contains(addr) }), nil
}

func (f *fake) OperatorEntry(l datapath.List, addr netip.Addr) (*datapath.Entry, error) {
	return f.longest(l, func(e datapath.Entry) bool { return e.Prefix.Contains(addr) && e.Origin != originPolicy }), nil
}

func (f *fake) Listed(l datapath.List, p netip.Prefix) (*datapath.Entry, error) {
	return f.longest(l, func(e datapath.Entry) bool { return e.Prefix == p }), nil
}

func (f *fake) longest(l datapath.List, want func(datapath.Entry) bool) (found *datapath.Entry) {
	for i, e := range f.lists[l] {
		if want(e) && (found == nil || e.Prefix.Bits() > found.Prefix.Bits()) {
			found = &f.lists[l][i]
		}
	}
	return found
}

// outcome is what a command left behind.
type outcome struct {
	code           int
	stdout, stderr string
}

func noon() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

// runWith runs one command against a fake kernel, as root and as the user ann behind sudo.
func runWith(t *testing.T, f *fake, args ...string) outcome {
	t.Helper()
	return runIn(t, f, func(*env) {}, args...)
}

func runIn(t *testing.T, f *fake, adapt func(*env), args ...string) outcome {
	t.Helper()
	if f.logDir == "" {
		f.logDir = t.TempDir()
	}
	var stdout, stderr bytes.Buffer
	clock := noon()
	variables := map[string]string{"SUDO_USER": "ann", logDirVariable: f.logDir}
	ticks := make(chan time.Time)
	close(ticks)
	e := &env{
		stdin: strings.NewReader(""), stdout: &stdout, stderr: &stderr, kernel: f,
		// Between two looks at the clock there is a second.
		now: func() time.Time {
			defer func() { clock = clock.Add(time.Second) }()
			return clock
		},
		tick:   func(time.Duration) (<-chan time.Time, func()) { return ticks, func() {} },
		getenv: func(key string) string { return variables[key] },
	}
	adapt(e)
	code := run(args, e)
	if len(f.open) != 0 {
		t.Errorf("%v: an instance was left open", args)
	}
	return outcome{code, stdout.String(), stderr.String()}
}
