// SPDX-License-Identifier: Apache-2.0

package datapath

import "fmt"

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
	if err != nil || len(h.from.policies) == 0 || h.featuresNeeded()&uint32(limiterFeatureFEATURE_BAN) == 0 {
		return err
	}
	return h.protect()
}

// moveBans moves hits, and adds bans that were made after the copy.
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
	return hashMover{m, keys.convert, add}.run()
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
