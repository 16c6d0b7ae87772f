// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
)

// Op is what happens to one part of a policy.
type Op byte

// What can happen to a part.
const (
	Added   Op = '+'
	Removed Op = '-'
	Changed Op = '~'
)

// Change is one difference between two policies, as people read it.
type Change struct {
	Op Op
	// What is the part: "service web limit 2", "allow 192.0.2.0/24".
	What string
	// Old and New are its values; one alone or none if the part comes or goes.
	Old, New string
}

// String is the change in the manner of a unified diff: "~ mode: enforce -> observe".
func (c Change) String() string {
	text := string(rune(c.Op)) + " " + c.What
	switch {
	case c.Op == Changed:
		return text + ": " + c.Old + " -> " + c.New
	case c.Old+c.New != "":
		return text + ": " + c.Old + c.New
	}
	return text
}

// maxListed is how many entries of one list a difference names; the rest it counts.
const maxListed = 20

// Diff returns what is different in the policy to, in the order of the file. It is empty if and only if the
// two are Equal. A nil policy is the one that says nothing.
func Diff(from, to *Policy) []Change {
	d := &differ{old: orEmpty(from).canonical(), new: orEmpty(to).canonical()}
	d.values("mode", string(d.old.Mode), string(d.new.Mode))
	d.values("on_table_full", string(d.old.OnTableFull), string(d.new.OnTableFull))
	d.values("strict_parsing", strconv.FormatBool(d.old.StrictParsing), strconv.FormatBool(d.new.StrictParsing))
	d.values("source", d.old.Source.String(), d.new.Source.String())
	d.sets()
	d.services()
	d.limits("global", d.old.Global.Limits, d.new.Global.Limits)
	d.members("allow", d.old.Allow, d.new.Allow)
	d.members("block", d.old.Block, d.new.Block)
	return d.changes
}

func orEmpty(p *Policy) *Policy {
	if p == nil {
		return &Policy{}
	}
	return p
}

type differ struct {
	old, new *Policy
	changes  []Change
}

func (d *differ) add(op Op, what, before, after string) {
	d.changes = append(d.changes, Change{op, what, before, after})
}

func (d *differ) values(what, before, after string) {
	if before != after {
		d.add(Changed, what, before, after)
	}
}

// lists tells which entries of a sorted list came and went.
func (d *differ) lists(what string, before, after []string) {
	for _, side := range []struct {
		op        Op
		all, less []string
	}{{Removed, before, after}, {Added, after, before}} {
		other := map[string]bool{}
		for _, entry := range side.less {
			other[entry] = true
		}
		only := slices.DeleteFunc(slices.Clone(side.all), func(entry string) bool { return other[entry] })
		for i, entry := range only {
			if i == maxListed {
				d.add(side.op, fmt.Sprintf("%s: %d more", what, len(only)-i), "", "")
				break
			}
			d.add(side.op, what+" "+entry, "", "")
		}
	}
}

func (d *differ) members(what string, before, after Members) {
	d.lists(what, plainMembers(before), plainMembers(after))
}

func plainMembers(m Members) []string {
	return append(slices.Clone(m.Sets), plainPrefixes(m.Prefixes)...)
}

func plainPrefixes(prefixes []netip.Prefix) []string {
	words := make([]string, 0, len(prefixes))
	for _, p := range prefixes {
		words = append(words, FormatPrefix(p))
	}
	return words
}

func (d *differ) sets() {
	merge(d.old.Sets, d.new.Sets, func(s Set) string { return s.Name }, func(before, after *Set) {
		switch {
		case after == nil:
			d.add(Removed, "set "+before.Name, "", "")
		case before == nil:
			d.add(Added, "set "+after.Name, "", "")
			d.lists("set "+after.Name, nil, plainPrefixes(after.Prefixes))
		default:
			d.lists("set "+after.Name, plainPrefixes(before.Prefixes), plainPrefixes(after.Prefixes))
		}
	})
}

func (d *differ) services() {
	merge(d.old.Services, d.new.Services, func(s Service) string { return s.Name }, func(before, after *Service) {
		if after == nil {
			d.add(Removed, "service "+before.Name, "", "")
			return
		}
		what := "service " + after.Name
		if before == nil {
			d.add(Added, what, "", "")
			before = &Service{}
		}
		d.lists(what+" listen", listenWords(before.Listen), listenWords(after.Listen))
		d.members(what+" allow", before.Allow, after.Allow)
		d.limits(what, before.Limits, after.Limits)
	})
}

func listenWords(listens []Listen) []string {
	var words []string
	for _, l := range listens {
		words = append(words, l.String())
	}
	return words
}

// merge walks two lists that are sorted by name, and visits the pairs; what is on one side only has nil on
// the other.
func merge[T any](before, after []T, name func(T) string, visit func(before, after *T)) {
	i, j := 0, 0
	for i < len(before) || j < len(after) {
		switch {
		case j == len(after) || i < len(before) && name(before[i]) < name(after[j]):
			visit(&before[i], nil)
			i++
		case i == len(before) || name(before[i]) > name(after[j]):
			visit(nil, &after[j])
			j++
		default:
			visit(&before[i], &after[j])
			i++
			j++
		}
	}
}
