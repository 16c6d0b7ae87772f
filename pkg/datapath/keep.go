// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	mathbits "math/bits"
	"net/netip"
	"slices"
)

// Keeper keeps an instance over a reboot. Its methods are called under the instance's lock.
type Keeper interface {
	// Fill puts what was kept into an instance that nothing is attached to, before any packet meets it.
	// ownPolicy: the attach brings a policy, so only the lists are wanted.
	Fill(i *Instance, ownPolicy bool) error
	// Keep is called at the end of a change, also of one that failed half-way.
	Keep(i *Instance) error
	// Dismiss forgets the interfaces that match and says which they were. Once it knows of none, and last is set,
	// for none stays attached, it forgets policies and lists too. It is called before the kernel lets go.
	Dismiss(match func(Place) bool, last bool) (known []Place, err error)
}

// Place names an interface so that it is found again after a reboot.
type Place struct {
	Interface string
	// Netns is a name of /run/netns; empty for the network namespace of process 1.
	Netns string
}

func (p Place) String() string {
	if p.Netns == "" {
		return p.Interface
	}
	return p.Interface + " in " + p.Netns
}

// Change is which change of an instance this is. Two with the same Instance are the n-th change of one
// instance: what is saved holds all changes if it holds the last.
type Change struct {
	Instance, Begun uint64
}

// ListChange is one step of a change of a list: a feed that is to be known, entries that were put there, prefixes
// that an origin named and names no more, a feed that is gone with all that it named.
type ListChange struct {
	Feed     *Feed
	List     List
	Added    []Entry
	Origin   string // of those that were removed
	Removed  []netip.Prefix
	FeedGone string
}

// maxListLog is how many entries a change keeps to tell of; of more, only that they changed.
const maxListLog = 100_000

// changeLog is what one opening of an instance has changed of what is kept.
type changeLog struct {
	keeper Keeper
	opened Change // the last change before it
	lists  []ListChange
	listed int
	other  bool
}

// KeepWith has Close tell a keeper of what was changed.
func (i *Instance) KeepWith(k Keeper) { i.log.keeper = k }

// Changed is the last change that was begun, and the last before the instance was opened.
func (i *Instance) Changed() (now, opened Change, err error) {
	mark, err := i.mark()
	return changeOf(mark), i.log.opened, err
}

// Made is what was changed since the instance was opened: steps of the lists, whole unless there were too many to
// tell, and whether anything else was.
func (i *Instance) Made() (lists []ListChange, whole, other bool) {
	return i.log.lists, i.log.listed <= maxListLog, i.log.other
}

func (i *Instance) mark() (mark limiterChangeMark, err error) {
	if err := i.maps.Changes.Lookup(uint32(0), &mark); err != nil {
		return mark, fmt.Errorf("read change: %w", err)
	}
	return mark, nil
}

func changeOf(mark limiterChangeMark) Change {
	return Change{Instance: mark.Instance, Begun: mark.Begun}
}

func (i *Instance) putMark(mark limiterChangeMark) error {
	if err := i.maps.Changes.Put(uint32(0), mark); err != nil {
		return fmt.Errorf("note change: %w", err)
	}
	return nil
}

// beginChange comes before anything that is kept changes: killed behind it, the next command finds that what
// was saved lacks a change.
func (i *Instance) beginChange() error {
	mark, err := i.mark()
	if err != nil {
		return err
	}
	mark.Begun++
	return i.putMark(mark)
}

// beginOther is beginChange of something else than the lists.
func (i *Instance) beginOther() error {
	i.log.other = true
	return i.beginChange()
}

func (i *Instance) logList(c ListChange) {
	i.log.listed += len(c.Added) + len(c.Removed)
	if i.log.listed <= maxListLog {
		c.Added, c.Removed = slices.Clone(c.Added), slices.Clone(c.Removed)
		i.log.lists = append(i.log.lists, c)
	}
}

// tellKeeper is called once a change is done. ErrUnkept: it is in force and not kept.
func (i *Instance) tellKeeper() error {
	k := i.log.keeper
	if k == nil {
		return nil
	}
	mark, err := i.mark()
	if err != nil || changeOf(mark) == i.log.opened {
		return err
	}
	if err := k.Keep(i); err != nil {
		return fail(ErrUnkept, "in force, but not saved, so a reboot would lose it: %w; to save it: synward save", err)
	}
	return nil
}

// KeptEntries walks what operators and feeds put on a list, in no order, a prefix once for each of them; what has
// ended, or only a policy names, is not visited. What a feed names has no end and nobody who made it: see Feeds.
func (i *Instance) KeptEntries(l List, visit func(Entry) error) error {
	m := i.list(l)
	feeds, err := i.feedTable()
	if err != nil {
		return err
	}
	var failed error
	for _, from := range m.maps() {
		err := eachEntry(from, func(key limiterPrefixKey, v limiterListEntry) {
			p, ok := m.prefixOf(key, from == m.prefixes)
			if failed != nil || !ok {
				return
			}
			if v.Listed != 0 && !expired(v) {
				failed = visit(i.listedEntry(m, p, key, v))
			}
			for bits := v.Feeds; bits != 0 && failed == nil; bits &= bits - 1 {
				if f := feeds[mathbits.TrailingZeros32(bits)]; f.State == uint8(limiterFeedStateFEED_LIVE) {
					failed = visit(Entry{Prefix: p, Scope: ScopeAll, Origin: originFeed + text(f.Name[:]), Hits: v.Hits})
				}
			}
		})
		if err := errors.Join(err, failed); err != nil {
			return err
		}
	}
	if l == Allow {
		return nil
	}
	return i.keptBans(visit)
}

// Attached is what it takes to attach an interface again.
type Attached struct {
	Place
	Mode Mode
	// Unconfirmed: it refuses nothing from some moment on unless somebody confirms it.
	Unconfirmed bool
	key         pinKey
}

// Attached lists the attachments that a later boot could find again; nameless are those in network
// namespaces without a name.
func (i *Instance) Attached() (all, nameless []Attached, err error) {
	at, err := i.attached()
	if err != nil {
		return nil, nil, err
	}
	cookies := map[uint64]bool{}
	for _, one := range at {
		cookies[one.key.cookie] = true
	}
	names, err := lastingNames(cookies)
	if err != nil {
		return nil, nil, err
	}
	for _, one := range at {
		name, known := names[one.key.cookie]
		a := Attached{
			Place: Place{Interface: one.record.name(), Netns: name}, Mode: modeFromCode(one.record.Hook),
			Unconfirmed: one.record.ObserveAfter != 0, key: one.key,
		}
		if known {
			all = append(all, a)
		} else {
			nameless = append(nameless, a)
		}
	}
	return all, nameless, nil
}
