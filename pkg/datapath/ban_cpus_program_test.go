// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/synward/synward/pkg/policy"
)

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
