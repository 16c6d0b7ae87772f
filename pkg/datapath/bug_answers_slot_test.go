// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"sync/atomic"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/synward/synward/pkg/policy"
)

// A SYN that one policy answers is held against the limits of answers of that policy. Where the word flips between
// verdict and answer, the other policy has none: its limits there are all zero (or what an older policy left), which
// means the first bucket of the meters, whosever it is.
func TestBugAnswerIsChargedToAPolicyWithoutAnswers(t *testing.T) {
	l := newProgramLab(t, frozen{linkHeader: true})
	resets := policy.Default(nil)
	resets.Services[0].Limits = []policy.Limit{aDay(policy.KindNew, policy.PerSource, 1, thatResets)}
	resets.Normalize()
	must(t, l.Apply(ApplyOptions{Policy: resets}))
	frame := syn4().Bytes()
	l.run(hookXDP, frame, nil)
	before := l.live()
	drops := policy.Default(onceADay(1))
	drops.Normalize()
	now := monotonicNow()
	prior, err := l.predecessor(before.inForce(now))
	must(t, err)
	c, err := compile(drops, prior)
	must(t, err)
	after := live{generation: l.nextGeneration(now)}
	must(t, l.write(c, after.generation, "a test"))
	l.general = true
	program := l.program(hookXDP)
	first := l.tables.Meters[0]
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
	if l.tables.Meters[0] != first {
		t.Errorf("a bucket of another limit was written to: %x, was %x", l.tables.Meters[0], first)
	}
}
