// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
)

// The entries of a policy's own lists lie among the others, with a bit for each policy slot that names
// them: so a flip, or a rollback with nobody running, moves lists and limits together.

// setPolicyBit marks prefixes as named by the policy of a slot, and makes those that are not there yet.
func (i *Instance) setPolicyBit(l List, prefixes []netip.Prefix, slot uint32) error {
	if len(prefixes) == 0 {
		return nil
	}
	index := listIndex{i.memory}
	m := i.list(l)
	for _, p := range prefixes {
		index.set(p)
		target, key := m.place(p)
		e, found, err := m.exact(target, key)
		if err != nil {
			return err
		}
		if !found {
			e = limiterListEntry{Prefixlen: key.Prefixlen}
		}
		e.Policies |= 1 << slot
		err = target.Put(key, e)
		if listIsFull(err) && i.sweepExpired(m) > 0 {
			err = target.Put(key, e)
		}
		if listIsFull(err) {
			return fail(ErrFull, "list %s of the policy: the list is full at %s: it holds %d entries of this kind", l, p, target.MaxEntries())
		}
		if err != nil {
			return fmt.Errorf("list %s: %w", p, err)
		}
	}
	return nil
}

// clearPolicyBit takes a slot's bit off every entry of a list, and entries away that nobody names any more.
func (i *Instance) clearPolicyBit(l List, slot uint32) error {
	m := i.list(l)
	for _, from := range m.maps() {
		keys, err := marked(from, slot)
		if err != nil {
			return err
		}
		for _, key := range keys {
			e, found, err := m.exact(from, key)
			if err != nil {
				return err
			}
			if !found || e.Policies>>slot&1 == 0 {
				continue
			}
			e.Policies &^= 1 << slot
			if nobodys(e) {
				err = from.Delete(key)
			} else {
				err = from.Put(key, e)
			}
			if err != nil && !isMissing(err) {
				return fmt.Errorf("clear list: %w", err)
			}
		}
	}
	return nil
}

// marked finds the entries with a slot's bit.
func marked(from *ebpf.Map, slot uint32) ([]limiterPrefixKey, error) {
	var out []limiterPrefixKey
	err := eachEntry(from, func(key limiterPrefixKey, e limiterListEntry) {
		if e.Policies>>slot&1 != 0 {
			out = append(out, key)
		}
	})
	return out, err
}

// eachEntry walks a map of a list by batches, or one by one where a kernel has no batches of a trie.
func eachEntry(from *ebpf.Map, visit func(limiterPrefixKey, limiterListEntry)) error {
	err := eachOf(from, visit)
	if errors.Is(err, ebpf.ErrNotSupported) {
		return eachByOne(from, visit)
	}
	return err
}

func eachByOne(from *ebpf.Map, visit func(limiterPrefixKey, limiterListEntry)) error {
	var key limiterPrefixKey
	var e limiterListEntry
	iter := from.Iterate()
	for iter.Next(&key, &e) {
		visit(key, e)
	}
	if err := iter.Err(); err != nil {
		return fmt.Errorf("read list: %w", err)
	}
	return nil
}
