// SPDX-License-Identifier: Apache-2.0

package state

import (
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/internal/testenv"
)

const (
	addRounds = 31
	// addGoal is how much longer one `block add` may take beside a million entries than beside ten.
	addGoal = 2.0
)

// BenchmarkAddBesideAMillion measures a change of the block list, opened, made, saved and closed, in turn on an
// instance that holds ten hosts and on one that holds a million. It fails where the whole 95 % interval of the median
// ratio lies above the goal.
func BenchmarkAddBesideAMillion(b *testing.B) {
	few, many := newCrowd(b, 10), newCrowd(b, 1_000_000)
	ratios := make([]float64, addRounds)
	for n := range ratios {
		floor := few.add(2_000_000 + n)
		ratios[n] = float64(many.add(2_000_000+n)) / float64(floor)
	}
	slices.Sort(ratios)
	low, high := ratios[addRounds/2-6], ratios[addRounds/2+6]
	b.ReportMetric(ratios[addRounds/2], "x-ten")
	b.ReportMetric(low, "x-low")
	b.ReportMetric(high, "x-high")
	if low > addGoal {
		b.Errorf("beside a million entries it takes %.2f times as long as beside ten (95 %% %.2f to %.2f); the goal is %.1f",
			ratios[addRounds/2], low, high, addGoal)
	}
}

// crowd is an instance with many hosts on its block list.
type crowd struct {
	b           *testing.B
	pair        *testenv.Pair
	pinDir, dir string
}

func newCrowd(b *testing.B, hosts int) *crowd {
	c := &crowd{b: b, pair: testenv.NewPair(b, testenv.PairOptions{})}
	c.pinDir, c.dir = filepath.Join(testenv.BPFFS(b), "synward"), filepath.Join(b.TempDir(), "state")
	store := Open(c.dir, func(line string) { b.Log(line) })
	err := c.pair.Server.Do(func() error {
		_, err := datapath.Attach(datapath.AttachOptions{PinDir: c.pinDir, Interface: "srv0", Mode: datapath.ModeAuto, Keeper: store})
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	entries := make([]datapath.Entry, hosts)
	for n := range entries {
		entries[n] = datapath.Entry{Prefix: address(n), Scope: datapath.ScopeAll, Origin: "operator"}
	}
	c.change(func(i *datapath.Instance) error { return i.Load(datapath.Block, entries) })
	return c
}

// add is a `block add` of one address, and how long it took.
func (c *crowd) add(n int) time.Duration {
	e := datapath.Entry{Prefix: address(n), Scope: datapath.ScopeAll, Origin: "operator", Created: time.Now(), By: "test"}
	return c.change(func(i *datapath.Instance) error { return i.Add(datapath.Block, []datapath.Entry{e}) })
}

func (c *crowd) change(f func(i *datapath.Instance) error) (took time.Duration) {
	err := c.pair.Server.Do(func() error {
		start := time.Now()
		i, err := datapath.OpenForChange(c.pinDir)
		if err != nil {
			return err
		}
		i.KeepWith(Open(c.dir, func(string) {}))
		if err := f(i); err != nil {
			return err
		}
		err = i.Close()
		took = time.Since(start)
		return err
	})
	if err != nil {
		c.b.Fatal(err)
	}
	return took
}
