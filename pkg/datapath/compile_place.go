// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"github.com/synward/synward/pkg/policy"
)

// place gives every service and limit what outlives a policy: ids, seeds and regions.
func (c *compiled) place(before predecessor) error {
	olds := c.match(before)
	regions := c.keepRegions(before, olds)
	kept := map[regionClass]region{}
	wanted := map[regionClass]uint32{}
	for _, at := range c.places() {
		l := c.limits[at]
		if r, ok := regions[at]; ok {
			kept[l.class()] = r
		}
	}
	for at, l := range c.limits {
		_, stays := regions[at]
		if _, joins := kept[l.class()]; l.metered() && !stays && !joins {
			wanted[l.class()] += c.buckets[at]
		}
	}
	fresh, err := allot(wanted, distinct(regions), before.taken)
	if err != nil {
		return err
	}
	c.fresh = fresh
	for at, l := range c.limits {
		if _, stays := regions[at]; stays || !l.metered() {
			continue
		}
		regions[at] = fresh[l.class()]
		if r, joins := kept[l.class()]; joins {
			regions[at] = r
		}
	}
	c.placeServices(before)
	return c.placeLimits(before, olds, regions)
}

func distinct(regions map[uint32]region) []region {
	set := map[region]bool{}
	for _, r := range regions {
		set[r] = true
	}
	return slices.Collect(maps.Keys(set))
}

// places are those of the limits, in order.
func (c *compiled) places() []uint32 { return slices.Sorted(maps.Keys(c.limits)) }

// match finds for each limit, by place, the one before that it goes on with. Of several of one name those go
// together that are the same, and then the rest in their order.
func (c *compiled) match(before predecessor) map[uint32]limiterLimit {
	if before.ids != nil {
		return c.matchIDs(before)
	}
	olds := map[uint32]limiterLimit{}
	used := map[uint32]bool{} // by id
	find := func(same bool) {
		for _, at := range c.places() {
			if _, found := olds[at]; found {
				continue
			}
			for _, old := range before.limits[c.identity[at]] {
				if !used[old.Id] && (!same || c.limits[at].sameRate(old)) {
					olds[at], used[old.Id] = old, true
					break
				}
			}
		}
	}
	find(true)
	find(false)
	return olds
}

// matchIDs goes by the ids that are settled already.
func (c *compiled) matchIDs(before predecessor) map[uint32]limiterLimit {
	olds := map[uint32]limiterLimit{}
	for at, id := range before.ids.limits {
		for _, old := range before.limits[c.identity[at]] {
			if old.Id == id {
				olds[at] = old
			}
		}
	}
	return olds
}

func (l *limiterLimit) sameRate(other limiterLimit) bool {
	return l.Cost == other.Cost && l.Capacity == other.Capacity && l.UnitShift == other.UnitShift
}

// keepRegions finds the limits that stay in their region, so that their levels live on: where the unit is the
// same, and the region's horizon is as far as the new one, or can be made so because the limit is alone
// in there. A region's horizon never shrinks, for levels of the old one are still in it.
func (c *compiled) keepRegions(before predecessor, olds map[uint32]limiterLimit) map[uint32]region {
	kept := map[uint32]region{}
	for at, l := range c.limits {
		old, ok := olds[at]
		if !ok || !l.metered() || !old.metered() || l.UnitShift != old.UnitShift {
			continue
		}
		if l.Stale > old.Stale && before.sharing(old.region()) > 1 {
			continue
		}
		l.Stale = max(l.Stale, old.Stale)
		kept[at] = old.region()
	}
	return kept
}

// sharing counts the limits of a region.
func (p predecessor) sharing(r region) (n int) {
	for _, limits := range p.limits {
		for _, l := range limits {
			if l.metered() && l.region() == r {
				n++
			}
		}
	}
	return n
}

func (c *compiled) placeServices(before predecessor) {
	used := map[uint32]bool{}
	for _, id := range before.services {
		used[id] = true
	}
	for n, name := range c.names {
		id, ok := before.services[name]
		if before.ids != nil {
			given := before.ids.services[name]
			id, ok = given, ok && id == given
		}
		if !ok {
			for before.ids == nil && used[id] {
				id++
			}
			used[id] = true
			c.freshServices = append(c.freshServices, id)
		}
		c.services[n].Id = id
	}
}

func (c *compiled) placeLimits(before predecessor, olds map[uint32]limiterLimit, regions map[uint32]region) error {
	used := map[uint32]bool{}
	for _, limits := range before.limits {
		for _, l := range limits {
			used[l.Id] = true
		}
	}
	for _, at := range c.places() {
		l := c.limits[at]
		if r, ok := regions[at]; ok {
			l.FirstBucket, l.BucketMask = r.first, r.buckets-1
		}
		if old, ok := olds[at]; ok {
			l.Id, l.Seed = old.Id, old.Seed
			c.changed[at] = old.AggregateCostNs != l.AggregateCostNs || old.AggregateCapacityNs != l.AggregateCapacityNs
		} else {
			if err := freshWords([]*uint64{&l.Seed}); err != nil {
				return err
			}
			if before.ids != nil {
				l.Id = before.ids.limits[at]
			}
			for before.ids == nil && used[l.Id] {
				l.Id++
			}
			used[l.Id] = true
			c.freshLimits = append(c.freshLimits, l.Id)
		}
		c.finishVerdict(l)
	}
	c.finishProven()
	return nil
}

// nameOf is the service's that counts under an id.
func (c *compiled) nameOf(id uint32) string {
	n := slices.IndexFunc(c.services, func(s limiterService) bool { return s.Id == id })
	if n < 0 {
		return ""
	}
	return c.names[n]
}

// finishVerdict: a verdict names its limit, and under `mode: observe` nothing is done.
func (c *compiled) finishVerdict(l *limiterLimit) {
	const actions = 7 << uint32(limiterVerdictVERDICT_ACTION_SHIFT)
	if c.source.Mode == policy.Observe {
		l.Over = l.Over&^actions | uint32(limiterActionACTION_OBSERVE)<<uint32(limiterVerdictVERDICT_ACTION_SHIFT)
	}
	l.Over |= (l.Id + 1) << uint32(limiterVerdictVERDICT_LIMIT_SHIFT)
}

// finishProven: what is over a second meter counts as over its limit.
func (c *compiled) finishProven() {
	const shift = uint32(limiterVerdictVERDICT_LIMIT_SHIFT)
	for _, l := range c.limits {
		if at := max(l.Proven, l.Probed); at != 0 { // one of them is 0
			second := c.limits[at]
			second.Over = second.Over&(1<<shift-1) | (l.Id+1)<<shift
		}
	}
}

// freshWords draws secret words.
func freshWords(words []*uint64) error {
	b := make([]byte, 8*len(words))
	if _, err := rand.Read(b); err != nil {
		return fmt.Errorf("draw a secret: %w", err)
	}
	for n, word := range words {
		*word = binary.NativeEndian.Uint64(b[8*n:])
	}
	return nil
}
