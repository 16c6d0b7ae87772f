// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/feed"
	"github.com/synward/synward/pkg/internal/testenv"
)

// feedHeld are the prefixes that the feed of the test holds, none of them twice.
func (b *bench) feedHeld() map[netip.Prefix]bool {
	b.t.Helper()
	held := map[netip.Prefix]bool{}
	b.read(func(i *datapath.Instance) error {
		entries, err := i.Entries(datapath.Block)
		for _, e := range entries {
			if e.Origin != "feed:flood" || held[e.Prefix] {
				b.t.Errorf("entry %s of %s, there already: %v", e.Prefix, e.Origin, held[e.Prefix])
			}
			held[e.Prefix] = true
		}
		return err
	})
	return held
}

// holdsState is whether they are just those of one state.
func holdsState(held map[netip.Prefix]bool, state *feed.Set) bool {
	for p := range held {
		if !state.Holds(p) {
			return false
		}
	}
	return len(held) == state.Len()
}

// Killed at any moment, a load of a feed that is there has left out nobody whom both states name, and nobody is held
// whom neither names; typed again, it holds just what it says.
func TestKillFeedLoad(t *testing.T) {
	b := newBench(t, testenv.PairOptions{})
	b.attach(datapath.ModeNative, nil)
	states := map[bool]*feed.Set{false: feedState(false), true: feedState(true)}
	b.change(func(i *datapath.Instance) error { return loadState(i, false) })
	whole := b.duration("feed-odd")
	odd, outcomes := false, map[string]int{}
	randomKills(t, whole, func(after time.Duration) {
		what := map[bool]string{true: "feed-odd", false: "feed-even"}[odd]
		killed := b.killAt(what, after)
		held := b.feedHeld()
		for _, p := range states[odd].Sorted() {
			if states[!odd].Holds(p) && !held[p] {
				t.Errorf("%s, which both states name, is not held", p)
			}
		}
		for p := range held {
			if !states[true].Holds(p) && !states[false].Holds(p) {
				t.Errorf("%s is held, and no state names it", p)
			}
		}
		outcomes[fmt.Sprintf("killed %v, before %v, after %v", killed, holdsState(held, states[!odd]), holdsState(held, states[odd]))]++
		b.change(func(i *datapath.Instance) error { return loadState(i, odd) })
		if !holdsState(b.feedHeld(), states[odd]) {
			t.Errorf("loaded again, the feed is not what it says")
		}
		odd = !odd
	})
	t.Log(outcomes)
}

// Killed at any moment, the first load of a feed, or its removal, has done all or nothing, and leaves no entry behind.
func TestKillFirstFeedLoad(t *testing.T) {
	b := newBench(t, testenv.PairOptions{})
	b.attach(datapath.ModeNative, nil)
	state := feedState(true)
	whole := b.duration("feed-odd")
	outcomes := map[string]int{}
	n := 0
	randomKills(t, whole, func(after time.Duration) {
		n++
		what := map[bool]string{true: "feed-rm", false: "feed-odd"}[n%2 == 0]
		b.change(func(i *datapath.Instance) error {
			if n%2 == 0 {
				return loadState(i, true)
			}
			_, _, err := i.RemoveFeed("flood")
			return err
		})
		killed := b.killAt(what, after)
		held := b.feedHeld()
		if len(held) != 0 && !holdsState(held, state) {
			t.Errorf("%s: half of a feed is held: %d of %d", what, len(held), state.Len())
		}
		outcomes[fmt.Sprintf("%s, killed %v, holds %v", what, killed, len(held) > 0)]++
		b.change(func(i *datapath.Instance) error {
			left, err := i.FeedsLeft()
			// A first load that was killed right behind its commit, before its mark, is cleared too.
			if left != len(held) && (left != 0 || what != "feed-odd") {
				t.Errorf("%s: the next command leaves %d entries and places of feeds, of one that holds %d", what, left, len(held))
			}
			return err
		})
	})
	t.Log(outcomes)
}
