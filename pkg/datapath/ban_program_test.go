// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"math"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	tg "github.com/synward/synward/pkg/internal/trafficgen"
	"github.com/synward/synward/pkg/policy"
)

// banning is a limit of burst connections that bans.
func banning(burst uint64, ban policy.Ban) policy.Limit {
	if ban.Growth == 0 {
		ban.Growth = 2
	}
	if ban.Max == 0 {
		ban.Max = time.Hour
	}
	if ban.Within == 0 {
		ban.Within = time.Minute
	}
	l := challenging(policy.PerSource, burst)
	l.Ban = &ban
	return l
}

// offender is a source at its limit, with as many good answers to challenges as a test wants.
type offender struct {
	*challengeProgram
	hook hook
	syn  tg.Packet
	port uint16
}

// offend uses up what the limit gives without a challenge, and with.
func (c *challengeProgram) offend(h hook, p tg.Packet, burst int) *offender {
	c.t.Helper()
	o := &offender{c, h, p, 20000}
	for n := range burst {
		c.ends(h, o.next(), isNew, fmt.Sprintf("connection %d", n))
	}
	for n := range burst {
		c.ends(h, o.proof(), isProven, fmt.Sprintf("proof %d", n))
	}
	return o
}

func (o *offender) next() tg.Packet {
	o.port++
	return o.syn.With(tg.From(o.port))
}

// proof is the ACK to a challenge of a new SYN.
func (o *offender) proof() tg.Packet {
	o.t.Helper()
	p := o.next()
	return o.ackTo(p, o.ends(o.hook, p, isChallenged, "over the limit"))
}

// proofs are many, of which no counter is looked at.
func (o *offender) proofs(n int) (acks [][]byte) {
	o.t.Helper()
	program := o.program(o.hook)
	must(o.t, o.ns.Do(func() error {
		for range n {
			p := o.next()
			_, answer, err := program.Test(p.Bytes())
			if err != nil {
				return err
			}
			acks = append(acks, o.ackTo(p, answer).Bytes())
		}
		return nil
	}))
	return acks
}

// strike is one that the data path counts, unless the budget of RSTs makes it a drop.
func (o *offender) strike(what string) tg.Packet {
	o.t.Helper()
	p := o.proof()
	o.drainAnswers()
	o.ends(o.hook, p, isOverByProof, what)
	return p
}

// drainAnswers gives the source its RSTs back.
func (c *challengeProgram) drainAnswers() {
	c.t.Helper()
	drain(c.tables, c.limit(int(answerSourceAt)), monotonicNow())
	c.tables.LimitStates[c.limit(int(answerTotalAt)).Id] = limiterLimitState{}
}

func (c *challengeProgram) tally() BanTally {
	c.t.Helper()
	sum, err := c.BanTally()
	must(c.t, err)
	return sum
}

// theBan is the only one there is, with its key.
func (c *challengeProgram) theBan() (key limiterBanKey, b limiterBan) {
	c.t.Helper()
	n := 0
	must(c.t, eachOf(c.maps.Bans, func(k limiterBanKey, v limiterBan) { key, b, n = k, v, n+1 }))
	if n != 1 {
		c.t.Fatalf("%d bans, want 1", n)
	}
	return key, b
}

// pretend makes the ban one that ended so long ago, in a time that runs faster where the machine was not up yet.
func (c *challengeProgram) pretend(ended time.Duration) {
	c.t.Helper()
	key, b := c.theBan()
	faster := uint64(ended)/(monotonicNow()/2) + 1
	b.ExpiresNs, b.FadeNs = monotonicNow()-uint64(ended)/faster, b.FadeNs/faster
	must(c.t, c.maps.Bans.Put(key, b))
}

func (c *challengeProgram) wantBan(repeats uint32, length time.Duration) {
	c.t.Helper()
	_, b := c.theBan()
	got := time.Duration(b.ExpiresNs - b.MadeNs)
	if b.Repeats != repeats || got != length {
		c.t.Errorf("ban %d of %s, want %d of %s", b.Repeats, got, repeats, length)
	}
}

func (c *challengeProgram) clearBans() {
	c.t.Helper()
	_, err := c.LiftBans()
	must(c.t, err)
	must(c.t, deleteWhere(c.maps.Strikes, func(limiterStrikeKey, limiterStriker) bool { return true }))
}

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
	c := newChallengeProgram(t, banning(1, policy.Ban{After: 2, For: time.Minute, Within: time.Minute}))
	c.knock()
	o := c.offend(hookXDP, syn4(), 1)
	age := func(by time.Duration) {
		t.Helper()
		must(t, eachOf(c.maps.Strikes, func(key limiterStrikeKey, s limiterStriker) {
			s.Word -= uint64(by.Milliseconds()) << 16
			must(t, c.maps.Strikes.Put(key, s))
		}))
	}
	o.strike("strike 1")
	age(time.Minute)
	o.strike("a minute later")
	c.ends(hookXDP, o.next(), isChallenged, "one strike within a minute")
	age(50 * time.Second)
	o.strike("50 seconds later")
	c.ends(hookXDP, o.next(), isBlocked, "two strikes within a minute")
}

// Two CPUs strike at once: none is lost, and one ban comes of it. So many that two meet within a few nanoseconds.
func TestStrikesOfTwoCPUs(t *testing.T) {
	const after = 30_000
	for _, h := range bothHooks {
		c := newChallengeProgram(t, banning(1, policy.Ban{After: after, For: time.Hour}))
		c.knock()
		o := c.offend(h, syn4(), 1)
		acks := o.proofs(after + 1)
		c.onTwoCPUs(h, acks[:after-1])
		if got := c.tally(); got.Strikes != after-1 || got.Bans != 0 {
			t.Errorf("%s: %+v of %d proofs", h, got, after-1)
		}
		c.ends(h, o.next(), isChallenged, "one strike before the last")
		c.onTwoCPUs(h, acks[after-1:])
		if got := c.tally(); got.Bans != 1 || got.Strikes > after+1 {
			t.Errorf("%s: %+v", h, got)
		}
		c.ends(h, o.next(), isBlocked, "banned")
	}
}

// Every proof is a ban that is due, on two CPUs at once: one is made, each time.
func TestBanOfTwoCPUsIsOne(t *testing.T) {
	const rounds = 3_000
	for _, h := range bothHooks {
		c := newChallengeProgram(t, banning(1, policy.Ban{After: 1, For: time.Hour}))
		c.knock()
		o := c.offend(h, syn4(), 1)
		proofs := o.proofs(2 * rounds)
		before := c.tally()
		key := limiterBanKey{Addr: dataAddr(o.syn.Src), Service: forAll}
		c.inPairs(h, proofs, func() error {
			return c.maps.Bans.Put(key, limiterBan{ExpiresNs: 1, FadeNs: 1, Repeats: 1})
		})
		if got := c.tally(); got.Bans-before.Bans != rounds {
			t.Errorf("%s: %d bans in %d rounds", h, got.Bans-before.Bans, rounds)
		}
		c.wantBan(1, time.Hour)
	}
}

// onTwoCPUs judges frames, every other one on the other CPU.
func (c *challengeProgram) onTwoCPUs(h hook, frames [][]byte) {
	c.t.Helper()
	c.onEachCPU(h, func(cpu int, judge func([]byte) error) error {
		for n := cpu; n < len(frames); n += 2 {
			if err := judge(frames[n]); err != nil {
				return err
			}
		}
		return nil
	})
}

// inPairs judges two frames at a time, one on each CPU, as near to the same moment as it goes, and does something before
// each pair.
func (c *challengeProgram) inPairs(h hook, frames [][]byte, before func() error) {
	c.t.Helper()
	var there atomic.Int64
	c.onEachCPU(h, func(cpu int, judge func([]byte) error) error {
		for n := cpu; n < len(frames); n += 2 {
			if cpu == 0 {
				if err := before(); err != nil {
					there.Store(math.MaxInt64 / 2) // the other need not wait
					return err
				}
			}
			// No lock of the runtime wakes both within a few hundred nanoseconds.
			round := int64(n - cpu + 2)
			there.Add(1)
			for there.Load() < round {
			}
			if err := judge(frames[n]); err != nil {
				there.Store(math.MaxInt64 / 2)
				return err
			}
		}
		return nil
	})
}

// onEachCPU runs something on two CPUs at once, each with a way to judge a frame there.
func (c *challengeProgram) onEachCPU(h hook, run func(cpu int, judge func([]byte) error) error) {
	c.t.Helper()
	program := c.program(h)
	judge := func(frame []byte) error {
		_, _, err := program.Test(frame)
		return err
	}
	var done sync.WaitGroup
	var failed [2]error
	for cpu := range 2 {
		done.Go(func() {
			failed[cpu] = c.ns.Do(func() error {
				var set unix.CPUSet
				set.Set(cpu)
				if err := unix.SchedSetaffinity(0, &set); err != nil {
					return err
				}
				return run(cpu, judge)
			})
		})
	}
	done.Wait()
	for _, err := range failed {
		must(c.t, err)
	}
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

// What is kept of bans comes back, also of those that have ended and count for the next.
func TestBansAreKept(t *testing.T) {
	limit := banning(1, policy.Ban{After: 1, For: time.Minute, Growth: 3})
	c := newChallengeProgram(t, limit)
	c.knock()
	o := c.offend(hookXDP, syn6(), 1)
	o.strike("the first")
	c.pretend(time.Millisecond)
	keep := func(repeats uint64) (kept []Entry) {
		t.Helper()
		must(t, c.KeptEntries(Block, func(e Entry) error {
			kept = append(kept, e)
			return nil
		}))
		if len(kept) != 1 || kept[0].Ban == nil || kept[0].Ban.Repeats != repeats || kept[0].Ban.Service != "web" {
			t.Fatalf("kept %+v", kept)
		}
		return kept
	}
	ended := keep(1)
	c.clearBans()
	must(t, c.Load(Block, ended))
	c.ends(hookXDP, o.next(), isChallenged, "the ban has ended")
	o.strike("the second")
	c.wantBan(2, 3*time.Minute)
	kept := keep(2)
	c.clearBans()
	c.ends(hookXDP, o.next(), isChallenged, "all are gone")
	must(t, c.Load(Block, kept))
	c.ends(hookXDP, o.next(), isBlocked, "it is back")
	// Made before a boot, and ended so long before that one of two has faded.
	kept[0].Created = wallTime(0).Add(-time.Hour)
	c.clearBans()
	must(t, c.Load(Block, kept))
	if back := keep(2); back[0].Created.Sub(kept[0].Created).Abs() > time.Second {
		t.Errorf("made at %s, and back as of %s", kept[0].Created, back[0].Created)
	}
	for fades, repeats := range []uint64{2, 1} {
		old := kept[0]
		ban := *old.Ban
		old.Ban = &ban
		old.Ban.Fades = 1000 * time.Hour // more than this machine is up
		old.Expires = wallTime(0).Add(-old.Ban.Fades*time.Duration(fades) - time.Hour)
		c.clearBans()
		must(t, c.Load(Block, []Entry{old}))
		keep(repeats)
	}
	kept[0].Ban.Only, kept[0].Ban.Service = true, "none-of-this-name"
	c.clearBans()
	must(t, c.Load(Block, kept))
	c.ends(hookXDP, o.next(), isChallenged, "of a service that is gone")
	if left, err := c.placeBans(); err != nil || left != 1 {
		t.Errorf("%d bans without their service, %v", left, err)
	}
	// A policy that comes behind the bans brings their services.
	must(t, c.Load(Block, kept))
	c.rules(nil, func(p *policy.Policy) {
		p.Services = []policy.Service{listening("none-of-this-name", policy.TCP, server4.Port(), server4.Port(), limit)}
	})
	if left, err := c.placeBans(); err != nil || left != 0 {
		t.Errorf("%d bans without their service, %v", left, err)
	}
	c.ends(hookXDP, o.next(), isBlocked, "its service has come")
}

// A ban from one service is there again when the service is, and is nobody else's; one from all names no other.
func TestBansOfAServiceThatGoes(t *testing.T) {
	only, all := banning(1, policy.Ban{After: 1, For: time.Hour, Scope: policy.BanService}), banning(1, policy.Ban{After: 1, For: time.Hour})
	c := newChallengeProgram(t, only)
	web := func(name string, limits ...policy.Limit) {
		c.rules(nil, func(p *policy.Policy) {
			p.Services = []policy.Service{listening(name, policy.TCP, server4.Port(), server4.Port(), limits...)}
		})
	}
	c.knock()
	o := c.offend(hookXDP, syn4(), 1)
	o.strike("from web alone")
	web("another", only)
	c.ends(hookXDP, o.next(), isNew, "another service")
	web("web", only)
	c.ends(hookXDP, o.next(), isBlocked, "web is back")
	web("another", only)
	web("third", only)
	web("fourth", only)
	c.ends(hookXDP, o.next(), isNew, "with the id that web had, or without")
	for n := range 3 { // an id is free from the next but one policy on
		web(fmt.Sprintf("fill-%d", n), all)
	}
	must(t, c.Forget(o.syn.Src))
	o = c.offend(hookXDP, syn4(), 1)
	o.port = 30_000
	o.strike("from all")
	for n := range 3 {
		web(fmt.Sprintf("next-%d", n), all)
	}
	entries, err := c.Entries(Block)
	must(t, err)
	if len(entries) != 1 || entries[0].Reason != "1 strike" && entries[0].Reason != "1 strike at fill-2" {
		t.Errorf("entries %+v", entries)
	}
	c.ends(hookXDP, o.next(), isBlocked, "banned from all, whatever they are called")
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
