// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"net/netip"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// How a slot of the meters is laid out; see bpf/decide.h.
const (
	slotTATBits  = 40
	slotTAT      = uint64(1)<<slotTATBits - 1
	slotBorrowed = uint64(1) << slotTATBits
	slotTag      = ^(slotTAT | slotBorrowed)
)

// words maps an mmapable array of the data path into memory: what is written there is what the
// kernel reads, with no call in between.
type words struct {
	memory []byte
	all    []uint64
}

func mapWords(m *ebpf.Map) (*words, error) {
	size := int(m.ValueSize()) * int(m.MaxEntries())
	page := unix.Getpagesize()
	memory, err := unix.Mmap(m.FD(), 0, (size+page-1)/page*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map memory: %w", err)
	}
	// Safe: mmap returns whole pages, aligned for any word, and the slice ends inside them.
	return &words{memory, unsafe.Slice((*uint64)(unsafe.Pointer(&memory[0])), size/8)}, nil
}

func (w *words) close() error { return unix.Munmap(w.memory) }

// clearRegion empties the buckets that a limit is about to use and no live policy does.
func (i *Instance) clearRegion(l limiterLimit) error {
	if err := waitForPrograms(); err != nil {
		return err
	}
	w, err := mapWords(i.maps.Meters)
	if err != nil {
		return fmt.Errorf("clear meters: %w", err)
	}
	clear(region(w, l))
	return w.close()
}

// sweepAge is how far behind now the sweep lets a TAT fall, in units: a quarter of the way around.
const sweepAge = uint64(1) << (slotTATBits - 2)

// sweepMeters pulls the TATs of idle slots along before the 40 bits wrap and make an old time look like
// a coming one. It only ever raises a TAT, as a charge does, so it is safe beside running programs.
func (i *Instance) sweepMeters() error {
	_, p, err := i.livePolicy()
	if err != nil || p.Limit.Kind == uint32(limiterLimitKindLIMIT_NONE) {
		return err
	}
	w, err := mapWords(i.maps.Meters)
	if err != nil {
		return fmt.Errorf("sweep meters: %w", err)
	}
	now := monotonicNow() >> p.Limit.UnitShift
	slots := region(w, p.Limit)
	for n := range slots {
		old := atomic.LoadUint64(&slots[n])
		if next, idle := swept(old, now, p.Limit.Stale); idle {
			atomic.CompareAndSwapUint64(&slots[n], old, next)
		}
	}
	return w.close()
}

// swept is what an idle slot becomes: the same key, owing nothing, sweepAge ago.
func swept(slot, now, stale uint64) (next uint64, idle bool) {
	ahead := (slot - now) & slotTAT
	if slot&slotTag == 0 || ahead <= stale || slotTAT+1-ahead <= sweepAge {
		return slot, false
	}
	return slot&slotTag | (now-sweepAge)&slotTAT, true
}

// region is the part of the table that a limit uses.
func region(w *words, l limiterLimit) []uint64 {
	ways := uint64(limiterAbiMETER_WAYS)
	first := uint64(l.FirstBucket) * ways
	return w.all[first : first+(uint64(l.BucketMask)+1)*ways]
}

// meterSlot finds the slot of a source. nil: the table does not know it.
func meterSlot(w *words, l limiterLimit, source netip.Addr) *uint64 {
	hash := hashAddr(l.Key, source)
	tag := hash & slotTag
	if tag == 0 {
		tag = slotBorrowed << 1
	}
	bucket := uint64(l.FirstBucket) + uint64(uint32(hash)&l.BucketMask)
	ways := uint64(limiterAbiMETER_WAYS)
	for way := range ways {
		slot := &w.all[bucket*ways+way]
		if atomic.LoadUint64(slot)&slotTag == tag {
			return slot
		}
	}
	return nil
}

// level is what a slot owes now, in units; the arithmetic of bpf/decide.h.
func level(l limiterLimit, slot, nowNs uint64) uint64 {
	ahead := (slot - nowNs>>l.UnitShift) & slotTAT
	if ahead > l.Stale || slot&slotTag == 0 {
		return 0
	}
	return ahead
}

// Forget clears what is held against the source that an address belongs to: its level and its line
// in the ledger. Worst case: a connection that is judged at this very moment is not forgotten.
func (i *Instance) Forget(addr netip.Addr) error {
	source := sourceOf(addr)
	_, p, err := i.livePolicy()
	if err != nil {
		return err
	}
	if p.Limit.Kind != uint32(limiterLimitKindLIMIT_NONE) {
		if err := i.forgetLevel(p.Limit, source.Addr()); err != nil {
			return err
		}
	}
	err = i.maps.Sources.Delete(limiterSourceKey{Addr: dataAddr(source.Addr())})
	if err != nil && !isMissing(err) {
		return fmt.Errorf("forget source: %w", err)
	}
	return nil
}

func (i *Instance) forgetLevel(l limiterLimit, source netip.Addr) error {
	w, err := mapWords(i.maps.Meters)
	if err != nil {
		return fmt.Errorf("forget level: %w", err)
	}
	if slot := meterSlot(w, l, source); slot != nil {
		old := atomic.LoadUint64(slot)
		now := monotonicNow() >> l.UnitShift & slotTAT
		atomic.CompareAndSwapUint64(slot, old, old&slotTag|now)
	}
	return w.close()
}
