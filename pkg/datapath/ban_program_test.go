// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net/netip"
	"testing"
	"time"

	"github.com/synward/synward/pkg/internal/testenv"
	tg "github.com/synward/synward/pkg/internal/trafficgen"
	"github.com/synward/synward/pkg/policy"
)

// A source that insists is banned by its last strike and not before, from everything, and nobody beside it.
func TestBanAfterStrikes(t *testing.T) {
	c := newChallengeProgram(t, banning(2, policy.Ban{After: 3, For: 10 * time.Minute}))
	c.knock()
	beside := map[bool]netip.Addr{true: netip.MustParseAddr("198.51.100.77"), false: netip.MustParseAddr("2001:db8:77::1")}
	c.specialisedAndGeneral(func() {
		for _, h := range bothHooks {
			for _, p := range []tg.Packet{syn4(), syn6()} {
				c.emptyMeters()
				c.clearBans()
				before := c.tally()
				o := c.offend(h, p, 2)
				o.strike("strike 1")
				again := o.strike("strike 2")
				c.drainAnswers()
				// The same cookie with more data behind, or sent again, is the same strike.
				for range 5 {
					c.ends(h, again, isOverByProof, "strike 2 again")
				}
				c.ends(h, o.next(), isChallenged, "before the last strike")
				o.strike("strike 3")
				for _, packet := range []tg.Packet{o.next(), again, o.next().With(tg.Flags(tg.ACK))} {
					c.ends(h, packet, isBlocked, "banned")
				}
				c.ends(h, p.With(func(p *tg.Packet) { p.Src = beside[p.Src.Is4()] }), isNew, "a neighbour")
				if got := c.tally(); got.Strikes-before.Strikes != 3 || got.Bans-before.Bans != 1 {
					t.Errorf("%s: counted %+v since %+v", h, got, before)
				}
				c.wantBan(1, 10*time.Minute)
			}
		}
	})
	c.clearBans()
}

// The same as seen by commands: the entry of the block list, what check says, and how it is lifted.
func TestBanIsAnEntryOfTheBlockList(t *testing.T) {
	c := newChallengeProgram(t, banning(1, policy.Ban{After: 2, For: 10 * time.Minute}))
	c.knock()
	o := c.offend(hookXDP, syn6(), 1)
	o.strike("strike 1")
	strikes, err := c.Strikes(o.syn.Src)
	must(t, err)
	if len(strikes) != 1 || strikes["web limit 1"] != 1 {
		t.Errorf("strikes %v", strikes)
	}
	o.strike("strike 2")
	entries, err := c.Entries(Block)
	must(t, err)
	if len(entries) != 1 {
		t.Fatalf("entries %+v", entries)
	}
	e := entries[0]
	if e.Prefix != strikerOf(o.syn.Src) || e.Origin != OriginAuto || e.Reason != "2 strikes at web" || e.Scope != ScopeAll ||
		e.Ban == nil || e.Ban.Service != "web" || e.Ban.Only || e.Ban.Strikes != 2 {
		t.Errorf("entry %+v %+v", e, e.Ban)
	}
	if left := time.Until(e.Expires); left < 9*time.Minute || left > 10*time.Minute {
		t.Errorf("expires in %s", left)
	}
	v, err := c.Check(o.syn.Src)
	must(t, err)
	if v.Verdict != "drop" || v.Entry == nil || v.Entry.Origin != OriginAuto || v.Until.IsZero() {
		t.Errorf("check %+v", v)
	}
	removed, err := c.Remove(Block, []netip.Prefix{e.Prefix})
	must(t, err)
	if removed != 1 {
		t.Errorf("%d removed", removed)
	}
	c.ends(hookXDP, o.next(), isChallenged, "lifted")
	o.strike("strike 1 of the next")
	must(t, c.Forget(o.syn.Src))
	if strikes, err := c.Strikes(o.syn.Src); err != nil || len(strikes) != 0 {
		t.Errorf("strikes after forget: %v, %v", strikes, err)
	}
}

// A ban ends by itself; the next is longer, up to the longest, and shorter again after good behaviour.
func TestBanGrowsAndFades(t *testing.T) {
	c := newChallengeProgram(t, banning(1, policy.Ban{After: 1, For: time.Minute, Growth: 3, Max: 10 * time.Minute}))
	c.knock()
	for _, h := range bothHooks {
		c.emptyMeters()
		c.clearBans()
		o := c.offend(h, syn4(), 1)
		again := func(ended time.Duration, repeats uint32, length time.Duration) {
			t.Helper()
			c.pretend(ended)
			o.strike("after a ban")
			c.ends(h, o.next(), isBlocked, "banned again")
			c.wantBan(repeats, length)
		}
		o.strike("the first")
		c.wantBan(1, time.Minute)
		again(time.Second, 2, 3*time.Minute)
		again(time.Second, 3, 9*time.Minute)
		again(time.Second, 4, 10*time.Minute)
		again(time.Second, 4, 10*time.Minute) // no more count than the longest takes
		again(9*time.Minute, 4, 10*time.Minute)
		again(11*time.Minute, 4, 10*time.Minute) // one has faded, and this one counts
		again(21*time.Minute, 3, 9*time.Minute)
		again(30*time.Minute, 1, time.Minute)
	}
}

// Strikes count within their window.
func TestStrikesOfLongAgoDoNotCount(t *testing.T) {
	const within = 10 * time.Second
	c := newChallengeProgram(t, banning(1, policy.Ban{After: 2, For: time.Minute, Within: within}))
	c.knock()
	o := c.offend(hookXDP, syn4(), 1)
	// A strike cannot be from before the boot.
	testenv.WaitFor(t, 2*within, "the machine to be up for that long", func() bool { return monotonicNow() > uint64(2*within) })
	age := func(by time.Duration) {
		t.Helper()
		must(t, eachOf(c.maps.Strikes, func(key limiterStrikeKey, s limiterStriker) {
			s.Word -= uint64(by.Milliseconds()) << 16
			must(t, c.maps.Strikes.Put(key, s))
		}))
	}
	o.strike("strike 1")
	age(within)
	o.strike("too late to be the second")
	c.ends(hookXDP, o.next(), isChallenged, "one strike within the time")
	age(within / 4)
	o.strike("soon enough")
	c.ends(hookXDP, o.next(), isBlocked, "two strikes within the time")
}

// Whom the host cannot do without is refused and never banned; neither is who is allowed.
func TestBanSparesTheProtected(t *testing.T) {
	c := newChallengeProgram(t, banning(1, policy.Ban{After: 1, For: time.Hour}))
	c.knock()
	for _, h := range bothHooks {
		for _, p := range []tg.Packet{syn4(), syn6()} {
			c.emptyMeters()
			c.clearBans()
			before := c.tally()
			o := c.offend(h, p, 1)
			key := limiterPrefixKey{Prefixlen: uint32(strikerOf(p.Src).Bits() + lpmFamilyBits), Addr: dataAddr(strikerOf(p.Src).Addr())}
			must(t, c.maps.Protected.Put(key, uint64(1)))
			o.strike("of a gateway")
			c.ends(h, o.next(), isChallenged, "a gateway")
			if got := c.tally(); got.Spared-before.Spared != 1 || got.Bans != before.Bans {
				t.Errorf("%s: counted %+v since %+v", h, got, before)
			}
			must(t, c.maps.Protected.Delete(key))
			o.strike("of nobody special")
			c.ends(h, o.next(), isBlocked, "nobody special")
			c.add(Allow, Entry{Prefix: strikerOf(p.Src)})
			c.ends(h, o.next(), isAllowed, "allowed in spite of the ban")
			c.clearLists()
			c.ends(h, o.next(), isBlocked, "allowed no more")
		}
	}
}

// A ban of scope service keeps the source from that service alone.
func TestBanFromOneService(t *testing.T) {
	limit := banning(1, policy.Ban{After: 1, For: time.Hour, Scope: policy.BanService})
	c := newChallengeProgram(t, limit)
	c.rules(nil, func(p *policy.Policy) {
		p.Services = []policy.Service{
			listening("web", policy.TCP, server4.Port(), server4.Port(), limit), listening("other", policy.TCP, 9, 9, challenging(policy.PerSource, 5)),
		}
	})
	c.knock()
	for _, h := range bothHooks {
		c.emptyMeters()
		c.clearBans()
		o := c.offend(h, syn4(), 1)
		o.strike("the only one")
		c.ends(h, o.next(), isBlocked, "the service")
		c.ends(h, o.next().With(tg.Flags(tg.ACK)), isBlocked, "the service")
		c.ends(h, o.next().With(func(p *tg.Packet) { p.DstPort = 9 }), isNew, "another service")
		entries, err := c.Entries(Block)
		must(t, err)
		if len(entries) != 1 || !entries[0].Ban.Only || entries[0].Ban.Service != "web" {
			t.Errorf("entries %+v", entries)
		}
	}
}

// Under `mode: observe` nothing is refused, so nothing strikes.
func TestObservedProofStrikesNobody(t *testing.T) {
	limit := banning(1, policy.Ban{After: 1, For: time.Hour})
	c := newChallengeProgram(t, limit)
	c.knock()
	o := c.offend(hookXDP, syn4(), 1)
	proof := o.proof()
	c.rules(nil, observing, func(p *policy.Policy) {
		p.Services = []policy.Service{listening("web", policy.TCP, server4.Port(), server4.Port(), limit)}
	})
	c.ends(hookXDP, proof, end{limiterReasonREASON_OVER_NEW, limiterActionACTION_OBSERVE}, "observed")
	if got := c.tally(); got != (BanTally{}) {
		t.Errorf("counted %+v", got)
	}
}

// A table that is full of bans in force makes no more, and says so; what has faded makes room with the next command.
func TestFullTableOfBans(t *testing.T) {
	c := newChallengeProgram(t, banning(1, policy.Ban{After: 1, For: time.Hour}))
	c.knock()
	o := c.offend(hookXDP, syn4(), 1)
	fill := func(b limiterBan) {
		t.Helper()
		n := int(c.maps.Bans.MaxEntries())
		keys, values := make([]limiterBanKey, n), make([]limiterBan, n)
		for n := range keys {
			keys[n], values[n] = limiterBanKey{Addr: dataAddr(netip.AddrFrom4([4]byte{11, byte(n >> 16), byte(n >> 8), byte(n)})), Service: forAll}, b
		}
		_, err := c.maps.Bans.BatchUpdate(keys, values, nil)
		must(t, err)
	}
	fill(limiterBan{ExpiresNs: monotonicNow() + uint64(time.Hour), FadeNs: uint64(time.Hour), Repeats: 1})
	o.strike("the table is full")
	c.ends(hookXDP, o.next(), isChallenged, "not banned")
	if got := c.tally(); got.Unfit != 1 || got.Bans != 0 {
		t.Errorf("counted %+v", got)
	}
	must(t, c.sweepBans())
	o.strike("all of them are in force")
	if got := c.tally(); got.Unfit != 2 {
		t.Errorf("counted %+v", got)
	}
	fill(limiterBan{ExpiresNs: 1, FadeNs: 1, Repeats: 1})
	must(t, c.sweepBans())
	o.strike("there is room")
	c.ends(hookXDP, o.next(), isBlocked, "banned")
}

// Strikes are of a limit, and not of what comes after it.
func TestStrikesEndWithTheirLimit(t *testing.T) {
	ban := policy.Ban{After: 2, For: time.Hour}
	c := newChallengeProgram(t, banning(1, ban))
	c.knock()
	o := c.offend(hookXDP, syn4(), 1)
	o.strike("the first limit")
	id := c.limit(0).Id
	for _, name := range []string{"gone", "other"} { // an id is free from the next but one policy on
		c.rules(nil, func(p *policy.Policy) {
			p.Services = []policy.Service{listening(name, policy.TCP, server4.Port(), server4.Port(), banning(1, ban))}
		})
	}
	if c.limit(0).Id != id {
		t.Fatalf("the limit has id %d, not %d again", c.limit(0).Id, id)
	}
	o = c.offend(hookXDP, syn4(), 1)
	o.port = 30_000 // the same SYN has the same cookie, which strikes once
	o.strike("another limit")
	c.ends(hookXDP, o.next(), isChallenged, "its first strike")
}
