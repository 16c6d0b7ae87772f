// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"sync/atomic"

	"github.com/cilium/ebpf"
)

// write puts a compiled policy into the slot of a generation that no program reads. Nothing of it has a
// meaning before the flip.
func (i *Instance) write(c *compiled, generation uint16, by string) error {
	return i.writeSlot(c, generation, i.listPolicy, func(*compiled, uint32) error {
		return i.putText(generation, c.source, by)
	})
}

// writeSlot writes all but the lists and the text, which are left to the last steps.
func (i *Instance) writeSlot(c *compiled, generation uint16, last ...func(*compiled, uint32) error) error {
	slot := slotOfGeneration(generation)
	i.control.Last = uint64(generation)
	if err := waitForPrograms(); err != nil {
		return err
	}
	if err := i.clearSlot(slot); err != nil {
		return err
	}
	// From here on the slot counts as filled, so that a killed command's entries are cleared away.
	i.control.Policies[slot] = limiterPolicy{Listed: c.head.Listed}
	if err := i.freshen(c); err != nil {
		return err
	}
	for _, a := range answers() {
		i.tables.Limits[slot*uint32(limiterAbiMAX_LIMITS)+a.at] = limiterLimit{}
	}
	for at, l := range c.limits {
		i.tables.Limits[slot*uint32(limiterAbiMAX_LIMITS)+at] = *l
	}
	i.tables.Ports[slot] = *c.ports
	steps := []func(*compiled, uint32) error{i.writeServices, i.writeLocals, i.writeSets, i.writeBans}
	for _, step := range append(steps, last...) {
		if err := step(c, slot); err != nil {
			return err
		}
	}
	head := c.head
	head.Generation = uint32(generation)
	i.control.Policies[slot] = head
	return nil
}

// freshen empties the regions, states and counters that the policy is the first to use.
func (i *Instance) freshen(c *compiled) error {
	for class, r := range c.fresh {
		r.clear(i.tables, class.unitShift, monotonicNow())
	}
	i.raiseHorizons(c)
	counts, err := i.readTallies()
	if err != nil {
		return err
	}
	if err := counts.rebase(c.freshServices, c.freshLimits); err != nil {
		return err
	}
	for _, id := range c.freshLimits {
		i.tables.LimitStates[id] = limiterLimitState{}
	}
	if err := i.forgetStrikesOf(c.freshLimits); err != nil {
		return err
	}
	for _, id := range c.freshServices {
		if err := i.forgetService(id, c.nameOf(id)); err != nil {
			return err
		}
	}
	// What a full table let through under one limit is no debt under another. Worst case: one aggregate
	// burst more.
	for at, l := range c.limits {
		if c.changed[at] {
			atomic.StoreUint64(&i.tables.LimitStates[l.Id].AggregateTatNs, 0)
		}
	}
	return nil
}

// raiseHorizons tells the limits of the policy in force that TATs of their regions may soon lie further
// ahead: under it there are none yet, and after a rollback they are no past ones.
func (i *Instance) raiseHorizons(c *compiled) {
	raised := map[region]uint64{}
	for _, l := range c.limits {
		if l.metered() {
			raised[l.region()] = max(raised[l.region()], l.Stale)
		}
	}
	for n := range i.tables.Limits {
		old := &i.tables.Limits[n]
		if stale, ok := raised[old.region()]; ok && old.metered() && old.Stale < stale {
			atomic.StoreUint64(&old.Stale, stale)
		}
	}
}

func (i *Instance) writeServices(c *compiled, slot uint32) error {
	if err := i.writePlaces(c, slot); err != nil {
		return err
	}
	for n, s := range c.services {
		i.tables.Services[slot*uint32(limiterAbiMAX_SERVICES)+uint32(n)] = s
		var name limiterServiceName
		copy(name.Name[:len(name.Name)-1], c.names[n])
		if err := i.maps.ServiceNames.Put(s.Id, name); err != nil {
			return fmt.Errorf("write service name: %w", err)
		}
	}
	return nil
}

func (i *Instance) writeLocals(c *compiled, slot uint32) error {
	for key, value := range c.locals {
		if err := i.maps.Locals.Put(scopedKey(slot<<16|uint32(key.class), key.prefix), value); err != nil {
			return fmt.Errorf("write local address %s: %w", key.prefix, err)
		}
	}
	return nil
}

func (i *Instance) writeSets(c *compiled, slot uint32) error {
	for prefix, bits := range c.sets {
		err := i.maps.Sets.Put(scopedKey(slot, prefix), bits)
		if listIsFull(err) {
			return fail(ErrFull, "the sets of the policy do not fit beside those in force (%d prefixes together)", i.maps.Sets.MaxEntries())
		}
		if err != nil {
			return fmt.Errorf("write set %s: %w", prefix, err)
		}
	}
	return nil
}

// listPolicy marks the entries of the policy's own lists as in force with this slot.
func (i *Instance) listPolicy(c *compiled, slot uint32) error {
	if err := i.setPolicyBit(Allow, c.allowed(), slot); err != nil {
		return err
	}
	return i.setPolicyBit(Block, c.blocked(), slot)
}

// clearSlot removes all that names a slot which no policy in force has: what a policy leaves that went out
// of use, or a command that was killed before its flip.
func (i *Instance) clearSlot(slot uint32) error {
	if i.control.Policies[slot].Listed == 0 {
		i.control.Policies[slot] = limiterPolicy{}
		return nil
	}
	for _, l := range []List{Allow, Block} {
		if err := i.clearPolicyBit(l, slot); err != nil {
			return err
		}
	}
	if err := deleteScoped(i.maps.Sets, func(scope uint32) bool { return scope == slot }); err != nil {
		return err
	}
	if err := deleteScoped(i.maps.Locals, func(scope uint32) bool { return scope>>16 == slot }); err != nil {
		return err
	}
	if err := i.clearBanTerms(slot); err != nil {
		return err
	}
	i.control.Policies[slot] = limiterPolicy{}
	return nil
}

func deleteScoped(m *ebpf.Map, gone func(scope uint32) bool) error {
	var key limiterScopedKey
	var value uint64
	var keys []limiterScopedKey
	iter := m.Iterate()
	for iter.Next(&key, &value) {
		if gone(key.Scope) {
			keys = append(keys, key)
		}
	}
	if err := iter.Err(); err != nil {
		return fmt.Errorf("read %s: %w", m, err)
	}
	for _, key := range keys {
		if err := m.Delete(key); err != nil && !isMissing(err) {
			return fmt.Errorf("clear %s: %w", m, err)
		}
	}
	return nil
}

// predecessor reads what a new policy may go on with from the policy in force.
func (i *Instance) predecessor(generation uint16) (predecessor, error) {
	before := predecessor{services: map[string]uint32{}, limits: map[string][]limiterLimit{}}
	kept, ok, err := i.text(generation)
	if err != nil || !ok {
		return before, err // none yet: the first policy of an instance
	}
	c, err := compile(kept.Policy, predecessor{})
	if err != nil {
		return before, fmt.Errorf("read policy in force: %w", err)
	}
	slot := slotOfGeneration(generation)
	for n, name := range c.names {
		before.services[name] = i.tables.Services[slot*uint32(limiterAbiMAX_SERVICES)+uint32(n)].Id % uint32(limiterAbiSERVICE_IDS)
	}
	for _, at := range c.places() {
		l, err := i.limitAt(slot, at)
		if err != nil {
			return before, err
		}
		before.limits[c.identity[at]] = append(before.limits[c.identity[at]], l)
		if l.metered() {
			before.taken = append(before.taken, l.region())
		}
	}
	return before, nil
}

// limitAt reads a limit and trusts no place in it before it is known to lie in the tables.
func (i *Instance) limitAt(slot, at uint32) (limiterLimit, error) {
	if at >= uint32(limiterAbiMAX_LIMITS) {
		return limiterLimit{}, errDamaged("limits in force")
	}
	l := i.tables.Limits[slot*uint32(limiterAbiMAX_LIMITS)+at]
	if uint64(l.FirstBucket)+uint64(l.BucketMask) >= uint64(limiterAbiMETER_BUCKETS) || l.UnitShift > 63 ||
		l.Id >= uint32(limiterAbiLIMIT_IDS) || l.BucketMask&(l.BucketMask+1) != 0 {
		return l, errDamaged("limits in force")
	}
	return l, nil
}

// limitsInForce are the limits of a generation by place, those of answers included.
func (i *Instance) limitsInForce(generation uint16) (map[uint32]limiterLimit, error) {
	slot := slotOfGeneration(generation)
	head := i.control.Policies[slot]
	out := map[uint32]limiterLimit{}
	var places []uint32
	for at := range min(head.Limits, firstAnswerAt) {
		places = append(places, at)
	}
	for _, a := range answers() {
		if head.Features&uint32(a.feature) != 0 {
			places = append(places, a.at)
		}
	}
	for _, at := range places {
		l, err := i.limitAt(slot, at)
		if err != nil {
			return nil, err
		}
		out[at] = l
	}
	return out, nil
}
