// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/policy"
)

// noteRelated says which entries of both lists contain what was added, or lie inside of it. Allow wins, so what a
// block contains of the allow list passes, and what an allow contains of the block list does too.
func (l list) noteRelated(i instance, prefixes []netip.Prefix) error {
	prefixes = prefixes[:min(len(prefixes), maxNotes)]
	for _, other := range []datapath.List{datapath.Allow, datapath.Block} {
		all, err := i.Related(other, prefixes)
		if err != nil {
			return err
		}
		for _, r := range all {
			l.noteWider(other, r)
			if r.Count > 0 {
				l.say("note: %s contains %s of the %s list%s: %s", policy.FormatPrefix(r.Prefix), counted(r.Count), other, l.fate(other), few(r))
			}
		}
	}
	return nil
}

// noteWider says what contains an entry, but for a block inside of an allow, which noteAllowed says.
func (l list) noteWider(other datapath.List, r datapath.Relation) {
	switch {
	case r.Wider == nil || l.id == datapath.Block && other == datapath.Allow:
	case l.id == other:
		l.say("note: %s is inside of %s, which is on the %s too", policy.FormatPrefix(r.Prefix), inWords(*r.Wider), l.title)
	default:
		l.say("note: %s is inside of %s on the block list, and allow wins", policy.FormatPrefix(r.Prefix), inWords(*r.Wider))
	}
}

// fate is what becomes of entries of a list that an entry of this one contains.
func (l list) fate(other datapath.List) string {
	switch {
	case l.id == other:
		return ", still there"
	case l.id == datapath.Block:
		return ", passed all the same, for allow wins"
	}
	return ", passed from now on, for allow wins"
}

func counted(n int) string {
	if n == 1 {
		return "1 entry"
	}
	return fmt.Sprintf("%d entries", n)
}

// few names the first entries, and how many there are more.
func few(r datapath.Relation) string {
	var names []string
	for _, p := range r.Inside {
		names = append(names, policy.FormatPrefix(p))
	}
	text := strings.Join(names, ", ")
	if more := r.Count - len(r.Inside); more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}
