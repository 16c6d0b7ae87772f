// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"testing"
	"time"

	"github.com/synward/synward/pkg/policy"
)

func reviewLimit(burst uint64) policy.Limit {
	return policy.Limit{Kind: policy.KindNew, Per: policy.PerSource, Rate: policy.Rate{Count: 1, Period: 10 * time.Minute}, Burst: burst}
}

// A limit that stays the same keeps its levels, whatever becomes of another service's limit.
func TestBugUnchangedLimitLosesItsLevels(t *testing.T) {
	l := newProgramLab(t, frozen{linkHeader: true})
	apply := func(first uint64) {
		p := &policy.Policy{Services: []policy.Service{
			listening("first", policy.TCP, 80, 80, reviewLimit(first)), listening("second", policy.TCP, 443, 443, reviewLimit(64)),
		}}
		p.Normalize()
		must(t, l.Apply(ApplyOptions{Policy: p}))
	}
	send := func() (admitted int) {
		for range 100 {
			if l.run(hookXDP, syn4().Bytes(), nil).verdict == xdpPass {
				admitted++
			}
		}
		return admitted
	}
	apply(1)
	if got := send(); got != 64 {
		t.Fatalf("%d admitted of a burst of 64", got)
	}
	apply(64)
	if got := send(); got != 0 {
		t.Errorf("the burst of the first service was raised, and the second, which is unchanged, admitted %d more", got)
	}
}

// A policy that raised a limit's horizon was rolled back: the next one resets nothing either.
func TestBugLevelsLostAfterARollback(t *testing.T) {
	l := newProgramLab(t, frozen{linkHeader: true})
	apply := func(first uint64, confirm time.Duration, others ...policy.Service) {
		p := &policy.Policy{Services: append([]policy.Service{
			listening("first", policy.TCP, 80, 80, reviewLimit(first)), listening("second", policy.TCP, 443, 443, reviewLimit(64)),
		}, others...)}
		p.Normalize()
		must(t, l.Apply(ApplyOptions{Policy: p, Confirm: confirm}))
	}
	apply(1, 0)
	for range 64 {
		l.run(hookXDP, syn4().Bytes(), nil)
	}
	apply(64, time.Minute)
	_, err := l.Rollback(1, "a test")
	must(t, err)
	apply(1, 0, listening("third", policy.TCP, 8080, 8080))
	if l.run(hookXDP, syn4().Bytes(), nil).verdict == xdpPass {
		t.Error("an unchanged limit was reset")
	}
}

// Two limits that count the same of the same, by minute and by day: where the first goes, the second stays.
func TestBugLimitsOfOneNameSwapLevels(t *testing.T) {
	l := newProgramLab(t, frozen{linkHeader: true})
	slow := aDay(policy.KindNew, policy.PerSource, 3)
	fast := policy.Limit{Kind: policy.KindNew, Per: policy.PerSource, Rate: policy.Rate{Count: 1000, Period: time.Second}, Burst: 1000}
	apply := func(limits ...policy.Limit) {
		p := &policy.Policy{Services: []policy.Service{listening("web", policy.TCP, 443, 443, limits...)}}
		p.Normalize()
		must(t, l.Apply(ApplyOptions{Policy: p}))
	}
	apply(fast, slow)
	for range 10 {
		l.run(hookXDP, syn4().Bytes(), nil)
	}
	states, err := l.Services()
	must(t, err)
	if got := states[0].Limits[1].Over.Packets; got != 7 {
		t.Fatalf("the slow limit refused %d, want 7", got)
	}
	apply(slow)
	states, err = l.Services()
	must(t, err)
	if got := states[0].Limits[0].Over.Packets; got != 7 {
		t.Errorf("the slow limit is unchanged and has lost its count: %d, want 7", got)
	}
	if l.run(hookXDP, syn4().Bytes(), nil).verdict == xdpPass {
		t.Error("the slow limit is unchanged and was reset: it admits a second burst")
	}
}
