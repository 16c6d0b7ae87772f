// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	tg "github.com/synward/synward/pkg/internal/trafficgen"
	"github.com/synward/synward/pkg/policy"
)

// Nobody is banned by what another sends in his name: SYNs, guessed ACKs, those to other ports or times. Not even
// where one of the guesses is right, for there were many.
func TestNobodyIsFramed(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	rounds := 30_000
	if os.Getenv(vmVariable) != "" {
		rounds = 3_000
	}
	c := newChallengeProgram(t, banning(2, policy.Ban{After: 1, For: time.Hour}))
	c.knock()
	for _, h := range bothHooks {
		for _, p := range []tg.Packet{syn4(), syn6()} {
			c.emptyMeters()
			c.clearBans()
			before := c.tally()
			o := c.offend(h, p, 2)
			drain(c.tables, c.limit(int(guessesAt)), monotonicNow())
			right := o.proof()
			program := c.program(h)
			must(t, c.ns.Do(func() error {
				for range rounds {
					o.port++
					for _, forged := range []tg.Packet{
						o.syn.With(tg.From(o.port)),
						right.With(tg.From(o.port), func(p *tg.Packet) { p.Ack = random.Uint32() }),
						right.With(tg.From(o.port)), right.With(func(p *tg.Packet) { p.Ack += 1 << 24 }),
					} {
						if _, _, err := program.Test(forged.Bytes()); err != nil {
							return err
						}
					}
				}
				return nil
			}))
			c.drainAnswers()
			c.spendGuesses(p.Src)
			c.ends(h, right, isOverByProof, "the right one among them")
			if got := c.tally(); got != before {
				t.Errorf("%s: counted %+v since %+v", h, got, before)
			}
			c.ends(h, o.next(), isChallenged, "after the flood")
			drain(c.tables, c.limit(int(guessesAt)), monotonicNow())
			o.strike("of his own, once guesses are few")
			c.ends(h, o.next(), isBlocked, "banned")
		}
	}
}

// spendGuesses wants the flood to have spent some of a source's budget, and spends what has come back since.
func (c *challengeProgram) spendGuesses(source netip.Addr) {
	c.t.Helper()
	l := c.limit(int(guessesAt))
	slot := meterSlot(c.tables, l, hashKey(&c.control.Hash, l, source, netip.Addr{}))
	if slot == nil || level(l, *slot, monotonicNow()) == 0 {
		c.t.Fatal("no guess was counted")
	}
	*slot = *slot&slotTag | (monotonicNow()>>l.UnitShift+(l.Capacity+l.Stale)/2)&slotTAT
}

// Whoever has seen one cookie knows that of every sequence number: all of them strike once. So does what is sent
// behind, and what was sent before, however many have struck meanwhile.
func TestEachCookieStrikesOnce(t *testing.T) {
	c := newChallengeProgram(t, banning(1, policy.Ban{After: 60, For: time.Hour}))
	c.knock()
	for _, h := range bothHooks {
		c.emptyMeters()
		c.clearBans()
		before := c.tally()
		o := c.offend(h, syn4(), 1)
		seen := make([]tg.Packet, limiterBanSizeSTRIKE_PROOFS)
		for n := range seen {
			seen[n] = o.strike("its first")
		}
		for _, shift := range []uint32{0, 1, 3, 1 << 10, 1 << 24, 1 << 31} {
			for _, p := range seen {
				c.drainAnswers()
				c.ends(h, p.With(func(p *tg.Packet) { p.Seq, p.Ack = p.Seq+shift, p.Ack+shift }), isOverByProof, "seen before")
			}
		}
		for _, p := range seen {
			c.drainAnswers()
			c.ends(h, p.With(func(p *tg.Packet) { p.Payload = []byte("hello") }), isOverByProof, "with data")
		}
		if got := c.tally(); got.Strikes-before.Strikes != uint64(len(seen)) {
			t.Errorf("%s: %d cookies struck: %+v since %+v", h, len(seen), got, before)
		}
	}
}

// A limit that counts many together would have one ban another, and a ban is of one.
func TestBanOfManyIsRefused(t *testing.T) {
	for _, wide := range []policy.PrefixLengths{{IPv4: 24, IPv6: 64}, {IPv4: 32, IPv6: 48}} {
		limit := banning(1, policy.Ban{After: 1, For: time.Hour})
		limit.Prefix, limit.Ban.Prefix = wide, policy.PrefixLengths{IPv4: 32, IPv6: 64}
		err := banSupported(limit)
		if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "counts a whole ") {
			t.Errorf("%+v: %v", wide, err)
		}
	}
	limit := banning(1, policy.Ban{After: 1, For: time.Hour})
	limit.Prefix = policy.PrefixLengths{IPv4: 32, IPv6: 64}
	limit.Ban.Prefix = limit.Prefix
	if err := banSupported(limit); err != nil {
		t.Error(err)
	}
}

// Whom a service allows keeps that service when another bans him.
func TestBanSparesWhomAServiceAllows(t *testing.T) {
	limit := banning(1, policy.Ban{After: 1, For: time.Hour})
	c := newChallengeProgram(t, limit)
	for _, h := range bothHooks {
		for _, p := range []tg.Packet{syn4(), syn6()} {
			c.rules(nil, func(policies *policy.Policy) {
				ssh := listening("ssh", policy.TCP, 22, 22, challenging(policy.PerSource, 5))
				ssh.Allow = policy.Members{Prefixes: []netip.Prefix{strikerOf(p.Src)}}
				policies.Services = []policy.Service{listening("web", policy.TCP, server4.Port(), server4.Port(), limit), ssh}
			})
			c.knock()
			c.emptyMeters()
			c.clearBans()
			o := c.offend(h, p, 1)
			o.strike("at web")
			c.ends(h, o.next(), isBlocked, "web")
			c.ends(h, o.next().With(func(p *tg.Packet) { p.DstPort = 23 }), isBlocked, "no service")
			c.ends(h, o.next().With(func(p *tg.Packet) { p.DstPort = 22 }), isAllowed, "ssh")
			c.ends(h, o.next().With(tg.Flags(tg.ACK), func(p *tg.Packet) { p.DstPort = 22 }), isNotConnected, "ssh, open")
		}
	}
}

// The debt of another, whose slot a full table gave away, is nobody's strike, not even by chance.
func TestAnothersDebtIsNoStrike(t *testing.T) {
	c := newChallengeProgram(t, banning(3, policy.Ban{After: 1, For: time.Hour}))
	c.knock()
	for _, h := range bothHooks {
		c.emptyMeters()
		c.clearBans()
		before := c.tally()
		o := c.offend(h, syn4(), 3)
		second := c.limit(int(c.limit(0).Proven))
		slot := meterSlot(c.tables, second, hashKey(&c.control.Hash, second, o.syn.Src, netip.Addr{}))
		if slot == nil {
			t.Fatal("proof charged no slot")
		}
		proofs := o.proofs(2 * 60)
		program := c.program(h)
		must(t, c.ns.Do(func() error {
			for n, ack := range proofs {
				if n%2 == 0 { // room for one more and no second, all of it owed by another
					*slot = *slot&slotTag | slotBorrowed | (monotonicNow()>>second.UnitShift+second.Capacity-second.Cost*5/4)&slotTAT
				}
				if _, _, err := program.Test(ack); err != nil {
					return err
				}
			}
			return nil
		}))
		if got := c.tally(); got != before {
			t.Errorf("%s: counted %+v since %+v", h, got, before)
		}
		// What he owes himself is one.
		*slot = *slot&slotTag | (monotonicNow()>>second.UnitShift+second.Capacity)&slotTAT
		o.strike("his own debt")
	}
}
