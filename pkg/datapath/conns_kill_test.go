// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/internal/testenv"
	"github.com/synward/synward/pkg/policy"
)

// A command that adds the limit and is killed leaves the old policy or the new one; the next command that writes
// makes the counts right, or takes the hooks off.
func TestKillConcurrent(t *testing.T) {
	b := connBench{newBench(t, testenv.PairOptions{})}
	server := b.server(b.ServerIP4, testenv.ServerOptions{Hold: true, Silent: true})
	b.attach(datapath.ModeNative, nil)
	open := b.openSome(server.Addr(), 5)
	testenv.WaitFor(t, connsDeadline, "connections to be open", func() bool { return server.Open() == 5 })
	whole := b.duration("concurrent")
	outcomes := map[string]int{}
	randomKills(t, whole, func(after time.Duration) {
		b.change(func(i *datapath.Instance) error { return setConcurrent(i, 0) })
		if left := b.linksLeft(); len(left) != 0 {
			t.Fatalf("without the limit there are %v", left)
		}
		b.killAt("concurrent", after)
		half := len(b.linksLeft())
		b.change(func(*datapath.Instance) error { return nil })
		limited := len(allLimits(b.inForce())) == 1
		outcomes[fmt.Sprintf("%d hooks, limited %v", half, limited)]++
		if !limited {
			if left := b.linksLeft(); len(left) != 0 {
				t.Errorf("the old policy is in force and there are %v", left)
			}
			return
		}
		b.mustCount(5)
	})
	t.Log(outcomes)
	b.limit(100)
	open.abort()
	b.mustBeZero()
}

func allLimits(p *datapath.Policy) []policy.Limit { return p.Policy.Services[0].Limits }

// Where the table of counts is full, a connection is let through, uncounted and said; with on_table_full: drop it
// is refused.
func TestConcurrentFullTable(t *testing.T) {
	b := newConnBench(t, 100)
	server := b.server(b.ServerIP4, testenv.ServerOptions{Hold: true, Silent: true})
	m, err := ebpf.LoadPinnedMap(filepath.Join(b.pinDir, "maps", "conns"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	type key [4]uint64 // the limit, and an address of no family
	const batch = 4096
	keys, values := make([]key, batch), make([]uint64, batch)
	for first := uint64(0); ; first += batch {
		for n := range keys {
			keys[n], values[n] = key{1<<40 + first + uint64(n)}, 1
		}
		if n, err := m.BatchUpdate(keys, values, nil); err != nil {
			t.Logf("%d keys of %d are there: %v", first+uint64(n), m.MaxEntries(), err)
			break
		}
	}
	defer func() { t.Logf("%+v", b.tallies()) }()
	conn := b.dial(b.ClientIP4, server.Addr())
	testenv.WaitFor(t, connsDeadline, "the server to have it", func() bool { return server.Open() == 1 })
	if got := b.tallies().Uncounted; got == 0 {
		t.Errorf("%+v: nothing is said of it", b.tallies())
	}
	_ = conn.Close()
	b.apply("version: 1\non_table_full: drop\nservices: [{name: default, listen: [any/tcp], limits: [{per: source, concurrent: 100}]}]\n")
	open := b.openSome(server.Addr(), 3)
	testenv.WaitFor(t, connsDeadline, "the ACKs to be refused", func() bool { return b.tallies().Refused >= 3 })
	if got := server.Total(); got != 1 {
		t.Errorf("the server accepted %d, want the one before", got)
	}
	open.abort()
}
