// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"cmp"
	"maps"
	"math/bits"
	"slices"
)

// regionClass is what limits of one region of the meters have in common: the unit, and the horizon
// within a factor of four. In a shared table a flood on a long horizon would leave no room to a short one.
type regionClass struct {
	unitShift uint8
	stale     uint64
	proven    bool // what only proof charges stands apart: a flood of SYNs cannot fill it
}

func (l *limiterLimit) class() regionClass {
	return regionClass{l.UnitShift, l.Stale, l.Flags&uint32(limiterLimitFlagLIMIT_PROVEN) != 0}
}

// metered: the limit has its levels in a region.
func (l *limiterLimit) metered() bool {
	return l.Kind != uint8(limiterLimitKindLIMIT_NONE) && !l.concurrent() && l.Per != uint8(limiterLimitPerPER_SERVICE)
}

// region is a part of the meters: first and buckets are counted in buckets, the latter a power of two.
type region struct{ first, buckets uint32 }

func (l *limiterLimit) region() region { return region{l.FirstBucket, l.BucketMask + 1} }

// minSharedBuckets is the least a region shrinks to where many classes share the table.
const minSharedBuckets = 64

// allot finds a region for every class that wants a new one. None meets a region of kept, where limits
// stay, or of taken, for those are still read by the policy in force. A policy may have half of the table,
// so that the next one finds room beside it.
func allot(wanted map[regionClass]uint32, kept, taken []region) (map[regionClass]region, error) {
	room := uint32(limiterAbiMETER_BUCKETS) / 2
	for _, r := range kept {
		room -= min(r.buckets, room)
	}
	classes := slices.SortedFunc(maps.Keys(wanted), func(a, b regionClass) int {
		return cmp.Or(cmp.Compare(wanted[b], wanted[a]), cmp.Compare(a.unitShift, b.unitShift), cmp.Compare(a.stale, b.stale), compareBools(a.proven, b.proven))
	})
	sizes := shrink(classes, wanted, max(room, minSharedBuckets*uint32(len(classes))))
	taken = slices.Concat(taken, kept)
	out := map[regionClass]region{}
	for i, class := range classes {
		r, ok := findFree(sizes[i], taken)
		if !ok {
			return nil, fail(ErrFull, "the meters have no room for limits of so many different rates and bursts; give limits the same rate or burst where that is possible")
		}
		out[class] = r
		taken = append(taken, r)
	}
	return out, nil
}

func compareBools(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// shrink halves the largest until all together fit.
func shrink(classes []regionClass, wanted map[regionClass]uint32, room uint32) []uint32 {
	sizes := make([]uint32, len(classes))
	var sum uint32
	for i, class := range classes {
		sizes[i] = min(uint32(1)<<bits.Len32(max(wanted[class], minSharedBuckets)-1), maxRegionBuckets)
		sum += sizes[i]
	}
	for sum > room {
		largest := slices.Index(sizes, slices.Max(sizes))
		if sizes[largest] <= minSharedBuckets {
			break
		}
		sizes[largest] /= 2
		sum -= sizes[largest]
	}
	return sizes
}

// findFree finds the lowest place for a region of this size, or half of it, and so on.
func findFree(size uint32, taken []region) (region, bool) {
	for ; size >= minSharedBuckets; size /= 2 {
		for first := uint32(0); first < uint32(limiterAbiMETER_BUCKETS); first += size {
			r := region{first, size}
			if !slices.ContainsFunc(taken, r.meets) {
				return r, true
			}
		}
	}
	return region{}, false
}

func (r region) meets(other region) bool {
	return r.first < other.first+other.buckets && other.first < r.first+r.buckets
}
