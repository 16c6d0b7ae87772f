// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// originFeed stands in front of the name in the origin of what a feed names: feed:NAME.
const originFeed = "feed:"

// FeedOfOrigin is the name of the feed of an Entry's origin; not ok for any other origin.
func FeedOfOrigin(origin string) (name string, ok bool) {
	if name, ok = strings.CutPrefix(origin, originFeed); !ok {
		return "", false
	}
	return name, true
}

// Feed is a list of addresses that was loaded under a name. What it says holds for all that it names.
type Feed struct {
	Name  string
	List  List
	Scope Scope
	// Expires is zero for never.
	Expires time.Time
	Loaded  time.Time
	By      string
	// Entries is how many prefixes the last load left, merged.
	Entries int
}

// Origin is that of the entries that it names.
func (f Feed) Origin() string { return originFeed + f.Name }

// feedTable is which feed each bit of an entry stands for.
type feedTable [limiterAbiMAX_FEEDS]limiterFeed

func (i *Instance) feedTable() (t feedTable, err error) {
	for slot := range t {
		if err := i.maps.Feeds.Lookup(uint32(slot), &t[slot]); err != nil {
			return t, fmt.Errorf("read feeds: %w", err)
		}
	}
	return t, nil
}

// find is the slot of a feed that holds; not ok if there is none of that name.
func (t *feedTable) find(name string) (slot int, ok bool) {
	for slot, f := range t {
		if f.State == uint8(limiterFeedStateFEED_LIVE) && text(f.Name[:]) == name {
			return slot, true
		}
	}
	return 0, false
}

// free is a slot that no entry has a bit of.
func (t *feedTable) free() (slot int, err error) {
	for slot, f := range t {
		if f.State == uint8(limiterFeedStateFEED_FREE) {
			return slot, nil
		}
	}
	return 0, fail(ErrFull, "there are %d feeds already, and no room for more; remove one first: synward feed rm NAME", len(t))
}

func (i *Instance) putFeed(slot int, f limiterFeed) error {
	if err := i.maps.Feeds.Put(uint32(slot), f); err != nil {
		return fmt.Errorf("write feed: %w", err)
	}
	return nil
}

// record is how a feed is kept in the table.
func (f Feed) record(state limiterFeedState) limiterFeed {
	r := limiterFeed{
		Loaded: uint64(max(f.Loaded.Unix(), 0)), Entries: uint32(f.Entries), List: uint8(f.List), State: uint8(state),
	}
	copy(r.Name[:len(r.Name)-1], f.Name)
	copy(r.By[:len(r.By)-1], f.By)
	return r
}

// feed is what stands in a slot of the table, with what programs are told of it.
func (i *Instance) feed(slot int, r limiterFeed) Feed {
	f := Feed{
		Name: text(r.Name[:]), List: List(r.List), Scope: ScopeAll, By: text(r.By[:]), Entries: int(r.Entries),
		Loaded: time.Unix(int64(r.Loaded), 0),
	}
	words, bit := &i.control.Feeds, uint32(1)<<slot
	if (atomic.LoadUint32(&words.Lasting[limiterScopeSCOPE_NEW])|atomic.LoadUint32(&words.Timed[limiterScopeSCOPE_NEW]))&bit != 0 {
		f.Scope = ScopeNew
	}
	if (atomic.LoadUint32(&words.Timed[0])|atomic.LoadUint32(&words.Timed[1]))&bit != 0 {
		f.Expires = wallTime(atomic.LoadUint64(&words.UntilNs[slot]))
	}
	return f
}

// Feeds lists the feeds, sorted by name, those that have expired included.
func (i *Instance) Feeds() ([]Feed, error) {
	t, err := i.feedTable()
	if err != nil {
		return nil, err
	}
	var out []Feed
	for slot, r := range t {
		if r.State == uint8(limiterFeedStateFEED_LIVE) {
			out = append(out, i.feed(slot, r))
		}
	}
	slices.SortFunc(out, func(a, b Feed) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

// holdFeed has programs take a feed's entries for what it says. It may have held otherwise before: in between it
// holds in both ways, never in none.
func (m *memory) holdFeed(slot int, scope Scope, expires time.Time) {
	words, bit := &m.control.Feeds, uint32(1)<<slot
	code := scopeCode(scope)
	if expires.IsZero() {
		atomic.OrUint32(&words.Lasting[code], bit)
		atomic.AndUint32(&words.Timed[code], ^bit)
	} else {
		atomic.StoreUint64(&words.UntilNs[slot], dataTime(expires))
		atomic.OrUint32(&words.Timed[code], bit)
		atomic.AndUint32(&words.Lasting[code], ^bit)
	}
	atomic.AndUint32(&words.Lasting[1-code], ^bit)
	atomic.AndUint32(&words.Timed[1-code], ^bit)
}

// dropFeed has a feed hold nobody.
func (m *memory) dropFeed(slot int) {
	words := &m.control.Feeds
	for code := range words.Lasting {
		atomic.AndUint32(&words.Lasting[code], ^(uint32(1) << slot))
		atomic.AndUint32(&words.Timed[code], ^(uint32(1) << slot))
	}
}

func scopeCode(s Scope) limiterScope {
	if s == ScopeNew {
		return limiterScopeSCOPE_NEW
	}
	return limiterScopeSCOPE_ALL
}

// feedsHolding has the bits of the feeds that cover new connections at a moment, ended those whose time is over.
func (m *memory) feedsHolding(nowNs uint64) (holding, ended uint32) {
	words := &m.control.Feeds
	holding = atomic.LoadUint32(&words.Lasting[0]) | atomic.LoadUint32(&words.Lasting[1])
	timed := atomic.LoadUint32(&words.Timed[0]) | atomic.LoadUint32(&words.Timed[1])
	for slot := range words.UntilNs {
		bit := uint32(1) << slot
		switch {
		case timed&bit == 0:
		case atomic.LoadUint64(&words.UntilNs[slot]) > nowNs:
			holding |= bit
		case holding&bit == 0:
			ended |= bit
		}
	}
	return holding, ended
}
