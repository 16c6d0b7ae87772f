// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"time"
)

// RemoveFeed takes a feed off its list, at one moment. What others name stays. Not found: there is no such feed.
func (i *Instance) RemoveFeed(name string) (entries int, found bool, err error) {
	t, err := i.feedTable()
	if err != nil {
		return 0, false, err
	}
	slot, found := t.find(name)
	if !found {
		return 0, false, nil
	}
	if err := i.beginChange(); err != nil {
		return 0, true, err
	}
	r := t[slot]
	r.State = uint8(limiterFeedStateFEED_HALF)
	if err := i.putFeed(slot, r); err != nil {
		return 0, true, err
	}
	i.dropFeed(slot)
	i.logList(ListChange{FeedGone: name})
	return int(r.Entries), true, i.clearFeed(slot)
}

// clearFeed takes the name of a feed that holds nobody off all entries, and frees its slot.
func (i *Instance) clearFeed(slot int) error {
	bit := uint32(1) << slot
	i.dropFeed(slot)
	for _, l := range []List{Allow, Block} {
		m := i.list(l)
		for _, from := range m.maps() {
			var named []placed
			err := eachEntry(from, func(key limiterPrefixKey, v limiterListEntry) {
				if v.Feeds&bit != 0 {
					named = append(named, placed{from, key, v})
				}
			})
			if err == nil {
				err = unname(m, named, bit)
			}
			if err != nil {
				return fmt.Errorf("clear feed: %w", err)
			}
		}
	}
	return i.putFeed(slot, limiterFeed{})
}

// clearHalfFeeds finishes what a killed command left: a first load or a removal.
func (i *Instance) clearHalfFeeds() error {
	t, err := i.feedTable()
	if err != nil {
		return err
	}
	for slot, r := range t {
		if r.State != uint8(limiterFeedStateFEED_HALF) {
			continue
		}
		if err := i.clearFeed(slot); err != nil {
			return err
		}
	}
	return nil
}

// KeepFeed puts a feed that was kept into the table, for Load to fill. Nothing may be attached yet: it holds at
// once whom it names.
func (i *Instance) KeepFeed(f Feed) error {
	_, err := i.feedSlot(f)
	return err
}

func (i *Instance) feedSlot(f Feed) (slot int, err error) {
	t, err := i.feedTable()
	if err != nil {
		return 0, err
	}
	if slot, found := t.find(f.Name); found {
		return slot, nil
	}
	if slot, err = t.free(); err != nil {
		return 0, err
	}
	if err := i.putFeed(slot, f.record(limiterFeedStateFEED_LIVE)); err != nil {
		return 0, err
	}
	if f.Expires.IsZero() || f.Expires.After(time.Now()) {
		i.holdFeed(slot, f.Scope, f.Expires)
	}
	return slot, nil
}
