// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"time"

	"github.com/synward/synward/pkg/policy"
)

// The prefix lengths that make one source: one IPv6 customer has a /64.
const (
	sourceBits4 = 32
	sourceBits6 = 64
)

// maxCapacityUnits keeps every TAT well inside half of its 40 bits.
const maxCapacityUnits = 1 << 37

// A limit's region of the meters holds this many new sources a second, one SYN each, as far as the
// table's size allows: about what one core can be sent. A smaller region stays in the cache.
const (
	saturationRate   = 4_000_000
	minRegionBuckets = 4096
)

// aggregateShare: past saturation, with on_table_full pass, all that is let through together is this
// many times the limit of one source.
const aggregateShare = 100

// preciseTicks: a limit whose B*T is shorter than this many clock ticks is judged by the exact clock.
const preciseTicks = 100

// compileLimit turns a rate and a burst into units of the meters: the largest power of two of
// nanoseconds that is at most T/1024 (at least 1). T is rounded up, and one unit more, for a clock that
// is cut to units may stand up to one unit before the true time; both cost at most 0.2 % of the rate
// (1.2 % where one unit is a nanosecond, or a burst is so large that it needs a coarser one).
// ErrInvalid where a slot cannot hold it.
func compileLimit(l policy.NewLimit) (limiterLimit, error) {
	if err := l.Validate(); err != nil {
		return limiterLimit{}, err
	}
	period, count := uint64(l.Rate.Period), l.Rate.Count
	shift := max(bits.Len64(period/count/1024), 1) - 1
	for {
		cost := ceilDiv(period, count<<shift)
		if shift > 0 {
			cost++
		}
		high, capacity := bits.Mul64(cost, l.Burst)
		if high == 0 && capacity <= maxCapacityUnits {
			return limiterLimit{
				Cost: cost, Capacity: capacity, Burst: uint32(l.Burst),
				Stale:               2*capacity + ceilDiv(uint64(time.Second), 1<<shift),
				AggregateCostNs:     max(cost<<shift/aggregateShare, 1),
				AggregateCapacityNs: capacity << shift,
				BucketMask:          regionBuckets(cost<<shift) - 1,
				Kind:                uint32(limiterLimitKindLIMIT_NEW), UnitShift: uint32(shift),
			}, nil
		}
		shift++
		if cost < 256 {
			return limiterLimit{}, fail(ErrInvalid, "burst %d at %s is more than a slot can hold; use a burst of at most %d",
				l.Burst, l.Rate, maxCapacityUnits/cost)
		}
	}
}

// regionBuckets is how large a region a limit with this T gets, in buckets: a power of two.
func regionBuckets(intervalNs uint64) uint32 {
	most := uint64(limiterAbiMETER_BUCKETS_PER_REGION)
	slots := intervalNs / (uint64(time.Second) / saturationRate)
	buckets := min(max(slots/uint64(limiterAbiMETER_WAYS), minRegionBuckets), most)
	return uint32(1) << bits.Len64(buckets-1)
}

func ceilDiv(a, b uint64) uint64 { return (a + b - 1) / b }

// SetLimit puts a limit of new connections per source in force, or takes it away (nil), in one step:
// a new generation is written beside the old and one word is flipped. A source's level survives a
// change that keeps the region's unit and size; otherwise sources start afresh, which admits one extra burst.
func (i *Instance) SetLimit(l *policy.NewLimit) error {
	live, old, err := i.livePolicy()
	if err != nil {
		return err
	}
	next := old
	next.Limit, next.RateCount, next.RatePeriodNs, next.Burst, next.PreciseClock = limiterLimit{}, 0, 0, 0, 0
	setMasks(&next.Limit)
	if l != nil {
		if err := i.fillLimit(&next, old, *l); err != nil {
			return err
		}
	}
	if err := i.flip(live, next); err != nil {
		return err
	}
	return i.resetAggregate(old.Limit, next.Limit)
}

// resetAggregate: what a full table let through under one limit is no debt under another. Worst case:
// one aggregate burst more.
func (i *Instance) resetAggregate(old, next limiterLimit) error {
	if old.AggregateCostNs == next.AggregateCostNs && old.AggregateCapacityNs == next.AggregateCapacityNs {
		return nil
	}
	if err := i.maps.Aggregates.Put(uint32(0), limiterAggregate{}); err != nil {
		return fmt.Errorf("reset aggregate: %w", err)
	}
	return nil
}

func (i *Instance) fillLimit(next *limiterPolicy, old limiterPolicy, l policy.NewLimit) error {
	compiled, err := compileLimit(l)
	if err != nil {
		return err
	}
	next.RateCount, next.RatePeriodNs, next.Burst = l.Rate.Count, uint64(l.Rate.Period), l.Burst
	horizon := time.Duration(compiled.Capacity << compiled.UnitShift)
	if horizon < preciseTicks*clockTick() {
		next.PreciseClock = 1
	}
	setMasks(&compiled)
	same := old.Limit.Kind == compiled.Kind && old.Limit.UnitShift == compiled.UnitShift && old.Limit.BucketMask == compiled.BucketMask
	if same {
		compiled.Key, compiled.FirstBucket = old.Limit.Key, old.Limit.FirstBucket
		compiled.Stale = max(compiled.Stale, old.Limit.Stale)
		next.Limit = compiled
		return nil
	}
	if err := freshKey(&compiled.Key); err != nil {
		return err
	}
	if old.Limit.FirstBucket == 0 && old.Limit.Kind != uint32(limiterLimitKindLIMIT_NONE) {
		compiled.FirstBucket = uint32(limiterAbiMETER_BUCKETS_PER_REGION)
	}
	next.Limit = compiled
	return i.clearRegion(compiled)
}

// freshKey draws the secret words of a limit's hash. A multiplier must be odd to be reversible.
func freshKey(key *[limiterHashKeyHASH_KEYS]uint64) error {
	b := make([]byte, 8*len(key))
	if _, err := rand.Read(b); err != nil {
		return fmt.Errorf("draw a hash key: %w", err)
	}
	for word := range key {
		key[word] = binary.NativeEndian.Uint64(b[8*word:])
	}
	for _, odd := range []limiterHashKey{limiterHashKeyHASH_ODD1, limiterHashKeyHASH_ODD2, limiterHashKeyHASH_ODD3} {
		key[odd] |= 1
	}
	return nil
}

// setMasks writes the source prefix lengths as the data path applies them, in network byte order.
func setMasks(l *limiterLimit) {
	l.Mask4 = networkWord(netip.PrefixFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), sourceBits4).Masked().Addr(), 0)
	ones := netip.AddrFrom16([16]byte{255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255})
	for w := range l.Mask6 {
		l.Mask6[w] = networkWord(netip.PrefixFrom(ones, sourceBits6).Masked().Addr(), w)
	}
}

// networkWord is the w-th 32-bit word of an address as it lies in memory.
func networkWord(a netip.Addr, w int) uint32 {
	return binary.NativeEndian.Uint32(a.AsSlice()[4*w:])
}

// livePolicy reads the live word and the policy that it names.
func (i *Instance) livePolicy() (limiterControl, limiterPolicy, error) {
	var live limiterControl
	var p limiterPolicy
	if err := i.maps.Control.Lookup(uint32(0), &live); err != nil {
		return live, p, fmt.Errorf("read control word: %w", err)
	}
	if live.Active >= uint32(limiterAbiPOLICY_SLOTS) {
		return live, p, fmt.Errorf("control word names policy slot %d of %d: the pins are damaged; detach --all and attach again", live.Active, limiterAbiPOLICY_SLOTS)
	}
	if err := i.maps.Policies.Lookup(live.Active, &p); err != nil {
		return live, p, fmt.Errorf("read policy: %w", err)
	}
	l := p.Limit
	if uint64(l.FirstBucket)+uint64(l.BucketMask) >= uint64(i.maps.Meters.MaxEntries()) || l.UnitShift > 63 {
		return live, p, errors.New("the live policy points outside the meters: the pins are damaged; detach --all and attach again")
	}
	return live, p, nil
}

// flip writes next into the slot that has been out of use the longest and makes it live in one
// store. A program that still reads that slot began before the last flip but two: the membarrier
// waits for it.
func (i *Instance) flip(live limiterControl, next limiterPolicy) error {
	slot := (live.Active + 1) % uint32(limiterAbiPOLICY_SLOTS)
	if err := waitForPrograms(); err != nil {
		return err
	}
	if err := i.maps.Policies.Put(slot, next); err != nil {
		return fmt.Errorf("write policy: %w", err)
	}
	if err := i.maps.Control.Put(uint32(0), limiterControl{Active: slot, Generation: live.Generation + 1}); err != nil {
		return fmt.Errorf("flip policy: %w", err)
	}
	return nil
}

// writeFirstPolicy makes generation 1: connections are counted, none is limited.
func (i *Instance) writeFirstPolicy() error {
	first := limiterPolicy{
		Mode: uint32(limiterModeMODE_ENFORCE), OnTableFull: uint32(limiterOnTableFullTABLE_FULL_PASS),
	}
	setMasks(&first.Limit)
	return i.flip(limiterControl{}, first)
}

// Policy says what is in force.
func (i *Instance) Policy() (Policy, error) {
	live, p, err := i.livePolicy()
	if err != nil {
		return Policy{}, err
	}
	out := Policy{Generation: live.Generation, Mode: "enforce"}
	if p.Mode == uint32(limiterModeMODE_OBSERVE) {
		out.Mode = "observe"
	}
	if p.Limit.Kind == uint32(limiterLimitKindLIMIT_NEW) {
		out.Limit = &policy.NewLimit{
			Rate:  policy.Rate{Count: p.RateCount, Period: time.Duration(p.RatePeriodNs)},
			Burst: p.Burst,
		}
		out.Table = tableOf(p.Limit)
	}
	return out, nil
}

// tableOf: a slot is free for a newcomer when what it holds has drained, after T for one connection
// and B*T for a burst, so a table holds slots/T and slots/(B*T) sources a second on average. Buckets
// fill unevenly: what is told is the share of that at which arrivals at random met no full bucket, 200,000
// of them (TestMeterHoldsWhatIsPrinted). With room for several, a slot bears several newcomers.
func tableOf(l limiterLimit) *Table {
	slots := (uint64(l.BucketMask) + 1) * uint64(limiterAbiMETER_WAYS)
	perSecond := func(units uint64) uint64 {
		high, low := bits.Mul64(slots, uint64(time.Second))
		held := max(units<<l.UnitShift, high+1)
		perSecond, _ := bits.Div64(high, low, held)
		return perSecond
	}
	t := &Table{Bytes: slots * 8, Singles: perSecond(l.Cost), Bursts: perSecond(l.Capacity) / 16}
	switch {
	case l.Burst == 1:
		t.Singles = t.Bursts
	case l.Burst < 4:
		t.Singles /= 4
	case l.Burst < 16:
		t.Singles /= 2
	default:
		t.Singles = t.Singles / 4 * 3
	}
	return t
}
