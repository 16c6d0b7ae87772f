// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/cilium/ebpf"
)

// Compact deletes the entries of both lists that have ended, and builds the list index anew from those that are
// left, so that an address which a list once held costs no look-up any more. Packets are judged meanwhile, and at
// no moment is an entry overlooked. It returns how many entries it deleted.
func (i *Instance) Compact() (deleted int, err error) {
	for _, l := range []List{Allow, Block} {
		n, err := i.deleteAllEnded(i.list(l))
		deleted += n
		if err != nil {
			return deleted, err
		}
	}
	for _, step := range i.rebuildSteps() {
		if err := step(); err != nil {
			return deleted, err
		}
	}
	return deleted, nil
}

// rebuildSteps builds the half of the index that no program reads, and flips. Killed between any two, the index is
// whole, and the next rebuild begins at the beginning.
//
// Programs that put entries on a list do not take the lock: they set bits and insert the entry within one run, which
// waitForPrograms waits for. So each of them either ends before the scan, which finds its entry, or sets its bits in
// both halves. TestModelNoRebuildOverlooksAnEntry has these steps in every order with theirs.
func (i *Instance) rebuildSteps() []func() error {
	return []func() error{
		waitForPrograms, // that read the half which the last rebuild has left
		i.clearSpare,
		i.writeBoth,
		waitForPrograms,
		i.scanLists,
		i.flipIndex,
		i.writeOne,
	}
}

func (i *Instance) spare() indexHalf {
	return listIndex{i.memory}.half(1 - halfInUse(atomic.LoadUint64(&i.control.Lists)))
}

func (i *Instance) clearSpare() error {
	const spareHolds = (1<<limiterListIndexBitsINDEX_HOLDS_BITS - 1) << limiterListIndexBitsINDEX_HOLDS_BITS
	atomic.AndUint64(&i.control.Lists, ^uint64(limiterListIndexBitsINDEX_WRITE_BOTH|spareHolds))
	for _, table := range i.spare().tablesOf() {
		for n := range table {
			if atomic.LoadUint64(&table[n]) != 0 {
				atomic.StoreUint64(&table[n], 0)
			}
		}
	}
	return nil
}

// tablesOf are the parts of the index's tables that belong to a half.
func (h indexHalf) tablesOf() [][]uint64 {
	x := &h.tables.Index
	var out [][]uint64
	for _, both := range [][]uint64{x.Hosts[:], x.Prefixes4[:], x.Prefixes6[:], x.Entries[:], x.Lengths[:]} {
		half := len(both) / 2
		out = append(out, both[h.number*uint64(half):][:half])
	}
	return out
}

func (i *Instance) writeBoth() error {
	atomic.OrUint64(&i.control.Lists, uint64(limiterListIndexBitsINDEX_WRITE_BOTH))
	return nil
}

func (i *Instance) writeOne() error {
	atomic.AndUint64(&i.control.Lists, ^uint64(limiterListIndexBitsINDEX_WRITE_BOTH))
	return nil
}

// scanLists sets the bits of every entry in the spare half.
func (i *Instance) scanLists() error {
	spare := i.spare()
	var holds uint64
	for _, l := range []List{Allow, Block} {
		m := i.list(l)
		for _, from := range m.maps() {
			err := eachEntry(from, func(key limiterPrefixKey, _ limiterListEntry) {
				if p, ok := m.prefixOf(key, from == m.prefixes); ok {
					holds |= spare.set(l, p)
				}
			})
			if err != nil {
				return err
			}
		}
	}
	atomic.OrUint64(&i.control.Lists, holds<<limiterListIndexBitsINDEX_HOLDS_BITS)
	return nil
}

// flipIndex turns readers to the spare half, in one store with what that holds.
func (i *Instance) flipIndex() error {
	for {
		before := atomic.LoadUint64(&i.control.Lists)
		if atomic.CompareAndSwapUint64(&i.control.Lists, before, flipped(before)) {
			return nil
		}
	}
}

func flipped(word uint64) uint64 {
	const bits = uint64(limiterListIndexBitsINDEX_HOLDS_BITS)
	inUse := word & (1<<bits - 1)
	spare := word >> bits & (1<<bits - 1)
	rest := word &^ (1<<(2*bits) - 1)
	return rest ^ uint64(limiterListIndexBitsINDEX_HALF) | spare | inUse<<bits
}

// sweepExpired makes room in a list that is full. Whatever else is wrong, the command that needs it will say.
func (i *Instance) sweepExpired(m listMaps) (swept int) {
	swept, _ = i.deleteAllEnded(m)
	return swept
}

// deleteAllEnded deletes the entries of a list that have ended, with their notes, and counts them.
func (i *Instance) deleteAllEnded(m listMaps) (swept int, err error) {
	for _, from := range m.maps() {
		var gone []limiterPrefixKey
		err := eachEntry(from, func(key limiterPrefixKey, v limiterListEntry) {
			if ended(v) {
				gone = append(gone, key)
			}
		})
		if err != nil {
			return swept, err
		}
		n, err := i.deleteEnded(m, from, gone)
		swept += n
		if err != nil {
			return swept, err
		}
	}
	return swept, nil
}

// ended: nobody's entry any more.
func ended(v limiterListEntry) bool {
	return v.Policies == 0 && (v.Listed == 0 || expired(v))
}

// deleteEnded deletes those of the entries that have ended still: the data path may have renewed one. Worst case:
// it renews one between the look and the deletion, and that ban is lost.
func (i *Instance) deleteEnded(m listMaps, from *ebpf.Map, keys []limiterPrefixKey) (deleted int, err error) {
	for _, key := range keys {
		v, found, err := m.exact(from, key)
		if err != nil {
			return deleted, err
		}
		if !found || !ended(v) {
			continue
		}
		note := limiterListNoteKey{Prefix: key, List: uint32(m.id)}
		if err := errors.Join(ignoreMissing(from.Delete(key)), ignoreMissing(i.maps.ListNotes.Delete(note))); err != nil {
			return deleted, fmt.Errorf("delete ended entry: %w", err)
		}
		deleted++
	}
	return deleted, nil
}
