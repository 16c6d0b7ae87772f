// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"time"

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
	c.drainRefused()
}

// drainRefused gives it those back that its refused proof is told by, where a policy has them.
func (c *challengeProgram) drainRefused() {
	c.t.Helper()
	l := c.limit(int(refusedSourceAt))
	if l.Cost == 0 {
		return
	}
	drain(c.tables, l, monotonicNow())
	c.tables.LimitStates[c.limit(int(refusedTotalAt)).Id] = limiterLimitState{}
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
