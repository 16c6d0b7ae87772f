// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
)

// heir is the new instance of an upgrade while it is filled. No program runs on it yet.
type heir struct {
	*Instance
	from *source
	// named counts the entries of each list that a slot's policy names.
	named map[List]map[uint32]int
}

// fill writes all that stays the same, but for counts that still move.
func (h *heir) fill() error {
	h.control.Last = h.from.last
	h.control.Word = h.from.word.word()
	for _, step := range []func() error{h.fillFeeds, h.fillLists, h.fillPolicies, h.fillTexts, h.fillOthers, h.fillBans, h.fillSources} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// copyMap carries a map over that only Go writes, but for the fields that are moved later. One that the other version had not stays empty.
func (h *heir) copyMap(name string, to *ebpf.Map, moved ...string) error {
	from, ok, err := h.from.get(name)
	if err != nil || !ok {
		return err
	}
	keys, values, err := plans(from, h.from.own, name, moved...)
	if err != nil {
		return err
	}
	out := newRawBatch(keys.size, values.size, readBatch)
	return eachBatch(from.Map, func(b *rawBatch, n int) error {
		filled := 0
		for j := range n {
			if from.Type() == ebpf.Array && isZero(b.value(j)) {
				continue
			}
			if err := keys.convert(out.key(filled), b.key(j)); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			if err := values.convert(out.value(filled), b.value(j)); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			filled++
		}
		return out.put(to, filled, ebpf.UpdateAny)
	})
}

// plans say how keys and values of a map become ours.
func plans(from rawMap, own *layout, name string, moved ...string) (keys, values *copyPlan, err error) {
	key, err := own.key(name)
	if err != nil {
		return nil, nil, err
	}
	value, err := own.value(name)
	if err != nil {
		return nil, nil, err
	}
	if keys, err = planCopy(from.key, key); err != nil {
		return nil, nil, err
	}
	values, err = planCopy(from.value, value, moved...)
	return keys, values, err
}

// fillPolicies compiles the policies in force anew. Services and limits keep the ids that they are counted under;
// their levels begin afresh.
func (h *heir) fillPolicies() error {
	var before predecessor
	for n := range h.from.policies {
		p := &h.from.policies[n]
		before.ids = &p.ids
		c, err := compile(p.policy, before)
		if err != nil {
			return fmt.Errorf("the policy of generation %d: %w", p.generation, err)
		}
		lists := func(c *compiled, slot uint32) error { return h.fillPolicyLists(c, slot) }
		if err := h.writeSlot(c, p.generation, lists); err != nil {
			return err
		}
		if err := h.putPacked(p.generation, p.packed, p.by, p.applied); err != nil {
			return err
		}
		if before, err = h.predecessor(p.generation); err != nil {
			return err
		}
	}
	h.control.Last = h.from.last
	return nil
}

// fillPolicyLists finds the policy's entries among those carried over, with the slot's bit. Where one is
// missing they are all marked again.
func (h *heir) fillPolicyLists(c *compiled, slot uint32) error {
	if h.named[Allow][slot] == len(c.allowed()) && h.named[Block][slot] == len(c.blocked()) {
		return nil
	}
	return h.listPolicy(c, slot)
}

// fillTexts keeps what can be gone back to.
func (h *heir) fillTexts() error {
	for _, t := range h.from.kept {
		if err := h.putPacked(t.generation, t.packed, t.by, t.applied); err != nil {
			return err
		}
	}
	all, err := h.generations()
	if err != nil {
		return err
	}
	for _, t := range h.from.kept {
		if !slices.Contains(all, t.generation) {
			return fail(ErrFull, "the policies that are kept do not fit")
		}
	}
	return nil
}

func (h *heir) fillOthers() error {
	for name, to := range map[string]*ebpf.Map{
		limiterMapServiceBases: h.maps.ServiceBases, limiterMapLimitBases: h.maps.LimitBases,
		limiterMapServiceNames: h.maps.ServiceNames, limiterMapListNotes: h.maps.ListNotes,
		limiterMapChanges:  h.maps.Changes, // what is saved goes on to be this instance's
		limiterMapVerified: h.maps.Verified,
	} {
		if err := h.copyMap(name, to); err != nil {
			return err
		}
	}
	features := h.featuresNeeded()
	for _, at := range h.from.all {
		record := at.record.limiterInterface
		record.Features = features
		if err := h.maps.Interfaces.Put(at.slot, record); err != nil {
			return fmt.Errorf("write interface record: %w", err)
		}
	}
	return nil
}

// programs are loaded for every hook, on the new maps.
func (h *heir) programs() (map[pinKey]*ebpf.Program, error) {
	out := map[pinKey]*ebpf.Program{}
	for _, at := range h.from.hooks() {
		f := at.record.frozen()
		f.slot, f.features, f.observeAfter = at.slot, h.featuresNeeded(), at.record.ObserveAfter
		prog, err := h.maps.loadProgram(at.key.hook, f)
		if err != nil {
			closePrograms(out)
			return nil, fmt.Errorf("interface %s: %w", at.record.name(), err)
		}
		out[at.key] = prog
	}
	return out, nil
}

func closePrograms(all map[pinKey]*ebpf.Program) {
	for _, prog := range all {
		prog.Close()
	}
}

// unpinned are the new maps as another version would find them.
func (h *heir) unpinned() *pinnedMaps {
	p := &pinnedMaps{dir: h.dir, abi: uint32(limiterAbiABI_VERSION), layout: h.from.own, maps: map[string]*ebpf.Map{}}
	for name, m := range h.maps.byName() {
		p.maps[name] = *m
	}
	return p
}
