// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
)

// Load puts many entries on a list, in batches. What is there already is replaced and keeps its hits, unless the
// entry brings more. ErrFull: all that fit are there, and how many did not.
func (i *Instance) Load(l List, entries []Entry) error {
	if err := i.beginChange(); err != nil {
		return err
	}
	i.log.listed += maxListLog + 1 // too many to tell
	m := i.list(l)
	left := 0
	for chunk := range slices.Chunk(entries, readBatch) {
		unfit, err := i.loadChunk(m, chunk)
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

// loadChunk writes hosts by one call, and what a trie holds one by one.
func (i *Instance) loadChunk(m listMaps, chunk []Entry) (unfit int, err error) {
	index := listIndex{i.memory}
	var keys []limiterPrefixKey
	var values []limiterListEntry
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
		before, _, err := m.exact(target, key)
		if err != nil {
			return unfit, err
		}
		if err := i.noteLoaded(limiterListNoteKey{Prefix: key, List: uint32(m.id)}, e); err != nil {
			return unfit, err
		}
		value := entryValue(key, before, e)
		value.Hits = max(value.Hits, e.Hits)
		if target == m.hosts {
			keys, values = append(keys, key), append(values, value)
			continue
		}
		switch err := target.Put(key, value); {
		case listIsFull(err):
			unfit++
		case err != nil:
			return unfit, fmt.Errorf("add %s: %w", e.Prefix, err)
		}
	}
	more, err := putHosts(m.hosts, keys, values)
	return unfit + more, err
}

// putHosts falls back to one by one where the batch does not fit as a whole.
func putHosts(hosts *ebpf.Map, keys []limiterPrefixKey, values []limiterListEntry) (unfit int, err error) {
	if len(keys) == 0 {
		return 0, nil
	}
	if _, err := hosts.BatchUpdate(keys, values, nil); err == nil {
		return 0, nil
	} else if !listIsFull(err) {
		return 0, fmt.Errorf("add hosts: %w", err)
	}
	for n, key := range keys {
		switch err := hosts.Put(key, values[n]); {
		case listIsFull(err):
			unfit++
		case err != nil:
			return unfit, fmt.Errorf("add host: %w", err)
		}
	}
	return unfit, nil
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
