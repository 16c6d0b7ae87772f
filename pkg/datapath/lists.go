// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// lpmFamilyBits is how much of a trie key the family takes in front of the address.
const lpmFamilyBits = 32

// scopeBits is how much of the key of a policy's tries the scope takes, in front of that.
const scopeBits = 32

// Where an entry comes from: typed by somebody, or named by the policy in force.
const (
	originOperator = "operator"
	originPolicy   = "policy"
	// OriginAuto is that of bans, which the data path made itself.
	OriginAuto = "auto"
)

// listMaps are the two maps that hold one list.
type listMaps struct {
	id       limiterListId
	hosts    *ebpf.Map
	prefixes *ebpf.Map
}

func (i *Instance) list(l List) listMaps {
	if l == Allow {
		return listMaps{limiterListIdLIST_ALLOW, i.maps.AllowHosts, i.maps.AllowPrefixes}
	}
	return listMaps{limiterListIdLIST_BLOCK, i.maps.BlockHosts, i.maps.BlockPrefixes}
}

func (m listMaps) maps() []*ebpf.Map { return []*ebpf.Map{m.hosts, m.prefixes} }

// place says which map a prefix lives in and its key there: hosts and IPv6 /64s in the hash.
func (m listMaps) place(p netip.Prefix) (*ebpf.Map, limiterPrefixKey) {
	key := limiterPrefixKey{Prefixlen: uint32(p.Bits()), Addr: dataAddr(p.Addr())}
	if p.IsSingleIP() || p.Addr().Is6() && p.Bits() == 64 {
		return m.hosts, key
	}
	key.Prefixlen += lpmFamilyBits
	return m.prefixes, key
}

// prefixOf is the reverse of place. Pinned maps are input: what makes no sense is not ok.
func (m listMaps) prefixOf(key limiterPrefixKey, trie bool) (netip.Prefix, bool) {
	addr := netAddr(key.Addr)
	length := int(key.Prefixlen)
	if trie {
		length -= lpmFamilyBits
	}
	p := netip.PrefixFrom(addr, length)
	return p, p.IsValid()
}

// Add puts entries on a list; one that is there already is replaced and keeps its hits. All are
// added or none: ErrFull names the first that did not fit.
func (i *Instance) Add(l List, entries []Entry) error {
	if err := i.beginChange(); err != nil {
		return err
	}
	index := listIndex{i.memory}
	m := i.list(l)
	var undo []func() error
	for _, e := range entries {
		e.Prefix = e.Prefix.Masked()
		index.set(e.Prefix)
		back, err := i.put(m, e)
		if err != nil {
			slices.Reverse(undo)
			errs := []error{fmt.Errorf("add %s: %w", e.Prefix, err)}
			for _, f := range undo {
				errs = append(errs, f())
			}
			return errors.Join(errs...)
		}
		undo = append(undo, back)
	}
	i.logList(ListChange{List: l, Added: entries})
	return nil
}

// put writes one entry and returns how to take it back. The note comes first: a kill in between
// leaves a note that nobody sees, and never an entry that nobody can explain.
func (i *Instance) put(m listMaps, e Entry) (undo func() error, err error) {
	target, key := m.place(e.Prefix)
	before, had, err := m.exact(target, key)
	if err != nil {
		return nil, err
	}
	noteKey := limiterListNoteKey{Prefix: key, List: uint32(m.id)}
	undoNote, err := i.putNote(noteKey, e)
	if err != nil {
		return nil, err
	}
	value := entryValue(key, before, e)
	err = target.Put(key, value)
	if listIsFull(err) && i.sweepExpired(m) > 0 {
		err = target.Put(key, value)
	}
	if err != nil {
		if listIsFull(err) {
			err = fail(ErrFull, "the list is full: it holds %d entries of this kind; remove some first", target.MaxEntries())
		}
		return nil, errors.Join(err, undoNote())
	}
	return func() error {
		if had {
			return errors.Join(target.Put(key, before), undoNote())
		}
		return errors.Join(target.Delete(key), undoNote())
	}, nil
}

// listIsFull: a hash says E2BIG and a trie ENOSPC.
func listIsFull(err error) bool { return errors.Is(err, unix.E2BIG) || errors.Is(err, unix.ENOSPC) }

// sweepExpired deletes the entries of a list that have ended, with their notes, and counts them.
func (i *Instance) sweepExpired(m listMaps) (swept int) {
	_, endedFeeds := i.feedsHolding(monotonicNow())
	for _, from := range m.maps() {
		var key limiterPrefixKey
		var value limiterListEntry
		var gone []limiterPrefixKey
		iter := from.Iterate()
		for iter.Next(&key, &value) {
			ended := value.Listed == 0 || expired(value)
			if ended && value.Policies == 0 && value.Feeds&^endedFeeds == 0 {
				gone = append(gone, key)
			}
		}
		for _, key := range gone {
			if from.Delete(key) == nil {
				swept++
			}
			_ = i.maps.ListNotes.Delete(limiterListNoteKey{Prefix: key, List: uint32(m.id)})
		}
	}
	return swept
}

// entryValue is an entry that somebody put there; what policies and feeds say of the prefix stays.
func entryValue(key limiterPrefixKey, before limiterListEntry, e Entry) limiterListEntry {
	value := limiterListEntry{
		Scope: uint8(limiterScopeSCOPE_ALL), Prefixlen: key.Prefixlen, Listed: 1, Hits: before.Hits, Policies: before.Policies,
		Feeds: before.Feeds,
	}
	if e.Scope == ScopeNew {
		value.Scope = uint8(limiterScopeSCOPE_NEW)
	}
	if !e.Expires.IsZero() {
		value.ExpiresNs = dataTime(e.Expires)
	}
	return value
}

// exact reads the entry of just this prefix; a trie would answer with a wider one.
func (m listMaps) exact(target *ebpf.Map, key limiterPrefixKey) (limiterListEntry, bool, error) {
	var e limiterListEntry
	err := target.Lookup(key, &e)
	if isMissing(err) || err == nil && e.Prefixlen != key.Prefixlen {
		return limiterListEntry{}, false, nil
	}
	if err != nil {
		return limiterListEntry{}, false, fmt.Errorf("look up: %w", err)
	}
	return e, true, nil
}

// putNote keeps who made an entry and why. A table of notes that is full costs the note, not the
// entry.
func (i *Instance) putNote(key limiterListNoteKey, e Entry) (undo func() error, err error) {
	before, missing := i.note(key)
	note := limiterListNote{Created: uint64(max(e.Created.Unix(), 0))}
	copy(note.By[:len(note.By)-1], e.By)
	copy(note.Reason[:len(note.Reason)-1], e.Reason)
	err = i.maps.ListNotes.Put(key, note)
	if err != nil && !errors.Is(err, unix.E2BIG) {
		return nil, fmt.Errorf("write note: %w", err)
	}
	return func() error {
		if missing == nil {
			return i.maps.ListNotes.Put(key, before)
		}
		if err := i.maps.ListNotes.Delete(key); err != nil && !isMissing(err) {
			return err
		}
		return nil
	}, nil
}

func (i *Instance) note(key limiterListNoteKey) (limiterListNote, error) {
	var note limiterListNote
	err := i.maps.ListNotes.Lookup(key, &note)
	return note, err
}

// Remove takes prefixes that operators put on a list off it, and counts them. What the policy in force or a feed
// names stays as they say, and is not counted.
func (i *Instance) Remove(l List, prefixes []netip.Prefix) (removed int, err error) {
	if err := i.beginChange(); err != nil {
		return 0, err
	}
	m := i.list(l)
	for n, p := range prefixes {
		i.logList(ListChange{List: l, Origin: originOperator, Removed: prefixes[n : n+1]})
		target, key := m.place(p.Masked())
		e, found, err := m.exact(target, key)
		if err != nil {
			return removed, err
		}
		lifted := false
		if l == Block {
			if lifted, err = i.liftBan(p.Masked()); err != nil {
				return removed, err
			}
		}
		if found && e.Listed != 0 {
			if err := i.unlist(target, key, e); err != nil {
				return removed, fmt.Errorf("remove %s: %w", p, err)
			}
		}
		if lifted || found && e.Listed != 0 {
			removed++
		}
		err = i.maps.ListNotes.Delete(limiterListNoteKey{Prefix: key, List: uint32(m.id)})
		if err != nil && !isMissing(err) {
			return removed, fmt.Errorf("remove note of %s: %w", p, err)
		}
	}
	return removed, nil
}

func (i *Instance) unlist(target *ebpf.Map, key limiterPrefixKey, e limiterListEntry) error {
	e.Listed, e.ExpiresNs, e.Scope = 0, 0, 0
	if nobodys(e) {
		return target.Delete(key)
	}
	return target.Put(key, e)
}

// Entries lists what is in force, sorted by prefix; what has expired is not. A prefix that several origins name is
// there once for each; where the policy names it, it is the policy's alone, for that lasts the longest.
func (i *Instance) Entries(l List) ([]Entry, error) {
	m := i.list(l)
	who, err := i.origins()
	if err != nil {
		return nil, err
	}
	var out []Entry
	for _, from := range m.maps() {
		err := eachEntry(from, func(key limiterPrefixKey, v limiterListEntry) {
			if p, ok := m.prefixOf(key, from == m.prefixes); ok {
				out = who.append(out, m, p, key, v)
			}
		})
		if err != nil {
			return nil, err
		}
	}
	if l == Block {
		bans, err := i.bansInForce()
		if err != nil {
			return nil, err
		}
		out = append(out, bans...)
	}
	slices.SortStableFunc(out, func(a, b Entry) int {
		return cmpPrefix(a.Prefix, b.Prefix)
	})
	return out, nil
}

func cmpPrefix(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return a.Bits() - b.Bits()
}

func expired(v limiterListEntry) bool { return v.ExpiresNs != 0 && v.ExpiresNs <= monotonicNow() }

// byPolicy: the policy in force names the entry.
func (i *Instance) byPolicy(v limiterListEntry) bool {
	slot := slotOfGeneration(i.live().inForce(monotonicNow()))
	return v.Policies>>slot&1 != 0
}

// holds: the entry covers new connections now, for one reason or the other.
func (i *Instance) holds(v limiterListEntry) bool { return i.byHand(v) || i.byPolicy(v) }

// byHand: it covers new connections now, whatever the policy is: an operator typed it, or a feed names it.
func (i *Instance) byHand(v limiterListEntry) bool {
	holding, _ := i.feedsHolding(monotonicNow())
	return v.Listed != 0 && !expired(v) || v.Feeds&holding != 0
}

// listedEntry is the part of an entry that somebody put there.
func (i *Instance) listedEntry(m listMaps, p netip.Prefix, key limiterPrefixKey, v limiterListEntry) Entry {
	e := Entry{Prefix: p, Scope: ScopeAll, Origin: originOperator, Hits: v.Hits}
	if v.Scope == uint8(limiterScopeSCOPE_NEW) {
		e.Scope = ScopeNew
	}
	if v.ExpiresNs != 0 {
		e.Expires = wallTime(v.ExpiresNs)
	}
	if note, err := i.note(limiterListNoteKey{Prefix: key, List: uint32(m.id)}); err == nil {
		e.Created = time.Unix(int64(note.Created), 0)
		e.By, e.Reason = text(note.By[:]), text(note.Reason[:])
	}
	return e
}

func text(b []byte) string {
	s, _, _ := bytes.Cut(b, []byte{0})
	return string(s)
}
