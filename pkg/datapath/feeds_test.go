// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/synward/synward/pkg/feed"
	tg "github.com/synward/synward/pkg/internal/trafficgen"
)

func feedOf(name string, prefixes ...string) FeedOptions {
	var all []netip.Prefix
	for _, p := range prefixes {
		all = append(all, netip.MustParsePrefix(p))
	}
	return FeedOptions{Feed: Feed{Name: name, List: Block, Scope: ScopeAll, Loaded: time.Unix(1, 0)}, Set: feed.NewSet(all), Shrink: true}
}

func (l *programLab) load(o FeedOptions) FeedChange {
	l.t.Helper()
	change, err := l.LoadFeed(o)
	must(l.t, err)
	return change
}

func (l *programLab) unload(name string) {
	l.t.Helper()
	_, found, err := l.RemoveFeed(name)
	must(l.t, err)
	if !found {
		l.t.Fatalf("there is no feed %s", name)
	}
}

// FeedsLeft counts, for tests from outside, the entries that some feed has a bit of, and the feeds that are half there.
func (i *Instance) FeedsLeft() (left int, err error) {
	t, err := i.feedTable()
	for _, f := range t {
		if f.State == uint8(limiterFeedStateFEED_HALF) {
			left++
		}
	}
	for _, l := range []List{Allow, Block} {
		for _, m := range i.list(l).maps() {
			err = errors.Join(err, eachEntry(m, func(_ limiterPrefixKey, e limiterListEntry) {
				if e.Feeds != 0 {
					left++
				}
			}))
		}
	}
	return left, err
}

// expectBoth wants ends of a SYN and of an ACK from client4, of both hooks.
func (l *programLab) expectBoth(syn, ack end, what string) {
	l.t.Helper()
	for _, h := range bothHooks {
		l.expect(h, syn4().Bytes(), 0, syn, what+": SYN")
		l.expect(h, segment4(tg.ACK).Bytes(), 0, ack, what+": ACK")
	}
}

// A feed holds by its scope and until its end, in the hash and in the trie, and no longer than it is there.
func TestFeedHolds(t *testing.T) {
	l := newProgramLab(t, frozen{linkHeader: true})
	for _, p := range []string{"192.0.2.7/32", "192.0.2.0/24"} {
		for _, scope := range []Scope{ScopeAll, ScopeNew} {
			for name, expires := range map[string]time.Time{"never": {}, "tomorrow": time.Now().Add(24 * time.Hour)} {
				o := feedOf("f", p)
				o.Scope, o.Expires = scope, expires
				l.load(o)
				ack := isBlocked
				if scope == ScopeNew {
					ack = isEstablished
				}
				l.expectBoth(isBlocked, ack, fmt.Sprint(p, scope, name))
			}
		}
		o := feedOf("f", p)
		o.Expires = time.Now().Add(-time.Second)
		if c := l.load(o); c.Kept != 1 || c.Added != 0 {
			t.Errorf("loaded again: %+v", c)
		}
		l.expectBoth(isNew, isEstablished, p+" ended")
		if e, err := l.Entries(Block); err != nil || len(e) != 0 {
			t.Errorf("what has ended is listed: %v, %v", e, err)
		}
		l.load(feedOf("f", p))
		l.expectBoth(isBlocked, isBlocked, p+" again")
		l.unload("f")
		l.expectBoth(isNew, isEstablished, p+" removed")
	}
	o := feedOf("f", "192.0.2.7/32")
	o.List = Allow
	l.load(o)
	l.add(Block, entry("192.0.2.0/24"))
	l.expectBoth(isAllowed, isAllowed, "allowed")
	l.unload("f")
	l.clearLists()
}

// What one origin says of a prefix stays whatever the others do: every order of putting there and taking off, of
// two feeds, an operator and a policy.
func TestOriginsDoNotTouchEachOther(t *testing.T) {
	for _, p := range []string{"192.0.2.7/32", "192.0.2.0/24"} {
		t.Run(p, func(t *testing.T) {
			l := newProgramLab(t, frozen{linkHeader: true})
			prefix := netip.MustParsePrefix(p)
			steps := map[string][2]func(){
				"feed:a":   {func() { l.load(feedOf("a", p)) }, func() { l.load(feedOf("a", "198.51.100.1/32")) }},
				"feed:b":   {func() { l.load(feedOf("b", p, "198.51.100.2/32")) }, func() { l.unload("b") }},
				"operator": {func() { must(t, l.Add(Block, []Entry{{Prefix: prefix}})) }, func() { _, err := l.Remove(Block, []netip.Prefix{prefix}); must(t, err) }},
				"policy": {
					func() { must(t, l.setPolicyBit(Block, []netip.Prefix{prefix}, slotOfGeneration(l.live().generation))) },
					func() { must(t, l.clearPolicyBit(Block, slotOfGeneration(l.live().generation))) },
				},
			}
			names := []string{"feed:a", "feed:b", "operator", "policy"}
			there := map[string]bool{}
			random := rand.New(rand.NewPCG(7, 7))
			for n := range 200 {
				name := names[random.IntN(len(names))]
				step := 0
				if there[name] {
					step = 1
				}
				steps[name][step]()
				there[name] = !there[name]
				l.mustBeOf(prefix, there, fmt.Sprintf("step %d, %s %v", n, name, there[name]))
			}
		})
	}
}

func (l *programLab) mustBeOf(p netip.Prefix, there map[string]bool, what string) {
	l.t.Helper()
	entries, err := l.Entries(Block)
	must(l.t, err)
	var got, want []string
	for _, e := range entries {
		if e.Prefix == p {
			got = append(got, e.Origin)
		}
	}
	for name, is := range there {
		if is && (name == "policy" || !there["policy"]) {
			want = append(want, name)
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		l.t.Fatalf("%s: %v named by %v, want %v", what, p, got, want)
	}
	if len(want) > 0 {
		l.expect(hookXDP, syn4().Bytes(), 0, isBlocked, what)
	} else {
		l.expect(hookXDP, syn4().Bytes(), 0, isNew, what)
	}
}

// A load changes what differs and counts it, and hits go on.
func TestFeedChangesWhatDiffers(t *testing.T) {
	l := newProgramLab(t, frozen{linkHeader: true})
	if c := l.load(feedOf("f", "192.0.2.7/32", "198.51.100.0/24", "2001:db8::/64", "2001:db8:1::/48")); !c.New || c.Added != 4 {
		t.Errorf("first: %+v", c)
	}
	l.expect(hookXDP, syn4().Bytes(), 0, isBlocked, "SYN")
	c := l.load(feedOf("f", "192.0.2.7/32", "198.51.100.0/25", "2001:db8::/64", "203.0.113.9/32"))
	if c.New || c.Added != 2 || c.Removed != 2 || c.Kept != 2 {
		t.Errorf("second: %+v", c)
	}
	e, err := l.Listed(Block, netip.MustParsePrefix("192.0.2.7/32"))
	if err != nil || e == nil || e.Hits != 1 || e.Origin != "feed:f" {
		t.Errorf("%+v, %v", e, err)
	}
	feeds, err := l.Feeds()
	if err != nil || len(feeds) != 1 || feeds[0].Entries != 4 {
		t.Errorf("%+v, %v", feeds, err)
	}
	o := feedOf("f", "192.0.2.7/32")
	o.Shrink = false
	if _, err := l.LoadFeed(o); !errors.Is(err, ErrRefused) {
		t.Errorf("it may shrink: %v", err)
	}
	o = feedOf("f", "192.0.2.7/32", "2001:db8::/64")
	o.Shrink = false
	l.load(o)
	l.unload("f")
}

// There are 32 feeds, and each has its own bit.
func TestFeedsAreBounded(t *testing.T) {
	l := newProgramLab(t, frozen{linkHeader: true})
	for n := range limiterAbiMAX_FEEDS {
		l.load(feedOf(fmt.Sprint("f", n), "192.0.2.7/32", fmt.Sprintf("10.0.0.%d/32", n)))
	}
	if _, err := l.LoadFeed(feedOf("more", "192.0.2.7/32")); !errors.Is(err, ErrFull) {
		t.Errorf("one more: %v", err)
	}
	entries, err := l.Entries(Block)
	if err != nil || len(entries) != 2*int(limiterAbiMAX_FEEDS) {
		t.Errorf("%d entries, %v", len(entries), err)
	}
	for n := range limiterAbiMAX_FEEDS {
		l.expect(hookXDP, syn4().Bytes(), 0, isBlocked, "SYN")
		l.unload(fmt.Sprint("f", n))
	}
	l.expect(hookXDP, syn4().Bytes(), 0, isNew, "SYN")
}

// What finds no room is named, and what is there stays; room that the same load makes is used.
func TestFeedIsFull(t *testing.T) {
	i := smallLists(t)
	load := func(first, n int) FeedChange {
		t.Helper()
		var all []netip.Prefix
		for k := range n {
			all = append(all, netip.MustParsePrefix(fmt.Sprintf("10.0.0.%d/32", first+k)))
		}
		o := feedOf("f")
		o.List, o.Set = Allow, feed.NewSet(all)
		c, err := i.LoadFeed(o)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	if err := i.Add(Allow, []Entry{{Prefix: netip.MustParsePrefix("192.0.2.1/32")}}); err != nil {
		t.Fatal(err)
	}
	if c := load(0, fewEntries); c.Added != fewEntries-1 || c.Left != 1 || len(c.Unfit) != 1 {
		t.Errorf("one too many: %+v", c)
	}
	if c := load(100, fewEntries-1); c.Added != fewEntries-1 || c.Removed != fewEntries-1 || c.Left != 0 {
		t.Errorf("all others: %+v", c)
	}
	mustHold(t, i, fewEntries)
	if e, err := i.Listed(Allow, netip.MustParsePrefix("192.0.2.1/32")); err != nil || e == nil {
		t.Errorf("the operator's entry: %v, %v", e, err)
	}
}

// What a killed first load or removal leaves is nobody's, and goes with the next command.
func TestHalfFeedGoes(t *testing.T) {
	l := newProgramLab(t, frozen{linkHeader: true})
	l.load(feedOf("f", "192.0.2.7/32", "192.0.2.0/24"))
	table, err := l.feedTable()
	must(t, err)
	slot, _ := table.find("f")
	table[slot].State = uint8(limiterFeedStateFEED_HALF)
	must(t, l.putFeed(slot, table[slot]))
	l.dropFeed(slot)
	l.expect(hookXDP, syn4().Bytes(), 0, isNew, "half")
	if feeds, err := l.Feeds(); err != nil || len(feeds) != 0 {
		t.Errorf("%v, %v", feeds, err)
	}
	must(t, l.clearHalfFeeds())
	for _, from := range l.list(Block).maps() {
		must(t, eachEntry(from, func(key limiterPrefixKey, v limiterListEntry) { t.Errorf("%v is still there: %+v", key, v) }))
	}
	l.load(feedOf("g", "192.0.2.7/32"))
	l.expect(hookXDP, syn4().Bytes(), 0, isBlocked, "another in its place")
	l.unload("g")
}
