// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"testing"
	"time"

	"github.com/synward/synward/pkg/policy"
)

// wrapAfter is the time at which a limit's units come to 2^40, in nanoseconds.
func wrapAfter(limit limiterLimit) uint64 { return 1 << (slotTATBits + limit.UnitShift) }

// A limit that is fast enough to wrap within months, and one that wraps within hours.
func wrappingLimits(t *testing.T) map[string]limiterLimit {
	return map[string]limiterLimit{
		"50/s": meterLimit(t, perSecond(50, 100), 1), "100k/s": meterLimit(t, perSecond(100_000, 1000), 1),
		"1/128ns": meterLimit(t, policy.NewLimit{Rate: policy.Rate{Count: 1, Period: policy.MinInterval}, Burst: 50}, 1),
	}
}

// Across the wrap of the 40-bit TAT the verdicts stay those of time that does not wrap.
func TestMeterAcrossTheWrap(t *testing.T) {
	l := newMeterLab(t)
	for name, limit := range wrappingLimits(t) {
		interval := limit.Cost << limit.UnitShift
		for _, wraps := range []uint64{1, 2, 7} {
			start := wraps*wrapAfter(limit) - 500*interval
			var steps []metersTestStep
			for n := range uint64(4000) {
				steps = append(steps, step(0, keyed(n%13+1), start+n*interval/3))
			}
			verdicts := l.compare(l.reset(start, limit), steps)
			for tag := range uint64(13) {
				promise(t, limit, admittedTimes(steps, verdicts, 0, keyed(tag+1)), name)
			}
		}
	}
}

// A slot that nobody has charged for a time owes nothing, as long as the 40 bits can tell: up to
// 2^40 - stale units, minutes to years by the limit.
func TestMeterIdleSlots(t *testing.T) {
	l := newMeterLab(t)
	for name, limit := range wrappingLimits(t) {
		for _, idle := range []uint64{0, 1, limit.Capacity, 1 << 30, 1 << 38, 1 << 39, 3 << 38, 1<<40 - limit.Stale - 1} {
			l.reset(meterEpoch, limit)
			now := meterEpoch >> limit.UnitShift
			for way := range l.slots[:limiterAbiMETER_WAYS] {
				l.slots[way] = keyed(uint64(way)+1) | (now-idle)&slotTAT
			}
			got := l.charge(step(0, keyed(3), meterEpoch), step(0, keyed(99), meterEpoch))
			if got[0] != admitted || got[1] != admitted {
				t.Errorf("%s, idle for %d units: verdicts %v", name, idle, got)
			}
			if got := l.slots[2]; got != keyed(3)|(now+limit.Cost)&slotTAT {
				t.Errorf("%s, idle for %d units: slot %#x", name, idle, got)
			}
		}
	}
}

// What is charged ahead, up to the capacity and some clock skew, always counts: no over-admission.
func TestMeterChargedSlotsCount(t *testing.T) {
	l := newMeterLab(t)
	for name, limit := range wrappingLimits(t) {
		for _, ahead := range []uint64{limit.Capacity - limit.Cost + 1, limit.Capacity, limit.Capacity + 3, limit.Stale - 1, limit.Stale} {
			l.reset(meterEpoch, limit)
			now := meterEpoch >> limit.UnitShift
			for way := range l.slots[:limiterAbiMETER_WAYS] {
				l.slots[way] = keyed(uint64(way)+1) | (now+ahead)&slotTAT
			}
			got := l.charge(step(0, keyed(3), meterEpoch), step(0, keyed(99), meterEpoch))
			if got[0] != over || got[1] != full {
				t.Errorf("%s, %d units ahead: verdicts %v, want over and full", name, ahead, got)
			}
		}
	}
}

// A region whose slots were emptied when the limit was set, and hardly used since, must admit
// newcomers at any later time. Without a sweep all empty slots seem to owe when their TAT comes round
// again: for 1k/s after 6.5 days, for 100k/s every 2.4 hours, each time for longer than a second.
func TestBugEmptySlotsOweWhenTheClockWraps(t *testing.T) {
	l := newMeterLab(t)
	for name, limit := range map[string]limiterLimit{
		"1k/s": meterLimit(t, perSecond(1000, 1000), 1), "100k/s": meterLimit(t, perSecond(100_000, 1000), 1),
	} {
		l.reset(meterEpoch, limit)
		refused, begin := time.Duration(0), wrapAfter(limit)+meterEpoch-uint64(5*time.Second)
		for after := time.Duration(0); after < 6*time.Second; after += 50 * time.Millisecond {
			l.reset(meterEpoch, limit)
			if v := l.charge(step(0, keyed(9), begin+uint64(after))); v[0] != admitted {
				refused += 50 * time.Millisecond
			}
		}
		if refused > 0 {
			t.Errorf("%s: %v after the region was emptied every newcomer is refused for %v", name,
				time.Duration(wrapAfter(limit)).Round(time.Minute), refused)
		}
	}
}
