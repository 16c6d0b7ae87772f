// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"testing"

	"github.com/synward/synward/pkg/policy"
)

// meterEpoch is when virtual time begins, in nanoseconds.
const meterEpoch = uint64(1_000_000_000_000_000)

// oracleSlot is a slot of the meters with a TAT that never wraps, in the limit's units.
type oracleSlot struct {
	tag, tat uint64
	// lent: it may be marked as borrowed. The data path ends a loan at random, so not more is known.
	lent bool
}

// oracle is the meters by their specification (design section 3): per key GCRA, and in each bucket
// Space-Saving replacement of the slot with the oldest TAT. It reads time without wrapping around.
type oracle struct {
	limits  []limiterLimit
	buckets map[uint32]*[limiterAbiMETER_WAYS]oracleSlot
	// empty is the TAT of a slot that nobody has used.
	empty uint64
}

func newOracle(limits ...limiterLimit) *oracle {
	return &oracle{limits, map[uint32]*[limiterAbiMETER_WAYS]oracleSlot{}, 0}
}

// pick is the key's slot, else the one with the oldest TAT, the first on a tie.
func (o *oracle) pick(limit limiterLimit, hash uint64) (slot *oracleSlot, hit bool) {
	at := limit.FirstBucket + uint32(hash)&limit.BucketMask
	bucket := o.buckets[at]
	if bucket == nil {
		bucket = &[limiterAbiMETER_WAYS]oracleSlot{}
		for way := range bucket {
			bucket[way].tat = o.empty
		}
		o.buckets[at] = bucket
	}
	oldest := &bucket[0]
	for way := range bucket {
		slot := &bucket[way]
		if slot.tag == hash&slotTag {
			return slot, true
		}
		if slot.tat < oldest.tat {
			oldest = slot
		}
	}
	return oldest, false
}

// charge says how a step ends; where over and full are both right, what the data path said decides.
func (o *oracle) charge(s metersTestStep) uint32 {
	limit := o.limits[s.Limit]
	now := s.NowNs >> limit.UnitShift
	slot, hit := o.pick(limit, s.Hash)
	level := uint64(0)
	if slot.tat > now {
		level = slot.tat - now
	}
	lent := level > 0 && (!hit || slot.lent)
	if level+limit.Cost > limit.Capacity {
		switch {
		case !lent:
			return over
		case hit && s.Verdict == over:
			slot.lent = false // the loan has ended
			return over
		}
		return full
	}
	*slot = oracleSlot{tag: s.Hash & slotTag, tat: now + level + limit.Cost, lent: lent}
	return admitted
}

// reset empties table and oracle at a time of this virtual clock.
func (l *meterLab) reset(nowNs uint64, limits ...limiterLimit) *oracle {
	l.t.Helper()
	l.useAt(nowNs, limits...)
	o := newOracle(limits...)
	o.empty = drainedAt(limits[0].UnitShift, nowNs)
	return o
}

// compare charges steps and wants the oracle's verdicts, and in the end its table.
func (l *meterLab) compare(o *oracle, steps []metersTestStep) []uint32 {
	l.t.Helper()
	verdicts := l.charge(steps...)
	for i, s := range steps {
		s.Verdict = verdicts[i]
		if want := o.charge(s); want != verdicts[i] {
			l.t.Fatalf("step %d of %d (%+v): verdict %d, want %d", i, len(steps), s, verdicts[i], want)
		}
	}
	l.compareTable(o)
	return verdicts
}

func (l *meterLab) compareTable(o *oracle) {
	l.t.Helper()
	for at, bucket := range o.buckets {
		for way, want := range bucket {
			got := l.slots[int(at)*len(bucket)+way]
			if got&^slotBorrowed != want.tag|want.tat&slotTAT {
				l.t.Fatalf("bucket %d way %d holds %#x, want tag %#x TAT %#x", at, way, got, want.tag, want.tat&slotTAT)
			}
			if got&slotBorrowed != 0 && !want.lent {
				l.t.Fatalf("bucket %d way %d is marked as borrowed", at, way)
			}
		}
	}
}

// promise wants no window over the admissions of one key to hold more than B + W/T, for the interval
// T that the limit was compiled to, which is never below the one that was asked for.
//
// Of admissions i and j, i before j: (j-i+1)*T <= B*T + t[j]-t[i], which is f(j) - f(i) <= (B-1)*T
// for f(i) = i*T - t[i]. So one pass over the least f so far sees all windows.
func promise(t testing.TB, limit limiterLimit, times []uint64, what string) {
	t.Helper()
	if len(times) == 0 {
		return
	}
	cost, room := int64(limit.Cost), int64(limit.Capacity)-int64(limit.Cost)
	first := times[0] >> limit.UnitShift
	least := int64(1 << 62)
	for i, at := range times {
		f := int64(i)*cost - int64(at>>limit.UnitShift-first)
		least = min(least, f)
		if f-least > room {
			t.Fatalf("%s: admission %d of %d is over the limit of some window", what, i, len(times))
		}
	}
}

// promiseInTime is promise in nanoseconds and for the rate as it was asked for: B + W/T and no tick
// more. Both sides are multiplied by the rate's count.
func promiseInTime(t testing.TB, rate policy.Rate, burst uint64, times []uint64) {
	t.Helper()
	period, least := int64(rate.Period), int64(1<<62)
	for i, at := range times {
		f := int64(i)*period - int64(at-times[0])*int64(rate.Count)
		least = min(least, f)
		if f-least > int64(burst-1)*period {
			t.Fatalf("admission %d of %d is over %s with a burst of %d in some window", i, len(times), rate, burst)
		}
	}
}

// admittedTimes are the times of one key's admissions.
func admittedTimes(steps []metersTestStep, verdicts []uint32, limit uint32, hash uint64) (times []uint64) {
	for i, s := range steps {
		if verdicts[i] == admitted && s.Hash == hash && s.Limit == limit {
			times = append(times, s.NowNs)
		}
	}
	return times
}
