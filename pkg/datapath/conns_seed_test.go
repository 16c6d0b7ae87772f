// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"encoding/binary"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/internal/testenv"
	"github.com/synward/synward/pkg/policy"
)

// openSome opens connections to a server that holds them.
func (b connBench) openSome(at netip.AddrPort, count int) manyConns {
	b.t.Helper()
	open := b.begin(at, count)
	b.t.Cleanup(open.abort)
	return open
}

// Connections that were open before `attach`, and before the policy that adds the limit, are counted once; the
// limit counts them, and each gives its place back.
func TestConcurrentCountsWhatWasOpenBefore(t *testing.T) {
	b := connBench{newBench(t, testenv.PairOptions{})}
	server := b.server(b.ServerIP4, testenv.ServerOptions{Hold: true, Silent: true})
	opened := func(want int) {
		testenv.WaitFor(t, connsDeadline, "connections to be open", func() bool { return server.Open() == want })
	}
	before := b.begin(server.Addr(), 5)
	opened(5)
	b.attach(datapath.ModeAuto, nil)
	middle := b.begin(server.Addr(), 4)
	opened(9)
	b.limit(12)
	b.mustCount(9)
	b.limit(11) // again, of the same sockets: once
	b.mustCount(9)
	after := b.begin(server.Addr(), 6)
	b.mustCount(11)
	testenv.WaitFor(t, connsDeadline, "the others to be refused", func() bool { return b.packets("over_concurrent") >= 8 })
	b.mustCount(11)
	before.abort()
	middle.abort()
	after.abort()
	b.mustBeZero()
}

// A limit that is added beside another counts what is open, and one that goes gives it back; a connection of the
// server's own to elsewhere is not counted.
func TestConcurrentFollowsThePolicy(t *testing.T) {
	b := newConnBench(t, 100)
	server := b.server(b.ServerIP4, testenv.ServerOptions{Hold: true, Silent: true})
	open := b.openSome(server.Addr(), 7)
	b.mustCount(7)
	b.apply(`
version: 1
services:
  - name: web
    listen: [8080/tcp]
    limits:
      - {per: source, concurrent: 10}
      - {per: service, concurrent: 9}
      - {per: source, prefix: {ipv4: 24, ipv6: 48}, concurrent: 50}
`)
	b.mustCountAt("web", b.ClientIP4, 7)
	if got := len(b.counts()); got != 4 {
		t.Errorf("%d counts, want one for each of 3 limits and one for the source: %+v", got, b.counts())
	}
	more := b.openSome(server.Addr(), 5)
	b.mustCountAt("web", b.ClientIP4, 9) // per: service
	b.apply(`
version: 1
services:
  - {name: web, listen: [8080/tcp], limits: [{per: source, concurrent: 4}]}
`)
	// A limit that is lowered closes nothing.
	b.mustCountAt("web", b.ClientIP4, 9)
	if got := len(b.counts()); got != 2 {
		t.Errorf("%d counts, want 2: %+v", got, b.counts())
	}
	if got := server.Open(); got != 9 {
		t.Errorf("%d connections are open, want 9", got)
	}
	open.abort()
	more.abort()
	b.mustBeZero()
}

// linksLeft are the hooks of connections that are pinned.
func (b connBench) linksLeft() []string {
	b.t.Helper()
	left, err := filepath.Glob(filepath.Join(b.pinDir, "links", "conns-*"))
	if err != nil {
		b.t.Fatal(err)
	}
	return left
}

// The hooks are there while a policy needs them, and no longer; counting that begins again begins at zero.
func TestConcurrentHooksOnlyWhileNeeded(t *testing.T) {
	b := connBench{newBench(t, testenv.PairOptions{})}
	server := b.server(b.ServerIP4, testenv.ServerOptions{Hold: true, Silent: true})
	b.attach(datapath.ModeAuto, nil)
	if left := b.linksLeft(); len(left) != 0 {
		t.Errorf("without a limit there are %v", left)
	}
	b.limit(100)
	if left := b.linksLeft(); len(left) != 3 {
		t.Errorf("with a limit there are %v", left)
	}
	kept := b.openSome(server.Addr(), 3)
	gone := b.openSome(server.Addr(), 3)
	b.mustCount(6)
	b.apply("version: 1\nservices: [{name: default, listen: [any/tcp]}]\n")
	if left := b.linksLeft(); len(left) != 0 {
		t.Errorf("after the limit went there are %v", left)
	}
	gone.abort() // which nobody sees
	testenv.WaitFor(t, connsDeadline, "three to be closed", func() bool { return server.Open() == 3 })
	b.limit(100)
	b.mustCount(3)
	kept.abort()
	b.mustBeZero()
	if _, err := datapath.DetachAll(b.pinDir); err != nil {
		t.Fatal(err)
	}
	b.mustBeGone()
}

// What a killed command left by half is put right by the next change: here the gate without one of the others.
func TestConcurrentHalfAttachedIsMended(t *testing.T) {
	b := newConnBench(t, 100)
	server := b.server(b.ServerIP4, testenv.ServerOptions{Hold: true, Silent: true})
	open := b.openSome(server.Addr(), 3)
	b.mustCount(3)
	if err := os.Remove(filepath.Join(b.pinDir, "links", "conns-state1")); err != nil {
		t.Fatal(err)
	}
	if got := b.inForce().ConnTrouble; got != "the hook conns-state1 is not there" {
		t.Errorf("status says %q", got)
	}
	b.change(func(*datapath.Instance) error { return nil })
	if got := b.inForce().ConnTrouble; got != "" {
		t.Errorf("afterwards status says %q", got)
	}
	if left := b.linksLeft(); len(left) != 3 {
		t.Errorf("there are %v", left)
	}
	b.mustCount(3)
	open.abort()
	b.mustBeZero()
}

// What the gate had reserved when its hook went is not given back by the gate that comes after: the counts have begun
// anew meanwhile, and the place would be somebody else's.
func TestConcurrentMendForgetsNotes(t *testing.T) {
	b := newConnBench(t, 100)
	server := b.server(b.ServerIP4, testenv.ServerOptions{Hold: true, Silent: true})
	open := b.openSome(server.Addr(), 3)
	b.mustCount(3)
	if err := os.Remove(filepath.Join(b.pinDir, "links", "conns-gate")); err != nil {
		t.Fatal(err)
	}
	b.leaveNotes()
	before := b.tallies()
	b.change(func(*datapath.Instance) error { return nil })
	more := b.openSome(server.Addr(), 20)
	b.mustCount(23)
	if after := b.tallies(); after.Lost != before.Lost {
		t.Errorf("a place of before was given back: %+v, then %+v", before, after)
	}
	more.abort()
	open.abort()
	b.mustBeZero()
}

// leaveNotes writes to every CPU's note of the gate that it has reserved a place under some key that is counted.
func (b connBench) leaveNotes() {
	b.t.Helper()
	const countAt, claimAt, size = 48, 56, 440 // of struct conn_note
	notes, conns := b.pinnedMap("conn_notes"), b.pinnedMap("conns")
	var key [32]byte
	if err := conns.NextKey(nil, &key); err != nil {
		b.t.Fatal(err)
	}
	perCPU := make([][size]byte, ebpf.MustPossibleCPU())
	for n := range perCPU {
		binary.NativeEndian.PutUint64(perCPU[n][:], 1)
		binary.NativeEndian.PutUint32(perCPU[n][countAt:], 1)
		copy(perCPU[n][claimAt:], key[:])
	}
	if err := notes.Put(uint32(0), perCPU); err != nil {
		b.t.Fatal(err)
	}
}

func (b connBench) pinnedMap(name string) *ebpf.Map {
	b.t.Helper()
	m, err := ebpf.LoadPinnedMap(filepath.Join(b.pinDir, "maps", name), nil)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { m.Close() })
	return m
}

// While a policy waits for its confirmation, the one that may come back counts beside it: no process has to live for
// the old limit to be right then.
func TestConcurrentRollback(t *testing.T) {
	b := newConnBench(t, 5)
	server := b.server(b.ServerIP4, testenv.ServerOptions{Hold: true, Silent: true})
	open := b.openSome(server.Addr(), 4)
	b.mustCount(4)
	trial, err := policy.Parse("policy.yaml", []byte("version: 1\nservices: [{name: web, listen: [8080/tcp], limits: [{per: service, concurrent: 50}]}]\n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	b.change(func(i *datapath.Instance) error {
		return i.Apply(datapath.ApplyOptions{Policy: trial, Confirm: time.Hour, By: "test"})
	})
	b.mustCountAt("web", b.ClientIP4, 4)
	b.mustCount(4)
	more := b.openSome(server.Addr(), 4)
	b.mustCountAt("web", b.ClientIP4, 8)
	b.mustCount(8)
	b.change(func(i *datapath.Instance) error { _, err := i.Rollback(1, "test"); return err })
	b.mustCount(8)
	refused := b.packets("over_concurrent")
	late := b.openSome(server.Addr(), 1)
	testenv.WaitFor(t, connsDeadline, "the ninth to be refused", func() bool { return b.packets("over_concurrent") > refused })
	for _, m := range []manyConns{open, more, late} {
		m.abort()
	}
	b.mustBeZero()
}
