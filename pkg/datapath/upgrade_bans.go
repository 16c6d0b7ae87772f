// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
)

// fillBans carries bans over, and whom none may cover; strikes begin anew.
func (h *heir) fillBans() error {
	if err := h.copyMap(limiterMapBans, h.maps.Bans, "hits"); err != nil {
		return err
	}
	index := listIndex{h.memory}
	err := eachOf(h.maps.Bans, func(key limiterBanKey, b limiterBan) {
		if p, ok := b.prefix(key); ok {
			index.set(p)
		}
	})
	if err != nil || len(h.from.policies) == 0 || h.featuresNeeded()&banFeatures == 0 {
		return err
	}
	return h.protect()
}

// moveBans moves hits, and carries over what was made after the copy: bans of those who had none, and of those whose
// last one had ended.
func (m countMove) moveBans(to *pinnedMaps) error {
	own, err := ownLayout()
	if err != nil {
		return err
	}
	keys, values, err := plans(m.old, own, m.name, "hits")
	if err != nil {
		return err
	}
	values.lenient = true
	out := make([]byte, values.size)
	add := func(newKey, _, oldValue []byte) (bool, error) {
		if to.abi != uint32(limiterAbiABI_VERSION) {
			return false, errOtherFinishes
		}
		if err := values.convert(out, oldValue); err != nil {
			return false, fmt.Errorf("bans: %w", err)
		}
		if err := indexBan(to, as[limiterBanKey](newKey)); err != nil {
			return false, err
		}
		return true, putNew(m.new.Map, newKey, out)
	}
	if err := (hashMover{m, keys.convert, add}).run(); err != nil {
		return err
	}
	return m.renewBans(to, keys, values)
}

// renewBans: hits are moved, and stay with the ban that takes the place of an ended one.
func (m countMove) renewBans(to *pinnedMaps, keys, values *copyPlan) error {
	if to.abi != uint32(limiterAbiABI_VERSION) {
		return nil // whose layout is not known here: such a ban ends, and the next strikes make another
	}
	key, value := make([]byte, keys.size), make([]byte, values.size)
	return eachBatch(m.old.Map, func(b *rawBatch, n int) error {
		for j := range n {
			if err := errors.Join(keys.convert(key, b.key(j)), values.convert(value, b.value(j))); err != nil {
				return fmt.Errorf("bans: %w", err)
			}
			var is limiterBan
			if err := m.new.Lookup(key, &is); err != nil {
				continue
			}
			was := as[limiterBan](value)
			if was.ExpiresNs <= is.ExpiresNs {
				continue
			}
			was.Hits = is.Hits
			if err := m.new.Put(key, was); err != nil {
				return fmt.Errorf("renew ban: %w", err)
			}
		}
		return nil
	})
}

// indexBan sets the ban's bits in maps that no instance is opened on.
func indexBan(to *pinnedMaps, key limiterBanKey) error {
	control, err := mapShared[sharedControl](to.maps[pinControl])
	if err != nil {
		return err
	}
	defer control.close()
	tables, err := mapShared[sharedTables](to.maps[pinTables])
	if err != nil {
		return err
	}
	defer tables.close()
	if p, ok := (limiterBan{}).prefix(key); ok {
		listIndex{&memory{control: control.value, tables: tables.value}}.set(p)
	}
	return nil
}
