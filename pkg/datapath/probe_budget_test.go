// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"testing"
	"time"

	"github.com/synward/synward/pkg/internal/testenv"
	tg "github.com/synward/synward/pkg/internal/trafficgen"
	"github.com/synward/synward/pkg/policy"
)

// Probes stop at their budgets, of one source and of all.
func TestProbesStopAtTheirBudgets(t *testing.T) {
	c := newProbeProgram(t, probing(policy.OverDrop, 1, policy.Ban{After: 100, For: time.Hour}))
	for _, h := range bothHooks {
		c.emptyMeters()
		o := c.useUp(h, syn4(), 1)
		beside := c.useUp(h, syn4(from("198.51.100.99")), 1)
		o.drainProbes()
		program := c.program(h)
		before, err := c.programLab.ends(slotOf(h))
		must(t, err)
		begin := monotonicNow()
		must(t, c.ns.Do(func() error {
			for range 1000 {
				if _, _, err := program.Test(o.next().Bytes()); err != nil {
					return err
				}
			}
			return nil
		}))
		most := probesAtOnce + probesPerSecond*(monotonicNow()-begin)/uint64(time.Second) + 1
		after, err := c.programLab.ends(slotOf(h))
		must(t, err)
		sent := after.of(isProbed.reason, isProbed.action).Packets - before.of(isProbed.reason, isProbed.action).Packets
		if sent < probesAtOnce || sent > most {
			t.Errorf("%s: %d probes, want %d to %d", h, sent, probesAtOnce, most)
		}
		c.ends(h, beside.next(), isProbed, "another source")
		total := c.limit(int(probeTotalAt))
		if total.Cost == 0 {
			t.Fatal("no budget in total")
		}
		c.tables.LimitStates[total.Id].TatNs = monotonicNow() + uint64(time.Hour)
		c.ends(h, beside.next(), isOver, "past the budget of all")
		c.tables.LimitStates[total.Id].TatNs = 0
		c.ends(h, beside.next(), isProbed, "again")
	}
}

// Past the ledger's budget SYNs are probed by chance, so that a flood does not cost what a probe does.
func TestProbesAreSampled(t *testing.T) {
	c := newProbeProgram(t, probing(policy.OverDrop, 1, policy.Ban{After: 100, For: time.Hour}))
	for _, h := range bothHooks {
		c.emptyMeters()
		o := c.useUp(h, syn4(), 1)
		testenv.WaitFor(t, time.Minute, "a SYN within the ledger's window", func() bool { return o.isSampledOut() })
		o.drainProbes()
		c.spendLedger(h, 0)
		c.ends(h, o.next(), isProbed, "the one in so many")
	}
}

// isSampledOut judges a SYN past the ledger's budget, and wants it dropped; false: its window has ended meanwhile.
func (o *offender) isSampledOut() bool {
	o.t.Helper()
	const skip = 1 << 20
	before, err := o.programLab.ends(slotOf(o.hook))
	must(o.t, err)
	o.drainProbes()
	o.spendLedger(o.hook, skip)
	must(o.t, o.ns.Do(func() error {
		_, _, err := o.program(o.hook).Test(o.next().Bytes())
		return err
	}))
	var perCPU []limiterCounts
	must(o.t, o.maps.Counters.Lookup(slotOf(o.hook), &perCPU))
	for _, c := range perCPU {
		if c.Ledger.Skip[1] != skip-1 {
			continue
		}
		after, err := o.programLab.ends(slotOf(o.hook))
		must(o.t, err)
		if probes := after.of(isProbed.reason, isProbed.action).Packets - before.of(isProbed.reason, isProbed.action).Packets; probes != 0 {
			o.t.Errorf("%s: probed past the ledger's budget", o.hook)
		}
		return true
	}
	return false
}

// spendLedger leaves the ledger's budget for refusals spent, with so many to skip before the next sample.
func (c *challengeProgram) spendLedger(h hook, skip uint32) {
	c.t.Helper()
	var spent limiterCounts
	spent.Ledger.WindowNs = monotonicNow() - uint64(20*time.Millisecond) // the clock of the program may be a tick behind
	spent.Ledger.Used[1], spent.Ledger.Skip[1] = 1<<20, skip
	c.setLedger(h, spent)
}

func (c *challengeProgram) setLedger(h hook, as limiterCounts) {
	c.t.Helper()
	var perCPU []limiterCounts
	must(c.t, c.maps.Counters.Lookup(slotOf(h), &perCPU))
	for cpu := range perCPU {
		perCPU[cpu].Ledger = as.Ledger
	}
	must(c.t, c.maps.Counters.Put(slotOf(h), perCPU))
}

// A ban that no strikes can bring is refused.
func TestProbesMustSuffice(t *testing.T) {
	for after, good := range map[uint64]bool{30: true, 31: false} {
		limit := probing(policy.OverDrop, 1, policy.Ban{After: after, For: time.Hour, Within: time.Second})
		limit.Prefix, limit.Ban.Prefix = policy.PrefixLengths{IPv4: 32, IPv6: 64}, policy.PrefixLengths{IPv4: 32, IPv6: 64}
		if err := supported(limit); (err == nil) != good {
			t.Errorf("%d strikes within a second: %v", after, err)
		}
	}
}

// However many SYNs are reset in somebody's name, he is told that his own connection, which he thinks he has, is refused.
func TestForgedSYNsLeaveAnAnswerItsReset(t *testing.T) {
	c := newProbeProgram(t, probing(policy.OverReset, 1, policy.Ban{After: 100, For: time.Hour}))
	for _, h := range bothHooks {
		for _, p := range []tg.Packet{syn4(), syn6()} {
			c.emptyMeters()
			c.clearBans()
			o := c.useUp(h, p, 1)
			right := o.probed()
			o.drainAnswers()
			program := c.program(h)
			before, err := c.programLab.ends(slotOf(h))
			must(t, err)
			must(t, c.ns.Do(func() error {
				for range 1000 {
					if _, _, err := program.Test(o.next().Bytes()); err != nil {
						return err
					}
				}
				return nil
			}))
			after, err := c.programLab.ends(slotOf(h))
			must(t, err)
			if after.of(isOver.reason, isOver.action).Packets == before.of(isOver.reason, isOver.action).Packets {
				t.Fatalf("%s: the flood has not used up its RSTs", h)
			}
			c.drainRefused()
			c.ends(h, right, isOverByProof, "his answer")
		}
	}
}
