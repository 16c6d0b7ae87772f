// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	tg "github.com/synward/synward/pkg/internal/trafficgen"
	"github.com/synward/synward/pkg/policy"
)

// A ban and a feed's entry of one address are two blocks: each holds without the other, is taken off without it, and
// is kept beside it.
func TestBanAndFeedStayApart(t *testing.T) {
	for _, p := range []tg.Packet{syn4(), syn6()} {
		c := newChallengeProgram(t, banning(1, policy.Ban{After: 1, For: 10 * time.Minute}))
		c.knock()
		o := c.offend(hookXDP, p, 1)
		striker := strikerOf(p.Src)
		origins := func(what string, want ...string) {
			t.Helper()
			entries, err := c.Entries(Block)
			must(t, err)
			var kept []string
			must(t, c.KeptEntries(Block, func(e Entry) error { kept = append(kept, e.Origin); return nil }))
			var shown []string
			for _, e := range entries {
				if e.Prefix != striker {
					t.Errorf("%s: an entry of %s", what, e.Prefix)
				}
				shown = append(shown, e.Origin)
			}
			slices.Sort(shown)
			slices.Sort(kept)
			if !slices.Equal(shown, want) || !slices.Equal(kept, want) {
				t.Errorf("%s: %s is blocked by %v, kept are %v, want %v", what, striker, shown, kept, want)
			}
			wanted := isBlocked
			if len(want) == 0 {
				wanted = isChallenged
			}
			c.ends(hookXDP, o.next(), wanted, what)
		}
		load := func() {
			t.Helper()
			_, err := c.LoadFeed(feedOf("f", striker.String()))
			must(t, err)
		}
		remove := func() int {
			t.Helper()
			removed, err := c.Remove(Block, []netip.Prefix{striker})
			must(t, err)
			return removed
		}
		o.strike("the strike")
		origins("banned", OriginAuto)
		load()
		origins("banned, and in a feed", OriginAuto, "feed:f")
		load()
		origins("loaded again", OriginAuto, "feed:f")
		if n := remove(); n != 1 {
			t.Errorf("%d removed, want the ban", n)
		}
		origins("ban lifted", "feed:f")
		if n := remove(); n != 0 {
			t.Errorf("%d removed, and there is a feed's entry alone", n)
		}
		origins("a feed's entry is none of an operator", "feed:f")
		_, _, err := c.RemoveFeed("f")
		must(t, err)
		origins("feed removed")
		load()
		must(t, c.Load(Block, []Entry{{Prefix: striker, Origin: OriginAuto, Expires: time.Now().Add(time.Hour), Ban: &Ban{Strikes: 1, Repeats: 1, Fades: time.Hour}}}))
		origins("ban restored beside a feed", OriginAuto, "feed:f")
		_, _, err = c.RemoveFeed("f")
		must(t, err)
		origins("feed removed beside a ban", OriginAuto)
		load()
		lifted, err := c.LiftBans()
		must(t, err)
		if lifted != 1 {
			t.Errorf("%d bans lifted", lifted)
		}
		origins("bans lifted beside a feed", "feed:f")
		_, _, err = c.RemoveFeed("f")
		must(t, err)
	}
}
