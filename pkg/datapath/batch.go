// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
)

// placed is an entry of a list and the map that it lies in.
type placed struct {
	in    *ebpf.Map
	key   limiterPrefixKey
	value limiterListEntry
}

// putPlaced writes entries, those of one map by one call. Unfit are those that found no room.
func putPlaced(m listMaps, entries []placed) (unfit []placed, err error) {
	for _, in := range m.maps() {
		left, err := putSame(in, only(in, entries))
		if err != nil {
			return unfit, err
		}
		unfit = append(unfit, left...)
	}
	return unfit, nil
}

func only(in *ebpf.Map, entries []placed) (out []placed) {
	for _, e := range entries {
		if e.in == in {
			out = append(out, e)
		}
	}
	return out
}

// putSame falls back to one by one where the batch does not fit as a whole, or the map takes none.
func putSame(in *ebpf.Map, entries []placed) (unfit []placed, err error) {
	if len(entries) == 0 {
		return nil, nil
	}
	keys, values := make([]limiterPrefixKey, len(entries)), make([]limiterListEntry, len(entries))
	for n, e := range entries {
		keys[n], values[n] = e.key, e.value
	}
	done, err := in.BatchUpdate(keys, values, nil)
	if err == nil {
		return nil, nil
	}
	if !listIsFull(err) && !errors.Is(err, ebpf.ErrNotSupported) {
		return nil, fmt.Errorf("write entries: %w", err)
	}
	for n := min(max(done, 0), len(entries)); n < len(entries); n++ {
		switch err := in.Put(keys[n], values[n]); {
		case listIsFull(err):
			unfit = append(unfit, entries[n])
		case err != nil:
			return unfit, fmt.Errorf("write entry: %w", err)
		}
	}
	return unfit, nil
}

// deletePlaced deletes entries; what is gone already is no error.
func deletePlaced(m listMaps, entries []placed) error {
	for _, in := range m.maps() {
		var keys []limiterPrefixKey
		for _, e := range only(in, entries) {
			keys = append(keys, e.key)
		}
		if len(keys) == 0 {
			continue
		}
		done, err := in.BatchDelete(keys, nil)
		if err == nil {
			continue
		}
		for _, key := range keys[min(max(done, 0), len(keys)):] {
			if err := in.Delete(key); err != nil && !isMissing(err) {
				return fmt.Errorf("delete entry: %w", err)
			}
		}
	}
	return nil
}

// unname clears bits of feeds in entries, and deletes those that nobody names any more.
func unname(m listMaps, entries []placed, bits uint32) error {
	var gone, others []placed
	for _, e := range entries {
		if e.value.Feeds &^= bits; nobodys(e.value) {
			gone = append(gone, e)
		} else {
			others = append(others, e)
		}
	}
	_, err := putPlaced(m, others) // that are there already always fit
	return errors.Join(err, deletePlaced(m, gone))
}

// nobodys: no one names the entry, so that it can go.
func nobodys(v limiterListEntry) bool { return v.Listed == 0 && v.Policies == 0 && v.Feeds == 0 }
