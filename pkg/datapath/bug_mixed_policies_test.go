// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"sync/atomic"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/synward/synward/pkg/policy"
)

// Two policies that both refuse a source, one by its limit and one by its list: whichever is in force, and however
// often they take turns, no SYN of it passes. The lists are asked under one reading of the word and the limits
// under another.
func TestBugSYNIsJudgedByTheListsOfOnePolicyAndTheLimitsOfAnother(t *testing.T) {
	l := newProgramLab(t, frozen{linkHeader: true})
	limited := policy.Default(onceADay(1))
	limited.Normalize()
	must(t, l.Apply(ApplyOptions{Policy: limited}))
	frame := syn4().Bytes()
	l.run(hookXDP, frame, nil) // its burst
	before := l.live()
	blocks := policy.Default(nil)
	blocks.Block = members(client4.Addr().String() + "/32")
	blocks.Normalize()
	now := monotonicNow()
	prior, err := l.predecessor(before.inForce(now))
	must(t, err)
	c, err := compile(blocks, prior)
	must(t, err)
	after := live{generation: l.nextGeneration(now)}
	must(t, l.write(c, after.generation, "a test"))
	l.general = true
	program := l.program(hookXDP)
	for _, w := range []live{before, after} {
		atomic.StoreUint64(&l.control.Word, w.word())
		if l.run(hookXDP, frame, nil).verdict != xdpDrop {
			t.Fatalf("%v admits the source: the test shows nothing", w)
		}
	}
	all, err := l.ends(slotOf(hookXDP))
	must(t, err)
	passedBefore := all.of(limiterReasonREASON_UNDER_LIMIT, limiterActionACTION_PASS).Packets
	var stop atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !stop.Load() {
			atomic.StoreUint64(&l.control.Word, before.word())
			atomic.StoreUint64(&l.control.Word, after.word())
		}
	}()
	for range 40 {
		if _, err := program.Run(&ebpf.RunOptions{Data: frame, Repeat: 100_000}); err != nil {
			continue // interrupted
		}
	}
	stop.Store(true)
	<-done
	all, err = l.ends(slotOf(hookXDP))
	must(t, err)
	if got := all.of(limiterReasonREASON_UNDER_LIMIT, limiterActionACTION_PASS).Packets - passedBefore; got != 0 {
		t.Errorf("%d SYNs passed that both policies refuse", got)
	}
}
