// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"
)

// How a slot of the meters is laid out; see bpf/decide.h.
const (
	slotTATBits  = 40
	slotTAT      = uint64(1)<<slotTATBits - 1
	slotBorrowed = uint64(1) << slotTATBits
	slotTag      = ^(slotTAT | slotBorrowed)
)

// sweepAge is how far behind now the sweep lets a TAT fall, in units: a quarter of the way around.
const sweepAge = uint64(1) << (slotTATBits - 2)

// sweepMeters pulls the TATs of idle slots along before the 40 bits wrap and make an old time look like
// a coming one. It only ever raises a TAT, as a charge does, so it is safe beside running programs.
func (i *Instance) sweepMeters() error {
	limits, err := i.limitsInForce(i.live().inForce(monotonicNow()))
	if err != nil {
		return err
	}
	swept := map[region]bool{}
	for _, l := range limits {
		if l.metered() && !swept[l.region()] {
			swept[l.region()] = true
			sweepRegion(l.region().of(i.tables), &l)
		}
	}
	return nil
}

func sweepRegion(buckets []limiterBucket, l *limiterLimit) {
	now := monotonicNow() >> l.UnitShift
	for n := range buckets {
		for way := range buckets[n].Slot {
			slot := &buckets[n].Slot[way]
			old := atomic.LoadUint64(slot)
			if next, idle := swept(old, now, l.Stale); idle {
				atomic.CompareAndSwapUint64(slot, old, next)
			}
		}
	}
}

// swept is what an idle slot becomes: the same key, owing nothing, sweepAge ago.
func swept(slot, now, stale uint64) (next uint64, idle bool) {
	ahead := (slot - now) & slotTAT
	if ahead <= stale || slotTAT+1-ahead <= sweepAge {
		return slot, false
	}
	return slot&slotTag | (now-sweepAge)&slotTAT, true
}

// of is a region's part of the meters.
func (r region) of(t *sharedTables) []limiterBucket { return t.Meters[r.first:][:r.buckets] }

// clear leaves slots that nobody owns: of one time, a second ago. Older than any TAT that a charge makes, also by a
// CPU whose clock is a tick behind: else a source that owes could look older than they are, be evicted before
// them, and come back owing nothing.
func (r region) clear(t *sharedTables, unitShift uint8, nowNs uint64) {
	drained := drainedAt(unitShift, nowNs)
	buckets := r.of(t)
	for n := range buckets {
		for way := range buckets[n].Slot {
			buckets[n].Slot[way] = drained
		}
	}
}

func drainedAt(unitShift uint8, nowNs uint64) uint64 {
	return (nowNs>>unitShift - uint64(time.Second)>>unitShift - 1) & slotTAT
}

// bucketOf is the bucket that may hold a key.
func bucketOf(t *sharedTables, l *limiterLimit, hash uint64) *limiterBucket {
	return &l.region().of(t)[uint32(hash)&l.BucketMask]
}

// meterSlot finds the slot of a key. nil: the table does not know it.
func meterSlot(t *sharedTables, l *limiterLimit, hash uint64) *uint64 {
	tag := hash & slotTag
	if tag == 0 {
		tag = slotBorrowed << 1
	}
	bucket := bucketOf(t, l, hash)
	for way := range bucket.Slot {
		if atomic.LoadUint64(&bucket.Slot[way])&slotTag == tag {
			return &bucket.Slot[way]
		}
	}
	return nil
}

// level is what a slot owes now, in units; the arithmetic of bpf/decide.h.
func level(l *limiterLimit, slot, nowNs uint64) uint64 {
	ahead := (slot - nowNs>>l.UnitShift) & slotTAT
	if ahead > l.Stale || slot&slotTag == 0 {
		return 0
	}
	return ahead
}

// Forget clears what is held against the source that an address belongs to: its level under every limit that
// counts by source, and its lines in the ledger. Worst case: a connection that is judged at this very
// moment is not forgotten.
func (i *Instance) Forget(addr netip.Addr) error {
	limits, err := i.limitsInForce(i.live().inForce(monotonicNow()))
	if err != nil {
		return err
	}
	for _, l := range limits {
		if l.Per == uint8(limiterLimitPerPER_SOURCE) && l.Kind != uint8(limiterLimitKindLIMIT_NONE) {
			i.forgetLevel(&l, addr)
		}
	}
	if err := i.forgetBans(addr); err != nil {
		return err
	}
	names, err := i.serviceNames()
	if err != nil {
		return err
	}
	ids := []uint32{uint32(limiterAbiSERVICE_IDS)}
	for id := range names {
		ids = append(ids, id)
	}
	for _, id := range ids {
		err := i.maps.Sources.Delete(limiterSourceKey{Addr: dataAddr(i.sourceOf(addr).Addr()), Service: id})
		if err != nil && !isMissing(err) {
			return fmt.Errorf("forget source: %w", err)
		}
	}
	return nil
}

func (i *Instance) forgetLevel(l *limiterLimit, source netip.Addr) {
	slot := meterSlot(i.tables, l, hashKey(&i.control.Hash, l, source, netip.Addr{}))
	if slot == nil {
		return
	}
	old := atomic.LoadUint64(slot)
	now := monotonicNow() >> l.UnitShift & slotTAT
	atomic.CompareAndSwapUint64(slot, old, old&slotTag|now)
}
