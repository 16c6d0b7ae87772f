// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"testing"
	"time"

	"github.com/synward/synward/pkg/internal/testenv"
	"github.com/synward/synward/pkg/policy"
)

func reviewPolicy(burst uint64) *policy.Policy {
	p := policy.Default(onceADay(burst))
	p.Normalize()
	return p
}

func (l *programLab) reviewBurst() uint64 {
	l.t.Helper()
	p, err := l.PolicyInForce()
	must(l.t, err)
	return p.Services[0].Limits[0].Burst
}

// A policy whose apply failed or was killed before its flip was never in force: it is none to go back to.
func TestBugRollbackToAPolicyThatWasNeverInForce(t *testing.T) {
	l := newProgramLab(t, frozen{linkHeader: true})
	for _, burst := range []uint64{1, 2} {
		must(t, l.Apply(ApplyOptions{Policy: reviewPolicy(burst)}))
	}
	// All that Apply does before it is killed, or before widenPrograms fails.
	now := monotonicNow()
	prior, err := l.predecessor(l.live().inForce(now))
	must(t, err)
	c, err := compile(reviewPolicy(99), prior)
	must(t, err)
	must(t, l.write(c, l.nextGeneration(now), "killed"))
	must(t, l.tidy()) // what the next command begins with
	p, err := l.Rollback(1, "a test")
	must(t, err)
	if got := p.Services[0].Limits[0].Burst; got != 1 {
		t.Errorf("rollback put the policy with burst %d in force, want the one before, burst 1", got)
	}
}

// The deadline passes after `rollback` has opened the instance and before it acts (it looks for operators in
// between): the policy that nobody confirmed stays gone.
func TestBugRollbackAtTheDeadlineBringsTheUnconfirmedBack(t *testing.T) {
	l := newProgramLab(t, frozen{linkHeader: true})
	for _, burst := range []uint64{1, 2} {
		must(t, l.Apply(ApplyOptions{Policy: reviewPolicy(burst)}))
	}
	must(t, l.Apply(ApplyOptions{Policy: reviewPolicy(99), Confirm: time.Second}))
	must(t, l.tidy())
	l.outlast()
	_, err := l.Rollback(1, "a test")
	if got := l.reviewBurst(); got == 99 {
		t.Errorf("rollback put the unconfirmed policy in force, and for good (error %v)", err)
	}
}

// The same with an apply: the policy that lapsed under it is none to go back to.
func TestBugApplyAtTheDeadlineKeepsTheUnconfirmed(t *testing.T) {
	l := newProgramLab(t, frozen{linkHeader: true})
	must(t, l.Apply(ApplyOptions{Policy: reviewPolicy(2)}))
	must(t, l.Apply(ApplyOptions{Policy: reviewPolicy(99), Confirm: time.Second}))
	l.outlast()
	must(t, l.Apply(ApplyOptions{Policy: reviewPolicy(3)}))
	kept, err := l.Kept()
	must(t, err)
	for n, k := range kept {
		if limits := k.Policy.Services[0].Limits; len(limits) > 0 && limits[0].Burst == 99 {
			t.Errorf("`rollback %d` would bring back a policy that nobody confirmed", n)
		}
	}
}

// Killed between the flip of settle and dropText: nothing takes the text away any more.
func TestBugKilledSettleKeepsTheUnconfirmed(t *testing.T) {
	l := newProgramLab(t, frozen{linkHeader: true})
	must(t, l.Apply(ApplyOptions{Policy: reviewPolicy(2)}))
	must(t, l.Apply(ApplyOptions{Policy: reviewPolicy(99), Confirm: time.Second}))
	l.outlast()
	w := l.live()
	if !l.swap(w, live{generation: w.inForce(monotonicNow())}) {
		t.Fatal("swap")
	}
	must(t, l.tidy())
	kept, err := l.Kept()
	must(t, err)
	for n, k := range kept {
		if limits := k.Policy.Services[0].Limits; len(limits) > 0 && limits[0].Burst == 99 {
			t.Errorf("`rollback %d` would bring back a policy that nobody confirmed", n)
		}
	}
}

// outlast waits until the policy that nobody confirmed has lapsed.
func (l *programLab) outlast() {
	l.t.Helper()
	testenv.WaitFor(l.t, time.Minute, "the deadline", func() bool { return !l.live().pending(monotonicNow()) })
}
