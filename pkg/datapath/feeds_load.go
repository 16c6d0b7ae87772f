// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/synward/synward/pkg/feed"
)

// FeedOptions say what a feed is to hold from now on.
type FeedOptions struct {
	// Feed says all but the entries, which are counted.
	Feed
	// Set is whom it names, merged.
	Set *feed.Set
	// Shrink: it may lose more than half of its entries, or all.
	Shrink bool
	// Progress, if there is one, is told now and then how many changes of how many are made.
	Progress func(done, total int)
}

// FeedChange is what a load changed.
type FeedChange struct {
	// New: there was no feed of that name.
	New                  bool
	Added, Removed, Kept int
	// Unfit are those that found no room, the first of Left.
	Unfit []netip.Prefix
	Left  int
}

// maxUnfit is how many are named that found no room.
const maxUnfit = 5

// LoadFeed makes a feed hold a set, by what differs from what it holds: first what is new is added, then what is
// gone is removed, so that who is in both is held all the while. What others say of the same prefixes stays. A
// new feed holds nobody before all of it is there. ErrRefused: it would shrink too much.
func (i *Instance) LoadFeed(o FeedOptions) (FeedChange, error) {
	t, err := i.feedTable()
	if err != nil {
		return FeedChange{}, err
	}
	slot, found := t.find(o.Name)
	if !found {
		if slot, err = t.free(); err != nil {
			return FeedChange{}, err
		}
	}
	if before := List(t[slot].List); found && before != o.List {
		return FeedChange{}, fail(ErrRefused, "refused: feed %s is on the %s list; give this one another name, or first: synward feed rm %[1]s",
			o.Name, before)
	}
	l := &feedLoad{Instance: i, FeedOptions: o, m: i.list(o.List), slot: slot, bit: 1 << slot}
	if err := l.compare(); err != nil {
		return FeedChange{}, err
	}
	l.change.New = !found
	if err := l.guard(); err != nil {
		return FeedChange{}, err
	}
	if err := i.beginChange(); err != nil {
		return FeedChange{}, err
	}
	err = l.apply()
	return l.change, err
}

// feedLoad is one load.
type feedLoad struct {
	*Instance
	FeedOptions
	m         listMaps
	slot      int
	bit       uint32
	add, gone []netip.Prefix
	// others: the list holds entries that the feed does not name.
	others bool
	swept  bool
	done   int
	change FeedChange
	log    *ListChange // nil: too many to tell
	unfit  []placed
}

// compare finds what differs.
func (l *feedLoad) compare() error {
	var named []netip.Prefix
	for _, from := range l.m.maps() {
		err := eachEntry(from, func(key limiterPrefixKey, v limiterListEntry) {
			if v.Feeds&l.bit == 0 {
				l.others = true
			} else if p, ok := l.m.prefixOf(key, from == l.m.prefixes); ok {
				named = append(named, p)
			}
		})
		if err != nil {
			return err
		}
	}
	before := feed.NewSet(named)
	l.add, l.gone = feed.Differ(l.Set, before)
	l.change.Added, l.change.Removed, l.change.Kept = len(l.add), len(l.gone), before.Len()-len(l.gone)
	return nil
}

// guard refuses what is more likely a broken download than a new state of the feed.
func (l *feedLoad) guard() error {
	before, after := l.change.Kept+l.change.Removed, l.change.Kept+l.change.Added
	switch {
	case l.Shrink:
	case after == 0:
		return fail(ErrRefused, "refused: feed %s would be empty; go on with --force, or look at the file", l.Name)
	case after*2 < before:
		return fail(ErrRefused, "refused: feed %s would shrink from %d entries to %d, by more than half; go on with --force, or look at the file",
			l.Name, before, after)
	}
	return nil
}

// apply makes the changes.
func (l *feedLoad) apply() error {
	if len(l.add)+len(l.gone) <= maxListLog {
		l.log = &ListChange{List: l.List, Origin: l.Origin()}
	}
	if l.change.New {
		if err := l.putFeed(l.slot, l.record(limiterFeedStateFEED_HALF)); err != nil {
			return err
		}
	}
	if err := l.inChunks(l.add, l.name); err != nil {
		return err
	}
	l.holdFeed(l.slot, l.Scope, l.Expires)
	if l.change.New {
		if err := l.putFeed(l.slot, l.record(limiterFeedStateFEED_LIVE)); err != nil {
			return err
		}
	}
	if err := l.inChunks(l.gone, l.unname); err != nil {
		return err
	}
	if err := l.nameUnfit(); err != nil {
		return err
	}
	l.Feed.Entries = l.change.Kept + l.change.Added
	if err := l.putFeed(l.slot, l.record(limiterFeedStateFEED_LIVE)); err != nil {
		return err
	}
	l.tell()
	return nil
}

// inChunks hands over what one system call takes, and tells how far it has come.
func (l *feedLoad) inChunks(prefixes []netip.Prefix, do func([]netip.Prefix) error) error {
	for chunk := range slices.Chunk(prefixes, readBatch) {
		if err := do(chunk); err != nil {
			return fmt.Errorf("load feed %s: %w", l.Name, err)
		}
		if l.done += len(chunk); l.Progress != nil {
			l.Progress(l.done, len(l.add)+len(l.gone))
		}
	}
	return nil
}

// tell notes what a reboot would lose.
func (l *feedLoad) tell() {
	f := l.Feed
	l.logList(ListChange{Feed: &f})
	if l.log == nil {
		l.Instance.log.listed += maxListLog + 1
		return
	}
	l.logList(*l.log)
}

// name adds the feed to those who name the prefixes, the bits of the index first. What finds no room is kept for
// later.
func (l *feedLoad) name(prefixes []netip.Prefix) error {
	index := listIndex{l.memory}
	chunk := make([]placed, 0, len(prefixes))
	for _, p := range prefixes {
		index.set(p)
		in, key := l.m.place(p)
		e := placed{in, key, limiterListEntry{Prefixlen: key.Prefixlen}}
		if l.others {
			before, found, err := l.m.exact(in, key)
			if err != nil {
				return err
			}
			if found {
				e.value = before
			}
		}
		e.value.Feeds |= l.bit
		chunk = append(chunk, e)
		if l.log != nil {
			l.log.Added = append(l.log.Added, Entry{Prefix: p, Scope: ScopeAll, Origin: l.Origin()})
		}
	}
	unfit, err := putPlaced(l.m, chunk)
	if err == nil && len(unfit) > 0 && !l.swept {
		l.swept = true
		if l.sweepExpired(l.m) > 0 {
			unfit, err = putPlaced(l.m, unfit)
		}
	}
	l.unfit = append(l.unfit, unfit...)
	return err
}

// nameUnfit tries again what found no room before others were removed.
func (l *feedLoad) nameUnfit() error {
	left, err := putPlaced(l.m, l.unfit)
	if err != nil {
		return fmt.Errorf("load feed %s: %w", l.Name, err)
	}
	l.change.Left = len(left)
	l.change.Added -= len(left)
	out := map[netip.Prefix]bool{}
	for _, e := range left {
		p, _ := l.m.prefixOf(e.key, e.in == l.m.prefixes)
		out[p] = true
		if len(l.change.Unfit) < maxUnfit {
			l.change.Unfit = append(l.change.Unfit, p)
		}
	}
	if l.log != nil {
		l.log.Added = slices.DeleteFunc(l.log.Added, func(e Entry) bool { return out[e.Prefix] })
	}
	return nil
}

// unname takes the feed off those who name the prefixes.
func (l *feedLoad) unname(prefixes []netip.Prefix) error {
	var chunk []placed
	for _, p := range prefixes {
		in, key := l.m.place(p)
		e, found, err := l.m.exact(in, key)
		if err != nil {
			return err
		}
		if found {
			chunk = append(chunk, placed{in, key, e})
		}
	}
	if l.log != nil {
		l.log.Removed = append(l.log.Removed, prefixes...)
	}
	return unname(l.m, chunk, l.bit)
}
