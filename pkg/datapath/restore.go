// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Load puts many entries on a list, in batches. What is there already is replaced and keeps its hits, unless the
// entry brings more; what other origins say of the prefix stays. ErrFull: all that fit are there, and how many did
// not.
func (i *Instance) Load(l List, entries []Entry) error {
	if err := i.beginChange(); err != nil {
		return err
	}
	i.log.listed += maxListLog + 1 // too many to tell
	m := i.list(l)
	left := 0
	slots := map[string]int{}
	for chunk := range slices.Chunk(entries, readBatch) {
		for _, e := range chunk {
			if err := i.knowOrigin(slots, l, e.Origin); err != nil {
				return err
			}
		}
		unfit, err := i.loadChunk(m, slots, chunk)
		if err != nil {
			return err
		}
		left += unfit
	}
	if left > 0 {
		return fail(ErrFull, "%d of %d entries did not fit on the %s list", left, len(entries), l)
	}
	return nil
}

// knowOrigin finds the slot of the feed that an origin names, and makes one for a feed that nobody kept.
func (i *Instance) knowOrigin(slots map[string]int, l List, origin string) error {
	name, ok := FeedOfOrigin(origin)
	if _, known := slots[origin]; !ok || known {
		return nil
	}
	slot, err := i.feedSlot(Feed{Name: name, List: l, Loaded: time.Now()})
	slots[origin] = slot
	return err
}

// loadChunk writes entries by one call a map.
func (i *Instance) loadChunk(m listMaps, slots map[string]int, chunk []Entry) (unfit int, err error) {
	index := listIndex{i.memory}
	all := make([]placed, 0, len(chunk))
	at := make(map[netip.Prefix]int, len(chunk))
	for _, e := range chunk {
		e.Prefix = e.Prefix.Masked()
		index.set(e.Prefix)
		if e.Ban != nil {
			full, err := i.loadBan(e)
			if err != nil {
				return unfit, err
			}
			unfit += full
			continue
		}
		target, key := m.place(e.Prefix)
		n, twice := at[e.Prefix]
		if !twice {
			before, _, err := m.exact(target, key)
			if err != nil {
				return unfit, err
			}
			n = len(all)
			at[e.Prefix] = n
			all = append(all, placed{target, key, before})
		}
		value := &all[n].value
		hits := max(value.Hits, e.Hits)
		if slot, ok := slots[e.Origin]; ok {
			value.Prefixlen, value.Feeds = key.Prefixlen, value.Feeds|1<<slot
		} else {
			*value = entryValue(key, *value, e)
			if err := i.noteLoaded(limiterListNoteKey{Prefix: key, List: uint32(m.id)}, e); err != nil {
				return unfit, err
			}
		}
		value.Hits = hits
	}
	left, err := putPlaced(m, all)
	return len(left), err
}

// noteLoaded keeps who and why, where somebody said so.
func (i *Instance) noteLoaded(key limiterListNoteKey, e Entry) error {
	if e.By == "" && e.Reason == "" && e.Created.IsZero() {
		return nil
	}
	_, err := i.putNote(key, e)
	return err
}

// LoadPolicies takes up policies that were kept, the newest first, each with when and by whom it was applied. The
// newest comes into force, unless another is about to; then all are only kept to go back to.
func (i *Instance) LoadPolicies(kept []Applied, inForce bool) error {
	if len(kept) == 0 {
		return nil
	}
	before, err := i.generations()
	if err != nil {
		return err
	}
	older := kept[1:]
	if !inForce {
		older = kept
	}
	for _, a := range slices.Backward(older) {
		if err := i.loadText(a); err != nil {
			return err
		}
	}
	if !inForce {
		return nil
	}
	if err := i.Apply(ApplyOptions{Policy: kept[0].Policy, By: kept[0].By, restored: true}); err != nil {
		return err
	}
	live := i.live().generation
	return errors.Join(
		i.stampText(live, kept[0]),
		// What the instance began with was never anybody's policy.
		i.dropTexts(func(g uint16) bool { return g == live || !slices.Contains(before, g) }),
	)
}

// loadText keeps a policy under a number of its own, without compiling it.
func (i *Instance) loadText(a Applied) error {
	generation := i.nextGeneration(monotonicNow())
	if err := i.putText(generation, a.Policy, a.By); err != nil {
		return err
	}
	i.control.Last = uint64(generation)
	return i.stampText(generation, a)
}

// stampText marks a text as applied at the time that was kept with it.
func (i *Instance) stampText(generation uint16, a Applied) error {
	key := limiterPolicyTextKey{Generation: uint32(generation)}
	var piece limiterPolicyPiece
	if err := i.maps.PolicyTexts.Lookup(key, &piece); err != nil {
		return fmt.Errorf("read policy: %w", err)
	}
	piece.Applied = uint64(max(a.At.Unix(), 1))
	if err := i.maps.PolicyTexts.Put(key, piece); err != nil {
		return fmt.Errorf("keep policy: %w", err)
	}
	return nil
}
