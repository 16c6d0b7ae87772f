// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/synward/synward/pkg/policy"
)

func perSecond(count, burst uint64) policy.NewLimit {
	return policy.NewLimit{Rate: policy.Rate{Count: count, Period: time.Second}, Burst: burst}
}

// keyed is a hash with this tag, of bucket 0.
func keyed(tag uint64) uint64 { return tag << (slotTATBits + 1) }

// Whatever limits, keys and times: verdict by verdict and slot by slot the kernel does what the
// oracle does, and no key exceeds its limit.
func TestMeterDoesWhatTheOracleDoes(t *testing.T) {
	l := newMeterLab(t)
	testSeed(t)
	rapid.Check(t, func(rt *rapid.T) {
		l.t = t
		buckets := uint32(1) << rapid.IntRange(0, 2).Draw(rt, "buckets")
		count := rapid.Uint64Range(1, 200_000).Draw(rt, "count")
		one := meterLimit(t, perSecond(count, rapid.Uint64Range(1, 20).Draw(rt, "burst")), buckets)
		two := one
		two.Cost = one.Cost * rapid.Uint64Range(1, 4).Draw(rt, "cost") // of the same region: the unit is the same
		two.Capacity = two.Cost * rapid.Uint64Range(1, 10).Draw(rt, "second burst")
		one.Stale = max(one.Stale, 3*two.Capacity) // a region's, not a limit's
		two.Stale = one.Stale
		pace := rapid.Uint64Range(0, 2*one.Cost).Draw(rt, "pace") << one.UnitShift
		keys := make([]uint64, rapid.IntRange(1, 40).Draw(rt, "keys"))
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "order"), 4))
		for i := range keys {
			keys[i] = r.Uint64()
		}
		now := meterEpoch
		steps := make([]metersTestStep, 2000)
		for i := range steps {
			now += r.Uint64N(pace + 1)
			which := r.IntN(2)
			steps[i] = step(which, keys[r.IntN(len(keys))]^uint64(which)<<45, now)
		}
		verdicts := l.compare(l.reset(meterEpoch, one, two), steps)
		for which, limit := range []limiterLimit{one, two} {
			for _, key := range keys {
				hash := key ^ uint64(which)<<45
				promise(t, limit, admittedTimes(steps, verdicts, uint32(which), hash), "key")
			}
		}
	})
}

// Far more sources than slots, under two limits that share a region: no source is ever admitted above
// its limit, whatever is evicted.
func TestMeterUnderPressure(t *testing.T) {
	l := newMeterLab(t)
	r := rand.New(rand.NewPCG(testSeed(t), 5))
	one, two := meterLimit(t, perSecond(50, 20), 4), meterLimit(t, perSecond(45, 40), 4)
	if one.UnitShift != two.UnitShift {
		t.Fatal("the limits cannot share a region")
	}
	sources := make([]uint64, 500) // for 32 slots
	for i := range sources {
		sources[i] = r.Uint64()
	}
	now := meterEpoch
	steps := make([]metersTestStep, 400_000)
	for i := range steps {
		now += r.Uint64N(uint64(300 * time.Microsecond))
		if i%20_000 == 0 {
			now += uint64(time.Second) // now and then all that is owed drains
		}
		which := r.IntN(len(sources) * 2)
		if r.IntN(2) == 0 {
			which %= 10 // half of all is sent by a few that hammer
		}
		steps[i] = step(which%2, sources[which/2], now)
	}
	verdicts := l.compare(l.reset(meterEpoch, one, two), steps)
	times := map[metersTestStep][]uint64{}
	for i, s := range steps {
		if verdicts[i] == admitted {
			key := metersTestStep{Hash: s.Hash, Limit: s.Limit}
			times[key] = append(times[key], s.NowNs)
		}
	}
	for key, at := range times {
		promise(t, []limiterLimit{one, two}[key.Limit], at, "source")
	}
	for _, v := range []uint32{admitted, over, full} {
		if !slices.Contains(verdicts, v) {
			t.Errorf("no verdict was %d: the test shows nothing", v)
		}
	}
}

// An innocent newcomer is refused only once a bucket has as many debtors as slots.
func TestMeterRefusesNoNewcomerWithASlotFree(t *testing.T) {
	l := newMeterLab(t)
	limit := meterLimit(t, perSecond(1, 5), 1)
	l.reset(meterEpoch, limit)
	for source := range uint64(limiterAbiMETER_WAYS) {
		for range 5 {
			if v := l.charge(step(0, keyed(source+1), meterEpoch)); v[0] != admitted {
				t.Fatalf("source %d of %d: verdict %d", source, limiterAbiMETER_WAYS, v[0])
			}
		}
		if v := l.charge(step(0, keyed(source+1), meterEpoch)); v[0] != over {
			t.Fatalf("source %d, sixth: verdict %d", source, v[0])
		}
	}
	if v := l.charge(step(0, keyed(100), meterEpoch)); v[0] != full {
		t.Errorf("one source too many: verdict %d, want %d", v[0], full)
	}
}

// Of slots that are equally old the first is taken.
func TestMeterTakesTheFirstOnATie(t *testing.T) {
	l := newMeterLab(t)
	limit := meterLimit(t, perSecond(1, 100), 1)
	l.reset(meterEpoch, limit)
	for round := range uint64(3) {
		for way := range uint64(limiterAbiMETER_WAYS) {
			tag := 1 + round*uint64(limiterAbiMETER_WAYS) + way
			l.charge(step(0, keyed(tag), meterEpoch))
			if got := l.slots[way] & slotTag; got != keyed(tag) {
				t.Fatalf("round %d: way %d has tag %#x, want %#x", round, way, got, keyed(tag))
			}
		}
	}
}

// A newcomer that inherits a debt and is over the limit for it is told apart from one that is over
// it by itself; when the debt has drained, and after some time in any case, what it owes is its own.
func TestMeterBorrowedDebt(t *testing.T) {
	l := newMeterLab(t)
	limit := meterLimit(t, perSecond(1, 4), 1)
	interval := limit.Cost << limit.UnitShift
	fill := func() {
		l.reset(meterEpoch, limit)
		for source := range uint64(limiterAbiMETER_WAYS) {
			l.charge(step(0, keyed(source+1), meterEpoch), step(0, keyed(source+1), meterEpoch))
		}
	}
	const newcomer = 77
	at := func(times ...uint64) (steps []metersTestStep) {
		for _, n := range times {
			steps = append(steps, step(0, keyed(newcomer), meterEpoch+n*interval))
		}
		return steps
	}
	fill()
	first := l.charge(at(0)...)
	if first[0] != admitted || l.slots[0]&slotBorrowed == 0 {
		t.Fatalf("newcomer: verdict %d, slot %#x", first[0], l.slots[0])
	}
	fill()
	drained := l.charge(at(0, 3, 3, 3, 3, 3)...)
	if want := []uint32{admitted, admitted, admitted, admitted, admitted, over}; !slices.Equal(drained, want) {
		t.Errorf("after the debt has drained: %v, want %v", drained, want)
	}
	loans := 0
	for range 200 {
		fill()
		if v := l.charge(at(0, 0, 0)...); v[2] == full {
			loans++
		}
	}
	// The second admission ends the loan once in four.
	if loans < 110 || loans > 190 {
		t.Errorf("%d of 200 newcomers over the limit were told that the table is full, want about 150", loans)
	}
	fill()
	var hammer []metersTestStep
	for n := range uint64(400) {
		hammer = append(hammer, step(0, keyed(newcomer), meterEpoch+n*interval/4))
	}
	if v := l.charge(hammer...); v[len(v)-1] != over && v[len(v)-2] != over {
		t.Errorf("a newcomer that hammers for 100 intervals is still told that the table is full")
	}
}
