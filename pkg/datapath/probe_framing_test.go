// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	tg "github.com/synward/synward/pkg/internal/trafficgen"
	"github.com/synward/synward/pkg/policy"
)

// Nobody is banned by what another sends in his name, whatever is replayed: answers of other ports, of others, to
// other services, with other numbers, and of any other minute.
func TestNobodyIsFramedByProbes(t *testing.T) {
	random := rand.New(rand.NewPCG(testSeed(t), 2))
	limit := probing(policy.OverDrop, 1, policy.Ban{After: 1, For: time.Hour})
	c := newProbeProgram(t, limit)
	c.rules(nil, func(p *policy.Policy) {
		p.Services = []policy.Service{
			listening("web", policy.TCP, server4.Port(), server4.Port(), limit), listening("other", policy.TCP, 9, 9, limit),
		}
	})
	for _, h := range bothHooks {
		for _, p := range []tg.Packet{syn4(), syn6()} {
			c.emptyMeters()
			c.clearBans()
			before := c.tally()
			o := c.provoke(h, p, 1)
			right := o.probed()
			forged := func() []tg.Packet {
				o.port++
				return []tg.Packet{
					o.syn.With(tg.From(o.port)), right.With(tg.From(o.port)), right.With(toPort(9)),
					right.With(tg.From(o.port), func(p *tg.Packet) { p.Ack = random.Uint32() }),
					right.With(func(p *tg.Packet) { p.Ack = random.Uint32() &^ 7 }), // the next few are good too, by the MSS
					right.With(func(p *tg.Packet) { p.Seq += random.Uint32() | 1 }),
					right.With(func(p *tg.Packet) { p.Ack += (random.Uint32()%255 + 1) << 24 }),
				}
			}
			program := c.program(h)
			must(t, c.ns.Do(func() error {
				for range 10_000 {
					drain(c.tables, c.limit(int(guessesAt)), monotonicNow()) // or none of the others could strike
					for _, f := range forged() {
						if bytes.Equal(f.Bytes(), right.Bytes()) {
							continue
						}
						if _, _, err := program.Test(f.Bytes()); err != nil {
							return err
						}
					}
				}
				return nil
			}))
			c.spendGuesses(p.Src)
			o.refusesAnswer(o.hook, right, "the right one among them")
			c.wantTally(before, 0, 0, fmt.Sprintf("%s, a flood", h))
			drain(c.tables, c.limit(int(guessesAt)), monotonicNow())
			o.strikeByProbe("of his own, once guesses are few")
			c.wantTally(before, 1, 1, "his own")
		}
	}
}

// The answer to a probe is not the kernel's cookie, and that to a challenge is no answer to a probe; nor is that to
// another limit's probe.
func TestProbeIsNoChallenge(t *testing.T) {
	ban := policy.Ban{After: 5, For: time.Hour}
	challenged := challenging(policy.PerSourceDestination, 1)
	limits := []policy.Limit{probing(policy.OverDrop, 3, ban), challenged}
	c := newChallengeProgram(t, limits...)
	for _, h := range bothHooks {
		for _, p := range []tg.Packet{syn4(), syn6()} {
			c.knock()
			c.emptyMeters()
			c.clearBans()
			before := c.tally()
			o := c.useUp(h, p, 1)
			proof := o.proof() // charged to its source, as if it were admitted
			o.proof()
			c.ends(h, proof, isProven, "the answer to a challenge")
			c.wantTally(before, 0, 0, "a challenge")
			for range 3 {
				o.refusesAnswer(o.hook, o.probed(), "the answer to a probe")
			}
			c.wantTally(before, 0, 0, "as many as the limit allows")
			o.strikeByProbe("one more")
			c.wantTally(before, 1, 0, "probes")
		}
	}
}

// Each limit has probes of its own: an answer strikes for the limit that asked.
func TestProbeIsOfItsLimit(t *testing.T) {
	first := probing(policy.OverDrop, 5, policy.Ban{After: 1, For: time.Hour})
	second := probing(policy.OverReset, 1, policy.Ban{After: 2, For: time.Minute})
	second.Per = policy.PerSourceDestination
	c := newProbeProgram(t, first, second)
	for _, h := range bothHooks {
		c.emptyMeters()
		c.clearBans()
		o := c.provoke(h, syn6(), 1)
		o.strikeByProbe("strike 1 of the second limit")
		strikes, err := c.Strikes(o.syn.Src)
		must(t, err)
		if len(strikes) != 1 || strikes["web limit 2"] != 1 {
			t.Errorf("strikes %v", strikes)
		}
		o.strikeByProbe("strike 2 of the second limit")
		c.wantBan(1, time.Minute)
	}
}

// A limit of all services probes in each of them; the ban says where the strikes came in.
func TestProbeOfAGlobalLimit(t *testing.T) {
	c := newProbeProgram(t)
	c.rules(nil, func(p *policy.Policy) {
		p.Services = []policy.Service{listening("web", policy.TCP, server4.Port(), server4.Port())}
		p.Global.Limits = []policy.Limit{probing(policy.OverDrop, 1, policy.Ban{After: 1, For: time.Hour})}
	})
	for _, h := range bothHooks {
		c.emptyMeters()
		c.clearBans()
		o := c.provoke(h, syn4(), 1)
		o.strikeByProbe("the only one")
		entries, err := c.Entries(Block)
		must(t, err)
		if len(entries) != 1 || entries[0].Reason != "1 strike at web" {
			t.Errorf("entries %+v", entries)
		}
	}
}

// Two CPUs with one answer, again and again within the same moment: one strike each.
func TestProbeStrikesOnceOnTwoCPUs(t *testing.T) {
	const answers = 3000
	for _, h := range bothHooks {
		c := newProbeProgram(t, probing(policy.OverDrop, 1, policy.Ban{After: 30_000, For: time.Hour, Within: time.Hour}))
		o := c.provoke(h, syn4(), 1)
		twice := o.probes(answers)
		before := c.tally()
		c.inPairs(h, twice, func() error { return nil })
		c.wantTally(before, answers, 0, string(h))
	}
}

// probes are the answers to so many, each twice, of which no counter is looked at.
func (o *offender) probes(n int) (acks [][]byte) {
	o.t.Helper()
	for range n {
		o.drainProbes()
		p := o.next()
		must(o.t, o.ns.Do(func() error {
			ack := o.ackTo(p, o.run(o.hook, p.Bytes(), nil).out).Bytes()
			acks = append(acks, ack, ack)
			return nil
		}))
	}
	return acks
}

// Where nothing is refused nothing is probed: under `mode: observe`, and once `attach --confirm` has run out.
func TestProbeOfNobodyObserved(t *testing.T) {
	limit := probing(policy.OverDrop, 1, policy.Ban{After: 1, For: time.Hour})
	c := newProbeProgram(t, limit)
	o := c.useUp(hookXDP, syn4(), 1)
	c.rules(nil, observing, func(p *policy.Policy) {
		p.Services = []policy.Service{listening("web", policy.TCP, server4.Port(), server4.Port(), limit)}
	})
	observedOver := observed(limiterReasonREASON_OVER_NEW)
	if c.head().Features&uint32(limiterFeatureFEATURE_PROBE|limiterFeatureFEATURE_BAN) != 0 {
		t.Errorf("features %#x for what does nothing", c.head().Features)
	}
	for _, h := range bothHooks {
		c.emptyMeters()
		c.ends(h, o.next(), isNew, "under the limit")
		c.ends(h, o.next(), observedOver, "over it")
	}
	c = newProbeProgram(t, limit)
	c.frozen.observeAfter = 1
	for _, h := range bothHooks {
		c.emptyMeters()
		o := c.useUp(h, syn4(), 1)
		c.ends(h, o.next(), observedOver, "unconfirmed")
	}
}

// What the act stage must do without where answers would lose their tag.
func TestProbeWhereAnswersMayNotLeave(t *testing.T) {
	c := newProbeProgram(t, probing(policy.OverDrop, 1, policy.Ban{After: 1, For: time.Hour}))
	c.frozen.silent = true
	for _, h := range bothHooks {
		c.emptyMeters()
		o := c.useUp(h, syn4(), 1)
		c.ends(h, o.next(), isOver, "silent")
	}
}
